"""Tidy tables of an evaluation: a row a cell, the same columns everywhere."""

from collections.abc import Iterable

import pandas as pd

CELL = (
    "detector",
    "fitted_on",
    "tested_on",
    "auroc",
    "low",
    "high",
    "auroc_successful",
    "tpr_at_fpr_1",
    "fpr_measured_1",
    "tpr_at_fpr_5",
    "fpr_measured_5",
    "accuracy",
    "tpr",
    "tnr",
    "success",
    "n",
    "n_successful",
    "fits",
    "collapses",
    "collapsed",
)
DIFFERENCE = ("difference", "fitted_on", "tested_on", "auroc", "low", "high", "n", "fits")
KEYS = {  # the columns that name a row; all others are results
    "attack",
    "attack_a",
    "attack_b",
    "asked",
    "backend",
    "derivative of",
    "detector",
    "difference",
    "emphasis",
    "eps",
    "eps_255",
    "eps_fit",
    "eps_test",
    "fit_attack",
    "fitted_on",
    "grad_cam minus",
    "images",
    "input",
    "map",
    "mask",
    "method",
    "mixture",
    "ospa of",
    "parameters",
    "reading",
    "scalar",
    "setting",
    "split",
    "statistic",
    "supervision",
    "targeted",
    "test_attack",
    "tested_on",
    "theta",
    "transform",
    "variation",
}


def cell(detector: str, fitted_on: str, tested_on: str, record: dict, success: float) -> dict:
    """One row of CELL.

    Args:
        record: of `metrics.evaluate`, with `collapses`.
        success: share of the tested images that the attack fooled.
    Returns:
        thresholds of a nominal 1 and 5 % FPR come from calibration images; `fpr_measured_*` is what
        they flag of the clean test images. At the paper's own rule, where it has one: balanced
        `accuracy`, `tpr`, `tnr`. `collapses`: fits that ended in one answer for everything, before
        a retry.
    """
    found, rule = record["all"], record["all"].get("at_decision")
    low, high = found["auroc_interval"]
    successful = record["successful"]
    return {
        "detector": detector,
        "fitted_on": fitted_on,
        "tested_on": tested_on,
        "auroc": found["auroc"],
        "low": low,
        "high": high,
        "auroc_successful": successful["auroc"] if successful else None,
        "tpr_at_fpr_1": found["at_fpr_1"]["tpr"],
        "fpr_measured_1": found["at_fpr_1"]["fpr"],
        "tpr_at_fpr_5": found["at_fpr_5"]["tpr"],
        "fpr_measured_5": found["at_fpr_5"]["fpr"],
        "accuracy": rule["accuracy"] if rule else None,
        "tpr": rule["tpr"] if rule else None,
        "tnr": 1 - rule["fpr"] if rule else None,
        "success": success,
        "n": found["n"],
        "n_successful": record["n_successful"],
        "fits": record["fits"],
        "collapses": record["collapses"],
        "collapsed": record["collapsed"],
    }


def frame(rows: Iterable[dict], columns: tuple[str, ...] = CELL) -> pd.DataFrame:
    """Rows as a data frame with these columns in this order, also where there is none."""
    return pd.DataFrame(list(rows), columns=list(columns))
