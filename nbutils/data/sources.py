"""Readers of data sets on disk, and their download.

What is missing or damaged gets one sentence that names the file and what to do.
"""

import hashlib
import http.client
import os
import pickle
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nbutils import InputError
from nbutils.store import files

if TYPE_CHECKING:
    from PIL import Image

MNIST = {  # file: (md5 of the packed file, images or labels)
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 60_000),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", 60_000),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", 10_000),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", 10_000),
}
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CIFAR10 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_URL, CIFAR10_MD5 = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
)
CIFAR10_CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]
PICTURES = tuple(  # by ending
    ".png .jpg .jpeg .jpe .jfif .bmp .dib .gif .tif .tiff .webp .avif .jp2 .ppm .pgm .pbm".split()
)
LEFT_BEHIND = ("__MACOSX", "Thumbs.db", "desktop.ini", "__pycache__", "@eaDir", "$RECYCLE.BIN")
TIMEOUT = 20  # seconds without an answer before a download counts as impossible

Arrays = tuple[torch.Tensor, torch.Tensor]


def mnist(root: Path, split: str) -> Arrays:
    """MNIST's "train" or "test" images (n,1,28,28) and labels from the four idx files under
    MNIST/raw; downloaded when missing.
    """
    folder, part = root / "MNIST" / "raw", {"train": "train", "test": "t10k"}[split]
    for name, (md5, _) in MNIST.items():
        if not (folder / name).exists():
            import gzip

            packed = folder / f"{name}.gz"
            download(
                f"{MNIST_URL}{name}.gz",
                packed,
                md5,
                f"put the four idx files of MNIST into {folder}",
            )
            files.atomically(folder / name, gzip.decompress(packed.read_bytes()))
    x, y = idx(folder / f"{part}-images-idx3-ubyte"), idx(folder / f"{part}-labels-idx1-ubyte")
    n = MNIST[f"{part}-labels-idx1-ubyte"][1]
    if x.shape != (n, 28, 28) or y.shape != (n,):
        raise InputError(
            f"MNIST's {split} files under {folder} hold {tuple(x.shape)} images and "
            f"{tuple(y.shape)} labels, not {n}: replace them."
        )
    return x[:, None], y.long()


def idx(path: Path) -> torch.Tensor:
    """An idx file of bytes (the format of MNIST): two zeros, type 8, number of dimensions, sizes,
    values.
    """
    data = path.read_bytes()
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise InputError(f"{path} is no idx file of bytes: replace it.")
    sizes = (
        np.frombuffer(data, ">i4", data[3], 4) if len(data) >= 4 + 4 * data[3] else np.array([-1])
    )
    if len(data) - 4 - 4 * data[3] != sizes.prod():
        raise InputError(
            f"{path} is truncated or too long ({len(data):,} bytes for "
            f"{'x'.join(map(str, sizes))} values): replace it."
        )
    return torch.from_numpy(
        np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes).copy()
    )


def cifar10(root: Path, split: str) -> Arrays:
    """CIFAR-10's images (n,3,32,32) and labels from the official batches, read only when their
    checksum is the official one.
    """
    folder = root / "cifar-10-batches-py"
    if not folder.exists():
        import tarfile

        packed = root / "cifar-10-python.tar.gz"
        download(
            CIFAR10_URL,
            packed,
            CIFAR10_MD5,
            f"put CIFAR-10's python version, unpacked, into {folder}",
        )
        with tarfile.open(packed) as archive:
            archive.extractall(root, filter="data")
    xs, ys = [], []
    for name in ["test_batch"] if split == "test" else [n for n in CIFAR10 if n != "test_batch"]:
        path = folder / name
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.md5(data).hexdigest() != CIFAR10[name]:
            raise InputError(
                f"{path} is "
                f"{'damaged: its checksum is not the official one' if data else 'missing'}; "
                f"replace it, or remove {folder}."
            )
        batch = pickle.loads(data, encoding="bytes")  # the official bytes, by their checksum
        xs.append(torch.from_numpy(batch[b"data"]).view(-1, 3, 32, 32))
        ys.append(torch.tensor(batch[b"labels"]))
    return torch.cat(xs), torch.cat(ys)


