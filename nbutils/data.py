"""Data sets: uint8 images with labels and source numbers, split once by seed, disjoint by source image."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
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
    """A data set in three splits: `train` fits classifiers and detectors, `calibrate` fixes thresholds, `test` measures.

    Where there are only pictures to test on, the other two are empty. `positions`: those of the classes among the 1000 of ILSVRC, if they are.
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
    """uint8 images to float32 in [0,1], the same bits on every device (CUDA divides by a Python number inexactly); floats pass unchanged."""
    return x.float().div_(torch.full((1,), 255.0, device=x.device)) if x.dtype == torch.uint8 else x


def load(name: str, *, seed: int = 0, train: int = 0, calibrate: int | float = 200, test: int = 0, root: Path | str = "data", source: str = "",
         classes: Sequence[str] = (), device: torch.device | str = "cpu") -> Dataset:
    """A data set by its name, split by `seed`.

    Args:
        root: the folder that holds MNIST/, cifar-10-batches-py/, cats_dogs/, imagenette/; for "folder", the one with train/ and test/.
        train, test: images to keep of each split (0: all); they are a random choice, so the first n rows of a split are one too.
        calibrate: clean images held back from training, for thresholds; below 1 a share of them.
        source, classes: of "imagenet_subset", see `_imagenet_subset`.
    Raises:
        InputError: an unknown name, files that are missing or damaged, or more images asked for than there are.
    """
    if name not in DATASETS:
        raise InputError(f"DATASET {name!r} is unknown: choose one of {', '.join(DATASETS)}.")
    if name == "imagenet_subset":
        names, fit, held = _imagenet_subset(Path(root), source, classes)
        positions = tuple(row[1] for row in ilsvrc()).index
    else:
        names, fit, held = DATASETS[name](Path(root))
    parts = _split(name, fit, held, seed, train, calibrate, test)
    return Dataset(name, names, *(part.to(device) for part in parts), tuple(map(positions, names)) if name == "imagenet_subset" else ())


def _split(name: str, fit: Images, held: Images | None, seed: int, train: int, calibrate: int | float,
           test: int) -> tuple[Images, Images, Images]:
    """Shuffle by seed; where a data set has no test part of its own (`held` is None), a quarter of the images becomes it."""
    fit = fit[torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(fit)))]
    if held is None:
        n = len(fit) // 4
        held, fit = fit[:n], fit[n:]
    else:
        held = held[torch.from_numpy(np.random.default_rng([seed, 2]).permutation(len(held)))]
    if 0 < calibrate < 1:
        calibrate = max(1, round(calibrate * len(fit)))
    if name in ("imagenet_subset", "folder"):  # the user's choice of pictures: there may be few
        test = min(test, len(held))
    for what, asked, there in (("calibrate and train", calibrate + max(train, 1), len(fit)), ("test", test, len(held))):
        if asked > there > 0:
            raise InputError(f"{name} has {there} images for {what}, but {asked} are asked for: lower the counts of the preset.")
    return fit[calibrate:][: train or None], fit[:calibrate], held[: test or None]
