"""Detectors that are a small classifier of clean against attacked: on the image (ID), on image and Jacobian (JSD)."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from nbutils import InputError, models, train
from nbutils.detectors.base import Detector
from nbutils.saliency import logit_gradient

Features = Callable[[nn.Module, torch.Tensor], torch.Tensor]
RETRIES = 3  # fits, each from a seed of its own, before a collapse is reported


def image(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """ID (Gong et al. 2017; paper 000): the image alone."""
    return x


def image_and_jacobian(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """JSD (papers 002, 000): the image and, in as many more channels, the gradient of the predicted class's logit."""
    return torch.cat([x, logit_gradient(classifier, x, create_graph=x.requires_grad and torch.is_grad_enabled())], 1)


class Network(Detector):
    """A network of two outputs on `features(classifier, x)`; the score is the logit of adversarial minus that of clean."""

    def __init__(self, classifier: nn.Module, features: Features) -> None:
        super().__init__(classifier)
        self.features, self.net = features, None

    def fit(self, clean: torch.Tensor, adversarial: torch.Tensor, index: torch.Tensor, *, architecture: str, epochs: int, seed: int = 0,
            width: float = 1.0, folder: Path | None = None, progress=iter) -> dict:
        """Train on pairs: row i of both is source image `index[i]`; the pair stays together when a part is kept for validation.

        Inputs are normalised by the mean and deviation of each channel over the training features. A fit that ends in one answer for
        everything (a collapse) is repeated with another seed, up to RETRIES times.
        Returns:
            the record of `train.fit`, and `collapses`: how many fits ended so.
        """
        x = torch.cat([self._all(clean), self._all(adversarial)])
        y = torch.cat([torch.zeros(len(clean)), torch.ones(len(adversarial))]).long().to(x.device)
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).clamp_min(1e-8).tolist()
        for collapses in range(RETRIES):
            use = seed + 1000 * collapses
            self.net = models.build(architecture, tuple(x.shape[1:]), 2, mean=mean, std=std, width=width, seed=use).to(x.device)
            record = train.fit(self.net, x, y, groups=torch.cat([index, index]), epochs=epochs, seed=use, folder=folder, progress=progress)
            self.net.to(memory_format=torch.channels_last)  # scores faster on a CPU
            if not record["collapsed"]:
                return {**record, "collapses": collapses}
        return {**record, "collapses": RETRIES}

    def look(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(self.classifier, x)

    def score(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        if self.net is None:
            raise InputError("This detector is not fitted yet: call fit, or load one.")
        logits = self.net(self.look(x) if seen is None else seen)
        return logits[:, 1] - logits[:, 0]

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors to keep."""
        return {name: tensor.contiguous() for name, tensor in self.net.state_dict().items()}

    def load(self, tensors: dict[str, torch.Tensor], shape: tuple[int, int, int], *, architecture: str, width: float = 1.0) -> "Network":
        """Take the kept tensors back, for images of `shape`."""
        channels = tensors["mean"].shape[1]
        self.net = models.build(architecture, (channels, *shape[1:]), 2, mean=[0.0] * channels, std=[1.0] * channels, width=width)
        self.net.load_state_dict(tensors)
        self.net.to(next(self.classifier.parameters()).device, memory_format=torch.channels_last)  # as after fit
        return self

    @torch.no_grad()
    def _all(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.look(part).detach() for part in x.split(256)])
