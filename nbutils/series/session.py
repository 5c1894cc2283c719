"""Where a notebook, or the command line, begins: parameters checked before any work, seeds, device,
folders; and where its results end.
"""

import ctypes
import inspect
import io
import json
import logging
import math
import os
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from nbutils import InputError
from nbutils.attacks.settings import (
    CLEVERHANS_SETTINGS,
    count_of,
    settings_for,
    within_linf,
)
from nbutils.claims.evidence import Published
from nbutils.claims.judging import of_notebook
from nbutils.data import DATASETS
from nbutils.data.embedded import IN_COLOUR
from nbutils.data.presets import PRESETS
from nbutils.detectors import DETECTORS
from nbutils.detectors.groups import DENSITY, FITTED, ON_CLEAN, READING_NAMES
from nbutils.models import ARCHITECTURES
from nbutils.models.building import build
from nbutils.models.published import NETWORKS
from nbutils.resources import from_here, resource, usable_cpus
from nbutils.series.parameters import (
    ASK_ANY_DETECTOR,
    ASK_RIVALS,
    BEGIN_WITH_FGSM,
    COMMON,
    DEFAULTS,
    NEED_COLOUR,
    NOTEBOOKS,
    PARAMETERS,
    SAYS,
    checked,
    nearest,
    run_folder,
    run_name,
    unknown,
)
from nbutils.series.provenance import code_of
from nbutils.steps.run import Run
from nbutils.store.files import atomically


@dataclass
class Session(Run):
    """A run as a notebook sees it. Its `repr` is the environment line."""

    notebook: str = ""
    shown: Path = Path()  # of results and figures: another folder where grey images were inked
    started: float = field(default_factory=time.perf_counter)

    def save(self, figure, name: str) -> None:
        """Keep a figure as figures/<notebook>-<name>.png."""
        buffer = io.BytesIO()
        kept = {"format": "png", "dpi": 110, "bbox_inches": "tight", "metadata": {"Software": None}}
        figure.savefig(buffer, **kept)
        path = self.shown / "figures" / f"{self.notebook}-{name}.png"
        atomically(path, buffer.getvalue())

    def record(
        self, *, key: tuple[str, float], tables: dict[str, list[dict]], **more: object
    ) -> dict:
        """Write results/<notebook>.json and return it.

        Args:
            key: name and value of the one number that the runner prints.
            tables: named tables, each a list of rows.
        """
        hidden = ("OUT", "DATA_ROOT")
        parameters = {name: v for name, v in self.parameters.items() if name not in hidden}
        environment = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": self.device.type,
        }
        seconds = round(time.perf_counter() - self.started, 2)
        result = {
            "notebook": self.notebook,
            "parameters": parameters,
            "preset": self.preset,
            "key": {"name": key[0], "value": key[1]},
            "tables": tables,
            **more,
            "environment": environment,
            "code": code_of(self.notebook, self.code),
            "timings": {**self.timings, "notebook": seconds},
        }
        text = json.dumps(plain(result), indent=1, sort_keys=True, allow_nan=False) + "\n"
        path = self.shown / "results" / f"{self.notebook}.json"
        atomically(path, text.encode())
        return json.loads(text)

    def verdicts(self, tables: dict[str, list[dict]]) -> list[dict]:
        """The verdicts on the claims that this notebook argues, from its own tables
        (`nbutils.claims`).
        """
        number = self.notebook[:2]
        return of_notebook(number, [Published(self.pictures, self.seed, {number: plain(tables)})])

    def __repr__(self) -> str:
        p, place = self.parameters, f"CPU, {torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            place = torch.cuda.get_device_name(self.device)
        what = f"{self.pictures}, preset {p['PRESET']}, seed {p['SEED']}"
        return f"{self.notebook}: {what}, torch {torch.__version__.split('+')[0]} on {place}"


def start(notebook: str, namespace: dict) -> Session:
    """Check the parameters of a notebook and get everything ready; nothing long is done before
    every one of them is known to be good.

    Args:
        namespace: the notebook's `globals()`; its upper-case names are the parameters. A name that
            resembles one and is none is refused; names that cells made are nobody's business.
    Raises:
        InputError: one sentence that names the parameter and what it may be.
    """
    if notebook not in NOTEBOOKS:
        raise InputError(f"Notebook {notebook!r} is unknown: the series is {', '.join(NOTEBOOKS)}.")
    known = COMMON + NOTEBOOKS[notebook]
    again = any(isinstance(value, Session) for value in namespace.values())
    for name, value in namespace.items():
        if name not in known and _resembling(name, value, again):
            raise unknown(name, known, notebook)
    _heard()
    return configure(notebook, {name: namespace[name] for name in known if name in namespace})


