"""The white-box attacks as the papers print them."""

import torch
from torch import nn

from nbutils import InputError
from nbutils.adaptive.objectives import Joint
from nbutils.adaptive.referee import Lowest
from nbutils.attacks.contract import attack, counts, sizes
from nbutils.attacks.geometry import step_inside
from nbutils.attacks.objective import Objective, label_loss, loss_gradient, misread


@attack
def alternating(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    step: float,
    rounds: int = 5,
    accumulate: bool = True,
) -> torch.Tensor:
    """Paper 000's attack (algorithms 1 to 3, and eq 3 and 4 for ID): a sign step for the classifier
    where it is not fooled, then one for the detector where the score is over the threshold.

    The detector's gradient is taken, as printed, with respect to what it *sees* (the map, the
    salient pixels) and added to the image. It stays in [0,1] and in no ball.

    Args:
        step: of each of the two moves, in [0,1] units of a value.
        rounds: T of the paper.
        accumulate: each step begins where the last one ended (the algorithms); False: at the image
            itself (eq 3 and 4).
    Returns:
        the last iterate.
    """
    sizes(step=step)
    counts(rounds=rounds)
    if not (isinstance(objective, Joint) and objective.seen):
        raise InputError("Paper 000's attack needs joint(..., seen=) of a network's own view.")
    targeted, labels, x_adv = target is not None, y if target is None else target, x.clone()
    for _ in range(rounds):
        slope, logits = _slope(model, x_adv, labels, targeted)
        fooled = misread(logits, x_adv, labels, targeted)[:, None, None, None]
        base = x_adv if accumulate else x
        x_adv = torch.where(fooled, x_adv, (base + step * slope.sign()).clamp(0, 1))
        with torch.no_grad():
            found = (objective.score(x_adv) > objective.threshold)[:, None, None, None]
        base = x_adv if accumulate else x
        moved = (base - step * objective.seen(x_adv).sign()).clamp(0, 1)
        x_adv = torch.where(found, moved, x_adv)
    return x_adv


@attack
def mixed(
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
    sigma: float = 0.5,
) -> torch.Tensor:
    """Metzen et al.'s dynamic adversary (2017; 000 eq 5, 002 eq 10): (1 - sigma) times the sign of
    the classifier's gradient and sigma times that of the detector's, step by step.

    Under a sigma of one half every value follows the classifier, over it the detector, and at one
    half those that disagree stand still.

    Returns:
        of each image the misread iterate of the lowest score; where none was misread, the last.
    """
    sizes(eps=eps, step=step, sigma=sigma)
    counts(steps=steps)
    if not (isinstance(objective, Joint) and objective.score):
        raise InputError("The mix follows a detector's score: hand over objective=joint(...).")
    targeted, labels, x_adv = target is not None, y if target is None else target, x.clone()
    rows, lowest = torch.arange(len(x), device=x.device), Lowest(x)
    for taken in range(steps + 1):
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            logits, score = model(x_adv), objective.score(x_adv)
            loss = label_loss(logits, x_adv, labels, targeted)
        lowest.offer(rows, x_adv, misread(logits, x_adv, labels, targeted), score)
        if taken == steps:
            break
        up = torch.autograd.grad(loss.sum(), x_adv, retain_graph=True)[0].sign()
        down = -torch.autograd.grad(score.sum(), x_adv)[0].sign().to(up)
        move = step * ((1 - sigma) * up + sigma * down.nan_to_num(0.0))
        x_adv = step_inside(x, x_adv.detach(), move, eps, "linf")
    return lowest.x


def _slope(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, targeted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return loss_gradient(model, x, labels, targeted, Objective())
