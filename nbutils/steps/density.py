"""The density of the run's clean images, trained once: what a likelihood detector reads."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from nbutils import InputError
from nbutils.data.images import Dataset
from nbutils.data.splits import load
from nbutils.density.fitting import DensityTraining, fit
from nbutils.density.pixelcnn import PixelCNN
from nbutils.density.ranks import same_distribution
from nbutils.steps.classifier import as_committed, committed_network
from nbutils.steps.run import Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

FIELDS = (
    "density_train",
    "density_epochs",
    "density_filters",
    "density_blocks",
    "density_mixtures",
)  # of the preset
JUDGED = 1000  # images of either part whose bits per dimension are kept
PIXELS = 2**18  # in a step of training, at most


@dataclass(frozen=True)
class Density:
    """The density with its record.

    `bits_by_epoch`; `bits_train` and `bits_test` per dimension, the means over `n_train` clean
    images that it was trained on and `n_test` that it was not; `ks` and `ks_p`, how far the two
    distributions lie apart (`density.ranks.same_distribution`).
    """

    model: PixelCNN
    record: dict
    artifact: Artifact

    @property
    def reference(self) -> torch.Tensor:
        """(n_train,) bits per dimension of clean training images: PixelDefend's reference."""
        return self.artifact.tensors["bits_train"]

    @property
    def test(self) -> torch.Tensor:
        """(n_test,) bits per dimension of the first clean test images."""
        return self.artifact.tensors["bits_test"]


def density(run: Run) -> Density:
    """The density: the committed one, else trained on clean training images alone.

    It knows nothing of the classifier, so one serves all classifiers of a data set.
    """
    return run.memory.once(("density",), _density, run)


def _density(run: Run) -> Density:
    data = _data(run)
    settings = {"seed": run.seed, **{field: run.preset[field] for field in FIELDS}}
    known = {"train": key_of(data.train.x), "test": key_of(data.test.x)}
    found = committed_network(run, "density", {**settings, **known})
    known["committed"] = bool(found)
    inputs = {"data": data, "committed": found, "progress": run.progress}
    artifact = run.step("density", "pixelcnn", make_density, inputs, settings, known=known)
    weights = {k: v for k, v in artifact.tensors.items() if k not in ("bits_train", "bits_test")}
    return Density(PixelCNN.of(weights).to(run.device), artifact.record, artifact)


def make_density(
    parts: Parts,
    *,
    data: Dataset,
    committed: tuple | None,
    progress: Callable,
    seed: int,
    density_train: int,
    density_epochs: int,
    density_filters: int,
    density_blocks: int,
    density_mixtures: int,
) -> tuple[dict, dict]:
    """Its weights, and the bits per dimension of clean training and test images."""
    if committed:
        return as_committed(committed)
    images = data.train.x[: density_train or None]
    if not len(images):
        raise InputError("There are no training pictures to fit a density on: add a train/ folder.")
    sizes = {"filters": density_filters, "blocks": density_blocks, "mixtures": density_mixtures}
    model = PixelCNN(data.shape[0], **sizes, seed=seed).to(images.device)
    batch = min(16, max(1, PIXELS // (data.shape[1] * data.shape[2])))
    watched = partial(progress, what="training the density")
    how = DensityTraining(density_epochs, batch)
    record = fit(model, images, how, seed=seed, parts=parts, progress=watched)
    known, new = (model.bits(part) for part in (images[:JUDGED], data.test.x[:JUDGED]))
    record |= {"bits_train": known.mean().item(), "bits_test": new.mean().item()}
    record |= {"n_train": len(known), "n_test": len(new), **same_distribution(new, known)}
    record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return {**model.state_dict(), "bits_train": known, "bits_test": new}, record


def _data(run: Run) -> Dataset:
    """The data as they are split for a classifier that is trained here: a brought one has its
    calibration images from the test part, and the density is the same.
    """
    if not run.brought:
        return run.data
    counts = {name: run.preset[name] for name in ("train", "calibrate", "test")}
    given = {"source": run.parameters["SOURCE"], "classes": run.parameters["CLASSES"]}
    return load(run.pictures, seed=run.seed, root=run.root, device=run.device, **given, **counts)
