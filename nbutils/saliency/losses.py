"""The losses of the learned saliency model."""

import torch
from torch.nn.functional import relu


def loss_000(
    shown: torch.Tensor,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
    real: torch.Tensor,
    *,
    area: float = 7.0,
    destroyer: float = 5.0,
    power: float = 0.3,
) -> torch.Tensor:
    """Paper 000's equation 2: area * AV(m) - log f_c(shown) + destroyer * f_c(hidden)^power, from
    logits; its weights are not printed.
    """
    here = shown.log_softmax(1).gather(1, labels[:, None])[:, 0]
    left = hidden.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return area * mask.mean((1, 2, 3)) - here + destroyer * (power * left).exp()


def loss_hinge(
    shown: torch.Tensor,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
    real: torch.Tensor,
    *,
    area: float = 8.0,
    preserver: float = 0.3,
    power: float = 0.3,
) -> torch.Tensor:
    """The loss of Dabkowski and Gal's code: margins of logits in place of probabilities; for a
    class that is not there (`real` false), no map.
    """
    margins = []
    for logits in (shown, hidden):
        own = logits.gather(1, labels[:, None])[:, 0]
        margins.append(own - logits.scatter(1, labels[:, None], -torch.inf).amax(1))
    keep = torch.where(real, relu(1 - margins[0]), relu(margins[0] + 1))
    destroy = torch.where(real, relu(margins[1] + 5), relu(1 - margins[1]))
    return area * (mask + 5e-4).pow(power).mean((1, 2, 3)) + preserver * keep + destroy


LOSSES = {"000": loss_000, "hinge": loss_hinge}
