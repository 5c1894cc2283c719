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


Layer = tuple[str, int]  # a module's name, and how often it has been called when its output counts


class _Reached(Exception):
    """The forward pass has gone as far as it is needed."""


def stages(model: nn.Module, x: torch.Tensor, *, most: int = 5) -> list[Layer]:
    """The ends of a model's stages, in the order of the forward pass, for any model.

    Of each picture size the last output (of a ResNet its stem and its stages, of VGG11 what each of
    its five pools reads), the last `most` of them. Where they are fewer, the last output of each
    dense layer but the logits', then other activations that are pictures, evenly spaced; where
    there is nothing of all this, the logits.
    """
    if model.training:
        raise InputError("The model is in train mode: call model.eval() first.")
    seen, calls = {}, {}

    def note(module: nn.Module, _: object, out: object, name: str) -> None:
        seen.pop(name, None)  # a module used again is known by its last output
        calls[name] = calls.get(name, 0) + 1
        kind = type(module).__module__.rpartition(".")[2]  # torch's own: conv, activation, padding
        if isinstance(out, torch.Tensor) and kind != "padding":
            seen[name] = (out.shape, kind)

    handles = [
        module.register_forward_hook(partial(note, name=name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    pictures = {n: shape for n, (shape, _) in seen.items() if len(shape) == 4 if min(shape[2:]) > 1}
    found = list({shape[2:]: name for name, shape in pictures.items()}.values())[-most:]
    dense: list[str] = []  # the last output of each dense layer, the logits among them
    for name, (shape, kind) in seen.items():
        if len(shape) == 2 and (dense or kind == "linear"):
            dense[len(dense) - (kind != "linear") :] = [name]
    hidden = dense[:-1]
    found += hidden[max(0, len(hidden) - most + len(found)) :]
    more = [name for name in pictures if seen[name][1] == "activation" and name not in found]
    places = torch.linspace(0, len(more) - 1, min(len(more), most - len(found))).round().long()
    found += [more[place] for place in places]
    return [(name, calls[name]) for name in seen if name in found] or [("", 1)]


def pooled(model: nn.Module, x: torch.Tensor, layers: Sequence[Layer]) -> list[torch.Tensor]:
    """The outputs of these layers, pictures by their mean over the picture: (n,d) each.

    The forward pass goes no further than the last of them; no hook stays behind.
    """
    modules, found, left, handles = dict(model.named_modules()), {}, dict(layers), []

    def note(_: nn.Module, __: object, out: torch.Tensor, name: str) -> None:
        left[name] -= 1
        if left[name] == 0:
            found[name] = out.flatten(2).mean(2) if out.dim() > 2 else out
            if len(found) == len(left):
                raise _Reached

    try:
        for name in left:
            handles.append(modules[name].register_forward_hook(partial(note, name=name)))
        model(x)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [found[name] for name, _ in layers]
