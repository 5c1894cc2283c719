"""How a density is trained, on clean images alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import numpy as np
import torch

from nbutils import InputError
from nbutils.data.images import to_float
from nbutils.density.pixelcnn import PixelCNN
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of

CHECKPOINT_SECONDS = 20  # at least so long between two checkpoints
WARM_UP = 50  # steps in which the rate rises, a tenth of all at most


@dataclass(frozen=True)
class DensityTraining:
    """How a density is trained.

    Args:
        epochs: passes over the images. batch: images in a step.
        lr: Adam's highest rate; it rises for WARM_UP steps at most and falls to 0 along a cosine.
    """

    epochs: int
    batch: int = 16
    lr: float = 3e-3


def fit(
    net: PixelCNN,
    x: torch.Tensor,
    how: DensityTraining,
    *,
    seed: int = 0,
    parts: Parts | None = None,
    progress: Callable = iter,
) -> dict:
    """Train `net` in place to give these clean images as few bits as it can.

    Args:
        x: (n,c,h,w), uint8 or float in [0,1].
        parts: where checkpoints go; a killed run continues from the last one and ends with the same
            weights.
        progress: wraps the steps, for a progress bar.
    Returns:
        `bits_by_epoch`: the mean bits per dimension of each pass, while the weights move.
    Raises:
        InputError: no images, or the likelihood is not finite.
    """
    if not len(x):
        raise InputError("There are no clean images to fit a density on.")
    net.to(memory_format=torch.channels_last).train()  # faster on a CPU
    optimizer = torch.optim.Adam(net.parameters(), lr=how.lr, betas=(0.9, 0.99), fused=True)
    key = key_of([seed, str(how), str(net)], x, net.state_dict()) if parts else ""
    a_pass = -(-len(x) // how.batch)
    sums, first = torch.zeros(how.epochs, dtype=torch.float64, device=x.device), 0
    found = parts.find("step", key) if parts else None
    if found:
        first = int(found["step"])
        sums.copy_(found["sums"])
        _restore(net, optimizer, found)
    saved, order = monotonic(), None
    for step in progress(range(first, how.epochs * a_pass)):
        epoch, place = divmod(step, a_pass)
        if order is None or place == 0:
            order = torch.from_numpy(np.random.default_rng([seed, 9, epoch]).permutation(len(x)))
        rows = order[place * how.batch : (place + 1) * how.batch].to(x.device)
        bits = net.bits(to_float(x[rows]).contiguous(memory_format=torch.channels_last))
        for group in optimizer.param_groups:
            group["lr"] = how.lr * _rate(step, how.epochs * a_pass)
        optimizer.zero_grad()
        bits.mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        sums[epoch] += bits.detach().double().sum()
        if parts and monotonic() - saved >= CHECKPOINT_SECONDS:
            parts.keep("step", _checkpoint(net, optimizer, step + 1, sums), key)
            saved = monotonic()
    net.eval().requires_grad_(False)
    means = (sums / len(x)).tolist()
    if not all(map(math.isfinite, means)):
        raise InputError(
            f"Training the density diverged: lower its learning rate {how.lr}, or change SEED."
        )
    return {"bits_by_epoch": means}


def _rate(step: int, steps: int) -> float:
    """The share of the highest rate that a step of so many gets."""
    rise = min(WARM_UP, 1 + steps // 10)
    return min(1.0, (step + 1) / rise) * (1 + math.cos(math.pi * step / steps)) / 2


def _checkpoint(
    net: PixelCNN, optimizer: torch.optim.Optimizer, step: int, sums: torch.Tensor
) -> dict[str, torch.Tensor]:
    out = {"step": torch.tensor(step), "sums": sums}
    out |= {f"net.{name}": value for name, value in net.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        out |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    return out


def _restore(
    net: PixelCNN, optimizer: torch.optim.Optimizer, found: dict[str, torch.Tensor]
) -> None:
    net.load_state_dict({k[4:]: value for k, value in found.items() if k.startswith("net.")})
    state: dict[int, dict] = {}
    for name, value in found.items():
        if name.startswith("optimizer."):
            _, i, field = name.split(".")
            state.setdefault(int(i), {})[field] = (
                value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
            )
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
