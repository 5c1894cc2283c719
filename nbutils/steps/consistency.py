"""How modifications of an image change the classifier's answer (paper 003), for a whole grid of
them at once.
"""

from functools import partial

import torch

from nbutils import InputError
from nbutils.data.images import Dataset, to_levels
from nbutils.detectors.consistency import (
    EMPHASES,
    OTHER_MAPS,
    TRANSFORMS,
    ask,
    emphasised,
)
from nbutils.detectors.squeezing import SQUEEZERS
from nbutils.models.contract import predict
from nbutils.saliency import MAPS
from nbutils.saliency.learned import SaliencyModel
from nbutils.saliency.maps import between_0_and_1, in_batches
from nbutils.steps.adversarial import AdversarialSet, adversarial
from nbutils.steps.classifier import Classifier, classifier
from nbutils.steps.detector import mean_of
from nbutils.steps.evaluation import held_out, once
from nbutils.steps.run import Memory, Run
from nbutils.steps.saliency import cam_layer, learned_saliency
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

CALIBRATED = 500  # calibration images at most that are asked about
KINDS = (*MAPS, "learned", "swapped", *OTHER_MAPS)
KNOWN = {"squeeze": SQUEEZERS, "maps": KINDS, "emphasis": EMPHASES, "transform": TRANSFORMS}


def consistency(
    run: Run, attack: str, grid: dict[str, dict], **knobs: float | int | str | None
) -> Artifact:
    """How modifications of the test images, and of what `attack` made of them, change the answer.

    Args:
        grid: by name the knobs of `emphasised` and `maps` ("grad_cam", "learned", one of MAPS;
            "swapped": Grad-CAM of the class that the image's other version has; or one of
            OTHER_MAPS), or {"squeeze": a squeezer}.
    Returns:
        an artifact with, of each modification in the grid's order, the L1 distance between the
        softmaxes `clean_far`, `adversarial_far` (g,n) and the label of the modified image
        `clean_label`, `adversarial_label` (g,n); the labels before, `clean_before`,
        `adversarial_before`, `y`, `success`; the `mean` that is subtracted. Adversarial images are
        rounded to 8 bits, as clean ones are: else a squeezer to 8 bits would tell them by their
        storage.
    """
    once(attack)
    _check(run, grid)
    base, pairs, mean = classifier(run), adversarial(run, attack, **knobs), mean_of(run)
    learned = any(knob.get("maps") == "learned" for knob in grid.values())
    through = learned_saliency(run) if learned else None
    ordered = list(grid.items())
    parents = {"pairs": pairs.artifact, "classifier": base.artifact}
    return run.step(
        "consistency",
        f"{key_of(ordered)[:8]}-{pairs.artifact.path.name}",
        make_consistency,
        {
            "data": run.data,
            "base": base,
            "pairs": pairs,
            "memory": run.memory,
            "mean": mean,
            "saliency": through.model if through else None,
        },
        {"grid": ordered, "layer": cam_layer(base), "seed": run.seed},
        known={"mean": mean.flatten().tolist(), "calibrate": key_of(run.data.calibrate.index)},
        parents=parents | ({"saliency": through.artifact} if through else {}),
    )


def make_consistency(
    parts: Parts,
    *,
    data: Dataset,
    base: Classifier,
    pairs: AdversarialSet,
    memory: Memory,
    mean: torch.Tensor,
    saliency: SaliencyModel | None,
    grid: list,
    layer: str,
    seed: int,
) -> tuple[dict, dict]:
    """Both versions of each image, asked about under each modification of the grid.

    Calibration images are asked about too: they fix the threshold of an L1 distance.
    """
    held_out(data, base, pairs, memory)
    model, knobs = base.model, [dict(knob) for _, knob in grid]
    stored = to_levels(pairs.x_adv)
    labels, labels_adv = (predict(model, x).argmax(1) for x in (pairs.x, stored))
    success = labels_adv != labels if pairs.target is None else labels_adv == pairs.target
    tensors = {
        "y": pairs.y,
        "success": success,
        "index": pairs.index,
        "clean_before": labels,
        "adversarial_before": labels_adv,
        "mean": mean.clone(),
    }
    held = data.calibrate[:CALIBRATED].pixels()
    labels_held = predict(model, held).argmax(1)
    tensors["calibrate_before"] = labels_held
    sides = (
        ("clean", pairs.x, labels, labels_adv),
        ("adversarial", stored, labels_adv, labels),
        ("calibrate", held, labels_held, labels_held.roll(1)),
    )
    for side, x, own, other in sides:
        laid = {}
        for kind in sorted({knob["maps"] for knob in knobs if "maps" in knob}):
            asked = other if kind == "swapped" else own
            laid[kind] = _map(kind, base, saliency, x, asked, layer, seed)
        asked_about = [partial(_modified, knob, laid, mean) for knob in knobs]
        tensors[f"{side}_far"], tensors[f"{side}_label"] = ask(model, x, asked_about)
    rate = success.float().mean().item()
    return tensors, {"names": [name for name, _ in grid], "n": len(pairs.x), "success_rate": rate}


def _map(
    kind: str,
    base: Classifier,
    saliency: SaliencyModel | None,
    x: torch.Tensor,
    labels: torch.Tensor,
    layer: str,
    seed: int,
) -> torch.Tensor:
    """Maps (n,1,h,w) in [0,1] of one kind; those that say nothing of the image are made from Grad-
    CAM's.
    """
    if kind == "learned":
        function = saliency.map_of
    elif kind in ("grad_cam", "swapped", *OTHER_MAPS):
        function = partial(MAPS["grad_cam"], layer=layer)
    else:
        function = MAPS[kind]
    found = between_0_and_1(in_batches(function, base.model, x, labels))
    return OTHER_MAPS[kind](found, seed) if kind in OTHER_MAPS else found


def _modified(
    knobs: dict, laid: dict, mean: torch.Tensor, x: torch.Tensor, rows: slice
) -> torch.Tensor:
    if "squeeze" in knobs:
        return SQUEEZERS[knobs["squeeze"]](x)
    given = {name: value for name, value in knobs.items() if name != "maps"}
    return emphasised(x, laid[knobs["maps"]][rows], mean, **given)


def _check(run: Run, grid: dict[str, dict]) -> None:
    """Refuse a modification that is not there, or one that needs colour of grey pictures."""
    for name, modification in grid.items():
        for knob, value in modification.items():
            if knob in KNOWN and value not in KNOWN[knob]:
                raise InputError(
                    f"Modification {name!r} has the {knob} {value!r}, which is unknown: choose "
                    f"one of {', '.join(KNOWN[knob])}."
                )
        strange = set(modification) - {*KNOWN, "theta", "transform_first"}
        lays = "squeeze" in modification or {"maps", "theta"} <= set(modification)
        if strange or not lays:
            raise InputError(
                f"Modification {name!r} must hold squeeze, or maps and theta with emphasis, "
                "transform, transform_first at most."
            )
        if run.data.shape[0] != 3 and "squeeze" not in modification:
            raise InputError(
                f"{run.data.name} is grey, and modification {name!r} needs colour: squeezers "
                "alone do not."
            )
