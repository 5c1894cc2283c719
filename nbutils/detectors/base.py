"""What every detector can do."""

from collections.abc import Sequence

import torch
from torch import nn

from nbutils import InputError


class Detector:
    """Guards `classifier`. Subclasses give `score`; `threshold` is where `decide` says adversarial (the paper's own rule until calibrated)."""

    differentiable = True

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier, self.threshold = classifier, 0.0

    def look(self, x: torch.Tensor) -> torch.Tensor | None:
        """What all detectors of this kind compute first of the images, handed to their `score`; None where there is no such thing."""

    def score(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """(n,) continuous, higher = adversarial; differentiable to `x` where `differentiable` says so. `seen` is what `look` gave for `x`."""
        raise NotImplementedError

    def calibrate(self, clean: torch.Tensor, fpr: float) -> float:
        """Set and return the threshold that flags at most the share `fpr` of these clean images."""
        self.threshold = threshold_at(scores(self, clean), fpr)
        return self.threshold

    def decide(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) bool: adversarial?"""
        return scores(self, x) > self.threshold


def threshold_at(clean_scores: torch.Tensor, fpr: float) -> float:
    """The smallest of the clean scores that at most the share `fpr` of them exceeds (Xu et al. 2018: the ceil((1-fpr) n)-th)."""
    if not 0 <= fpr < 1:
        raise InputError(f"fpr must lie in [0,1), but is {fpr}.")
    ordered = clean_scores.flatten().sort().values
    flagged = int(fpr * len(ordered) + 1e-9)
    return ordered[len(ordered) - 1 - flagged].item()


def scores(detector: Detector, x: torch.Tensor, *, batch: int = 256, seen: bool = False) -> torch.Tensor:
    """Scores (n,) of images (n,c,h,w) in batches, float32, without a graph."""
    return scores_of([detector], x, batch=batch, seen=seen)[0]


@torch.no_grad()
def scores_of(fits: Sequence[Detector], x: torch.Tensor, *, batch: int = 256, seen: bool = False) -> torch.Tensor:
    """Scores (s,n) by s fits of one detector: what they look at is computed once, or handed over as `x` already (`seen`)."""
    parts = []
    for part in x.split(batch):
        looked = part if seen else fits[0].look(part)
        parts.append(torch.stack([(fit.score(part) if looked is None else fit.score(part, looked)).float() for fit in fits]))
    found = torch.cat(parts, 1)
    if not torch.isfinite(found).all():
        raise InputError("The detector's scores hold NaN or infinite values: check the images and the classifier.")
    return found
