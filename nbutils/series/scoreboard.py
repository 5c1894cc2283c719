"""One table of all detectors, from the published tables, without running anything.

Two boards: detectors that were fitted once and meet every attack (`at_once`), also one that knows
them; and detectors that were fitted on the attack that they are tested on, which is the best that
they can meet (`board`).
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from scipy.stats import spearmanr

from nbutils.claims.evidence import Published, Row, cell, collapsed, interval_of
from nbutils.claims.judging import judged, notebook_of
from nbutils.claims.rule import pooled_over_seeds
from nbutils.series.parameters import NOTEBOOKS
from nbutils.series.publish import PUBLISHED
from nbutils.series.verdicts import published, read
from nbutils.steps.worst_case import EVERY

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
    least TPR at 5 % FPR, and the most noise that it flags.

    A detector is ranked by the attacks that it met; how many they were stands beside it.
    """
    by_name: dict[str, list[Row]] = {}
    for one in cells(run):
        by_name.setdefault(one["detector"], []).append(one)
    rows = []
    for name, own in by_name.items():
        worst = min(own, key=lambda one: one["auroc"])
        rates = [one["tpr_at_fpr_5"] for one in own if one["tpr_at_fpr_5"] is not None]
        noise = [one["flagged_noise"] for one in own if one["flagged_noise"] is not None]
        rows.append(
            {
                "detector": name,
                "worst": worst["auroc"],
                "low": worst["low"],
                "high": worst["high"],
                "on": worst["attack"],
                "mean": sum(one["auroc"] for one in own) / len(own),
                "attacks": len(own),
                "collapsed": sum(one["collapsed"] for one in own),
                "tpr_at_fpr_5": min(rates, default=None),
                "flagged_noise": max(noise, default=None),
            }
        )
    return sorted(rows, key=lambda row: (-row["worst"], row["detector"]))


def at_once(run: Published) -> list[Row]:
    """A row a detector that was fitted once, on the mixture of notebook 08, the one first that
    catches most images when every attack is made of each: what the scoreboard ranks by.
    """
    rows = []
    for every in run.rows("08", "every_attack", family=EVERY):
        name = every["detector"]
        noise = run.row("08", "beside_noise", detector=name)
        games = {game: run.row("08", "ledger", detector=name, game=game) for game in KNOWING}
        rows.append(
            {
                **{key: every[key] for key in _FOUND},
                "flagged_noise": noise.get("flagged_noise"),
                "cost": noise.get("cost"),
                "passes_box": games["linf"].get("success_5"),
                "passes_l2": games["carlini_wagner_l2"].get("success_5"),
                "l2_ratio": games["carlini_wagner_l2"].get("l2_ratio"),
            }
        )
    return _ranked(rows)


_FOUND = (
    "detector",
    "caught_5",
    "low",
    "high",
    "caught_1",
    "mean_5",
    "worst_5",
    "worst",
    "attacks",
    "n",
)


def _ranked(rows: list[Row]) -> list[Row]:
    """The best first; of equals the one that passes less to who knows it."""
    return sorted(rows, key=lambda row: (-row["caught_5"], row["passes_box"] or 0, row["detector"]))


def over_seeds(runs: Sequence[Published]) -> list[Row]:
    """`at_once` over runs that differ by seed alone: means, and for `caught_5` an interval over
    seeds (`claims.rule.pooled_over_seeds`); of one seed, its own over images. `seeds` says how
    many.
    """
    boards = [at_once(run) for run in runs]
    names = dict.fromkeys(row["detector"] for rows in boards for row in rows)
    found = []
    for name in names:
        own = [row for rows in boards for row in rows if row["detector"] == name]
        means = {key: _mean([row[key] for row in own]) for key in own[0] if key not in _KEPT}
        worst = min(own, key=lambda row: row["worst_5"])["worst"]
        row = {"detector": name, **means, "worst": worst, "n": min(row["n"] for row in own)}
        cells = [[cell(name, (one["caught_5"], one["low"], one["high"]), one["n"])] for one in own]
        (pooled,) = pooled_over_seeds(cells)
        row |= {"caught_5": pooled.value, "low": pooled.low, "high": pooled.high}
        found.append({**row, "attacks": own[0]["attacks"], "seeds": len(own)})
    return _ranked(found)


