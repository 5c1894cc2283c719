"""Labels that a defence recovers: a rectifier changes the images, a reader says what they show."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from nbutils import InputError
from nbutils.detectors.gcd import GCD
from nbutils.models.contract import predict
from nbutils.rectifiers import RECTIFIERS
from nbutils.rectifiers.gcd import READINGS, as_large, largest_share
from nbutils.rectifiers.trivial import runner_up
from nbutils.saliency.gradients import sensitivity_factors
from nbutils.steps.adversarial import MIXED, AdversarialSet, Victim, adversarial
from nbutils.steps.classifier import classifier
from nbutils.steps.density import Density, density
from nbutils.steps.rectifier import (
    alpha_of,
    draw_seed,
    guide_of,
    guiding,
    needs_guide,
    rectified,
    tuned,
)
from nbutils.steps.robust import robust
from nbutils.steps.run import Memory, Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

# Defence -> its rectifier, and who reads what it gives.
DEFENCES = {
    "none": ("none", "base"),
    "gcd": ("gcd", "tuned"),
    "gcd_share": ("gcd_share", "tuned"),
    "pixel_defend": ("pixel_defend", "base"),
    "total_variation": ("total_variation", "base"),
    "pgd_net": ("none", "pgd"),
    "ddn_net": ("none", "ddn"),
    "runner_up": ("none", "runner_up"),
    "median": ("median", "base"),
    "noise": ("noise", "base"),
}
READERS = ("base", "runner_up", "tuned", "pgd", "ddn")
SHARES = (0.0, 0.05, 0.1)  # of the pixels, paper 004's table 1
# What orders the pixels that are blanked: the detector's gradient, its reverse, that of another
# image, nothing, the classifier's own gradient, and the perturbation, which nobody knows.
ORDERS = ("detector", "reversed", "another_image", "random", "classifier", "perturbation")


@dataclass(frozen=True)
class Recovered:
    """Labels (draws,n) of the attacked images and of the clean ones, beside the true ones `y` (n,).

    `area` (n,): the share of suspect pixels of each attacked image, nothing where none are marked.
    """

    y: torch.Tensor
    labels: torch.Tensor
    clean: torch.Tensor
    area: torch.Tensor
    fooled: torch.Tensor
    artifact: Artifact

    @property
    def right(self) -> torch.Tensor:
        """(n,) the share of draws in which an attacked image is read rightly."""
        return (self.labels == self.y).double().mean(0)

    @property
    def right_clean(self) -> torch.Tensor:
        """(n,) the same of the clean images."""
        return (self.clean == self.y).double().mean(0)


def recovery(
    run: Run,
    rectifier: str,
    reader: str,
    attack: str,
    *,
    fitted_on: str = "",
    guide: str = "gcd",
    repetition: int = 0,
    alpha: float | None = None,
    tuned_as: str = "",
    itself: bool = False,
) -> Recovered:
    """The first `rectified_test` test images and what `attack` made of them, rectified and read.

    Args:
        reader: one of READERS; "tuned" is the classifier tuned on `fitted_on`.
        fitted_on: the attack, or mixture, that the guide and the tuned classifier have seen; "":
            the tested one.
        guide, repetition, alpha: as of `rectifier.tuned`.
        tuned_as: the rectifier that the tuned classifier was tuned with; "": this one.
        itself: the attack is made on the reader's own network, not on the classifier.
    """
    if not needs_guide(rectifier) and reader != "tuned":
        repetition = 0  # nothing here is fitted again
    given = (rectifier, reader, attack, fitted_on, guide, repetition, alpha, tuned_as, itself)
    return run.memory.once(("recovery", *given), _recovery, run, *given)


def _recovery(
    run: Run,
    rectifier: str,
    reader: str,
    attack: str,
    fitted_on: str,
    guide: str,
    repetition: int,
    alpha: float | None,
    tuned_as: str,
    itself: bool,
) -> Recovered:
    known = fitted_on or attack
    if reader not in READERS:
        raise InputError(f"Reader {reader!r} is unknown: choose one of {', '.join(READERS)}.")
    network: Victim = classifier(run)
    if reader == "tuned":
        how = {"guide": guide, "repetition": repetition}
        network = tuned(run, known, tuned_as or rectifier, **how)
    elif reader in ("pgd", "ddn"):
        network = robust(run, reader)
    pairs = attacked(run, attack, network if itself else None)
    detector, artifact = guide_of(run, rectifier, guide, known, repetition)
    likelihood = _likelihood(run, rectifier)
    alpha = alpha_of(run, known) if alpha is None else alpha
    drawn = needs_guide(rectifier) or rectifier == "noise"
    words = [rectifier, *([f"{alpha:g}", known, guide] if artifact else []), reader]
    words += [tuned_as or rectifier, known] if reader == "tuned" else []
    words += ["itself"] if itself else []
    found = run.step(
        "recovery",
        "-".join([*words, "on", attack, str(repetition)]),
        make_recovery,
        {
            "model": network.model,
            "pairs": pairs,
            "detector": detector,
            "content": artifact.content if artifact else "",
            "density": likelihood.model if likelihood else None,
            "memory": run.memory,
        },
        {
            "rectifier": rectifier,
            "reader": reader,
            "alpha": alpha if artifact else None,
            "n": len(pairs.x),
            "draws": run.preset["rectifier_draws"] if drawn else 1,
            "seed": run.seed,
            "repetition": repetition,
        },
        parents={"pairs": pairs.artifact, "reader": network.artifact}
        | ({"guide": artifact} if artifact else {})
        | ({"density": likelihood.artifact} if likelihood else {}),
    )
    kept = {name: tensor.to(run.device) for name, tensor in found.tensors.items()}
    fooled = pairs.prediction_adv != pairs.prediction
    return Recovered(pairs.y, **kept, fooled=fooled, artifact=found)


def attacked(run: Run, attack: str, of: Victim | None = None) -> AdversarialSet:
    """What the attack made of those test images whose labels are recovered: the preset's first
    `rectified_test`; of another network than the classifier no more are made.
    """
    few = run.preset["rectified_test"]
    pairs = adversarial(run, attack, of=of, n=few if of else 0)
    n = min(few or len(pairs.x), len(pairs.x))
    cut = {name: getattr(pairs, name)[:n] for name in MIXED}
    return replace(pairs, **cut, target=None)


def picture(
    run: Run, rectifier: str, attack: str, rows: torch.Tensor, *, guide: str = "gcd"
) -> torch.Tensor:
    """What a rectifier makes of these attacked images, numbered by `rows`, in its first draw."""
    pairs = attacked(run, attack)
    detector, artifact = guide_of(run, rectifier, guide, attack, 0)
    likelihood = _likelihood(run, rectifier)
    content, alpha = (artifact.content if artifact else ""), alpha_of(run, attack)
    shown, one = pairs.x_adv[rows], draw_seed(run.seed, 0, 0)
    given = (rectifier, detector, content, alpha, shown, pairs.index[rows], one)
    return rectified(run.memory, *given, through=likelihood.model if likelihood else None)


def _likelihood(run: Run, rectifier: str) -> Density | None:
    """The density that a rectifier reads images through; None where it needs none."""
    return density(run) if rectifier.startswith("pixel_defend") else None


def make_recovery(
    parts: Parts,
    *,
    model: nn.Module,
    pairs: AdversarialSet,
    detector: GCD | None,
    content: str,
    density: nn.Module | None,
    memory: Memory,
    rectifier: str,
    reader: str,
    alpha: float | None,
    n: int,
    draws: int,
    seed: int,
    repetition: int,
) -> tuple[dict, dict]:
    """Labels of clean and attacked images in each draw. A rectifier that draws nothing and reads
    no detector rectifies the clean images once for all attacks.
    """
    rectify = partial(rectified, memory, rectifier, detector, content, alpha, through=density)
    sides: dict[str, list[torch.Tensor]] = {"labels": [], "clean": []}
    for draw in range(draws):
        one = draw_seed(seed, repetition, draw)
        sides["labels"].append(_read(model, reader, rectify(pairs.x_adv, pairs.index, one)))
        key = ("rectified", rectifier, content, alpha, one, key_of(pairs.index))
        x = memory.once(key, rectify, pairs.x, pairs.index, one, most=4)
        sides["clean"].append(_read(model, reader, x))
    labels = {name: torch.stack(side) for name, side in sides.items()}
    area = torch.full((len(pairs.x),), float("nan"))
    if detector is not None:
        knobs = RECTIFIERS[rectifier].keywords
        gradient = guiding(memory, detector, content, pairs.x_adv, knobs.get("to_image", False))
        area = READINGS[knobs["reading"]](gradient, alpha).float().mean((1, 2, 3))
    right = {name: (side == pairs.y).double().mean().item() for name, side in labels.items()}
    record = {"accuracy": right["labels"], "accuracy_clean": right["clean"], "n": len(pairs.x)}
    return labels | {"area": area}, record


def _read(model: nn.Module, reader: str, x: torch.Tensor) -> torch.Tensor:
    logits = predict(model, x)
    return runner_up(logits) if reader == "runner_up" else logits.argmax(1)


def removal(run: Run, attack: str, *, guide: str = "gcd", repetition: int = 0) -> Artifact:
    """Labels after the most suspect pixels are blanked, as in paper 004's table 1.

    Returns:
        an artifact with `<order>.<share>.attacked` and `<order>.<share>.clean` (n,) of the attacked
        and the clean test images, for each of ORDERS and SHARES.
    """
    pairs, base = attacked(run, attack), classifier(run)
    detector, artifact = fitted_guide(run, guide, attack, repetition)
    return run.step(
        "removal",
        "-".join([guide, attack, str(repetition)]),
        make_removal,
        {
            "model": base.model,
            "pairs": pairs,
            "detector": detector,
            "content": artifact.content,
            "memory": run.memory,
        },
        {
            "n": len(pairs.x),
            "shares": list(SHARES),
            "seed": run.seed,
            "repetition": repetition,
        },
        parents={"pairs": pairs.artifact, "classifier": base.artifact, "guide": artifact},
    )


def fitted_guide(run: Run, guide: str, attack: str, repetition: int) -> tuple[GCD, Artifact]:
    """The fitted GCD of this name."""
    detector, artifact = guide_of(run, "gcd", guide, attack, repetition)
    if not isinstance(detector, GCD):
        raise InputError(f"{guide!r} is no GCD: its rectifier follows the gradient of one.")
    return detector, artifact


def make_removal(
    parts: Parts,
    *,
    model: nn.Module,
    pairs: AdversarialSet,
    detector: GCD,
    content: str,
    memory: Memory,
    n: int,
    shares: list[float],
    seed: int,
    repetition: int,
) -> tuple[dict, dict]:
    """Each order of the pixels, each share blanked (set to 0), on attacked and on clean images."""
    size = (pairs.x_adv - pairs.x).abs().amax(1, keepdim=True)
    labels = {}
    for side, x in (("attacked", pairs.x_adv), ("clean", pairs.x)):
        gradient = guiding(memory, detector, content, x)
        own = torch.cat([sensitivity_factors(model, part)[1] for part in x.split(256)])
        orders = {
            "detector": gradient,
            "reversed": -gradient,
            "another_image": gradient.roll(1, 0),
            "classifier": own.abs().amax(1, keepdim=True),
            "perturbation": size,
        }
        for share in shares:
            masks = {name: largest_share(order, share) for name, order in orders.items()}
            one = draw_seed(seed, repetition, 0)
            masks["random"] = as_large(masks["detector"], pairs.index, one)
            for name, mask in masks.items():
                blanked = x.masked_fill(mask, 0.0)
                labels[f"{name}.{share:g}.{side}"] = predict(model, blanked).argmax(1)
    return labels, {"n": len(pairs.x)}
