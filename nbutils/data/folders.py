"""Class folders of pictures: cats and dogs, classes of ILSVRC, the user's own."""

import hashlib
import json
import logging
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import torch

from nbutils import InputError
from nbutils.data import sources
from nbutils.data.images import Images, two_parts
from nbutils.resources import resource

log = logging.getLogger("nbutils")

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
    """train/ and test/ of `folder`; without a train/ there are no images to fit.

    What is there but not read, or read only once, is logged by count before anything is made of it.

    Raises:
        InputError: what `sources.listed` and `sources.pictures` refuse, classes that differ between
            the parts, or one picture in both parts or in two classes.
    """
    if not (folder / "test").is_dir():
        lacks = f"{folder} has no folder test/" if folder.is_dir() else f"No folder {folder}"
        raise InputError(
            f"{lacks}: put pictures into train/<class>/ and test/<class>/, "
            "or set DATA_ROOT or $NBUTILS_DATA."
        )
    parts = [part for part in ("train", "test") if (folder / part).is_dir()]
    listed = {part: sources.listed(folder / part, classes) for part in parts}
    names, found = listed[parts[0]][0], listed["test"][0]
    if found != names:
        raise InputError(
            f"The classes of {folder / 'test'} ({', '.join(found)}) are not those of the training "
            f"part ({', '.join(names)})."
        )
    for *_, note in listed.values():
        if note:
            log.warning(note)
    read, first = {}, {}
    for part, (_, files, _) in listed.items():
        paths = [path for path, _ in files]
        x, several = sources.pictures(paths, size)
        if several:
            log.warning(f"{several} pictures of {folder / part} hold several frames: one is read.")
        kept = _once(folder, part, x, files, first)
        if len(kept) < len(files):
            copies = len(files) - len(kept)
            log.warning(f"{copies} pictures of {folder / part} are copies of others: left out.")
        read[part] = [x[kept], torch.tensor([files[i][1] for i in kept])]
    if "train" not in read:
        return names, *two_parts([part[:0] for part in read["test"]], read["test"])
    channels = max(x.shape[1] for x, _ in read.values())
    for both in read.values():
        both[0] = both[0].expand(-1, channels, -1, -1).contiguous()
    return names, *two_parts(read["train"], read["test"])


def _once(
    folder: Path, part: str, x: torch.Tensor, files: list[tuple[Path, int]], first: dict
) -> list[int]:
    """The rows of a part that are no copies, pixel by pixel, of others of their class in it.

    Args:
        first: by what is seen, the part, file and label under which it was first found; filled.
    Raises:
        InputError: a picture stands in another part, or in another class, too: what is measured on
            it was learned by heart, or one of its labels is wrong.
    """
    kept, apart = [], []
    for row, (image, (path, label)) in enumerate(zip(x, files, strict=True)):
        grey = image.shape[0] == 1
        seen = hashlib.sha256(
            image.expand(3, -1, -1).contiguous().numpy() if grey else image.numpy()
        )
        other = first.setdefault(seen.digest(), (part, path, label))
        if other == (part, path, label):
            kept.append(row)
        elif (other[0], other[2]) != (part, label):
            apart.append(f"{path.relative_to(folder)} is {other[1].relative_to(folder)}")
    if apart:
        several = f"{len(apart)} pictures stand" if len(apart) > 1 else "One picture stands"
        raise InputError(
            f"{several} in two parts or two classes of {folder} ({', '.join(apart[:3])}"
            f"{', ...' if apart[3:] else ''}): keep each in one place."
        )
    return kept
