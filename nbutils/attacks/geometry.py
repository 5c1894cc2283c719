"""Directions, balls and boxes: the moves that attacks are made of."""

from collections.abc import Callable

import torch


def per_image(x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`function` of the flattened images (n,m) -> (n,), shaped to multiply images."""
    return function(x.flatten(1)).view(-1, *[1] * (x.dim() - 1))


def l2_norm(x: torch.Tensor) -> torch.Tensor:
    """The l2 norm of each image, shaped to multiply images."""
    return per_image(x, lambda flat: flat.norm(dim=1))


def direction(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The unit step that raises the loss most: the sign for l-infinity, the normalised gradient for
    l2.

    It is zero where the gradient is.
    """
    if norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    largest = per_image(gradient, lambda flat: flat.abs().amax(1))
    gradient = gradient / largest.clamp_min(tiny)  # or squares of small gradients underflow
    return gradient / l2_norm(gradient).clamp_min(tiny)


def project(delta: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """A perturbation brought into the ball of radius `eps`."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / l2_norm(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)


def step_inside(
    x: torch.Tensor, x_adv: torch.Tensor, move: torch.Tensor, eps: float, norm: str
) -> torch.Tensor:
    """`x_adv` moved, then brought back into [0,1] and the ball of radius `eps` around `x`."""
    x_adv = (x_adv + move).clamp(0, 1)
    return (x + project(x_adv - x, eps, norm)).clamp(0, 1)
