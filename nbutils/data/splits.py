"""A data set by its name, split once by seed, disjoint by source image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nbutils import InputError
from nbutils.data import DATASETS
from nbutils.data.folders import imagenet_subset, positions
from nbutils.data.images import Dataset, Images

CHOSEN = ("imagenet_subset", "folder")  # the user's choice of pictures: there may be few
LEAST = 2  # training images of a class: one may be taken to choose the epoch


def load(
    name: str,
    *,
    seed: int = 0,
    train: int = 0,
    calibrate: int | float = 200,
    test: int = 0,
    root: Path | str = "data",
    source: str = "",
    classes: Sequence[str] = (),
    device: torch.device | str = "cpu",
    held_back_from: str = "train",
) -> Dataset:
    """A data set by its name, split by `seed`.

    Args:
        root: the folder that holds MNIST/, cifar-10-batches-py/, cats_dogs/, imagenette/; for
            "folder", the one with train/ and test/.
        train, test: images to keep of each split (0: all); they are a random choice, so the first n
            rows of a split are one too.
        calibrate: clean images for thresholds, held back from training; below 1 a share of them.
        held_back_from: "train", for a classifier that is trained here; "test" for one that others
            have trained, on the official training part: its answers there are those of a memory.
            A third of the test images at most are held back.
        source, classes: of "imagenet_subset", see `folders.imagenet_subset`.
    Raises:
        InputError: an unknown name, files that are missing or damaged, more images asked for than
            there are, or too few of a class to train on.
    """
    if name not in DATASETS:
        raise InputError(f"DATASET {name!r} is unknown: choose one of {', '.join(DATASETS)}.")
    chosen, places = Path(root), ()
    if name == "imagenet_subset":
        names, *official = imagenet_subset(chosen, source, classes)
        places = positions(names)
    else:
        names, *official = DATASETS[name](chosen)
    parts = _split(name, *official, seed, train, calibrate, test, held_back_from)
    if name in CHOSEN and len(official[0]):
        _enough(name, names, parts, held_back_from)
    return Dataset(name, names, *(part.to(device) for part in parts), places)


def _split(
    name: str,
    first: Images,
    second: Images | None,
    seed: int,
    train: int,
    calibrate: int | float,
    test: int,
    held_back_from: str,
) -> tuple[Images, Images, Images]:
    """Shuffle by seed; where a data set has no test part of its own (`second` is None), a quarter
    of the images becomes it.
    """
    first = first[torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(first)))]
    if second is None:
        n = len(first) // 4
        second, first = first[:n], first[n:]
    else:
        order = np.random.default_rng([seed, 2]).permutation(len(second))
        second = second[torch.from_numpy(order)]
    if 0 < calibrate < 1:
        calibrate = max(1, round(calibrate * len(first if len(first) else second)))
    if held_back_from == "test":
        held = min(calibrate, len(second) // 3)
        fit, held_back, second = first, second[:held], second[held:]
        calibrate = 0
    else:
        fit, held_back = first[calibrate:], first[:calibrate]
    if name in CHOSEN:
        test = min(test, len(second))
    asked_of = (
        ("calibrate and train", calibrate + max(train, 1), len(first)),
        ("test", test, len(second)),
    )
    for what, asked, there in asked_of:
        if asked > there > 0:
            raise InputError(
                f"{name} has {there} images for {what}, but {asked} are asked for: lower the "
                "counts of the preset."
            )
    return fit[: train or None], held_back, second[: test or None]


def _enough(
    name: str, classes: Sequence[str], parts: Sequence[Images], held_back_from: str
) -> None:
    """Refuse too few training images: LEAST of each class for a classifier, LEAST in all where only
    detectors are trained on them.
    """
    fit, held_back, _ = parts
    if held_back_from == "test":
        if len(fit) < LEAST:
            raise InputError(
                f"{name} has {len(fit)} training picture, and {LEAST} are the least that a "
                "detector can be fitted on: add some to train/, or remove train/."
            )
        return
    counts = fit.y.bincount(minlength=len(classes)).tolist()
    few = [i for i, count in enumerate(counts) if count < LEAST]
    if few:
        raise InputError(
            f"{name} has {counts[few[0]]} training pictures of {classes[few[0]]!r} when "
            f"{len(held_back)} are held back to calibrate on, and a classifier needs {LEAST} of "
            f"each class: add pictures to train/ (6 of a class are a start)."
        )
