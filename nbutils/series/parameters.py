"""Every parameter of the series, its default, and the folder of a run. Imports no torch."""

import hashlib
import json
from pathlib import Path

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
}


NEED_COLOUR = (
    "06_gradcam_consistency",
)  # those that see grey images inked: `nbutils.data.embedded.IN_COLOUR`


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
