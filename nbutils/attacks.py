"""Attacks on batches of images: `attack(model, x, y, *, target=None, index=None, seed=0, **knobs) -> x_adv`.

`model` maps images in [0,1] to logits and is in eval mode; `y` (n,) is the label to leave, `target` (n,) the one to reach; `index` (n,) are
the images' numbers, so that randomness is a function of (seed, index) and not of the batch. Sizes are in [0,1] units. Nothing handed in is
changed: not the images, nor the model's mode, flags or `.grad`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils import InputError

NORMS = ("linf", "l2")


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
        x_adv = (x_adv + sign * step * _direction(gradient, norm)).clamp(0, 1)
        x_adv = (x + _project(x_adv - x, eps, norm)).clamp(0, 1)
    return x_adv


def bim(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, target: torch.Tensor | None = None, index: torch.Tensor | None = None,
        seed: int = 0, eps: float, step: float, steps: int = 10, norm: str = "linf") -> torch.Tensor:
    """Basic iterative method (Kurakin et al. 2016): PGD from the image itself."""
    return pgd(model, x, y, target=target, eps=eps, step=step, steps=steps, norm=norm, random_start=False)


def _gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gradient of each image's cross-entropy with respect to that image."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = cross_entropy(model(x), labels, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def _direction(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The unit step that raises the loss most: the sign for l-infinity, the normalised gradient for l2; zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    gradient = gradient / per_image(gradient, lambda g: g.abs().amax(1)).clamp_min(tiny)  # or squares of small gradients underflow
    return gradient / per_image(gradient, lambda g: g.norm(dim=1)).clamp_min(tiny)


def _project(delta: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    if norm == "linf":
        return delta.clamp(-eps, eps)
    size = per_image(delta, lambda d: d.norm(dim=1))
    return delta * (eps / size.clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)


def per_image(x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`function` of the flattened images (n, m) -> (n,), shaped to multiply images."""
    return function(x.flatten(1)).view(-1, *[1] * (x.dim() - 1))


def _unit_ball(x: torch.Tensor, index: torch.Tensor, seed: int, norm: str) -> torch.Tensor:
    """A point a image, uniform in the unit ball of the norm, from a generator keyed by (seed, index)."""
    points = np.empty(x.shape)
    for point, number in zip(points, index.tolist(), strict=True):
        rng = np.random.default_rng([seed, 5, number])
        if norm == "linf":
            point[...] = rng.uniform(-1, 1, point.shape)
        else:
            point[...] = rng.standard_normal(point.shape)
            point *= rng.random() ** (1 / point.size) / np.linalg.norm(point)
    return torch.from_numpy(points).to(x)


def _numbers(x: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    return torch.arange(len(x)) if index is None else index


def _check(model: nn.Module, x: torch.Tensor, y: torch.Tensor, target: torch.Tensor | None, norm: str, **sizes: float) -> None:
    """One sentence for what would otherwise give a wrong picture without a word."""
    if model.training:
        raise InputError("The model is in train mode: call model.eval() first.")
    if not x.is_floating_point() or x.dim() != 4:
        raise InputError(f"x must be float images (n,c,h,w), but is {x.dtype} of shape {tuple(x.shape)}.")
    low, high = (x.min().item(), x.max().item()) if x.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise InputError(f"x must lie in [0,1] but reaches from {low:.3g} to {high:.3g}: pass un-normalised images; the model normalises itself.")
    for name, labels in (("y", y), ("target", target)):
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != (len(x),)):
            raise InputError(f"{name} must hold {len(x)} int64 labels, but is {labels.dtype} of shape {tuple(labels.shape)}.")
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is unknown: choose one of {', '.join(NORMS)}.")
    for name, size in sizes.items():
        if not (np.isfinite(size) and size >= 0):
            raise InputError(f"{name} must be finite and not negative, but is {size}.")


ATTACKS: dict[str, Callable[..., torch.Tensor]] = {"fgsm": fgsm, "bim": bim, "pgd": pgd}

# The settings that the notebooks run, as data: attack, and knobs in [0,1] units. 000: paper 000, figure 4.
SETTINGS: dict[str, dict] = {
    "fgsm": {"attack": "fgsm", "eps": 0.2},
    "bim": {"attack": "bim", "eps": 0.15, "step": 0.015, "steps": 10},
    "pgd": {"attack": "pgd", "eps": 0.15, "step": 0.03, "steps": 20},
    "pgd_l2": {"attack": "pgd", "norm": "l2", "eps": 3.0, "step": 0.6, "steps": 20},
}
# Photographs, as paper 000 has ASSIRA: an eighth of the size.
PHOTOGRAPH_SETTINGS: dict[str, dict] = {
    "fgsm": {"attack": "fgsm", "eps": 0.025},
    "bim": {"attack": "bim", "eps": 0.025, "step": 0.0025, "steps": 10},
    "pgd": {"attack": "pgd", "eps": 0.025, "step": 0.005, "steps": 20},
    "pgd_l2": {"attack": "pgd", "norm": "l2", "eps": 2.0, "step": 0.4, "steps": 20},
}
PHOTOGRAPHS = ("cats_dogs", "imagenet_subset", "folder")


def settings(dataset: str) -> dict[str, dict]:
    """The settings for a data set."""
    return PHOTOGRAPH_SETTINGS if dataset in PHOTOGRAPHS else SETTINGS


# What cleverhans 4.0.0 can run of these, and its C&W.
CLEVERHANS_SETTINGS: dict[str, dict] = {
    **{name: setting for name, setting in SETTINGS.items() if setting["attack"] in ("fgsm", "bim", "pgd")},
    "carlini_wagner_l2": {"attack": "carlini_wagner_l2", "binary_search_steps": 3, "max_iterations": 60, "lr": 0.01},
}


# -- the same attacks through cleverhans, for BACKEND = "cleverhans" -------------------------------------------------------------------


def through_cleverhans(attack: str) -> Callable[..., torch.Tensor]:
    """The attack of this name as cleverhans 4.0.0 runs it (fgsm, bim, pgd, carlini_wagner_l2), behind our contract.

    It computes in float32, draws its random start from torch's global generator, seeded here by `seed` alone, and leaves gradients in a copy.
    """
    if attack not in ("fgsm", "bim", "pgd", "carlini_wagner_l2"):
        raise InputError(f"cleverhans 4.0.0 has no {attack}: use BACKEND = 'nbutils'.")

    def run(model, x, y, *, target=None, index=None, seed=0, norm="linf", **knobs):
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
