"""One table of all detectors, from the published tables, without running anything.

A detector counts as fitted on the attack that it is tested on, which is the best that it can meet;
what is left when the attack is another one stands in the notebooks' matrices, and what is left when
the attacker knows the detector in notebook 08.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from nbutils.claims.evidence import Published, Row, collapsed, interval_of
from nbutils.series.publish import PUBLISHED
from nbutils.series.verdicts import published

PAGE, CELLS = "scoreboard.md", "scoreboard.csv"
CELL = (
    "run",
    "detector",
    "attack",
    "notebook",
    "auroc",
    "low",
    "high",
    "tpr_at_fpr_1",
    "tpr_at_fpr_5",
    "flagged_noise",
    "n",
    "collapsed",
)
MATRICES = ("000.table7", "000.table8", "000.table9")  # of notebook 05, by data set
STAND_INS = ("shuffled", "random", "constant")  # at the end of names that are controls
KNOWING = ("linf", "carlini_wagner_l2")  # the referee's games of notebook 08


def cells(run: Published) -> list[Row]:
    """Every detector on every attack, fitted on that attack where it is fitted at all: rows of
    CELL, of each pair the first notebook's. Controls are left out; a fit that collapsed is said to
    have, and its AUROC is a coin's.
    """
    found: dict[tuple[str, str], Row] = {}
    for notebook, row, attack in _measured(run):
        key = (row["detector"], attack)
        if key in found or row["detector"].endswith(STAND_INS) or row.get("auroc") is None:
            continue
        low, high = _interval(row)
        controls = run.row(notebook, "controls", detector=row["detector"], attack=attack)
        found[key] = {
            "run": run.mark,
            "detector": row["detector"],
            "attack": attack,
            "notebook": notebook,
            "auroc": row["auroc"],
            "low": low,
            "high": high,
            "tpr_at_fpr_1": row.get("tpr_at_fpr_1"),
            "tpr_at_fpr_5": row.get("tpr_at_fpr_5"),
            "flagged_noise": controls.get("flagged_noise_sign"),
            "n": row["n"],
            "collapsed": bool(collapsed(row)),
        }
    return list(found.values())


def _measured(run: Published) -> Iterable[tuple[str, Row, str]]:
    """Notebook, row and attack of each cell whose detector met its own attack."""
    for row in run.rows("07", "cells"):
        if row["fitted_on"] in (row["tested_on"], "", None, "-"):
            yield "07", row, row["tested_on"]
    for table in MATRICES:
        for row in run.rows("05", table):
            if row["fit_attack"] == row["test_attack"]:
                yield "05", row, row["test_attack"]
    for row in run.rows("04", "002.fig2"):
        if row["fit_attack"] == row["test_attack"]:
            yield "04", row, row["test_attack"]
    for table in ("layers", "scalars_and_stand_ins"):
        for row in run.rows("04", table):
            yield "04", row, row["attack"]


def _interval(row: Row) -> tuple[float, float]:
    if row.get("low") is not None:
        return row["low"], row["high"]
    key = "auroc_interval" if row.get("auroc_interval") else "interval"
    return interval_of(row, "auroc", key)


def board(run: Published) -> list[Row]:
    """A row a detector, the one with the best worst attack first: its worst and mean AUROC, its
    least TPR at 5 % FPR, the most noise that it flags, and what passes it when the attacker knows
    it.

    A detector is ranked by the attacks that it met; how many they were stands beside it.
    """
    by_name: dict[str, list[Row]] = {}
    for cell in cells(run):
        by_name.setdefault(cell["detector"], []).append(cell)
    rows = []
    for name, own in by_name.items():
        worst = min(own, key=lambda cell: cell["auroc"])
        rates = [cell["tpr_at_fpr_5"] for cell in own if cell["tpr_at_fpr_5"] is not None]
        noise = [cell["flagged_noise"] for cell in own if cell["flagged_noise"] is not None]
        games = {game: run.row("08", "ledger", detector=name, game=game) for game in KNOWING}
        rows.append(
            {
                "detector": name,
                "worst": worst["auroc"],
                "low": worst["low"],
                "high": worst["high"],
                "on": worst["attack"],
                "mean": sum(cell["auroc"] for cell in own) / len(own),
                "attacks": len(own),
                "collapsed": sum(cell["collapsed"] for cell in own),
                "tpr_at_fpr_5": min(rates, default=None),
                "flagged_noise": max(noise, default=None),
                "passes_box": games["linf"].get("success_5"),
                "passes_l2": games["carlini_wagner_l2"].get("success_5"),
                "l2_ratio": games["carlini_wagner_l2"].get("l2_ratio"),
            }
        )
    return sorted(rows, key=lambda row: (-row["worst"], row["detector"]))


HEADS = {
    "detector": "detector",
    "worst": "worst AUROC",
    "on": "on",
    "mean": "mean AUROC",
    "attacks": "attacks",
    "collapsed": "collapsed on",
    "tpr_at_fpr_5": "least TPR at 5 %",
    "flagged_noise": "most noise flagged",
    "passes_box": "who knows it passes, box",
    "passes_l2": "who knows it passes, least L2",
    "l2_ratio": "at L2 times",
}


INTRODUCTION = (
    "Written by `python -m nbutils scoreboard --write` from the tables beside this page; nothing",
    "is run. Each detector was fitted on the attack that it is tested on, where it is fitted at",
    "all. They stand by their *worst* attack, of those that they met, whose interval is in",
    "brackets; *collapsed on* so many attacks the fit ended in one answer for everything. *Noise*",
    "has the attack's size, and the share of clean pictures with it that are flagged at 5 % FPR.",
    "*Who knows it*: the share of pictures that are misread and unseen at 5 % FPR in notebook 08,",
    "where detectors were fitted on a mixture of attacks, in a box or with the least L2, of which",
    "the last column has the size beside that without a detector. A blank was not measured. All",
    f"cells: [{CELLS}]({CELLS}).",
)


def page(folder: Path = PUBLISHED) -> str:
    """The board of every published run, seed by seed, as a page."""
    lines = ["# All detectors", "", *INTRODUCTION, ""]
    for name, runs in published(folder).items():
        for run in runs:
            rows = board(run)
            if not rows:
                continue
            lines += [f"## {name}, seed {run.seed}", ""]
            lines += ["| " + " | ".join(HEADS.values()) + " |", "|" + "---|" * len(HEADS)]
            lines += ["| " + " | ".join(_told(row, key) for key in HEADS) + " |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def _told(row: Row, key: str) -> str:
    value = row[key]
    if key == "worst":
        return f"{value:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(folder: Path = PUBLISHED) -> str:
    """All cells of all published runs as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CELL, lineterminator="\n")
    writer.writeheader()
    for runs in published(folder).values():
        for run in runs:
            for cell in cells(run):
                told = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in cell.items()}
                writer.writerow(told)
    return out.getvalue()
