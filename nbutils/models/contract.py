"""What is asked of a model: images in [0,1] to logits, checked on arrival; how a user's own and its
weights come in.
"""

import importlib
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import nn

from nbutils import InputError
from nbutils.data.images import to_float
from nbutils.models.normalised import Normalised

LEAST = 50  # images that tell an accuracy from chance


def bring(path: str) -> nn.Module:
    """The user's own model: "package.module:factory" is imported and called; what it returns is
    checked by `check`.
    """
    try:
        model = getattr(module_of(path), path.partition(":")[2])()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"MODEL {path!r} cannot be brought in ({error}): write package.module:factory, "
            "importable from here."
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"MODEL {path!r} returned a {type(model).__name__}; a torch.nn.Module is needed."
        )
    return model.eval()


def module_of(path: str) -> ModuleType:
    """The module of a "package.module:factory"."""
    return importlib.import_module(path.partition(":")[0])


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from a safetensors file or a torch state dict; the latter is read as data only,
    code in it is never run.

    Raises:
        InputError: no such file, damaged, a pickle with code in it, or names and shapes that do not
            fit.
    """
    if not path.is_file():
        raise InputError(f"WEIGHTS {str(path)!r} is no file.")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # each format has errors of its own; the user needs the one sentence
        raise InputError(
            f"WEIGHTS {path.name} cannot be read as weights, it is damaged or holds more than "
            f"tensors: {_first(error)}"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise InputError(f"WEIGHTS {path.name} holds no state dict of tensors.")
    inside = isinstance(model, Normalised) and not any(
        name.startswith("body.") for name in state
    )  # others' weights know no normalisation
    try:
        (model.body if inside else model).load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"WEIGHTS {path.name} does not fit the model: {' '.join(str(error).split())[:200]}"
        ) from error


def _first(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0][:150]


def check(model: nn.Module, x: torch.Tensor, *classes: int) -> int:
    """Refuse a model that breaks the contract: images in [0,1] -> finite logits (n, classes),
    deterministic, differentiable to the input.

    Args:
        classes: the numbers of outputs that will do.
    Returns:
        the one that the model has.
    Raises:
        InputError: with the one sentence that says which part is broken.
    """
    if model.training:
        raise InputError(
            "The model is in train mode: call model.eval() first, or its answers change with the "
            "batch."
        )
    x = x.detach().clone().requires_grad_()
    try:
        logits = model(x)
    except RuntimeError as error:
        raise InputError(
            f"The model cannot read images of shape {tuple(x.shape[1:])}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if (
        not isinstance(logits, torch.Tensor)
        or logits.dim() != 2
        or len(logits) != len(x)
        or logits.shape[1] not in classes
    ):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        needed = " or ".join(str((len(x), k)) for k in classes)
        raise InputError(
            f"The model returns {shape} for {len(x)} images of {classes[0]} classes; logits of "
            f"shape {needed} are needed."
        )
    if not torch.isfinite(logits).all():
        raise InputError("The model returns NaN or infinite logits.")
    if (logits >= 0).all() and torch.allclose(
        logits.sum(1), torch.ones(len(x), device=x.device, dtype=logits.dtype), atol=1e-3
    ):
        raise InputError(
            "The model returns probabilities, not logits: remove its softmax, the attacks apply "
            "their own."
        )
    if not torch.equal(logits, model(x)):
        raise InputError(
            "The model answers the same images differently twice: its eval mode must be "
            "deterministic."
        )
    if not logits.requires_grad:
        raise InputError("The model's logits carry no gradient to the image: the attacks need one.")
    gradient = torch.autograd.grad(logits.sum(), x)[0]
    if not torch.isfinite(gradient).all():
        raise InputError("The model's gradient with respect to the image is NaN or infinite.")
    return logits.shape[1]


def check_trained(logits: torch.Tensor, y: torch.Tensor) -> None:
    """Refuse a model that reads pictures no better than chance: nothing is measured on random
    weights.

    Args:
        logits: (n,k) of n test images; y: (n,) their labels. Under LEAST images nothing is said.
    Raises:
        InputError: its accuracy is not above 1/k by more than chance allows (one case in a
            thousand).
    """
    n, k = logits.shape
    right = (logits.argmax(1) == y).sum().item()
    spread = (n * (1 / k) * (1 - 1 / k)) ** 0.5
    if n >= LEAST and right < n / k + 3.1 * spread:
        raise InputError(
            f"The model reads {right / n:.1%} of {n} test images rightly, no better than chance "
            f"({1 / k:.1%}): it has no trained weights, or its outputs stand in another order; "
            "give WEIGHTS the file that holds them."
        )


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, *, batch: int = 512) -> torch.Tensor:
    """Logits (n,k) of images (n,c,h,w), uint8 or float in [0,1], in batches."""
    return (
        torch.cat([model(to_float(part)) for part in x.split(batch)]) if len(x) else torch.empty(0)
    )
