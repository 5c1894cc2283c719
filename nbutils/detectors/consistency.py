"""Detectors that modify the image and ask the classifier again; among them Grad-CAM consistency
(paper 003).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from nbutils import InputError
from nbutils.detectors.base import Detector
from nbutils.saliency.grad_cam import grad_cam
from nbutils.saliency.maps import between_0_and_1

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
            colour = colour + (maps - places[i - 1]).clamp(0, places[i] - places[i - 1]) * (
                values[i] - values[i - 1]
            ) / (places[i] - places[i - 1])
        colours.append(colour)
    return torch.cat(colours, 1)


# How the map is laid onto the image (methods of overlay differ; paper 003 does not say which):
# image, map, proportion theta -> image.
def overlay(x: Images, maps: Images, theta: float) -> Images:
    """The map's colours added, theta of them."""
    return (x + theta * jet(maps)).clamp(0, 1)


def overlay_bgr(x: Images, maps: Images, theta: float) -> Images:
    """As `overlay`, with red and blue of the colours exchanged, as OpenCV's users get them."""
    return (x + theta * jet(maps).flip(1)).clamp(0, 1)


def grey(x: Images, maps: Images, theta: float) -> Images:
    """The map added as brightness."""
    return (x + theta * maps).clamp(0, 1)


def blend(x: Images, maps: Images, theta: float) -> Images:
    """A mixture of image and the map's colours."""
    return (1 - theta) * x + theta * jet(maps)


def multiply(x: Images, maps: Images, theta: float) -> Images:
    """The image brightened where the map is."""
    return (x * (1 + theta * maps)).clamp(0, 1)


EMPHASES = {
    "overlay": overlay,
    "overlay_bgr": overlay_bgr,
    "grey": grey,
    "blend": blend,
    "multiply": multiply,
}


# Paper 003's additional noise: image, the training images' mean a channel (1,c,1,1) -> input of the
# classifier, not clipped. Its "zero mean" in four readings; "darker" is the control.
def untouched(x: Images, mean: Images) -> Images:
    """The image itself."""
    return x


def colour_reversing(x: Images, mean: Images) -> Images:
    """The channels in reverse order."""
    return x.flip(1)


def zero_mean(x: Images, mean: Images) -> Images:
    """Less the training images' mean of each channel."""
    return x - mean


def zero_mean_image(x: Images, mean: Images) -> Images:
    """Less the image's own mean of each channel."""
    return x - x.mean((2, 3), keepdim=True)


def zero_mean_brightness(x: Images, mean: Images) -> Images:
    """Less the image's own mean of all values."""
    return x - x.mean((1, 2, 3), keepdim=True)


def zero_mean_undone(x: Images, mean: Images) -> Images:
    """Plus the training images' mean: for a network that subtracts it itself."""
    return x + mean


def darker(x: Images, mean: Images) -> Images:
    """One shift of that size for all values: what any loss of brightness does."""
    return x - mean.mean()


TRANSFORMS = {
    "none": untouched,
    "colour_reversing": colour_reversing,
    "zero_mean": zero_mean,
    "zero_mean_image": zero_mean_image,
    "zero_mean_brightness": zero_mean_brightness,
    "zero_mean_undone": zero_mean_undone,
    "darker": darker,
}


def emphasised(
    x: Images,
    maps: Images,
    mean: Images,
    *,
    theta: float,
    transform: str = "none",
    emphasis: str = "overlay",
    transform_first: bool = False,
) -> Images:
    """The image that paper 003 asks the classifier about: x with its map laid on, and transformed.

    Args:
        maps: (n,1,h,w) in [0,1]. mean: (1,c,1,1).
        transform_first: the map is laid onto the transformed image, not the transformation applied
            to both.
    """
    lay, change = EMPHASES[emphasis], TRANSFORMS[transform]
    return (
        lay(change(x, mean), maps, theta) if transform_first else change(lay(x, maps, theta), mean)
    )


