"""Grad-CAM (Selvaraju et al. 2017)."""

import torch
from torch import nn
from torch.nn.functional import interpolate

from nbutils import InputError
from nbutils.models.taps import scales, taps
from nbutils.saliency.gradients import logit


def grad_cam(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *, layer: str = ""
) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017): a layer's channels by their mean gradients, rectified.

    Each channel is weighted by the mean, over its places, of the gradient of the class's logit.

    Args:
        layer: the layer's name; empty: the last whose output is a picture of more than one pixel
            and not made by a pool or dropout (of a SqueezeNet that is its map of class scores;
            "features" is the usual choice).
    Returns:
        (n,1,h,w) at the layer's resolution brought to the image's (bilinear), >= 0, not scaled.
    """
    if not layer:
        made = [
            name
            for name, _, module in scales(model, x[:1], every=True)
            if not any(w in type(module).__name__ for w in ("Pool", "Dropout"))
        ]
        if not made:
            raise InputError(
                f"{type(model).__name__} has no layer for Grad-CAM but pools: name one."
            )
        layer = made[-1]
    with torch.enable_grad(), taps(model, [layer]) as found:
        logits = model(x.detach().requires_grad_())
        chosen = logit(logits, logits.argmax(1) if labels is None else labels).sum()
        weights = torch.autograd.grad(chosen, found[layer])[0].mean((2, 3), keepdim=True)
    cam = (weights * found[layer].detach()).sum(1, keepdim=True).relu()
    return interpolate(cam, x.shape[2:], mode="bilinear")
