"""A look inside a model: the outputs of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from nbutils import InputError


@contextmanager
def taps(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, each forward pass leaves the outputs of the named modules in the dict; no hook
    stays behind, also after an exception.

    The network goes on with a copy, so that what it does in place (`F.relu_(z)`, `z += y`) changes
    neither the value that is kept nor the derivative with respect to it. (Where it goes on with
    what it handed to a module that works in place, and changes that, an InputError is raised.)

    Names are those of `model.named_modules()`; for our own networks the "body." in front may be
    left out.
    """
    modules = dict(model.named_modules())
    found, versions, handles = {}, {}, []

    def keep(module: nn.Module, _: object, out: object, name: str) -> object:
        found[name] = out
        if not isinstance(out, torch.Tensor):
            return out
        versions[name] = out._version
        return out.clone()

    try:
        for name in names:
            module = next(
                (
                    modules[prefix + name]
                    for prefix in ("", "body.", "body.body.")
                    if prefix + name in modules
                ),
                None,
            )
            if module is None:
                raise InputError(
                    f"The model has no module {name!r}: choose among "
                    f"{', '.join(n for n in modules if n)}."
                )
            handles.append(module.register_forward_hook(partial(keep, name=name)))
        yield found
        for name, version in versions.items():
            if found[name]._version != version:
                raise InputError(
                    f"The model changes the output of its module {name!r} in place by another "
                    "name, so its value is lost: let it use what the module returns."
                )
    finally:
        for handle in handles:
            handle.remove()


def scales(
    model: nn.Module, x: torch.Tensor, *, every: bool = False
) -> list[tuple[str, torch.Size, nn.Module]]:
    """The modules whose outputs are pictures (n,c,h,w) of more than one pixel, in the order of the
    forward pass: of each size the last, or every.

    Each is (name, shape, the module that made it: of a container the one inside whose output it
    hands on).
    """
    if model.training:
        raise InputError(
            "The model is in train mode: call model.eval() first, or a look at its layers would "
            "change them."
        )
    seen: dict[str, tuple[str, torch.Size, nn.Module]] = {}
    last: list = [None, None]

    def note(module: nn.Module, _: object, out: object, name: str) -> None:
        seen.pop(name, None)  # a module used again is known by its last output, as `taps` leaves it
        if isinstance(out, torch.Tensor):
            handed_on = out is last[0] and any(
                True for _ in module.children()
            )  # a layer that works in place is its own maker
            last[:] = [out, last[1] if handed_on else module]
            seen[name] = (name, out.shape, last[1])

    handles = [
        module.register_forward_hook(partial(note, name=name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    pictures = [item for item in seen.values() if len(item[1]) == 4 and min(item[1][2:]) > 1]
    if not pictures:
        raise InputError(
            f"{type(model).__name__} has no layer whose output is a picture (n,c,h,w): its "
            "features give no saliency map."
        )
    return pictures if every else list({item[1][2:]: item for item in pictures}.values())
