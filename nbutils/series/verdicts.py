"""All verdicts from the published tables, without running anything; and the pages that are written
of them.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from nbutils.claims.evidence import Published
from nbutils.claims.judging import judged
from nbutils.series.provenance import older
from nbutils.series.publish import PUBLISHED

PAGE = "verdicts.md"
SHOWN = ("claim", "says", "verdict", "control", "cells", "n", "seeds")


def read(folder: Path) -> Published:
    """The results JSON of a folder."""
    results = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.json")):
        results[path.stem[:2]] = json.loads(path.read_text(encoding="utf-8"))
    first = next(iter(results.values()))
    parameters = first["parameters"]
    return Published(
        parameters["DATASET"],
        parameters["SEED"],
        {number: result["tables"] for number, result in results.items()},
        parameters["MODEL"] or first["preset"]["classifier"],
        folder.name,
        tuple(number for number, result in results.items() if older(result)),
    )


def published(folder: Path = PUBLISHED) -> dict[str, list[Published]]:
    """The published runs, those that differ by seed alone together."""
    groups: dict[str, list[Published]] = {}
    for place in sorted(folder.glob("*-s*")):
        if list(place.glob("[0-9][0-9]_*.json")):
            run = read(place)
            name = place.name.replace(f"-s{run.seed}", "", 1)
            groups.setdefault(name, []).append(run)
    return groups


def verdicts(folder: Path = PUBLISHED) -> dict[str, list[dict]]:
    """By data set, preset and model the rows of `claims.judging.judged`."""
    return {name: judged(runs) for name, runs in published(folder).items()}


def page(folder: Path = PUBLISHED) -> str:
    """The verdicts as a page, marked where an older code made the tables that they rest on."""
    lines = [
        "# Which claims hold?",
        "",
        "Written by `python -m nbutils verdicts --write` from the tables beside this page; "
        "nothing is run.",
        "A verdict has two halves: does the claim hold, and does it survive the control that could",
        "overturn it? The rule stands in `nbutils/claims/rule.py`, each claim's cells, margins "
        "and control",
        "in the docstring of its function in `nbutils/claims/`. *Cells* are shown : opposite : "
        "open.",
        "",
    ]
    for name, runs in published(folder).items():
        seeds = ", ".join(str(run.seed) for run in runs)
        stale = sorted({number for run in runs for number in run.older})
        lines += [f"## {name}", "", f"Classifier {runs[0].architecture}, seeds {seeds}."]
        if stale:
            lines[-1] += (
                f" Notebooks {', '.join(stale)}: tables of an older code, whose thresholds may "
                "have been"
                " fixed on images that a published network was trained on; they are made anew "
                "with the grid."
            )
        lines += ["", *_table(judged(runs)), ""]
    return "\n".join(lines)


def _table(rows: Iterable[dict]) -> list[str]:
    heads = (
        "claim",
        "outcome",
        "control",
        "cells",
        "n",
        "seeds",
        "what the control measured",
        "not admitted",
    )
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = f"{row['shown']} : {row['opposite']} : {row['open']}"
        told = (row["control measured"], row["not admitted"])
        what = (f"{row['claim']}: {row['says']}", row["verdict"], row["control"], cells)
        lines.append("| " + " | ".join(map(str, (*what, row["n"], row["seeds"], *told))) + " |")
    return lines
