"""Feature squeezing (Xu et al. 2018): ask the classifier again about the image with less in it."""

from functools import partial

import numpy as np
import torch
from torch.nn.functional import pad

from nbutils import InputError
from nbutils.data.images import to_levels
from nbutils.detectors.consistency import Consistency

Images = torch.Tensor


def bit_depth(x: Images, bits: int) -> Images:
    """Values rounded to 2^bits levels."""
    return to_levels(x, 2**bits)


def median(x: Images, size: int) -> Images:
    """The median of each size x size neighbourhood, channel by channel; of an even number the upper
    one, as SciPy has it (mode reflect).
    """
    if size not in (2, 3):
        raise InputError(f"The median filter's size must be 2 or 3, but is {size}.")
    h, w = x.shape[2:]
    around = pad(
        x, (1, size - 2, 1, size - 2), mode="replicate"
    )  # to reflect one pixel is to repeat it
    return (
        torch.stack([around[:, :, i : i + h, j : j + w] for i in range(size) for j in range(size)])
        .sort(0)
        .values[size * size // 2]
    )


def non_local_means(x: Images, search: int, patch: int, strength: int) -> Images:
    """OpenCV's non-local means, on 8-bit images on the CPU: an average over similar patches."""
    import cv2

    def denoise(image: np.ndarray) -> np.ndarray:
        if image.shape[2] == 1:
            return cv2.fastNlMeansDenoising(image[..., 0], None, strength, patch, search)[..., None]
        return cv2.fastNlMeansDenoisingColored(
            image[..., ::-1].copy(), None, strength, strength, patch, search
        )[..., ::-1]

    images = (x.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    done = torch.from_numpy(np.stack([denoise(image) for image in images]))
    return done.permute(0, 3, 1, 2).contiguous().to(x) / 255


# Xu et al.'s squeezers; non-local means "a-b-c": search window, patch, strength.
SQUEEZERS = {
    "1-bit": partial(bit_depth, bits=1),
    "2-bit": partial(bit_depth, bits=2),
    "3-bit": partial(bit_depth, bits=3),
    "4-bit": partial(bit_depth, bits=4),
    "5-bit": partial(bit_depth, bits=5),
    "6-bit": partial(bit_depth, bits=6),
    "7-bit": partial(bit_depth, bits=7),
    "8-bit": partial(bit_depth, bits=8),
    "2*2": partial(median, size=2),
    "3*3": partial(median, size=3),
    "11-3-2": partial(non_local_means, search=11, patch=3, strength=2),
    "11-3-4": partial(non_local_means, search=11, patch=3, strength=4),
    "13-3-2": partial(non_local_means, search=13, patch=3, strength=2),
    "13-3-4": partial(non_local_means, search=13, patch=3, strength=4),
}

# Their best joint sets, for grey images, small photographs and large ones.
JOINT = {
    "grey": ("1-bit", "2*2"),
    "small": ("5-bit", "2*2", "13-3-2"),
    "large": ("5-bit", "2*2", "11-3-4"),
}


class Squeezing(Consistency):
    """Flags an image whose prediction some of these squeezers change, by Xu et al.'s score.

    Args:
        squeezers: names of SQUEEZERS; none: the joint set for pictures of this kind (JOINT).
    """

    def __init__(self, classifier: torch.nn.Module, *, squeezers: tuple[str, ...] = ()) -> None:
        super().__init__(classifier)
        self.squeezers = squeezers

    def modified(self, x: Images) -> list[Images]:
        return [SQUEEZERS[name](x) for name in self.squeezers or JOINT[kind_of(x)]]


def kind_of(x: Images) -> str:
    """Which joint set of squeezers is meant for pictures (n,c,h,w): "grey", "small" or "large"
    ones.
    """
    if x.shape[1] == 1:
        return "grey"
    return "large" if min(x.shape[2:]) > 100 else "small"
