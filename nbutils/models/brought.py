"""How a user's own model and its weights come in: from a module of theirs and the files that others
write, behind one door that hands over what any network can read and speaks in sentences.
"""

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_paths
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import nn

from nbutils import InputError
from nbutils.models.normalised import Normalised
from nbutils.models.published import NO_OPERATORS, torchvision
from nbutils.resources import from_here

# Where a checkpoint keeps the state dict, and what wrappers put in front of its names.
INSIDE = ("state_dict", "model_state_dict", "model", "net")
IN_FRONT = ("module.", "_orig_mod.", "model.", "net.")
LIBRARIES = ("site-packages", "dist-packages", "<frozen", get_paths()["stdlib"])

_read: dict[str, tuple] = {}  # files of the user's: as imported, the time of their last change


def bring(path: str) -> nn.Module:
    """The user's own model, in eval mode: "package.module:factory" is imported and called.

    Raises:
        InputError: it is not found, raises whatever it may, returns no model, or its file was
            edited since Python read it.
    """
    try:
        try:
            model = _made(path)
        except Exception as error:
            if not any(NO_OPERATORS in str(cause) for cause in _causes(error)):
                raise
            torchvision()  # repairs it, for whoever imports it
            model = _made(path)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"MODEL {path!r} cannot be brought in ({told(error)}): write package.module:factory, "
            f"importable from {from_here('.')}, of a factory that runs without arguments."
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"MODEL {path!r} returned a {type(model).__name__}; a torch.nn.Module is needed."
        )
    return model.eval()


def module_of(path: str) -> ModuleType:
    """The module of a "package.module:factory", found also where relative paths start."""
    here = str(from_here("."))
    if here not in sys.path:
        sys.path.append(here)  # behind all others: nothing of the user's stands before a library
    importlib.invalidate_caches()  # the file may be newer than the last look into its folder
    return importlib.import_module(path.partition(":")[0])


def _made(path: str) -> object:
    module = module_of(path)
    made = getattr(module, path.partition(":")[2])()
    _not_edited(module)
    return made


def _not_edited(module: ModuleType) -> None:
    """Refuse code that is no longer what its file says: this module's and its neighbours'."""
    if not getattr(module, "__file__", None):
        return
    folder = Path(module.__file__).parent
    for known in [*sys.modules.values()]:
        names = getattr(known, "__dict__", {})  # a lazy module would be loaded by a question
        file, spec = names.get("__file__"), names.get("__spec__")
        if not file or not Path(file).is_relative_to(folder) or not Path(file).is_file():
            continue
        changed = Path(file).stat().st_mtime_ns
        if _read.get(file, (None,))[0] is not spec:  # imported just now, or reloaded
            _read[file] = (spec, changed)
        if _read[file][1] != changed:
            raise InputError(
                f"{file} was edited since Python read it, so the old model would pass for the new "
                "one: run this again (in Jupyter, restart the kernel first), and what rests on it "
                "is made anew."
            )


class Brought(nn.Module):
    """A user's own model `body`, as all else may rely on it.

    It is handed contiguous images, whatever made them; logits of less than 32 bits come back in 32;
    and what it raises is an InputError that says where.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with in_words(x):
            logits = self.body(x.contiguous())
        short = isinstance(logits, torch.Tensor) and logits.dtype in (torch.half, torch.bfloat16)
        return logits.float() if short else logits


@contextmanager
def in_words(x: torch.Tensor) -> Iterator[None]:
    """What a model raises when it is asked about `x`, in one sentence; a full memory stays what it
    is, since a smaller batch may help.
    """
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"The model cannot read images of shape {tuple(x.shape[1:])}, {len(x)} at once: "
            f"{told(error)}. One that is made for another size or other channels must change the "
            "images itself."
        ) from error


def told(error: BaseException) -> str:
    """An exception of a user's code in words: its type, its first line, and where it arose."""
    lines, said = str(error).strip().splitlines(), type(error).__name__
    said += f": {lines[0][:200].rstrip('.')}" if lines else ""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((str(error.filename), error.lineno))
    own = str(Path(__file__).parent.parent)
    theirs = [place for place in frames if not any(word in place[0] for word in (own, *LIBRARIES))]
    return f"{said}, at {theirs[-1][0]}:{theirs[-1][1]}" if theirs else said


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from a safetensors file or a torch state dict, alone or in a checkpoint; the
    latter is read as data only, code in it is never run.

    Raises:
        InputError: no such file, damaged, a pickle with code in it, or names and shapes that do not
            fit.
    """
    if not path.is_file():
        raise InputError(
            f"WEIGHTS {path.name!r} is no file: it was looked for at {path.resolve()}."
        )
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # each format has errors of its own; the user needs the one sentence
        raise InputError(
            f"WEIGHTS {path.name} cannot be read as weights, it is damaged or holds more than "
            f"tensors: {_first(error)}. Save model.state_dict(), not the model itself."
        ) from error
    state = _state_in(state)
    if state is None:
        raise InputError(
            f"WEIGHTS {path.name} holds no state dict of tensors, by itself or as "
            f"{', '.join(INSIDE)}."
        )
    parts = [model, model.body] if isinstance(model, Normalised) else [model]
    state = _unwrapped(state, {name for part in parts for name in part.state_dict()})
    inside = len(parts) > 1 and not any(
        name.startswith("body.") for name in state
    )  # others' weights know no normalisation
    try:
        (model.body if inside else model).load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"WEIGHTS {path.name} does not fit the model, and what fits a part of it alone is "
            f"loaded by the factory itself: {' '.join(str(error).split())[:200]}"
        ) from error


def _state_in(loaded: object) -> dict[str, torch.Tensor] | None:
    """The state dict of a file: itself, or what a checkpoint keeps beside its epoch and losses."""
    inside = [loaded.get(name) for name in INSIDE] if isinstance(loaded, dict) else []
    for state in (loaded, *inside):
        if isinstance(state, dict) and state:
            if all(isinstance(value, torch.Tensor) for value in state.values()):
                return state
    return None


def _unwrapped(state: dict[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    """The state without what DataParallel, torch.compile or a trainer put before every name."""
    while not names & set(state):
        prefix = next((p for p in IN_FRONT if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _first(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0][:150]
