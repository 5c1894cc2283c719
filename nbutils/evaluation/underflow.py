"""What 32 bits lose of a gradient map."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from nbutils.saliency.gradients import gradient, in_float64
from nbutils.saliency.maps import in_batches


def lost_in_32_bits(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, *, of: str
) -> dict[str, float]:
    """The share of images whose gradient is zero everywhere in 32 bits, and the share whose
    gradient differs from the one in 64 bits by more than a tenth of that one's length.

    Args:
        of: what is derived: logit, softmax or cross_entropy.
    """
    derive = partial(gradient, of=of)
    single = in_batches(derive, model, x.float(), labels).double()
    double = in_batches(derive, in_float64(model), x.double(), labels)
    error = (single - double).flatten(1).norm(dim=1)
    length = double.flatten(1).norm(dim=1).clamp_min(1e-300)
    return {
        "maps all zero": (single == 0).flatten(1).all(1).double().mean().item(),
        "maps off by a tenth": (error / length > 0.1).double().mean().item(),
    }


def underflow(
    model: nn.Module,
    images: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor],
    outputs: Sequence[str] = ("logit", "softmax", "cross_entropy"),
) -> list[dict]:
    """`lost_in_32_bits` for each output that can be derived and each set of images.

    Args:
        images: a name -> (n,c,h,w). labels: the same names -> (n,) the class asked about.
    """
    return [
        {
            "derivative of": of,
            "images": name,
            **lost_in_32_bits(model, x, labels[name], of=of),
            "n": len(x),
        }
        for of in outputs
        for name, x in images.items()
    ]
