"""The cellar: one folder a step, written atomically, checked on reading, never pickled.

A folder holds `tensors.safetensors` and `meta.json`. The meta file is written last and is the commit point; it names the arguments, the
hashes of the parents, a hash of the code that made the tensors, and the checksum of every file.
"""

import ast
import errno
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from nbutils import InputError

Tensors = dict[str, torch.Tensor]
LOADED = time.time()  # modules edited later are not the code that runs
LOCK_TIMEOUT = 6 * 3600  # seconds; the longest step that another process may be making


@dataclass(frozen=True)
class Artifact:
    """What a step made: `tensors`, the JSON `record` kept beside them, and `hash`, which its children are bound to."""

    path: Path
    tensors: Tensors
    record: dict
    hash: str
    seconds: float


def load_or_make(
    path: Path,
    make: Callable[[Path], tuple[Tensors, dict]],
    *,
    arguments: dict,
    parents: dict[str, Artifact] | None = None,
    code: tuple = (),
    say: Callable[[str], None] = lambda message: None,
) -> Artifact:
    """Load the artifact at `path` if its arguments, parents and code are these and its bytes are whole; else make it and keep it.

    Args:
        make: called with the folder (for checkpoints of its own); returns tensors and a JSON-able record.
        code: the functions and classes that decide the result; their sources, followed through nbutils, are hashed.
        say: receives one sentence when an artifact is there but cannot be used.
    Returns:
        always what was read back from disk, so that a hit and a miss are the same object.
    Raises:
        InputError: no space left, or a place that cannot be written; what was finished before stays.
    """
    wanted = {
        "arguments": json.loads(json.dumps(arguments)),
        "parents": {name: parent.hash for name, parent in (parents or {}).items()},
        "code": code_hash(*code),
    }
    with _speaking(path):
        path.mkdir(parents=True, exist_ok=True)
        with locked(path):
            found, why = _read(path, wanted)
            if found is None:
                if why:
                    say(f"{path.parent.name}/{path.name}: {why}; it is made again.")
                _drop_strange_parts(path, key_of(wanted))
                started = time.perf_counter()
                tensors, record = make(path)
                _write(path, tensors, record, wanted, time.perf_counter() - started)
                found, why = _read(path, wanted)
                if found is None:
                    raise InputError(f"{path} cannot be read back after writing: {why}.")
            return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer a folder, across processes; the lock lies beside the folder and falls when its holder dies."""
    with FileLock(f"{folder}.lock", timeout=LOCK_TIMEOUT) as lock:
        if not lock.is_locked:
            raise RuntimeError(f"{folder} is not locked")
        yield


def _drop_strange_parts(path: Path, stamp: str) -> None:
    """Parts of a step with other arguments, parents or code are no parts of this one."""
    try:
        same = read_json(path / "part-of.json")["key"] == stamp
    except (OSError, ValueError, KeyError):
        same = False
    if not same:
        for left in path.glob("part-*"):
            left.unlink()
        write_json(path / "part-of.json", {"key": stamp})


def _read(path: Path, wanted: dict) -> tuple[Artifact | None, str]:
    """The artifact, or None and the reason (empty when there is simply none yet)."""
    if not (path / "meta.json").exists():
        return None, ""
    try:
        meta = read_json(path / "meta.json")
        for field, value in wanted.items():
            if meta[field] != value:
                return None, f"{field} differ{'s' if field == 'code' else ''} ({_difference(meta[field], value)})"
        tensors = read_tensors(path / "tensors.safetensors", meta["sha256"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        return None, f"it is damaged ({error})"
    content = hashlib.sha256(json.dumps([wanted, meta["sha256"]], sort_keys=True).encode()).hexdigest()
    return Artifact(path, tensors, meta["record"], content, meta["seconds"]), ""


def published(path: Path, arguments: dict) -> tuple[Tensors, dict] | None:
    """Tensors and meta data of an artifact that was committed for these arguments, whatever code made it; None when there is none.

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
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{path.parent.name}/{path.name} is damaged ({error}): check it out again, or set RETRAIN.") from error


def _difference(old: object, new: object) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        fields = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        return ", ".join(f"{key}: {old.get(key)!r:.40} -> {new.get(key)!r:.40}" for key in fields)
    return "the source of a step was edited"


