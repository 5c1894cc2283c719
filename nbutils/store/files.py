"""Files on disk, whole or not at all: atomic, checked by their sums, one writer at a time, refusals
of the system as a sentence.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save

from nbutils import InputError

Tensors = dict[str, torch.Tensor]
LOCK_TIMEOUT = 6 * 3600  # seconds; the longest step that another process may be making


def write_tensors(path: Path, tensors: Tensors) -> str:
    """Write a safetensors file atomically and durably; returns its sha256."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path, sha256: str | None = None) -> Tensors:
    """Read a safetensors file; with `sha256`, refuse one whose bytes are not those."""
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path.name} does not have the checksum that was recorded")
    with safe_open(path, framework="pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}


def write_json(path: Path, content: dict) -> None:
    """Write JSON with a check sum of its own, atomically."""
    content = json.loads(json.dumps(content))
    check = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    atomically(
        path, (json.dumps({**content, "check": check}, indent=1, sort_keys=True) + "\n").encode()
    )


def read_json(path: Path) -> dict:
    """Read what `write_json` wrote; raises ValueError when a byte has changed."""
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    check = content.pop("check", None)
    if check != hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest():
        raise ValueError(f"{path.name} does not have the checksum that was recorded")
    return content


def atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`: written beside it, fsynced, renamed.

    A reader sees the old file or the new one; its folder is made where there is none.

    Raises:
        InputError: the system refuses; the sentence says what and how (`speaking`).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with speaking(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, path)
        finally:
            with suppress(OSError):  # the first refusal is the one to tell
                part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer a folder, across processes; the lock lies beside the folder and falls when its
    holder dies.
    """
    with speaking(folder), FileLock(f"{folder}.lock", timeout=LOCK_TIMEOUT) as lock:
        if not lock.is_locked:
            raise RuntimeError(f"{folder} is not locked")
        yield


# What the system's refusals of a write mean, and what to do about them; {} is the path.
REFUSALS = {
    errno.ENOSPC: "No space is left for {}: free some and run again, what was finished is kept.",
    errno.EDQUOT: "The disk quota leaves no room for {}: free some of yours and run again, what "
    "was finished is kept.",
    errno.EFBIG: "{} is larger than a file may be here (ulimit -f, or the file system): choose "
    "another OUT.",
    errno.ENOTDIR: "OUT must be a folder, but a part of {} is a file.",
    errno.EEXIST: "OUT must be a folder, but {} is a file.",
    errno.EISDIR: "{} is a folder, but a file must be written there: move it or choose another "
    "OUT.",
    errno.EACCES: "{} cannot be written: choose another OUT or its permissions.",
    errno.EPERM: "{} cannot be written: choose another OUT or its permissions.",
    errno.EROFS: "{} lies on a read-only file system: choose another OUT.",
    errno.ENAMETOOLONG: "The name {} is too long for this file system: choose a shorter OUT.",
    errno.EIO: "{} cannot be written, for the disk reports an error: choose another OUT.",
    errno.ESTALE: "The network folder of {} has gone: mount it again or choose another OUT.",
}


@contextmanager
def speaking(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in REFUSALS:
            raise InputError(REFUSALS[error.errno].format(path)) from error
        raise
