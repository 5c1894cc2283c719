"""Where a notebook, or the command line, begins: parameters checked before any work, seeds, device, folders; and where its results end."""

import ctypes
import difflib
import inspect
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from nbutils import InputError, artifacts, attacks, data, detectors, models, networks, vision
from nbutils.presets import PRESETS, run_name

ROOT = Path(__file__).resolve().parent.parent
log = logging.getLogger("nbutils")

# Every parameter of the series: (type, what it may be). One name has one type and one meaning in all notebooks.
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
COMMON = ["DATASET", "PRESET", "SEED", "DEVICE", "THREADS", "DATA_ROOT", "OUT", "SOURCE", "CLASSES", "MODEL", "WEIGHTS", "RETRAIN", "CHANGES"]
DEFAULTS = {"DATASET": "digits", "PRESET": "quick", "SEED": 0, "DEVICE": "auto", "THREADS": 0, "DATA_ROOT": "", "OUT": "runs", "SOURCE": "",
            "CLASSES": [], "MODEL": "", "WEIGHTS": "", "RETRAIN": False, "CHANGES": {}}

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
IN_COLOUR = ("06_gradcam_consistency",)  # those that see grey images inked: `data.IN_COLOUR`


@dataclass
class Run:
    """One run of the series: a data set at a preset with a seed. Its `repr` is the environment line of a notebook."""

    notebook: str
    parameters: dict
    preset: dict
    device: torch.device
    folder: Path  # of the artifacts
    shown: Path  # of results and figures: another one where grey images were inked
    started: float = field(default_factory=time.perf_counter)
    timings: dict = field(default_factory=dict)
    kept: dict = field(default_factory=dict)  # what this run has loaded already

    @property
    def seed(self) -> int:
        return self.parameters["SEED"]

    @cached_property
    def data(self) -> data.Dataset:
        counts = {name: self.preset[name] for name in ("train", "calibrate", "test")}
        return data.load(_pictures(self.notebook, self.parameters["DATASET"]), seed=self.seed, root=self.root, source=self.parameters["SOURCE"],
                         classes=self.parameters["CLASSES"], device=self.device, **counts)

    @property
    def root(self) -> Path:
        """The folder of data sets and weights."""
        return folder_of(self.parameters["DATA_ROOT"] or os.environ.get("NBUTILS_DATA") or "data")

    def progress(self, items: Iterable, what: str) -> Iterator:
        """A progress bar with an estimate of the time left, shown only for what takes longer than 5 s and where somebody can watch."""
        from tqdm import tqdm

        watched = sys.stderr.isatty() or ("ipykernel" in sys.modules and os.environ.get("NBUTILS_PROGRESS") != "0")
        return iter(tqdm(items, desc=what, delay=5, leave=False, disable=not watched))

    def save(self, figure, name: str) -> None:
        """Keep a figure as figures/<notebook>-<name>.png."""
        import io

        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        path = self.shown / "figures" / f"{self.notebook}-{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.atomically(path, buffer.getvalue())

    def record(self, *, key: tuple[str, float], tables: dict[str, list[dict]], **more: object) -> dict:
        """Write results/<notebook>.json and return it.

        Args:
            key: name and value of the one number that the runner prints.
            tables: named tables, each a list of rows.
        """
        result = {
            "notebook": self.notebook, "parameters": {k: v for k, v in self.parameters.items() if k not in ("OUT", "DATA_ROOT")},
            "preset": self.preset, "key": {"name": key[0], "value": key[1]}, "tables": tables, **more,
            "environment": {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__, "device": self.device.type},
            "timings": {**self.timings, "notebook": round(time.perf_counter() - self.started, 2)},
        }
        text = json.dumps(_plain(result), indent=1, sort_keys=True, allow_nan=False) + "\n"
        path = self.shown / "results" / f"{self.notebook}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.atomically(path, text.encode())
        return json.loads(text)

    def __repr__(self) -> str:
        p = self.parameters
        place = f"{torch.cuda.get_device_name(self.device)}" if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{self.notebook}: {p['DATASET']}, preset {p['PRESET']}, seed {p['SEED']}, torch {torch.__version__.split('+')[0]} on {place}"


def start(notebook: str, namespace: dict) -> Run:
    """Check the parameters of a notebook and get everything ready; nothing long is done before every one of them is known to be good.

    Args:
        namespace: the notebook's `globals()`; its upper-case names are the parameters, others must not hold plain values yet.
    Raises:
        InputError: one sentence that names the parameter and what it may be.
    """
    if notebook not in NOTEBOOKS:
        raise InputError(f"Notebook {notebook!r} is unknown: the series is {', '.join(NOTEBOOKS)}.")
    known = COMMON + NOTEBOOKS[notebook]
    plain = (str, int, float, bool, list, dict, tuple, type(None))
    given = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in ("In", "Out") and (k in PARAMETERS or isinstance(v, plain))}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name.upper(), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
            raise InputError(f"{name} is no parameter of {notebook}: {hint}")
    return configure(notebook, {**DEFAULTS, **given})


