"""Total variation minimisation (Guo et al. 2018): some values are dropped, and the image is
rebuilt as the smoothest one near the others.
"""

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from nbutils import InputError
from nbutils.attacks.contract import sizes
from nbutils.rectifiers.contract import numbers_of

BETWEEN = 10  # steps from one look at the gap to the next
MOST = 20_000  # steps; the images that were tried need a few hundred


@torch.no_grad()
def total_variation(
    x: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    seed: int = 0,
    through: None = None,
    drop: float = 0.5,
    weight: float = 0.03,
    tolerance: float = 1e-3,
) -> torch.Tensor:
    """The minimiser z of `objective` on the values that are kept, those of a draw from (seed,
    index): each value of each channel is dropped with the chance `drop`.

    Chambolle and Pock's algorithm (2011), in float64, on all images at once; an image leaves when
    its duality gap, which bounds how far its objective is from the least one, is at most
    `tolerance` of the objective. It begins with the mean of the kept neighbours in the dropped
    values' place.

    Differs from the paper: its code takes ten sweeps of Gauss and Seidel in each of at most 100
    steps of split Bregman, with the data weighed 1/.03, which is the same objective over .03.

    Args:
        drop: in [0,1).
        tolerance: above 0.
    """
    numbers = numbers_of(x, index)
    sizes(drop=drop, weight=weight, tolerance=tolerance)
    if drop >= 1 or tolerance == 0:
        raise InputError(
            f"drop must be below 1 and tolerance above 0, but they are {drop} and {tolerance}."
        )
    kept = kept_values(x, numbers, seed, drop)
    return minimise(x.double(), kept.double(), weight, tolerance).to(x.dtype)


def kept_values(x: torch.Tensor, numbers: list[int], seed: int, drop: float) -> torch.Tensor:
    """(n,c,h,w) bool: which values of images with these numbers are kept."""
    drawn = np.empty(x.shape)
    for place, number in zip(drawn, numbers, strict=True):
        place[...] = np.random.default_rng([seed, 18, number]).random(place.shape)
    return torch.from_numpy(drawn).to(x.device) >= drop


def objective(z: torch.Tensor, x: torch.Tensor, kept: torch.Tensor, weight: float) -> torch.Tensor:
    """(n,): half the sum of (z - x)^2 over the kept values, plus `weight` times the isotropic total
    variation of z.

    That is, summed over channels and pixels, the length of (the pixel below - it, the pixel right
    of it - it), where what lies beyond the border counts as equal.
    """
    lengths = _differences(z).square().sum(0).sqrt()
    return (kept * (z - x).square() / 2 + weight * lengths).sum((1, 2, 3))


def gap(
    z: torch.Tensor, p: torch.Tensor, x: torch.Tensor, kept: torch.Tensor, weight: float
) -> torch.Tensor:
    """(n,) how far at most the objective of z is from the least one, by a dual p
    (2,n,c,h,w) of lengths at most `weight`.

    The dual value is the least of half the kept squares + <p, differences of z> over z in [0,1],
    where a minimiser lies, for clipping makes nothing larger. (Without those bounds it would be
    minus infinity as soon as a dropped value had any slope.)
    """
    slope = _adjoint(p)
    least = torch.where(kept > 0, (x - slope).clamp(0, 1), (slope < 0).to(x))
    dual = (kept * (least - x).square() / 2 + slope * least).sum((1, 2, 3))
    return objective(z, x, kept, weight) - dual


def minimise(x: torch.Tensor, kept: torch.Tensor, weight: float, tolerance: float) -> torch.Tensor:
    """z (n,c,h,w) in [0,1] of the least `objective`, up to `tolerance` of it (or what `MOST` steps
    reach).
    """
    out = _filled(x, kept)
    # The two step sizes multiply to 1/8, as convergence asks. Their ratio is the fastest of those
    # tried on MNIST and CIFAR-10 at weights from .003 to 3: the dual is as large as the weight.
    ratio = min(max(15 * weight, 1e-9), 3.0)
    tau, sigma = 1 / (8**0.5 * ratio), ratio / 8**0.5
    rows, z = torch.arange(len(x), device=x.device), out.clone()
    p = torch.zeros_like(_differences(z))
    for step in range(MOST):
        if step % BETWEEN == 0:
            found = objective(z, x, kept, weight)
            busy = gap(z, p, x, kept, weight) > tolerance * found + 1e-9 * x.shape[1:].numel()
            out[rows] = z
            rows, z, p, x, kept = rows[busy], z[busy], p[:, busy], x[busy], kept[busy]
            if not len(rows):
                break
        moved = z - tau * _adjoint(p)
        moved = torch.where(kept > 0, (moved + tau * x) / (1 + tau), moved).clamp_(0, 1)
        p = p + sigma * _differences(2 * moved - z)
        p = p * (weight / p.square().sum(0).sqrt().clamp_min(weight))
        z = moved
    out[rows] = z
    return out


def _filled(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The dropped values as the mean of the kept ones around them, else of the channel's kept
    ones, else a half.
    """
    around, counted = (9 * avg_pool2d(part, 3, 1, 1) for part in (x * kept, kept))
    every, number = (part.sum((2, 3), keepdim=True) for part in (x * kept, kept))
    mean = torch.where(number > 0, every / number.clamp_min(1), 0.5)
    near = torch.where(counted > 0.5, around / counted.clamp_min(1), mean)
    return torch.where(kept > 0, x, near).clamp(0, 1)


def _differences(z: torch.Tensor) -> torch.Tensor:
    """(2,n,c,h,w): below minus it, right minus it; 0 at the border."""
    out = z.new_zeros(2, *z.shape)
    torch.sub(z[:, :, 1:], z[:, :, :-1], out=out[0, :, :, :-1])
    torch.sub(z[..., 1:], z[..., :-1], out=out[1, ..., :-1])
    return out


def _adjoint(p: torch.Tensor) -> torch.Tensor:
    """What makes <p, differences of z> = <adjoint of p, z>."""
    down, across = p
    out = torch.zeros_like(down)
    out[:, :, :-1] -= down[:, :, :-1]
    out[:, :, 1:] += down[:, :, :-1]
    out[..., :-1] -= across[..., :-1]
    out[..., 1:] += across[..., :-1]
    return out