def listed(
    folder: Path, classes: Sequence[str] = ()
) -> tuple[list[str], list[tuple[Path, int]], str]:
    """Class folders of pictures: names of the classes, the files to read with their labels, and a
    sentence that counts what is read and what is not, by ending ("": nothing is left out).

    What systems leave behind (hidden files and folders, __MACOSX, Thumbs.db) is neither a class nor
    a picture, and not counted.

    Args:
        classes: the folders to read, in this order (none: all of them, sorted).
    Raises:
        InputError: no folder, one that may not be read, fewer than two classes, or a class without
            pictures.
    """
    inside = _inside(folder) if folder.is_dir() else []
    there = [path.name for path in inside if path.is_dir()]
    missing = [name for name in classes if name not in there]
    if missing:
        raise InputError(
            f"{folder} has no pictures of {', '.join(missing[:3])}: the class folders there are "
            f"{', '.join(there[:10]) or 'none'}."
        )
    folders = list(classes) or there
    names = [os.fsencode(name).decode("utf-8", "replace") for name in folders]  # in any locale
    strange = [
        name for name in names if not name.isprintable() or "\N{REPLACEMENT CHARACTER}" in name
    ]
    if strange:
        raise InputError(f"{folder} has a class folder whose name cannot be shown: {strange[0]!r}.")
    if len(names) < 2:
        raise InputError(
            f"{folder} must hold one folder of pictures for each of two classes or more, but "
            f"holds {len(names)}."
        )
    found = []
    left = Counter(f"{_kind(path)} beside the class folders" for path in inside if path.is_file())
    for label, name in enumerate(folders):
        others = []
        for path in _inside(folder / name):
            if path.suffix.lower() in PICTURES and not path.is_dir():
                found.append((path, label))
            else:
                others.append("folder in a class folder" if path.is_dir() else _kind(path))
        if not found or found[-1][1] != label:
            raise InputError(
                f"The class folder {folder / name} holds no picture ({', '.join(PICTURES)})"
                f"{f', only {_counted(Counter(others))}' if others else ''}."
            )
        left.update(others)
    read = Counter(_kind(path) for path, _ in found)
    note = f"Of {folder}, {_counted(read)} are read, and {_counted(left)} are not." if left else ""
    return names, found, note


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without what systems leave behind."""
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}).") from error
    return [path for path in there if path.name[0] != "." and path.name not in LEFT_BEHIND]


def _kind(path: Path) -> str:
    return path.suffix.lower() or "file without an ending"


def _counted(kinds: Counter) -> str:
    """ "5 .jpg and 1 .txt", the most frequent first; of many kinds the first six."""
    told = [f"{n} {kind}" for kind, n in kinds.most_common(6)]
    more = kinds.total() - sum(n for _, n in kinds.most_common(6))
    told += [f"{more} others"] if more else []
    return " and ".join([", ".join(told[:-1]), told[-1]] if told[1:] else told)


def pictures(files: Sequence[Path], size: int) -> tuple[torch.Tensor, int]:
    """Pictures as bytes (n,c,size,size), and how many of them hold more than one frame, of which
    the first is read.

    The shorter side is scaled to `size` and the middle is cut out. One channel when every picture
    is grey, else three. What is transparent is white.
    Raises:
        InputError: some are broken, empty, too large, CMYK or of 16 bits; the first is named with
            its reason, and others by their names.
    """
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(partial(_picture_or_error, size=size), files))
    wrong = [(path, one) for path, one in zip(files, read, strict=True) if isinstance(one, str)]
    if wrong:
        others = ", ".join(str(path) for path, _ in wrong[1:4])
        more = f" {len(wrong) - 1} more cannot be read either, such as {others}."
        raise InputError(f"{wrong[0][0]} {wrong[0][1]}{more if others else ''}")
    images = [image for image, _ in read]
    grey = all(
        np.array_equal(i[..., 0], i[..., 1]) and np.array_equal(i[..., 0], i[..., 2])
        for i in images
    )
    stacked = torch.from_numpy(np.stack([i[..., :1] if grey else i for i in images]))
    return stacked.permute(0, 3, 1, 2).contiguous(), sum(several for _, several in read)


def _picture_or_error(path: Path, size: int) -> tuple[np.ndarray, bool] | str:
    """`_picture`, or why it cannot be read."""
    from PIL import Image

    try:
        return _picture(path, size)
    except InputError as error:
        return str(error)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        return f"has too many pixels (more than {2 * Image.MAX_IMAGE_PIXELS:,}): scale it down."
    except Exception as error:  # a damaged byte leads Pillow's readers to errors of every kind
        if getattr(error, "errno", None):
            return f"cannot be opened ({error.strerror})."
        return "is no readable picture (empty, cut short or damaged): replace or remove it."


def _picture(path: Path, size: int) -> tuple[np.ndarray, bool]:
    """One picture as (size,size,3) bytes, and whether it holds several frames."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"):
            raise InputError(
                f"is a picture of mode {image.mode} (CMYK or 16 bits, say): convert it to 8-bit "
                "RGB or grey."
            )
        upright = _upright(image)
        if upright.has_transparency_data:  # what is transparent may have any colour, often black
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        fitted = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
        return np.asarray(fitted), _several(image)


