"""Paper 000's claims: learned saliency maps, SMD and SPD against ID and JSD."""

import numpy as np

from nbutils.claims.evidence import (
    Published,
    Row,
    at_ceiling,
    at_chance,
    cell,
    collapsed,
    few_fooled,
    interval_of,
    mean,
    noise_control,
    share,
    told,
)
from nbutils.claims.rule import FALLS, NOT_RUN, SURVIVES, Cell, Evidence
from nbutils.evaluation.distances import double_centred
from nbutils.evaluation.intervals import auroc_interval, square_and_add

COLOUR = ("cifar10", "cats_dogs")
ALL = ("mnist", *COLOUR)
MATRICES = ("000.table7", "000.table8", "000.table9")
STAND_INS = ("spd_shuffled", "spd_constant", "spd_random")
NORMS = {
    "jsma": "l0",
    "carlini_wagner_l2": "l2",
    "deepfool": "l2",
    "ddn": "l2",
    "iterative_l2": "l2",
}


def learned_map_moves(run: Published) -> Evidence:
    """000.C1: the attack moves the learned map further than another image's map is away.

    Scope: CIFAR-10 and ASSIRA; the paper's own MNIST table says the reverse. Cells: an attack each,
    the share of pairs in which the map moved further than two images differ, over the images that
    it fooled. Shown above one half, opposite below. Control: swap the selector; where the new label
    alone, on the untouched image, moves the map by half of it, it was mostly the label that moved.
    """
    cells = []
    for row in run.rows("03", "000.table1"):
        if row.get("effect") is None:
            continue
        fooled, refused = row.get("n_fooled"), few_fooled(row["success"], row["n"])
        value, n = row["effect"], row["n"]
        if fooled is not None:
            value, n = row["effect_fooled"], int(fooled)
        elif row["success"] < 0.95:
            refused = refused or "judged over images that were not fooled (older table)"
        low, high = auroc_interval(0.5 if value is None else value, n, row["n"])
        found = (value or 0.0, low, high)
        edge = {"shown_above": 0.5, "opposite_below": 0.5, "refused": refused}
        cells.append(cell(row["attack"], found, n, **edge))
    parts = _swap(run, "learned")
    control = NOT_RUN if not parts else FALLS if parts["label"] >= 0.5 else SURVIVES
    return Evidence(cells, COLOUR, control, "of the distance: " + told(parts) if parts else "")


def gradient_maps_stay(run: Published) -> Evidence:
    """000.C4 (maps): gradient maps move less under attack than the learned map.

    Scope: the paper's three sets. Cells: an attack each, the share of pairs in which the learned
    map, scaled, moved further than two images differ, less that of the logit's gradient. Control:
    the cross-entropy's gradient; where it does not move less than the learned map, the claim is one
    of the logit.
    """
    success = {row["attack"]: row for row in run.rows("03", "000.table1")}
    cells, less = [], []
    for row in run.rows("03", "effects", map="logit_gradient"):
        attack = row["attack"]
        learned = run.row("03", "effects", map="learned", attack=attack)
        other = run.row("03", "effects", map="cross_entropy_gradient", attack=attack)
        if not learned:
            continue
        n, known = row["n"], success.get(attack) or success.get(attack.removesuffix("_000"), {})
        sides = [(r["scaled"], *auroc_interval(r["scaled"], n, n)) for r in (learned, row)]
        refused = few_fooled(known.get("success"), n)
        cells.append(cell(attack, square_and_add(*sides), n, refused=refused))
        if other and not refused:
            less.append(other["scaled"] < learned["scaled"])
    control = NOT_RUN if not less else SURVIVES if mean(less) > 0.5 else FALLS
    said = f"cross-entropy's gradient moves less on {sum(less)} of {len(less)} attacks"
    return Evidence(cells, ALL, control, said)


def softmax_underflows(run: Published) -> Evidence:
    """000.C4 (underflow): in float32 the softmax's gradient is zero where the logit's is not.

    Scope: the paper's three sets. Cells: each kind of images, the share whose whole map is zero.
    Shown above a twentieth, opposite below. Control: the logit's map must not be zero on the same
    images.
    """
    cells = []
    for row in run.rows("03", "underflow", **{"derivative of": "softmax"}):
        found = share(row["maps all zero"], row["n"])
        cells.append(cell(row["images"], found, row["n"], shown_above=0.05, opposite_below=0.05))
    zero = [
        row["maps all zero"] for row in run.rows("03", "underflow", **{"derivative of": "logit"})
    ]
    control = NOT_RUN if not zero else SURVIVES if max(zero) < 0.01 else FALLS
    return Evidence(cells, ALL, control, f"logit's maps all zero: {max(zero, default=0):.2f}")


