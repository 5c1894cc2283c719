"""The five questions on which the papers disagree, answered from a run's published tables.

Each answer is a pair: what the numbers say in a word or two, and the sentence with the numbers. A
run without the tables gives "not measured".
"""

from collections.abc import Callable, Iterable
from itertools import product

from nbutils.claims.evidence import Published, Row, collapsed, mean
from nbutils.detectors.groups import SCALARS
from nbutils.evaluation.papers import named

Answer = tuple[str, str]
NOT_MEASURED: Answer = ("not measured", "")
FINDS = 0.75  # the AUROC from which a detector counts as finding an attack, as in claim X1
CW = "carlini_wagner_l2"
MARGIN = 0.02  # differences under it decide nothing


def gradient_map_finds_cw(run: Published) -> Answer:
    """X1: does a gradient map find Carlini and Wagner's attack?"""
    rows = run.rows("04", "readings", attack=CW)
    if not rows:
        return NOT_MEASURED
    best: dict[str, Row] = {}
    for row in rows:
        derived = row["reading"].removesuffix(" float64").removesuffix(" scaled").strip()
        key = f"{derived} {'with' if row['input'] == 'jsd' else 'without'} the image"
        if key not in best or row["auroc"] > best[key]["auroc"]:
            best[key] = row
    found = {key: row["auroc"] for key, row in best.items()}
    scalars = {
        row["detector"]: row["auroc"]
        for row in run.rows("04", "scalars_and_stand_ins", attack=CW)
        if row["detector"] in SCALARS
    }
    scalar = max(scalars, key=scalars.get) if scalars else ""
    top = max(found, key=found.get)
    answer = "yes" if found[top] >= FINDS else "no"
    if answer == "yes" and scalar and scalars[scalar] >= found[top] - MARGIN:
        answer = "yes, and a scalar does as well"
    said = f"AUROC of the best reading of each derivative: {named(found)}."
    said += f" The best trivial scalar ({scalar}): {scalars[scalar]:.2f}." if scalar else ""
    return answer, f"{said} n = {best[top]['n']}."


def direction_of_transfer(run: Published) -> Answer:
    """X2: do detectors generalise from small attacks to large ones, or the other way?"""
    rows = [row for row in run.rows("05", "transfer") if row.get("small to large") is not None]
    if not rows:
        return NOT_MEASURED
    leads = {row["detector"]: row["small to large"] - row["large to small"] for row in rows}
    up = [name for name, lead in leads.items() if lead > MARGIN]
    down = [name for name, lead in leads.items() if lead < -MARGIN]
    answer = "neither way"
    if len(up) != len(down):
        answer = "small to large" if len(up) > len(down) else "large to small"
    told = [
        f"{row['detector']} {row['small to large']:.2f} and {row['large to small']:.2f} "
        f"(own attack {row['own']:.2f})"
        for row in rows
    ]
    said = f"Mean AUROC from small to large, and from large to small: {'; '.join(told)}."
    sizes = _sizes(run)
    if sizes:
        said += f" Over sizes of one attack: {sizes}."
    return answer, f"{said} n = {rows[0]['n']}."


def _sizes(run: Published) -> str:
    """JSD fitted at one eps and tested at a larger, or a smaller one, beside the matched fit."""
    rows = [row for row in run.rows("04", "sizes", detector="jsd") if not collapsed(row)]
    known = {(row["attack"], row["eps_fit"], row["eps_test"]): row["auroc"] for row in rows}
    up, down = [], []
    for (attack, fit, test), value in known.items():
        matched = known.get((attack, test, test))
        if fit != test and matched is not None:
            (up if fit < test else down).append(value - matched)
    if not (up and down):
        return ""
    gains = [round(mean(side), 2) + 0.0 for side in (up, down)]  # no minus zero
    return (
        f"beside the fit at the tested size, JSD changes by {gains[0]:+.2f} where it was fitted at "
        f"a smaller one, and by {gains[1]:+.2f} at a larger one"
    )


