"""What code made a result: recorded with it, and asked again of published ones."""

import importlib
import json

from nbutils.resources import checkout
from nbutils.series.runner import sources_hash
from nbutils.steps.joining import JOINED
from nbutils.store.fingerprints import fingerprint


def code_of(notebook: str, steps: dict[str, list[str]]) -> dict:
    """The fingerprints of a notebook's cells and of the steps that it used.

    Args:
        steps: by the place of each step's function ("nbutils.steps.detector.make_detector") the
            registry entries that are in its fingerprint.
    """
    own, every = {f"nbutils.detectors.DETECTORS[{name}]" for name in JOINED}, {}
    for place, entries in steps.items():
        of_series = [entry for entry in entries if entry not in own]  # others stand in the cells
        every[place] = [_fingerprint(place, of_series), of_series]
    return {"cells": _cells(notebook), "steps": every}


def older(result: dict) -> list[str]:
    """What of a published result an older code made: places of steps, "cells", or "unknown"; none
    is best.
    """
    code = result.get("code")
    if not code:
        return ["unknown"]
    found = [] if code["cells"] == _cells(result["notebook"]) else ["cells"]
    for place, (made_by, entries) in code["steps"].items():
        if _fingerprint(place, entries) != made_by:
            found.append(place)
    return found


def _fingerprint(place: str, entries: list[str]) -> str:
    module, _, name = place.rpartition(".")
    make = getattr(importlib.import_module(module), name, None)
    keys = [entry[entry.index("[") + 1 : -1] for entry in entries]
    return fingerprint(make, keys)[0] if make else ""


def _cells(notebook: str) -> str:
    """The hash of a notebook's code cells; "" where the module is installed without them."""
    path = checkout() and checkout() / "notebooks" / f"{notebook}.ipynb"
    if not path or not path.is_file():
        return ""
    return sources_hash(json.loads(path.read_text(encoding="utf-8")))
