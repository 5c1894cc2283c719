"""Mahalanobis distances in the classifier's layers (Lee et al. 2018): how far an image's features
lie from those of the nearest class.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.detectors.base import Detector
from nbutils.detectors.regression import logistic
from nbutils.models.contract import predict
from nbutils.models.taps import Layer, pooled, stages

MAGNITUDES = (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.005, 0.01)  # Lee et al.'s grid, [0,1] units
HELD = 5  # one source in so many is held back from the regression, to choose the magnitude


class ClassGaussians(nn.Module):
    """One layer's class means (c,d) and the precision (d,d) of the covariance that they share."""

    def __init__(self, means: torch.Tensor, precision: torch.Tensor) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(precision)
        root = vectors * values.clamp_min(0).sqrt()
        self.register_buffer("means", means)
        self.register_buffer("precision", precision)
        self.register_buffer("root", root)
        self.register_buffer("whitened", means @ root)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n,) half the squared Mahalanobis distance of features (n,d) to the nearest mean."""
        apart = (features.double() @ self.root)[:, None] - self.whitened
        return apart.square().sum(2).amin(1) / 2


def class_gaussians(features: torch.Tensor, y: torch.Tensor) -> ClassGaussians:
    """Means of the classes that are there, and the tied covariance of the features about them, by
    scikit-learn; where it has no full rank, its pseudo-inverse.
    """
    from sklearn.covariance import EmpiricalCovariance

    x, labels = features.double().numpy(force=True), y.numpy(force=True)
    kinds, which = np.unique(labels, return_inverse=True)
    means = np.stack([x[labels == kind].mean(0) for kind in kinds])
    covariance = EmpiricalCovariance(assume_centered=True).fit(x - means[which])
    found = (torch.from_numpy(part).double() for part in (means, covariance.get_precision()))
    return ClassGaussians(*found).to(features.device)


class LayerDistances(Detector):
    """Distances of an image in several layers of the classifier; subclasses make them one score."""

    def __init__(
        self,
        classifier: nn.Module,
        *,
        layers: Sequence[Layer] = (),
        magnitudes: Sequence[float] = MAGNITUDES,
    ) -> None:
        """
        Args:
            layers: those that are looked at (none: the ends of its stages, `taps.stages`).
            magnitudes: steps that bring an image nearer to its class before its distance is taken
                ("input preprocessing"), in [0,1] units; `fit` chooses one.
        """
        super().__init__(classifier)
        self.layers, self.magnitudes, self.magnitude = tuple(layers), tuple(magnitudes), 0.0
        self.gaussians: nn.ModuleList | None = None
        self.weight = self.bias = None  # of each layer's distance in the score

    @torch.no_grad()
    def learn(self, x: torch.Tensor, y: torch.Tensor, *, batch: int = 256) -> nn.ModuleList:
        """The classes' statistics, from clean training images x (n,c,h,w) with labels y (n,)."""
        self._see(x)
        parts = [pooled(self.classifier, part, self.layers) for part in x.split(batch)]
        features = [torch.cat(layer) for layer in zip(*parts, strict=True)]
        self.gaussians = nn.ModuleList([class_gaussians(layer, y) for layer in features])
        return self.gaussians

    def distances(self, x: torch.Tensor, magnitudes: Sequence[float] | None = None) -> torch.Tensor:
        """(m,n,l): half the squared distance of each image in each layer, at each magnitude k (by
        default the fitted one).

        With k > 0 the image is first moved by k along the sign of its distance's gradient, towards
        its nearest class. One forward pass serves all layers and magnitudes, a backward pass each
        layer, and what a magnitude costs more is a pass that ends at its layer.
        """
        if self.gaussians is None:
            raise InputError("This detector is not fitted yet: call fit, or load one.")
        self._see(x)
        magnitudes = (self.magnitude,) if magnitudes is None else magnitudes
        keep = x.requires_grad and torch.is_grad_enabled()
        z = x if keep else x.detach().requires_grad_()
        moved = any(magnitudes)
        with torch.set_grad_enabled(moved or keep):
            features = pooled(self.classifier, z, self.layers)
            plain = [of(layer) for of, layer in zip(self.gaussians, features, strict=True)]
            totals = [found.sum() for found in plain]
        slopes = []
        for i, total in enumerate(totals if moved else ()):
            last = i + 1 == len(totals) and not keep
            slopes.append(torch.autograd.grad(total, z, retain_graph=not last)[0].sign())
        rows = []
        with torch.set_grad_enabled(keep):
            for k in magnitudes:
                here = plain if k == 0 else []
                for i, slope in enumerate(slopes if k else ()):
                    features = pooled(self.classifier, z - k * slope, self.layers[i : i + 1])
                    here.append(self.gaussians[i](features[0]))
                rows.append(torch.stack([found if keep else found.detach() for found in here], 1))
            return torch.stack(rows)

    def all_distances(
        self, x: torch.Tensor, magnitudes: Sequence[float] | None = None, *, batch: int = 128
    ) -> torch.Tensor:
        """`distances` in batches, without a graph."""
        with torch.no_grad():
            return torch.cat([self.distances(part, magnitudes) for part in x.split(batch)], 1)

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        return self.combined(self.distances(x)[0])

    def combined(self, distances: torch.Tensor) -> torch.Tensor:
        """The score (n,) of distances (n,l)."""
        return distances @ self.weight + self.bias

    def state(self) -> dict[str, torch.Tensor]:
        if self.weight is None:
            raise InputError("This detector is not fitted yet: there is nothing to keep.")
        kept = {"weight": self.weight, "bias": self.bias}
        for i, layer in enumerate(self.gaussians):
            kept |= {f"{i}.means": layer.means, f"{i}.precision": layer.precision}
        kept["magnitude"] = torch.tensor(self.magnitude, dtype=torch.float64)
        return {name: part.contiguous() for name, part in kept.items()} | super().state()

    def load(self, tensors: dict[str, torch.Tensor]) -> "LayerDistances":
        kept = {name: part.to(self.device) for name, part in tensors.items()}
        layers = range(sum(name.endswith(".means") for name in kept))
        self.gaussians = nn.ModuleList(
            [ClassGaussians(kept[f"{i}.means"], kept[f"{i}.precision"]) for i in layers]
        )
        self.weight, self.bias = kept["weight"], kept["bias"]
        self.magnitude = tensors["magnitude"].item()
        return super().load(tensors)

    def _see(self, x: torch.Tensor) -> None:
        self.layers = self.layers or tuple(stages(self.classifier, x[:1]))


