"""A detector of the reader's own joins the series."""

import re
from collections.abc import Callable

import torch

from nbutils import InputError
from nbutils.detectors import DETECTORS
from nbutils.detectors.base import Detector
from nbutils.detectors.building import build, needs
from nbutils.detectors.gcd import GCD
from nbutils.detectors.groups import COMBINED, FITTED, LEARNED, TRAINED
from nbutils.detectors.networks import Network
from nbutils.steps.classifier import classifier
from nbutils.steps.run import Run
from nbutils.store.fingerprints import fingerprint

JOINED: set[str] = set()  # the names that joined since Python started


def join(run: Run, name: str, entry: Callable[..., Detector]) -> None:
    """From here on, and until Python ends, `name` is a detector like those of the series: it is
    fitted, evaluated, controlled and attacked under its name. Nothing is written into the module.

    What it is made of counts in the fingerprint of what is kept, so a changed function is fitted
    anew; a function that stands in a notebook's cell counts with its own source, and should need
    no other of the notebook's.

    Args:
        entry: as in `DETECTORS`, for instance `partial(Network, view=yours)`, where
            `yours(model, x)` gives what the network is to look at, (n,channels,h,w).
    Raises:
        InputError: the name is one of the series', the entry is no detector, or its view or score
            of two pictures has the wrong shape or is not finite.
    """
    if name in DETECTORS and name not in JOINED:
        raise InputError(f"The series has a detector {name!r} already: give yours another name.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"The detector's name {name!r} becomes part of file names: use small letters, digits "
            "and _, and begin with a letter."
        )
    kind = getattr(entry, "func", None)
    if not (isinstance(kind, type) and issubclass(kind, Detector)):
        raise InputError(
            f"The entry of {name!r} must be a partial of a Detector, such as "
            f"partial(Network, view=yours), not {entry!r}."
        )
    if kind.trained and not issubclass(kind, Network | GCD):
        raise InputError(
            f"{kind.__name__} of {name!r} is fitted in a way of its own: join a Network with your "
            "view, a GCD with your rule, or a Detector that needs no fit."
        )
    try:
        fingerprint(entry)
    except TypeError as error:
        raise InputError(
            f"{name!r} is made of a function whose source Python does not remember: write it with "
            "def, in a cell or in a file."
        ) from error
    before, was = DETECTORS.get(name), name in JOINED
    DETECTORS[name] = entry
    try:
        if not needs(name) and not issubclass(kind, GCD):
            _tried(run, name, build(name, classifier(run).model))
    except BaseException:
        if was:
            DETECTORS[name] = before
        else:
            del DETECTORS[name]
        raise
    JOINED.add(name)
    run.memory.known.clear()  # what another function of this name saw
    groups = [(TRAINED, kind.trained), (FITTED, kind.trained), (LEARNED, needs(name) == "saliency")]
    for group, belongs in groups:
        if name in group:
            group.remove(name)
        if belongs:
            group.append(name)
    if issubclass(kind, GCD):
        COMBINED[name] = (entry.keywords["pixels"], entry.keywords["sensitivity"])


def _tried(run: Run, name: str, made: Detector) -> None:
    """Refuse what does not work on the first two pictures."""
    x = run.data.test[:2].pixels()
    is_view = isinstance(made, Network)
    found = made.view(x) if is_view else made.score(x)
    fits = isinstance(found, torch.Tensor) and found.shape[:1] == x.shape[:1]
    fits = fits and found.dim() == (4 if is_view else 1)
    if not fits:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        wanted = "(n,channels,h,w)" if is_view else "(n,)"
        raise InputError(
            f"The {'view' if is_view else 'score'} of {name!r} must be a tensor {wanted}; of two "
            f"pictures it is {shape}."
        )
    if not torch.isfinite(found).all():
        raise InputError(f"What {name!r} makes of the pictures holds NaN or infinite values.")