_KEPT = ("detector", "worst", "attacks", "n")


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


ONCE = {
    "detector": "detector",
    "caught_5": "caught, every attack at once",
    "caught_1": "at 1 % FPR",
    "mean_5": "found, mean over attacks",
    "worst_5": "found, worst attack",
    "worst": "which",
    "flagged_noise": "noise flagged",
    "passes_box": "who knows it passes, box",
    "passes_l2": "who knows it passes, least L2",
    "l2_ratio": "at L2 times",
    "cost": "cost",
}
HEADS = {
    "detector": "detector",
    "worst": "worst AUROC",
    "on": "on",
    "mean": "mean AUROC",
    "attacks": "attacks",
    "collapsed": "collapsed on",
    "tpr_at_fpr_5": "least TPR at 5 %",
    "flagged_noise": "most noise flagged",
}


INTRODUCTION = (
    "Written by `python -m nbutils scoreboard --write` from the tables beside this page; nothing",
    f"is run. A blank was not measured. All cells, with TPR at 1 and 5 % FPR: [{CELLS}]({CELLS}).",
    "",
    "**Every attack at once.** Each detector was fitted once, on a mixture of attacks, and meets",
    "all of them and two more. An image is *caught* if every picture that fools the classifier",
    "and was made from it is flagged, at 5 % FPR; the interval is over images, or over seeds",
    "where there are several. *Found*: the share of fooling pictures that is flagged, in the mean",
    "over attacks, and of the attack that is found least. *Noise* has the attack's size, and the",
    "share of clean pictures with it that are flagged. *Who knows it*: the share of pictures that",
    "are misread and unseen at 5 % FPR, in a box or with the least L2, whose size stands beside",
    "that without a detector. *Cost*: the arithmetic of a score over that of a reading.",
    "",
    "**Each attack's own detector.** Here each detector was fitted on the attack that it is",
    "tested on, the best that it can meet. They stand by their *worst* attack, of those that they",
    "met, whose interval is in brackets; *collapsed on* so many attacks the fit ended in one",
    "answer for everything.",
)


def page(folder: Path = PUBLISHED) -> str:
    """Both boards of every published run as a page."""
    lines = ["# All detectors", "", *INTRODUCTION, ""]
    for name, runs in published(folder).items():
        once = over_seeds(runs)
        if once:
            attacks, n = once[0]["attacks"], min(row["n"] for row in once)
            what = f"every attack at once ({attacks} attacks, n = {n}, {_seeds(runs)})"
            lines += [f"## {name}: {what}", "", *_rows(once, ONCE), ""]
        for run in runs:
            rows = board(run)
            if rows:
                title = f"## {name}: each attack's own detector (seed {run.seed})"
                lines += [title, "", *_rows(rows, HEADS), ""]
    return "\n".join(lines)


def _seeds(runs: Sequence[Published]) -> str:
    told = ", ".join(str(run.seed) for run in runs)
    return f"seed {told}" if len(runs) == 1 else f"seeds {told}"


def _rows(rows: list[Row], heads: dict[str, str]) -> list[str]:
    lines = ["| " + " | ".join(heads.values()) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(_told(row, key) for key in heads) + " |" for row in rows]


