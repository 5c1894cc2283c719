"""The protected classifier: the user's own or a published one, else a committed one, else trained
here.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from nbutils import InputError
from nbutils.data.images import Dataset
from nbutils.models import contract, training
from nbutils.models.brought import Brought, bring, load_weights, module_of
from nbutils.models.building import build, with_published_weights
from nbutils.models.normalised import Restricted, moments
from nbutils.models.published import PUBLISHED
from nbutils.models.training import Training
from nbutils.resources import from_here
from nbutils.steps.run import Run, log
from nbutils.store.artifacts import Artifact, Parts, committed, identity_of
from nbutils.store.fingerprints import key_of

ASKED = 500  # test images that tell whether a brought model has been trained
SCALED = 128  # of them, those that tell which values it is made for
KNOWN_BY = 32  # test images whose answers a brought model is known by
FIELDS = ("width", "dropouts", "refit", "epochs")  # of the preset


@dataclass(frozen=True)
class Classifier:
    """The protected classifier with its record.

    `accuracy` on the `n` test images, parameters, how training went.
    """

    model: nn.Module
    record: dict
    artifact: Artifact

    @property
    def test_logits(self) -> torch.Tensor:
        """(n,k) of all test images."""
        return self.artifact.tensors["test_logits"]


@dataclass(frozen=True)
class Derived:
    """A network that was trained on from the classifier, with its record."""

    model: nn.Module
    record: dict
    artifact: Artifact


def copied(model: nn.Module) -> nn.Module:
    """A copy that can be trained on.

    Raises:
        InputError: the model cannot be copied, or holds nothing to train.
    """
    try:
        made = copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"The classifier cannot be copied ({error}), so no other can be trained from it."
        ) from error
    if not [*made.parameters()]:
        raise InputError("The classifier holds no parameters: there is nothing to train.")
    return made


def derived(run: Run, artifact: Artifact) -> Derived:
    """The classifier with the weights of this artifact, ready to be read."""
    model = copied(classifier(run).model)
    model.load_state_dict(artifact.tensors)
    model = model.to(run.device).eval().requires_grad_(False)
    return Derived(model, artifact.record, artifact)


def classifier(run: Run) -> Classifier:
    """The classifier of this run."""
    return run.memory.once(("classifier",), _classifier, run)


def _classifier(run: Run) -> Classifier:
    architecture = run.parameters["MODEL"] or run.preset["classifier"]
    brought = _brought(run, architecture)
    settings, known = {"architecture": architecture, "seed": run.seed}, {"data": run.data_key}
    inputs = {"data": run.data, "brought": brought, "device": run.device}
    if brought is not None:
        known["model"] = key_of(_identity(run, brought, architecture).content)
        inputs["identity"] = known["model"]
    else:
        settings |= {field: run.preset[field] for field in FIELDS}
        found = committed_network(run, "classifier", {**settings, **known})
        inputs |= {"committed": found, "progress": run.progress}
        known["committed"] = bool(found)
        if not found and (len(settings["dropouts"]) > 1 or settings["refit"]):
            inputs["tried"] = {
                dropout: _candidate(run, settings, dropout) for dropout in settings["dropouts"]
            }
    name = architecture.replace(":", ".")
    artifact = run.step("classifier", name, make_classifier, inputs, settings, known=known)
    model = brought
    if model is None:
        model = _fresh(run.data, run.device, architecture, run.preset["width"], run.seed)
        model.load_state_dict({k: v for k, v in artifact.tensors.items() if k != "test_logits"})
        contract.check(model, run.data.test[:4].pixels(), len(run.data.classes))
    if run.device.type == "cpu" and ":" not in architecture:
        # convolutions are a fifth to a half faster so; a user's own may not take it
        model.to(memory_format=torch.channels_last)
    return Classifier(model.requires_grad_(False), artifact.record, artifact)


def make_classifier(
    parts: Parts,
    *,
    data: Dataset,
    brought: nn.Module | None,
    device: torch.device,
    architecture: str,
    seed: int,
    identity: str = "",
    committed: tuple | None = None,
    tried: dict | None = None,
    progress: Callable | None = None,
    width: float = 1.0,
    dropouts: list | None = None,
    refit: bool = False,
    epochs: int = 0,
) -> tuple[dict, dict]:
    """The network's weights (a brought one keeps its own) and its logits of all test images.

    Args:
        committed: what the project commits for these settings, taken as it is.
        tried: the record of a training with each dropout, where there are several or a refit: the
            one with the best validation accuracy is used, and with `refit` the network is trained
            once more, on the validation images too, for as many epochs as were best.
    """
    if committed:
        return as_committed(committed)
    if brought is not None:
        tensors, record, model = {"identity": identity_of(identity)}, {}, brought
    else:
        best = dropouts[0]
        if tried:
            best = max(dropouts, key=lambda dropout: tried[dropout]["validation_accuracy"])
        model = _fresh(data, device, architecture, width, seed, best)
        if refit:
            how = Training(epochs=tried[best]["epoch"], validate=0.0)
            record = _fit(parts, model, architecture, data, how, seed, progress)
            kept = ("validation", "validation_accuracy", "validation_loss")
            record |= {name: tried[best][name] for name in kept}
        else:
            record = _fit(parts, model, architecture, data, Training(epochs=epochs), seed, progress)
        if record["collapsed"]:
            raise InputError(
                f"{architecture} gives every {data.name} image the same label after {epochs} "
                "epochs: change SEED or MODEL."
            )
        told = {
            str(dropout): {name: found[name] for name in ("epoch", "validation_accuracy")}
            for dropout, found in (tried or {}).items()
        }
        record |= {"dropout": best, "tried": told}
        tensors = model.state_dict()
    logits = contract.predict(model, data.test.x)
    right = logits.argmax(1) == data.test.y
    record |= {"accuracy": right.float().mean().item(), "n": len(data.test)}
    weights = sum(parameter.numel() for parameter in model.parameters())
    record |= {"architecture": architecture, "parameters": weights}
    return tensors | {"test_logits": logits}, record


def make_candidate(
    parts: Parts,
    *,
    data: Dataset,
    device: torch.device,
    progress: Callable,
    architecture: str,
    seed: int,
    width: float,
    epochs: int,
    dropout: float | None,
) -> tuple[dict, dict]:
    """The record of a training with this dropout; its weights are not kept."""
    model = _fresh(data, device, architecture, width, seed, dropout)
    return {}, _fit(parts, model, architecture, data, Training(epochs=epochs), seed, progress)


def _candidate(run: Run, settings: dict, dropout: float | None) -> dict:
    chosen = {name: settings[name] for name in ("architecture", "seed", "width", "epochs")}
    chosen["dropout"] = dropout
    inputs = {"data": run.data, "device": run.device, "progress": run.progress}
    name = f"{settings['architecture']}-dropout{dropout}"
    known = {"data": run.data_key}
    return run.step("candidate", name, make_candidate, inputs, chosen, known=known).record


def _fit(
    parts: Parts,
    model: nn.Module,
    architecture: str,
    data: Dataset,
    how: Training,
    seed: int,
    progress: Callable,
) -> dict:
    images = data.train
    if not len(images):
        raise InputError(
            f"{data.name} has no training pictures to fit {architecture} on: add a train/ folder, "
            "or bring MODEL and WEIGHTS."
        )
    watched = partial(progress, what=f"training {architecture}")
    return training.fit(
        model,
        images.x,
        images.y,
        how,
        groups=images.index,
        seed=seed,
        parts=parts,
        progress=watched,
    )


def _fresh(
    data: Dataset,
    device: torch.device,
    architecture: str,
    width: float,
    seed: int,
    dropout: float | None = None,
) -> nn.Module:
    """A network with weights drawn from `seed`, which normalises by the pictures it will be trained
    on.
    """
    pixels = (data.train if len(data.train) else data.test)[:2000].pixels()
    mean, std = moments(pixels)
    classes = len(data.classes)
    shaped = {"mean": mean, "std": std, "width": width, "dropout": dropout, "seed": seed}
    return build(architecture, data.shape, classes, **shaped).to(device)


def _brought(run: Run, architecture: str) -> nn.Module | None:
    """The user's own model or weights, or published ones, checked on arrival; None: trained here.

    It is restricted to the data set's classes.
    """
    if not run.brought:
        return None
    weights, images = run.parameters["WEIGHTS"], run.data.test[:4].pixels()
    if ":" in architecture:
        model = bring(architecture)
        if weights not in ("", "none"):
            load_weights(model, from_here(weights))
        model = Brought(model)
    elif PUBLISHED.get(architecture, {}).get("data") == run.data.name:
        file = weights if weights in ("", "torchvision") else str(from_here(weights))
        model = with_published_weights(architecture, run.data.shape, weights=file, root=run.root)
    else:
        model = _fresh(run.data, run.device, architecture, run.preset["width"], run.seed)
        load_weights(model, from_here(weights))
    classes = len(run.data.classes)
    allowed = [classes, 1000] if run.data.positions else [classes]
    outputs = contract.check(model.to(run.device), images, *allowed)
    if outputs != classes:
        model = Restricted(model, run.data.positions).to(run.device).eval()
    asked = run.data.test[:SCALED]
    contract.check_scale(model, asked.pixels(), asked.y)
    asked = run.data.test[:ASKED]
    if said := contract.check_trained(contract.predict(model, asked.x), asked.y):
        log.warning(said)
    return model


def _identity(run: Run, model: nn.Module, architecture: str) -> Artifact:
    """What a brought model is known by: its state, its file, and above all what it answers, also
    off the grid of 8-bit images; what is kept holds while a machine's rounding is all that differs.
    """
    x = run.data.test[:KNOWN_BY].pixels()
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    found, off_grid = (
        contract.answers(model, part) for part in (x, (x + (noise - 0.5) / 10).clamp(0, 1))
    )
    if said := contract.check_gradients(found):
        log.warning(said)
    answers = {
        "logits": torch.cat([found.logits, off_grid.logits]),
        "slopes": torch.cat([found.slopes, off_grid.slopes]),
    }
    return run.step(
        "identity",
        architecture.replace(":", "."),
        make_identity,
        {"answers": answers},
        {"model": key_of(model.state_dict(), _source_of(architecture))},
        known={"data": run.data_key},
        still=partial(_answers_as_before, answers),
    )


def make_identity(
    parts: Parts, *, answers: dict[str, torch.Tensor], model: str
) -> tuple[dict, dict]:
    """The answers of a brought model with a hash of its state and its source."""
    return {**answers, "model": identity_of(model)}, {}


def _source_of(architecture: str) -> str:
    """The text of the file that a user's own model comes from, where it comes from one."""
    file = getattr(module_of(architecture), "__file__", None) if ":" in architecture else None
    return Path(file).read_text(encoding="utf-8", errors="replace") if file else ""


def _answers_as_before(answers: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> str:
    """Whether a brought model still gives the answers that are kept, up to what another machine
    rounds: of a logit the last digits, of a gradient a kink here and there.
    """
    logits, slopes = (tensors[name].to(answers[name]) for name in ("logits", "slopes"))
    near = (logits - answers["logits"]).abs().max() <= 1e-4 * logits.abs().max()
    if near and (slopes - answers["slopes"]).norm() <= 1e-2 * slopes.norm():
        return ""
    return "the model answers the same images differently"


def committed_network(run: Run, step: str, arguments: dict) -> tuple[dict, dict] | None:
    """What the project commits for these arguments, as it was trained; None with RETRAIN."""
    if run.parameters["RETRAIN"]:
        return None
    return committed(run.networks / step, {**arguments, "committed": False})


def as_committed(found: tuple[dict, dict]) -> tuple[dict, dict]:
    """Tensors and record of what was committed, with a note of what made it."""
    tensors, meta = found
    made_by = {"code": meta["code"], **meta["versions"], "seconds": meta["seconds"]}
    return tensors, {**meta["record"], "made_by": made_by}
