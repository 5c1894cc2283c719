"""GCD's rectifier (paper 004, 3.2): pixels that the detector's gradient points at are replaced by
noise.

Rectifiers of this kind read the images through a fitted GCD.
"""

import numpy as np
import torch

from nbutils import InputError
from nbutils.detectors.gcd import GCD
from nbutils.rectifiers.contract import numbers_of

REPLACED = 0.5  # chance that a suspect pixel is replaced; the paper does not say
# Paper 004, 4.3: alpha of untargeted and of targeted attacks.
ALPHAS = {"grey": (0.55, 0.6), "colour": (0.65, 0.7), "photograph": (0.45, 0.35)}


def detector_gradient(detector: GCD, x: torch.Tensor, *, to_image: bool = False) -> torch.Tensor:
    """(n,1,h,w): how strongly each pixel moves the half of GCD that decides, the largest of its
    channels.

    The paper's loss is the cross-entropy of the detector's own decision. Its gradient is that of
    the logit times one number an image, which no mask below depends on and which rounds to zero
    where the detector is sure: so the logit is derived.

    Args:
        to_image: of the half on the input sensitivity, derive to the image and not to its map, by
            double backpropagation.
    """
    return torch.cat([_gradient(detector, part, to_image) for part in x.split(256)])


def _gradient(detector: GCD, x: torch.Tensor, to_image: bool) -> torch.Tensor:
    pixels, sensitivity = detector.halves
    if pixels.net is None:
        raise InputError("This detector is not fitted yet: call fit, or load one.")
    image = x.detach().clone().requires_grad_()
    by_pixels = pixels.score(image)
    found = [torch.autograd.grad(by_pixels.sum(), image)[0]]
    if to_image:
        seen = image
        by_map = sensitivity.score(image)
    else:
        seen = sensitivity.view_all(x).requires_grad_()
        by_map = sensitivity.score(x, seen)
    found.append(torch.autograd.grad(by_map.sum(), seen)[0])
    first, second = (gradient.abs().amax(1, keepdim=True).float() for gradient in found)
    surer = by_pixels.detach().abs() > by_map.detach().abs()
    return torch.where(surer[:, None, None, None], first, second)


def above_range(gradient: torch.Tensor, alpha: float) -> torch.Tensor:
    """Paper 004, eq 12: the pixels (n,1,h,w) bool over alpha of the way from the image's smallest
    gradient to its largest. A large alpha marks few.
    """
    low, high = gradient.amin((1, 2, 3), keepdim=True), gradient.amax((1, 2, 3), keepdim=True)
    return gradient > low + alpha * (high - low)


def largest_share(gradient: torch.Tensor, alpha: float) -> torch.Tensor:
    """Paper 004's text and figure 6: the share alpha of the pixels, those with the largest
    gradient. A large alpha marks many. Of equal ones the first in raster order.
    """
    flat = gradient.flatten(1)
    chosen = flat.argsort(dim=1, descending=True, stable=True)[:, : round(alpha * flat.shape[1])]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True)
    return mask.view(gradient.shape)


READINGS = {"range": above_range, "share": largest_share}


def as_large(mask: torch.Tensor, index: torch.Tensor, seed: int) -> torch.Tensor:
    """Random pixels, of each image exactly as many as in its mask, drawn from (seed, index)."""
    found = torch.zeros_like(mask)
    for row, (count, number) in enumerate(
        zip(mask.sum((1, 2, 3)).tolist(), index.tolist(), strict=True)
    ):
        order = np.random.default_rng([seed, 11, number]).permutation(mask[0].numel())[:count]
        found[row].view(-1)[torch.from_numpy(order).to(mask.device)] = True
    return found


def draws(shape: torch.Size, index: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What `replaced` needs of chance for images (n,c,h,w), drawn from (seed, index).

    Returns:
        for each pixel a number in [0,1) (n,1,h,w), and for each value one from the standard normal
        distribution (n,c,h,w).
    """
    chance, normal = np.empty((shape[0], 1, *shape[2:])), np.empty(shape, np.float32)
    for row, number in enumerate(index.tolist()):
        rng = np.random.default_rng([seed, 12, number])
        chance[row] = rng.random(chance[row].shape)
        normal[row] = rng.standard_normal(normal[row].shape, np.float32)
    return torch.from_numpy(chance), torch.from_numpy(normal)


def replaced(
    x: torch.Tensor,
    mask: torch.Tensor,
    drawn: tuple[torch.Tensor, torch.Tensor],
    share: float = REPLACED,
) -> torch.Tensor:
    """Paper 004, eq 13: each pixel of the mask, with the chance `share`, becomes a draw from the
    normal distribution with the mean and the deviation of its image, drawn anew in each channel.

    The paper's whole numbers from 0 to 255 are numbers in [0,1] here.

    Args:
        drawn: of `draws`.
    """
    chance, normal = (part.to(x.device) for part in drawn)
    flat = x.flatten(1).double()
    mean, deviation = (
        part[:, None, None, None].to(x) for part in (flat.mean(1), flat.std(1, correction=0))
    )
    noise = (mean + deviation * normal.to(x)).clamp(0, 1)
    return torch.where(mask & (chance < share), noise, x)


def rectify(
    x: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    seed: int = 0,
    through: GCD | None = None,
    alpha: float = ALPHAS["colour"][0],
    reading: str = "range",
    guided: bool = True,
    to_image: bool = False,
    gradient: torch.Tensor | None = None,
    drawn: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Images (n,c,h,w) with the suspect pixels replaced.

    Args:
        through: the fitted detector.
        alpha, reading: which pixels are suspect, by one of READINGS.
        guided: or as many pixels at random, the control.
        to_image: as of `detector_gradient`.
        gradient: what `detector_gradient` gave for the images, where it is known.
        drawn: what `draws` gave for them, where it is known.
    Raises:
        InputError: no detector, or an alpha outside [0,1].
    """
    index = torch.tensor(numbers_of(x, index))
    mask = masked(
        x,
        index=index,
        seed=seed,
        through=through,
        alpha=alpha,
        reading=reading,
        guided=guided,
        to_image=to_image,
        gradient=gradient,
    )
    return replaced(x, mask, draws(x.shape, index, seed) if drawn is None else drawn)


def masked(
    x: torch.Tensor,
    *,
    index: torch.Tensor,
    seed: int = 0,
    through: GCD | None = None,
    alpha: float,
    reading: str = "range",
    guided: bool = True,
    to_image: bool = False,
    gradient: torch.Tensor | None = None,
) -> torch.Tensor:
    """The suspect pixels (n,1,h,w) bool; arguments as of `rectify`."""
    if gradient is None and not isinstance(through, GCD):
        raise InputError("GCD's rectifier reads the gradient of a fitted GCD: hand over `through`.")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must lie in [0,1], but is {alpha}.")
    if reading not in READINGS:
        raise InputError(
            f"reading {reading!r} of alpha is unknown: choose one of {', '.join(READINGS)}."
        )
    if gradient is None:
        gradient = detector_gradient(through, x, to_image=to_image)
    mask = READINGS[reading](gradient, alpha)
    return mask if guided else as_large(mask, index, seed)
