"""What a rectifier must beat: nothing, a median filter, a draw of noise, the second best class."""

import numpy as np
import torch

from nbutils import InputError
from nbutils.attacks.contract import sizes
from nbutils.detectors import squeezing
from nbutils.rectifiers.contract import numbers_of


def none(
    x: torch.Tensor, *, index: torch.Tensor | None = None, seed: int = 0, through: None = None
) -> torch.Tensor:
    """The images as they are."""
    numbers_of(x, index)
    return x.clone()


def median(
    x: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    seed: int = 0,
    through: None = None,
    size: int = 3,
) -> torch.Tensor:
    """The median of each size x size neighbourhood, channel by channel (Xu et al. 2018)."""
    numbers_of(x, index)
    return squeezing.median(x, size)


def noise(
    x: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    seed: int = 0,
    through: None = None,
    deviation: float = 0.05,
) -> torch.Tensor:
    """One draw of Gaussian noise of this standard deviation an image, clipped to [0,1]."""
    sizes(deviation=deviation)
    drawn = np.empty(x.shape)
    for place, number in zip(drawn, numbers_of(x, index), strict=True):
        place[...] = np.random.default_rng([seed, 17, number]).standard_normal(place.shape)
    return (x + deviation * torch.from_numpy(drawn).to(x)).clamp(0, 1)


def runner_up(logits: torch.Tensor) -> torch.Tensor:
    """(n,) the second best class: at the border that an attack has just crossed it is the old one.

    Of equal ones the first that is not the model's answer.
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise InputError(
            f"A second best class needs logits (n,k) of at least 2 classes, but these have the "
            f"shape {tuple(logits.shape)}."
        )
    return logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf).argmax(1)
