"""The four papers' printed numbers, as data, and how ours stand beside them."""

import json
from collections.abc import Mapping
from functools import cache

import pandas as pd

from nbutils import InputError
from nbutils.resources import resource

PAPERS = ("000", "002", "003", "004")


@cache
def paper(number: str) -> dict:
    """One paper: `tables`, `text_numbers`, `print_errors`."""
    return json.loads(resource(f"papers/{number}.json").read_text(encoding="utf-8"))


def index() -> pd.DataFrame:
    """One row for each numbered table and figure of the four papers, with the notebook that
    reproduces it.
    """
    return pd.DataFrame(json.loads(resource("papers/index.json").read_text(encoding="utf-8")))


def claims() -> pd.DataFrame:
    """The papers' claims as testable statements: what each rests on, the experiment, the control
    that could overturn it, what the print says.
    """
    return pd.DataFrame(
        json.loads(resource("papers/claims.json").read_text(encoding="utf-8"))["claims"]
    )


def table(name: str) -> pd.DataFrame:
    """A printed table ("000.table7") as rows: key columns, `value`, sometimes `std`; columns that
    the print repeats are left out.
    """
    tables = paper(name[:3])["tables"] if name[:3] in PAPERS else {}
    if name not in tables:
        raise InputError(
            f"{name!r} is no table of the papers: write <paper>.table<n>, for example 000.table7."
        )
    rows = pd.DataFrame(tables[name]["rows"])
    return rows[rows["copy"] == 1].drop(columns="copy") if "copy" in rows else rows


def compare(name: str, here: list[dict], *, value: str = "here", **fixed: object) -> pd.DataFrame:
    """The paper's figures beside ours: rows of `here` joined with the table's on the key columns
    they share.

    Args:
        here: our rows; those columns that are keys of the table are matched, all others are shown.
        fixed: keys that our rows do not carry, such as dataset="mnist".
    Returns:
        our rows with a column `paper` before the column `value` (missing where the paper prints
        nothing).
    """
    printed = table(name).rename(columns={"value": "paper"})
    for key, only in fixed.items():
        printed = printed[printed[key] == only].drop(columns=key)
    ours = pd.DataFrame(here)
    if ours.empty:
        return pd.DataFrame(columns=["paper", value])
    keys = [
        column
        for column in printed.columns
        if column in ours.columns and column not in ("paper", "std", "printed")
    ]
    unknown = set(ours.get("statistic", [])) - set(printed.get("statistic", []))
    if unknown:
        raise InputError(
            f"{name} has no statistic {', '.join(sorted(unknown))}: it prints "
            f"{', '.join(sorted(set(printed['statistic'])))}."
        )
    joined = ours.merge(printed[[*keys, "paper"]], on=keys, how="left", validate="many_to_one")
    front = [*keys, "paper", value]
    return joined[front + [column for column in joined.columns if column not in front]]


def named(values: Mapping[str, float], form: str = ".2f") -> str:
    """Numbers with their names in one line, for a verdict's columns: "fgsm 0.91, bim 0.88"; `form`
    is a format of Python's.
    """
    return ", ".join(f"{name} {value:{form}}" for name, value in dict(values).items())