def jsd_no_better(run: Published) -> Evidence:
    """000.C4: JSD is no better than ID.

    Scope: the paper's three sets. Cells: trained on x tested on, ID's AUROC less JSD's (where ID
    collapsed or is dead, that of ID behind its high-pass); a collapse on either side, a dead
    baseline and a common ceiling are not admitted. Shown where JSD leads by less
    than a hundredth, interval and all. Control: the Jacobian alone must not find the attacks, or it
    is informative.
    """
    cells = _differences(run, "id", "jsd", shown_above=-0.01, opposite_below=-0.01)
    alone = _mean_on_own(run, "replaced", "jacobian")
    control = NOT_RUN if alone != alone else FALLS if alone >= 0.8 else SURVIVES
    return Evidence(cells, ALL, control, f"Jacobian alone {alone:.2f}")


def spd_beats_smd(run: Published) -> Evidence:
    """000.C2: SPD detects better than SMD.

    Scope: the paper's three sets. Cells: trained on x tested on, SPD's AUROC less SMD's. Control:
    SPD with a map that says nothing of the image (shuffled, constant, random) must not do as well.
    """
    control, said = _stand_ins(run)
    return Evidence(_differences(run, "spd", "smd"), ALL, control, said)


def spd_beats_id(run: Published) -> Evidence:
    """000.C3: SPD beats the image alone (ID).

    Scope: the paper's three sets. Cells: trained on x tested on, SPD's AUROC less ID's; a collapsed
    ID is no baseline, and ID behind its high-pass takes its place where it was measured.
    Control: neither SPD with a map that says nothing nor a trivial scalar does as well.
    """
    control, said = _stand_ins(run, scalars=True)
    return Evidence(_differences(run, "spd", "id"), ALL, control, said)


def spd_finds_smaller(run: Published) -> Evidence:
    """000.C5: SPD trained on a large attack finds smaller ones better than ID does.

    Scope: the paper's three sets. Cells: those of C3 whose training attack has 1.5 times the rms of
    the tested one, or more; both attacks change many values. Control: SPD must
    flag noise of the attack's size less than half as often as the attack.
    """
    rms = {row["setting"]: row["rms"] for row in run.rows("02", "sizes")}
    rms |= {row["attack"]: row["rms"] for row in run.rows("05", "strength")}
    cells = []
    for one in _differences(run, "spd", "id"):
        fit, test = one.name.split(" -> ")
        sizes = [rms.get(f"{name}_000") or rms.get(name) for name in (fit, test)]
        if (
            "jsma" in (fit, test)
            or fit == test
            or (None not in sizes and sizes[0] < 1.5 * sizes[1])
        ):
            continue
        cells.append(one if None not in sizes else _refused(one, "sizes of the attacks unknown"))
    control, said = noise_control(run.rows("05", "controls", detector="spd"))
    return Evidence(cells, ALL, control, said)


def only_saliency_sees_small(run: Published) -> Evidence:
    """000.C6: ID and JSD have a threshold of size under which they see nothing, SMD and SPD have
    none.

    Scope: the paper's three sets. Cells: a detector each, on FGSM of four sizes. ID and JSD: shown
    where the smallest size has an AUROC under .6 and the largest over .9; SMD and SPD: where all
    are over .9; opposite is what is shown of the others. Control: SPD with a shuffled map must not
    see the smallest size as well.
    """
    cells = []
    for name in ("id", "jsd", "smd", "spd"):
        rows = sorted(run.rows("05", "by_size", detector=name), key=lambda row: row["eps"])
        if not rows:
            continue
        cells.append(_threshold(name, rows))
    spd, other = (_smallest(run, name) for name in ("spd", "spd_shuffled"))
    control = NOT_RUN if other != other else FALLS if other >= spd - 0.02 else SURVIVES
    said = f"smallest eps: spd {spd:.2f}, with a shuffled map {other:.2f}"
    return Evidence(cells, ALL, control, said)


def _threshold(name: str, rows: list[dict]) -> Cell:
    """How clearly a detector of C6 has a threshold (ID, JSD), or has none (SMD, SPD).

    It has one by the smaller of .6 less the AUROC of the smallest size and that of the largest less
    .9; it has none by its lowest AUROC less .9.
    """
    found = [(row["auroc"], *interval_of(row, "auroc", "interval")) for row in rows]
    first, last, lowest = found[0], found[-1], min(found)
    step = tuple(min(0.6 - first[i], last[j] - 0.9) for i, j in ((0, 0), (2, 1), (1, 2)))
    flat = tuple(value - 0.9 for value in lowest)
    own, other = (flat, step) if name in ("smd", "spd") else (step, flat)
    if other[1] > 0:  # what is shown of the others is opposite here
        own = (-other[0], -other[2], -other[1])
    elif own[1] <= 0:
        own = (own[0], min(own[0], 0.0), max(own[2], 0.0))
    return cell(name, own, rows[0]["n"], refused=collapsed(*rows))


