"""How the learned saliency model is trained, on clean images alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nbutils import InputError
from nbutils.data.images import to_float
from nbutils.saliency.learned import SaliencyModel
from nbutils.saliency.losses import LOSSES
from nbutils.saliency.masks import masked


@dataclass(frozen=True)
class SaliencyTraining:
    """How the saliency model is trained.

    Args:
        epochs: passes over the images of the decoder. gate_epochs: of the gate, before it.
        loss: "000" (its equation 2) or "hinge" (Dabkowski and Gal's code, in which three labels of
            ten are false and must give no map). weights: of the loss's terms, by their names.
        batch: images in a step. lr: Adam's first rate for the decoder; the gate's is ten times it.
    """

    epochs: int
    gate_epochs: int = 10
    loss: str = "000"
    batch: int = 32
    lr: float = 5e-3
    weights: dict = field(default_factory=dict)


def fit(
    saliency: SaliencyModel,
    x: torch.Tensor,
    how: SaliencyTraining,
    *,
    seed: int = 0,
    progress: Callable = iter,
) -> dict:
    """Train `saliency` in place: first the gate (is the class there?), then the decoder.

    Args:
        x: (n,c,h,w), uint8 or float in [0,1], clean images alone. The class looked for is the one
            that the classifier predicts.
    Returns:
        `gate_loss` and `loss` by epoch.
    """
    if how.loss not in LOSSES:
        raise InputError(f"loss={how.loss!r} is unknown: choose one of {', '.join(LOSSES)}.")
    if saliency.classifier.training:
        raise InputError(
            "The classifier is in train mode: call eval() first, or its features depend on the "
            "batch."
        )
    generator = torch.Generator(x.device).manual_seed(seed)
    false = {"000": 0.0, "hinge": 0.3}[how.loss]

    def selected(images: torch.Tensor, false: float) -> tuple:
        with torch.no_grad():
            features, logits = saliency.features(images)
        return features, *_labels(logits, false, generator)

    def gate_loss(images: torch.Tensor) -> torch.Tensor:
        features, labels, real = selected(images, 0.5)
        return binary_cross_entropy_with_logits(
            saliency.activation(features[0], labels).mean((1, 2, 3)), real.float()
        )

    def map_loss(images: torch.Tensor) -> torch.Tensor:
        features, labels, real = selected(images, false)
        mask = saliency.decode(features, labels, images.shape[2:])
        shown, hidden = saliency.classifier(torch.cat(masked(images, mask, generator))).chunk(2)
        return LOSSES[how.loss](shown, hidden, mask, labels, real, **how.weights).mean()

    saliency.to(memory_format=torch.channels_last).eval()  # faster on a CPU
    decoder = [*saliency.decoder.parameters(), *saliency.out.parameters()]
    try:
        gate = [*saliency.gate.parameters()]
        gate_losses = _descend(
            gate_loss, gate, x, how, how.gate_epochs, 10 * how.lr, seed, progress
        )
        saliency.train()
        losses = _descend(map_loss, decoder, x, how, how.epochs, how.lr, seed, progress)
        return {"gate_loss": gate_losses, "loss": losses}
    finally:
        saliency.eval()


def _descend(
    loss: Callable[[torch.Tensor], torch.Tensor],
    parameters: list[nn.Parameter],
    x: torch.Tensor,
    how: SaliencyTraining,
    epochs: int,
    lr: float,
    seed: int,
    progress: Callable,
) -> list[float]:
    """Adam with a falling rate on `loss(images)`, for these parameters alone; the mean loss of each
    pass.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=1e-4, fused=True)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(1, epochs * -(-len(x) // how.batch))
    )
    means = []
    for epoch in progress(range(epochs)):
        order = torch.from_numpy(np.random.default_rng([seed, 8, epoch]).permutation(len(x))).to(
            x.device
        )
        total = 0.0
        for rows in order.split(how.batch):
            if len(rows) == 1 < len(x):
                continue  # batch normalisation has no variance of one image
            value = loss(to_float(x[rows]))
            optimizer.zero_grad()
            value.backward(inputs=parameters)  # the classifier's gradients stay as they are
            optimizer.step()
            falling.step()
            total += value.item() * len(rows)
        means.append(total / len(x))
    return means


def _labels(
    logits: torch.Tensor, false: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The predicted classes, a share `false` of them replaced by another; and which are real."""
    n, k = logits.shape
    other = torch.randint(1, k, (n,), generator=generator, device=logits.device)
    real = torch.rand(n, generator=generator, device=logits.device) >= false
    return (logits.argmax(1) + other * ~real) % k, real
