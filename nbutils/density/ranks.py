"""Where an image's bits per dimension stand among those of clean images (Song et al. 2018,
"PixelDefend")."""

import torch

from nbutils import InputError


def p_values(bits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(n,) of `bits` (n,): the share of clean images that are as unlikely or more,
    (1 + #{reference >= bits}) / (N + 1); small = suspicious.

    They are uniform where the images are of the reference's kind.
    """
    ordered = _ordered(reference)
    less = torch.searchsorted(ordered, bits.to(ordered).contiguous())
    return (1.0 + len(ordered) - less) / (len(ordered) + 1)


def ranks(bits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(n,) in (0,1), rising with `bits` (n,): 1 - p, made continuous.

    Between two of the reference's N values it is interpolated; beyond them it goes on towards 0 and
    1, ever slower, on the scale of their deviation. So no two images tie that differ, and it can be
    derived to the image.
    """
    ordered = _ordered(reference)
    n, bits = len(ordered), bits.to(ordered)
    place = torch.searchsorted(ordered, bits.detach().contiguous()).clamp(1, n - 1)
    low, high = ordered[place - 1], ordered[place]
    inside = (place + (bits - low) / (high - low).clamp_min(1e-12)) / (n + 1)
    spread = ordered.std().clamp_min(1e-12)
    below = 1 / (1 + (ordered[0] - bits).clamp_min(0) / spread) / (n + 1)
    above = 1 - 1 / (1 + (bits - ordered[-1]).clamp_min(0) / spread) / (n + 1)
    return torch.where(bits < ordered[0], below, torch.where(bits > ordered[-1], above, inside))


def same_distribution(bits: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Whether the p-values of clean `bits` (n,) are uniform, as they are where the reference is of
    their kind: a reference of training images is not, if the density knows them by heart.

    Returns:
        `ks`, the largest distance of the two distribution functions (Kolmogorov-Smirnov), and
        `ks_p`, the chance of one as large if they are the same.
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(bits.cpu().numpy(), reference.cpu().numpy())
    return {"ks": float(found.statistic), "ks_p": float(found.pvalue)}


def _ordered(reference: torch.Tensor) -> torch.Tensor:
    if len(reference) < 2:
        raise InputError(
            f"p-values need the bits of at least 2 clean images, but there are {len(reference)}."
        )
    return reference.double().sort().values
