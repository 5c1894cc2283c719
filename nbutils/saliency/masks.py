"""What a mask shows of an image, and what is left without it."""

import torch
from torch.nn.functional import conv2d, pad


def background(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What stands where a mask takes an image away, drawn for each: a colour with noise, or, for
    half of them, the image's own blur; black if grey.

    Source: Dabkowski and Gal 2017, whose blur (55 of 224 pixels, deviation 11) is scaled to the
    image. Differs from them: reflected borders, since black ones would darken small images whole;
    black for grey images, since a digit is read through such a blur, and black is its own ground.
    """
    n, c, h, w = x.shape
    drawn = {"generator": generator, "device": x.device}
    flat = 0.335 + 0.33 * torch.rand(n, c, 1, 1, **drawn) + 0.055 * torch.randn(x.shape, **drawn)
    other = torch.zeros_like(x)
    if c > 1:
        sigma = 11 / 224 * max(h, w)
        side = min(round(2.5 * sigma), min(h, w) - 1)
        line = torch.exp(
            -(torch.arange(-side, side + 1, device=x.device, dtype=x.dtype) ** 2) / (2 * sigma**2)
        )
        line = (line / line.sum()).expand(c, 1, 1, -1)
        rows = conv2d(pad(x, (side, side, 0, 0), "reflect"), line, groups=c)
        other = conv2d(pad(rows, (0, 0, side, side), "reflect"), line.transpose(2, 3), groups=c)
    return torch.where(torch.rand(n, 1, 1, 1, **drawn) < 0.5, other, flat)


def masked(
    x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the mask shows and what is left without it, 000's phi(x, m) and phi(x, 1-m): before one
    background, the image with a little noise.
    """
    ground = background(x, generator)
    noisy = x + 0.015 * torch.randn(x.shape, generator=generator, device=x.device)
    return mask * noisy + (1 - mask) * ground, (1 - mask) * noisy + mask * ground
