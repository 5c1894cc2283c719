"""A detector by its name, with what it needs beside the classifier."""

import torch
from torch import nn

from nbutils import InputError
from nbutils.detectors import DETECTORS
from nbutils.detectors.base import Detector
from nbutils.detectors.consistency import GradCamConsistency
from nbutils.detectors.stand_ins import bank_of

NEEDED = {
    "saliency": "a learned saliency model: hand one over (nbutils.saliency.learned.SaliencyModel)",
    "bank": "a bank of others' Jacobians: hand one over (nbutils.detectors.stand_ins.bank_of)",
    "mean": "the training images' mean of each channel: hand it over (1,c,1,1)",
}


def needs(name: str) -> str:
    """What a detector needs beside the classifier: "saliency", "bank", "mean", or "" for nothing.

    Raises:
        InputError: there is no detector of this name.
    """
    if name not in DETECTORS:
        raise InputError(f"Detector {name!r} is unknown: choose one of {', '.join(DETECTORS)}.")
    entry = DETECTORS[name]
    return "mean" if entry.func is GradCamConsistency else entry.keywords.get("needs", "")


def build(
    name: str,
    classifier: nn.Module,
    through: nn.Module | None = None,
    *,
    mean: torch.Tensor | None = None,
    layer: str = "",
) -> Detector:
    """An unfitted detector by its name, guarding `classifier`.

    Args:
        through: a learned saliency model, or a bank, for those that need one.
        mean, layer: of the training images, and Grad-CAM's, for those of paper 003.
    Raises:
        InputError: no detector of this name, or what it needs is missing.
    """
    needed = needs(name)
    given = {"saliency": through, "bank": through, "mean": mean, "": ()}[needed]
    if given is None:
        raise InputError(f"Detector {name!r} looks through {NEEDED[needed]}.")
    if needed == "mean":
        return DETECTORS[name](classifier, mean=mean, layer=layer)
    return DETECTORS[name](classifier, through=through) if needed else DETECTORS[name](classifier)


def bank_for(
    name: str,
    classifier: nn.Module,
    clean: torch.Tensor,
    adversarial: torch.Tensor,
    *,
    seed: int = 0,
) -> nn.Module | None:
    """The bank that a stand-in looks into; None for other detectors."""
    return (
        bank_of(name, classifier, clean, adversarial, seed=seed) if needs(name) == "bank" else None
    )
