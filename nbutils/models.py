"""Networks that take images in [0,1] and return logits; they normalise inside. Feature taps by module name."""

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from nbutils import InputError
from nbutils.data import to_float


class Normalised(nn.Module):
    """`body` behind a normalisation: (x - mean) / std, channel by channel."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body((x - self.mean) / self.std)


def digits_net(shape: tuple[int, int, int], outputs: int, width: float = 1.0) -> nn.Sequential:
    """Two convolutions of stride 2 (16, 32 filters), one hidden layer of 64: for the embedded digits."""
    c, h, w = shape
    a, b = _widths(width, 16, 32)
    return _sequence(
        ("conv1", nn.Conv2d(c, a, 5, 2, 2)), ("relu1", nn.ReLU()), ("conv2", nn.Conv2d(a, b, 5, 2, 2)), ("relu2", nn.ReLU()),
        ("flatten", nn.Flatten()), ("fc1", nn.Linear(b * -(-h // 4) * -(-w // 4), 64)), ("relu3", nn.ReLU()), ("fc2", nn.Linear(64, outputs)),
    )


def cifar_net(shape: tuple[int, int, int], outputs: int, width: float = 1.0, *, depth: int = 6) -> nn.Sequential:
    """Paper 000's CIFAR-10 network: 3x3 convolutions 2x32, 2x64, 2x128 with a pool after each pair, 128 hidden units, dropout .6.

    Differs from the paper: `depth=6`; its figure 3 prints every pair twice, which is `depth=12`, and "63", a misprint of 64.
    """
    return _pooled(shape, outputs, [(f, depth // 3) for f in _widths(width, 32, 64, 128)], hidden=[128])


def vgg11(shape: tuple[int, int, int], outputs: int, width: float = 1.0) -> nn.Sequential:
    """VGG11 for small pictures: eight 3x3 convolutions with batch normalisation, five pools, 512 hidden units."""
    blocks = list(zip(_widths(width, 64, 128, 256, 512, 512), (1, 1, 2, 2, 2), strict=True))
    return _pooled(shape, outputs, blocks, hidden=_widths(width, 512), norm=True)


def _pooled(shape: tuple[int, int, int], outputs: int, blocks: list[tuple[int, int]], *, hidden: Sequence[int], norm: bool = False,
            dropout: float = 0.6) -> nn.Sequential:
    """Blocks of 3x3 "same" convolutions, each closed by a 2x2 pool (a side of 1 is not pooled), then dense layers behind dropout."""
    layers: list[tuple[str, nn.Module]] = []
    c, h, w = shape
    for i, (filters, repeats) in enumerate(blocks, 1):
        for j in range(1, repeats + 1):
            layers += [(f"conv{i}_{j}", nn.Conv2d(c, filters, 3, padding=1, bias=not norm))]
            layers += [(f"norm{i}_{j}", nn.BatchNorm2d(filters))] if norm else []
            layers += [(f"relu{i}_{j}", nn.ReLU())]
            c = filters
        if min(h, w) > 1:
            layers.append((f"pool{i}", nn.MaxPool2d(2)))
            h, w = h // 2, w // 2
    layers.append(("flatten", nn.Flatten()))
    sizes = [c * h * w, *hidden]
    for i, (a, b) in enumerate(pairwise(sizes), 1):
        layers += [(f"drop{i}", nn.Dropout(dropout)), (f"fc{i}", nn.Linear(a, b)), (f"relu_fc{i}", nn.ReLU())]
    return _sequence(*layers, ("drop", nn.Dropout(dropout)), ("out", nn.Linear(sizes[-1], outputs)))


def _sequence(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _widths(width: float, *filters: int) -> list[int]:
    return [max(4, round(width * f)) for f in filters]


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"digits_net": digits_net, "cifar_net": cifar_net, "vgg11": vgg11}


def build(name: str, shape: tuple[int, int, int], outputs: int, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,),
          width: float = 1.0, seed: int = 0) -> Normalised:
    """A fresh network of ARCHITECTURES with weights drawn from `seed`, normalising with `mean` and `std` (one value, or one a channel)."""
    if name not in ARCHITECTURES:
        raise InputError(f"MODEL {name!r} is unknown: choose one of {', '.join(ARCHITECTURES)}, or name your own as package.module:factory.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Normalised(ARCHITECTURES[name](shape, outputs, width), mean, std).eval()


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
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"WEIGHTS {path.name} does not fit the model: {' '.join(str(error).split())[:200]}") from error


def _first(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0][:150]


def check(model: nn.Module, x: torch.Tensor, classes: int) -> None:
    """Refuse a model that breaks the contract: images in [0,1] -> finite logits (n, classes), deterministic, differentiable to the input.

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
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(x), classes):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(f"The model returns {shape} for {len(x)} images of {classes} classes; logits of shape {(len(x), classes)} are needed.")
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
            module = modules.get(name, modules.get(f"body.{name}"))
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
