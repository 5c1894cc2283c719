"""What an attack follows, and what counts as success; and the gradient that it takes of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

Read = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]


def label_loss(
    logits: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, targeted: bool
) -> torch.Tensor:
    """(n,) cross-entropy of the label to leave, or minus that of the label to reach."""
    loss = cross_entropy(logits, labels, reduction="none")
    return -loss if targeted else loss


def lead(
    logits: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, targeted: bool
) -> torch.Tensor:
    """(n,) how far the logit that should win leads.

    Untargeted it is the largest other one over that of `labels`, targeted that of `labels` over the
    largest other one.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - other if targeted else other - own


def misread(
    logits: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, targeted: bool
) -> torch.Tensor:
    """(n,) bool: the label is left, or reached."""
    read = logits.argmax(1) == labels
    return read if targeted else ~read


@dataclass(frozen=True)
class Objective:
    """What an attack follows and what counts as success, by default of the classifier's label.

    Each function is handed the model's logits (n,k), the images x (n,c,h,w) that they were computed
    from, with their graph, the labels (n,), and whether these are to be reached (`targeted`) or
    left. It must treat each image alone, since images that are done leave the batch.

    Args:
        loss: (n,) raised by fgsm, bim, mim, pgd, iterative_l2 and ddn.
        margin: (n,) raised by carlini_wagner_l2; positive where the attack has succeeded.
        success: (n,) bool, where ddn, deepfool and jsma stop; these two follow the borders between
            classes whatever the objective is.
    """

    loss: Read = label_loss
    margin: Read = lead
    success: Read = misread


CLASSIFIER = Objective()


def loss_gradient(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, targeted: bool, objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of the objective's loss, for each image alone, and the logits."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        loss = objective.loss(logits, x, labels, targeted)
    return torch.autograd.grad(loss.sum(), x)[0], logits.detach()