def transfer_within_norm(run: Published) -> Evidence:
    """000.C7: detectors generalise better within a norm than between norms.

    Scope: the paper's three sets. Cells: a detector each; its matrix of AUROCs, double-centred
    (what each attack teaches and how easy each is taken out), within a norm less between, with a
    bootstrap over the cells of the matrix. Control: equal sizes across norms, not run.
    """
    cells = []
    for name in ("id", "jsd", "smd", "spd"):
        matrix, attacks = _matrix(run, name)
        if not attacks:
            if run.rows("05", _table(run), detector=name):
                cells.append(Cell(name, 0.0, -1.0, 1.0, 0, refused=few_fooled(0.0, 0)))
            continue
        norm = np.array([NORMS.get(attack.removesuffix("_000"), "linf") for attack in attacks])
        same = norm[:, None] == norm
        off = ~np.eye(len(attacks), dtype=bool)
        rest = double_centred(matrix)
        inside, outside = rest[same & off], rest[~same]
        if not (len(inside) and len(outside)):
            continue
        rng = np.random.default_rng(0)
        draws = [
            rng.choice(inside, len(inside)).mean() - rng.choice(outside, len(outside)).mean()
            for _ in range(1000)
        ]
        low, high = np.quantile(draws, [0.025, 0.975])
        found = (float(inside.mean() - outside.mean()), float(low), float(high))
        rows = run.rows("05", _table(run), detector=name)
        refused = collapsed(*rows)
        cells.append(cell(name, found, rows[0]["n"], refused=refused))
    return Evidence(cells, ALL, NOT_RUN, "equal sizes across norms: not run")


def one_for_all(run: Published) -> Evidence:
    """000.C8: one detector trained on all attacks is only slightly worse than one for each.

    Scope: the paper's three sets. Cells: detector x attack, the mixture's AUROC less its own
    detector's; shown where it loses less than a twentieth, interval and all. Control: an attack
    left out of the mixture; found in a mean AUROC of .8 by detectors that never met it.
    """
    cells, without = [], []
    for row in run.rows("05", "mixture"):
        n, attack = row["n"], row["attack"].removesuffix("_000")
        both = [(row[k], *auroc_interval(row[k], n, n)) for k in ("mixture", "own")]
        keys = {"detector": row["detector"], "fit_attack": attack, "test_attack": attack}
        own = run.row("05", _table(run), **keys)
        refused = few_fooled(own.get("success"), n) or collapsed(own)
        if not refused and both[1][1] <= 0.5:
            refused = "baseline within its interval of chance"
        edge = {"shown_above": -0.05, "opposite_below": -0.05, "refused": refused}
        cells.append(cell(f"{row['detector']} {attack}", square_and_add(*both), n, **edge))
        without += [] if refused else [row.get("without")]
    never = mean(without)
    control = NOT_RUN if never != never else SURVIVES if never >= 0.8 else FALLS
    measured = "never met: " + ("not run" if control == NOT_RUN else f"{never:.2f}")
    return Evidence(cells, ALL, control, measured)


def _table(run: Published) -> str:
    return next((name for name in MATRICES if run.rows("05", name)), "")


def _matrix(run: Published, detector: str) -> tuple[np.ndarray, list[str]]:
    """A detector's AUROCs, trained on x tested on, and the attacks, of those that fool."""
    every = run.rows("05", _table(run), detector=detector)
    few = {r["test_attack"] for r in every if few_fooled(r.get("success"), r["n"])}
    rows = [row for row in every if not {row["fit_attack"], row["test_attack"]} & few]
    attacks = list(dict.fromkeys(row["fit_attack"] for row in rows))
    known = {(row["fit_attack"], row["test_attack"]): row["auroc"] for row in rows}
    values = [[known.get((a, b), np.nan) for b in attacks] for a in attacks]
    return np.array(values, float), attacks


