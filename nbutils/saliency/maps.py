"""What is done with maps of any kind: in batches, scaled, replaced by maps that say nothing,
judged.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nbutils.saliency.masks import masked


@torch.no_grad()
def in_batches(
    function: Callable[..., torch.Tensor],
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    batch: int = 256,
) -> torch.Tensor:
    """`function(model, x, labels)` in batches, without a graph."""
    parts = [
        function(model, x[i : i + batch], None if labels is None else labels[i : i + batch])
        for i in range(0, len(x), batch)
    ]
    return torch.cat([part.detach() for part in parts])


def normalised(maps: torch.Tensor) -> torch.Tensor:
    """Each map divided by its own largest size; a map of zeros stays one."""
    return (
        maps
        / maps.abs().flatten(1).amax(1).clamp_min(torch.finfo(maps.dtype).tiny)[:, None, None, None]
    )


def between_0_and_1(maps: torch.Tensor) -> torch.Tensor:
    """Each map (n,1,h,w) from its smallest value, 0, to its largest, 1; a constant map becomes
    zeros.
    """
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def uninformed(maps: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """Masks of the same area that say nothing of the image: a `centred` disc, the map of the image
    before (`other`), the map's own values in another order (`shuffled`), its mean everywhere
    (`constant`).
    """
    n, _, h, w = maps.shape
    rows, columns = torch.meshgrid(
        torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij"
    )
    rank = (rows**2 + columns**2).flatten().argsort().argsort().to(maps.device)
    area = (maps.mean((1, 2, 3)) * h * w).round()
    order = torch.from_numpy(
        np.random.default_rng([seed, 11]).permuted(np.tile(np.arange(h * w), (n, 1)), axis=1)
    ).to(maps.device)
    return {
        "centred": (rank < area[:, None]).to(maps.dtype).view_as(maps),
        "other": maps.roll(1, 0),
        "shuffled": maps.flatten(1).gather(1, order).view_as(maps),
        "constant": maps.mean((2, 3), keepdim=True).expand_as(maps),
    }


@torch.no_grad()
def quality(
    classifier: nn.Module, x: torch.Tensor, maps: torch.Tensor, *, seed: int = 0, batch: int = 256
) -> dict[str, float]:
    """What clean images say of maps (n,1,h,w) in [0,1]: mean `area`, and the shares of images whose
    prediction is `preserved` where only what the map shows is left, and is still there where that
    is taken away (`destroyed`: lower is better).
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    kept, left = [], []
    for images, mask in zip(x.split(batch), maps.split(batch), strict=True):
        shown, hidden = masked(images, mask, generator)
        before = classifier(images).argmax(1)
        kept.append(classifier(shown).argmax(1) == before)
        left.append(classifier(hidden).argmax(1) == before)
    return {
        "area": maps.mean().item(),
        "preserved": torch.cat(kept).float().mean().item(),
        "destroyed": torch.cat(left).float().mean().item(),
    }