def moving_saliency(run: Published) -> Answer:
    """X3: which saliency moves under attack, beyond what the label alone moves?"""
    moved = {kind: mean(row["scaled"] for row in rows) for kind, rows in _by_map(run, "effects")}
    if not moved:
        return NOT_MEASURED
    far = [kind for kind, share in moved.items() if share > 0.5]
    said = (
        "Share of pairs in which the attack moves a map's shape further than another picture does: "
        f"{named(moved)}."
    )
    parts = {}
    for kind, rows in _by_map(run, "swap"):
        both, label = (mean(row[key] for row in rows) for key in ("both", "label"))
        if both == both and both:
            parts[kind] = label / both
    if parts:
        said += f" Of the movement, the label alone without any attack makes: {named(parts)}."
    n = next(iter(run.rows("03", "effects")))["n"]
    return ", ".join(far) or "none", f"{said} n = {n}."


def _by_map(run: Published, table: str) -> Iterable[tuple[str, list[Row]]]:
    rows = run.rows("03", table)
    for kind in dict.fromkeys(row["map"] for row in rows):
        yield kind, [row for row in rows if row["map"] == kind]


def beats_scalars(run: Published) -> Answer:
    """X4: does any detector beat the trivial scalars?"""
    rows = [row for row in run.rows("07", "scalars") if not collapsed(row)]
    rows = [row for row in rows if None not in (row["low"], row["high"])]
    if not rows:
        return NOT_MEASURED
    above = {(row["detector"], row["attack"]) for row in rows if row["low"] > 0}
    below = {(row["detector"], row["attack"]) for row in rows if row["high"] < 0}
    every = {row["detector"] for row in rows}
    attacks = {row["attack"] for row in rows}
    best = {name: sum((name, attack) in above for attack in attacks) for name in every}
    top = max(sorted(best), key=best.get)
    answer = "on some attacks" if above else "no"
    if above and best[top] == len(attacks):
        answer = f"{top} on all"
    said = (
        f"{len(every)} detectors, each fitted on the attack, beside the scalar that is best on it: "
        f"above in {len(above)} of {len(rows)} comparisons beyond the interval, below in "
        f"{len(below)}. The most has {top} ({best[top]} of {len(attacks)} attacks)."
    )
    return answer, f"{said} n = {rows[0]['n']}."


def image_sees_cw(run: Published) -> Answer:
    """X5: can a network on the image alone see Carlini and Wagner's attack?"""
    found: dict[str, Row] = {}
    attacks = {row["tested_on"] for row in run.rows("07", "cells")}
    ours = sorted(name for name in attacks if CW in name and "targeted" not in name)
    for name, attack in product(("id", "id_high_pass", "spectral"), ours):
        row = run.row("07", "cells", detector=name, fitted_on=attack, tested_on=attack)
        if row:
            found[name] = row
    if not found:
        return NOT_MEASURED
    told = {
        name: "collapsed" if collapsed(row) else f"{row['auroc']:.2f}"
        for name, row in found.items()
    }
    sees = [n for n, row in found.items() if row["auroc"] >= FINDS and not collapsed(row)]
    said = f"AUROC: {', '.join(f'{name} {value}' for name, value in told.items())}."
    noise = {
        name: control["flagged_noise_sign"]
        for name in sees
        if (control := run.row("07", "controls", detector=name, attack=found[name]["tested_on"]))
    }
    if noise:
        said += f" Noise of the same size is flagged by {named(noise)} at 5 % FPR."
    n = next(iter(found.values()))["n"]
    return "yes" if sees else "no", f"{said} n = {n}."


QUESTIONS: dict[str, Callable[[Published], Answer]] = {
    "X1": gradient_map_finds_cw,
    "X2": direction_of_transfer,
    "X3": moving_saliency,
    "X4": beats_scalars,
    "X5": image_sees_cw,
}
BOOKS = {"X1": "04", "X2": "05", "X3": "03", "X4": "07", "X5": "07"}  # where each is argued


def question(name: str) -> str:
    """A question in a sentence: its function's docstring."""
    first = (QUESTIONS[name].__doc__ or "").strip().partition(": ")[2]
    return " ".join(first.split())


def answered(run: Published) -> list[dict]:
    """A row a question: `question`, `name`, `answer`, `numbers`, `notebook`."""
    rows = []
    for name, function in QUESTIONS.items():
        answer, numbers = function(run)
        asked = question(name)
        asked = asked[0].upper() + asked[1:]
        known = {"name": name, "question": asked, "answer": answer, "numbers": numbers}
        rows.append({**known, "notebook": BOOKS[name]})
    return rows
