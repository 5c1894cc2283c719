"""Attacks that take steps along the loss's gradient, within a budget: FGSM, BIM, MIM, PGD (whole
and stopped at its first success), iterative l2.
"""

import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.contract import attack, sizes, unit_ball
from nbutils.attacks.geometry import direction, per_image, step_inside
from nbutils.attacks.objective import Objective, loss_gradient


@attack
def fgsm(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    eps: float,
    norm: str = "linf",
) -> torch.Tensor:
    """Fast gradient sign method (Goodfellow et al. 2014): one step along the gradient's sign.

    Args:
        eps: size of the step, in [0,1] units of a value (linf) or of the whole image's l2 norm.
        norm: linf, or l2 for the gradient's direction in place of its sign.
    """
    sizes(eps=eps)
    labels = y if target is None else target
    gradient, _ = loss_gradient(model, x, labels, target is not None, objective)
    return (x + eps * direction(gradient, norm)).clamp(0, 1)


@attack
def pgd(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    eps: float,
    step: float,
    steps: int,
    norm: str = "linf",
    random_start: bool = True,
) -> torch.Tensor:
    """Projected gradient descent (Madry et al. 2018): steps, each projected onto the ball.

    Args:
        eps, step: radius and size of a step, in [0,1] units of a value (linf) or of the image's l2
            norm.
        steps: how many.
        random_start: begin at a point drawn uniformly from the ball, a function of (seed, index).
    Returns:
        the last iterate, within `eps` of `x` and in [0,1].
    """
    sizes(eps=eps, step=step, steps=steps)
    labels, x_adv = y if target is None else target, x.clone()
    if random_start:
        x_adv = (x + eps * unit_ball(x, index, seed, norm)).clamp(0, 1)
    for _ in range(steps):
        gradient, _ = loss_gradient(model, x_adv, labels, target is not None, objective)
        x_adv = step_inside(x, x_adv, step * direction(gradient, norm), eps, norm)
    return x_adv


@attack
def pgd_early_stopped(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    eps: float,
    step: float,
    steps: int,
    norm: str = "linf",
    random_start: bool = True,
) -> torch.Tensor:
    """PGD whose images stop at their first success, and leave the batch: they lie just behind the
    border, where the whole of PGD goes on (Zhang et al. 2020).

    Args:
        eps, step, steps, norm, random_start: as of PGD.
    Returns:
        the first of PGD's iterates, its start among them, that succeeded; of an image on which none
        did, the last one.
    """
    sizes(eps=eps, step=step, steps=steps)
    targeted, labels, out = target is not None, y if target is None else target, x.clone()
    if random_start:
        out = (x + eps * unit_ball(x, index, seed, norm)).clamp(0, 1)
    rows, origin, x_adv = torch.arange(len(x), device=x.device), x, out
    for _ in range(steps):
        gradient, logits = loss_gradient(model, x_adv, labels, targeted, objective)
        going = ~objective.success(logits, x_adv, labels, targeted)
        rows, origin, labels = rows[going], origin[going], labels[going]
        if not len(rows):
            break
        move = step * direction(gradient[going], norm)
        x_adv = step_inside(origin, x_adv[going], move, eps, norm)
        out[rows] = x_adv
    return out


@attack
def bim(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    eps: float,
    step: float,
    steps: int = 10,
    norm: str = "linf",
) -> torch.Tensor:
    """Basic iterative method (Kurakin et al. 2016): PGD from the image itself; knobs as there."""
    knobs = {"eps": eps, "step": step, "steps": steps, "norm": norm, "random_start": False}
    return pgd(model, x, y, target=target, objective=objective, **knobs)


@attack
def mim(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    eps: float,
    step: float,
    steps: int = 10,
    decay: float = 1.0,
    norm: str = "linf",
) -> torch.Tensor:
    """Momentum iterative method (Dong et al. 2018): BIM along a running sum of gradients.

    Each gradient is divided by its mean absolute value before it is added.

    Args:
        eps, step, steps, norm: as of PGD.
        decay: share of the sum that is kept from step to step.
    """
    sizes(eps=eps, step=step, steps=steps, decay=decay)
    labels, tiny = y if target is None else target, torch.finfo(x.dtype).tiny
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        gradient, _ = loss_gradient(model, x_adv, labels, target is not None, objective)
        mean = per_image(gradient, lambda flat: flat.abs().mean(1)).clamp_min(tiny)
        momentum = decay * momentum + gradient / mean
        x_adv = step_inside(x, x_adv, step * direction(momentum, norm), eps, norm)
    return x_adv


@attack
def iterative_l2(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    eps: float,
    step: float,
    steps: int = 10,
    norm: str = "l2",
    surface: str = "sphere",
) -> torch.Tensor:
    """Paper 002's iterative l2 attack, from the image itself.

    Args:
        eps, step: l2 norm of the whole perturbation and of a step, in [0,1] units. steps: how many.
        surface: "sphere": after each step the perturbation is scaled to `eps` exactly, as the
            library did that 002 cites (cleverhans 2.0.0); "ball": to at most `eps`.
    """
    if surface not in ("sphere", "ball") or norm != "l2":
        raise InputError(
            f"surface {surface!r} with norm {norm!r} is unknown: choose sphere or ball, with l2."
        )
    if surface == "ball":
        knobs = {"eps": eps, "step": step, "steps": steps, "norm": "l2"}
        return bim(model, x, y, target=target, objective=objective, **knobs)
    sizes(eps=eps, step=step, steps=steps)
    labels, x_adv = y if target is None else target, x.clone()
    for _ in range(steps):
        gradient, _ = loss_gradient(model, x_adv, labels, target is not None, objective)
        delta = x_adv + step * direction(gradient, "l2") - x
        x_adv = (x + eps * direction(delta, "l2")).clamp(0, 1)
    return x_adv
