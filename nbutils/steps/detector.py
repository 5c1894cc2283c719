"""Detectors of one run: fitted on the training images and what an attack made of them, or just
built.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nbutils import InputError
from nbutils.detectors import DETECTORS
from nbutils.detectors.base import Detector
from nbutils.detectors.building import bank_for, build, needs
from nbutils.detectors.groups import COMBINED, DENSITY, LAYERS, MAHALANOBIS, TRAINED, TWS
from nbutils.detectors.networks import Network, Recipe
from nbutils.evaluation.leaks import score_sign
from nbutils.models import ARCHITECTURES
from nbutils.models.normalised import Normalised
from nbutils.models.published import NETWORKS, PUBLISHED
from nbutils.models.training import Training
from nbutils.saliency.learned import SaliencyModel
from nbutils.steps import viewing
from nbutils.steps.adversarial import AdversarialSet, adversarial, first_rows
from nbutils.steps.classifier import classifier
from nbutils.steps.density import density
from nbutils.steps.rivals import rival
from nbutils.steps.run import Memory, Run
from nbutils.steps.saliency import cam_layer, learned_saliency
from nbutils.store.artifacts import Artifact, Parts, identity_of

VARIED = ("architecture", "width", "epochs", "optimizer")  # what a variant may change
BRANCH = "metzen_branch"  # reads pictures of any number of channels


def detector(
    run: Run,
    name: str,
    attack: str = "",
    repetition: int = 0,
    *,
    variant: dict | None = None,
    **knobs: float | int | str | None,
) -> tuple[Detector, dict]:
    """The detector `name`; a trained one is fitted on the training images and what `attack` made of
    them.

    Args:
        attack: one setting, or a mixture: "fgsm+bim" (an adversarial image a clean one), "fgsm&bim"
            (as many as attacks).
        repetition: numbers fits with seeds of their own.
        variant: what differs from the preset: `architecture`, `width`, `epochs`, `optimizer`. A
            published architecture that is also the classifier's starts from the classifier's
            weights (paper 002 on ImageNet).
    Returns:
        the detector and its record (empty where nothing is fitted).
    """
    made, artifact = fitted(run, name, attack, repetition, variant=variant, **knobs)
    return made, artifact.record if artifact else {}


def fitted(
    run: Run,
    name: str,
    attack: str = "",
    repetition: int = 0,
    *,
    variant: dict | None = None,
    **knobs: float | int | str | None,
) -> tuple[Detector, Artifact | None]:
    """As `detector`, with the artifact in place of the record; None where nothing is fitted."""
    changed = {knob: value for knob, value in knobs.items() if value is not None}
    variant = variant or {}
    key = ("detector", name, attack, repetition, *variant.items(), *changed.items())
    return run.memory.once(key, _fitted, run, name, attack, repetition, variant, changed)


def _fitted(
    run: Run, name: str, attack: str, repetition: int, variant: dict, knobs: dict
) -> tuple[Detector, Artifact | None]:
    needed, base = needs(name), classifier(run)
    if name in DENSITY:
        likelihood = density(run)
        made = build(name, base.model)
        made.refer(likelihood.model, likelihood.reference)
        return made, likelihood.artifact
    if name in (*MAHALANOBIS, *TWS):
        usable(run, name)
        return rival(run, name, attack, repetition, variant, **knobs)
    if name not in TRAINED:
        mean = mean_of(run) if needed == "mean" else None
        return build(name, base.model, mean=mean, layer=cam_layer(base)), None
    usable(run, name)
    if name in COMBINED:
        return _combined(run, name, attack, repetition, variant, knobs)
    pairs = adversarial(run, attack, "train", **knobs)
    through = learned_saliency(run) if needed == "saliency" else None
    settings = {**recipe_of(run, name, variant), "seed": run.seed, "repetition": repetition}
    starts = settings["architecture"] == base.record["architecture"] in PUBLISHED
    settings |= {"detector": name, "starts": starts}
    saliency = through.model if through else None
    artifact = run.step(
        "detector",
        "-".join(_words(name, pairs, variant, repetition)),
        make_detector,
        {
            "model": base.model,
            "pairs": pairs,
            "saliency": saliency,
            "memory": run.memory,
            "progress": run.progress,
        },
        settings,
        parents={"pairs": pairs.artifact, "classifier": base.artifact}
        | ({"saliency": through.artifact} if through else {}),
    )
    made = _unfitted(name, base.model, pairs, saliency, run.seed)
    return made.load(artifact.tensors, run.data.shape, as_recipe(settings)), artifact


def make_detector(
    parts: Parts,
    *,
    model: nn.Module,
    pairs: AdversarialSet,
    saliency: SaliencyModel | None,
    memory: Memory,
    progress: Callable,
    detector: str,
    seed: int,
    repetition: int,
    starts: bool,
    architecture: str,
    width: float,
    epochs: int,
    batch: int,
    optimizer: str,
) -> tuple[dict, dict]:
    """A detector fitted on pairs: each clean image once, however many attacked ones it has."""
    recipe = Recipe(architecture, Training(epochs, batch, optimizer), width)
    made = _unfitted(detector, model, pairs, saliency, seed)
    once = first_rows(pairs)
    viewed = _viewed(memory, made, detector, pairs)
    record = made.fit(
        pairs.x[once],
        pairs.x_adv,
        pairs.index[once],
        recipe,
        index_adversarial=pairs.index,
        seed=seed * 100 + repetition,
        start=model if starts else None,
        viewed=viewed,
        parts=parts,
        progress=partial(progress, what=f"fitting {detector} on {pairs.name}"),
    )
    if not record["collapsed"]:  # what says the same of everything has no sign
        record["train_auroc"] = score_sign(made, *viewed, viewed=True)
    return made.state(), record


def _combined(
    run: Run, name: str, attack: str, repetition: int, variant: dict, knobs: dict
) -> tuple[Detector, Artifact]:
    """GCD of halves that are fitted, and kept, for themselves."""
    pairs, base = adversarial(run, attack, "train", **knobs), classifier(run)
    found = [
        fitted(run, half, attack, repetition, variant=variant, **knobs) for half in COMBINED[name]
    ]
    (pixels, its), (sensitivity, others) = found
    parents = {"pixels": its, "sensitivity": others}
    artifact = run.step(
        "detector",
        "-".join(_words(name, pairs, variant, repetition)),
        make_combined,
        {
            "model": base.model,
            "pairs": pairs,
            "halves": (pixels, sensitivity),
            "records": [its.record, others.record],
            "contents": [its.content, others.content],
            "memory": run.memory,
        },
        {"detector": name, "seed": run.seed, "repetition": repetition},
        parents=parents | {"pairs": pairs.artifact, "classifier": base.artifact},
    )
    made = DETECTORS[name](base.model, halves=(pixels, sensitivity))
    return made.load(artifact.tensors), artifact


def make_combined(
    parts: Parts,
    *,
    model: nn.Module,
    pairs: AdversarialSet,
    halves: tuple[Network, Network],
    records: list[dict],
    contents: list[str],
    memory: Memory,
    detector: str,
    seed: int,
    repetition: int,
) -> tuple[dict, dict]:
    """What GCD has beside its halves, whose contents are part of what it is."""
    made = DETECTORS[detector](model, halves=halves)
    once = first_rows(pairs)
    record = made.combine(
        pairs.x[once],
        pairs.x_adv,
        pairs.index[once],
        records,
        index_adversarial=pairs.index,
        seed=seed * 100 + repetition,
    )
    if not record["collapsed"]:
        viewed = _viewed(memory, made, detector, pairs)
        record["train_auroc"] = score_sign(made, *viewed, viewed=True)
    return {**made.own_state(), "identity": identity_of(detector, contents)}, record


def usable(run: Run, name: str) -> None:
    """Refuse, in a sentence, to fit on test pictures, or to calibrate where none are held back."""
    if name in (*TRAINED, *DENSITY, *MAHALANOBIS) and not len(run.data.train):
        raise InputError(
            f"{run.data.name} has test pictures only: no detector ({name}) can be fitted or "
            "calibrated on them; add a train/ folder."
        )
    if not len(run.data.calibrate):
        raise InputError(
            f"{run.data.name} has no pictures held back to calibrate a detector ({name}) on: add "
            "a train/ folder, or raise `calibrate` in CHANGES."
        )


def _viewed(
    memory: Memory, made: Detector, name: str, pairs: AdversarialSet
) -> tuple[torch.Tensor, torch.Tensor]:
    """What it sees of the clean images, each once, and of the attacked ones."""
    sides = pairs.x[first_rows(pairs)], pairs.x_adv
    if made.viewers[0].view_name:
        return tuple(viewing.viewed(memory, made, side) for side in sides)
    key = ("views", name, pairs.artifact.content)  # the view is its own, that of all its fits
    return memory.once(key, lambda: tuple(made.view_all(side) for side in sides), most=1)


def _unfitted(
    name: str, model: nn.Module, pairs: AdversarialSet, saliency: SaliencyModel | None, seed: int
) -> Network:
    through = saliency or bank_for(name, model, pairs.x, pairs.x_adv, seed=seed)
    return build(name, model, through)


def recipe_of(run: Run, name: str, variant: dict) -> dict:
    """Architecture, width, epochs, batch and optimizer of a detector, the variant's before the
    preset's.
    """
    recipe = {
        "architecture": run.preset["detector"],
        "width": run.preset["detector_width"],
        "epochs": run.preset["detector_epochs"],
        "batch": run.preset["detector_batch"],
        "optimizer": "adam",
    }
    branch = name.startswith("metzen_") or (name in LAYERS and recipe["architecture"] in NETWORKS)
    if branch:
        recipe |= {"architecture": BRANCH, "width": run.preset["variation_width"]}
    recipe |= variant
    if set(variant) - set(VARIED) or recipe["architecture"] not in ARCHITECTURES:
        raise InputError(
            f"variant {variant} is unknown: choose architecture (one of "
            f"{', '.join(ARCHITECTURES)}), width, epochs, optimizer."
        )
    return recipe


def as_recipe(settings: dict) -> Recipe:
    training = Training(settings["epochs"], settings["batch"], settings["optimizer"])
    return Recipe(settings["architecture"], training, settings["width"])


def mean_of(run: Run) -> torch.Tensor:
    """The mean (1,c,1,1) that is subtracted from images: the classifier's own, where it has one."""
    model = classifier(run).model
    own = next((part.mean for part in model.modules() if isinstance(part, Normalised)), None)
    if own is not None:
        return own
    images = run.data.train if len(run.data.train) else run.data.test
    return images[:2000].pixels().mean((0, 2, 3)).view(1, -1, 1, 1)


def _words(name: str, pairs: AdversarialSet, variant: dict, repetition: int) -> list[str]:
    """What a detector's artifact is named by."""
    return [
        name,
        pairs.artifact.path.name,
        *(f"{k}{v}" for k, v in variant.items()),
        str(repetition),
    ]