def _digits(root: Path) -> tuple[list[str], Images, None]:
    """The 1,797 handwritten digits of scikit-learn (UCI, 8x8), up-scaled to 28x28x1."""
    package = importlib.util.find_spec("sklearn").submodule_search_locations[0]  # its file is read without the import, which takes 1.3 s
    source = np.loadtxt(Path(package) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    small = torch.from_numpy(source[:, :64]).float().view(-1, 1, 8, 8) / 16
    x = interpolate(small, size=28, mode="bilinear", align_corners=False)
    return [str(i) for i in range(10)], _images(x, source[:, 64]), None


def _digits_rgb(root: Path) -> tuple[list[str], Images, None]:
    """The same digits in colour."""
    classes, grey, _ = _digits(root)
    return classes, _inked(grey), None


def _mnist_rgb(root: Path) -> tuple[list[str], Images, Images]:
    """MNIST in colour."""
    classes, fit, held = _mnist(root)
    return classes, _inked(fit), _inked(held)


def _inked(grey: Images) -> Images:
    """Grey images at 32x32 in random ink on random paper, drawn once for all runs; ink and paper differ by .4 in brightness."""
    parts = []
    for part, numbers in zip(grey.x.split(4096), grey.index.split(4096), strict=True):
        alpha = interpolate(to_float(part), size=32, mode="bilinear", align_corners=False)
        colours = torch.stack([_ink_and_paper(np.random.default_rng([20260, i])) for i in numbers.tolist()])
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


def _imagenet_subset(root: Path, source: str = "", classes: Sequence[str] = ()) -> tuple[list[str], Images, Images]:
    """Pictures of some of ILSVRC's 1000 classes at 224x224, in class folders named by WordNet id.

    Args:
        source: the folder under `root` with test/<wnid>/*, and train/<wnid>/* where something is to be fitted ("": imagenette).
        classes: WordNet ids, names, or a list of CLASS_LISTS; () for every class that the folder has.
    """
    folder, table = root / (source or "imagenette"), ilsvrc()
    wanted = []
    for given in [item for name in classes for item in CLASS_LISTS.get(name, [name])]:
        found = [wnid for wnid, name in table if given in (wnid, name)]
        if not found:
            near = get_close_matches(given, [name for _, name in table] + list(CLASS_LISTS), 3)
            raise InputError(f"CLASSES holds {given!r}, which is none of ILSVRC's 1000 classes{f'; near are {near}' if near else ''}.")
        wanted += found
    wnids, fit, held = _class_folders(folder, 224, sorted(set(wanted)))
    strange = [wnid for wnid in wnids if wnid not in dict(table)]
    if strange:
        raise InputError(f"{folder} has a class folder {strange[0]!r}, which is no WordNet id of ILSVRC's 1000 classes (such as {table[0][0]}).")
    return [dict(table)[wnid] for wnid in wnids], fit, held


@cache
def ilsvrc() -> list[tuple[str, str]]:
    """WordNet id and name of ILSVRC's 1000 classes, in the order of a network's outputs."""
    return [tuple(row) for row in json.loads((Path(__file__).resolve().parent.parent / "data" / "imagenet_classes.json").read_text())]


def _class_folders(folder: Path, size: int, classes: Sequence[str] = ()) -> tuple[list[str], Images, Images]:
    """train/ and test/ of `folder`; without a train/ there are no images to fit."""
    if not (folder / "test").is_dir():
        raise InputError(f"{folder} has no folder test/: put pictures into train/<class>/ and test/<class>/, or set DATA_ROOT or $NBUTILS_DATA.")
    if not (folder / "train").is_dir():
        names, *test = sources.pictures(folder / "test", size, classes)
        return names, *_two_parts([part[:0] for part in test], test)
    names, *train = sources.pictures(folder / "train", size, classes)
    found, *test = sources.pictures(folder / "test", size, classes)
    if found != names:
        raise InputError(f"The classes of {folder / 'test'} ({', '.join(found)}) are not those of the training part ({', '.join(names)}).")
    if train[0].shape[1] != test[0].shape[1]:
        train[0], test[0] = (x.expand(-1, 3, -1, -1).contiguous() for x in (train[0], test[0]))
    return names, *_two_parts(train, test)


def _two_parts(train: Sequence[torch.Tensor], test: Sequence[torch.Tensor]) -> tuple[Images, Images]:
    """Official parts; the test images are numbered after the training images."""
    n = len(train[0])
    return Images(*train, torch.arange(n)), Images(*test, torch.arange(n, n + len(test[0])))


DATASETS: dict[str, Callable] = {
    "digits": _digits, "digits_rgb": _digits_rgb, "mnist": _mnist, "mnist_rgb": _mnist_rgb, "cifar10": _cifar10, "cats_dogs": _cats_dogs,
    "imagenet_subset": _imagenet_subset, "folder": _folder,
}
IN_COLOUR = {"digits": "digits_rgb", "mnist": "mnist_rgb"}  # for the questions that grey images do not answer

# Ready lists for CLASSES. 002's ten hold "plant", which is no class of ILSVRC: "pot" (a flower pot) stands in; its keyboard is the computer's.
CLASS_LISTS = {
    "imagenette": ["tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck", "gas pump", "golf ball",
                   "parachute"],
    "zhang": ["mongoose", "pot", "yawl", "timber wolf", "dugong", "hammer", "sunglasses", "computer keyboard", "triumphal arch", "mushroom"],
}
