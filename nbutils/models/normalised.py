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
