"""Attacks on classifier and detector that a referee would run."""

import torch
from torch import nn

from nbutils import InputError
from nbutils.adaptive.objectives import Joint
from nbutils.attacks.contract import attack, counts, sizes, unit_ball
from nbutils.attacks.geometry import direction, project
from nbutils.attacks.objective import Objective, lead, misread

MOVES = ("sign", "l2")


class Lowest:
    """Of each image the iterate with the lowest score among those that fool the classifier, and
    where none did the last one.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x.clone()
        self.score = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def offer(
        self, rows: torch.Tensor, x_adv: torch.Tensor, fooled: torch.Tensor, score: torch.Tensor
    ) -> None:
        score = score.detach().double()
        better = fooled & (score < self.score[rows])
        none_yet = ~fooled & self.score[rows].isinf()
        taken = better | none_yet
        self.x[rows[taken]] = x_adv.detach()[taken]
        self.score[rows[better]] = score[better]


@attack
def selective_pgd(
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
    moves: str = "sign",
    orthogonal: bool = False,
    random_start: bool = False,
    ahead: float = 0.0,
) -> torch.Tensor:
    """PGD that follows the classifier until it is fooled, and then the detector's score downwards
    (Bryniarski et al. 2021).

    No mix of gradients starves either part. Images leave the batch once they are misread with a
    score that the threshold allows.

    Args:
        eps, norm: the ball. step: length of a step, of a value for `moves` "sign", else of the
            image's l2 norm.
        moves: "sign", or "l2" for steps along the gradient itself, in the same ball: a sign step is
            noise that a detector of pixels sees.
        orthogonal: what is followed is first made orthogonal to the other gradient.
        random_start: begin at a point of the ball drawn from (seed, index).
        ahead: the lead in logits from which the classifier counts as fooled while steps are chosen.
    Returns:
        of each image the misread iterate of the lowest score; where none was misread, the last.
    """
    _known(objective, moves, norm)
    sizes(eps=eps, step=step)
    counts(steps=steps)
    targeted, labels = target is not None, y if target is None else target
    rows, origin, x_adv = torch.arange(len(x), device=x.device), x, x.clone()
    if random_start:
        x_adv = (x + eps * unit_ball(x, index, seed, norm)).clamp(0, 1)
    lowest = Lowest(x_adv)
    for taken in range(steps + 1):
        last = taken == steps
        x_adv = x_adv.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            logits = model(x_adv)
            score = objective.score(x_adv)
            margin = lead(logits, x_adv, labels, targeted)
        fooled = misread(logits, x_adv, labels, targeted)
        lowest.offer(rows, x_adv, fooled, score)
        going = ~(fooled & (score <= objective.threshold))
        if last or not going.any():
            break
        follow = fooled & (margin >= ahead)
        move = _move(x_adv, margin, score, follow, orthogonal, moves)[going]
        rows, origin, labels = rows[going], origin[going], labels[going]
        moved = (x_adv.detach()[going] + step * move).clamp(0, 1)
        x_adv = (origin + project(moved - origin, eps, norm)).clamp(0, 1)
    return lowest.x


def _move(
    x_adv: torch.Tensor,
    margin: torch.Tensor,
    score: torch.Tensor,
    follow: torch.Tensor,
    orthogonal: bool,
    moves: str,
) -> torch.Tensor:
    """The unit step of each image: up the classifier's margin, or down the score where that is
    followed; up the margin, too, where the score has no gradient.
    """
    if not orthogonal:
        wanted = torch.where(follow, -score.to(margin), margin).sum()
        found = torch.autograd.grad(wanted, x_adv, retain_graph=True)[0]
        lost = follow & (found.flatten(1).abs().amax(1) == 0)
        if lost.any():
            instead = torch.autograd.grad(margin.sum(), x_adv)[0]
            found = torch.where(lost[:, None, None, None], instead, found)
    else:
        up = torch.autograd.grad(margin.sum(), x_adv, retain_graph=True)[0]
        down = -torch.autograd.grad(score.sum(), x_adv)[0].to(up)
        chosen = follow & (down.flatten(1).abs().amax(1) > 0)
        pick = chosen[:, None, None, None]
        found, other = torch.where(pick, down, up), torch.where(pick, up, down)
        found = _without(direction(found, "l2"), direction(other, "l2"))
    return direction(found.nan_to_num(0.0, 0.0, 0.0), "linf" if moves == "sign" else "l2")


def _without(gradient: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """A gradient less its part along a unit vector (or zero)."""
    along = (gradient * unit).flatten(1).sum(1)[:, None, None, None]
    return gradient - along * unit


@attack
def to_border(
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
) -> torch.Tensor:
    """DeepFool's step (Moosavi-Dezfooli et al. 2016) for any objective's margin: to where its
    tangent is 0, again and again.

    With the objective of L + 1 classes this is paper 004's DeepFool on a guarded classifier, along
    the leading class that is allowed.

    Args:
        overshoot: how much further than the border, a share of the way.
    Returns:
        the first iterate, pushed on, that succeeds; where none did, the last.
    """
    sizes(overshoot=overshoot)
    counts(steps=steps)
    targeted, labels = target is not None, y if target is None else target
    rows, origin, total = torch.arange(len(x), device=x.device), x, torch.zeros_like(x)
    out, tiny = x.clone(), torch.finfo(x.dtype).tiny
    for taken in range(steps + 1):
        x_adv = (origin + (1 + overshoot) * total).clamp(0, 1).requires_grad_()
        with torch.enable_grad():
            logits = model(x_adv)
            margin = objective.margin(logits, x_adv, labels, targeted)
            gradient = torch.autograd.grad(margin.sum(), x_adv)[0]
        out[rows] = x_adv.detach()
        going = ~objective.success(logits.detach(), x_adv.detach(), labels, targeted)
        if taken == steps or not going.any():
            break
        w = gradient.nan_to_num(0.0, 0.0, 0.0)
        size = w.flatten(1).square().sum(1).clamp_min(tiny)
        far = ((-margin.detach()).clamp_min(0) + 1e-4) / size
        total = total + (far[:, None, None, None] * w).clamp(-1, 1)
        rows, origin, labels, total = rows[going], origin[going], labels[going], total[going]
    return out


def _known(objective: Objective, moves: str, norm: str) -> None:
    if not (isinstance(objective, Joint) and objective.score):
        raise InputError(
            "This attack follows a detector's score: hand over objective=joint(score, threshold)."
        )
    if moves not in MOVES or (moves == "sign" and norm == "l2"):
        raise InputError(
            f"moves {moves!r} in the norm {norm} is unknown: choose sign or l2 steps in linf, l2 "
            "steps in l2."
        )
