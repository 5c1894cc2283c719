"""What stands in for a Jacobian or a learned map in a detector's view, and says nothing of the
image: controls of JSD and SPD.
"""

import numpy as np
import torch
from torch import nn

from nbutils.detectors.views import jacobian

BANK = 512  # Jacobians that stand in for an image's own


class Bank(nn.Module):
    """Stand-ins for what is stacked onto an image: one of `bank` (m,c,h,w), drawn by the image's
    own bits, so neither by its batch nor its kind.
    """

    def __init__(self, bank: torch.Tensor) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits = x.detach().float().flatten(1).contiguous().view(torch.int32).long()
        odd = (
            torch.from_numpy(np.random.default_rng(11).integers(2**62, size=bits.shape[1])).to(
                x.device
            )
            * 2
            + 1
        )
        return self.bank[
            (bits * odd).sum(1).bitwise_right_shift(20) % len(self.bank)
        ]  # exact in any order: integers wrap


def bank_of(
    name: str,
    classifier: nn.Module,
    clean: torch.Tensor,
    adversarial: torch.Tensor,
    *,
    seed: int = 0,
) -> Bank:
    """The bank of a stand-in: "jsd_shuffled": Jacobians of as many clean as adversarial images, up
    to BANK; "jsd_random": noise instead.
    """
    both = torch.cat(
        [
            part[torch.linspace(0, len(part) - 1, min(len(part), BANK // 2)).long()]
            for part in (clean, adversarial)
        ]
    )
    if name == "jsd_random":
        return Bank(
            torch.from_numpy(
                np.random.default_rng([seed, 10]).standard_normal(both.shape, np.float32)
            ).to(both.device)
        )
    return Bank(torch.cat([jacobian(classifier, part) for part in both.split(64)]))


def image_and_other(bank: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for JSD: the image, and beside it what the bank gives in the Jacobian's place:
    another image's Jacobian, or noise.
    """
    return torch.cat([x, bank(x)], 1)


def shuffled_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for SPD: the map's values in another order, the same for all images, times the
    image.
    """
    maps = saliency(x)
    order = torch.randperm(maps[0].numel(), generator=torch.Generator().manual_seed(0)).to(x.device)
    return maps.flatten(1)[:, order].view_as(maps) * x


def constant_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for SPD: the map's mean in place of the map, times the image."""
    return saliency(x).mean((1, 2, 3), keepdim=True) * x


def random_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for SPD: one map of uniform noise, the same for all images, times the image."""
    return torch.rand(x.shape[2:], generator=torch.Generator().manual_seed(0)).to(x) * x
