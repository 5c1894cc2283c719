"""What the attacks share: gradients for the input alone, steps and projections, randomness by (seed, index), checks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils import InputError

NORMS = ("linf", "l2")


def _gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, *, logits: bool = False):
    """Gradient of each image's cross-entropy with respect to that image; with `logits`, and the logits of the same pass."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        z = model(x)
        loss = cross_entropy(z, labels, reduction="sum")
    gradient = torch.autograd.grad(loss, x)[0]
    return (gradient, z.detach()) if logits else gradient


def _unfinished(model: nn.Module, x: torch.Tensor, logits: torch.Tensor, inside: torch.Tensor,
                backwards: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Before so many backward passes: the images, logits and mask of those `inside`, read once more without the others where that is cheaper."""
    if inside.sum() * (1 + backwards) >= len(x) * backwards:
        return x, logits, inside
    x = x.detach()[inside].requires_grad_()
    return x, model(x), torch.ones(len(x), dtype=torch.bool, device=x.device)


def _direction(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The unit step that raises the loss most: the sign for l-infinity, the normalised gradient for l2; zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    gradient = gradient / per_image(gradient, lambda g: g.abs().amax(1)).clamp_min(tiny)  # or squares of small gradients underflow
    return gradient / per_image(gradient, lambda g: g.norm(dim=1)).clamp_min(tiny)


def _project(delta: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    if norm == "linf":
        return delta.clamp(-eps, eps)
    size = per_image(delta, lambda d: d.norm(dim=1))
    return delta * (eps / size.clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)


def _step(x: torch.Tensor, x_adv: torch.Tensor, move: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """`x_adv` moved, then brought back into the box and the ball of radius `eps` around `x`."""
    x_adv = (x_adv + move).clamp(0, 1)
    return (x + _project(x_adv - x, eps, norm)).clamp(0, 1)


def per_image(x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`function` of the flattened images (n, m) -> (n,), shaped to multiply images."""
    return function(x.flatten(1)).view(-1, *[1] * (x.dim() - 1))


def _unit_ball(x: torch.Tensor, index: torch.Tensor, seed: int, norm: str) -> torch.Tensor:
    """A point a image, uniform in the unit ball of the norm, from a generator keyed by (seed, index)."""
    points = np.empty(x.shape)
    for point, number in zip(points, index.tolist(), strict=True):
        rng = np.random.default_rng([seed, 5, number])
        if norm == "linf":
            point[...] = rng.uniform(-1, 1, point.shape)
        else:
            point[...] = rng.standard_normal(point.shape)
            point *= rng.random() ** (1 / point.size) / np.linalg.norm(point)
    return torch.from_numpy(points).to(x)


def _numbers(x: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    return torch.arange(len(x)) if index is None else index


def _check(model: nn.Module, x: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None, norm: str, **sizes: float) -> None:
    """One sentence for what would otherwise give a wrong picture without a word."""
    if model.training:
        raise InputError("The model is in train mode: call model.eval() first.")
    if not x.is_floating_point() or x.dim() != 4:
        raise InputError(f"x must be float images (n,c,h,w), but is {x.dtype} of shape {tuple(x.shape)}.")
    low, high = (x.min().item(), x.max().item()) if x.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise InputError(f"x must lie in [0,1] but reaches from {low:.3g} to {high:.3g}: pass un-normalised images; the model normalises itself.")
    for name, labels in (("y", y), ("target", target)):
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != (len(x),)):
            raise InputError(f"{name} must hold {len(x)} int64 labels, but is {labels.dtype} of shape {tuple(labels.shape)}.")
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is unknown: choose one of {', '.join(NORMS)}.")
    for name, size in sizes.items():
        if not (np.isfinite(size) and size >= 0):
            raise InputError(f"{name} must be finite and not negative, but is {size}.")
