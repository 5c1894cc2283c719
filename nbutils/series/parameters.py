"""Every parameter of the series: its default, how it is read and what it may be, which command or
notebook has it, and the folder of a run. Imports no torch.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nbutils import InputError
from nbutils.resources import from_here

# Every parameter of the series: (type, what it may be). One name has one type and one meaning in
# all notebooks.
PARAMETERS = {
    "DATASET": (str, "a data set"),
    "PRESET": (str, "a preset"),
    "SEED": (int, "0 or more"),
    "DEVICE": (str, "auto, cpu, cuda or cuda:N"),
    "THREADS": (int, "0 or more"),
    "DATA_ROOT": (str, "a folder"),
    "OUT": (str, "a folder"),
    "SOURCE": (str, "a folder under the data root, of imagenet_subset"),
    "CLASSES": (list, "classes of imagenet_subset, or a ready list"),
    "MODEL": (str, "an architecture or package.module:factory"),
    "WEIGHTS": (str, "a file, torchvision, or none"),
    "RETRAIN": (bool, "True or False"),
    "CHANGES": (dict, "fields of the preset, with their values"),
    "EPS_255": (float, "0 or more"),
    "STEPS": (int, "0 or more"),
    "BACKEND": (str, "nbutils or cleverhans"),
    "ATTACKS": (list, "attacks"),
    "DETECTORS": (list, "detectors"),
    "READINGS": (list, "readings of the Jacobian"),
    "FPR": (float, "between 0 and 1"),
}


SAYS = "nbutils: "  # in front of what a notebook says on stderr, which the runner repeats
LARGEST = {"SEED": 2**31, "THREADS": 1025, "STEPS": 10**6, "EPS_255": 256, "FPR": 1}  # under these


COMMON = [
    "DATASET",
    "PRESET",
    "SEED",
    "DEVICE",
    "THREADS",
    "DATA_ROOT",
    "OUT",
    "SOURCE",
    "CLASSES",
    "MODEL",
    "WEIGHTS",
    "RETRAIN",
    "CHANGES",
]


DEFAULTS = {
    "DATASET": "digits",
    "PRESET": "quick",
    "SEED": 0,
    "DEVICE": "auto",
    "THREADS": 0,
    "DATA_ROOT": "",
    "OUT": "runs",
    "SOURCE": "",
    "CLASSES": [],
    "MODEL": "",
    "WEIGHTS": "",
    "RETRAIN": False,
    "CHANGES": {},
}


# The series, in order: the parameters each notebook has beside the common ones.
NOTEBOOKS = {
    "00_start_here": [],
    "01_classifiers": [],
    "02_attacks": ["ATTACKS", "EPS_255", "STEPS", "BACKEND"],
    "03_saliency": ["ATTACKS"],
    "04_image_and_jacobian": ["ATTACKS", "DETECTORS", "READINGS", "EPS_255", "FPR"],
    "05_model_based_saliency": ["ATTACKS", "DETECTORS", "FPR"],
    "06_gradcam_consistency": ["ATTACKS"],
    "07_gcd_detector": ["ATTACKS", "DETECTORS", "FPR"],
    "08_white_box": ["ATTACKS", "DETECTORS"],
    "09_gcd_rectifier": ["ATTACKS", "FPR"],
    "10_scoreboard": [],
    "11_your_own_model": ["ATTACKS", "DETECTORS"],
}


# What decides the folder of a run, and with it what `publish` copies.
OF_FOLDER = [
    "DATASET",
    "PRESET",
    "SEED",
    "DATA_ROOT",
    "OUT",
    "SOURCE",
    "CLASSES",
    "MODEL",
    "WEIGHTS",
    "CHANGES",
]


# The steps that `make` makes, in order: the parameters that each takes. READINGS and FPR are those
# of a notebook's tables, which no step makes here.
_ATTACKING = [*COMMON, "ATTACKS", "EPS_255", "STEPS", "BACKEND"]
MADE = {
    "classifier": COMMON,
    "adversarial": _ATTACKING,
    "saliency": _ATTACKING,
    "detector": [*_ATTACKING, "DETECTORS"],
    "evaluation": [*_ATTACKING, "DETECTORS"],
    "all": [*_ATTACKING, "DETECTORS"],
    "density": COMMON,
    "robust": COMMON,
}


NEED_COLOUR = (
    "06_gradcam_consistency",
)  # those that see grey images inked: `nbutils.data.embedded.IN_COLOUR`


ASK_ANY_DETECTOR = ("08_white_box",)  # others: those that are fitted


ASK_RIVALS = ("07_gcd_detector",)  # that see no attack: a density, or fitted on clean images alone


BEGIN_WITH_FGSM = ("06_gradcam_consistency",)  # whose first attack stands beside the paper's FGSM


def run_name(parameters: dict) -> str:
    """The folder of a run: data set, preset, seed, and a mark of model, weights, pictures or
    changes where they are not the preset's.
    """
    own = [
        parameters[name]
        for name in (
            "MODEL",
            "WEIGHTS",
            "SOURCE",
            "CLASSES",
            *(["CHANGES"] if parameters["CHANGES"] else []),
        )
    ]
    own += (
        [parameters["DATA_ROOT"]]
        if parameters["DATASET"] in ("folder", "cats_dogs", "imagenet_subset")
        else []
    )
    mark = f"-{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:8]}" if any(own) else ""
    return f"{parameters['DATASET']}-{parameters['PRESET']}-s{parameters['SEED']}{mark}"


def run_folder(parameters: dict) -> Path:
    """The folder of a run, whatever parameters are left at their defaults."""
    given = {**DEFAULTS, **parameters}
    return from_here(str(given["OUT"])) / run_name(given)


def read(name: str, text: str) -> object:
    """The value of a parameter as a command line writes it: words as they stand, numbers in
    decimals (010 is ten, 1e-1 a tenth), lists and dicts as YAML.

    What cannot be read stays text, which `checked` then refuses; so does it an unknown name.
    """
    kind = PARAMETERS[name][0] if name in PARAMETERS else str
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if kind is int:
        return int(text) if re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) else text
    if kind is float:
        try:
            return float(text)
        except ValueError:
            return text
    if kind in (list, dict):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    return text


def given(pairs: Iterable[tuple[str, object]], known: Sequence[str], place: str) -> dict:
    """Parameters as they were given, each known, given once, and of its type and range.

    Args:
        pairs: names and values.
        known: the names that `place` (a command, a notebook) has.
    Raises:
        InputError: one sentence that names the parameter, and the nearest of those there are.
    """
    found: dict = {}
    for name, value in pairs:
        if name not in known:
            raise unknown(name, known, place)
        if name in found:
            raise InputError(
                f"{name} is given twice, as {found[name]!r} and as {value!r}: give it once."
            )
        found[name] = value
    return {name: checked(name, value) for name, value in found.items()}


def unknown(name: str, known: Sequence[str], place: str) -> InputError:
    """The sentence about a name that `place` does not have."""
    close = nearest(name, known)
    hint = f"did you mean {close}?" if close else f"it has {', '.join(known)}."
    return InputError(f"{name} is no parameter of {place}: {hint}")


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that this one begins or resembles, in whatever case; "": it does neither."""
    upper = name.upper()
    begun = [one for one in known if len(upper) > 2 and one.startswith(upper)]
    return next(iter(begun or difflib.get_close_matches(upper, known, 1)), "")


