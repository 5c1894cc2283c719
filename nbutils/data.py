"""Data sets: uint8 images with labels and source numbers, split once by seed, disjoint by source image."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from nbutils import InputError, sources


@dataclass(frozen=True)
class Images:
    """Images of one split: `x` uint8 (n,c,h,w), `y` int64 (n,), `index` int64 (n,): the number of the source image in the data set."""

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
    """A data set in three splits: `train` fits classifiers and detectors, `calibrate` fixes thresholds, `test` measures."""

    name: str
    classes: list[str]
    train: Images
    calibrate: Images
    test: Images

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.test.x.shape[1:])


def to_float(x: torch.Tensor) -> torch.Tensor:
    """uint8 images to float32 in [0,1], the same bits on every device (CUDA divides by a Python number inexactly); floats pass unchanged."""
    return x.float().div_(torch.full((1,), 255.0, device=x.device)) if x.dtype == torch.uint8 else x


def load(name: str, *, seed: int = 0, train: int = 0, calibrate: int = 200, test: int = 0, root: Path | str = "data",
         device: torch.device | str = "cpu") -> Dataset:
    """A data set by its name, split by `seed`.

    Args:
        root: the folder that holds MNIST/, cifar-10-batches-py/, cats_dogs/; for "folder", the one with train/ and test/.
        train, test: images to keep of each split (0: all); they are a random choice, so the first n rows of a split are one too.
        calibrate: clean images held back from training, for thresholds.
    Raises:
        InputError: an unknown name, files that are missing or damaged, or more images asked for than there are.
    """
    if name not in DATASETS:
        raise InputError(f"DATASET {name!r} is unknown: choose one of {', '.join(DATASETS)}.")
    return _split(name, *DATASETS[name](Path(root)), seed, train, calibrate, test, device)


def _split(name: str, classes: list[str], fit: Images, held: Images | None, seed: int, train: int, calibrate: int, test: int,
           device: torch.device | str) -> Dataset:
    """Shuffle by seed; where a data set has no test part of its own (`held` is None), a quarter of the images becomes it."""
    fit = fit[torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(fit)))]
    if held is None:
        n = len(fit) // 4
        held, fit = fit[:n], fit[n:]
    else:
        held = held[torch.from_numpy(np.random.default_rng([seed, 2]).permutation(len(held)))]
    for what, asked, there in (("calibrate and train", calibrate + max(train, 1), len(fit)), ("test", test, len(held))):
        if asked > there:
            raise InputError(f"{name} has {there} images for {what}, but {asked} are asked for: lower the counts of the preset.")
    parts = fit[calibrate:][: train or None], fit[:calibrate], held[: test or None]
    return Dataset(name, classes, *(part.to(device) for part in parts))


def _digits(root: Path) -> tuple[list[str], Images, None]:
    """The 1,797 handwritten digits of scikit-learn (UCI, 8x8), up-scaled to 28x28x1."""
    package = importlib.util.find_spec("sklearn").submodule_search_locations[0]  # its file is read without the import, which takes 1.3 s
    source = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    small = torch.from_numpy(source[:, :64]).float().view(-1, 1, 8, 8) / 16
    x = interpolate(small, size=28, mode="bilinear", align_corners=False)
    return [str(i) for i in range(10)], _images(x, source[:, 64]), None


def _digits_rgb(root: Path) -> tuple[list[str], Images, None]:
    """The same digits at 32x32 in random ink on random paper, drawn once for all runs; ink and paper differ by .4 in brightness."""
    classes, grey, _ = _digits(root)
    alpha = interpolate(grey.pixels(), size=32, mode="bilinear", align_corners=False)
    colours = torch.stack([_ink_and_paper(np.random.default_rng([20260, i])) for i in range(len(grey))])
    ink, paper = colours[:, 0, :, None, None], colours[:, 1, :, None, None]
    return classes, _images(paper + alpha * (ink - paper), grey.y), None


def _ink_and_paper(rng: np.random.Generator) -> torch.Tensor:
    while True:
        colours = rng.random((2, 3))
        if abs(np.subtract(*(colours @ (0.299, 0.587, 0.114)))) >= 0.4:
            return torch.from_numpy(colours).float()


def _images(x: torch.Tensor, y: np.ndarray | torch.Tensor) -> Images:
    y = torch.as_tensor(y, dtype=torch.int64)
    return Images((x * 255).round().clamp(0, 255).to(torch.uint8), y, torch.arange(len(x)))


def _mnist(root: Path) -> tuple[list[str], Images, Images]:
    return [str(i) for i in range(10)], *_two_parts(sources.mnist(root, "train"), sources.mnist(root, "test"))


def _cifar10(root: Path) -> tuple[list[str], Images, Images]:
    return sources.CIFAR10_CLASSES, *_two_parts(sources.cifar10(root, "train"), sources.cifar10(root, "test"))


def _cats_dogs(root: Path) -> tuple[list[str], Images, Images]:
    """Cats and dogs (ASIRRA) at 112x112, as paper 000 has them, from class folders under cats_dogs/."""
    return _class_folders(root / "cats_dogs", 112)


def _folder(root: Path) -> tuple[list[str], Images, Images]:
    """The user's own pictures: train/<class>/* and test/<class>/* directly under the data root, cut to 64x64."""
    return _class_folders(root, 64)


def _class_folders(folder: Path, size: int) -> tuple[list[str], Images, Images]:
    if not (folder / "train").is_dir():
        raise InputError(f"{folder} has no folder train/: put pictures into train/<class>/ and test/<class>/, or set DATA_ROOT or $NBUTILS_DATA.")
    classes, *train = sources.pictures(folder / "train", size)
    _, *test = sources.pictures(folder / "test", size, classes)
    if train[0].shape[1] != test[0].shape[1]:
        train[0], test[0] = (x.expand(-1, 3, -1, -1).contiguous() for x in (train[0], test[0]))
    return classes, *_two_parts(train, test)


def _two_parts(train: Sequence[torch.Tensor], test: Sequence[torch.Tensor]) -> tuple[Images, Images]:
    """Official parts; the test images are numbered after the training images."""
    n = len(train[0])
    return Images(*train, torch.arange(n)), Images(*test, torch.arange(n, n + len(test[0])))


DATASETS: dict[str, Callable] = {
    "digits": _digits, "digits_rgb": _digits_rgb, "mnist": _mnist, "cifar10": _cifar10, "cats_dogs": _cats_dogs, "folder": _folder,
}
