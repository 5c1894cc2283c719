"""JSMA (Papernot et al. 2016) with the true pair rule on pictures of any size."""

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.base import _check, _numbers, _unfinished

FEW = 512  # values whose pairs are all compared at once


def jsma(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
         seed: int = 0, theta: float = 1.0, gamma: float = 0.1, outputs: str = "logits") -> torch.Tensor:
    """Jacobian-based saliency map attack: change the two values that raise the target most and lower the others, until the target is read.

    With a = d z_t / dx and b = the sum of the other d z_j / dx, the pair of free values p, q with a_p + a_q > 0 and b_p + b_q < 0 and the
    largest -(a_p + a_q)(b_p + b_q) gets `theta` added (all signs turned for a negative theta), and is free no more. Values at the limit are
    not free. An image that has no such pair left, or has spent `gamma`, stays where it is. Of several best pairs any may be taken.
    Paper 002's equation 8 prints a rule for one value with both signs of the condition inverted; it is not this one.
    Args:
        target: (n,) the label to reach; None: one other than `y`, drawn for each image from (seed, index).
        gamma: largest share of values that are changed.
        outputs: "logits" (cleverhans from 3.1), or "probabilities" (cleverhans 2.1 to 3.0, paper 000), where b = -a and the best pair is
            the two largest a: their logarithm is differentiated, which has the same order and does not underflow.
    """
    _check(model, x, y, target, "linf", gamma=gamma)
    if outputs not in ("logits", "probabilities") or not (np.isfinite(theta) and theta != 0) or gamma > 1:
        raise InputError(f"jsma needs outputs 'logits' or 'probabilities', theta other than 0, gamma up to 1; got {outputs!r}, {theta}, {gamma}.")
    out, free = x.clone(memory_format=torch.contiguous_format), (x < 1 if theta > 0 else x > 0).flatten(1)
    rows = torch.arange(len(x), device=x.device)
    most = int(x[:1].numel() * gamma / 2)
    for step in range(most + 1):
        now = out[rows].requires_grad_()
        with torch.enable_grad():
            logits = model(now)
            if target is None:
                target = other_labels(y, logits.shape[1], _numbers(x, index), seed)
            going = logits.argmax(1) != target[rows]
            if step == most or not going.any():
                break
            rows = rows[going]
            now, logits, going = _unfinished(model, now, logits, going, 2 if outputs == "logits" else 1)
            logits = logits[going]
            z = (logits if outputs == "logits" else logits.log_softmax(1)).gather(1, target[rows][:, None])
            a = torch.autograd.grad(z.sum(), now, retain_graph=outputs == "logits")[0][going].flatten(1)
            b = torch.autograd.grad(logits.sum(), now)[0][going].flatten(1) - a if outputs == "logits" else -a  # probabilities sum to one
        if theta < 0:
            a, b = -a, -b
        pairs, valid = best_pairs(a, b, free[rows]) if outputs == "logits" else _two_largest(a, free[rows])
        rows, pairs = rows[valid], pairs[valid]
        if not len(rows):
            break
        flat = out.view(len(out), -1)
        flat[rows[:, None], pairs] = (flat[rows[:, None], pairs] + theta).clamp(0, 1)
        free[rows[:, None], pairs] = False
    return out


def best_pairs(a: torch.Tensor, b: torch.Tensor, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each image the pair p != q of free values that maximises -(a_p + a_q)(b_p + b_q), both factors of the right sign.

    Exact without the table of all pairs: some pair is found first, and a value can be in a better one only if, with the largest a and the
    smallest b there are, it could reach that pair's score. Of what is left only values that at most one other dominates (a not smaller, b not
    larger) are needed: of two that dominate p, one is not its partner and can take its place. The first pair itself dominates nearly all.
    Args:
        a, b: (n,m) derivatives of the target and of all others. free: (n,m) bool.
    Returns:
        pairs (n,2) of places, and (n,) whether there was one.
    """
    pairs = torch.zeros(len(a), 2, dtype=torch.long, device=a.device)
    valid = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    if a.shape[1] < 2:
        return pairs, valid
    a_free, b_free = a.masked_fill(~free, -torch.inf), b.masked_fill(~free, torch.inf)
    single = torch.where(free, a.clamp_min(0) * -b.clamp_max(0), -1.0)
    start = single.topk(2, 1).indices
    first_a, first_b = a_free.gather(1, start), b_free.gather(1, start)
    up, down = first_a.sum(1), first_b.sum(1)
    floor = torch.where((up > 0) & (down < 0), -(up * down), 0.0)
    dominated = (a < first_a.amin(1, keepdim=True)) & (b > first_b.amax(1, keepdim=True))
    reach = (a_free + a_free.amax(1, keepdim=True)).clamp_min(0) * -(b_free + b_free.amin(1, keepdim=True)).clamp_max(0)
    keep = free & ~dominated & (reach >= floor[:, None] * (1 - 1e-5)) & (reach > 0)
    for i in range(len(a)):
        places = keep[i].nonzero()[:, 0]
        p, q = a[i, places], b[i, places]
        if len(places) > FEW:
            few = _hardly_dominated(p, q)
            places, p, q = places[few], p[few], q[few]
        score, place = torch.zeros((), dtype=a.dtype, device=a.device), None
        for part in torch.arange(len(places), device=a.device).split(max(1, 2**22 // max(1, len(places)))) if len(places) else ():
            up, down = p[part, None] + p, q[part, None] + q
            table = torch.where((up > 0) & (down < 0), -(up * down), -1.0)
            table[torch.arange(len(part), device=a.device), part] = -1.0
            top = table.argmax()
            if table.flatten()[top] > score:
                score, place = table.flatten()[top], (places[part[top // len(places)]], places[top % len(places)])
        if place:
            pairs[i, 0], pairs[i, 1] = place
            valid[i] = True
    return pairs, valid


def _two_largest(a: torch.Tensor, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`best_pairs` where b = -a: the score is (a_p + a_q)^2."""
    if a.shape[1] < 2:
        return torch.zeros(len(a), 2, dtype=torch.long, device=a.device), torch.zeros(len(a), dtype=torch.bool, device=a.device)
    top = a.masked_fill(~free, -torch.inf).topk(2, 1)
    return top.indices, top.values.sum(1) > 0


def _hardly_dominated(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Places of the values that at most one other dominates: sorted by a (then b), b must lie below the second smallest b before it."""
    order = torch.argsort(b, stable=True)
    order = order[torch.argsort(a[order], descending=True, stable=True)]
    ordered = b[order]
    infinity = ordered.new_full((1,), torch.inf)
    smallest = torch.cat([infinity, ordered.cummin(0).values[:-1]])
    second = torch.cat([infinity, torch.maximum(ordered, smallest).cummin(0).values[:-1]])
    return order[ordered < second]


def other_labels(y: torch.Tensor, classes: int, index: torch.Tensor, seed: int) -> torch.Tensor:
    """(n,) for each image a label other than `y`, drawn from (seed, index)."""
    shift = [int(np.random.default_rng([seed, 6, number]).integers(1, classes)) for number in index.tolist()]
    return (y + torch.tensor(shift, device=y.device)) % classes
