"""Tables of lecture 11: one classifier and its pictures, as the reader of one page wants them.
Tidy data frames, as those of `steps.tables`.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from nbutils import InputError
from nbutils.data.images import Images
from nbutils.detectors.groups import TRAINED
from nbutils.evaluation.classifying import accuracies
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.tables import frame
from nbutils.models.contract import predict
from nbutils.steps.classifier import classifier, copied
from nbutils.steps.detector import detector, usable
from nbutils.steps.run import Run
from nbutils.steps.saliency import maps
from nbutils.steps.white_box import guard, white_box
from nbutils.steps.white_box_tables import setting_told

PARTS = ("detectors", "rectifier", "logit_gradient", "grad_cam")
BOX = ("plain", "linf")  # games: PGD that does not know the detector, and PGD that does
KNOWING = (
    "detector",
    "game",
    "fooled",
    "success_5",
    "low",
    "high",
    "linf",
    "zero",
    "n",
    "collapsed",
)


def about(run: Run) -> dict:
    """What was looked at: the model, the pictures, the sizes, in one row."""
    base, data = classifier(run), run.data
    size = setting_told(run)
    return {
        "model": run.parameters["MODEL"] or base.record["architecture"],
        "weights": base.record["parameters"],
        "brought": run.brought,
        "pictures": data.name,
        "shape": "x".join(map(str, data.shape)),
        "classes": len(data.classes),
        "preset": run.parameters["PRESET"],
        "seed": run.seed,
        "train": len(data.train),
        "calibrate": len(data.calibrate),
        "test": len(data.test),
        "eps_255": size["eps_255"],
        "steps": size["steps"],
    }


def missing(run: Run) -> dict[str, str]:
    """Which of PARTS make no sense of this model and these pictures, each with the sentence that
    says why; "" of the others.
    """
    found, two = dict.fromkeys(PARTS, ""), run.data.test[:2].pixels()
    try:
        usable(run, "id")
    except InputError as error:
        found["detectors"] = found["rectifier"] = str(error)
    try:
        copied(classifier(run).model)
    except InputError as error:
        found["rectifier"] = found["rectifier"] or str(error)
    for kind in ("logit_gradient", "grad_cam"):
        try:
            maps(run, kind, two)
        except InputError as error:
            found[kind] = str(error)
    return found


def accuracy(run: Run) -> pd.DataFrame:
    """How well the classifier reads the test pictures, and those held back for thresholds: a row
    each, as of `classifying.accuracies`.
    """
    base, parts = classifier(run), {}
    for name, images in (("test", run.data.test), ("calibration", run.data.calibrate)):
        logits = base.test_logits if name == "test" else predict(base.model, images.x)
        parts[name] = logits.argmax(-1).cpu() == images.y.cpu() if len(images) else torch.empty(0)
    return pd.DataFrame(accuracies(parts))


def collapsed(run: Run, detectors: Sequence[str], attack: str) -> list[str]:
    """Those of the detectors whose fit on this attack ended in one answer for everything."""
    fitted = [name for name in detectors if name in TRAINED]
    return [name for name in fitted if detector(run, name, attack)[1].get("collapsed")]


def knowing(run: Run, detectors: Sequence[str], fitted_on: str) -> pd.DataFrame:
    """What passes each detector in one box, of PGD that does not know it and of PGD that does:
    columns of KNOWING. The first row is the bare classifier's.

    `success_5`: the share of pictures that are misread and unseen at 5 % false positives, with
    Wilson's interval; `zero`: the share on which the detector's score has no gradient.

    Args:
        fitted_on: the attack that the detectors were fitted on.
    """
    rows = []
    for name, game in [("none", "plain"), *((name, game) for name in detectors for game in BOX)]:
        found = white_box(run, name, game, fitted_on)
        won, n = found.won(0.05), len(found.x)
        low, high = wilson(int(won.sum()), n)
        rows.append(
            {
                "detector": name,
                "game": game,
                "fooled": found.fooled.double().mean().item(),
                "success_5": won.double().mean().item(),
                "low": low,
                "high": high,
                "linf": (found.x_adv - found.x).flatten(1).abs().amax(1).mean().item(),
                "zero": found.record["zero"] if name != "none" else 0.0,
                "n": n,
                "collapsed": guard(run, name, fitted_on).collapsed,
            }
        )
    return frame(rows, KNOWING)


def read_rightly(model: nn.Module, images: Images) -> float:
    """The share of the images that a model reads rightly."""
    return (predict(model, images.x).argmax(1) == images.y).double().mean().item()
