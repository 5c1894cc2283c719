"""A detector trained on one attack and tested on another, as paper 000 prints it: names, counts of
cells, transfer, shares flagged.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nbutils.evaluation import squares
from nbutils.evaluation.distances import double_centred

NORMS = {"jsma": "l0", "carlini_wagner_l2": "l2", "deepfool": "l2", "ddn": "l2"}
NORMS |= {"iterative_l2": "l2"}  # other attacks tell theirs in their setting
GROUPS = {  # of images: the column with the share flagged, the column with their number
    group: squares.columns_of(group)
    for group in ("clean", "misread", "adversarial", "swapped", "noise_sign")
}


def printed_names(attacks: Sequence[str]) -> dict[str, str]:
    """The paper's name of each attack: "jsma_000" is its "jsma", where both do not stand side by
    side.
    """
    names = {attack: attack.removesuffix("_000") for attack in attacks}
    return {a: a if a != name and name in attacks else name for a, name in names.items()}


def table_of(dataset: str) -> tuple[str, str]:
    """Paper 000's matrix for pictures of this kind, and the data set that it prints there.

    Grey pictures stand beside MNIST, photographs beside ASSIRA (cats and dogs).
    """
    if dataset == "cifar10":
        return "000.table8", "cifar10"
    if dataset in ("cats_dogs", "imagenet_subset", "folder"):
        return "000.table9", "cats_dogs"
    return "000.table7", "mnist"


def renamed(table: pd.DataFrame, names: Mapping[str, str]) -> list[dict]:
    """Rows with the paper's names: `fitted_on` and `tested_on` as `fit_attack` and `test_attack`,
    `low` and `high` as one `interval`.
    """
    rows = []
    for row in table.to_dict("records"):
        ends = {"interval": [row.pop("low"), row.pop("high")]}
        fit, test = names[row.pop("fitted_on")], names[row.pop("tested_on")]
        rows.append({"fit_attack": fit, "test_attack": test, **row, **ends})
    return rows


def luck_of_fits(rows: Sequence[dict] | pd.DataFrame) -> pd.DataFrame:
    """For each detector the number of collapses, and how far AUROC differs over the fits of one
    cell: in the mean over its cells and at most.
    """
    table = pd.DataFrame(rows)
    table = table.assign(spread=[high - low for low, high in table["range"]])
    return table.groupby("detector", sort=False).agg(
        collapses=("collapses", "sum"), mean_range=("spread", "mean"), largest=("spread", "max")
    )


def own_attack(cells: pd.DataFrame, key: str = "attack") -> list[dict]:
    """Rows of cells that are trained and tested on the same, which is called `key`."""
    same = cells[cells["fitted_on"] == cells["tested_on"]].rename(columns={"tested_on": key})
    rows = same[["detector", key, "auroc", "accuracy", "n"]].to_dict("records")
    ends = same[["low", "high"]].to_numpy().tolist()
    return [row | {"interval": both} for row, both in zip(rows, ends, strict=True)]


def square(rows: Sequence[dict] | pd.DataFrame, detector: str, value: str) -> pd.DataFrame:
    """One detector's matrix of a column: trained on (rows), tested on (columns), in the order of
    the table.
    """
    table = pd.DataFrame(rows)
    names = table["fit_attack"].unique()
    part = table[table["detector"] == detector]
    return squares.square(part, value, fitted="fit_attack", tested="test_attack").loc[names, names]


def on_diagonal(
    rows: Sequence[dict], detector: str, attacks: Sequence[str]
) -> list[tuple[float, float, float]]:
    """AUROC with its interval on the attack trained on, in this order of the paper's names."""
    own = {
        row["fit_attack"]: (row["auroc"], *row["auroc_interval"])
        for row in rows
        if row["detector"] == detector and row["fit_attack"] == row["test_attack"]
    }
    return [own[attack] for attack in attacks]


def own_and_others(rows: Sequence[dict]) -> pd.DataFrame:
    """For each detector the mean AUROC on its own attack and on the others, and its lowest cell."""
    told = []
    for name, part in pd.DataFrame(rows).groupby("detector", sort=False):
        same, low = part["fit_attack"] == part["test_attack"], part.loc[part["auroc"].idxmin()]
        told.append(
            {
                "detector": name,
                "own attack": _mean(part.loc[same, "auroc"].to_numpy()),
                "other attacks": _mean(part.loc[~same, "auroc"].to_numpy()),
                "lowest cell": low["auroc"],
                "lowest where": f"{low['fit_attack']} -> {low['test_attack']}",
            }
        )
    return pd.DataFrame(told).set_index("detector")


