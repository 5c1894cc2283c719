"""One folder for each thing that was made: loaded where it fits, else made and kept.

A folder holds `tensors.safetensors` and `meta.json`. The meta file is written last and is the
commit point; it names the arguments, the contents of the parents, the fingerprint of the code that
made the tensors, and the checksum of every file.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from nbutils import InputError
from nbutils.store.files import (
    Tensors,
    locked,
    read_json,
    read_tensors,
    speaking,
    write_json,
    write_tensors,
)
from nbutils.store.fingerprints import fingerprint, key_of

UNREADABLE = (OSError, ValueError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True)
class Artifact:
    """What a step made: `tensors`, and the JSON `record` kept beside them.

    `content` is a hash of the tensors, which children are bound to: a parent made again to the same
    bits leaves them valid. `code` is the fingerprint of what made it, `entries` the registry
    entries that this fingerprint holds.
    """

    path: Path
    tensors: Tensors
    record: dict
    content: str
    code: str
    entries: list[str]
    seconds: float


class Parts:
    """What a step keeps on its way (a chunk, an epoch), in its own folder, so that a killed run
    goes on.

    Parts of other arguments, parents or code are no parts of this one: the folder's stamp tells.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, name: str, tensors: Tensors, *key: object) -> None:
        """Keep a checked part, bound to `key`, which says what it is a part of."""
        digest = write_tensors(self.folder / f"part-{name}.safetensors", tensors)
        write_json(self.folder / f"part-{name}.json", {"key": key_of(*key), "sha256": digest})

    def find(self, name: str, *key: object) -> Tensors | None:
        """The part of this name; None: there is none, it belongs elsewhere, or it is damaged."""
        try:
            meta = read_json(self.folder / f"part-{name}.json")
            if meta["key"] != key_of(*key):
                return None
            return read_tensors(self.folder / f"part-{name}.safetensors", meta["sha256"])
        except UNREADABLE:
            return None

    def drop_strangers(self, stamp: str) -> None:
        """Remove the parts of a step with another stamp, and put this one."""
        try:
            same = read_json(self.folder / "part-of.json")["key"] == stamp
        except UNREADABLE:
            same = False
        if not same:
            self.drop()
            write_json(self.folder / "part-of.json", {"key": stamp})

    def drop(self) -> None:
        """Remove all parts."""
        for left in self.folder.glob("part-*"):
            left.unlink()


def load_or_make(
    path: Path,
    make: Callable[..., tuple[Tensors, dict]],
    inputs: dict | None = None,
    settings: dict | None = None,
    *,
    known: dict | None = None,
    parents: dict[str, Artifact] | None = None,
    still: Callable[[Tensors], str] | None = None,
    say: Callable[[str], None] = str,
) -> Artifact:
    """Load the artifact at `path` if arguments, parents and code are these and its bytes are whole.

    Else call `make(parts, **inputs, **settings)`, and keep what it returns.

    Args:
        make: a function of a module, which with all that it uses in nbutils is the fingerprint; it
            returns tensors and a JSON-able record. A closure is refused: its protocol would hide
            there.
        inputs: the live objects that it works on. What decides them stands in `settings`, `known`
            or `parents`.
        settings: JSON-able. Of a registry (a dict of functions) those entries count whose names
            stand here, and no others.
        known: JSON-able, not handed to `make`: what identifies the inputs (a hash of the images).
        parents: artifacts that the inputs come from, compared by content.
        still: asked of the tensors that are there; a sentence where they no longer hold, else "".
        say: receives one sentence when an artifact is there but cannot be used.
    Returns:
        always what was read back from disk, so that a hit and a miss are the same object.
    Raises:
        InputError: no space left, or a place that cannot be written; what was finished before
            stays.
        TypeError: `make` is a closure or a lambda.
    """
    if getattr(make, "__closure__", None) or "<" in getattr(make, "__qualname__", "<"):
        raise TypeError(f"{make} is a closure or a lambda: a step is a function of a module.")
    inputs, settings = inputs or {}, settings or {}
    arguments = json.loads(json.dumps({**settings, **(known or {})}))
    code, entries = fingerprint(make, arguments, inputs)
    contents = {name: parent.content for name, parent in (parents or {}).items()}
    wanted = {"arguments": arguments, "parents": contents, "code": code}
    with speaking(path):
        path.mkdir(parents=True, exist_ok=True)
        with locked(path):
            found, why = _read(path, wanted)
            if found is not None and still is not None:
                why = still(found.tensors)
            if found is None or why:
                if why:
                    say(f"{path.parent.name}/{path.name}: {why}; it is made again.")
                parts = Parts(path)
                parts.drop_strangers(key_of(wanted))
                started = time.perf_counter()
                tensors, record = make(parts, **inputs, **settings)
                wanted["entries"] = entries
                _write(path, tensors, record, wanted, time.perf_counter() - started)
                parts.drop()
                found, why = _read(path, wanted)
                if found is None:
                    raise InputError(f"{path} cannot be read back after writing: {why}.")
            return found


def committed(path: Path, arguments: dict) -> tuple[Tensors, dict] | None:
    """Tensors and meta data of an artifact that was committed for these arguments, whatever code
    made it.

    Raises:
        InputError: it is damaged.
    """
    if not (path / "meta.json").exists():
        return None
    try:
        meta = read_json(path / "meta.json")
        if meta["arguments"] != json.loads(json.dumps(arguments)):
            return None
        return read_tensors(path / "tensors.safetensors", meta["sha256"]), meta
    except UNREADABLE as error:
        place = f"{path.parent.name}/{path.name}"
        raise InputError(
            f"{place} is damaged ({error}): check it out again, or set RETRAIN."
        ) from error


def _read(path: Path, wanted: dict) -> tuple[Artifact | None, str]:
    """The artifact, or None and the reason (empty when there is simply none yet)."""
    if not (path / "meta.json").exists():
        return None, ""
    try:
        meta = read_json(path / "meta.json")
        for field, value in wanted.items():
            if meta[field] != value:
                differs = f"{field} differ{'s' if field == 'code' else ''}"
                return None, f"{differs} ({_difference(meta[field], value)})"
        tensors = read_tensors(path / "tensors.safetensors", meta["sha256"])
        kept = (meta["record"], meta["sha256"], meta["code"], meta["entries"], meta["seconds"])
    except UNREADABLE as error:
        return None, f"it is damaged ({error})"
    return Artifact(path, tensors, *kept), ""


def _difference(old: object, new: object) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        fields = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        told = [f"{key}: {old.get(key)!r:.40} -> {new.get(key)!r:.40}" for key in fields]
        return ", ".join(told)
    return "the source of a step was edited"


def _write(path: Path, tensors: Tensors, record: dict, wanted: dict, seconds: float) -> None:
    (path / "meta.json").unlink(missing_ok=True)
    digest = write_tensors(path / "tensors.safetensors", tensors)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    kept = {"sha256": digest, "record": record, "seconds": round(seconds, 3), "versions": versions}
    write_json(path / "meta.json", {**wanted, **kept})


def identity_of(*things: object) -> torch.Tensor:
    """A hash as a tensor of bytes, for an artifact whose other tensors do not tell all that its
    children use.
    """
    return torch.frombuffer(
        bytearray(hashlib.sha256(key_of(*things).encode()).digest()), dtype=torch.uint8
    )
