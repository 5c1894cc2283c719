"""What the steps of one run share: its parameters, its data, its folder, and what it has loaded
already.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from nbutils.data.images import Dataset
from nbutils.data.splits import load
from nbutils.models.published import PUBLISHED
from nbutils.resources import checkout, from_here
from nbutils.store.artifacts import Artifact, load_or_make
from nbutils.store.fingerprints import key_of

log = logging.getLogger("nbutils")
LONGEST = 150  # letters of an artifact's name; a mixture of many attacks has more


class Memory:
    """What was computed once and is needed again: `once(key, function, *arguments)`."""

    def __init__(self) -> None:
        self.known: dict = {}

    def once(self, key: tuple, function: Callable, *arguments: object, most: int = 0) -> object:
        """What `function(*arguments)` gave when it was first asked for under `key`.

        Args:
            most: of the keys with this first word so many are remembered, the latest (0: all).
        """
        if key not in self.known:
            made = function(*arguments)
            same = [known for known in self.known if known[0] == key[0]]
            for old in same[: len(same) + 1 - most] if most else ():
                del self.known[old]
            self.known[key] = made
        return self.known[key]


@dataclass
class Run:
    """One run: a data set at a preset with a seed."""

    parameters: dict
    preset: dict
    device: torch.device
    # the data set that is looked at: an inked one where DATASET is grey and colour is needed
    pictures: str
    folder: Path  # of the artifacts
    networks: Path  # of the networks that are committed for this preset and seed
    timings: dict = field(default_factory=dict)
    code: dict = field(default_factory=dict)  # by step: the registry entries in its fingerprint
    memory: Memory = field(default_factory=Memory)

    @property
    def seed(self) -> int:
        return self.parameters["SEED"]

    @property
    def brought(self) -> bool:
        """Whether the classifier was trained by others: the user's own, or a published one."""
        weights = self.parameters["WEIGHTS"]
        architecture = self.parameters["MODEL"] or self.preset["classifier"]
        trained_on = PUBLISHED.get(architecture, {}).get("data")
        own = ":" in architecture or weights not in ("", "none")
        return own or (weights != "none" and trained_on == self.pictures)

    @cached_property
    def data(self) -> Dataset:
        counts = {name: self.preset[name] for name in ("train", "calibrate", "test")}
        return load(
            self.pictures,
            seed=self.seed,
            root=self.root,
            source=self.parameters["SOURCE"],
            classes=self.parameters["CLASSES"],
            device=self.device,
            held_back_from="test" if self.brought else "train",
            **counts,
        )

    @cached_property
    def data_key(self) -> dict:
        """What decides the data of a run, with a hash of the images themselves."""
        parts = {part: getattr(self.data, part) for part in ("train", "calibrate", "test")}
        keys = {part: key_of(images.x, images.y) for part, images in parts.items()}
        return {"name": self.data.name, **keys}

    @property
    def root(self) -> Path:
        """The folder of data sets and weights."""
        given = self.parameters["DATA_ROOT"] or os.environ.get("NBUTILS_DATA")
        return from_here(given) if given else (checkout() or Path.cwd()) / "data"

    def progress(self, items: Iterable, what: str) -> Iterator:
        """A progress bar with an estimate of the time left.

        It is shown only for what takes longer than 5 s, and where somebody can watch.
        """
        from tqdm import tqdm

        notebook = "ipykernel" in sys.modules and os.environ.get("NBUTILS_PROGRESS") != "0"
        watched = sys.stderr.isatty() or notebook
        return iter(tqdm(items, desc=what, delay=5, leave=False, disable=not watched))

    def step(
        self, step: str, name: str, make: Callable, inputs: dict, settings: dict, **key: object
    ) -> Artifact:
        """`load_or_make` in this run's folder, timed; the reason is logged where something is made
        again.
        """
        started = time.perf_counter()
        if len(name) > LONGEST:
            name = f"{name[:100]}-{key_of(name)[:12]}"
        place = self.folder / step / name
        artifact = load_or_make(place, make, inputs, settings, say=log.warning, **key)
        self.timings[f"{step}/{name}"] = round(time.perf_counter() - started, 2)
        made_by = f"{make.__module__}.{make.__qualname__}"
        self.code[made_by] = sorted({*self.code.get(made_by, ()), *artifact.entries})
        return artifact
