"""Detectors that modify the image and ask the classifier again: Grad-CAM consistency (paper 003) and feature squeezing (Xu et al. 2018)."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from nbutils import InputError
from nbutils.detectors.base import Detector

Images = torch.Tensor
# matplotlib's "jet": knots (position, value) of red, green and blue, straight lines between them.
JET = (
    ((0, 0.35, 0.66, 0.89, 1), (0, 0, 1, 1, 0.5)),
    ((0, 0.125, 0.375, 0.64, 0.91, 1), (0, 0, 1, 1, 0, 0)),
    ((0, 0.11, 0.34, 0.65, 1), (0.5, 1, 1, 0, 0)),
)


def jet(maps: Images) -> Images:
    """Maps (n,1,h,w) in [0,1] as colours (n,3,h,w): 0 is dark blue, 1 is dark red."""
    colours = []
    for places, values in JET:
        colour = torch.full_like(maps, values[0])
        for i in range(1, len(places)):
            colour = colour + (maps - places[i - 1]).clamp(0, places[i] - places[i - 1]) * (values[i] - values[i - 1]) / (places[i] - places[i - 1])
        colours.append(colour)
    return torch.cat(colours, 1)


def between_0_and_1(maps: Images) -> Images:
    """Each map (n,1,h,w) from its smallest value, 0, to its largest, 1; a constant map becomes zeros."""
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


# How the map is laid onto the image (methods of overlay differ; paper 003 does not say which): image, map, proportion theta -> image.
EMPHASES: dict[str, Callable[[Images, Images, float], Images]] = {
    "overlay": lambda x, s, theta: (x + theta * jet(s)).clamp(0, 1),
    "overlay_bgr": lambda x, s, theta: (x + theta * jet(s).flip(1)).clamp(0, 1),
    "grey": lambda x, s, theta: (x + theta * s).clamp(0, 1),
    "blend": lambda x, s, theta: (1 - theta) * x + theta * jet(s),
    "multiply": lambda x, s, theta: (x * (1 + theta * s)).clamp(0, 1),
}
# Paper 003's additional noise: image, the training images' mean a channel (1,c,1,1) -> input of the classifier, not clipped. Its "zero mean" in
# four readings; "darker" is the control: one shift of that size for all values.
TRANSFORMS: dict[str, Callable[[Images, Images], Images]] = {
    "none": lambda x, mean: x,
    "colour_reversing": lambda x, mean: x.flip(1),
    "zero_mean": lambda x, mean: x - mean,
    "zero_mean_image": lambda x, mean: x - x.mean((2, 3), keepdim=True),
    "zero_mean_brightness": lambda x, mean: x - x.mean((1, 2, 3), keepdim=True),
    "zero_mean_undone": lambda x, mean: x + mean,
    "darker": lambda x, mean: x - mean.mean(),
}


def emphasised(x: Images, maps: Images, mean: Images, *, theta: float, transform: str = "none", emphasis: str = "overlay",
               transform_first: bool = False) -> Images:
    """The image that paper 003 asks the classifier about: x with its map laid on, and transformed.

    Args:
        maps: (n,1,h,w) in [0,1]. mean: (1,c,1,1).
        transform_first: the map is laid onto the transformed image, not the transformation applied to both.
    """
    lay, change = EMPHASES[emphasis], TRANSFORMS[transform]
    return lay(change(x, mean), maps, theta) if transform_first else change(lay(x, maps, theta), mean)


def _noise(maps: Images, seed: int) -> Images:
    coarse = torch.from_numpy(np.random.default_rng([seed, 12]).random((len(maps), 1, 7, 7), np.float32)).to(maps)
    return between_0_and_1(interpolate(coarse, maps.shape[2:], mode="bilinear"))


# Maps that say nothing of their images: (maps (n,1,h,w), seed) -> the map of the image before, smooth noise, each map's mean everywhere.
STAND_INS: dict[str, Callable[[Images, int], Images]] = {
    "shuffled": lambda maps, seed: maps.roll(1, 0),
    "random": _noise,
    "uniform": lambda maps, seed: maps.mean((1, 2, 3), keepdim=True).expand_as(maps),
}


def bit_depth(x: Images, bits: int) -> Images:
    """Values rounded to 2^bits levels."""
    return (x * (2**bits - 1)).round() / (2**bits - 1)


def median(x: Images, size: int) -> Images:
    """The median of each size x size neighbourhood, channel by channel; of an even number the upper one, as SciPy has it (mode reflect)."""
    if size not in (2, 3):
        raise InputError(f"The median filter's size must be 2 or 3, but is {size}.")
    h, w = x.shape[2:]
    around = pad(x, (1, size - 2, 1, size - 2), mode="replicate")  # to reflect one pixel is to repeat it
    return torch.stack([around[:, :, i:i + h, j:j + w] for i in range(size) for j in range(size)]).sort(0).values[size * size // 2]


def non_local_means(x: Images, search: int, patch: int, strength: int) -> Images:
    """OpenCV's non-local means, on 8-bit images on the CPU: an average over similar patches."""
    import cv2

    def denoise(image: np.ndarray) -> np.ndarray:
        if image.shape[2] == 1:
            return cv2.fastNlMeansDenoising(image[..., 0], None, strength, patch, search)[..., None]
        return cv2.fastNlMeansDenoisingColored(image[..., ::-1].copy(), None, strength, strength, patch, search)[..., ::-1]

    images = (x.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return torch.from_numpy(np.stack([denoise(image) for image in images])).permute(0, 3, 1, 2).to(x) / 255


# Xu et al.'s squeezers; non-local means "a-b-c": search window, patch, strength.
SQUEEZERS: dict[str, Callable[[Images], Images]] = {
    **{f"{bits}-bit": partial(bit_depth, bits=bits) for bits in range(1, 9)},
    **{f"{size}*{size}": partial(median, size=size) for size in (2, 3)},
    **{f"{a}-{b}-{c}": partial(non_local_means, search=a, patch=b, strength=c) for a in (11, 13) for b in (3,) for c in (2, 4)},
}
# Their best joint sets, for grey images, small photographs and large ones.
JOINT = {"grey": ("1-bit", "2*2"), "small": ("5-bit", "2*2", "13-3-2"), "large": ("5-bit", "2*2", "11-3-4")}


@torch.no_grad()
def ask(model: nn.Module, x: Images, modifications: Sequence[Callable[[Images, slice], Images]], *, batch: int = 64) -> tuple[Images, Images]:
    """How much each of g modifications of the images changes the prediction.

    Args:
        modifications: (images of a batch, their rows) -> as many images.
    Returns:
        L1 distance between the softmaxes (g,n), in [0,2], and the label of the modified image (g,n).
    """
    far, label = (torch.empty(len(modifications), len(x), dtype=kind, device=x.device) for kind in (torch.float32, torch.long))
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        before = model(x[rows]).softmax(1)
        for i, modify in enumerate(modifications):
            after = model(modify(x[rows], rows)).softmax(1)
            far[i, rows], label[i, rows] = (after - before).abs().sum(1), after.argmax(1)
    return far, label


class Inconsistency(Detector):
    """Flags an image whose prediction several modifications change: the score is the largest L1 distance between softmaxes (Xu et al. 2018).

    Until it is calibrated, `decide` is paper 003's rule: some modification changes the label.
    """

    differentiable = False

    def __init__(self, classifier: nn.Module, modifications: Sequence[Callable[[Images], Images]]) -> None:
        super().__init__(classifier)
        self.modifications, self.threshold = [lambda x, rows, modify=modify: modify(x) for modify in modifications], None

    def score(self, x: Images, seen: Images | None = None) -> Images:
        return ask(self.classifier, x, self.modifications)[0].amax(0)

    def decide(self, x: Images) -> torch.Tensor:
        if self.threshold is not None:
            return super().decide(x)
        with torch.no_grad():
            return (ask(self.classifier, x, self.modifications)[1] != self.classifier(x).argmax(1)).any(0)
