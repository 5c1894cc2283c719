"""Tables of a classifier that is asked again about modified images (paper 003, feature squeezing).

Everything here is a function of the answers that `steps.consistency` keeps. OSPA, the paper's
"original samples prediction accuracy", is the share of clean images that keep the label which the
classifier gave them before the modification.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import pandas as pd
import torch

from nbutils import InputError
from nbutils.detectors.base import threshold_at
from nbutils.evaluation import metrics, papers
from nbutils.evaluation.intervals import wilson

OTHER_KINDS = ("shuffled", "random", "uniform", "swapped")  # maps that stand in for the image's own
Scores = tuple[torch.Tensor, torch.Tensor]  # of calibration images, of adversarial ones


class Answers(Protocol):
    """What `steps.consistency` returns: answers (g,n) to g modifications, and their names."""

    tensors: dict[str, torch.Tensor]
    record: dict


# What is asked: names and knobs of modifications.
def modifications(
    transforms: Iterable[str], thetas: Iterable[float], kinds: Iterable[str] = ("grad_cam",)
) -> dict[str, dict]:
    """Every transformation with every kind of map in every proportion, by name: "zero_mean 0.2" is
    Grad-CAM's, "zero_mean shuffled 0.2" another kind's.
    """
    thetas, kinds = list(thetas), list(kinds)
    return {
        _named(transform, kind, theta): {"maps": kind, "transform": transform, "theta": theta}
        for transform in transforms
        for kind in kinds
        for theta in thetas
    }


def other_readings(
    emphases: Iterable[str], transforms: Iterable[str], theta: float = 0.2
) -> dict[str, dict]:
    """Other readings of the paper: each way to lay the map on, without a transformation; then each
    transformation before the map ("first"), without the map and with it.
    """
    chosen = [(emphasis, "none", False, theta) for emphasis in emphases]
    chosen += [("overlay", t, True, part) for t in transforms for part in (0.0, theta)]
    return {
        f"{emphasis} {transform}{' first' * first} {part}": {
            "maps": "grad_cam",
            "theta": part,
            "emphasis": emphasis,
            "transform": transform,
            "transform_first": first,
        }
        for emphasis, transform, first, part in chosen
    }


def _named(transform: str, kind: str, theta: float) -> str:
    return f"{transform} {theta}" if kind == "grad_cam" else f"{transform} {kind} {theta}"


# The two rules.
def label_changes(answers: Answers, *names: str) -> dict[str, torch.Tensor]:
    """Does the label change under one of these modifications? (n,) for each side, "clean" and
    "adversarial".
    """
    rows, t = _rows(answers, names), answers.tensors
    return {
        side: (t[f"{side}_label"][rows] != t[f"{side}_before"]).any(0)
        for side in ("clean", "adversarial")
    }


def label_rule(answers: Answers, *names: str) -> dict:
    """OSPA and detection by paper 003's rule: an image is flagged when its label changes.

    Args:
        names: several modifications flag together, where one of them changes the label.
    Returns:
        `ospa` of the `n` clean images; `ospa_of_fooled`, of those clean images that the attack
        fools; `kept_right`, the share of clean images whose modification has the true label;
        `detection`, the share of the `fooled` successful adversarial images that are flagged;
        Wilson's intervals. Not-a-number where the attack fooled nobody.
    """
    changed, success = label_changes(answers, *names), answers.tensors["success"].bool()
    kept, caught = ~changed["clean"], changed["adversarial"][success]
    right = answers.tensors["clean_label"][_rows(answers, names)] == answers.tensors["y"]
    return {
        "ospa": _share(kept),
        "ospa_interval": wilson(int(kept.sum()), len(kept)),
        "n": len(kept),
        "ospa_of_fooled": _share(kept[success]),
        "detection": _share(caught),
        "detection_interval": wilson(int(caught.sum()), len(caught)),
        "fooled": len(caught),
        "kept_right": _share(right.all(0)),
    }


def moved(answers: Answers, *names: str) -> Scores:
    """Xu et al.'s score: the L1 distance by which a modification moves the softmax, the largest of
    several; of calibration images and of adversarial ones.
    """
    rows, t = _rows(answers, names), answers.tensors
    return t["calibrate_far"][rows].amax(0), t["adversarial_far"][rows].amax(0)


def at_ospa(answers: Answers, *names: str, ospa: float) -> float:
    """The share of successful adversarial images detected by `moved`, at the threshold that keeps
    the share `ospa` of the calibration images.
    """
    calibrate, adversarial = moved(answers, *names)
    success = answers.tensors["success"].bool()
    return metrics.detection_at(calibrate, adversarial[success], 1 - ospa)


def _rows(answers: Answers, names: Sequence[str]) -> list[int]:
    known = list(answers.record["names"])
    strange = [name for name in names if name not in known]
    if strange or not names:
        raise InputError(
            f"Modification {', '.join(strange) or 'of no name'} was not asked about: choose among "
            f"{', '.join(known)}."
        )
    return [known.index(name) for name in names]


def _share(flags: torch.Tensor) -> float:
    return flags.float().mean().item()


# The tables.
def grid_table(found: Mapping[str, Answers], grid: Mapping[str, dict]) -> pd.DataFrame:
    """`label_rule` of every modification of the grid on every attack: a row each."""
    return pd.DataFrame(
        [
            {
                "attack": attack,
                "transform": knobs["transform"],
                "theta": knobs["theta"],
                **label_rule(answers, name),
            }
            for attack, answers in found.items()
            for name, knobs in grid.items()
        ]
    )


def asked_table(
    found: Mapping[str, Answers], asked: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Both rules, a row each for an attack and what is asked: OSPA and detection by the label rule,
    detection by the score at OSPA .9 and .95.

    Args:
        asked: by name the modifications that flag together; None: each for itself.
    """
    rows = []
    for attack, answers in found.items():
        for name, members in (asked or {one: [one] for one in answers.record["names"]}).items():
            rates = label_rule(answers, *members)
            rows.append(
                {
                    "attack": attack,
                    "asked": name,
                    "ospa": rates["ospa"],
                    "n": rates["n"],
                    "detection": rates["detection"],
                    "interval": rates["detection_interval"],
                    "fooled": rates["fooled"],
                    "at_ospa_90": at_ospa(answers, *members, ospa=0.9),
                    "at_ospa_95": at_ospa(answers, *members, ospa=0.95),
                }
            )
    return pd.DataFrame(rows)


