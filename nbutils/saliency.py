"""Saliency: what a classifier looks at, as a map of the image."""

import torch
from torch import nn


def logit_gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *, create_graph: bool = False) -> torch.Tensor:
    """The Jacobian's row of one class: d z_label / d x, signed, shaped like `x` (papers 000 and 002).

    Args:
        labels: (n,) the class whose logit is derived; None: the model's own prediction, as in the papers.
        create_graph: keep the graph, so that a detector on this map can itself be differentiated.
    """
    if not (create_graph and x.requires_grad):
        x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        chosen = logits.gather(1, (logits.argmax(1) if labels is None else labels)[:, None]).sum()
    return torch.autograd.grad(chosen, x, create_graph=create_graph)[0]
