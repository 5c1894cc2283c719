"""A run's published tables, and what claims read from them: rows, admission, intervals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nbutils.claims.rule import CEILING, FALLS, LEAST_FOOLED, NOT_RUN, SURVIVES, Cell
from nbutils.detectors.networks import RETRIES
from nbutils.evaluation.intervals import at_the_edge, auroc_interval, wilson

Row = dict
SIGNS = (
    "fgsm",
    "bim",
    "mim",
    "pgd",
)  # whose perturbation is the gradient's sign, or a sum of signs


@dataclass(frozen=True)
class Published:
    """The tables of one run: `tables["05"]["replaced"]` are rows.

    `older`: notebooks that an older code made.
    """

    dataset: str
    seed: int
    tables: dict[str, dict[str, list[Row]]]
    architecture: str = ""
    mark: str = ""
    older: tuple[str, ...] = field(default=())

    def rows(self, notebook: str, table: str, **only: object) -> list[Row]:
        """The rows of a table in which these columns have these values; none where there is no
        table.
        """
        rows = self.tables.get(notebook, {}).get(table, [])
        return [row for row in rows if all(row.get(k) == v for k, v in only.items())]

    def row(self, notebook: str, table: str, **only: object) -> Row:
        """The first such row; an empty one where there is none."""
        return next(iter(self.rows(notebook, table, **only)), {})


def interval_of(row: Row, key: str, interval: str, n: int | None = None) -> tuple[float, float]:
    """The interval of an AUROC in a row; where it is at the edge or missing, Newcombe's."""
    value, images = row[key], n or row["n"]
    low, high = row.get(interval) or (None, None)
    if low is None or at_the_edge(value, images):
        return auroc_interval(value, images, images)
    return low, high


def share(value: float, n: int) -> tuple[float, float, float]:
    """A share of n images with Wilson's interval."""
    return value, *wilson(value * n, n)


def mean(values: Iterable[float | None]) -> float:
    """The mean of what is there; not-a-number where nothing is."""
    there = [value for value in values if value is not None and value == value]
    return sum(there) / len(there) if there else float("nan")


def few_fooled(success: float | None, n: int) -> str:
    """Why an attack is not admitted, or ""."""
    if success is None:
        return "success of the attack unknown"
    few = round(success * n) < LEAST_FOOLED
    return f"attack fools fewer than {LEAST_FOOLED} images" if few else ""


def collapsed(*rows: Row) -> str:
    """Whether a detector's fit ended in one answer for everything.

    Tables of an older code count the fits that did so before a retry: as many as one fit may take.
    """
    for row in rows:
        ended = row.get("collapsed")
        if ended or (ended is None and (row.get("collapses") or 0) >= RETRIES):
            return "a detector collapsed"
    return ""


def at_chance(row: Row, interval: str = "auroc_interval") -> str:
    """Whether a baseline is within its interval of chance."""
    low = interval_of(row, "auroc", interval)[0]
    return "baseline within its interval of chance" if low <= 0.5 else ""


def at_ceiling(a: Row, b: Row) -> str:
    """Whether both sides of a difference are at the ceiling."""
    return "both at the ceiling" if min(a["auroc"], b["auroc"]) > CEILING else ""


def noise_control(rows: list[Row]) -> tuple[str, str]:
    """The control that most detectors meet: noise of the attack's size.

    It must be flagged less than half as often as the attack.

    Args:
        rows: with `flagged_noise_sign` and `flagged_adversarial`, an attack each.
    """
    noise = mean(row["flagged_noise_sign"] for row in rows)
    attack = mean(row["flagged_adversarial"] for row in rows)
    if noise != noise:
        return NOT_RUN, ""
    said = f"noise of the attack's size flagged {noise:.2f}, the attack {attack:.2f}"
    return (FALLS if noise >= attack / 2 else SURVIVES), said


def half_passed(passed: Sequence[bool]) -> str:
    """What a control says that must be passed in half of the comparisons."""
    return NOT_RUN if not passed else SURVIVES if mean(passed) >= 0.5 else FALLS


def half_explained(explained: Sequence[bool]) -> str:
    """What a control says that overturns a claim where it explains half of the comparisons."""
    return NOT_RUN if not explained else FALLS if mean(explained) >= 0.5 else SURVIVES


def told(values: dict[str, float], form: str = ".2f") -> str:
    """Numbers with their names in one line."""
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def cell(name: str, found: tuple[float, float, float], n: int, **more: object) -> Cell:
    """A cell from (value, low, high); a bound that was rounded past the value is the value."""
    value, low, high = found
    return Cell(name, value, min(low, value), max(high, value), n, **more)
