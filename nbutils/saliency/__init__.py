"""Saliency: what a classifier looks at, as a map of the image. `MAPS` are computed from the classifier alone; `learned` is a network of its own."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, interpolate

from nbutils import InputError
from nbutils.models import taps
from nbutils.saliency.learned import SaliencyModel, fit, quality, scales, stand_ins

# What is derived, of logits (n,k) and labels (n,): one number an image.
OUTPUTS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "logit": lambda logits, labels: logits.gather(1, labels[:, None])[:, 0],
    "softmax": lambda logits, labels: logits.softmax(1).gather(1, labels[:, None])[:, 0],
    "cross_entropy": lambda logits, labels: cross_entropy(logits, labels, reduction="none"),
}


def gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *, of: str = "logit", create_graph: bool = False) -> torch.Tensor:
    """The Jacobian's row of one class, signed, shaped like `x` (papers 000 and 002).

    Args:
        labels: (n,) the class that is derived; None: the model's own prediction, as in the papers.
        of: logit (the papers' choice), softmax (000: it underflows) or cross_entropy.
        create_graph: keep the graph, so that a detector on this map can itself be differentiated.
    """
    if of not in OUTPUTS:
        raise InputError(f"of={of!r} is unknown: choose one of {', '.join(OUTPUTS)}.")
    if not (create_graph and x.requires_grad):
        x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        chosen = OUTPUTS[of](logits, logits.argmax(1) if labels is None else labels).sum()
    return torch.autograd.grad(chosen, x, create_graph=create_graph)[0]


def in_float64(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model as a function of float64 images, computed in float64."""
    named = dict([*model.named_parameters(), *model.named_buffers()])
    return partial(functional_call, model, {name: value.double() if value.is_floating_point() else value for name, value in named.items()})


def gradient_map(model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *, of: str = "logit") -> torch.Tensor:
    """Map (n,1,h,w) of the gradient's size: at each pixel the largest over the channels (Simonyan et al. 2013)."""
    return gradient(model, x, labels, of=of).abs().amax(1, keepdim=True)


def grad_cam(model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *, layer: str = "") -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017): the channels of a layer, weighted by the mean gradient of the class's logit, rectified.

    Args:
        layer: the layer's name; empty: the last whose output is a picture of more than one pixel and not made by a pool or dropout (of a
            SqueezeNet that is its map of class scores; "features" is the usual choice).
    Returns:
        (n,1,h,w) at the layer's resolution brought to the image's (bilinear), >= 0, not scaled.
    """
    if not layer:
        made = [name for name, _, module in scales(model, x[:1], every=True) if not any(w in type(module).__name__ for w in ("Pool", "Dropout"))]
        if not made:
            raise InputError(f"{type(model).__name__} has no layer for Grad-CAM but pools: name one.")
        layer = made[-1]
    with torch.enable_grad(), taps(model, [layer]) as found:
        logits = model(x.detach().requires_grad_())
        chosen = OUTPUTS["logit"](logits, logits.argmax(1) if labels is None else labels).sum()
        weights = torch.autograd.grad(chosen, found[layer])[0].mean((2, 3), keepdim=True)
    cam = (weights * found[layer].detach()).sum(1, keepdim=True).relu()
    return interpolate(cam, x.shape[2:], mode="bilinear")


MAPS: dict[str, Callable[..., torch.Tensor]] = {
    **{f"{of}_gradient": partial(gradient_map, of=of) for of in OUTPUTS},
    "grad_cam": grad_cam,
}


@torch.no_grad()
def maps(function: Callable[..., torch.Tensor], model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *,
         batch: int = 256) -> torch.Tensor:
    """`function(model, x, labels)` in batches, without a graph."""
    parts = [function(model, x[i:i + batch], None if labels is None else labels[i:i + batch]) for i in range(0, len(x), batch)]
    return torch.cat([part.detach() for part in parts])


def normalised(maps: torch.Tensor) -> torch.Tensor:
    """Each map divided by its own largest size; a map of zeros stays one."""
    return maps / maps.abs().flatten(1).amax(1).clamp_min(torch.finfo(maps.dtype).tiny)[:, None, None, None]


__all__ = ["MAPS", "OUTPUTS", "SaliencyModel", "fit", "grad_cam", "gradient", "gradient_map", "in_float64", "maps", "normalised", "quality", "scales",
           "stand_ins"]
