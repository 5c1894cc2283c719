"""Tables of lecture 11: one classifier and its pictures, as the reader of one page wants them.
Tidy data frames, as those of `steps.tables`.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import nn

from nbutils import InputError, __version__
from nbutils.data.images import Images
from nbutils.detectors.groups import TRAINED
from nbutils.evaluation.classifying import accuracies
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.tables import frame
from nbutils.models.contract import predict
from nbutils.resources import from_here
from nbutils.steps.adversarial import setting_of
from nbutils.steps.classifier import classifier, copied
from nbutils.steps.detector import detector, usable
from nbutils.steps.run import Run
from nbutils.steps.saliency import maps
from nbutils.steps.white_box import guard, white_box
from nbutils.steps.white_box_tables import setting_told

NAMED = 10  # classes whose names are told
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
    """What was looked at, and what it takes to look again, in one row: the model, the pictures, the
    sizes, the command, the settings of the attacks in words, the versions. Of folders only the last
    name is told, for where they lie is nobody's business.
    """
    base, data = classifier(run), run.data
    size, file = setting_told(run), run.parameters["WEIGHTS"]
    path = from_here(file) if file not in ("", "none", "torchvision") else None
    settings = {name: setting_of(run, name) for name in run.parameters.get("ATTACKS", [])}
    more = len(data.classes) - NAMED
    return {
        "model": run.parameters["MODEL"] or base.record["architecture"],
        "weights": base.record["parameters"],
        "brought": run.brought,
        "pictures": run.root.resolve().name if data.name == "folder" else data.name,
        "shape": "x".join(map(str, data.shape)),
        "classes": len(data.classes),
        "names": ", ".join(data.classes[:NAMED]) + (f" and {more} others" if more > 0 else ""),
        "preset": run.parameters["PRESET"],
        "seed": run.seed,
        "train": len(data.train),
        "calibrate": len(data.calibrate),
        "test": len(data.test),
        "eps_255": size["eps_255"],
        "steps": size["steps"],
        "attacked_train": min(run.preset["attacked_train"] or len(data.train), len(data.train)),
        "settings": "; ".join(f"`{name}` is {_in_words(one)}" for name, one in settings.items()),
        "weights_file": path.name if path else "",
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path else "",
        "command": _command(run.parameters),
        "version": __version__,
        "torch": torch.__version__.split("+")[0],
        "device": run.device.type,
    }


def _in_words(setting: Mapping) -> str:
    """ "pgd, eps 4/255, step 1/255, steps 40": what is measured in [0,1] in 255ths."""
    told = [setting["attack"]]
    for knob, value in setting.items():
        if knob in ("eps", "step") and setting.get("norm", "linf") == "linf":
            told.append(f"{knob} {255 * value:.3g}/255")
        elif knob != "attack":
            told.append(f"{knob} {value}")
    return ", ".join(told)


def _command(parameters: Mapping) -> str:
    """What makes this run again, typed where the last names of DATA_ROOT and WEIGHTS lie."""
    options = {"dataset": "DATASET", "preset": "PRESET", "seed": "SEED", "threads": "THREADS"}
    options |= {"data-root": "DATA_ROOT", "model": "MODEL"}
    words = ["python", "-m", "nbutils", "run", "--notebooks", "11"]
    for option, name in options.items():
        value = parameters.get(name)
        if name == "DATA_ROOT" and value:
            value = from_here(value).resolve().name
        if value or name == "SEED":
            words += [f"--{option}", str(value)]
    for name, value in parameters.items():
        if value and name not in (*options.values(), "OUT", "DEVICE"):
            told = value if isinstance(value, str) else json.dumps(value)
            told = from_here(told).name if name == "WEIGHTS" else told
            words += ["-p", name, told]
    return shlex.join(words)


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
