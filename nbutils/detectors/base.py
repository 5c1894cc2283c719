"""What every detector can do."""

from collections.abc import Sequence

import torch
from torch import nn

from nbutils import InputError


class Detector:
    """Guards `classifier`. Subclasses give `score`.

    `threshold` is the score above which `decide` says adversarial: None until `calibrate`, where
    the paper has no rule of its own.
    """

    trained = False  # whether it must be fitted on attacked images
    differentiable = True  # whether `score` can be derived to the images
    own_threshold: float | None = None  # the paper's own operating point, if it has one

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier, self.threshold = classifier, self.own_threshold

    @property
    def device(self) -> torch.device:
        """That of the classifier; the CPU's where it holds no tensor."""
        held = [*self.classifier.parameters(), *self.classifier.buffers()]
        return next(iter(held), torch.empty(0)).device

    view_name: str | None = None  # of what `view` computes, where others compute the same

    @property
    def viewers(self) -> tuple["Detector", ...]:
        """Those whose views, channel by channel, are its own: itself, or its halves."""
        return (self,)

    def view(self, x: torch.Tensor) -> torch.Tensor | None:
        """What all detectors of this kind compute first of the images; None where there is no such
        thing.
        """

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        """(n,) continuous, higher = adversarial.

        `viewed` is what `view` gave for `x`, if it is known.
        """
        raise NotImplementedError

    def calibrate(self, clean: torch.Tensor, fpr: float) -> float:
        """Set and return the threshold that flags at most the share `fpr` of these clean images."""
        self.threshold = threshold_at(scores(self, clean), fpr)
        return self.threshold

    def decide(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) bool: adversarial?

        Raises:
            InputError: no rule is known yet.
        """
        if self.threshold is None:
            raise InputError(
                "This detector has no threshold yet: calibrate it on clean images first."
            )
        return scores(self, x) > self.threshold

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors to keep, the threshold among them (not-a-number: none yet)."""
        threshold = float("nan") if self.threshold is None else self.threshold
        return {"threshold": torch.tensor(threshold, dtype=torch.float64)}

    def load(self, tensors: dict[str, torch.Tensor]) -> "Detector":
        """Take the kept tensors back."""
        threshold = tensors["threshold"].item()
        self.threshold = threshold if threshold == threshold else None
        return self


def threshold_at(clean_scores: torch.Tensor, fpr: float) -> float:
    """The smallest of the clean scores that at most the share `fpr` of them exceeds.

    Xu et al. (2018): the ceil((1-fpr) n)-th.
    """
    if not 0 <= fpr < 1:
        raise InputError(f"fpr must lie in [0,1), but is {fpr}.")
    ordered = clean_scores.flatten().sort().values
    flagged = int(fpr * len(ordered) + 1e-9)
    return ordered[len(ordered) - 1 - flagged].item()


def scores(
    detector: Detector, x: torch.Tensor, *, batch: int = 256, viewed: bool = False
) -> torch.Tensor:
    """Scores (n,) of images (n,c,h,w) in batches, float32, without a graph."""
    return scores_of([detector], x, batch=batch, viewed=viewed)[0]


@torch.no_grad()
def scores_of(
    fits: Sequence[Detector], x: torch.Tensor, *, batch: int = 256, viewed: bool = False
) -> torch.Tensor:
    """Scores (s,n) by s fits of one detector: what they look at is computed once, or handed over as
    `x` already (`viewed`).
    """
    parts = []
    for part in x.split(batch):
        seen = part if viewed else fits[0].view(part)
        given = (part,) if seen is None else (part, seen)  # a user's own may know the images alone
        parts.append(torch.stack([fit.score(*given).float() for fit in fits]))
    found = torch.cat(parts, 1)
    if not torch.isfinite(found).all():
        raise InputError(
            "The detector's scores hold NaN or infinite values: check the images and the "
            "classifier."
        )
    return found
