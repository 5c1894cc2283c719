"""The learned saliency model of the run's classifier, and maps of any kind."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from nbutils import InputError
from nbutils.data.images import Dataset
from nbutils.models.published import CAM_LAYERS
from nbutils.saliency import MAPS
from nbutils.saliency.fitting import SaliencyTraining, fit
from nbutils.saliency.learned import SaliencyModel
from nbutils.saliency.maps import in_batches, quality
from nbutils.steps.classifier import Classifier, as_committed, classifier, committed_network
from nbutils.steps.run import Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

FIELDS = ("saliency_train", "saliency_epochs", "saliency_area")  # of the preset
JUDGED = 1000  # clean test images that say how good its maps are


@dataclass(frozen=True)
class Saliency:
    """The learned saliency model with its record.

    Losses by epoch; `area`, `preserved`, `destroyed` on `n` clean test images.
    """

    model: SaliencyModel
    record: dict
    artifact: Artifact


def learned_saliency(run: Run) -> Saliency:
    """The saliency model: the committed one, else trained on clean training images alone."""
    return run.memory.once(("saliency",), _learned_saliency, run)


def _learned_saliency(run: Run) -> Saliency:
    base = classifier(run)
    settings = {"seed": run.seed, **{field: run.preset[field] for field in FIELDS}}
    known = {"weights": key_of(base.model.state_dict())}
    found = committed_network(run, "saliency", {**settings, **known})
    known["committed"] = bool(found)
    inputs = {"base": base, "data": run.data, "committed": found, "progress": run.progress}
    artifact = run.step(
        "saliency",
        "learned",
        make_saliency,
        inputs,
        settings,
        known=known,
        parents={"classifier": base.artifact},
    )
    model = SaliencyModel(base.model, run.data.test[:1].pixels(), seed=run.seed)
    model.load_state_dict(artifact.tensors)
    model.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return Saliency(model, artifact.record, artifact)


def make_saliency(
    parts: Parts,
    *,
    base: Classifier,
    data: Dataset,
    committed: tuple | None,
    progress: Callable,
    seed: int,
    saliency_train: int,
    saliency_epochs: int,
    saliency_area: float,
) -> tuple[dict, dict]:
    """Its weights; trained on the first training images, judged on test images, all clean."""
    if committed:
        return as_committed(committed)
    images = data.train.x[: saliency_train or None]
    if not len(images):
        raise InputError(
            "There are no training pictures to fit a saliency model on: add a train/ folder."
        )
    model = SaliencyModel(base.model, data.test[:1].pixels(), seed=seed)
    how = SaliencyTraining(epochs=saliency_epochs, weights={"area": saliency_area})
    watched = partial(progress, what="training the saliency model")
    record = fit(model, images, how, seed=seed, progress=watched)
    test = data.test[:JUDGED].pixels()
    maps = in_batches(model.map_of, base.model, test)
    record |= {**quality(base.model, test, maps, seed=seed), "n": len(test)}
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, record


def cam_layer(base: Classifier) -> str:
    """The layer that Grad-CAM takes of this classifier ("": the last picture of the network)."""
    return CAM_LAYERS.get(base.record["architecture"], "")


def maps(run: Run, kind: str, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Maps (n,1,h,w) of images by one of MAPS or "learned", for the predicted class or `labels`
    (n,).
    """
    if kind not in (*MAPS, "learned"):
        raise InputError(f"Saliency {kind!r} is unknown: choose one of {', '.join(MAPS)}, learned.")
    base = classifier(run)
    function = learned_saliency(run).model.map_of if kind == "learned" else MAPS[kind]
    if kind == "grad_cam":
        function = partial(function, layer=cam_layer(base))
    return in_batches(function, base.model, x, labels)