# Maps that say nothing of their images: maps (n,1,h,w), seed -> maps.
def shuffled(maps: Images, seed: int) -> Images:
    """The map of the image before."""
    return maps.roll(1, 0)


def smooth_noise(maps: Images, seed: int) -> Images:
    """Smooth noise between 0 and 1, drawn from the seed."""
    drawn = np.random.default_rng([seed, 12]).random((len(maps), 1, 7, 7), np.float32)
    coarse = torch.from_numpy(drawn).to(maps)
    return between_0_and_1(interpolate(coarse, maps.shape[2:], mode="bilinear"))


def uniform(maps: Images, seed: int) -> Images:
    """Each map's mean everywhere."""
    return maps.mean((1, 2, 3), keepdim=True).expand_as(maps)


OTHER_MAPS = {"shuffled": shuffled, "random": smooth_noise, "uniform": uniform}


@torch.no_grad()
def ask(
    model: nn.Module,
    x: Images,
    modifications: Sequence[Callable[[Images, slice], Images]],
    *,
    batch: int = 64,
) -> tuple[Images, Images]:
    """How much each of g modifications of the images changes the prediction.

    Args:
        modifications: (images of a batch, their rows) -> as many images.
    Returns:
        L1 distance between the softmaxes (g,n), in [0,2], and the label of the modified image
        (g,n).
    """
    far, label = (
        torch.empty(len(modifications), len(x), dtype=kind, device=x.device)
        for kind in (torch.float32, torch.long)
    )
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        before = model(x[rows]).softmax(1)
        for i, modify in enumerate(modifications):
            after = model(modify(x[rows], rows)).softmax(1)
            far[i, rows], label[i, rows] = (after - before).abs().sum(1), after.argmax(1)
    return far, label


class Consistency(Detector):
    """Flags an image whose prediction a modification changes.

    The score is the largest L1 distance between the softmaxes, in [0,2] (Xu et al. 2018). Until it
    is calibrated, `decide` is paper 003's rule: some modification changes the label. Subclasses
    give `modified`.
    """

    differentiable = False

    def modified(self, x: Images) -> list[Images]:
        """The images (n,c,h,w) after each modification."""
        raise NotImplementedError

    def score(self, x: Images, viewed: Images | None = None) -> Images:
        return self._asked(x)[0].amax(0)

    def decide(self, x: Images) -> torch.Tensor:
        if self.threshold is not None:
            return super().decide(x)
        with torch.no_grad():
            return (self._asked(x)[1] != self.classifier(x).argmax(1)).any(0)

    def _asked(self, x: Images) -> tuple[Images, Images]:
        changed = self.modified(x)
        return ask(self.classifier, x, [lambda _, rows, z=z: z[rows] for z in changed])


class GradCamConsistency(Consistency):
    """Paper 003: the image with its Grad-CAM map laid on, and transformed, must be read as before.

    Args:
        theta: proportion of the map (0: the transformation alone). transform, emphasis: names of
            TRANSFORMS and EMPHASES.
        mean: (1,c,1,1) of the training images. layer: Grad-CAM's ("": the last picture of the
            network).
    Raises:
        InputError: grey images, where the map's colours or their order are asked for.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        mean: Images,
        layer: str = "",
        theta: float = 0.2,
        transform: str = "none",
        emphasis: str = "overlay",
    ) -> None:
        super().__init__(classifier)
        self.mean, self.layer = mean, layer
        self.theta, self.transform, self.emphasis = theta, transform, emphasis

    def modified(self, x: Images) -> list[Images]:
        if x.shape[1] != 3:
            raise InputError(
                "Paper 003's detector lays colours on a picture, and these are grey: ink them "
                "first."
            )
        if not self.theta:
            return [TRANSFORMS[self.transform](x, self.mean)]
        maps = between_0_and_1(grad_cam(self.classifier, x, layer=self.layer))
        knobs = {"theta": self.theta, "transform": self.transform, "emphasis": self.emphasis}
        return [emphasised(x, maps, self.mean, **knobs)]