def configure(notebook: str, parameters: dict) -> Run:
    """`start` for parameters that are in a dict already."""
    p = {name: _typed(name, value) for name, value in parameters.items()}
    if p["DATASET"] not in data.DATASETS:
        raise InputError(f"DATASET {p['DATASET']!r} is unknown: choose one of {', '.join(data.DATASETS)}.")
    if p["PRESET"] not in PRESETS[p["DATASET"]]:
        raise InputError(f"PRESET {p['PRESET']!r} is unknown for {p['DATASET']}: choose one of {', '.join(PRESETS[p['DATASET']])}.")
    settings = attacks.CLEVERHANS_SETTINGS if p.get("BACKEND") == "cleverhans" else attacks.settings(p["DATASET"])
    if p["DATASET"] != "imagenet_subset" and (p["SOURCE"] or p["CLASSES"]):
        raise InputError(f"SOURCE and CLASSES choose pictures of imagenet_subset; DATASET is {p['DATASET']}.")
    for name, known in (("ATTACKS", settings), ("DETECTORS", detectors.TRAINED), ("READINGS", detectors.READING_NAMES.values())):
        for item in p.get(name, []):
            if item not in known:
                short = [choice for choice in known if not choice[0].isdigit()]  # without the papers' own
                raise InputError(f"{name} holds {item!r}, which is unknown: choose among {', '.join(short)}.")
    preset = _changed(PRESETS[p["DATASET"]][p["PRESET"]], p["CHANGES"])
    if p["MODEL"] and ":" not in p["MODEL"] and p["MODEL"] not in networks.ARCHITECTURES:
        models.build(p["MODEL"], (1, 8, 8), 2)  # raises the sentence about unknown models
    if p["WEIGHTS"] == "torchvision" and (p["MODEL"] or preset["classifier"]) not in vision.NETWORKS:
        raise InputError(f"WEIGHTS 'torchvision' needs a MODEL that torchvision publishes: {', '.join(vision.NETWORKS)}.")
    if p["WEIGHTS"] not in ("", "torchvision", "none") and not folder_of(p["WEIGHTS"]).is_file():
        raise InputError(f"WEIGHTS {p['WEIGHTS']!r} is no file.")
    device = _device(p["DEVICE"])
    _determined(p["SEED"], p["THREADS"], device)
    _keep_memory()
    shown, folder = (folder_of(p["OUT"]) / run_name(p | {"DATASET": name}) for name in (p["DATASET"], _pictures(notebook, p["DATASET"])))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUT {p['OUT']!r} cannot be made a folder ({error.strerror}): choose another.") from error
    return Run(notebook, p, preset, device, folder, shown)


def _pictures(notebook: str, dataset: str) -> str:
    """The data set that a notebook looks at."""
    return data.IN_COLOUR.get(dataset, dataset) if notebook in IN_COLOUR else dataset


def _typed(name: str, value: object) -> object:
    """The value, when its type and sign are right; whole floats pass as counts and counts as floats."""
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
    named_once = isinstance(value, list) and all(isinstance(item, str) for item in value) and len(set(value)) == len(value)
    if isinstance(value, list) and not (named_once and (value or name in ("CLASSES", "READINGS"))):
        raise InputError(f"{name} must name at least one, each once, but is {value!r}.")
    if name in LARGEST and value >= LARGEST[name]:
        raise InputError(f"{name} must be under {LARGEST[name]}, but is {value!r}.")
    return float(value) if kind is float else value


AT_LEAST = {"epochs": 1, "detector_epochs": 1, "detector_batch": 1, "detector_seeds": 1, "chunk": 1, "pgd_steps": 1, "saliency_epochs": 1,
            "calibrate": 1e-6, "width": 1e-6, "detector_width": 1e-6, "variation_width": 1e-6}  # fields of a preset that must not be 0


def _changed(preset: dict, changes: dict) -> dict:
    """The preset with some fields changed, each to a value of its own kind."""
    for name, value in changes.items():
        if name not in preset:
            raise InputError(f"CHANGES holds {name!r}, which is no field of a preset: choose among {', '.join(preset)}.")
        now = preset[name]
        if name == "dropouts":
            right = isinstance(value, list) and value and all(d is None or (type(d) in (int, float) and 0 <= d < 1) for d in value)
        else:
            right = type(value) is type(now) or (type(now) is float and type(value) is int)
        if type(value) in (int, float):
            right = right and math.isfinite(value) and value >= AT_LEAST.get(name, 0) and not (value == 1 and name in ("train", "attacked_train"))
        if not right:
            raise InputError(f"CHANGES must give {name} a value like {now!r}, not {value!r}.")
        if name in ("classifier", "detector") and value not in networks.ARCHITECTURES:
            raise InputError(f"CHANGES names the {name} {value!r}, which is unknown: choose one of {', '.join(networks.ARCHITECTURES)}.")
    return {**preset, **changes}


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"DEVICE {name!r} is unknown: choose auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InputError(f"DEVICE {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices; use DEVICE = 'cpu'.")
    return device


def _determined(seed: int, threads: int, device: torch.device) -> None:
    """Same seed, same machine, same numbers. A CPU needs nothing for it but a fixed number of threads."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False  # or labels stored by a GPU need not hold on the machine that loads them
    torch.set_num_threads(threads or os.cpu_count() or 1)
    torch.manual_seed(seed)


def _keep_memory() -> None:
    """Memory of a freed tensor stays with the process: glibc gives each large block back, and new pages cost up to half of a training step."""
    mmap_threshold, trim_threshold = -3, -1  # their numbers in malloc.h
    with suppress(OSError, AttributeError, TypeError):  # another C library, another system
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**28)  # larger ones go back, or what is left of them between others fills the memory
        libc.mallopt(trim_threshold, 2**31 - 1)


def folder_of(path: str) -> Path:
    """A path; relative ones start at the project's root, from wherever the notebook runs."""
    return (ROOT / Path(path).expanduser()).resolve()


def _plain(value: object) -> object:
    """Tensors, arrays and numbers of numpy as JSON; floats to 6 digits, not-a-number as null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.dim() == 0):
        value = value.item()
    if isinstance(value, torch.Tensor | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class Source:
    """The module's own source of functions, shown in colour in a notebook."""

    def __init__(self, *functions: object) -> None:
        self.text = "\n\n\n".join(inspect.getsource(function).rstrip() for function in functions)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"

    def __repr__(self) -> str:
        return self.text
