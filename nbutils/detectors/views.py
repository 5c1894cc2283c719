"""What the networks among the detectors look at: the image, its Jacobian, its input sensitivity, a
layer, the learned map, the salient pixels.

Each is `view(through, x) -> (n,...)`, where `through` is the classifier, or the saliency model.
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, pad, pixel_unshuffle

from nbutils import InputError
from nbutils.models.taps import scales, taps
from nbutils.saliency.gradients import gradient, in_float64, sensitivity_factors
from nbutils.saliency.maps import normalised

DECADES = 3  # below an image's largest gradient at which its logarithm is cut: many are exactly 0


def image(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """ID (Gong et al. 2017; paper 000): the image alone."""
    return x


def high_pass(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The image less its mean over each 3x3 neighbourhood (at the border, over what there is of
    it): ID where a network on the plain image collapses, as on photographs.
    """
    return x - avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def jacobian(
    classifier: nn.Module,
    x: torch.Tensor,
    *,
    of: str = "logit",
    scaled: bool = False,
    double: bool = False,
) -> torch.Tensor:
    """JSD without its image: the gradient of the predicted class's logit.

    Args:
        of: what is derived: logit, softmax or cross_entropy.
        scaled: each image's gradient divided by its own largest size, so that its size tells
            nothing.
        double: computed in float64, where softmax and cross-entropy of a classifier that is sure do
            not round to zero.
    """
    graph = x.requires_grad and torch.is_grad_enabled()
    if double:
        classifier, x = in_float64(classifier), x.double()
    found = gradient(classifier, x, of=of, create_graph=graph)
    return (normalised(found) if scaled else found).float()


def image_and_jacobian(classifier: nn.Module, x: torch.Tensor, **reading: object) -> torch.Tensor:
    """JSD (papers 002, 000): the image and, in as many more channels, the gradient of the predicted
    class's logit.
    """
    return torch.cat([x, jacobian(classifier, x, **reading)], 1)


def sensitivity(
    classifier: nn.Module, x: torch.Tensor, *, reading: str = "raw", double: bool = True
) -> torch.Tensor:
    """DET_IS (paper 004): the gradient G of the predicted class's cross-entropy, handed on in
    float32.

    Args:
        reading: "raw" (the paper's; a network divides it by its deviation over the training maps, a
            constant of the data set), "log" (the decimal logarithm of each value's size, DECADES of
            them at most: size and pattern, no sign), "pattern" (G / ||G||: no size), "norm" (||G||
            in every pixel: no pattern), (n,1,h,w).
        double: as of `sensitivity_factors`: four times the cost of a convolution on a CPU.
    """
    graph = x.requires_grad and torch.is_grad_enabled()
    log_doubt, direction = sensitivity_factors(classifier, x, double=double, create_graph=graph)
    tiny = torch.finfo(direction.dtype).tiny
    doubt = log_doubt.exp()[:, None, None, None]
    size = direction.flatten(1).norm(dim=1)[:, None, None, None]
    if reading == "raw":
        found = doubt * direction
    elif reading == "log":
        largest = direction.abs().amax((1, 2, 3), keepdim=True)
        floor = (largest * 10**-DECADES).clamp_min(tiny)
        found = log_doubt[:, None, None, None] + direction.abs().maximum(floor).log()
        found = found / torch.log(found.new_tensor(10.0))
    elif reading == "pattern":
        found = direction / size.clamp_min(tiny)
    elif reading == "norm":
        found = (doubt * size).expand(-1, 1, *x.shape[2:])
    else:
        raise InputError(f"reading={reading!r} is unknown: choose one of raw, log, pattern, norm.")
    return found.float()


def layer(
    classifier: nn.Module, x: torch.Tensor, *, depth: float, with_jacobian: bool = False
) -> torch.Tensor:
    """A layer of the classifier.

    So read the sub-networks of Metzen et al. (2017) and the simplification of paper 002 (II.C).

    Args:
        depth: where among its activations that are pictures (its convolutions, if it has none): 0
            the first, 1 the last.
        with_jacobian: beside it the gradient of the predicted class's logit with respect to the
            image, folded to the layer's resolution (blocks of pixels become channels; a border that
            fills no block is left out).
    """
    modules = dict(classifier.named_modules())
    pictures = [p for p in scales(classifier, x[:1], every=True) if modules[p[0]] is p[2]]
    layers = next(
        found
        for kind in (nn.ReLU, nn.Conv2d, nn.Module)
        if (found := [p for p in pictures if isinstance(p[2], kind)])
    )
    name, shape, _ = layers[round(depth * (len(layers) - 1))]
    with taps(classifier, [name]) as found:
        classifier(x)
    if not with_jacobian:
        return found[name]
    fold = max(1, round(x.shape[2] / shape[2]))
    fitting = pad(
        jacobian(classifier, x), (0, fold * shape[3] - x.shape[3], 0, fold * shape[2] - x.shape[2])
    )
    return torch.cat([found[name], pixel_unshuffle(fitting, fold)], 1)


def saliency_map(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """SMD (paper 000): the learned map of the predicted class."""
    return saliency(x)


def salient_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """SPD (paper 000): the learned map of the predicted class times the image."""
    return saliency(x) * x