def _told(row: Row, key: str) -> str:
    value = row[key]
    if value is None:
        return ""
    ranked = "caught_5" if "caught_5" in row else "worst"
    if key == ranked:
        return f"{value:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    if key == "cost":
        return f"{value:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(folder: Path = PUBLISHED) -> str:
    """All cells of all published runs as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CELL, lineterminator="\n")
    writer.writeheader()
    for runs in published(folder).values():
        for run in runs:
            for one in cells(run):
                told = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in one.items()}
                writer.writerow(told)
    return out.getvalue()


def gathered(
    dataset: str, own: Path | None = None, folder: Path = PUBLISHED
) -> dict[str, list[Published]]:
    """The published runs of a data set ("": of all), those that differ by seed alone together, and
    a run's own.

    Args:
        own: a folder of results. It takes the place of the published run of the same name; of
            another name, it stands for itself, as "NAME (yours)".
    """
    found = {
        name: list(runs)
        for name, runs in published(folder).items()
        if not dataset or runs[0].dataset == dataset
    }
    if own is None or not list(own.glob("[0-9][0-9]_*.json")):
        return found
    mine = replace(read(own), mark=own.parent.name)
    for runs in found.values():
        for i, run in enumerate(runs):
            if run.mark == mine.mark:
                runs[i] = mine
                return found
    return found | {f"{mine.mark} (yours)": [mine]}


def of_claims(groups: dict[str, list[Published]]) -> list[Row]:
    """A row a claim and group of runs, in the order of the claims: `run`, `claim`, `says`,
    `verdict`, `control`, the counts of cells, `n`, `seeds` and the `notebook` that argues it.
    """
    rows = named({name: judged(runs) for name, runs in groups.items()})
    rows = [{**row, "notebook": notebook_of(row["claim"])} for row in rows]
    return sorted(rows, key=lambda row: _in_order(row["claim"]))


def named(by_run: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The rows of several runs in one list, each with the name of its `run`."""
    return [{"run": name, **row} for name, rows in by_run.items() for row in rows]


def _in_order(claim: str) -> tuple:
    """Paper, number, what follows: "000.C10" comes after "000.C4 (maps)"."""
    paper, number, rest = re.fullmatch(r"(\d+|X)(?:\.C)?(\d+)(.*)", claim).groups()
    return paper, int(number), rest


def labels(groups: dict[str, list[Published]]) -> dict[str, str]:
    """The name of a group of runs as a figure has it: data set and classifier, and where two are
    alike the begin of its mark.
    """
    told = {
        name: f"{runs[0].dataset}, {runs[0].architecture.partition(':')[0]}"
        for name, runs in groups.items()
    }
    alike = [label for label in told.values() if list(told.values()).count(label) > 1]
    marks = {name: name.rpartition("-")[2][:5] for name in groups}
    return {name: f"{t} ({marks[name]})" if t in alike else t for name, t in told.items()}


def whose(groups: dict[str, list[Published]]) -> list[Row]:
    """A row a group of runs: what they are, and which of their notebooks an older code made."""
    rows = []
    for name, runs in groups.items():
        numbers = sorted({number for run in runs for number in run.tables})
        stale = sorted({number for run in runs for number in run.older})
        seeds = ", ".join(str(run.seed) for run in runs)
        row = {"run": name, "classifier": runs[0].architecture, "seeds": seeds}
        rows.append({**row, "notebooks": " ".join(numbers), "of an older code": " ".join(stale)})
    return rows


def agreement(boards: dict[str, list[Row]]) -> list[Row]:
    """How far two data sets rank the detectors alike, by `caught_5`: Spearman's correlation over
    the detectors that both have, three at least; a row a pair.
    """
    rows = []
    for a, b in combinations(boards, 2):
        first, second = (
            {row["detector"]: row["caught_5"] for row in boards[name]} for name in (a, b)
        )
        both = [name for name in first if name in second]
        if len(both) >= 3:
            ranks = spearmanr([first[n] for n in both], [second[n] for n in both]).statistic
            rows.append({"a": a, "b": b, "rank": float(ranks), "detectors": len(both)})
    return rows


def linked(rows: Sequence[Row]) -> str:
    """Verdicts as a table in Markdown, each claim with a link to the notebook that argues it, for a
    page beside the notebooks.
    """
    books = {name[:2]: name for name in NOTEBOOKS}
    lines = [
        "| claim | says | outcome | control | cells | n | seeds | argued in |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        book = books[row["notebook"]]
        cells = f"{row['shown']} : {row['opposite']} : {row['open']}"
        told = (row["claim"], row["says"], row["verdict"], row["control"], cells)
        link = f"[{row['notebook']}]({book}.ipynb)"
        lines.append("| " + " | ".join(map(str, (*told, row["n"], row["seeds"], link))) + " |")
    return "\n".join(lines)
