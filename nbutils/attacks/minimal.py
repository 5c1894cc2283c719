"""Attacks that look for the smallest l2 perturbation: Carlini and Wagner's, DeepFool, DDN.

An image on which the search fails is returned unchanged by `carlini_wagner_l2` and `ddn`, and where it stopped by `deepfool`.
"""

import math

import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.base import _check, _direction, _gradient, _numbers, _unfinished, _unit_ball, per_image


def carlini_wagner_l2(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
                      seed: int = 0, search_steps: int = 9, steps: int = 1000, lr: float = 0.005, const: float = 0.01, confidence: float = 0.0,
                      abort: bool = True) -> torch.Tensor:
    """Carlini and Wagner's l2 attack (2017): Adam on ||x' - x||^2 + c max(0, margin + confidence), x' = (tanh w + 1) / 2.

    The constant c is searched image by image in `search_steps` rounds of `steps` steps, from `const` upwards by tens until one works, then by
    halving. Variable and Adam begin anew in each round. Distances are to the image itself, not to its copy through tanh.
    Args:
        confidence: how far the other logit must lead.
        abort: an image whose loss has not fallen by 1/10,000 over a tenth of the steps leaves the round; the others do not notice.
    Returns:
        the nearest adversarial image that any step passed; the image itself where none did.
    """
    _check(model, x, y, target, "l2", lr=lr, const=const, confidence=confidence)
    _counts(search_steps=search_steps, steps=steps)
    targeted, labels = target is not None, y if target is None else target
    n, best = len(x), x.clone()
    smallest = torch.full((n,), torch.inf, dtype=x.dtype, device=x.device)
    c, low, high = torch.full_like(smallest, const), torch.zeros_like(smallest), torch.full_like(smallest, torch.inf)
    start = torch.atanh((2 * x - 1) * (1 - 1e-6))
    for turn in range(search_steps):
        if turn == search_steps - 1 and search_steps >= 10:
            c = torch.where(high.isfinite(), high, c)
        found = torch.zeros(n, dtype=torch.bool, device=x.device)
        rows, w, first, second = torch.arange(n, device=x.device), start, torch.zeros_like(x), torch.zeros_like(x)
        origin, before = x, torch.full_like(smallest, torch.inf)
        for step in range(1, steps + 1):
            tanh = w.tanh()
            x_adv = (tanh + 1).div_(2).requires_grad_()
            with torch.enable_grad():
                lead = _lead(model(x_adv), labels[rows], targeted)
                hinge = (confidence - lead).clamp_min(0)
                gradient = torch.autograd.grad((c[rows] * hinge).sum(), x_adv)[0] if step < steps else None
            x_adv, delta = x_adv.detach(), x_adv.detach() - origin
            size = delta.flatten(1).square().sum(1)
            hit = (lead.detach() > 0) & (lead.detach() >= confidence)
            better = hit & (size < smallest[rows])
            best[rows[better]] = x_adv[better]
            smallest[rows] = torch.where(better, size, smallest[rows])
            found[rows] |= hit
            if gradient is None:
                break
            gradient = gradient.add_(delta.mul_(2)).mul_(1 - tanh.square_()).div_(2)
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_((0.001 * gradient).mul_(gradient))
            w = w - (first / (1 - 0.9**step)).mul_(lr).div_((second / (1 - 0.999**step)).sqrt_().add_(1e-8))
            if abort and step % max(1, steps // 10) == 0:
                loss = size + c[rows] * hinge.detach()
                going = loss < 0.9999 * before
                before = loss
                if not going.all():
                    rows, w, first, second, origin, before = (t[going] for t in (rows, w, first, second, origin, before))
                    if not len(rows):
                        break
        low, high = torch.where(found, low, c), torch.where(found, torch.minimum(high, c), high)
        c = torch.where(high.isfinite(), (low + high) / 2, c * 10)
    return best


def _lead(logits: torch.Tensor, labels: torch.Tensor, targeted: bool) -> torch.Tensor:
    """(n,) how far the logit that should win leads: the largest other one over `labels`', or `labels`' over the largest other one."""
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - other if targeted else other - own


def deepfool(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
             seed: int = 0, steps: int = 50, overshoot: float = 0.02, candidates: int = 10) -> torch.Tensor:
    """DeepFool (Moosavi-Dezfooli et al. 2016): step to the nearest border of the linearised classifier until the label `y` is left.

    Args:
        candidates: the classes of the largest logits at the current point, `y` among them, whose borders are looked at.
        overshoot: share by which the *total* perturbation is stretched, in the loop, so that what is tested is what is returned.
    Returns:
        the first point that is not read as `y`; where `steps` did not suffice, the last one, still read as `y`.
    Raises:
        InputError: a target is given: the attack has none.
    """
    _check(model, x, y, target, "l2", overshoot=overshoot)
    _counts(steps=steps, candidates=candidates - 1)
    if target is not None:
        raise InputError("DeepFool has no targeted form: use ddn or carlini_wagner_l2.")
    out = x.clone()
    rows, origin, labels, total, x_adv = torch.arange(len(x), device=x.device), x, y, torch.zeros_like(x), x
    for step in range(steps + 1):
        part = max(1, math.ceil(len(rows) / (4 if step else 1)))  # those nearest to their border together: they finish together
        found = [_borders(model, now, of, candidates, step < steps) for now, of in zip(x_adv.split(part), labels.split(part), strict=True)]
        inside, f, w = (torch.cat(parts) for parts in zip(*found, strict=True))
        if step == steps or not inside.any():
            return out
        rows, origin, labels, total = (t[inside] for t in (rows, origin, labels, total))
        scale = w.abs().amax(2, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)  # or squares of small gradients underflow
        norm = (w / scale).norm(dim=2) * scale[..., 0]
        distance = torch.where(norm > 0, f.abs() / norm, torch.inf)
        nearest = distance.argmin(1, keepdim=True)
        length = distance.gather(1, nearest)
        length = length + 1e-4 * (length == 0 if step == 0 else 1)  # later steps shrink below what the numbers' precision can take
        unit = (w / scale).gather(1, nearest[..., None].expand(-1, -1, w.shape[2]))[:, 0]
        unit = unit / unit.norm(dim=1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
        step_size = torch.where(length.isfinite(), length, 0)
        total = total + (step_size * unit).view_as(total)
        order = length[:, 0].argsort()
        rows, origin, labels, total = (t[order] for t in (rows, origin, labels, total))
        x_adv = (origin + (1 + overshoot) * total).clamp(0, 1)
        total = (x_adv - origin) / (1 + overshoot)  # what the box took away is no part of the perturbation
        out[rows] = x_adv
    return out


def _borders(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, candidates: int,
             gradients: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which images (n,) are still read as `labels`; and of those the lead (i,k) of each of the k nearest classes and its gradient (i,k,m)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        inside, k = logits.argmax(1) == labels, min(candidates, logits.shape[1]) - 1
        if not gradients or not inside.any():
            return inside, x.new_empty(0, k), x.new_empty(0, k, x[:1].numel())
        x, logits, rows = _unfinished(model, x, logits, inside, k)
        logits, labels = logits[rows], labels[inside]
        others = logits.detach().scatter(1, labels[:, None], -torch.inf).topk(k, 1).indices
        ahead = logits.gather(1, others) - logits.gather(1, labels[:, None])  # negative: how far each border is
        w = [torch.autograd.grad(ahead[:, i].sum(), x, retain_graph=i + 1 < k)[0][rows].flatten(1) for i in range(k)]
    return inside, ahead.detach(), torch.stack(w, 1)


def ddn(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
        seed: int = 0, steps: int = 100, gamma: float = 0.05, init_norm: float = 1.0, levels: int = 256) -> torch.Tensor:
    """Decoupled direction and norm (Rony et al. 2019): gradient steps on a sphere that shrinks when the point is adversarial, else grows.

    Args:
        gamma: share by which the radius changes at each step. init_norm: the first radius.
        levels: of the stored picture (256: every point that is tried has 8 bits); 0 for none.
    Returns:
        the nearest adversarial point that was tried; the image itself where none was, and where it is adversarial already.
    """
    _check(model, x, y, target, "l2", gamma=gamma, init_norm=init_norm)
    _counts(steps=steps)
    if levels and (levels < 2 or levels != int(levels)):
        raise InputError(f"levels must be 0 (no rounding) or 2 and more, but is {levels}.")
    targeted, labels, sign = (True, target, -1) if target is not None else (False, y, 1)
    best, numbers = x.clone(), _numbers(x, index)
    smallest = torch.full((len(x), 1, 1, 1), torch.inf, dtype=x.dtype, device=x.device)
    eps, cap = torch.full_like(smallest, init_norm), per_image(torch.maximum(x, 1 - x), lambda d: d.norm(dim=1))
    x_adv, delta = x, torch.zeros_like(x)
    for step in range(steps):
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        gradient, logits = _gradient(model, x_adv, labels, logits=True)
        read = logits.argmax(1) == labels
        hit = (read if targeted else ~read).view(-1, 1, 1, 1)
        size = per_image(delta, lambda d: d.norm(dim=1))
        better = hit & (size < smallest)
        best, smallest = torch.where(better, x_adv, best), torch.where(better, size, smallest)
        direction = _direction(gradient, "l2")
        lost = direction.flatten(1).norm(dim=1) == 0
        if lost.any():  # no gradient: any direction will do, drawn for the image
            direction[lost] = _direction(_unit_ball(x[lost], numbers[lost], seed + step, "l2"), "l2")
        delta = direction.mul_(sign * rate).add_(delta)
        eps = torch.minimum(eps * torch.where(hit, 1 - gamma, 1 + gamma), cap)
        delta *= eps / per_image(delta, lambda d: d.norm(dim=1)).clamp_min(torch.finfo(x.dtype).tiny)
        x_adv = delta.add_(x).clamp_(0, 1)
        if levels:
            x_adv = x_adv.mul_(levels - 1).round_().div_(levels - 1)
        delta = x_adv - x
    return best


def _counts(**counts: int) -> None:
    for name, count in counts.items():
        if count != int(count) or count < 1:
            raise InputError(f"{name} must be a whole number from 1 (candidates: from 2), but is {count}.")
