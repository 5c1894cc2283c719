"""A net on two numbers, whose input sensitivity and borders can be drawn: paper 004's figure 2."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils.saliency.gradients import dist_z, input_sensitivity

CENTRES = ((0.3, 0.3), (0.7, 0.35), (0.45, 0.72))  # of the three classes' clouds in the unit square
SPREAD = 0.08  # their standard deviation
EACH = 100  # points of a class


def toy_points(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds in the unit square: points (n,1,1,2), images of two values, and classes (n,)."""
    rng = np.random.default_rng([seed, 4])
    y = np.repeat(np.arange(len(CENTRES)), EACH)
    x = np.array(CENTRES)[y] + SPREAD * rng.standard_normal((len(y), 2))
    points = torch.from_numpy(x.clip(0, 1)).float().view(-1, 1, 1, 2)
    return points, torch.from_numpy(y)


def toy_net(seed: int = 0) -> nn.Module:
    """A net with two hidden layers, trained on the points of `toy_points`, in eval mode."""
    x, y = toy_points(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2, 32),
            nn.Tanh(),
            nn.Linear(32, 16),
            nn.Tanh(),
            nn.Linear(16, len(CENTRES)),
        )
    with torch.enable_grad():
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(300):
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def field(model: nn.Module, *, size: int = 100) -> dict[str, np.ndarray]:
    """A net on two numbers, over the unit square: arrays (size,size) whose rows go up the second
    value and whose columns go along the first.

    Returns:
        `input_sensitivity` ||G|| and `dist_z` (eq 5 of paper 004) at the middle of each cell, and
        the `prediction` there.
    """
    middles = (torch.arange(size) + 0.5) / size
    second, first = torch.meshgrid(middles, middles, indexing="ij")
    points = torch.stack([first, second], -1).view(-1, 1, 1, 2)
    with torch.no_grad():
        found = {
            "input_sensitivity": input_sensitivity(model, points).flatten(1).norm(dim=1),
            "dist_z": dist_z(model, points),
            "prediction": model(points).argmax(1),
        }
    return {name: values.view(size, size).numpy(force=True) for name, values in found.items()}
