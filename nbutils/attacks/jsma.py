"""JSMA (Papernot et al. 2016) with the true pair rule on pictures of any size."""

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.contract import attack, other_labels, sizes
from nbutils.attacks.objective import Objective
from nbutils.attacks.unfinished import unfinished

FEW = 128  # values of an image whose pairs are compared without a second look at them
STRONG = 4  # values that the others are held against first


@attack
def jsma(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    theta: float = 1.0,
    gamma: float = 0.1,
    outputs: str = "logits",
) -> torch.Tensor:
    """Change the two values that raise the target most and lower the others, until the target is
    read.

    With a = d z_t / dx and b = the sum of the other d z_j / dx, the pair of free values p, q with
    a_p + a_q > 0 and b_p + b_q < 0 and the largest -(a_p + a_q)(b_p + b_q) gets `theta` added (all
    signs turned for a negative theta), and is free no more. Values at the limit are not free. An
    image that has no such pair left, or has spent `gamma`, stays where it is. Of several best pairs
    any may be taken. Paper 002's equation 8 prints a rule for one value with both signs of the
    condition inverted; it is not this one.

    Args:
        target: (n,) the label to reach; None: one other than `y`, drawn for each image from (seed,
            index).
        theta: what a chosen value changes by, in [0,1] units (1 in the paper: to the limit).
        gamma: largest share of values that are changed (.145 in the paper's MNIST experiment).
        outputs: "logits" (cleverhans from 3.1), or "probabilities" (cleverhans 2.1 to 3.0, paper
            000), where b = -a and the best pair is the two largest a: their logarithm is
            differentiated, which has the same order and does not underflow.
    """
    sizes(gamma=gamma)
    if (
        outputs not in ("logits", "probabilities")
        or not (np.isfinite(theta) and theta != 0)
        or gamma > 1
    ):
        raise InputError(
            "jsma needs outputs 'logits' or 'probabilities', theta other than 0, gamma up to 1; "
            f"got {outputs!r}, {theta}, {gamma}."
        )
    out, free = (
        x.clone(memory_format=torch.contiguous_format),
        (x < 1 if theta > 0 else x > 0).flatten(1),
    )
    rows = torch.arange(len(x), device=x.device)
    most = int(x[:1].numel() * gamma / 2)
    for step in range(most + 1):
        now = out[rows].requires_grad_()
        with torch.enable_grad():
            logits = model(now)
            if target is None:
                target = other_labels(y, logits.shape[1], index, seed)
            going = ~objective.success(logits, now, target[rows], True)
            if step == most or not going.any():
                break
            rows = rows[going]
            now, logits, going = unfinished(
                model, now, logits, going, 2 if outputs == "logits" else 1
            )
            going = going.nonzero()[:, 0]
            logits = logits[going]
            z = (logits if outputs == "logits" else logits.log_softmax(1)).gather(
                1, target[rows][:, None]
            )
            a = torch.autograd.grad(z.sum(), now, retain_graph=outputs == "logits")[0][
                going
            ].flatten(1)
            b = (
                torch.autograd.grad(logits.sum(), now)[0][going].flatten(1) - a
                if outputs == "logits"
                else -a
            )  # probabilities sum to one
        if theta < 0:
            a, b = -a, -b
        pairs, valid = (
            best_pairs(a, b, free[rows]) if outputs == "logits" else _two_largest(a, free[rows])
        )
        rows, pairs = rows[valid], pairs[valid]
        if not len(rows):
            break
        flat = out.view(len(out), -1)
        flat[rows[:, None], pairs] = (flat[rows[:, None], pairs] + theta).clamp(0, 1)
        free[rows[:, None], pairs] = False
    return out


