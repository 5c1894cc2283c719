"""How a verdict is reached: one rule for all claims, fixed before the numbers.

A cell is one comparison with its interval. Which cells are admitted, the margins that make one
shown or opposite, and the control that could overturn the claim stand with each claim. The rest is:

- **holds**: shown in two thirds of the admitted cells and opposite in a sixth at most;
- **does not**: opposite more often than shown; of a claim on every attack, opposite in one cell;
- **in part**: otherwise, where shown is more frequent than opposite;
- **undecided**: fewer than three admitted cells, more than half of them open, or as many shown as
  opposite;
- **not testable here**: no admitted cell;
- **outside the paper's scope**: pictures for which the paper makes no such claim; what the rule
  says there stands behind it, and counts in no summary.

The control is told beside it: "survives", "does not survive" or "not run".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

LEAST_FOOLED = 20  # images that an attack must fool
CEILING = 0.98  # of both sides, where a claim is a difference
LEAST_CELLS = 3

HOLDS, IN_PART, DOES_NOT, UNDECIDED = "holds", "in part", "does not", "undecided"
NOT_TESTABLE, OUTSIDE = "not testable here", "outside the paper's scope"
SURVIVES, FALLS, NOT_RUN = "survives", "does not survive", "not run"


@dataclass(frozen=True)
class Cell:
    """One comparison: `value` with its interval, `n` images.

    Args:
        shown_above, opposite_below: the claim is shown where the whole interval lies above the
            first, opposite where it lies below the second.
        copies: near-copies (readings of one method) share this word, and are one cell; "": its own.
        refused: why it is not admitted; "": it is.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    shown_above: float = 0.0
    opposite_below: float = 0.0
    copies: str = ""
    refused: str = ""

    def __post_init__(self) -> None:
        if not self.refused and not self.low <= self.value <= self.high:
            raise ValueError(f"{self.name}: {self.value} lies outside [{self.low}, {self.high}]")

    @property
    def state(self) -> str:
        """ "shown", "opposite" or "open"."""
        if self.low > self.shown_above:
            return "shown"
        return "opposite" if self.high < self.opposite_below else "open"


@dataclass(frozen=True)
class Evidence:
    """What one run says of a claim.

    Args:
        scope: data sets for which the paper makes the claim.
        every: whether it is a claim on every cell.
        control: SURVIVES, FALLS or NOT_RUN. told: what the control measured, in a line.
    """

    cells: list[Cell]
    scope: tuple[str, ...]
    control: str = NOT_RUN
    told: str = ""
    every: bool = False


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim on one data set, and whether it survives its control."""

    outcome: str
    control: str
    here: str
    told: str
    shown: int = 0
    opposite: int = 0
    open: int = 0
    refused: dict = field(default_factory=dict)
    n: int = 0
    seeds: int = 0

    @property
    def cells(self) -> int:
        """How many were admitted."""
        return self.shown + self.opposite + self.open


def judge(found: Sequence[Evidence], dataset: str) -> Verdict:
    """The verdict on one data set from the evidence of one run a seed.

    Args:
        found: one for each seed of data and classifier; cells of the same name are pooled over
            them.
    """
    refused = Counter(cell.refused for one in found for cell in one.cells if cell.refused)
    admitted = [[cell for cell in one.cells if not cell.refused] for one in found]
    pooled = merged(pooled_over_seeds(admitted))
    states = Counter(cell.state for cell in pooled)
    outcome = _outcome(states, len(pooled), any(one.every for one in found))
    control = _control([one.control for one in found])
    if dataset not in found[0].scope:
        outcome = f"{OUTSIDE}: {outcome}"
    return Verdict(
        outcome,
        control if pooled else NOT_RUN,
        ", ".join(f"{cell.name} {cell.value:.2f}" for cell in pooled),
        "; ".join(dict.fromkeys(one.told for one in found if one.told)) if pooled else "",
        states["shown"],
        states["opposite"],
        states["open"],
        dict(refused),
        max((cell.n for cell in pooled), default=0),
        len(found),
    )


def _outcome(states: Counter, n: int, every: bool) -> str:
    if not n:
        return NOT_TESTABLE
    if every and states["opposite"]:
        return DOES_NOT
    if n < LEAST_CELLS or states["open"] > n / 2:
        return UNDECIDED
    if states["shown"] >= 2 * n / 3 and states["opposite"] <= n / 6:
        return HOLDS
    if states["shown"] == states["opposite"]:
        return UNDECIDED
    return IN_PART if states["shown"] > states["opposite"] else DOES_NOT


def _control(seeds: Sequence[str]) -> str:
    """What most seeds with a control say; a claim that half of them overturn does not survive."""
    run = [control for control in seeds if control != NOT_RUN]
    if not run:
        return NOT_RUN
    return FALLS if run.count(FALLS) * 2 >= len(run) else SURVIVES


def merged(cells: Sequence[Cell]) -> list[Cell]:
    """Near-copies as one cell: the one of them whose value is in the middle, open where they
    disagree.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.copies or cell.name, []).append(cell)
    out = []
    for name, group in groups.items():
        middle = sorted(group, key=lambda cell: cell.value)[(len(group) - 1) // 2]
        if len({cell.state for cell in group}) > 1:
            low, high = min(cell.low for cell in group), max(cell.high for cell in group)
            middle = replace(middle, low=low, high=high)
        out.append(replace(middle, name=name))
    return out


def pooled_over_seeds(seeds: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Cells of the same name over seeds: the mean, and an interval with the seed as a cluster.

    Student's t over the seeds' values, and never narrower than the images allow: with two or three
    seeds a bootstrap of them covers far too little. A cell of one seed keeps its interval.
    """
    groups: dict[str, list[Cell]] = {}
    for cells in seeds:
        for cell in cells:
            groups.setdefault(cell.name, []).append(cell)
    return [group[0] if len(group) == 1 else _pooled(group) for group in groups.values()]


def _pooled(group: Sequence[Cell]) -> Cell:
    from scipy.stats import t

    k, values = len(group), np.array([cell.value for cell in group])
    between = t.ppf(0.975, k - 1) * values.std(ddof=1) / k**0.5
    images = np.sqrt(sum(((cell.high - cell.low) / 2) ** 2 for cell in group)) / k
    value, half = float(values.mean()), float(max(between, images))
    n = sum(cell.n for cell in group)
    return replace(group[0], value=value, low=value - half, high=value + half, n=n)