def _heard() -> None:
    """What is worth knowing before any work (pictures that were left out, say) stands on stderr,
    marked as ours; a class named "$x$" stays what it is in a table.
    """
    import pandas as pd

    log = logging.getLogger("nbutils")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{SAYS}%(message)s"))
        log.addHandler(handler)
    pd.set_option("display.html.use_mathjax", False)


def _resembling(name: str, value: object, again: bool) -> bool:
    """Whether a name was meant to be a parameter, which it is not.

    Args:
        again: a session was started in this namespace before, so that the notebook's own cells
            have made names; those that resemble parameters in lower case are theirs.
    """
    plain = (str, int, float, bool, list, dict, tuple, type(None))
    if name.startswith("_") or name in ("In", "Out"):
        return False
    if name in PARAMETERS:
        return True
    if not isinstance(value, plain):
        return False
    resembles = bool(nearest(name, list(PARAMETERS)))
    return resembles and name.isupper() if again else resembles or name.isupper()


def configure(notebook: str, parameters: dict) -> Session:
    """`start` for parameters that are in a dict already."""
    p, preset = checked_together(notebook, parameters)
    device = _device(p["DEVICE"])
    _determined(p["SEED"], p["THREADS"], device)
    _keep_memory()
    pictures = _pictures(notebook, p["DATASET"])
    shown, folder = run_folder(p), run_folder(p | {"DATASET": pictures})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"OUT {p['OUT']!r} cannot be made a folder ({error.strerror}): choose another."
        ) from error
    as_committed = p | {"DATASET": pictures, "CHANGES": {}}  # the arguments tell whether they serve
    networks = resource("pretrained") / run_name(as_committed)
    return Session(p, preset, device, pictures, folder, networks, notebook=notebook, shown=shown)


def checked_together(notebook: str, parameters: dict) -> tuple[dict, dict]:
    """All parameters of a notebook, each of its type and range and fitting the others, and the
    preset that they give; nothing is touched.
    """
    p = {name: checked(name, value) for name, value in {**DEFAULTS, **parameters}.items()}
    if p["DATASET"] not in DATASETS:
        raise InputError(
            f"DATASET {p['DATASET']!r} is unknown: choose one of {', '.join(DATASETS)}."
        )
    if p["PRESET"] not in PRESETS[p["DATASET"]]:
        raise InputError(
            f"PRESET {p['PRESET']!r} is unknown for {p['DATASET']}: choose one of "
            f"{', '.join(PRESETS[p['DATASET']])}."
        )
    settings = (
        CLEVERHANS_SETTINGS if p.get("BACKEND") == "cleverhans" else settings_for(p["DATASET"])
    )
    if p["DATASET"] != "imagenet_subset" and (p["SOURCE"] or p["CLASSES"]):
        raise InputError(
            f"SOURCE and CLASSES choose pictures of imagenet_subset; DATASET is {p['DATASET']}."
        )
    detectors = DETECTORS if notebook in ASK_ANY_DETECTOR else FITTED
    for name, known in (
        ("ATTACKS", settings),
        ("DETECTORS", [*DENSITY, *ON_CLEAN] if notebook in ASK_RIVALS else detectors),
        ("READINGS", READING_NAMES.values()),
    ):
        for item in p.get(name, []):
            if item not in known:
                short = [
                    choice for choice in known if not choice[0].isdigit()
                ]  # without the papers' own
                raise InputError(
                    f"{name} holds {item!r}, which is unknown: choose among {', '.join(short)}."
                )
    attacks = {attack: settings[attack] for attack in p.get("ATTACKS", [])}
    if notebook in BEGIN_WITH_FGSM and attacks and "fgsm" not in next(iter(attacks)):
        raise InputError(
            "ATTACKS must begin with an FGSM, which stands beside the paper's, not with "
            f"{next(iter(attacks))}."
        )
    for name, wanted, takes in (
        ("EPS_255", "a budget in the l-infinity norm", within_linf),
        ("STEPS", "steps", count_of),
    ):
        if p.get(name) and attacks and not any(map(takes, attacks.values())):
            raise InputError(
                f"{name} would change nothing: no attack among {', '.join(attacks)} has {wanted}."
            )
    preset = _changed(PRESETS[p["DATASET"]][p["PRESET"]], p["CHANGES"])
    if p["MODEL"] and ":" not in p["MODEL"] and p["MODEL"] not in ARCHITECTURES:
        build(p["MODEL"], (1, 8, 8), 2)  # raises the sentence about unknown models
    if p["WEIGHTS"] == "torchvision" and (p["MODEL"] or preset["classifier"]) not in NETWORKS:
        raise InputError(
            "WEIGHTS 'torchvision' needs a MODEL that torchvision publishes: "
            f"{', '.join(NETWORKS)}."
        )
    if p["WEIGHTS"] not in ("", "torchvision", "none") and not from_here(p["WEIGHTS"]).is_file():
        raise InputError(
            f"WEIGHTS {p['WEIGHTS']!r} is no file: it was looked for at {from_here(p['WEIGHTS'])}."
        )
    if p["RETRAIN"] and (":" in p["MODEL"] or p["WEIGHTS"] not in ("", "none")):
        raise InputError(
            "RETRAIN trains an architecture of ours, but MODEL or WEIGHTS bring a trained model."
        )
    _device(p["DEVICE"])
    return p, preset


