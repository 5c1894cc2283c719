"""What all rectifiers have in common: the images that they take, and their numbers."""

import torch

from nbutils import InputError


def numbers_of(x: torch.Tensor, index: torch.Tensor | None) -> list[int]:
    """The images' numbers in the data set; none given: their places.

    Raises:
        InputError: x is no batch of float images in [0,1], or there is not one number an image.
    """
    if not x.is_floating_point() or x.dim() != 4:
        raise InputError(
            f"x must be float images (n,c,h,w), but is {x.dtype} of shape {tuple(x.shape)}."
        )
    low, high = (x.min().item(), x.max().item()) if x.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"x must lie in [0,1] but reaches from {low:.3g} to {high:.3g}: rectifiers take "
            "un-normalised images."
        )
    if index is not None and index.shape != (len(x),):
        raise InputError(
            f"index must number {len(x)} images, but is of shape {tuple(index.shape)}."
        )
    return list(range(len(x))) if index is None else index.tolist()
