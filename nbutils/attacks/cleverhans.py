"""Some of the attacks through cleverhans 4.0.0, for BACKEND = "cleverhans"."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.contract import check

ITS = ("fgsm", "bim", "pgd", "carlini_wagner_l2")
SIZES = ("eps", "norm")  # knobs of fgsm
STEPS = ("step", "steps", "random_start")  # and of those that take several
SEARCH = ("binary_search_steps", "max_iterations", "lr", "initial_const", "confidence")  # of C&W


def through_cleverhans(name: str) -> Callable[..., torch.Tensor]:
    """The attack of this name as cleverhans runs it, behind our contract; of C&W the knobs are the
    library's.

    It computes in float32, draws its random start from torch's global generator, seeded here by
    `seed` alone, and leaves gradients in a copy of the model.

    Raises:
        InputError: cleverhans has no such attack.
    """
    if name not in ITS:
        raise InputError(f"cleverhans 4.0.0 has no {name}: use BACKEND = 'nbutils'.")
    return partial(_through_cleverhans, name)


def _through_cleverhans(
    name: str,
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    target: torch.Tensor | None = None,
    index: torch.Tensor | None = None,
    seed: int = 0,
    norm: str = "linf",
    **knobs: float,
) -> torch.Tensor:
    from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    check(model, x, y, target)
    known = SEARCH if name == "carlini_wagner_l2" else SIZES
    known += STEPS if name in ("bim", "pgd") else ()
    for knob in knobs:
        if knob not in known:
            raise InputError(
                f"{name} of cleverhans has no knob {knob!r}: it has {', '.join(known)}."
            )
    order = {"linf": np.inf, "l2": 2}[norm]
    common = {"y": y if target is None else target, "targeted": target is not None}
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad():
        torch.manual_seed(seed)
        if name == "carlini_wagner_l2":
            classes = model(x[:1]).shape[1]
            x_adv = carlini_wagner_l2(model, x, classes, **common, **knobs)
        elif name == "fgsm":
            x_adv = fast_gradient_method(model, x, knobs["eps"], order, 0, 1, **common)
        else:
            sizes = knobs["eps"], knobs["step"], knobs["steps"]
            start = {"rand_init": name == "pgd", "sanity_checks": False}
            x_adv = projected_gradient_descent(model, x, *sizes, order, 0, 1, **start, **common)
    return x_adv.detach().to(x.dtype)