def seeds_of(values: Sequence[int]) -> list[int]:
    """Seeds to run over, each once: a repeated one would count as a new draw in the interval."""
    seeds = [checked("SEED", value) for value in values]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise InputError(
                f"SEED {seed} is given {seeds.count(seed)} times: a mean over seeds counts each "
                "once, so give different ones."
            )
    return seeds


def checked(name: str, value: object) -> object:
    """The value, when its type and range are right; counts pass as floats."""
    kind, may_be = PARAMETERS[name]
    good = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not good or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{name} must be {kind.__name__} ({may_be}), but is {value!r}.")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{name} must be finite, but is {value!r}.")
    if may_be == "0 or more" and value < 0:
        raise InputError(f"{name} must be {may_be}, but is {value!r}.")
    if may_be == "between 0 and 1" and not 0 < value < 1:
        raise InputError(f"{name} must lie {may_be}, but is {value!r}.")
    if name == "BACKEND" and value not in ("nbutils", "cleverhans"):
        raise InputError(f"BACKEND must be nbutils or cleverhans, but is {value!r}.")
    named_once = (
        isinstance(value, list)
        and all(isinstance(item, str) for item in value)
        and len(set(value)) == len(value)
    )
    if isinstance(value, list) and not (named_once and (value or name in ("CLASSES", "READINGS"))):
        raise InputError(f"{name} must name at least one, each once, but is {value!r}.")
    if name in LARGEST and value >= LARGEST[name]:
        raise InputError(f"{name} must be under {LARGEST[name]}, but is {value!r}.")
    return float(value) if kind is float else value