def reached(by_size: Sequence[dict], detector: str, level: float = 0.9) -> str:
    """The smallest eps at which a detector's AUROC reaches this level, in words."""
    there = [r["eps"] for r in by_size if r["detector"] == detector and r["auroc"] >= level]
    return f"at eps {min(there):g}" if there else "at no size"


def counted(differences: Sequence[dict]) -> list[dict]:
    """For each pair of detectors the mean difference over the cells, and in how many of them its
    interval lies above 0 (`better`), below (`worse`), or covers it (`open`).
    """
    table = pd.DataFrame(differences, columns=["difference", "auroc", "interval", "n"])
    rows = []
    for name, part in table.groupby("difference", sort=False):
        low, high = np.array(part["interval"].tolist()).T
        better, worse = int((low > 0).sum()), int((high < 0).sum())
        counts = {"better": better, "worse": worse, "open": len(part) - better - worse}
        mean = float(part["auroc"].mean())
        rows.append({"difference": name, "mean": mean, **counts, "n": int(part["n"].max())})
    return rows


def told(row: Mapping) -> str:
    """A row of `counted` as an item of a list, in a sentence."""
    a, b = row["difference"].upper().split(" - ")
    better, worse, cells = row["better"], row["worse"], row["better"] + row["worse"] + row["open"]
    outcome = "neither leads"
    if better != worse:
        outcome = f"{a if better > worse else b} leads more often"
    return (
        f"- **{a} against {b}.** {a} is better in {better} of {cells} cells and worse in {worse}, "
        f"so {outcome}; the mean difference of AUROC is {row['mean']:+.2f}."
    )


def norm_of(setting: Mapping) -> str:
    """The norm in which an attack of this setting is small."""
    return NORMS.get(setting["attack"], setting.get("norm", "linf"))


def transfer(values: np.ndarray, norms: Sequence[str], rms: Sequence[float]) -> dict[str, float]:
    """What a square matrix of AUROCs, trained on x tested on, says of transfer.

    Args:
        norms, rms: of each attack; rms is its mean size.
    Returns:
        `own`: the mean on the attack trained on; `within a norm`, `between norms`: means of the
        matrix off its diagonal, double-centred; `to l0`: AUROC on the attacks on few pixels of
        detectors trained on others, less that of their own; `large to small`, `small to large`:
        means over attacks of which the one is at least half as large again, those on few pixels
        apart. Not-a-number where there is no such cell.
    """
    norm, size = np.asarray(norms), np.asarray(rms, float)
    own, many = np.eye(len(norm), dtype=bool), norm != "l0"
    same = norm[:, None] == norm
    smaller = (size[:, None] >= 1.5 * size) & many[:, None] & many
    rest = double_centred(values)
    return {
        "own": _mean(values[own]),
        "within a norm": _mean(rest[same & ~own]),
        "between norms": _mean(rest[~same]),
        "to l0": _mean(values[many][:, ~many]) - _mean(values[own][~many]),
        "large to small": _mean(values[smaller]),
        "small to large": _mean(values[smaller.T]),
    }


def flagged(controls: Sequence[dict], detector: str) -> dict[str, list[tuple]]:
    """The share flagged of each group of images, a (value, low, high) an attack with Wilson's
    interval; not-a-number where a group has no image.
    """
    rows = [row for row in controls if row["detector"] == detector]
    return {group: squares.flagged(rows, group) for group in GROUPS}


def verdicts_told(verdicts: Sequence[dict]) -> str:
    """The verdicts in one sentence: under each outcome its claims, `*` where the control overturns
    one or was not run.
    """
    said: dict[str, list[str]] = {}
    for row in verdicts:
        outcome = row["verdict"].rpartition(": ")[2]
        mark = "" if row["control"] == "survives" else "*"
        said.setdefault(outcome, []).append(row["claim"].partition(".")[2] + mark)
    return "; ".join(f"{outcome}: {', '.join(claims)}" for outcome, claims in said.items())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
