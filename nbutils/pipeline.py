"""The corridor: classifier -> adversarial -> saliency -> detector -> evaluation. Each step loads what is kept, or makes it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nbutils import InputError, artifacts, attacks, checks, detectors, metrics, models, networks, saliency, train, vision
from nbutils.artifacts import Artifact
from nbutils.data import Images, to_float
from nbutils.detectors.inconsistency import EMPHASES, SQUEEZERS, STAND_INS, TRANSFORMS, ask, between_0_and_1, emphasised
from nbutils.presets import run_name
from nbutils.session import ROOT, Run, folder_of, log

PRETRAINED = ROOT / "data" / "pretrained"
KEPT = 2**27  # bytes of an adversarial set up to which a run keeps it in memory


@dataclass(frozen=True)
class Classifier:
    """The protected classifier with its record: `accuracy` on the test images, `n`, parameters, how training went."""

    model: nn.Module
    record: dict
    artifact: Artifact


@dataclass(frozen=True)
class AdversarialSet:
    """What an attack made of images: float `x`, `x_adv` (n,c,h,w) in [0,1]; `prediction` is the label it had to leave; all on the device."""

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
        return _knobs(self.setting)


def _knobs(setting: dict) -> dict:
    return {knob: value for knob, value in setting.items() if knob not in ("attack", "targeted")}


@dataclass(frozen=True)
class Saliency:
    """The learned saliency model with its record: losses by epoch; `area`, `preserved`, `destroyed` on `n` clean test images."""

    model: saliency.SaliencyModel
    record: dict
    artifact: Artifact


def classifier(run: Run) -> Classifier:
    """The classifier of this run: the user's own or a published one, else the preset's architecture with committed weights, else trained."""
    if "classifier" in run.kept:
        return run.kept["classifier"]
    architecture = run.parameters["MODEL"] or run.preset["classifier"]
    base = _brought(run, architecture)
    arguments = {"architecture": architecture, "data": _fingerprint(run), "seed": run.seed}
    if base:  # weights do not tell what the forward pass does with them: its source and its answers do
        answers = models.predict(base, run.data.test.x[:64]).argmax(1).tolist()
        arguments |= {"weights": artifacts.key_of(base.state_dict()), "answers": answers}
    else:
        arguments |= {field: run.preset[field] for field in ("width", "dropouts", "refit", "epochs")}
    committed = None if base else _committed(run, "classifier", {**arguments, "committed": False})

    def make(folder: Path) -> tuple[dict, dict]:
        if base:
            model, record = base, {}
        elif committed:
            return _as_committed(committed)
        else:
            model, record = _trained(run, architecture, folder)
        logits = models.predict(model, run.data.test.x)
        record |= {"accuracy": (logits.argmax(1) == run.data.test.y).float().mean().item(), "n": len(run.data.test)}
        record |= {"architecture": architecture, "parameters": sum(p.numel() for p in model.parameters())}
        return ({} if base else model.state_dict()) | {"test_logits": logits}, record

    code = (_trained, models.predict, Images, type(base) if ":" in architecture else networks.ARCHITECTURES[architecture])
    artifact = _step(run, "classifier", architecture.replace(":", "."), make, arguments=arguments | {"committed": bool(committed)}, code=code)
    model = base or _fresh(run, architecture)
    if not base:
        model.load_state_dict({k: v for k, v in artifact.tensors.items() if k != "test_logits"})
        models.check(model, run.data.test[:4].pixels(), len(run.data.classes))
    if run.device.type == "cpu" and ":" not in architecture:  # convolutions are a fifth to a half faster so; a user's own may not take it
        model.to(memory_format=torch.channels_last)
    run.kept["classifier"] = Classifier(model.requires_grad_(False), artifact.record, artifact)
    return run.kept["classifier"]


def _committed(run: Run, step: str, arguments: dict) -> tuple[dict, dict] | None:
    """What the project commits for these arguments (a run of the preset's own model, at this seed), as trained; None with RETRAIN."""
    named = PRETRAINED / run_name(run.parameters | {"DATASET": run.data.name, "CHANGES": {}}) / step  # the arguments tell whether it serves
    return None if run.parameters["RETRAIN"] else artifacts.published(named, arguments)


def _as_committed(found: tuple[dict, dict]) -> tuple[dict, dict]:
    tensors, meta = found
    return tensors, {**meta["record"], "made_by": {"code": meta["code"], **meta["versions"], "seconds": meta["seconds"]}}


def _brought(run: Run, architecture: str) -> nn.Module | None:
    """The user's own model or weights, or published ones, checked on arrival and restricted to the data set's classes; None: to be trained."""
    weights, images = run.parameters["WEIGHTS"], run.data.test[:4].pixels()
    if ":" in architecture:
        model = models.bring(architecture)
        if weights not in ("", "none"):
            models.load_weights(model, folder_of(weights))
    elif weights != "none" and networks.PUBLISHED.get(architecture, {}).get("data") == run.data.name:
        file = weights if weights in ("", "torchvision") else str(folder_of(weights))
        model = models.published(architecture, run.data.shape, weights=file, root=run.root)
    elif weights in ("", "none"):
        return None
    else:
        model = _fresh(run, architecture)
        models.load_weights(model, folder_of(weights))
    classes = len(run.data.classes)
    outputs = models.check(model.to(run.device), images, *([classes, 1000] if run.data.positions else [classes]))
    return model if outputs == classes else models.Restricted(model, run.data.positions).to(run.device).eval()


def _trained(run: Run, architecture: str, folder: Path) -> tuple[nn.Module, dict]:
    """The preset's recipe: of several dropouts the best by validation; refitted on all training images where the preset says so."""
    if not len(run.data.train):
        raise InputError(f"There are no training pictures to fit {architecture} on: add a train/ folder, or bring MODEL and WEIGHTS.")
    dropouts, refit, epochs = (run.preset[field] for field in ("dropouts", "refit", "epochs"))
    tried: dict = {}
    if len(dropouts) > 1 or refit:
        arguments = {"architecture": architecture, "data": _fingerprint(run), "seed": run.seed, "width": run.preset["width"], "epochs": epochs}
        for dropout in dropouts:
            tried[dropout] = _step(run, "candidate", f"{architecture}-dropout{dropout}", arguments=arguments | {"dropout": dropout}, code=(_fit,),
                                   make=lambda folder, dropout=dropout: ({}, _fit(run, architecture, folder, dropout, epochs)[1])).record
    best = max(dropouts, key=lambda dropout: tried[dropout]["validation_accuracy"]) if tried else dropouts[0]
    if refit:
        model, record = _fit(run, architecture, folder, best, tried[best]["epoch"], validate=0.0)
        record |= {name: tried[best][name] for name in ("validation", "validation_accuracy", "validation_loss")}
    else:
        model, record = _fit(run, architecture, folder, best, epochs)
    if record["collapsed"]:
        raise InputError(f"{architecture} gives every {run.data.name} image the same label after {epochs} epochs: change SEED or MODEL.")
    return model, record | {"dropout": best, "tried": {str(k): {f: r[f] for f in ("epoch", "validation_accuracy")} for k, r in tried.items()}}


def _fit(run: Run, architecture: str, folder: Path, dropout: float | None, epochs: int, validate: float = 0.1) -> tuple[nn.Module, dict]:
    model, images = _fresh(run, architecture, dropout), run.data.train
    return model, train.fit(model, images.x, images.y, groups=images.index, epochs=epochs, seed=run.seed, validate=validate, folder=folder,
                            progress=lambda items: run.progress(items, f"training {architecture}"))


def _fresh(run: Run, architecture: str, dropout: float | None = None) -> nn.Module:
    pixels = (run.data.train if len(run.data.train) else run.data.test)[:2000].pixels()
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
    return models.build(architecture, run.data.shape, len(run.data.classes), mean=mean, std=std, width=run.preset["width"], dropout=dropout,
                        seed=run.seed).to(run.device)


def adversarial(run: Run, name: str, split: str = "test", *, backend: str = "nbutils", **knobs: float | int | str | None) -> AdversarialSet:
    """The images of a split attacked with the setting `name` of `attacks.settings`, any knob of it replaced by those given.

    Several names make a mixture: of "fgsm+bim" each image has one attack, drawn by seed and evenly; of "fgsm&bim" each image has all of them.
    Made in chunks that are kept one by one, so a killed run goes on; a chunk that does not fit into memory is halved.
    """
    changed = {knob: value for knob, value in knobs.items() if value is not None}
    key = ("adversarial", name, split, backend, *changed.items())
    if key in run.kept:
        return run.kept[key]
    made = (_mixture if "+" in name or "&" in name else _adversarial)(run, name, split, backend, changed)
    if made.x_adv.nbytes <= KEPT:
        run.kept[key] = made
    return made


def _mixture(run: Run, name: str, split: str, backend: str, changed: dict) -> AdversarialSet:
    """Attacks share their source images; those of the other attacks are gone in "+"."""
    names = name.replace("&", "+").split("+")
    if ("+" in name and "&" in name) or len(set(names)) < len(names):
        raise InputError(f"Mixture {name!r} must name each attack once, and join them by + or by &.")
    several = [adversarial(run, one, split, backend=backend, **changed) for one in names]
    n, k = len(several[0].x), len(several)
    rows = torch.arange(n * k, device=run.device)
    if "+" in name:
        rows = torch.from_numpy(np.random.default_rng([run.seed, 9]).permutation(n) % k).to(run.device) * n + torch.arange(n, device=run.device)

    def make(folder: Path) -> tuple[dict, dict]:
        fields = ("x", "y", "index", "prediction", "x_adv", "prediction_adv", "success")
        tensors = {field: torch.cat([getattr(one, field) for one in several])[rows] for field in fields}
        record = {"n": len(rows), "success_rate": tensors["success"].float().mean().item()}
        return {**tensors, "attack": rows // n}, record

    artifact = _step(run, "adversarial", _label(name, changed, split, backend), make, arguments={"attacks": name, "seed": run.seed, **changed},
                     parents={one.name: one.artifact for one in several}, code=(_mixture,))
    tensors = {field: value.to(run.device) for field, value in artifact.tensors.items() if field != "attack"}
    return AdversarialSet(name, **tensors, target=None, record={**artifact.record, "setting": {"attack": name}}, artifact=artifact)


def _adversarial(run: Run, name: str, split: str, backend: str, changed: dict) -> AdversarialSet:
    settings = attacks.settings(run.data.name)
    if backend == "cleverhans":
        settings = attacks.CLEVERHANS_SETTINGS | {k: v for k, v in settings.items() if k in attacks.CLEVERHANS_SETTINGS and "eps" in v}
    if name not in settings:
        raise InputError(f"Attack {name!r} is unknown: choose one of {', '.join(settings)}.")
    setting = {**settings[name], **_of_preset(run, name, settings[name]), **changed}
    if "eps" in changed and "step" in setting and "step" not in changed:  # the step keeps its share of the budget
        setting["step"] = settings[name]["step"] * changed["eps"] / settings[name]["eps"]
    keywords = _knobs(setting)
    attack = attacks.ATTACKS[setting["attack"]] if backend == "nbutils" else attacks.through_cleverhans(setting["attack"])
    images, base = _attacked(run, split), classifier(run)

    def make(folder: Path) -> tuple[dict, dict]:
        return _attack_chunks(run, base, images, attack, keywords, folder, f"{name} on {split}", setting.get("targeted", False))

    arguments = {"setting": setting, "backend": backend, "images": artifacts.key_of(images.index), "seed": run.seed}
    arguments |= {"chunk": run.preset["chunk"]} if backend == "cleverhans" else {}  # its random start depends on the batch
    artifact = _step(run, "adversarial", _label(name, changed, split, backend), make, arguments=arguments, parents={"classifier": base.artifact},
                     code=(attack, _attack_chunks, Images))
    tensors = {k: v.to(run.device) for k, v in artifact.tensors.items()}
    tensors["x"] = to_float(tensors["x"])
    record = {**artifact.record, "setting": setting, "backend": backend, "seconds": artifact.record["seconds"]}
    return AdversarialSet(name, **{"target": None, **tensors}, record=record, artifact=artifact)


def _label(name: str, changed: dict, split: str, backend: str) -> str:
    knobs = (f"{k}{v:.4g}" if isinstance(v, float) else f"{k}{v}" for k, v in changed.items())
    return "-".join([name, *knobs, split, *([] if backend == "nbutils" else [backend])])


def _of_preset(run: Run, name: str, setting: dict) -> dict:
    """The knobs of a setting that the preset has the time for; none of a paper's own setting ("000.jsma")."""
    steps = {"pgd": "pgd_steps", "carlini_wagner_l2": "search_steps", "ddn": "search_steps"}.get(setting["attack"])
    if name[0].isdigit():
        return {}
    if "steps" in setting and steps and run.preset[steps]:
        return {"steps": run.preset[steps]}
    if setting["attack"] == "jsma" and run.preset["jsma_pairs"]:
        values = (run.data.test if len(run.data.test) else run.data.train)[:1].pixels().numel()
        return {"gamma": min(setting["gamma"], (2 * run.preset["jsma_pairs"] + 1) / values)}
    return {}


def _attacked(run: Run, split: str) -> Images:
    if split not in ("train", "test"):
        raise InputError(f"split {split!r} is unknown: choose train or test.")
    images, n = getattr(run.data, split), run.preset[f"attacked_{split}"]
    if not len(images):
        raise InputError(f"{run.data.name} has no {split} pictures to attack: add a {split}/ folder.")
    return images[: n or None]


def _attack_chunks(run: Run, base: Classifier, images: Images, attack: Callable, keywords: dict, folder: Path, what: str,
                   targeted: bool) -> tuple[dict, dict]:
    chunk, done, start, out_of_memory = run.preset["chunk"], [], 0, 0
    key = artifacts.key_of(keywords, images.x, images.index, base.artifact.hash, attack, chunk, run.seed, targeted)
    for start in run.progress(range(0, len(images), chunk), what):
        part = artifacts.find_part(folder, str(start), key)
        if part is None:
            rows, size = images[start:start + chunk], chunk
            while part is None:
                try:
                    pieces = [_attack_rows(run, base.model, rows[i:i + size], attack, keywords, targeted) for i in range(0, len(rows), size)]
                    part = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
                except torch.OutOfMemoryError as error:
                    if size == 1:
                        raise InputError(f"{what}: one image does not fit into the device's memory; use DEVICE = 'cpu'.") from error
                    size, out_of_memory = -(-size // 2), out_of_memory + 1
                    torch.cuda.empty_cache()
            artifacts.keep_part(folder, str(start), part, key)
        done.append(part)
    tensors = {name: torch.cat([part[name].cpu() for part in done]) for name in done[0]}
    cost = {name: tensors.pop(name).sum().item() for name in ("seconds", "forwards", "backwards")}
    n = len(images)
    record = {"n": n, "success_rate": tensors["success"].float().mean().item(), "seconds": round(cost["seconds"], 3),
              "forwards_per_image": cost["forwards"] / n, "backwards_per_image": cost["backwards"] / n, "halved": out_of_memory}
    return tensors, record


def _attack_rows(run: Run, model: nn.Module, images: Images, attack: Callable, keywords: dict, targeted: bool) -> dict[str, torch.Tensor]:
    x = images.pixels()
    logits = models.predict(model, x)
    prediction, target = logits.argmax(1), None
    if targeted:
        target = attacks.other_labels(prediction, logits.shape[1], images.index, run.seed)
    counted = models.Counted(model)
    started = time.perf_counter()
    x_adv = attack(counted, x, prediction, target=target, index=images.index, seed=run.seed, **keywords)
    if x.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if not torch.isfinite(x_adv).all():
        raise InputError("The attack made NaN of some images: the model's gradient is NaN or infinite there.")
    prediction_adv = models.predict(model, x_adv).argmax(1)
    cost = {"seconds": seconds, "forwards": counted.forwards, "backwards": counted.backwards}
    reached = {"success": prediction_adv == target, "target": target} if targeted else {"success": prediction_adv != prediction}
    return {
        "x": images.x, "y": images.y, "index": images.index, "prediction": prediction, "x_adv": x_adv.contiguous(), "prediction_adv": prediction_adv,
        **reached, **{name: torch.tensor([value], dtype=torch.float64) for name, value in cost.items()},
    }


def learned_saliency(run: Run) -> Saliency:
    """The learned saliency model of this run's classifier: the committed one, else trained on clean training images alone."""
    if "saliency" in run.kept:
        return run.kept["saliency"]
    base, images = classifier(run), run.data.train
    fields = ("saliency_train", "saliency_epochs", "saliency_area")
    arguments = {"weights": artifacts.key_of(base.model.state_dict()), "seed": run.seed, **{field: run.preset[field] for field in fields}}
    committed = _committed(run, "saliency", {**arguments, "committed": False})
    model = saliency.SaliencyModel(base.model, run.data.test[:1].pixels(), seed=run.seed)

    def make(folder: Path) -> tuple[dict, dict]:
        if committed:
            return _as_committed(committed)
        if not len(images):
            raise InputError("There are no training pictures to fit a saliency model on: add a train/ folder.")
        record = saliency.fit(model, images.x[: run.preset["saliency_train"] or None], epochs=run.preset["saliency_epochs"], seed=run.seed,
                              area=run.preset["saliency_area"], progress=lambda items: run.progress(items, "training the saliency model"))
        test = run.data.test[:1000].pixels()
        record |= {**saliency.quality(base.model, test, saliency.maps(model.look, base.model, test), seed=run.seed), "n": len(test)}
        return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, record

    artifact = _step(run, "saliency", "learned", make, arguments=arguments | {"committed": bool(committed)}, parents={"classifier": base.artifact},
                     code=(saliency.SaliencyModel, saliency.fit, saliency.quality, Images))
    model.load_state_dict(artifact.tensors)
    run.kept["saliency"] = Saliency(model.requires_grad_(False).eval().to(memory_format=torch.channels_last), artifact.record, artifact)
    return run.kept["saliency"]


def maps(run: Run, kind: str, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Maps (n,1,h,w) of images by one of `saliency.MAPS` or "learned", for the predicted class or `labels` (n,)."""
    if kind not in (*saliency.MAPS, "learned"):
        raise InputError(f"Saliency {kind!r} is unknown: choose one of {', '.join(saliency.MAPS)}, learned.")
    base = classifier(run)
    function = learned_saliency(run).model.look if kind == "learned" else saliency.MAPS[kind]
    if kind == "grad_cam":
        function = partial(function, layer=networks.CAM_LAYERS.get(base.record["architecture"], ""))
    return saliency.maps(function, base.model, x, labels)


def detector(run: Run, name: str, attack: str = "", fit: int = 0, *, variant: dict | None = None,
             **knobs: float | int | str | None) -> tuple[detectors.Detector, dict]:
    """The detector `name`, trained ones on the training images and what `attack` made of them; `fit` numbers repetitions with seeds of their own.

    Args:
        attack: one setting, or a mixture: "fgsm+bim" (an adversarial image a clean one), "fgsm&bim" (as many as attacks).
        variant: what differs from the preset: `architecture`, `width`, `epochs`, `optimizer`. A published architecture that is also the
            classifier's starts from the classifier's weights (paper 002 on ImageNet).
    Returns:
        the detector and its record (empty for scalars).
    """
    base = classifier(run)
    if name not in detectors.TRAINED:
        return detectors.build(name, base.model), {}
    _fittable(run, name)
    pairs = adversarial(run, attack, "train", **knobs)
    through = learned_saliency(run) if name in detectors.LEARNED else None
    bank = detectors.others(name, base.model, pairs.x, pairs.x_adv, seed=run.seed) if name in detectors.STAND_INS else None
    made = detectors.build(name, base.model, through.model if through else bank)
    strange = set(variant or {}) - {"architecture", "width", "epochs", "optimizer"}
    if strange or (variant or {}).get("architecture", run.preset["detector"]) not in networks.ARCHITECTURES:
        raise InputError(f"variant {variant} is unknown: choose architecture (one of {', '.join(networks.ARCHITECTURES)}), width, epochs, optimizer.")
    training = {"architecture": run.preset["detector"], "width": run.preset["detector_width"], "epochs": run.preset["detector_epochs"],
                "batch": run.preset["detector_batch"], "optimizer": "adam"}
    if name in detectors.OWN_ARCHITECTURE or (name in detectors.LAYERS and training["architecture"] in vision.NETWORKS):  # they read pictures
        training |= {"architecture": detectors.OWN_ARCHITECTURE.get(name, "metzen_branch"), "width": run.preset["variation_width"]}
    training |= variant or {}
    use = {field: training[field] for field in ("architecture", "width")}
    start = base.model if use["architecture"] == base.record["architecture"] in networks.PUBLISHED else None
    reading = getattr(detectors.TRAINED[name], "keywords", {})
    arguments = {"detector": name, **training, "seed": run.seed, "fit": fit, **({"start": True} if start else {}),
                 **({"features": reading} if reading else {})}
    once = torch.from_numpy(np.unique(pairs.index.cpu().numpy(), return_index=True)[1]).sort().values.to(run.device)  # a clean image is one

    def make(folder: Path) -> tuple[dict, dict]:
        bar = lambda items: run.progress(items, f"fitting {name} on {attack}")  # noqa: E731
        if run.kept.get("seen", [None])[0] != (name, pairs.artifact.hash):  # the fits of one kind look once
            run.kept.pop("seen", None)
            run.kept["seen"] = ((name, pairs.artifact.hash), (made.look_all(pairs.x[once]), made.look_all(pairs.x_adv)))
        seen = run.kept["seen"][1]
        record = made.fit(pairs.x[once], pairs.x_adv, pairs.index[once], pairs.index, seen=seen, seed=run.seed * 100 + fit, start=start,
                          folder=folder, progress=bar, **training)
        if not record["collapsed"]:  # what says the same of everything has no sign
            record["train_auroc"] = checks.score_sign(made, *seen, seen=True)
        return made.state(), record

    label = [name, pairs.artifact.path.name, *(f"{k}{v}" for k, v in (variant or {}).items()), str(fit)]
    artifact = _step(run, "detector", "-".join(label), make, arguments=arguments,
                     parents={"pairs": pairs.artifact} | ({"saliency": through.artifact} if through else {}),
                     code=(detectors.Network, detectors.TRAINED[name], networks.ARCHITECTURES[use["architecture"]], checks.score_sign,
                           *([detectors.others] if bank else [])))
    return made.load(artifact.tensors, run.data.shape, **use), {**artifact.record, "hash": artifact.hash}


def evaluation(run: Run, name: str, fit_attack: str, test_attack: str, *, fits: int | None = None, fit_knobs: dict | None = None,
               variant: dict | None = None, **knobs: float | int | str | None) -> Artifact:
    """Detector `name`, trained on `fit_attack` (unused by scalars), on the test images and what `test_attack` made of them.

    Returns:
        an artifact with per-image scores `clean`, `adversarial` (fits, n), `calibrate` (fits, m) and the record of `metrics.evaluate`.
    """
    _fittable(run, name)
    trained = name in detectors.TRAINED
    _once(test_attack)
    fits = (run.preset["detector_seeds"] if fits is None else fits) if trained else 1
    pairs = adversarial(run, test_attack, "test", **knobs)
    fit_knobs = {knob: value for knob, value in (fit_knobs or {}).items() if value is not None}
    keys = [("detector", name, fit_attack, i, *(variant or {}).items(), *fit_knobs.items()) for i in range(fits)]
    for i, key in enumerate(keys):
        if key not in run.kept:
            run.kept[key] = detector(run, name, fit_attack, i, variant=variant, **fit_knobs)
    fitted = [run.kept[key] for key in keys]
    arguments = {"detector": name, "fitted": [record.get("hash") for _, record in fitted], "calibrate": artifacts.key_of(run.data.calibrate.index)}

    def make(folder: Path) -> tuple[dict, dict]:
        if trained:
            checks.sources_disjoint(_attacked(run, "train").index, pairs.index)
        several, keys = [fit for fit, _ in fitted], tuple(record.get("hash", name) for _, record in fitted)
        if ("scored", keys) not in run.kept:  # once for all attacks that they are tested on, which all start from the same images
            run.kept["scored", keys] = {what: detectors.scores_of(several, x) for what, x in (
                ("clean", pairs.x), ("calibrate", run.data.calibrate.pixels()))}
        tensors = {**run.kept["scored", keys], "adversarial": detectors.scores_of(several, pairs.x_adv)}
        record = metrics.evaluate(**tensors, success=pairs.success, decision=0.0 if trained else None, seed=run.seed)
        return {**tensors, "index": pairs.index}, {**record, "collapses": sum(r.get("collapses", 0) for _, r in fitted)}

    label = "-".join([name, *([fit_attack] if trained else []), *(f"{k}{v}" for k, v in fit_knobs.items()),
                      *(f"{k}{v}" for k, v in (variant or {}).items()), "on", pairs.artifact.path.name])
    code = (metrics.evaluate, detectors.scores_of, type(fitted[0][0]), Images, detectors.TRAINED.get(name) or detectors.SCALARS[name])
    return _step(run, "evaluation", f"{label}-x{fits}", make, arguments=arguments,
                 parents={"pairs": pairs.artifact, "classifier": classifier(run).artifact}, code=code)


def controls(run: Run, name: str, attack: str, *, fpr: float = 0.05, **knobs: float | int | str | None) -> dict:
    """The leak controls (`checks`) of the detector `name` trained on `attack`: those that raise, then those that measure."""
    _once(attack)
    found, record = detector(run, name, attack, **knobs)
    pairs = adversarial(run, attack, "test", **knobs)

    def make(folder: Path) -> tuple[dict, dict]:
        checks.sources_disjoint(_attacked(run, "train").index, pairs.index, _attacked(run, "train").x, _attacked(run, "test").x)
        if "eps" in pairs.setting:  # an attack without a budget has no null case, and no ball to stay in
            keywords = pairs.knobs | {"eps": 0.0}
            keywords |= {"steps": min(2, keywords["steps"])} if "steps" in keywords else {}  # of no size: two are as good as many
            nothing = lambda x: attacks.ATTACKS[pairs.setting["attack"]](  # noqa: E731
                found.classifier, x, pairs.prediction, index=pairs.index, seed=run.seed, **keywords)
            checks.null_attack(found, nothing, pairs.x)
            checks.attack_moves(pairs.x, pairs.x_adv, pairs.setting["eps"], pairs.setting.get("norm", "linf"))
        right = classifier(run).artifact.tensors["test_logits"].argmax(1).to(run.device) == run.data.test.y
        return {}, checks.controls(found, pairs.x, pairs.x_adv, pairs.index, run.data.test, run.data.calibrate.pixels(),
                                   right=right, fpr=fpr, seed=run.seed)

    arguments = {"detector": name, "fitted": record.get("hash"), "fpr": fpr}
    code = (checks.controls, checks.null_attack, checks.sources_disjoint, checks.attack_moves, type(found), Images,
            detectors.TRAINED.get(name) or detectors.SCALARS[name])
    artifact = _step(run, "controls", f"{name}-{pairs.artifact.path.name}", make, arguments=arguments, parents={"pairs": pairs.artifact}, code=code)
    return artifact.record


def inconsistency(run: Run, attack: str, grid: dict[str, dict], **knobs: float | int | str | None) -> Artifact:
    """How modifications of the test images, and of what `attack` made of them, change the classifier's answer (paper 003).

    Args:
        grid: by name the knobs of `emphasised` and `maps` ("grad_cam", "learned", one of `saliency.MAPS`; "swapped": Grad-CAM of the class that
            the image's other version has; or one of STAND_INS), or {"squeeze": a squeezer}.
    Returns:
        an artifact with, of each modification in the grid's order, the L1 distance between the softmaxes `clean_far`, `adversarial_far` (g,n) and
        the label of the modified image `clean_label`, `adversarial_label` (g,n); the labels before, `clean_before`, `adversarial_before`, `y`,
        `success`; the `mean` that is subtracted, the classifier's own where it has one. Adversarial images are rounded to 8 bits, as clean
        ones are: else a squeezer to 8 bits would tell them by their storage.
    """
    _once(attack)
    _askable(run, grid)
    base, pairs = classifier(run), adversarial(run, attack, **knobs)
    mean = next((m.mean for m in base.model.modules() if isinstance(m, models.Normalised)), None)
    if mean is None:
        mean = (run.data.train if len(run.data.train) else run.data.test)[:2000].pixels().mean((0, 2, 3)).view(1, -1, 1, 1)
    through = learned_saliency(run) if any(knob.get("maps") == "learned" for knob in grid.values()) else None

    def make(folder: Path) -> tuple[dict, dict]:
        stored = to_float((pairs.x_adv * 255).round().to(torch.uint8))
        labels, labels_adv = (models.predict(base.model, x).argmax(1) for x in (pairs.x, stored))
        success = labels_adv != labels if pairs.target is None else labels_adv == pairs.target
        tensors = {"y": pairs.y, "success": success, "index": pairs.index, "clean_before": labels, "adversarial_before": labels_adv,
                   "mean": mean.clone()}
        for side, x, own, other in (("clean", pairs.x, labels, labels_adv), ("adversarial", stored, labels_adv, labels)):
            laid = {kind: _laid(run, kind, x, other if kind == "swapped" else own) for kind in {k["maps"] for k in grid.values() if "maps" in k}}
            tensors[f"{side}_far"], tensors[f"{side}_label"] = ask(base.model, x, [partial(_modified, knob, laid, mean) for knob in grid.values()])
        return tensors, {"names": list(grid), "n": len(pairs.x), "success_rate": success.float().mean().item()}

    ordered = list(grid.items())
    parents = {"pairs": pairs.artifact, "classifier": base.artifact} | ({"saliency": through.artifact} if through else {})
    arguments = {"grid": ordered, "mean": mean.flatten().tolist(), "layer": networks.CAM_LAYERS.get(base.record["architecture"], "")}
    return _step(run, "inconsistency", f"{artifacts.key_of(ordered)[:8]}-{pairs.artifact.path.name}", make, arguments=arguments, parents=parents,
                 code=(ask, _modified, _laid, models.predict, Images))


def _laid(run: Run, kind: str, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found = between_0_and_1(maps(run, "grad_cam" if kind in ("swapped", *STAND_INS) else kind, x, labels))
    return STAND_INS[kind](found, run.seed) if kind in STAND_INS else found


def _modified(knobs: dict, laid: dict, mean: torch.Tensor, x: torch.Tensor, rows: slice) -> torch.Tensor:
    if "squeeze" in knobs:
        return SQUEEZERS[knobs["squeeze"]](x)
    return emphasised(x, laid[knobs["maps"]][rows], mean, **{name: value for name, value in knobs.items() if name != "maps"})


def _askable(run: Run, grid: dict[str, dict]) -> None:
    """Refuse a modification that is not there, or one that needs colour of grey pictures."""
    known = {"squeeze": SQUEEZERS, "maps": (*saliency.MAPS, "learned", "swapped", *STAND_INS), "emphasis": EMPHASES, "transform": TRANSFORMS}
    for name, modification in grid.items():
        for knob, value in modification.items():
            if knob in known and value not in known[knob]:
                raise InputError(f"Modification {name!r} has the {knob} {value!r}, which is unknown: choose one of {', '.join(known[knob])}.")
        strange = set(modification) - {*known, "theta", "transform_first"}
        if strange or ("squeeze" not in modification and not {"maps", "theta"} <= set(modification)):
            raise InputError(f"Modification {name!r} must hold squeeze, or maps and theta with emphasis, transform, transform_first at most.")
        if run.data.shape[0] != 3 and "squeeze" not in modification:
            raise InputError(f"{run.data.name} is grey, and modification {name!r} needs colour: squeezers alone do not.")


def _once(attack: str) -> None:
    if "&" in attack:
        raise InputError(f"{attack!r} holds each test image several times, and no interval would be right: test on {attack.replace('&', '+')!r}.")


def _fittable(run: Run, name: str) -> None:
    if not (len(run.data.train) and len(run.data.calibrate)):
        raise InputError(f"{run.data.name} has test pictures only: no detector ({name}) can be fitted or calibrated on them; add a train/ folder.")


def _step(run: Run, step: str, name: str, make: Callable, **what: object) -> Artifact:
    made = time.perf_counter()
    if len(name) > 150:  # a mixture of many attacks
        name = f"{name[:100]}-{artifacts.key_of(name)[:12]}"
    artifact = artifacts.load_or_make(run.folder / step / name, make, say=log.warning, **what)
    run.timings[f"{step}/{name}"] = round(time.perf_counter() - made, 2)
    return artifact


def _fingerprint(run: Run) -> dict:
    """What decides the data of a run, with a hash of the images themselves."""
    parts = {part: getattr(run.data, part) for part in ("train", "calibrate", "test")}
    return {"name": run.data.name, **{part: artifacts.key_of(images.x, images.y) for part, images in parts.items()}}
