"""What all attacks have in common: their contract, checked in one place, and randomness by (seed,
index).

`attack(model, x, y, *, target=None, index=None, seed=0, objective=None, **knobs) -> x_adv`. `model`
maps images in [0,1] to logits and is in eval mode; `y` (n,) is the label to leave, `target` (n,)
the one to reach; `index` (n,) are the images' numbers, so that randomness is a function of (seed,
index) and not of the batch; `objective` says what is followed and what counts as success. Sizes are
in [0,1] units. Nothing handed in is changed: not the images, nor the model's mode, flags or
`.grad`.
"""

import functools
import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.objective import CLASSIFIER

NORMS = ("linf", "l2")
COMMON = ("model", "x", "y", "target", "index", "seed", "objective")


def attack(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Checks what an attack is handed, and fills in the images' numbers and the usual objective.

    Raises:
        InputError: a knob that the attack has not or that is missing, a model in train mode, images
            that are none, labels of another shape or type.
    """
    parameters = inspect.signature(function).parameters
    knobs = [name for name in parameters if name not in COMMON]
    needed = [name for name in knobs if parameters[name].default is inspect.Parameter.empty]

    @functools.wraps(function)
    def checked(model, x, y, *, target=None, index=None, seed=0, objective=None, **given):
        for name in given:
            if name not in knobs:
                raise InputError(
                    f"{function.__name__} has no knob {name!r}: it has {', '.join(knobs)}."
                )
        for name in needed:
            if name not in given:
                raise InputError(f"{function.__name__} needs {name}: it has {', '.join(knobs)}.")
        check(model, x, y, target)
        if given.get("norm", "linf") not in NORMS:
            raise InputError(
                f"norm {given['norm']!r} is unknown: choose one of {', '.join(NORMS)}."
            )
        index = torch.arange(len(x)) if index is None else index
        return function(
            model,
            x,
            y,
            target=target,
            index=index,
            seed=seed,
            objective=objective or CLASSIFIER,
            **given,
        )

    return checked


def sizes(**given: float) -> None:
    """Refuse a size, rate or share that is negative or not finite."""
    for name, size in given.items():
        if not (np.isfinite(size) and size >= 0):
            raise InputError(f"{name} must be finite and not negative, but is {size}.")


def counts(**given: int) -> None:
    """Refuse a number of steps or rounds that is no whole number from 1."""
    for name, count in given.items():
        if count != int(count) or count < 1:
            raise InputError(
                f"{name} must be a whole number from 1 (candidates: from 2), but is {count}."
            )


def unit_ball(x: torch.Tensor, index: torch.Tensor, seed: int, norm: str) -> torch.Tensor:
    """A point an image, uniform in the unit ball of the norm, from a generator keyed by (seed,
    index).
    """
    points = np.empty(x.shape)
    for point, number in zip(points, index.tolist(), strict=True):
        rng = np.random.default_rng([seed, 5, number])
        if norm == "linf":
            point[...] = rng.uniform(-1, 1, point.shape)
        else:
            point[...] = rng.standard_normal(point.shape)
            point *= rng.random() ** (1 / point.size) / np.linalg.norm(point)
    return torch.from_numpy(points).to(x)


def other_labels(y: torch.Tensor, classes: int, index: torch.Tensor, seed: int) -> torch.Tensor:
    """(n,) for each image a label other than `y`, drawn from (seed, index)."""
    draws = (np.random.default_rng([seed, 6, number]) for number in index.tolist())
    shift = [int(rng.integers(1, classes)) for rng in draws]
    return (y + torch.tensor(shift, device=y.device)) % classes


def check(model: nn.Module, x: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None) -> None:
    """One sentence for what would otherwise give a wrong picture without a word."""
    if model.training:
        raise InputError("The model is in train mode: call model.eval() first.")
    if not x.is_floating_point() or x.dim() != 4:
        raise InputError(
            f"x must be float images (n,c,h,w), but is {x.dtype} of shape {tuple(x.shape)}."
        )
    low, high = (x.min().item(), x.max().item()) if x.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"x must lie in [0,1] but reaches from {low:.3g} to {high:.3g}: pass un-normalised "
            "images; the model normalises itself."
        )
    for name, labels in (("y", y), ("target", target)):
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != (len(x),)):
            found = f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise InputError(f"{name} must hold {len(x)} int64 labels, but is {found}.")
