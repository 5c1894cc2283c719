"""Carlini and Wagner's l2 attack (2017)."""

import torch
from torch import nn

from nbutils.attacks.contract import attack, counts, sizes
from nbutils.attacks.objective import Objective

WAIT = 100  # steps without a lesser loss after which an image may leave a round


@attack
def carlini_wagner_l2(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None,
    index: torch.Tensor,
    seed: int,
    objective: Objective,
    search_steps: int = 9,
    steps: int = 1000,
    lr: float = 0.005,
    const: float = 0.01,
    confidence: float = 0.0,
    warm_start: bool = False,
    abort: bool = True,
) -> torch.Tensor:
    """Adam on ||x' - x||^2 + c max(0, confidence - margin), x' = (tanh w + 1) / 2.

    The constant c is searched image by image in rounds, from `const` upwards by tens until one
    works, then by halving. Distances are to the image itself, not to its copy through tanh. Source:
    Carlini and Wagner 2017; the values of the knobs
    are those of cleverhans 2.1.

    Args:
        search_steps: rounds of the search for c; from ten on the last takes the largest c that
            worked.
        steps: gradient steps of a round.
        lr: Adam's rate, in units of w, where the whole range of a value is from -7.3 to 7.3.
        const: the first c: squared l2 distance, in [0,1] units, that a logit of margin is worth.
        confidence: how far the other logit must lead, in logits.
        warm_start: variable and Adam go on where the last round ended, as in cleverhans, in place
            of beginning anew at the image. It leads further where all rounds together are of a few
            hundred steps, and nowhere else.
        abort: an image whose least loss has not fallen by 1/10,000 over a tenth of the steps, and
            over WAIT of them at least, leaves the round; the others do not notice. Adam swings, and
            who leaves on its way up loses: short rounds go to their end.
    Returns:
        the nearest adversarial image that any step passed; the image itself where none did.
    """
    sizes(lr=lr, const=const, confidence=confidence)
    counts(search_steps=search_steps, steps=steps)
    targeted, labels = target is not None, y if target is None else target
    n, best = len(x), x.clone()
    smallest = torch.full((n,), torch.inf, dtype=x.dtype, device=x.device)
    c, low, high = (
        torch.full_like(smallest, const),
        torch.zeros_like(smallest),
        torch.full_like(smallest, torch.inf),
    )
    start = (to_tanh(x), torch.zeros_like(x), torch.zeros_like(x))
    ended = tuple(part.clone() for part in start)
    for turn in range(search_steps):
        if turn == search_steps - 1 and search_steps >= 10:
            c = torch.where(high.isfinite(), high, c)
        found = torch.zeros(n, dtype=torch.bool, device=x.device)
        rows, taken = torch.arange(n, device=x.device), turn * steps if warm_start else 0
        w, first, second = (part.clone() for part in (ended if warm_start else start))
        origin, least, before = x, *torch.full((2, n), torch.inf, dtype=x.dtype, device=x.device)
        for step in range(1, steps + 1):
            tanh = w.tanh()
            x_adv = (tanh + 1).div_(2).requires_grad_()
            with torch.enable_grad():
                margin = objective.margin(model(x_adv), x_adv, labels[rows], targeted)
                hinge = (confidence - margin).clamp_min(0)
                gradient = None
                if step < steps:
                    gradient = torch.autograd.grad((c[rows] * hinge).sum(), x_adv)[0]
            x_adv, delta = x_adv.detach(), x_adv.detach() - origin
            size = delta.flatten(1).square().sum(1)
            hit = (margin.detach() > 0) & (margin.detach() >= confidence)
            better = hit & (size < smallest[rows])
            best[rows[better]] = x_adv[better]
            smallest[rows] = torch.where(better, size, smallest[rows])
            found[rows] |= hit
            if gradient is None:
                break
            gradient = gradient.add_(delta.mul_(2)).mul_(1 - tanh.square_()).div_(2)
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_((0.001 * gradient).mul_(gradient))
            spread = (second / (1 - 0.999 ** (taken + step))).sqrt_().add_(1e-8)
            w = w - (first / (1 - 0.9 ** (taken + step))).mul_(lr).div_(spread)
            if not abort:
                continue
            least = torch.minimum(least, size + c[rows] * hinge.detach())
            if step % max(WAIT, steps // 10) == 0:
                going = least < 0.9999 * before
                before = least
                if not going.all():
                    _put(ended, rows, (w, first, second))
                    state = (rows, w, first, second, origin, least, before)
                    rows, w, first, second, origin, least, before = (part[going] for part in state)
                    if not len(rows):
                        break
        _put(ended, rows, (w, first, second))
        low, high = torch.where(found, low, c), torch.where(found, torch.minimum(high, c), high)
        c = torch.where(high.isfinite(), (low + high) / 2, c * 10)
    return best


def _put(
    whole: tuple[torch.Tensor, ...], rows: torch.Tensor, parts: tuple[torch.Tensor, ...]
) -> None:
    for place, part in zip(whole, parts, strict=True):
        place[rows] = part


def to_tanh(x: torch.Tensor) -> torch.Tensor:
    """The variable w of images in [0,1]; 0 and 1, whose w is infinite, are moved by half a
    millionth.
    """
    return torch.atanh((2 * x - 1) * (1 - 1e-6))


def through_tanh(x: torch.Tensor) -> torch.Tensor:
    """Images as the attack sees them where it has nothing to do: into its variable and back."""
    return (to_tanh(x).tanh() + 1) / 2
