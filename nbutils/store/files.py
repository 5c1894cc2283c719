"""Files on disk, whole or not at all: atomic, checked by their sums, one writer at a time, refusals
of the system as a sentence.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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

    A reader sees the old file or the new one.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(part, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer a folder, across processes; the lock lies beside the folder and falls when its
    holder dies.
    """
    with FileLock(f"{folder}.lock", timeout=LOCK_TIMEOUT) as lock:
        if not lock.is_locked:
            raise RuntimeError(f"{folder} is not locked")
        yield


@contextmanager
def speaking(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a sentence."""
    try:
        yield
    except OSError as error:
        sentences = {
            errno.ENOSPC: (
                f"No space is left for {path}: free some and run again, what was finished is kept."
            ),
            errno.ENOTDIR: f"OUT must be a folder, but a part of {path} is a file.",
            errno.EEXIST: f"OUT must be a folder, but {path} is a file.",
            errno.EACCES: f"{path} cannot be written: choose another OUT or its permissions.",
            errno.EROFS: f"{path} lies on a read-only file system: choose another OUT.",
        }
        if error.errno in sentences:
            raise InputError(sentences[error.errno]) from error
        raise
