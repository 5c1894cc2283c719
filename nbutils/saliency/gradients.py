"""Gradient maps: what moves the classifier's answer, pixel by pixel."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nbutils import InputError


def logit(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) the logit of each label."""
    return logits.gather(1, labels[:, None])[:, 0]


def softmax(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) the probability of each label."""
    return logit(logits.softmax(1), labels)


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) the cross-entropy of each label, in nats."""
    return cross_entropy(logits, labels, reduction="none")


OUTPUTS = {"logit": logit, "softmax": softmax, "cross_entropy": cross_entropies}  # what is derived


def gradient(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    of: str = "logit",
    create_graph: bool = False,
) -> torch.Tensor:
    """The Jacobian's row of one class, signed, shaped like `x` (papers 000 and 002).

    Args:
        labels: (n,) the class that is derived; None: the model's own prediction, as in the papers.
        of: logit (the papers' choice), softmax (000: it underflows) or cross_entropy.
        create_graph: keep the graph, so that a detector on this map can itself be differentiated.
    """
    if of not in OUTPUTS:
        raise InputError(f"of={of!r} is unknown: choose one of {', '.join(OUTPUTS)}.")
    if not (create_graph and x.requires_grad):
        x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        chosen = OUTPUTS[of](logits, logits.argmax(1) if labels is None else labels).sum()
    return torch.autograd.grad(chosen, x, create_graph=create_graph)[0]


def in_float64(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model as a function of float64 images, computed in float64; where it knows less alone (it
    casts its images itself), only what is done with its logits is.
    """
    named = dict([*model.named_parameters(), *model.named_buffers()])
    doubled = {
        name: value.double() if value.is_floating_point() else value
        for name, value in named.items()
    }
    return partial(_as_precise_as_it_can, model, doubled)


def _as_precise_as_it_can(
    model: nn.Module, doubled: dict[str, torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    try:
        return functional_call(model, doubled, x).double()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, InputError):  # two types met: its own, or what a brought one says of it
        return model(x.float()).double()


def gradient_map(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *, of: str = "logit"
) -> torch.Tensor:
    """Map (n,1,h,w) of the gradient's size: at each pixel the largest over the channels (Simonyan
    et al. 2013).
    """
    return gradient(model, x, labels, of=of).abs().amax(1, keepdim=True)
