"""Class folders of pictures: cats and dogs, classes of ILSVRC, the user's own."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from nbutils import InputError
from nbutils.data import sources
from nbutils.data.images import Images, two_parts
from nbutils.resources import resource

# Ready lists for CLASSES. 002's ten hold "plant", which is no class of ILSVRC: "pot" (a flower pot)
# stands in; its keyboard is the computer's.
CLASS_LISTS = {
    "imagenette": [
        "tench",
        "English springer",
        "cassette player",
        "chain saw",
        "church",
        "French horn",
        "garbage truck",
        "gas pump",
        "golf ball",
        "parachute",
    ],
    "zhang": [
        "mongoose",
        "pot",
        "yawl",
        "timber wolf",
        "dugong",
        "hammer",
        "sunglasses",
        "computer keyboard",
        "triumphal arch",
        "mushroom",
    ],
}


def cats_dogs(root: Path) -> tuple[list[str], Images, Images]:
    """Cats and dogs (ASIRRA) at 112x112, as paper 000 has them, from class folders under
    cats_dogs/.
    """
    return class_folders(root / "cats_dogs", 112)


def folder(root: Path) -> tuple[list[str], Images, Images]:
    """The user's own pictures: train/<class>/* and test/<class>/* directly under the data root, cut
    to 64x64.
    """
    return class_folders(root, 64)


def imagenet_subset(
    root: Path, source: str = "", classes: Sequence[str] = ()
) -> tuple[list[str], Images, Images]:
    """Pictures of some of ILSVRC's 1000 classes at 224x224, in class folders named by WordNet id.

    Args:
        source: the folder under `root` with test/<wnid>/*, and train/<wnid>/* where something is to
            be fitted ("": imagenette).
        classes: WordNet ids, names, or a list of CLASS_LISTS; () for every class that the folder
            has.
    """
    folder, table = root / (source or "imagenette"), ilsvrc()
    wanted = []
    for given in [item for name in classes for item in CLASS_LISTS.get(name, [name])]:
        found = [wnid for wnid, name in table if given in (wnid, name)]
        if not found:
            near = get_close_matches(given, [name for _, name in table] + list(CLASS_LISTS), 3)
            raise InputError(
                f"CLASSES holds {given!r}, which is none of ILSVRC's 1000 "
                f"classes{f'; near are {near}' if near else ''}."
            )
        wanted += found
    wnids, train, test = class_folders(folder, 224, sorted(set(wanted)))
    strange = [wnid for wnid in wnids if wnid not in dict(table)]
    if strange:
        raise InputError(
            f"{folder} has a class folder {strange[0]!r}, which is no WordNet id of ILSVRC's 1000 "
            f"classes (such as {table[0][0]})."
        )
    return [dict(table)[wnid] for wnid in wnids], train, test


@cache
def ilsvrc() -> list[tuple[str, str]]:
    """WordNet id and name of ILSVRC's 1000 classes, in the order of a network's outputs."""
    return [
        tuple(row)
        for row in json.loads(resource("imagenet_classes.json").read_text(encoding="utf-8"))
    ]


def positions(classes: Sequence[str]) -> tuple[int, ...]:
    """The places of these classes, given by their names, in the output of a network of ILSVRC."""
    names = [name for _, name in ilsvrc()]
    return tuple(map(names.index, classes))


def class_folders(
    folder: Path, size: int, classes: Sequence[str] = ()
) -> tuple[list[str], Images, Images]:
    """train/ and test/ of `folder`; without a train/ there are no images to fit."""
    if not (folder / "test").is_dir():
        raise InputError(
            f"{folder} has no folder test/: put pictures into train/<class>/ and test/<class>/, "
            "or set DATA_ROOT or $NBUTILS_DATA."
        )
    if not (folder / "train").is_dir():
        names, *test = sources.pictures(folder / "test", size, classes)
        return names, *two_parts([part[:0] for part in test], test)
    names, *train = sources.pictures(folder / "train", size, classes)
    found, *test = sources.pictures(folder / "test", size, classes)
    if found != names:
        raise InputError(
            f"The classes of {folder / 'test'} ({', '.join(found)}) are not those of the training "
            f"part ({', '.join(names)})."
        )
    if train[0].shape[1] != test[0].shape[1]:
        train[0], test[0] = (x.expand(-1, 3, -1, -1).contiguous() for x in (train[0], test[0]))
    return names, *two_parts(train, test)
