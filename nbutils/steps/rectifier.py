"""The rectifier of paper 004: the classifier, tuned on images whose suspect pixels are replaced."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.settings import GREY, PHOTOGRAPHS
from nbutils.data.images import Images
from nbutils.detectors.gcd import GCD
from nbutils.models import contract, training
from nbutils.models.training import Training
from nbutils.rectifiers import RECTIFIERS, gcd
from nbutils.steps.adversarial import AdversarialSet, adversarial, first_rows, setting_of
from nbutils.steps.classifier import Derived, classifier, copied, derived
from nbutils.steps.detector import fitted
from nbutils.steps.run import Memory, Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

EPOCHS = 10  # passes over the masked images
RATE = 1e-4  # of Adam's kind; `training` takes ten times it for SGD with momentum: 1e-3


def alpha_of(run: Run, attack: str) -> float:
    """Paper 004's alpha for the run's pictures and the attack's aim; of a mixture the untargeted
    one's.
    """
    name = run.data.name
    kind = "grey" if name in GREY else "photograph" if name in PHOTOGRAPHS else "colour"
    mixed = "+" in attack or "&" in attack
    aimed = not mixed and bool(setting_of(run, attack).get("targeted"))
    return gcd.ALPHAS[kind][aimed]


def tuned(
    run: Run,
    attack: str,
    rectifier: str = "gcd",
    *,
    guide: str = "gcd",
    repetition: int = 0,
    alpha: float | None = None,
) -> Derived:
    """The classifier, tuned with true labels on what a rectifier makes of the training images and
    of what `attack` made of them.

    Args:
        rectifier: one of GCD's kind, or "none": tuned on the images as they are.
        guide: the detector whose gradient says which pixels are suspect, fitted on `attack`;
            `repetition` numbers its fits.
        alpha: None: the paper's.
    """
    key = ("tuned", attack, rectifier, guide, repetition, alpha)
    return run.memory.once(key, _tuned, run, attack, rectifier, guide, repetition, alpha)


def _tuned(
    run: Run, attack: str, rectifier: str, guide: str, repetition: int, alpha: float | None
) -> Derived:
    base, pairs = classifier(run), adversarial(run, attack, "train")
    alpha = alpha_of(run, attack) if alpha is None else alpha
    detector, artifact = guide_of(run, rectifier, guide, attack, repetition)
    named = [rectifier, *([guide, f"{alpha:g}"] if artifact else [])]
    made = run.step(
        "rectifier",
        "-".join([*named, pairs.artifact.path.name, str(repetition)]),
        make_tuned,
        {
            "model": copied(base.model),
            "detector": detector,
            "content": artifact.content if artifact else "",
            "pairs": pairs,
            "test": run.data.test,
            "memory": run.memory,
            "progress": run.progress,
        },
        {
            "rectifier": rectifier,
            "guide": guide if artifact else "",
            "alpha": alpha if artifact else None,
            "draws": run.preset["mask_draws"],
            "seed": run.seed,
            "repetition": repetition,
        },
        known={"test": run.data_key["test"]},
        parents={"pairs": pairs.artifact, "classifier": base.artifact}
        | ({"guide": artifact} if artifact else {}),
    )
    return derived(run, made)


def guide_of(
    run: Run, rectifier: str, guide: str, attack: str, repetition: int
) -> tuple[GCD | None, Artifact | None]:
    """The fitted detector that a rectifier reads images through; None where it needs none."""
    if not needs_guide(rectifier):
        return None, None
    return fitted(run, guide, attack, repetition)


def needs_guide(rectifier: str) -> bool:
    """Whether a rectifier is of GCD's kind."""
    if rectifier not in RECTIFIERS:
        raise InputError(
            f"Rectifier {rectifier!r} is unknown: choose one of {', '.join(RECTIFIERS)}."
        )
    return RECTIFIERS[rectifier].func is gcd.rectify


def make_tuned(
    parts: Parts,
    *,
    model: nn.Module,
    detector: GCD | None,
    content: str,
    pairs: AdversarialSet,
    test: Images,
    memory: Memory,
    progress: Callable,
    rectifier: str,
    guide: str,
    alpha: float | None,
    draws: int,
    seed: int,
    repetition: int,
) -> tuple[dict, dict]:
    """Weights after EPOCHS of SGD on `draws` rectified versions of each image, clean and attacked.

    Images of one source stay together in the validation split that chooses the epoch.
    """
    once = first_rows(pairs)
    x = torch.cat([pairs.x[once], pairs.x_adv])
    y, index = (torch.cat([part[once], part]) for part in (pairs.y, pairs.index))
    rectify = partial(rectified, memory, rectifier, detector, content, alpha)
    seeds = [draw_seed(seed, repetition, draw) for draw in range(draws)]
    several = [rectify(x, index, one) for one in seeds]
    own = copy.deepcopy(model).requires_grad_(True)
    record = training.fit(
        own,
        torch.cat(several),
        y.repeat(draws),
        Training(EPOCHS, optimizer="sgd", lr=RATE),
        groups=index.repeat(draws),
        seed=seed * 100 + repetition,
        parts=parts,
        progress=partial(progress, what=f"tuning on {rectifier}, {pairs.name}"),
    )
    logits = contract.predict(own, test.x)
    right = logits.argmax(1) == test.y
    record |= {"accuracy": right.float().mean().item(), "n": len(right), "images": len(y) * draws}
    return {**own.state_dict()}, record


def draw_seed(seed: int, repetition: int, draw: int) -> int:
    """The seed of a draw of masks: one for each fit of the detector and each draw."""
    return int(np.random.SeedSequence([seed, repetition, draw, 13]).generate_state(1)[0])


def rectified(
    memory: Memory,
    rectifier: str,
    detector: GCD | None,
    content: str,
    alpha: float | None,
    x: torch.Tensor,
    index: torch.Tensor,
    seed: int,
    through: nn.Module | None = None,
) -> torch.Tensor:
    """What a rectifier makes of images; a detector's gradient is computed once for each set of
    images.

    Args:
        content: hash of the fitted detector.
        through: what else a rectifier reads the images through.
    """
    rectify = RECTIFIERS[rectifier]
    if detector is None:
        return rectify(x, index=index, seed=seed, through=through)
    gradient = guiding(memory, detector, content, x, rectify.keywords.get("to_image", False))
    key = ("draws", seed, tuple(x.shape), key_of(index))
    known = {
        "gradient": gradient,
        "drawn": memory.once(key, gcd.draws, x.shape, index, seed, most=32),
    }
    return rectify(x, index=index, seed=seed, through=detector, alpha=alpha, **known)


def guiding(
    memory: Memory, detector: GCD, content: str, x: torch.Tensor, to_image: bool = False
) -> torch.Tensor:
    """`detector_gradient`, once for each fitted detector and set of images."""
    key = ("guide", content, to_image, key_of(x))
    return memory.once(key, partial(gcd.detector_gradient, detector, x, to_image=to_image))
