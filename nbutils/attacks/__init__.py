"""Attacks on batches of images: `attack(model, x, y, *, target=None, index=None, seed=0, **knobs) -> x_adv`.

`model` maps images in [0,1] to logits and is in eval mode; `y` (n,) is the label to leave, `target` (n,) the one to reach; `index` (n,) are
the images' numbers, so that randomness is a function of (seed, index) and not of the batch. Sizes are in [0,1] units. Nothing handed in is
changed: not the images, nor the model's mode, flags or `.grad`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.base import _check, _direction, _gradient, _numbers, _step, _unit_ball, per_image
from nbutils.attacks.minimal import carlini_wagner_l2, ddn, deepfool
from nbutils.attacks.settings import CLEVERHANS_SETTINGS, PHOTOGRAPHS, SETTINGS, settings
from nbutils.attacks.sparse import jsma, other_labels


def fgsm(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
         seed: int = 0, eps: float, norm: str = "linf") -> torch.Tensor:
    """Fast gradient sign method (Goodfellow et al. 2014): one step of size `eps` along the gradient's sign (or direction, for l2)."""
    _check(model, x, y, target, norm, eps=eps)
    sign = 1 if target is None else -1
    gradient = _gradient(model, x, y if target is None else target)
    return (x + sign * eps * _direction(gradient, norm)).clamp(0, 1)


def pgd(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
        seed: int = 0, eps: float, step: float, steps: int, norm: str = "linf", random_start: bool = True) -> torch.Tensor:
    """Projected gradient descent (Madry et al. 2018): `steps` steps of size `step`, each projected onto the ball of radius `eps`.

    Args:
        random_start: begin at a point drawn uniformly from the ball, a function of (seed, index).
    Returns:
        the last iterate, within `eps` of `x` and in [0,1].
    """
    _check(model, x, y, target, norm, eps=eps, step=step, steps=steps)
    sign, labels = (1, y) if target is None else (-1, target)
    x_adv = x.clone()
    if random_start:
        x_adv = (x + eps * _unit_ball(x, _numbers(x, index), seed, norm)).clamp(0, 1)
    for _ in range(steps):
        gradient = _gradient(model, x_adv, labels)
        x_adv = _step(x, x_adv, sign * step * _direction(gradient, norm), eps, norm)
    return x_adv


def bim(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
        seed: int = 0, eps: float, step: float, steps: int = 10, norm: str = "linf") -> torch.Tensor:
    """Basic iterative method (Kurakin et al. 2016): PGD from the image itself."""
    return pgd(model, x, y, target=target, eps=eps, step=step, steps=steps, norm=norm, random_start=False)


def mim(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
        seed: int = 0, eps: float, step: float, steps: int = 10, decay: float = 1.0, norm: str = "linf") -> torch.Tensor:
    """Momentum iterative method (Dong et al. 2018): BIM along a running sum of gradients, each divided by its mean absolute value.

    Args:
        decay: share of the sum that is kept from step to step.
    """
    _check(model, x, y, target, norm, eps=eps, step=step, steps=steps, decay=decay)
    sign, labels = (1, y) if target is None else (-1, target)
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        gradient = _gradient(model, x_adv, labels)
        momentum = decay * momentum + gradient / per_image(gradient, lambda g: g.abs().mean(1)).clamp_min(torch.finfo(x.dtype).tiny)
        x_adv = _step(x, x_adv, sign * step * _direction(momentum, norm), eps, norm)
    return x_adv


def iterative_l2(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
                 seed: int = 0, eps: float, step: float, steps: int = 10, norm: str = "l2",
                 surface: str = "sphere") -> torch.Tensor:
    """Paper 002's iterative l2 attack, from the image itself.

    Args:
        surface: "sphere": after each step the perturbation is scaled to `eps` exactly, as the library did that 002 cites (cleverhans 2.0.0);
            "ball": to at most `eps`.
    """
    if surface not in ("sphere", "ball") or norm != "l2":
        raise InputError(f"surface {surface!r} with norm {norm!r} is unknown: choose sphere or ball, with l2.")
    if surface == "ball":
        return bim(model, x, y, target=target, eps=eps, step=step, steps=steps, norm="l2")
    _check(model, x, y, target, "l2", eps=eps, step=step, steps=steps)
    sign, labels = (1, y) if target is None else (-1, target)
    x_adv = x.clone()
    for _ in range(steps):
        delta = x_adv + sign * step * _direction(_gradient(model, x_adv, labels), "l2") - x
        x_adv = (x + eps * _direction(delta, "l2")).clamp(0, 1)
    return x_adv


__all__ = ["ATTACKS", "CLEVERHANS_SETTINGS", "PHOTOGRAPHS", "SETTINGS", "other_labels", "per_image", "settings", "through_cleverhans"]

ATTACKS: dict[str, Callable[..., torch.Tensor]] = {
    "fgsm": fgsm, "bim": bim, "mim": mim, "pgd": pgd, "iterative_l2": iterative_l2, "carlini_wagner_l2": carlini_wagner_l2, "deepfool": deepfool,
    "jsma": jsma, "ddn": ddn,
}


# -- the same attacks through cleverhans, for BACKEND = "cleverhans" -------------------------------------------------------------------


def through_cleverhans(attack: str) -> Callable[..., torch.Tensor]:
    """The attack of this name as cleverhans 4.0.0 runs it (fgsm, bim, pgd, carlini_wagner_l2), behind our contract.

    It computes in float32, draws its random start from torch's global generator, seeded here by `seed` alone, and leaves gradients in a copy.
    """
    if attack not in ("fgsm", "bim", "pgd", "carlini_wagner_l2"):
        raise InputError(f"cleverhans 4.0.0 has no {attack}: use BACKEND = 'nbutils'.")

    def run(model, x, y, *, target=None, index=None, seed=0, norm="linf", **knobs):
        """The library's attack by our contract; `knobs` are ours, of C&W the library's."""
        import copy

        from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2
        from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
        from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

        _check(model, x, y, target, norm)
        order = {"linf": np.inf, "l2": 2}[norm]
        common = {"y": y if target is None else target, "targeted": target is not None}
        model = copy.deepcopy(model)
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad():
            torch.manual_seed(seed)
            if attack == "carlini_wagner_l2":
                classes = model(x[:1]).shape[1]
                return carlini_wagner_l2(model, x, classes, **common, **knobs).detach().to(x.dtype)
            if attack == "fgsm":
                return fast_gradient_method(model, x, knobs["eps"], order, 0, 1, **common).detach().to(x.dtype)
            sizes = knobs["eps"], knobs["step"], knobs["steps"]
            x_adv = projected_gradient_descent(model, x, *sizes, order, 0, 1, rand_init=attack == "pgd", sanity_checks=False, **common)
            return x_adv.detach().to(x.dtype)

    return run
