"""Adversarial images: what an attack makes of the images of a split."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks import ATTACKS
from nbutils.attacks.cleverhans import through_cleverhans
from nbutils.attacks.contract import other_labels
from nbutils.attacks.cost import Counted
from nbutils.attacks.settings import CLEVERHANS_SETTINGS, settings_for
from nbutils.data.images import Dataset, Images, to_float
from nbutils.models.contract import predict
from nbutils.steps.classifier import classifier
from nbutils.steps.run import Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

REMEMBERED = 2**27  # bytes of an adversarial set up to which a run keeps it in memory
NOT_KNOBS = ("attack", "targeted")
OF_PRESET = {"pgd": "pgd_steps", "carlini_wagner_l2": "search_steps", "ddn": "search_steps"}
MIXED = ("x", "y", "index", "prediction", "x_adv", "prediction_adv", "success")


class Victim(Protocol):
    """A network with the artifact that it is kept in."""

    model: nn.Module
    artifact: Artifact


@dataclass(frozen=True)
class AdversarialSet:
    """What an attack made of images.

    Float `x`, `x_adv` (n,c,h,w) in [0,1]; `prediction` is the label it had to leave; all on the
    device.
    """

    name: str
    x: torch.Tensor
    y: torch.Tensor
    index: torch.Tensor
    prediction: torch.Tensor
    x_adv: torch.Tensor
    prediction_adv: torch.Tensor
    success: torch.Tensor
    target: torch.Tensor | None
    record: dict
    artifact: Artifact

    @property
    def setting(self) -> dict:
        return self.record["setting"]

    @property
    def knobs(self) -> dict:
        """What of the setting is handed to the attack."""
        return knobs_of(self.setting)


def knobs_of(setting: dict) -> dict:
    """What of a setting is handed to the attack."""
    return {knob: value for knob, value in setting.items() if knob not in NOT_KNOBS}


def first_rows(pairs: AdversarialSet) -> torch.Tensor:
    """The row of each clean image, once, in order: a mixture has several attacks of one image."""
    first = np.unique(pairs.index.cpu().numpy(), return_index=True)[1]
    return torch.from_numpy(first).sort().values.to(pairs.x.device)


def adversarial(
    run: Run,
    name: str,
    split: str = "test",
    *,
    backend: str = "nbutils",
    of: Victim | None = None,
    n: int = 0,
    **knobs: float | int | str | None,
) -> AdversarialSet:
    """The images of a split attacked with the setting `name`, any knob of it replaced by those
    given.

    Several names make a mixture: of "fgsm+bim" each image has one attack, drawn by seed and evenly;
    of "fgsm&bim" each image has all of them. Made in chunks that are kept one by one, so a killed
    run goes on; a chunk that does not fit into memory is halved.

    Args:
        of: another network than the run's classifier, with its artifact, such as a robust one.
        n: so many images of the split (0: as many as the preset says).
    """
    changed = {knob: value for knob, value in knobs.items() if value is not None}
    whose = of.artifact.content if of else ""
    key = ("adversarial", name, split, backend, whose, n, *changed.items())
    if key in run.memory.known:
        return run.memory.known[key]
    if "+" in name or "&" in name:
        made = _mixture(run, name, split, backend, changed)
    else:
        made = _single(run, name, split, backend, changed, of, n)
    if made.x_adv.nbytes <= REMEMBERED:
        run.memory.known[key] = made
    return made


def _single(
    run: Run,
    name: str,
    split: str,
    backend: str,
    changed: dict,
    of: Victim | None,
    fewer: int,
) -> AdversarialSet:
    setting, (images, n) = setting_of(run, name, backend, changed), _attacked(run, split)
    n, base = min(fewer or n, n), of or classifier(run)
    images = images[:n]
    words = [of.artifact.path.name] if of else []
    inputs = {
        "data": run.data,
        "model": base.model,
        "chunk": run.preset["chunk"],
        "progress": run.progress,
    }
    settings = {"setting": setting, "backend": backend, "split": split, "n": n, "seed": run.seed}
    known = {"images": key_of(images.index)}
    if backend == "cleverhans":
        known["chunk"] = run.preset["chunk"]  # its random start depends on the batch
    artifact = run.step(
        "adversarial",
        "-".join([_label(name, changed, split, backend), *words, *([f"n{n}"] if fewer else [])]),
        make_adversarial,
        inputs,
        settings,
        known=known,
        parents={"classifier": base.artifact},
    )
    tensors = {name: tensor.to(run.device) for name, tensor in artifact.tensors.items()}
    tensors["x"] = to_float(tensors["x"])
    record = {**artifact.record, "setting": setting, "backend": backend}
    return AdversarialSet(name, **{"target": None, **tensors}, record=record, artifact=artifact)


def _mixture(run: Run, name: str, split: str, backend: str, changed: dict) -> AdversarialSet:
    names = name.replace("&", "+").split("+")
    if ("+" in name and "&" in name) or len(set(names)) < len(names):
        raise InputError(
            f"Mixture {name!r} must name each attack once, and join them by + or by &."
        )
    several = [adversarial(run, one, split, backend=backend, **changed) for one in names]
    artifact = run.step(
        "adversarial",
        _label(name, changed, split, backend),
        make_mixture,
        {"several": several},
        {"attacks": name, "seed": run.seed},
        known=changed,
        parents={one.name: one.artifact for one in several},
    )
    tensors = {field: artifact.tensors[field].to(run.device) for field in MIXED}
    record = {**artifact.record, "setting": {"attack": name}}
    return AdversarialSet(name, **tensors, target=None, record=record, artifact=artifact)


def make_adversarial(
    parts: Parts,
    *,
    data: Dataset,
    model: nn.Module,
    chunk: int,
    progress: Callable,
    setting: dict,
    backend: str,
    split: str,
    n: int,
    seed: int,
) -> tuple[dict, dict]:
    """The first `n` images of the split under attack, the classifier's own answer as the label to
    leave.
    """
    images: Images = getattr(data, split)[:n]
    library = backend == "cleverhans"
    attack = through_cleverhans(setting["attack"]) if library else ATTACKS[setting["attack"]]
    done, halved = [], 0
    for start in progress(range(0, n, chunk), f"{setting['attack']} on {split}"):
        part = parts.find(str(start), chunk)
        if part is None:
            rows = images[start : start + chunk]
            part, times = _attack_in_memory(model, rows, attack, setting, seed)
            halved += times
            parts.keep(str(start), part, chunk)
        done.append(part)
    tensors = {name: torch.cat([part[name].cpu() for part in done]) for name in done[0]}
    cost = {name: tensors.pop(name).sum().item() for name in ("seconds", "forwards", "backwards")}
    record = {
        "n": n,
        "success_rate": tensors["success"].float().mean().item(),
        "seconds": round(cost["seconds"], 3),
        "forwards_per_image": cost["forwards"] / n,
        "backwards_per_image": cost["backwards"] / n,
        "halved": halved,
    }
    return tensors, record


def make_mixture(
    parts: Parts, *, several: list[AdversarialSet], attacks: str, seed: int
) -> tuple[dict, dict]:
    """Sets of the same source images as one: of each image one attack ("a+b"), or all of them
    ("a&b").
    """
    n, k = len(several[0].x), len(several)
    rows = torch.arange(n * k)
    if "+" in attacks:
        drawn = torch.from_numpy(np.random.default_rng([seed, 9]).permutation(n) % k)
        rows = drawn * n + torch.arange(n)
    tensors = {
        field: torch.cat([getattr(one, field).cpu() for one in several])[rows] for field in MIXED
    }
    record = {"n": len(rows), "success_rate": tensors["success"].float().mean().item()}
    return {**tensors, "attack": rows // n}, record


def _attack_in_memory(
    model: nn.Module, images: Images, attack: Callable, setting: dict, seed: int
) -> tuple[dict[str, torch.Tensor], int]:
    """A chunk attacked, in smaller batches where the device's memory does not hold it; and how
    often halved.
    """
    size, halved = len(images), 0
    while True:
        try:
            batches = [images[i : i + size] for i in range(0, len(images), size)]
            pieces = [attack_rows(model, batch, attack, setting, seed) for batch in batches]
            return {
                name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]
            }, halved
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise InputError(
                    f"{setting['attack']}: one image does not fit into the device's memory; use "
                    "DEVICE = 'cpu'."
                ) from error
            size, halved = -(-size // 2), halved + 1
            torch.cuda.empty_cache()


def attack_rows(
    model: nn.Module, images: Images, attack: Callable, setting: dict, seed: int
) -> dict[str, torch.Tensor]:
    """One batch attacked: the fields of an `AdversarialSet`, seconds and passes."""
    x = images.pixels()
    logits = predict(model, x)
    prediction, target = logits.argmax(1), None
    if setting.get("targeted"):
        target = other_labels(prediction, logits.shape[1], images.index, seed)
    counted = Counted(model)
    started = time.perf_counter()
    given = {"target": target, "index": images.index, "seed": seed, **knobs_of(setting)}
    x_adv = attack(counted, x, prediction, **given)
    if x.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if not torch.isfinite(x_adv).all():
        raise InputError(
            "The attack made NaN of some images: the model's gradient is NaN or infinite there."
        )
    prediction_adv = predict(model, x_adv).argmax(1)
    reached = {"success": prediction_adv != prediction}
    if target is not None:
        reached = {"success": prediction_adv == target, "target": target}
    cost = {"seconds": seconds, "forwards": counted.forwards, "backwards": counted.backwards}
    return {
        "x": images.x,
        "y": images.y,
        "index": images.index,
        "prediction": prediction,
        "x_adv": x_adv.contiguous(),
        "prediction_adv": prediction_adv,
        **reached,
        **{name: torch.tensor([value], dtype=torch.float64) for name, value in cost.items()},
    }


def setting_of(run: Run, name: str, backend: str = "nbutils", changed: dict | None = None) -> dict:
    """The setting of this name for the run's pictures: the data's, what the preset has time for,
    changed.
    """
    changed, found = changed or {}, settings_for(run.data.name)
    if backend == "cleverhans":
        its = {k: v for k, v in found.items() if k in CLEVERHANS_SETTINGS and "eps" in v}
        found = CLEVERHANS_SETTINGS | its
    if name not in found:
        raise InputError(f"Attack {name!r} is unknown: choose one of {', '.join(found)}.")
    setting = {**found[name], **_of_preset(run, name, found[name]), **changed}
    if "eps" in changed and "step" in setting and "step" not in changed:  # the step keeps its share
        setting["step"] = found[name]["step"] * changed["eps"] / found[name]["eps"]
    return setting


def _of_preset(run: Run, name: str, setting: dict) -> dict:
    """The knobs of a setting that the preset has the time for; none of a paper's own setting
    ("000.jsma").
    """
    if name[0].isdigit():
        return {}
    steps = OF_PRESET.get(setting["attack"])
    if "steps" in setting and steps and run.preset[steps]:
        return {"steps": run.preset[steps]}
    if setting["attack"] == "jsma" and run.preset["jsma_pairs"]:
        values = run.data.test.x[0].numel()
        return {"gamma": min(setting["gamma"], (2 * run.preset["jsma_pairs"] + 1) / values)}
    return {}


def _attacked(run: Run, split: str) -> tuple[Images, int]:
    """The images of a split that are attacked, and how many they are."""
    if split not in ("train", "test"):
        raise InputError(f"split {split!r} is unknown: choose train or test.")
    images = getattr(run.data, split)
    if not len(images):
        raise InputError(
            f"{run.data.name} has no {split} pictures to attack: add a {split}/ folder."
        )
    n = min(run.preset[f"attacked_{split}"] or len(images), len(images))
    return images[:n], n


def _label(name: str, changed: dict, split: str, backend: str) -> str:
    knobs = (f"{k}{v:.4g}" if isinstance(v, float) else f"{k}{v}" for k, v in changed.items())
    return "-".join([name, *knobs, split, *([] if backend == "nbutils" else [backend])])
