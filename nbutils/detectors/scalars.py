"""Trivial scalars: one number of the classifier or of the image, nothing to train.

What a trained detector must beat.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import conv2d

from nbutils.detectors.base import Detector
from nbutils.saliency import gradients


class Scalar(Detector):
    """A detector whose score is `function(classifier, x)`."""

    def __init__(
        self, classifier: nn.Module, *, function: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__(classifier)
        self.function = function

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        return self.function(self.classifier, x)


def max_softmax(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """1 - the largest softmax probability, summed over the other classes so that it does not round
    to 0.
    """
    return classifier(x).double().softmax(1).sort(1).values[:, :-1].sum(1)


def margin(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Minus the distance of the two largest logits."""
    first, second = classifier(x).topk(2, 1).values.unbind(1)
    return second - first


def entropy(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Entropy of the softmax, in nats."""
    log_p = classifier(x).double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def gradient_norm(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logarithm of the L2 norm of the gradient of the predicted class's cross-entropy (paper 004's
    input sensitivity).

    That gradient is J'(p - onehot). The doubt d = 1 - p of the predicted class is summed over the
    other classes and taken out as a factor, so nothing rounds to 0 where the classifier is sure:
    log d + log ||J'((p - onehot) / d)||.
    """
    graph = x.requires_grad and torch.is_grad_enabled()
    log_doubt, direction = gradients.sensitivity_factors(
        classifier, x, double=False, create_graph=graph
    )
    return log_doubt + direction.flatten(1).norm(dim=1).clamp_min(1e-300).log()


def input_sensitivity(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Paper 004's input sensitivity ||G|| itself, of which `gradient_norm` is the logarithm: they
    rank images alike.
    """
    graph = x.requires_grad and torch.is_grad_enabled()
    return gradients.input_sensitivity(classifier, x, create_graph=graph).flatten(1).norm(dim=1)


def dist_z(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Minus paper 004's generalised distance to the border (eq 5).

    Raises:
        InputError: the classifier's logits do not come from a dense layer.
    """
    return -gradients.dist_z(classifier, x)


def noise(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Deviation of the image's noise as Immerkaer (1996) estimates it: the mean absolute response
    to a Laplacian difference, scaled.
    """
    kernel = torch.tensor(
        [[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]], device=x.device, dtype=x.dtype
    )
    response = conv2d(x.flatten(0, 1)[:, None], kernel[None, None]).abs()
    return response.view(len(x), -1).mean(1) * (torch.pi / 2) ** 0.5 / 6