def _differences(run: Published, a: str, b: str, **edge: float) -> list[Cell]:
    """Cells of AUROC a - b over trained on x tested on; paired where the run has such intervals."""
    table, cells = _table(run), []
    paired = {
        (row["difference"], row["fit_attack"], row["test_attack"]): row["interval"]
        for row in run.rows("05", "differences")
    }
    for row in run.rows("05", table, detector=a):
        keys = {key: row[key] for key in ("fit_attack", "test_attack")}
        base = run.row("05", table, detector=b, **keys)
        if not base:
            continue
        if "id" in (a, b) and _dead_id(run, table, keys):
            cured = _against_cured(run, a, b, keys, edge)
            if cured:
                cells.append(cured)
                continue
        sides = [(r["auroc"], *interval_of(r, "auroc", "auroc_interval")) for r in (row, base)]
        found = square_and_add(*sides)
        for name, sign in ((f"{a} - {b}", 1), (f"{b} - {a}", -1)):
            bounds = paired.get((name, *keys.values()))
            if bounds:
                found = (found[0], *sorted(sign * bound for bound in bounds))
        baseline = b if a != "id" else a
        own = {"fit_attack": row["fit_attack"], "test_attack": row["fit_attack"]}
        learned = run.row("05", table, detector=baseline, **own)
        refused = few_fooled(row.get("success"), row["n"]) or collapsed(row, base)
        if not refused and learned and at_chance(learned):
            refused = "the baseline has not learned its own attack"
        refused = refused or at_ceiling(row, base)
        name = f"{keys['fit_attack']} -> {keys['test_attack']}"
        cells.append(cell(name, found, row["n"], refused=refused, **edge))
    return cells


def _dead_id(run: Published, table: str, keys: Row) -> bool:
    """Whether ID collapsed on the attack that it was trained on, or has not learned it."""
    fit = keys["fit_attack"]
    own = run.row("05", table, detector="id", fit_attack=fit, test_attack=fit)
    here = run.row("05", table, detector="id", **keys)
    return bool(collapsed(here) or (own and (collapsed(own) or at_chance(own))))


def _against_cured(run: Published, a: str, b: str, keys: Row, edge: dict) -> Cell | None:
    """The cell of a and b with ID behind its high-pass in ID's place, one fit each; None where it
    was not measured.
    """
    other = b if a == "id" else a
    place = {"difference": f"{other} - id_high_pass"} | keys
    row, base = run.row("05", "cured", **place), run.row("05", "cured_cells", **keys)
    if not (row and base):
        return None
    sign = -1 if a == "id" else 1
    found = (sign * row["auroc"], *sorted(sign * bound for bound in row["interval"]))
    own = run.row("05", "cured_cells", **keys | {"test_attack": keys["fit_attack"]})
    told = run.row("05", _table(run), detector=other, **keys)
    refused = few_fooled(base.get("success"), row["n"]) or collapsed(base, told)
    if not refused and at_chance(own, "interval"):
        refused = "the baseline has not learned its own attack"
    refused = refused or at_ceiling(base, told)
    name = f"{keys['fit_attack']} -> {keys['test_attack']}"
    return cell(name, found, row["n"], refused=refused, **edge)


def _refused(one: Cell, why: str) -> Cell:
    return Cell(one.name, one.value, one.low, one.high, one.n, refused=one.refused or why)


def _stand_ins(run: Published, *, scalars: bool = False) -> tuple[str, str]:
    """Whether SPD beats its stand-ins (and the best trivial scalar), in the mean over its own
    attacks.

    Attacks that fool fewer than 20 images do not count.
    """
    level = {name: _mean_on_own(run, "replaced", name) for name in ("spd", *STAND_INS)}
    rivals = [level[name] for name in STAND_INS]
    if scalars:
        for name in dict.fromkeys(row["detector"] for row in run.rows("05", "scalars")):
            level[name] = _mean_on_own(run, "scalars", name)
            rivals.append(level[name])
    best = max((value for value in rivals if value == value), default=float("nan"))
    if level["spd"] != level["spd"] or best != best:
        return NOT_RUN, ""
    shown = {name: value for name, value in level.items() if value == value}
    control = FALLS if best >= level["spd"] - 0.02 else SURVIVES
    return control, "mean AUROC on their own attack: " + told(shown)


def _mean_on_own(run: Published, table: str, detector: str) -> float:
    """The mean AUROC of a detector over the attacks that fool, each with a fit of its own."""
    fooling = {
        row["test_attack"]
        for row in run.rows("05", _table(run))
        if not few_fooled(row.get("success"), row["n"])
    }
    rows = run.rows("05", table, detector=detector)
    return mean(row["auroc"] for row in rows if row["attack"].removesuffix("_000") in fooling)


def _smallest(run: Published, detector: str) -> float:
    rows = sorted(run.rows("05", "by_size", detector=detector), key=lambda row: row["eps"])
    return rows[0]["auroc"] if rows else float("nan")


def _swap(run: Published, kind: str) -> dict[str, float]:
    """Mean shares of the distance that label, pixels and noise of the attack's size make."""
    rows = [row for row in run.rows("03", "swap", map=kind) if row["both"]]
    if not rows:
        return {}
    return {p: mean(row[p] / row["both"] for row in rows) for p in ("label", "pixels", "noise")}
