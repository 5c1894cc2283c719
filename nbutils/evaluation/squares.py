"""Tidy cells turned for the eye, for the record and for a sentence."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import pandas as pd

from nbutils.evaluation.intervals import wilson


def square(
    cells: pd.DataFrame, measure: str, *, fitted: str = "fitted_on", tested: str = "tested_on"
) -> pd.DataFrame:
    """One measure of one detector's cells as a matrix: a row what it was fitted on, a column what
    it was tested on, both in the order of the cells.

    Args:
        fitted, tested: the columns that say so.
    """
    wide = cells.pivot(index=fitted, columns=tested, values=measure)
    return wide.loc[cells[fitted].unique(), cells[tested].unique()]


def costs(accuracy: pd.DataFrame) -> pd.DataFrame:
    """What training on one level costs on the level beside it, from a `square` whose rows and
    columns go from small to large: the accuracy of the detector that was trained on the tested
    level, less that of the other.

    Returns:
        a row a pair of neighbours: `small`, `large`, `small_on_large` (trained on the small level,
        tested on the large one), `large_on_small`.
    """
    rows = []
    for small, large in pairwise(accuracy.index):
        rows.append(
            {
                "small": small,
                "large": large,
                "small_on_large": accuracy.loc[large, large] - accuracy.loc[small, large],
                "large_on_small": accuracy.loc[small, small] - accuracy.loc[large, small],
            }
        )
    return pd.DataFrame(rows, columns=["small", "large", "small_on_large", "large_on_small"])


def recorded(cells: pd.DataFrame, **names: str) -> list[dict]:
    """Cells as the rows of a results file: `low` and `high` as one `interval`, columns renamed.

    Args:
        names: new names of columns.
    """
    rows = []
    for row in cells.rename(columns=names).to_dict("records"):
        if {"low", "high"} <= set(row):
            row["interval"] = [row.pop("low"), row.pop("high")]
        rows.append(row)
    return rows


def columns_of(group: str) -> tuple[str, str]:
    """Of `controls.measured`: the column with the share flagged of a group of images, and the
    column with their number. The group is adversarial, swapped, noise_sign, noise_gaussian; clean:
    clean images that the classifier reads rightly; misread: those that it does not.
    """
    if group == "clean":
        return "flagged_clean_right", "n_clean_right"
    if group == "misread":
        return "flagged_clean_wrong", "n_clean_wrong"
    return f"flagged_{group}", "n"


def flagged(rows: Iterable[Mapping], group: str) -> list[tuple[float, float, float]]:
    """The share of a group of images (`columns_of`) that each row's detector flags, with Wilson's
    interval; not-a-number where the group has no image.

    Args:
        rows: of `controls.measured`.
    """
    share, number = columns_of(group)
    return [_share(row[share], row[number]) for row in rows]


def lead(differences: pd.DataFrame, a: str, b: str) -> str:
    """A sentence that says on which attacks detector a is ahead of b, behind it, or level.

    An attack counts as ahead or behind where the whole interval lies on one side of 0.

    Args:
        differences: rows of `tables.DIFFERENCE`.
    """
    rows = differences[differences["difference"] == f"{a} - {b}"]
    if rows.empty:
        return f"{a} and {b} were not both measured."
    ahead = list(rows[rows["low"] > 0]["tested_on"])
    behind = list(rows[rows["high"] < 0]["tested_on"])
    level = [name for name in rows["tested_on"] if name not in (*ahead, *behind)]
    return (
        f"{a} is ahead of {b} on {len(ahead)} of {len(rows)} attacks{_named(ahead)}, behind on "
        f"{len(behind)}{_named(behind)}, and not told apart from it on {len(level)}{_named(level)}."
    )


def _named(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _share(value: float | None, n: int) -> tuple[float, float, float]:
    if value is None or value != value or not n:
        return (float("nan"),) * 3
    return (value, *wilson(round(value * n), n))
