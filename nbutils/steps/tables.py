"""Cells run and told as tidy tables (`evaluation.tables`): what a notebook selects, pivots and
plots.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from nbutils.evaluation import metrics
from nbutils.evaluation.tables import CELL, DIFFERENCE, cell, frame
from nbutils.steps.adversarial import adversarial
from nbutils.steps.controls import controls
from nbutils.steps.evaluation import evaluation
from nbutils.steps.run import Run
from nbutils.store.artifacts import Artifact

Attacks = (
    Sequence[str] | Mapping[str, tuple[str, dict]]
)  # names, or name -> setting and changed knobs


def cross(
    run: Run,
    detectors: Sequence[str],
    fitted_on: Attacks,
    tested_on: Attacks | None = None,
    *,
    own: bool = False,
    fits: int | None = None,
    variant: dict | None = None,
) -> pd.DataFrame:
    """Every detector, fitted on each attack, tested on each: a row a cell, columns of
    `tables.CELL`.

    Args:
        tested_on: None: the attacks that it is fitted on.
        own: only the attack that it was fitted on.
        fits, variant: as of `evaluation`.
    """
    rows = []
    for name, fit, test in _cells(detectors, fitted_on, tested_on, own):
        found = _evaluated(run, name, fit[1], test[1], fits, variant)
        pairs = adversarial(run, test[1][0], **test[1][1])
        rows.append(cell(name, fit[0], test[0], found.record, pairs.record["success_rate"]))
    return frame(rows, CELL)


def difference(
    run: Run,
    a: str,
    b: str,
    fitted_on: Attacks,
    tested_on: Attacks | None = None,
    *,
    own: bool = False,
    fits: int | None = None,
) -> pd.DataFrame:
    """AUROC of detector a less that of b, paired, on the same cells: columns of
    `tables.DIFFERENCE`.
    """
    rows = []
    for _, fit, test in _cells([a], fitted_on, tested_on, own):
        both = [_evaluated(run, name, fit[1], test[1], fits, None) for name in (a, b)]
        sides = [(one.tensors["clean"], one.tensors["adversarial"]) for one in both]
        value, (low, high) = metrics.auroc_difference(*sides, seed=run.seed)
        rows.append(
            {
                "difference": f"{a} - {b}",
                "fitted_on": fit[0],
                "tested_on": test[0],
                "auroc": value,
                "low": low,
                "high": high,
                "n": both[0].record["n"],
                "fits": both[0].record["fits"],
            }
        )
    return frame(rows, DIFFERENCE)


def controlled(
    run: Run, detectors: Sequence[str], attacks: Attacks, *, fpr: float = 0.05
) -> pd.DataFrame:
    """The leak controls of each detector on the attack that it was fitted on: a row each."""
    rows = [
        {"detector": name, "attack": attack, **controls(run, name, setting, fpr=fpr, **knobs)}
        for name in detectors
        for attack, (setting, knobs) in _named(attacks).items()
    ]
    return pd.DataFrame(rows)


def _named(attacks: Attacks) -> dict[str, tuple[str, dict]]:
    if isinstance(attacks, Mapping):
        return dict(attacks)
    return {name: (name, {}) for name in attacks}


def _cells(
    detectors: Sequence[str], fitted_on: Attacks, tested_on: Attacks | None, own: bool
) -> list:
    fits = _named(fitted_on)
    tests = fits if tested_on is None else _named(tested_on)
    return [
        (name, fit, test)
        for name in detectors
        for fit in fits.items()
        for test in tests.items()
        if not own or fit == test
    ]


def _evaluated(
    run: Run,
    name: str,
    fit: tuple[str, dict],
    test: tuple[str, dict],
    fits: int | None,
    variant: dict | None,
) -> Artifact:
    knobs = {"fit_knobs": fit[1], **test[1]}
    return evaluation(run, name, fit[0], test[0], fits=fits, variant=variant, **knobs)
