"""The two wrappers around a network: normalisation in front of it, a choice of its outputs behind
it.
"""

from collections.abc import Sequence

import torch
from torch import nn


class Normalised(nn.Module):
    """`body` behind a normalisation: (x - mean) / std, channel by channel."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body((x - self.mean) / self.std)


def moments(x: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images (n,c,h,w) in [0,1], to normalise by.

    A channel that varies by less than one level of 255 carries nothing: it gets a deviation of 1,
    or its noise, and an attack on it, would outweigh all that is seen in the others.
    """
    std = x.std((0, 2, 3))
    return x.mean((0, 2, 3)).tolist(), torch.where(std < 1 / 255, 1.0, std).tolist()


class Restricted(nn.Module):
    """`body`'s logits of some of its classes: a network of 1000 classes among ten.

    `positions` are theirs in its output.
    """

    def __init__(self, body: nn.Module, positions: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("positions", torch.tensor(positions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).index_select(1, self.positions)
