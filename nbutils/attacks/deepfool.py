"""DeepFool (Moosavi-Dezfooli et al. 2016)."""

import math

import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.contract import attack, counts, sizes
from nbutils.attacks.objective import Objective
from nbutils.attacks.unfinished import unfinished


@attack
def deepfool(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
) -> torch.Tensor:
    """Step to the nearest border of the linearised classifier until the label `y` is left.

    Args:
        steps: at most so many linearisations (50 in the authors' code; paper 000 takes 2).
        overshoot: share by which the *total* perturbation is stretched, in the loop, so that what
            is tested is what is returned (.02 in the paper).
        candidates: the classes of the largest logits at the current point, `y` among them, whose
            borders are looked at (10 in the authors' code).
    Returns:
        the first point that is not read as `y`; where `steps` did not suffice, the last one, still
        read as `y`.
    Raises:
        InputError: a target is given: the attack has none.
    """
    sizes(overshoot=overshoot)
    counts(steps=steps, candidates=candidates - 1)
    if target is not None:
        raise InputError("DeepFool has no targeted form: use ddn or carlini_wagner_l2.")
    out = x.clone()
    rows, origin, labels, total, x_adv = (
        torch.arange(len(x), device=x.device),
        x,
        y,
        torch.zeros_like(x),
        x,
    )
    for step in range(steps + 1):
        part = max(
            1, math.ceil(len(rows) / (4 if step else 1))
        )  # those nearest to their border together: they finish together
        found = [
            _borders(model, now, of, candidates, step < steps, objective)
            for now, of in zip(x_adv.split(part), labels.split(part), strict=True)
        ]
        inside, f, w = (torch.cat(parts) for parts in zip(*found, strict=True))
        if step == steps or not inside.any():
            return out
        rows, origin, labels, total = (t[inside] for t in (rows, origin, labels, total))
        scale = (
            w.abs().amax(2, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
        )  # or squares of small gradients underflow
        norm = (w / scale).norm(dim=2) * scale[..., 0]
        distance = torch.where(norm > 0, f.abs() / norm, torch.inf)
        nearest = distance.argmin(1, keepdim=True)
        length = distance.gather(1, nearest)
        length = length + 1e-4 * (
            length == 0 if step == 0 else 1
        )  # later steps shrink below what the numbers' precision can take
        unit = (w / scale).gather(1, nearest[..., None].expand(-1, -1, w.shape[2]))[:, 0]
        unit = unit / unit.norm(dim=1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
        step_size = torch.where(length.isfinite(), length, 0)
        total = total + (step_size * unit).view_as(total)
        order = length[:, 0].argsort()
        rows, origin, labels, total = (t[order] for t in (rows, origin, labels, total))
        x_adv = (origin + (1 + overshoot) * total).clamp(0, 1)
        total = (x_adv - origin) / (
            1 + overshoot
        )  # what the box took away is no part of the perturbation
        out[rows] = x_adv
    return out


def _borders(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    candidates: int,
    gradients: bool,
    objective: Objective,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which images (n,) are still read as `labels`; and of those the lead (i,k) of each of the k
    nearest classes and its gradient (i,k,m).
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        inside, k = (
            ~objective.success(logits, x, labels, False),
            min(candidates, logits.shape[1]) - 1,
        )
        if not gradients or not inside.any():
            return inside, x.new_empty(0, k), x.new_empty(0, k, x[:1].numel())
        x, logits, rows = unfinished(model, x, logits, inside, k)
        logits, labels = logits[rows], labels[inside]
        others = logits.detach().scatter(1, labels[:, None], -torch.inf).topk(k, 1).indices
        ahead = logits.gather(1, others) - logits.gather(
            1, labels[:, None]
        )  # negative: how far each border is
        w = [
            torch.autograd.grad(ahead[:, i].sum(), x, retain_graph=i + 1 < k)[0][rows].flatten(1)
            for i in range(k)
        ]
    return inside, ahead.detach(), torch.stack(w, 1)
