"""Verdicts on claims from published tables, as rows."""

import inspect
from collections.abc import Sequence

from nbutils.claims import CLAIMS
from nbutils.claims.evidence import Published
from nbutils.claims.rule import Verdict, judge

WHITE_BOX = ("000.C9", "000.C10", "002.C7", "002.C8 (second round)", "002.C9", "003.C9", "004.C9")


def says(claim: str) -> str:
    """A claim in a sentence: the first line of its function's docstring."""
    first = inspect.getdoc(CLAIMS[claim]).split("\n\n")[0].replace("\n", " ")
    return first.partition(": ")[2].rstrip(".")


def notebook_of(claim: str) -> str:
    """The number of the notebook that argues a claim."""
    if claim in WHITE_BOX:
        return "08"
    if claim in ("004.C7", "004.C8", "004.C10"):
        return "09"
    if claim in ("000.C1", "000.C4 (maps)", "000.C4 (underflow)", "002.C10"):
        return "03"
    books = {"000": "05", "002": "04", "003": "06", "004": "07", "X1": "04", "X4": "07"}
    return books[claim[:3].split(".")[0]]


def judged(runs: Sequence[Published], claims: Sequence[str] = tuple(CLAIMS)) -> list[dict]:
    """One row a claim: outcome and control with what they rest on.

    Args:
        runs: the published tables of one data set and model, one for each seed.
    """
    rows = []
    for claim in claims:
        number = notebook_of(claim)
        there = [run for run in runs if run.tables.get(number)]
        if not there:
            continue
        verdict = judge([CLAIMS[claim](run) for run in there], there[0].dataset)
        rows.append({"claim": claim, "says": says(claim), **as_row(verdict)})
    return rows


def of_notebook(number: str, runs: Sequence[Published]) -> list[dict]:
    """The verdicts that a notebook argues, from its own runs, one for each seed."""
    return judged(runs, [claim for claim in CLAIMS if notebook_of(claim) == number])


def as_row(verdict: Verdict) -> dict:
    """A verdict's columns."""
    refused = ", ".join(f"{n} {why}" for why, n in verdict.refused.items())
    return {
        "verdict": verdict.outcome,
        "control": verdict.control,
        "cells": verdict.cells,
        "shown": verdict.shown,
        "opposite": verdict.opposite,
        "open": verdict.open,
        "not admitted": refused,
        "n": verdict.n,
        "seeds": verdict.seeds,
        "here": verdict.here,
        "control measured": verdict.told,
    }