def _write(path: Path, tensors: Tensors, record: dict, wanted: dict, seconds: float) -> None:
    (path / "meta.json").unlink(missing_ok=True)
    digest = write_tensors(path / "tensors.safetensors", tensors)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    meta = {**wanted, "sha256": digest, "record": record, "seconds": round(seconds, 3), "versions": versions}
    write_json(path / "meta.json", meta)
    for left in path.glob("part-*"):
        left.unlink()


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
    atomically(path, (json.dumps({**content, "check": check}, indent=1, sort_keys=True) + "\n").encode())


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
    """Put `data` at `path`: written beside it, fsynced, renamed. A reader sees the old file or the new one."""
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
def _speaking(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a sentence."""
    try:
        yield
    except OSError as error:
        sentences = {
            errno.ENOSPC: f"No space is left for {path}: free some and run again, what was finished is kept.",
            errno.ENOTDIR: f"OUT must be a folder, but a part of {path} is a file.",
            errno.EEXIST: f"OUT must be a folder, but {path} is a file.",
            errno.EACCES: f"{path} cannot be written: choose another OUT or its permissions.",
            errno.EROFS: f"{path} lies on a read-only file system: choose another OUT.",
        }
        if error.errno in sentences:
            raise InputError(sentences[error.errno]) from error
        raise


# -- parts: what a step that takes long keeps on its way ------------------------------------------------------------------------------


def keep_part(folder: Path, name: str, tensors: Tensors, key: str) -> None:
    """Keep a checked part of a step (a chunk, an epoch) in the step's folder, bound to `key`, which says what it is a part of."""
    digest = write_tensors(folder / f"part-{name}.safetensors", tensors)
    write_json(folder / f"part-{name}.json", {"key": key, "sha256": digest})


def find_part(folder: Path, name: str, key: str) -> Tensors | None:
    """The part kept under this name, or None when there is none, it belongs to something else, or it is damaged."""
    try:
        meta = read_json(folder / f"part-{name}.json")
        return read_tensors(folder / f"part-{name}.safetensors", meta["sha256"]) if meta["key"] == key else None
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def key_of(*things: object) -> str:
    """A hash of JSON-able things, of tensors, and of code (functions, classes)."""
    digest = hashlib.sha256()
    for thing in things:
        if isinstance(thing, torch.Tensor):
            digest.update(str((thing.dtype, tuple(thing.shape))).encode())
            digest.update(thing.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif callable(thing):
            digest.update(code_hash(thing).encode())
        elif isinstance(thing, dict) and any(isinstance(value, torch.Tensor) for value in thing.values()):
            digest.update(key_of(*[item for name in sorted(thing) for item in (name, thing[name])]).encode())
        else:
            digest.update(json.dumps(thing, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()


# -- the hash of code ------------------------------------------------------------------------------------------------------------------


def code_hash(*things: Callable) -> str:
    """Hash the sources of these functions and classes and of all they name inside nbutils, without comments, docstrings and type hints.

    Follows names and `module.name` through nbutils' modules, so editing one attack changes the hash of that attack and of nothing else.
    Storage (this module) does not count, and what is defined outside nbutils counts with its own source only.
    """
    todo, done = [(thing.__module__, thing.__qualname__.split(".")[0]) for thing in map(_plain, things)], {}
    for module, name in todo:
        if module.startswith("nbutils") and name not in _module(module)[0]:
            raise TypeError(f"{module}.{name} has no source of its own to hash: name a function or a class of a module.")
    while todo:
        module, name = todo.pop()
        if (module, name) not in done and module != __name__:
            done[module, name], targets = _piece(module, name)
            todo += targets
    return hashlib.sha256(repr(sorted(done.items())).encode()).hexdigest()


@cache
def _piece(module: str, name: str) -> tuple[str, list[tuple[str, str]]]:
    """The source of a module's name, and what it names in nbutils."""
    tops, imports = _module(module)
    targets = [target for node in tops.get(name, []) for target in _names(node, module, tops, imports)] if module.startswith("nbutils") else []
    if module.startswith("nbutils") and name not in tops and imports.get(name, ("", None))[1]:
        targets.append(imports[name])
    return "\n".join(map(ast.unparse, tops.get(name, []))), targets


def _plain(thing: Callable) -> Callable:
    while hasattr(thing, "func"):  # functools.partial
        thing = thing.func
    return getattr(thing, "__wrapped__", thing)


@cache
def _module(name: str) -> tuple[dict[str, list[ast.stmt]], dict[str, tuple[str, str | None]]]:
    """The top-level statements of a module by the names they define or change, and what its imports bind: name -> (module, name or None)."""
    module = sys.modules.get(name) or importlib.import_module(name)
    source = getattr(module, "__file__", None)
    if not source or not source.endswith(".py"):
        return {}, {}
    if name.startswith("nbutils") and LOADED < Path(source).stat().st_mtime <= time.time():
        raise InputError(f"{source} was edited since Python started: restart it (in Jupyter, the kernel), or old code would pass for new.")
    tree = ast.parse(Path(source).read_text())
    for node in ast.walk(tree):
        for hint in ("annotation", "returns"):
            if getattr(node, hint, None) is not None and not isinstance(node, ast.AnnAssign):
                setattr(node, hint, None)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
    tops: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for bound in _binds(node):
            tops.setdefault(bound, []).append(node)
    imports = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nbutils"):
            for alias in node.names:
                bound = alias.asname or alias.name
                is_module = importlib.util.find_spec(f"{node.module}.{alias.name}") if node.module in _packages() else None
                imports[bound] = (f"{node.module}.{alias.name}", None) if is_module else (node.module, alias.name)
    return tops, imports


def _binds(node: ast.stmt) -> set[str]:
    """The names that a top-level statement defines or changes: `def`, `x = 1`, `a, b = 1, 2`, `D["k"] = 1`, `C.k = 1`, `L.append(1)`, under `if`."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            found.add(part.name)
        place = part.func if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) else part
        changed = place is not part or isinstance(getattr(part, "ctx", None), ast.Store)
        while isinstance(place, ast.Attribute | ast.Subscript):
            place = place.value
        if changed and isinstance(place, ast.Name):
            found.add(place.id)
    return found


def _packages() -> set[str]:
    return {"nbutils", "nbutils.attacks", "nbutils.detectors", "nbutils.saliency"}


def _names(node: ast.stmt, module: str, tops: dict, imports: dict) -> set[tuple[str, str]]:
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and imports.get(part.value.id, ("", ""))[1] is None:
            found.add((imports[part.value.id][0], part.attr))
        elif isinstance(part, ast.Name) and part.id in tops:
            found.add((module, part.id))
        elif isinstance(part, ast.Name) and imports.get(part.id, ("", None))[1]:
            found.add(imports[part.id])
    return found