def best_pairs(
    a: torch.Tensor, b: torch.Tensor, free: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each image the pair p != q of free values that maximises -(a_p + a_q)(b_p + b_q), both
    factors of the right sign.

    Exact without the table of all pairs: some pair is found first, and a value can be in a better
    one only if, with the largest a and the smallest b there are, it could reach that pair's score.
    Of what is left only values that at most one other dominates (a not smaller, b not larger) are
    needed: of two that dominate p, one is not its partner and can take its place. Two of the few
    strongest dominate nearly all.
    Args:
        a, b: (n,m) derivatives of the target and of all others. free: (n,m) bool.
    Returns:
        pairs (n,2) of places, and (n,) whether there was one.
    """
    pairs = torch.zeros(len(a), 2, dtype=torch.long, device=a.device)
    score = torch.zeros(len(a), dtype=a.dtype, device=a.device)
    if a.shape[1] < 2 or not len(a):
        return pairs, score > 0
    a, b = a.masked_fill(~free, -torch.inf), b.masked_fill(~free, torch.inf)
    strong = (a.clamp_min(0) * -b.clamp_max(0)).topk(min(STRONG, a.shape[1]), 1).indices
    strong_a, strong_b = a.gather(1, strong), b.gather(1, strong)
    floor = _scores(strong_a[:, 0], strong_b[:, 0], strong_a[:, 1], strong_b[:, 1]).clamp_min(0)
    dominated = ((a[:, None] < strong_a[:, :, None]) & (b[:, None] > strong_b[:, :, None])).sum(
        1
    ) >= 2
    reach = (a + a.amax(1, keepdim=True)).clamp_min(0) * -(b + b.amin(1, keepdim=True)).clamp_max(0)
    keep = ~dominated & (reach >= floor[:, None] * (1 - 1e-5)) & (reach > 0)
    for i in (keep.sum(1) > FEW).nonzero()[:, 0].tolist():
        places = keep[i].nonzero()[:, 0]
        keep[i] = False
        keep[i, places[_hardly_dominated(a[i, places], b[i, places])]] = True
    rows, columns = keep.nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(a))
    most = int(counts.max())
    slots = torch.arange(len(rows), device=a.device) - (counts.cumsum(0) - counts)[rows]
    places = torch.zeros(len(a), most, dtype=torch.long, device=a.device)
    p, q = (
        a.new_full(places.shape, -torch.inf),
        b.new_full(places.shape, torch.inf),
    )  # an empty slot is in no pair
    places[rows, slots], p[rows, slots], q[rows, slots] = (
        columns,
        a[rows, columns],
        b[rows, columns],
    )
    for part in (
        torch.arange(most, device=a.device).split(max(1, 2**22 // (most * len(a)))) if most else ()
    ):
        table = _scores(p[:, part, None], q[:, part, None], p[:, None], q[:, None])
        table[:, torch.arange(len(part), device=a.device), part] = -1.0
        top, place = table.flatten(1).max(1)
        better = top > score
        found = places.gather(1, torch.stack([part[place // most], place % most], 1))
        pairs, score = torch.where(better[:, None], found, pairs), torch.where(better, top, score)
    return pairs, score > 0


def _scores(
    a: torch.Tensor, b: torch.Tensor, other_a: torch.Tensor, other_b: torch.Tensor
) -> torch.Tensor:
    """What pairs are worth; -1 for those of a wrong sign."""
    up, down = a + other_a, b + other_b
    return torch.where((up > 0) & (down < 0), -(up * down), -1.0)


def _two_largest(a: torch.Tensor, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`best_pairs` where b = -a: the score is (a_p + a_q)^2."""
    if a.shape[1] < 2:
        return torch.zeros(len(a), 2, dtype=torch.long, device=a.device), torch.zeros(
            len(a), dtype=torch.bool, device=a.device
        )
    top = a.masked_fill(~free, -torch.inf).topk(2, 1)
    return top.indices, top.values.sum(1) > 0


def _hardly_dominated(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Places of the values that at most one other dominates: sorted by a (then b), b must lie below
    the second smallest b before it.
    """
    order = torch.argsort(b, stable=True)
    order = order[torch.argsort(a[order], descending=True, stable=True)]
    ordered = b[order]
    infinity = ordered.new_full((1,), torch.inf)
    smallest = torch.cat([infinity, ordered.cummin(0).values[:-1]])
    second = torch.cat([infinity, torch.maximum(ordered, smallest).cummin(0).values[:-1]])
    return order[ordered < second]
