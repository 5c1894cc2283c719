"""Networks that take images in [0,1] and return logits; they normalise inside. Feature taps by module name."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import pad

from nbutils import InputError, vision
from nbutils.data import to_float
from nbutils.networks import ARCHITECTURES, PUBLISHED


class Normalised(nn.Module):
    """`body` behind a normalisation: (x - mean) / std, channel by channel."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body((x - self.mean) / self.std)


class Restricted(nn.Module):
    """`body`'s logits of some of its classes: a network of 1000 classes among ten. `positions` are theirs in its output."""

    def __init__(self, body: nn.Module, positions: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("positions", torch.tensor(positions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).index_select(1, self.positions)


def build(name: str, shape: tuple[int, int, int], outputs: int, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,),
          width: float = 1.0, dropout: float | None = None, seed: int = 0) -> Normalised:
    """A fresh network of ARCHITECTURES with weights drawn from `seed`, normalising with `mean` and `std` (one value, or one a channel).

    Args:
        width: factor on the numbers of filters. dropout: before the dense layers (None: the architecture's own).
    """
    if name not in ARCHITECTURES:
        raise InputError(f"MODEL {name!r} is unknown: choose one of {', '.join(ARCHITECTURES)}, or name your own as package.module:factory.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        knobs = {} if dropout is None else {"dropout": dropout}
        return Normalised(ARCHITECTURES[name](shape, outputs, width, **knobs), mean, std).eval()


def published(name: str, shape: tuple[int, int, int], *, weights: str = "", root: Path | str = "data") -> Normalised:
    """A network with the weights that others have published, normalising as they did.

    Args:
        weights: a file, "torchvision" (downloaded), or "" for weights/`name`*.safetensors under `root`, else torchvision's.
    Raises:
        InputError: no such file, one that does not fit, or no network.
    """
    spec = PUBLISHED[name]
    model = build(name, shape, spec["outputs"], mean=spec["mean"], std=spec["std"])
    found = sorted((Path(root) / "weights").glob(f"{name}*.safetensors")) if weights == "" else []
    if weights in ("", "torchvision") and not found:
        if name not in vision.NETWORKS:
            raise InputError(f"The weights of {name} are not there: put {name}.safetensors into {Path(root) / 'weights'}, or give WEIGHTS a file.")
        model.body.load_state_dict(vision.published(name))
    else:
        load_weights(model, found[0] if found else Path(weights))
    return model


def bring(path: str) -> nn.Module:
    """The user's own model: "package.module:factory" is imported and called; what it returns is checked by `check`."""
    module, _, factory = path.partition(":")
    try:
        model = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError) as error:
        raise InputError(f"MODEL {path!r} cannot be brought in ({error}): write package.module:factory, importable from here.") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"MODEL {path!r} returned a {type(model).__name__}; a torch.nn.Module is needed.")
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from a safetensors file or a torch state dict; the latter is read as data only, code in it is never run.

    Raises:
        InputError: no such file, damaged, a pickle with code in it, or names and shapes that do not fit.
    """
    if not path.is_file():
        raise InputError(f"WEIGHTS {str(path)!r} is no file.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own; the user needs the one sentence
        raise InputError(f"WEIGHTS {path.name} cannot be read as weights, it is damaged or holds more than tensors: {_first(error)}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"WEIGHTS {path.name} holds no state dict of tensors.")
    inside = isinstance(model, Normalised) and not any(name.startswith("body.") for name in state)  # others' weights know no normalisation
    try:
        (model.body if inside else model).load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"WEIGHTS {path.name} does not fit the model: {' '.join(str(error).split())[:200]}") from error


def _first(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0][:150]


def start_from(model: Normalised, given: nn.Module) -> int:
    """Fill the weights and statistics of `model` with those of `given` that have the same name and fit; returns how many weights did.

    Where `model` reads more channels (image and Jacobian), the first have the given weights and the others weigh nothing: it starts as on
    the image alone.
    """
    state, parameters, filled = model.body.state_dict(), dict(model.body.named_parameters()), 0
    for name, its in given.state_dict().items():
        name = name.removeprefix("body.").removeprefix("body.")
        if name in state:
            more = state[name].shape[1] - its.shape[1] if state[name].dim() == 4 == its.dim() else 0
            fitting = pad(its, (0, 0, 0, 0, 0, more)) if more > 0 else its
            if state[name].shape == fitting.shape:
                state[name] = fitting
                filled += name in parameters
    model.body.load_state_dict(state)
    return filled


def check(model: nn.Module, x: torch.Tensor, *classes: int) -> int:
    """Refuse a model that breaks the contract: images in [0,1] -> finite logits (n, classes), deterministic, differentiable to the input.

    Args:
        classes: the numbers of outputs that will do.
    Returns:
        the one that the model has.
    Raises:
        InputError: with the one sentence that says which part is broken.
    """
    if model.training:
        raise InputError("The model is in train mode: call model.eval() first, or its answers change with the batch.")
    x = x.detach().clone().requires_grad_()
    try:
        logits = model(x)
    except RuntimeError as error:
        raise InputError(f"The model cannot read images of shape {tuple(x.shape[1:])}: {str(error).splitlines()[0]}") from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] not in classes:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        needed = " or ".join(str((len(x), k)) for k in classes)
        raise InputError(f"The model returns {shape} for {len(x)} images of {classes[0]} classes; logits of shape {needed} are needed.")
    if not torch.isfinite(logits).all():
        raise InputError("The model returns NaN or infinite logits.")
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(len(x), device=x.device, dtype=logits.dtype), atol=1e-3):
        raise InputError("The model returns probabilities, not logits: remove its softmax, the attacks apply their own.")
    if not torch.equal(logits, model(x)):
        raise InputError("The model answers the same images differently twice: its eval mode must be deterministic.")
    if not logits.requires_grad:
        raise InputError("The model's logits carry no gradient to the image: the attacks need one.")
    gradient = torch.autograd.grad(logits.sum(), x)[0]
    if not torch.isfinite(gradient).all():
        raise InputError("The model's gradient with respect to the image is NaN or infinite.")
    return logits.shape[1]


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, *, batch: int = 512) -> torch.Tensor:
    """Logits (n,k) of images (n,c,h,w), uint8 or float in [0,1], in batches."""
    return torch.cat([model(to_float(part)) for part in x.split(batch)]) if len(x) else torch.empty(0)


@contextmanager
def taps(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, each forward pass leaves the outputs of the named modules in the dict; no hook stays behind, also after an exception.

    Names are those of `model.named_modules()`; for our own networks the "body." in front may be left out.
    """
    modules = dict(model.named_modules())
    found, handles = {}, []
    try:
        for name in names:
            module = next((modules[prefix + name] for prefix in ("", "body.", "body.body.") if prefix + name in modules), None)
            if module is None:
                raise InputError(f"The model has no module {name!r}: choose among {', '.join(n for n in modules if n)}.")
            handles.append(module.register_forward_hook(lambda _m, _i, out, name=name: found.__setitem__(name, out)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


class Counted(nn.Module):
    """A model that counts image-passes: `forwards` and `backwards` grow by the batch size with each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0
        self.train(model.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.model(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)
