"""Detectors that are a small classifier of clean against attacked: on the image (ID), on image and Jacobian (JSD), on the learned saliency map
(SMD), on the salient pixels (SPD)."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from nbutils import InputError, models, train
from nbutils.detectors.base import Detector
from nbutils.saliency import gradient

Features = Callable[[nn.Module, torch.Tensor], torch.Tensor]
RETRIES = 3  # fits, each from a seed of its own, before a collapse is reported


def image(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """ID (Gong et al. 2017; paper 000): the image alone."""
    return x


def jacobian(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """JSD without its image: the gradient of the predicted class's logit."""
    return gradient(classifier, x, create_graph=x.requires_grad and torch.is_grad_enabled())


def image_and_jacobian(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """JSD (papers 002, 000): the image and, in as many more channels, the gradient of the predicted class's logit."""
    return torch.cat([x, jacobian(classifier, x)], 1)


def saliency_map(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """SMD (paper 000): the learned map of the predicted class."""
    return saliency(x)


def salient_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """SPD (paper 000): the learned map of the predicted class times the image."""
    return saliency(x) * x


def shuffled_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for SPD: the map's values in another order, the same for all images, times the image."""
    maps = saliency(x)
    order = torch.randperm(maps[0].numel(), generator=torch.Generator().manual_seed(0)).to(x.device)
    return maps.flatten(1)[:, order].view_as(maps) * x


def constant_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for SPD: the map's mean in place of the map, times the image."""
    return saliency(x).mean((1, 2, 3), keepdim=True) * x


def random_pixels(saliency: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for SPD: one map of uniform noise, the same for all images, times the image."""
    return torch.rand(x.shape[2:], generator=torch.Generator().manual_seed(0)).to(x) * x


class Network(Detector):
    """A network of two outputs on `features(through, x)`; the score is the logit of adversarial minus that of clean."""

    def __init__(self, classifier: nn.Module, features: Features, through: nn.Module | None = None) -> None:
        """
        Args:
            through: the model whose answer to the images the features are; None: the classifier.
        """
        super().__init__(classifier)
        self.features, self.through, self.net = features, through, None

    def fit(self, clean: torch.Tensor, adversarial: torch.Tensor, index: torch.Tensor, index_adversarial: torch.Tensor | None = None, *,
            architecture: str, epochs: int, seed: int = 0, width: float = 1.0, optimizer: str = "adam", folder: Path | None = None, progress=iter,
            seen: tuple[torch.Tensor, torch.Tensor] | None = None) -> dict:
        """Train on clean and adversarial images; those of one source stay together when a part is kept for validation.

        Inputs are normalised by the mean and deviation of each channel over the training features. A fit that ends in one answer for
        everything (a collapse) is repeated with another seed, up to RETRIES times.

        Args:
            index, index_adversarial: (n,) the source of each clean image, and of each adversarial one where they are not pairs, row by row.
            seen: what `look` gave for both, where it is known already.
        Returns:
            the record of `train.fit`, and `collapses`: how many fits ended so.
        """
        x = torch.cat(seen or [self.look_all(clean), self.look_all(adversarial)])
        y = torch.cat([torch.zeros(len(clean)), torch.ones(len(adversarial))]).long().to(x.device)
        groups = torch.cat([index, index if index_adversarial is None else index_adversarial])
        if len(groups) != len(x):
            raise InputError(f"index_adversarial must name the source of each of the {len(adversarial)} adversarial images.")
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).clamp_min(1e-8).tolist()
        for collapses in range(RETRIES):
            use = seed + 1000 * collapses
            self.net = models.build(architecture, tuple(x.shape[1:]), 2, mean=mean, std=std, width=width, seed=use).to(x.device)
            record = train.fit(self.net, x, y, groups=groups, epochs=epochs, seed=use, optimizer=optimizer, folder=folder, progress=progress)
            self.net.to(memory_format=torch.channels_last)  # scores faster on a CPU
            if not record["collapsed"]:
                return {**record, "collapses": collapses}
        return {**record, "collapses": RETRIES}

    def look(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(self.classifier if self.through is None else self.through, x)

    @torch.no_grad()
    def look_all(self, x: torch.Tensor) -> torch.Tensor:
        """`look` in batches, without a graph."""
        return torch.cat([self.look(part).detach() for part in x.split(256)])

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
        place = next(iter([*self.classifier.parameters(), *self.classifier.buffers()]), torch.empty(0)).device
        self.net.to(place, memory_format=torch.channels_last)  # as after fit
        return self