class Mahalanobis(LayerDistances):
    """Lee et al.'s detector: a logistic regression on the layers' distances; the score is its
    logit.
    """

    trained, own_threshold = True, 0.0

    def fit(
        self,
        clean: torch.Tensor,
        adversarial: torch.Tensor,
        index: torch.Tensor,
        *,
        index_adversarial: torch.Tensor | None = None,
        noisy: torch.Tensor | None = None,
        seed: int = 0,
        measured: Sequence[torch.Tensor] | None = None,
    ) -> dict:
        """Choose the magnitude on held-back sources, then fit the regression on all.

        As Lee et al. do, only adversarial images that are misread count, and noisy ones that are
        not; where none is left of a kind, all of it count. Differs from theirs: the images are
        training images, those of one source stay together, and the regression reads standardised
        distances with one penalty (C = 1) in place of a search for it.

        Args:
            index, index_adversarial: (n,) the sources, as of `Network.fit`.
            noisy: clean images with noise of the attack's size, negatives beside the clean ones; a
                row to each adversarial image.
            measured: what `measure` gave for the three, where it is known.
        Returns:
            record: `magnitude`, `held_auroc` of each, `train_auroc`, `layers`, counts `n_clean`,
            `n_noisy`, `n_adversarial`; `collapses` and `collapsed`, which do not happen.
        """
        from sklearn.metrics import roc_auc_score

        if self.gaussians is None:
            self.learn(clean, predict(self.classifier, clean).argmax(1))
        self._see(clean)
        others = index if index_adversarial is None else index_adversarial
        if len(others) != len(adversarial):
            raise InputError(
                f"index_adversarial must name the source of each of the {len(adversarial)} "
                "adversarial images."
            )
        grids = self.measure(clean, adversarial, noisy) if measured is None else measured
        used = self._used(clean, adversarial, noisy, index, others)
        sources = (index, others, others)[: len(grids)]
        x = np.concatenate([g[:, u].numpy(force=True) for g, u in zip(grids, used, strict=True)], 1)
        groups = np.concatenate([s.cpu()[u] for s, u in zip(sources, used, strict=True)])
        counts = [len(rows) for rows in used]
        y = np.repeat([0, 1, 0][: len(grids)], counts)
        drawn = np.random.default_rng([seed, 14]).permutation(np.unique(groups))
        held = np.isin(groups, drawn[: max(1, len(drawn) // HELD)])
        found = []
        for distances in x if len(x) > 1 else ():
            if len(np.unique(y[held])) < 2 or len(np.unique(y[~held])) < 2:
                break  # too few images to choose by: the first, which is the cheapest
            weight, bias = logistic(distances[~held], y[~held])
            found.append(roc_auc_score(y[held], distances[held] @ weight + bias))
        best = int(np.argmax(found)) if found else 0
        weight, bias = logistic(x[best], y)
        self.weight = torch.from_numpy(weight).to(clean.device)
        self.bias = self.weight.new_tensor(bias)
        self.magnitude = float(self.magnitudes[best])
        return {
            "magnitude": self.magnitude,
            "held_auroc": [round(value, 6) for value in found],
            "train_auroc": roc_auc_score(y, x[best] @ weight + bias),
            "layers": [name for name, _ in self.layers],
            "n_clean": counts[0],
            "n_adversarial": counts[1],
            "n_noisy": counts[2] if len(counts) > 2 else 0,
            "collapses": 0,
            "collapsed": False,
        }

    def measure(
        self, clean: torch.Tensor, adversarial: torch.Tensor, noisy: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """`distances` (m,n,l) of these images at every magnitude of the grid."""
        kinds = [clean, adversarial, *([] if noisy is None else [noisy])]
        return [self.all_distances(images, self.magnitudes) for images in kinds]

    def _used(
        self,
        clean: torch.Tensor,
        adversarial: torch.Tensor,
        noisy: torch.Tensor | None,
        index: torch.Tensor,
        others: torch.Tensor,
    ) -> list[torch.Tensor]:
        """The rows that count of each kind: of the adversarial images the misread ones, of the
        noisy ones those that are read as before.
        """
        read = predict(self.classifier, clean).argmax(1).cpu()
        label = dict(zip(index.tolist(), read.tolist(), strict=True))
        before = torch.tensor([label[source] for source in others.tolist()])
        changed = predict(self.classifier, adversarial).argmax(1).cpu() != before
        used = [torch.ones(len(clean), dtype=torch.bool), changed]
        if noisy is not None:
            used.append(predict(self.classifier, noisy).argmax(1).cpu() == before)
        return [(rows if rows.any() else ~rows).nonzero()[:, 0] for rows in used]


class UnsupervisedMahalanobis(LayerDistances):
    """The distances without a regression, each in units of its spread over clean images.

    Args:
        reading: "sum" of the layers, or "max".
    """

    def __init__(self, classifier: nn.Module, *, reading: str = "sum", **knobs: object) -> None:
        if reading not in ("sum", "max"):
            raise InputError(f"reading {reading!r} is unknown: choose sum or max.")
        super().__init__(classifier, magnitudes=(0.0,), **knobs)
        self.reading = reading

    def fit(self, clean: torch.Tensor, y: torch.Tensor | None = None) -> dict:
        """From clean training images alone, with labels y (None: the classifier's own).

        No magnitude is chosen, which would take attacks: none is moved.
        """
        if self.gaussians is None:
            self.learn(clean, predict(self.classifier, clean).argmax(1) if y is None else y)
        found = self.all_distances(clean)[0]
        spread = found.std(0).clamp_min(1e-12)
        self.weight, self.bias = 1 / spread, -found.mean(0) / spread
        layers = [name for name, _ in self.layers]
        return {"n": len(clean), "layers": layers, "collapses": 0, "collapsed": False}

    def combined(self, distances: torch.Tensor) -> torch.Tensor:
        apart = distances * self.weight + self.bias
        return apart.sum(1) if self.reading == "sum" else apart.amax(1)