def _upright(image: "Image.Image") -> "Image.Image":
    """A picture turned as its EXIF says, if its EXIF can be read.

    `ImageOps.exif_transpose` writes all of EXIF anew, so a single damaged tag of no concern here
    stops it.
    """
    from PIL import ExifTags, Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    image.load()  # a TIFF is turned by this, and says so in its EXIF
    try:
        how = turns.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # unreadable EXIF says nothing of the orientation
        how = None
    return image if how is None else image.transpose(how)


def _several(image: "Image.Image") -> bool:
    """Whether a picture holds more frames than one; a phone's extra views (MPO) do not count."""
    try:
        return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    except Exception:  # a later frame is damaged
        return True


def download(url: str, target: Path, md5: str, otherwise: str) -> None:
    """Fetch `url` into `target`, going on where an earlier attempt stopped, checked by its md5,
    with a progress bar at a terminal.

    Raises:
        InputError: no network (the sentence says what to put where), or a wrong checksum (the bytes
            are removed).
    """
    if target.exists() and hashlib.md5(target.read_bytes()).hexdigest() == md5:
        return
    from tqdm import tqdm

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with files.locked(target):
        have = part.stat().st_size if part.exists() else 0
        if not (have and hashlib.md5(part.read_bytes()).hexdigest() == md5):
            try:
                request = urllib.request.Request(
                    url, headers={"Range": f"bytes={have}-"} if have else {}
                )
                with (
                    urllib.request.urlopen(request, timeout=TIMEOUT) as answer,
                    open(part, "ab" if answer.status == 206 else "wb") as out,
                ):
                    total = have * (answer.status == 206) + int(
                        answer.headers.get("Content-Length", 0)
                    )
                    with tqdm(
                        total=total,
                        initial=out.tell(),
                        unit="B",
                        unit_scale=True,
                        desc=target.name,
                        disable=None,
                    ) as bar:
                        while block := answer.read(1 << 16):
                            out.write(block)
                            bar.update(len(block))
            except (
                urllib.error.URLError,
                TimeoutError,
                ConnectionError,
                http.client.HTTPException,
            ) as error:
                if (
                    getattr(error, "code", None) == 416
                ):  # more bytes are here than there: begin anew next time
                    part.unlink()
                reason = (
                    f"is not there and cannot be downloaded ({getattr(error, 'reason', error)})"
                )
                raise InputError(
                    f"{target.name} {reason}: {otherwise}, or set DATA_ROOT or $NBUTILS_DATA."
                ) from error
            if part.stat().st_size < total:
                raise InputError(
                    f"The download of {target.name} was cut off: run again, it goes on where it "
                    "stopped."
                )
        if hashlib.md5(part.read_bytes()).hexdigest() != md5:
            part.unlink()
            raise InputError(
                f"{target.name} arrived with a wrong checksum and was removed: try again, or "
                f"{otherwise}."
            )
        part.replace(target)
