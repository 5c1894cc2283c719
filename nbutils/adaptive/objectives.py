"""What an attacker follows who knows the detector: the classifier wrong *and* the score under a
threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import softplus

from nbutils import InputError
from nbutils.attacks.objective import Objective, label_loss, lead, misread

FORMS = ("sum", "additive", "printed")
Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Joint(Objective):
    """An objective with the detector's `score` (n,) of images with their graph, and the `threshold`
    that it must not exceed.

    `seen`: images -> the gradient with respect to what the detector sees, for paper 000's attack.
    """

    score: Score | None = None
    threshold: float = 0.0
    seen: Score | None = None


def joint(
    score: Score,
    threshold: float,
    *,
    weight: float = 1.0,
    form: str = "sum",
    seen: Score | None = None,
) -> Joint:
    """The one criterion of all attacks on detectors, and what each kind of attack follows of it.

    With z the logits, y the label to leave and u = score - threshold, an image succeeds where it is
    read otherwise (or as its target) and u <= 0. Losses rise towards success.

    - "sum": the loss is paper 004's eq 14, the label's cross-entropy and, `weight` times, minus the
      detector's cross-entropy of "clean". The margin is minus the sum of both hinges (the second
      times `weight`) while one is open, and the lesser of both leads afterwards.
    - "additive", "printed": one classifier of L + 1 classes (Carlini and Wagner 2017b; papers 002
      and 004). Its last logit is max z + u, or as printed (u + 1) max z, which asks for max z > 0;
      loss and margin are those of leaving y for a class that is not the last.

    Args:
        weight: of the detector in "sum"; the other forms have none.
        seen: as of `Joint`.
    """
    if form not in FORMS:
        raise InputError(f"form {form!r} is unknown: choose one of {', '.join(FORMS)}.")

    last: dict = {}  # the images of the last score, kept alive so that no others take their place

    def over(x: torch.Tensor) -> torch.Tensor:
        value = score(x) - threshold
        last.update(x=x.detach(), version=x._version, value=value.detach())
        return value

    def unseen(logits, x, labels, targeted):
        with torch.no_grad():
            known = last and last["x"].data_ptr() == x.data_ptr() and last["x"].shape == x.shape
            value = last["value"] if known and last["version"] == x._version else over(x)
            return misread(logits, x, labels, targeted) & (value <= 0)

    def loss_of_sum(logits, x, labels, targeted):
        return label_loss(logits, x, labels, targeted) - weight * softplus(over(x)).to(logits)

    def margin_of_sum(logits, x, labels, targeted):
        ahead, under = lead(logits, x, labels, targeted), -weight * over(x).to(logits)
        open_ = ahead.clamp_max(0) + under.clamp_max(0)
        return torch.where(open_ < 0, open_, torch.minimum(ahead, under))

    def loss_of_classes(logits, x, labels, targeted):
        last = _last(logits, over(x).to(logits), form)
        everything = torch.cat([logits, last[:, None]], 1).logsumexp(1)
        return _allowed(logits, labels, targeted).logsumexp(1) - everything

    def margin_of_classes(logits, x, labels, targeted):
        last = _last(logits, over(x).to(logits), form)
        good = _allowed(logits, labels, targeted)
        others = logits.masked_fill(good > -torch.inf, -torch.inf).amax(1)
        return good.amax(1) - torch.maximum(others, last)

    if form == "sum":
        return Joint(loss_of_sum, margin_of_sum, unseen, score, threshold, seen)
    return Joint(loss_of_classes, margin_of_classes, unseen, score, threshold, seen)


def _last(logits: torch.Tensor, over: torch.Tensor, form: str) -> torch.Tensor:
    """The logit of "adversarial" among L + 1 classes."""
    top = logits.amax(1)
    return top + over if form == "additive" else (over + 1) * top


def _allowed(logits: torch.Tensor, labels: torch.Tensor, targeted: bool) -> torch.Tensor:
    """The logits with those that an attack may not end at left out."""
    own = torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], True)
    return logits.masked_fill(~own if targeted else own, -torch.inf)


def both_orders(model: nn.Module) -> Objective:
    """Paper 003's informed attacker: the picture and the one with its channels reversed are read
    alike, both wrongly.
    """

    def turned(function):
        def both(logits, x, labels, targeted):
            other = model(x.flip(1))
            here, there = (function(z, x, labels, targeted) for z in (logits, other))
            if function is misread:
                return here & there & (logits.argmax(1) == other.argmax(1))
            return torch.minimum(here, there) if function is lead else here + there

        return both

    return Objective(*(turned(function) for function in (label_loss, lead, misread)))