def beside_paper(name: str, rows: pd.DataFrame, **fixed: object) -> pd.DataFrame:
    """OSPA and detection in per cent, beside those of one of paper 003's tables.

    Args:
        rows: of `grid_table` or `asked_table`, the attacks named as the paper names them; OSPA is
            taken from those of "fgsm", for the clean images are the same for every attack.
        fixed: keys that the rows do not carry, such as model="vgg16".
    """
    here = []
    for row in rows.to_dict("records"):
        keys = {key: row[key] for key in ("theta", "method", "parameters") if key in row}
        if row["attack"] == "fgsm":
            told = {"statistic": "ospa", "attack": "clean", "here": 100 * row["ospa"]}
            here.append({**keys, **told, "n": row["n"]})
        told = {"statistic": "detection_rate", "attack": row["attack"]}
        here.append({**keys, **told, "here": 100 * row["detection"], "n": row["fooled"]})
    return papers.compare(name, here, **fixed)


def curves(
    found: Mapping[str, Answers], grid: Mapping[str, dict], levels: Sequence[float]
) -> pd.DataFrame:
    """Detection by the score at each OSPA of `levels`: a row a point.

    A modification that changes no calibration image has no curve, and an attack that fooled nobody
    has none either.
    """
    columns = ["attack", "transform", "theta", "ospa", "detection", "fooled"]
    rows = []
    for attack, answers in found.items():
        fooled = int(answers.tensors["success"].sum())
        for name, knobs in grid.items():
            if fooled and moved(answers, name)[0].any():
                keys = [attack, knobs["transform"], knobs["theta"]]
                rows += [[*keys, o, at_ospa(answers, name, ospa=o), fooled] for o in levels]
    return pd.DataFrame(rows, columns=columns)


def added_by_map(
    found: Mapping[str, Answers],
    others: Mapping[str, Answers],
    grid: Mapping[str, dict],
    *,
    ospas: Sequence[float] = (0.9, 0.95),
    seed: int = 0,
) -> pd.DataFrame:
    """Detection with the image's own map less detection with something else in its place, paired,
    at one OSPA: a row each.

    Args:
        others: answers with other maps (OTHER_KINDS) of those attacks that they were asked about.
        grid: of `modifications`. The column "grad_cam minus" says what stands in the map's place;
            "without" is the transformation alone.
    """
    rows = []
    for attack, answers in found.items():
        for ospa in ospas:
            for name, knobs in grid.items():
                if not knobs["theta"]:
                    continue
                for rival, theirs in _rivals(answers, others.get(attack), knobs).items():
                    ours, success = moved(answers, name), answers.tensors["success"]
                    difference, bounds = metrics.detection_difference(
                        ours, theirs, success, 1 - ospa, seed=seed
                    )
                    rows.append(
                        {
                            "attack": attack,
                            "ospa": ospa,
                            "transform": knobs["transform"],
                            "theta": knobs["theta"],
                            "grad_cam minus": rival,
                            "detection": difference,
                            "interval": bounds,
                            "with": at_ospa(answers, name, ospa=ospa),
                            "n": int(success.sum()),
                        }
                    )
    return pd.DataFrame(rows)


