"""Detectors that are a small classifier of clean against attacked: on the image (ID), on image and Jacobian (JSD), on the classifier's own
layers, on the learned saliency map (SMD), on the salient pixels (SPD)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad, pixel_unshuffle

from nbutils import InputError, models, train
from nbutils.detectors.base import Detector, scores
from nbutils.saliency import gradient, in_float64, normalised, scales

Features = Callable[[nn.Module, torch.Tensor], torch.Tensor]
BANK = 512  # Jacobians that stand in for an image's own
RETRIES = 3  # fits, each from a seed of its own, before a collapse is reported


def image(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """ID (Gong et al. 2017; paper 000): the image alone."""
    return x


def jacobian(classifier: nn.Module, x: torch.Tensor, *, of: str = "logit", scaled: bool = False, double: bool = False) -> torch.Tensor:
    """JSD without its image: the gradient of the predicted class's logit.

    Args:
        of: what is derived: logit, softmax or cross_entropy.
        scaled: each image's gradient divided by its own largest size, so that its size tells nothing.
        double: computed in float64, where softmax and cross-entropy of a classifier that is sure do not round to zero.
    """
    graph = x.requires_grad and torch.is_grad_enabled()
    if double:
        classifier, x = in_float64(classifier), x.double()
    found = gradient(classifier, x, of=of, create_graph=graph)
    return (normalised(found) if scaled else found).float()


def image_and_jacobian(classifier: nn.Module, x: torch.Tensor, **reading: object) -> torch.Tensor:
    """JSD (papers 002, 000): the image and, in as many more channels, the gradient of the predicted class's logit."""
    return torch.cat([x, jacobian(classifier, x, **reading)], 1)


class Others(nn.Module):
    """Stand-ins for what is stacked onto an image: one of `bank` (m,c,h,w), drawn by the image's own bits, so neither by its batch nor its kind."""

    def __init__(self, bank: torch.Tensor) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits = x.detach().float().flatten(1).contiguous().view(torch.int32).long()
        odd = torch.from_numpy(np.random.default_rng(11).integers(2**62, size=bits.shape[1])).to(x.device) * 2 + 1
        return self.bank[(bits * odd).sum(1).bitwise_right_shift(20) % len(self.bank)]  # exact in any order: integers wrap


