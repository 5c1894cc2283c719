"""Images with labels and source numbers, and a data set in its three splits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Images:
    """Images of one split: `x` uint8 (n,c,h,w), `y` int64 (n,), `index` int64 (n,): the number of
    the source image in the data set.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | torch.Tensor) -> "Images":
        return Images(self.x[rows], self.y[rows], self.index[rows])

    def pixels(self) -> torch.Tensor:
        """The images as float32 in [0,1]."""
        return to_float(self.x)

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.x.to(device), self.y.to(device), self.index.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in three splits: `train` fits classifiers and detectors, `calibrate` fixes
    thresholds, `test` measures.

    Where there are only pictures to test on, the other two are empty. `positions`: those of the
    classes among the 1000 of ILSVRC, if they are.
    """

    name: str
    classes: list[str]
    train: Images
    calibrate: Images
    test: Images
    positions: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.test.x.shape[1:])


def to_float(x: torch.Tensor) -> torch.Tensor:
    """uint8 images to float32 in [0,1], the same bits on every device (CUDA divides by a Python
    number inexactly); floats pass unchanged.
    """
    return x.float().div_(torch.full((1,), 255.0, device=x.device)) if x.dtype == torch.uint8 else x


def to_levels(x: torch.Tensor, levels: int = 256) -> torch.Tensor:
    """Images in [0,1] as a picture of so many levels stores them (256: 8 bits): the nearest k /
    (levels - 1), the same bits on every device and as `to_float` reads them.
    """
    last = torch.full((1,), levels - 1.0, device=x.device, dtype=x.dtype)
    return (x * (levels - 1)).round_().div_(last)


def two_parts(train: Sequence[torch.Tensor], test: Sequence[torch.Tensor]) -> tuple[Images, Images]:
    """Official parts; the test images are numbered after the training images."""
    n = len(train[0])
    return Images(*train, torch.arange(n)), Images(*test, torch.arange(n, n + len(test[0])))
