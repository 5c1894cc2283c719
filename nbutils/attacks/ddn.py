"""Decoupled direction and norm (Rony et al. 2019)."""

import math

import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.contract import attack, counts, sizes, unit_ball
from nbutils.attacks.geometry import direction, l2_norm
from nbutils.attacks.objective import Objective, loss_gradient
from nbutils.data.images import to_levels


@attack
def ddn(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    steps: int = 100,
    gamma: float = 0.05,
    init_norm: float = 1.0,
    levels: int = 256,
) -> torch.Tensor:
    """Gradient steps on a sphere that shrinks when the point is adversarial, else grows.

    All images take all steps: each looks for a nearer point to the end. The step's length falls
    from 1 to .01 by a cosine. Source: Rony et al. 2019, whose values the defaults are.

    Args:
        steps: how many gradient steps.
        gamma: share by which the radius changes at each step.
        init_norm: the first radius, the l2 norm of the whole perturbation in [0,1] units.
        levels: of the stored picture (256: every point that is tried has 8 bits); 0 for none.
    Returns:
        the nearest adversarial point that was tried; the image itself where none was, and where it
        is adversarial already.
    """
    sizes(gamma=gamma, init_norm=init_norm)
    counts(steps=steps)
    if levels and (levels < 2 or levels != int(levels)):
        raise InputError(f"levels must be 0 (no rounding) or 2 and more, but is {levels}.")
    targeted, labels = target is not None, y if target is None else target
    best = x.clone()
    smallest = torch.full((len(x), 1, 1, 1), torch.inf, dtype=x.dtype, device=x.device)
    eps, cap = torch.full_like(smallest, init_norm), l2_norm(torch.maximum(x, 1 - x))
    x_adv, delta = x, torch.zeros_like(x)
    for step in range(steps):
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        gradient, logits = loss_gradient(model, x_adv, labels, targeted, objective)
        hit = objective.success(logits, x_adv, labels, targeted).view(-1, 1, 1, 1)
        size = l2_norm(delta)
        better = hit & (size < smallest)
        best, smallest = torch.where(better, x_adv, best), torch.where(better, size, smallest)
        unit = direction(gradient, "l2")
        lost = unit.flatten(1).norm(dim=1) == 0
        if lost.any():  # no gradient: any direction will do, drawn for the image
            unit[lost] = direction(unit_ball(x[lost], index[lost.cpu()], seed + step, "l2"), "l2")
        delta += unit.mul_(rate)  # laid out as the images are, whatever the gradient is
        eps = torch.minimum(eps * torch.where(hit, 1 - gamma, 1 + gamma), cap)
        delta *= eps / l2_norm(delta).clamp_min(torch.finfo(x.dtype).tiny)
        x_adv = delta.add_(x).clamp_(0, 1)
        if levels:
            x_adv = to_levels(x_adv, levels)
        delta = x_adv - x
    return best
