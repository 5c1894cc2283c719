"""What an attack costs beside the least that it could: passes through the model counted, and their
bare time.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn


class Counted(nn.Module):
    """A model that counts image-passes: `forwards` and `backwards` grow by the batch size with
    each.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0
        self.training = model.training  # its own mode alone: those of the model's parts are theirs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.model(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)


def passes(
    attack: Callable[..., torch.Tensor],
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    batch: int = 0,
    **knobs: object,
) -> tuple[int, int]:
    """Forward and backward passes, in images, of an attack on x (n,c,h,w); in batches of so many
    images (0: all at once).

    With `batch=1` no image waits for another and none is computed for nothing: the passes that are
    needed.
    """
    counted, index = Counted(model), knobs.pop("index", None)
    index, target = torch.arange(len(x)) if index is None else index, knobs.pop("target", None)
    for rows in torch.arange(len(x), device=x.device).split(batch or max(1, len(x))):
        attack(
            counted,
            x[rows],
            y[rows],
            index=index[rows.cpu()],
            target=None if target is None else target[rows],
            **knobs,
        )
    return counted.forwards, counted.backwards


def pass_excess(used: tuple[int, int], needed: tuple[int, int]) -> float:
    """Passes used over passes needed, a forward counted like a backward."""
    return sum(used) / sum(needed)


def bare_seconds(model: nn.Module, x: torch.Tensor, repeats: int = 5) -> tuple[float, float]:
    """Seconds an image of a forward pass and of the backward pass to the input, on this batch; the
    medians of `repeats`, after one more.
    """
    forward, backward = [], []
    for _ in range(repeats + 1):
        now = x.detach().clone().requires_grad_()
        times = [_clock()]
        with torch.enable_grad():
            logits = model(now)
            times.append(_clock())
            torch.autograd.grad(logits.sum(), now)
        times.append(_clock())
        forward.append(times[1] - times[0])
        backward.append(times[2] - times[1])
    return median(forward[1:]) / len(x), median(backward[1:]) / len(x)


def overhead(
    seconds: float, needed: tuple[float, float], bare: tuple[float, float]
) -> float | None:
    """Seconds of an attack over its floor: the passes needed, forward and backward, at the bare
    seconds of each; None where none were counted.
    """
    floor = needed[0] * bare[0] + needed[1] * bare[1]
    return seconds / floor if floor else None


def seconds(*functions: Callable[[], object], repeats: int = 5) -> list[float]:
    """Median seconds of each function, run in turns so that a disturbance meets all; the first turn
    is not counted.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for taken, function in zip(times, functions, strict=True):
            started = _clock()
            function()
            taken.append(_clock() - started)
    return [median(taken[1:]) for taken in times]


def _clock() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