def others(name: str, classifier: nn.Module, clean: torch.Tensor, adversarial: torch.Tensor, *, seed: int = 0) -> Others:
    """The bank of a stand-in: "jsd_shuffled": Jacobians of as many clean as adversarial images, up to BANK; "jsd_random": noise instead."""
    both = torch.cat([part[torch.linspace(0, len(part) - 1, min(len(part), BANK // 2)).long()] for part in (clean, adversarial)])
    if name == "jsd_random":
        return Others(torch.from_numpy(np.random.default_rng([seed, 10]).standard_normal(both.shape, np.float32)).to(both.device))
    return Others(torch.cat([jacobian(classifier, part) for part in both.split(64)]))


def image_and_other(others: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Stand-in for JSD: the image, and beside it what `others` gives in the Jacobian's place: another image's Jacobian, or noise."""
    return torch.cat([x, others(x)], 1)


def layer(classifier: nn.Module, x: torch.Tensor, *, depth: float, with_jacobian: bool = False) -> torch.Tensor:
    """A layer of the classifier, as the sub-networks of Metzen et al. (2017) and the simplification of paper 002 (II.C) read it.

    Args:
        depth: where among its activations that are pictures (its convolutions, if it has none): 0 the first, 1 the last.
        with_jacobian: beside it the gradient of the predicted class's logit with respect to the image, folded to the layer's resolution
            (blocks of pixels become channels; a border that fills no block is left out).
    """
    modules = dict(classifier.named_modules())
    pictures = [p for p in scales(classifier, x[:1], every=True) if modules[p[0]] is p[2]]
    layers = next(found for kind in (nn.ReLU, nn.Conv2d, nn.Module) if (found := [p for p in pictures if isinstance(p[2], kind)]))
    name, shape, _ = layers[round(depth * (len(layers) - 1))]
    with models.taps(classifier, [name]) as found:
        classifier(x)
    if not with_jacobian:
        return found[name]
    fold = max(1, round(x.shape[2] / shape[2]))
    fitting = pad(jacobian(classifier, x), (0, fold * shape[3] - x.shape[3], 0, fold * shape[2] - x.shape[2]))
    return torch.cat([found[name], pixel_unshuffle(fitting, fold)], 1)


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

    def __init__(self, classifier: nn.Module, features: Features, through: nn.Module | None = None, *, classes: bool = False) -> None:
        """
        Args:
            through: the model whose answer to the images the features are; None: the classifier.
            classes: clean images are not one kind but as many as the classifier finds in them ("N+1", Grosse et al. 2017); the score is then
                the logit of adversarial minus the largest of the others.
        """
        super().__init__(classifier)
        self.features, self.through, self.classes, self.net = features, through, classes, None

    def fit(self, clean: torch.Tensor, adversarial: torch.Tensor, index: torch.Tensor, index_adversarial: torch.Tensor | None = None, *,
            architecture: str, epochs: int, batch: int = 64, seed: int = 0, width: float = 1.0, optimizer: str = "adam",
            start: nn.Module | None = None, folder: Path | None = None, progress=iter, seen: tuple[torch.Tensor, torch.Tensor] | None = None) -> dict:
        """Train on clean and adversarial images; those of one source stay together when a part is kept for validation.

        Inputs are normalised by the mean and deviation of each channel over the training features. A fit that ends in one answer for
        everything (a collapse) is repeated with another seed, up to RETRIES times.

        Args:
            index, index_adversarial: (n,) the source of each clean image, and of each adversarial one where they are not pairs, row by row.
            start: a network of this architecture whose weights it starts from where they fit, at a tenth of the learning rate.
            seen: what `look` gave for both, where it is known already.
        Returns:
            the record of `train.fit`, and `collapses`: how many fits ended so.
        """
        x = torch.cat(seen or [self.look_all(clean), self.look_all(adversarial)])
        outputs = self._outputs(clean[:1])
        y = models.predict(self.classifier, clean).argmax(1) if self.classes else torch.zeros(len(clean), dtype=torch.long, device=x.device)
        y = torch.cat([y, y.new_full((len(adversarial),), outputs - 1)])
        groups = torch.cat([index, index if index_adversarial is None else index_adversarial])
        if len(groups) != len(x):
            raise InputError(f"index_adversarial must name the source of each of the {len(adversarial)} adversarial images.")
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).clamp_min(1e-8).tolist()
        for collapses in range(RETRIES):
            use = seed + 1000 * collapses
            self.net = models.build(architecture, tuple(x.shape[1:]), outputs, mean=mean, std=std, width=width, seed=use).to(x.device)
            started = models.start_from(self.net, start) if start else 0
            record = train.fit(self.net, x, y, groups=groups, epochs=epochs, seed=use, lr=1e-4 if started else 1e-3, batch=batch,
                               optimizer=optimizer, folder=folder, progress=progress)
            self.net.to(memory_format=torch.channels_last)  # scores faster on a CPU
            if self.classes:  # it may tell the classes apart, and clean from attacked not at all
                record["collapsed"] |= len((scores(self, x, seen=True) > 0).unique()) == 1
            if not record["collapsed"]:
                return {**record, "collapses": collapses}
        return {**record, "collapses": RETRIES}

    @torch.no_grad()
    def _outputs(self, x: torch.Tensor) -> int:
        return self.classifier(x).shape[1] + 1 if self.classes else 2

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
        return logits[:, -1] - logits[:, :-1].amax(1)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors to keep."""
        return {name: tensor.contiguous() for name, tensor in self.net.state_dict().items()}

    def load(self, tensors: dict[str, torch.Tensor], shape: tuple[int, int, int], *, architecture: str, width: float = 1.0) -> "Network":
        """Take the kept tensors back, for images of `shape`."""
        place = next(iter([*self.classifier.parameters(), *self.classifier.buffers()]), torch.empty(0)).device
        blank = torch.zeros(2, *shape, device=place)
        mean, std = ([fill] * tensors["mean"].shape[1] for fill in (0.0, 1.0))
        self.net = models.build(architecture, tuple(self.look(blank).shape[1:]), self._outputs(blank), mean=mean, std=std, width=width)
        self.net.load_state_dict(tensors)
        self.net.to(place, memory_format=torch.channels_last)  # as after fit
        return self