def _pictures(notebook: str, dataset: str) -> str:
    """The data set that a notebook looks at."""
    return IN_COLOUR.get(dataset, dataset) if notebook in NEED_COLOUR else dataset


AT_LEAST = {
    "epochs": 1,
    "detector_epochs": 1,
    "detector_batch": 1,
    "detector_seeds": 1,
    "chunk": 1,
    "pgd_steps": 1,
    "saliency_epochs": 1,
    "density_epochs": 1,
    "density_filters": 1,
    "density_mixtures": 1,
    "robust_epochs": 1,
    "robust_steps": 1,
    "robust_ddn_steps": 1,
    "rectifier_draws": 1,
    "mask_draws": 1,
    "mask_seeds": 1,
    "white_box_steps": 1,
    "white_box_search": 1,
    "white_box_rounds": 1,
    "calibrate": 1e-6,
    "width": 1e-6,
    "detector_width": 1e-6,
    "variation_width": 1e-6,
}  # fields of a preset that must not be 0


def _changed(preset: dict, changes: dict) -> dict:
    """The preset with some fields changed, each to a value of its own kind."""
    for name, value in changes.items():
        if name not in preset:
            raise InputError(
                f"CHANGES holds {name!r}, which is no field of a preset: choose among "
                f"{', '.join(preset)}."
            )
        now = preset[name]
        if name == "dropouts":
            right = (
                isinstance(value, list)
                and value
                and all(d is None or (type(d) in (int, float) and 0 <= d < 1) for d in value)
            )
        else:
            right = type(value) is type(now) or (type(now) is float and type(value) is int)
        if type(value) in (int, float):
            right = (
                right
                and math.isfinite(value)
                and value >= AT_LEAST.get(name, 0)
                and not (value == 1 and name in ("train", "attacked_train"))
            )
            if right and value == 1 and name == "attacked_test":
                raise InputError(
                    "CHANGES must give attacked_test at least 2: notebooks compare an image with "
                    "another one."
                )
        if not right:
            raise InputError(f"CHANGES must give {name} a value like {now!r}, not {value!r}.")
        if name in ("classifier", "detector") and value not in ARCHITECTURES:
            raise InputError(
                f"CHANGES names the {name} {value!r}, which is unknown: choose one of "
                f"{', '.join(ARCHITECTURES)}."
            )
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
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise InputError(
            f"DEVICE {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA "
            "devices; use DEVICE = 'cpu'."
        )
    return device


def _determined(seed: int, threads: int, device: torch.device) -> None:
    """Same seed, same machine, same numbers.

    A CPU needs nothing for it but a fixed number of threads.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = (
            False  # or labels stored by a GPU need not hold on the machine that loads them
        )
    torch.set_num_threads(threads or usable_cpus())
    torch.manual_seed(seed)


def _keep_memory() -> None:
    """Memory of a freed tensor stays with the process: glibc gives each large block back, and new
    pages cost up to half of a training step.
    """
    mmap_threshold, trim_threshold = -3, -1  # their numbers in malloc.h
    with suppress(OSError, AttributeError, TypeError):  # another C library, another system
        libc = ctypes.CDLL(None)
        libc.mallopt(
            mmap_threshold, 2**28
        )  # larger ones go back, or what is left of them between others fills the memory
        libc.mallopt(trim_threshold, 2**31 - 1)


def plain(value: object) -> object:
    """Tensors, arrays and numbers of numpy as JSON; floats to 6 digits, not-a-number as null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.dim() == 0):
        value = value.item()
    if isinstance(value, torch.Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def wrapped(*parts: object) -> str:
    """Sentences in lines of at most 100 columns, broken between words: a notebook breaks a longer
    line wherever its window ends. Line ends and indents are kept.
    """
    lines = []
    for line in " ".join(map(str, parts)).split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(textwrap.fill(line, 100, subsequent_indent=indent, break_long_words=False))
    return "\n".join(lines)


class Source:
    """The module's own source of functions, shown in colour in a notebook."""

    def __init__(self, *functions: object) -> None:
        self.text = "\n\n\n".join(inspect.getsource(function).rstrip() for function in functions)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"

    def __repr__(self) -> str:
        return self.text