def _rivals(answers: Answers, others: Answers | None, knobs: dict) -> dict[str, Scores]:
    """The scores with something else in the map's place."""
    transform, theta = knobs["transform"], knobs["theta"]
    kinds = OTHER_KINDS if others is not None else ()
    rivals = {kind: moved(others, _named(transform, kind, theta)) for kind in kinds}
    if transform != "none":  # else nothing is left that could change a label
        rivals["without"] = moved(answers, f"{transform} 0.0")
    return rivals


def against_squeezing(
    found: Mapping[str, Answers],
    squeezed: Mapping[str, Answers],
    names: Sequence[str],
    joint: Sequence[str],
    *,
    ospas: Sequence[int] = (90, 95),
    seed: int = 0,
) -> pd.DataFrame:
    """Detection by each of these modifications less that by the joint squeezers, paired, each at
    the threshold that keeps `ospas` per cent of the calibration images.
    """
    rows = []
    for attack, answers in found.items():
        success, theirs = answers.tensors["success"], moved(squeezed[attack], *joint)
        for name in names:
            for ospa in ospas:
                difference, bounds = metrics.detection_difference(
                    moved(answers, name), theirs, success, 1 - ospa / 100, seed=seed
                )
                rows.append(
                    {
                        "attack": attack,
                        "method": name,
                        "ospa": ospa,
                        "detection": at_ospa(answers, name, ospa=ospa / 100),
                        "minus joint squeezing": difference,
                        "interval": bounds,
                        "n": int(success.sum()),
                    }
                )
    return pd.DataFrame(rows)


def measured_fpr(answers: Answers, names: Sequence[str], *, fpr: float = 0.05) -> pd.DataFrame:
    """The share of clean test images that are flagged at the threshold which flags the share `fpr`
    of the calibration images, with Wilson's interval: a row a modification.
    """
    rows = []
    for name in names:
        (row,), limit = _rows(answers, [name]), threshold_at(moved(answers, name)[0], fpr)
        flagged = answers.tensors["clean_far"][row] > limit
        rows.append(
            {
                "asked": name,
                "nominal": fpr,
                "measured": _share(flagged),
                "interval": wilson(int(flagged.sum()), len(flagged)),
                "calibration images": answers.tensors["calibrate_far"].shape[1],
                "n": len(flagged),
            }
        )
    return pd.DataFrame(rows)


# What is read from them.
def sides(table: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """How many of the differences in `column` have an interval above 0, below 0 or across it, and
    their mean, for each value of `by`; those that were not measured are left out.
    """
    there = table[table[column].notna()]
    low = there["interval"].map(_first)
    high = there["interval"].map(_last)
    counted = there[list(by)].assign(
        settings=1,
        better=(low > 0).astype(int),
        worse=(high < 0).astype(int),
        open=((low <= 0) & (high >= 0)).astype(int),
        total=there[column],
    )
    counted = counted.groupby(list(by), sort=False).sum().reset_index()
    counted["mean"] = counted.pop("total") / counted["settings"]
    return counted


def _first(bounds: Sequence[float]) -> float:
    return bounds[0]


def _last(bounds: Sequence[float]) -> float:
    return bounds[1]


def best(table: pd.DataFrame, column: str, by: str = "attack") -> list[dict]:
    """Of each value of `by` the row whose `column` is largest; the first of equals.

    None where nothing was measured.
    """
    there = table[table[column].notna()]
    return there.loc[there.groupby(by, sort=False)[column].idxmax()].to_dict("records")


def percent(value: float, interval: Sequence[float] | None = None, n: int | None = None) -> str:
    """A share in words: "32 % (17 to 52 %, n = 25)"; "not measured" where it is not a number."""
    if value is None or value != value:
        return "not measured"
    words = [f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"] if interval else []
    words += [f"n = {n}"] if n is not None else []
    return f"{100 * value:.0f} %" + (f" ({', '.join(words)})" if words else "")


# What is looked at.
def empty(maps: torch.Tensor) -> torch.Tensor:
    """Which of the maps (n,1,h,w) say nothing: the same value everywhere."""
    flat = maps.flatten(1)
    return flat.amax(1) == flat.amin(1)


def worth_showing(success: torch.Tensor, *maps: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of `count` images to look at: those that were fooled stand first, and among them
    those with no empty map; otherwise in their order.
    """
    told = torch.stack([~empty(one) for one in maps]).all(0).to(success.device)
    return (2 * success.long() + told.long()).argsort(descending=True, stable=True)[:count]
