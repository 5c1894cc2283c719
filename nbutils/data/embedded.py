"""Data sets that come inside a package: handwritten digits, grey and in colour; and the ink for
other grey images.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from nbutils.data.images import Images, to_float


def digits(root: Path) -> tuple[list[str], Images, None]:
    """The 1,797 handwritten digits of scikit-learn (UCI, 8x8), up-scaled to 28x28x1."""
    package = importlib.util.find_spec("sklearn").submodule_search_locations[
        0
    ]  # its file is read without the import, which takes 1.3 s
    source = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    small = torch.from_numpy(source[:, :64]).float().view(-1, 1, 8, 8) / 16
    x = interpolate(small, size=28, mode="bilinear", align_corners=False)
    return [str(i) for i in range(10)], _images(x, source[:, 64]), None


def digits_rgb(root: Path) -> tuple[list[str], Images, None]:
    """The same digits in colour."""
    classes, grey, _ = digits(root)
    return classes, inked(grey), None


def inked(grey: Images) -> Images:
    """Grey images at 32x32 in random ink on random paper, drawn once for all runs; ink and paper
    differ by .4 in brightness.
    """
    parts = []
    for part, numbers in zip(grey.x.split(4096), grey.index.split(4096), strict=True):
        alpha = interpolate(to_float(part), size=32, mode="bilinear", align_corners=False)
        colours = torch.stack(
            [_ink_and_paper(np.random.default_rng([20260, i])) for i in numbers.tolist()]
        )
        ink, paper = colours[:, 0, :, None, None], colours[:, 1, :, None, None]
        parts.append(_bytes(paper + alpha * (ink - paper)))
    return Images(torch.cat(parts), grey.y, grey.index)


def _ink_and_paper(rng: np.random.Generator) -> torch.Tensor:
    while True:
        colours = rng.random((2, 3))
        if abs(np.subtract(*(colours @ (0.299, 0.587, 0.114)))) >= 0.4:
            return torch.from_numpy(colours).float()


def _images(x: torch.Tensor, y: np.ndarray | torch.Tensor) -> Images:
    return Images(_bytes(x), torch.as_tensor(y, dtype=torch.int64), torch.arange(len(x)))


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


IN_COLOUR = {
    "digits": "digits_rgb",
    "mnist": "mnist_rgb",
}  # for the questions that grey images do not answer
