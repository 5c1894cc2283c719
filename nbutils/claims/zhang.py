"""Paper 002's claims: image and Jacobian in one detector; and X1, on which the papers disagree."""

from nbutils.claims.evidence import (
    SIGNS,
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

ALL = ("mnist", "cifar10", "imagenet_subset")
SMALL = ("mnist", "cifar10")
LEARNED = 0.75  # accuracy on its own attack from which a detector has learned something
WORKS = 0.9  # TPR and TNR
SCALARS = ("max_softmax", "margin", "entropy", "gradient_norm", "noise")


def finds_every_attack(run: Published) -> Evidence:
    """002.C1: image + Jacobian finds every attack.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an attack each, the smaller of TPR and TNR
    at the detector's own rule; shown over .9, opposite under it; a claim on every attack. Control:
    matched noise must be flagged less than half as often as the attack.
    """
    cells = [_works(run, row) for row in _own(run, "jsd")]
    control, said = _noise(run, "jsd")
    return Evidence(cells, ALL, control, said, every=True)


def jacobian_adds(run: Published) -> Evidence:
    """002.C2: the Jacobian says more than the image.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an attack each, JSD's AUROC less ID's,
    paired; where ID collapsed or is dead, less that of ID behind its high-pass. A collapse on
    either side, a dead baseline and a common ceiling are not admitted. Control: another image's
    Jacobian in its place must do worse, and no trivial scalar better, on half of the attacks at
    least.
    """
    cells, passes = [], []
    for row in run.rows("04", "jacobian_gain", difference="jsd - id"):
        attack = row["attack"]
        own = {
            d: run.row("04", "002.fig2", detector=d, fit_attack=attack, test_attack=attack)
            for d in ("jsd", "id")
        }
        cured = run.row("04", "jacobian_gain", difference="jsd - id_high_pass", attack=attack)
        if cured and own["id"] and (collapsed(own["id"]) or at_chance(own["id"], "interval")):
            place = {"detector": "id_high_pass", "attack": attack}
            row, own["id"] = cured, run.row("04", "scalars_and_stand_ins", **place)
        refused = _few(run, attack) or _unfit(own["jsd"], own["id"])
        cells.append(cell(attack, (row["auroc"], *row["interval"]), row["n"], refused=refused))
        if refused:
            continue
        pair = {"difference": "jsd - jsd_shuffled", "attack": attack}
        other = run.row("04", "jacobian_gain", **pair)
        simple = run.rows("04", "scalars_and_stand_ins", attack=attack)
        scalars = [one["auroc"] for one in simple if one["detector"] in SCALARS]
        if other and scalars:
            beaten = other["interval"][0] > 0
            passes.append(beaten and max(scalars) < own["jsd"]["auroc"])
    control = NOT_RUN if not passes else SURVIVES if mean(passes) >= 0.5 else FALLS
    said = f"beats another's Jacobian and every scalar on {sum(passes)} of {len(passes)} attacks"
    return Evidence(cells, ALL, control, said)


def small_finds_large(run: Published) -> Evidence:
    """002.C3: trained on small perturbations it finds large ones, not the reverse.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an attack at two neighbouring levels, both
    of which their own detector has learned (accuracy of .75). The cost of training at another level
    is the accuracy that is lost against the detector that was trained at the tested level. A cell's
    value is the cost of training large and testing small less the cost of training small and
    testing large; shown above .05, opposite under -.05. Control: the second of these costs must not
    exceed .05 on average, or large perturbations are only easier for every detector.
    """
    cells, costs = [], []
    for attack in dict.fromkeys(row["attack"] for row in run.rows("04", "sizes")):
        rows = run.rows("04", "sizes", detector="jsd", attack=attack)
        known = {(row["eps_fit"], row["eps_test"]): row for row in rows}
        levels = sorted({row["eps_fit"] for row in rows})
        for i, small in enumerate(levels):
            for large in levels[i + 1 : i + 2]:  # other pairs share their fits
                one = _asymmetry(f"{attack} {small}, {large}", known, small, large)
                cells.append(one)
                if not one.refused:
                    costs.append(known[large, large]["here"] - known[small, large]["here"])
    control = NOT_RUN if not costs else SURVIVES if mean(costs) <= 0.05 else FALLS
    return Evidence(cells, ALL, control, f"training small costs {mean(costs):.2f} on the large")


def strong_finds_weak(run: Published) -> Evidence:
    """002.C4: trained on iterative attacks it finds FGSM and JSMA, not the reverse.

    Scope: MNIST and CIFAR-10. Cells: a strong and a weak attack at equal accuracy of the
    classifier, both of which their own detector has learned; costs as of C3. Control: the same at
    equal rms.
    """
    tables = {
        "002.fig2": run.rows("04", "002.fig2", detector="jsd"),
        "equal_rms": run.rows("04", "equal_rms"),
    }
    found = {}
    for table, rows in tables.items():
        known = {
            (row["fit_attack"], row["test_attack"]): row | {"here": row["accuracy"]} for row in rows
        }
        pairs = [(s, w) for s in ("bim", "iterative_l2") for w in ("fgsm", "jsma")]
        found[table] = [
            _asymmetry(f"{s}, {w}", known, s, w, _few(run, s) or _few(run, w))
            for s, w in pairs
            if {(s, s), (w, w), (s, w), (w, s)} <= set(known)
        ]
    equal = [one.value for one in found["equal_rms"] if not one.refused]
    control = NOT_RUN if not equal else SURVIVES if mean(equal) > 0.05 else FALLS
    return Evidence(found["002.fig2"], SMALL, control, f"at equal rms {mean(equal):+.2f}")


def fgsm_and_jsma_apart(run: Published) -> Evidence:
    """002.C5: FGSM and JSMA do not find each other.

    Scope: CIFAR-10. Cells: a direction each; shown where the detector of one, which has learned its
    own attack, has an accuracy under .75 on the other. Control: the same at equal rms.
    """
    cells, equal = [], []
    for fit, test in (("fgsm", "jsma"), ("jsma", "fgsm")):
        own = run.row("04", "002.fig2", detector="jsd", fit_attack=fit, test_attack=fit)
        row = run.row("04", "002.fig2", detector="jsd", fit_attack=fit, test_attack=test)
        if row:
            value, low, high = share(row["accuracy"], 2 * row["n"])
            refused = _few(run, test) or _learned(own, "accuracy")
            found = (LEARNED - value, LEARNED - high, LEARNED - low)
            cells.append(cell(f"{fit} -> {test}", found, row["n"], refused=refused))
        other = run.row("04", "equal_rms", fit_attack=fit, test_attack=test)
        equal += [other["accuracy"] < LEARNED] if other else []
    control = NOT_RUN if not equal else SURVIVES if all(equal) else FALLS
    return Evidence(cells, ("cifar10",), control, f"at equal rms {sum(equal)} of {len(equal)}")


def works_on_photographs(run: Published) -> Evidence:
    """002.C6: the method works on pictures of ImageNet.

    Scope: pictures of ImageNet. Cells: as of C1. Control: the image alone must do worse, and
    matched noise must be flagged less than half as often as the attack.
    """
    cells = [_works(run, row) for row in _own(run, "jsd")]
    control, said = _noise(run, "jsd")
    rows = {d: {r["test_attack"]: r for r in _own(run, d)} for d in ("jsd", "id")}
    both = [a for a in rows["jsd"] if a in rows["id"] and not _few(run, a)]
    both = [a for a in both if not collapsed(rows["jsd"][a], rows["id"][a])]
    alone = {d: mean(rows[d][a]["accuracy"] for a in both) for d in rows}
    if alone["id"] >= alone["jsd"] - 0.02:
        control = FALLS
    return Evidence(cells, ("imagenet_subset",), control, f"{said}; accuracy {told(alone)}")


def first_layer_enough(run: Published) -> Evidence:
    """002.C8: a detector on the classifier's first layer is enough (before a second round of
    attack).

    Scope: MNIST and CIFAR-10. Cells: an attack each, as of C1. Control: matched noise, as of C1.
    """
    cells = [
        _works(run, row | {"test_attack": row["attack"]})
        for row in run.rows("04", "layers", detector="first_layer")
    ]
    rows = run.rows("04", "layer_controls", detector="first_layer")
    control, said = _noise(run, "first_layer", rows)
    return Evidence(cells, SMALL, control, said, every=True)


def perturbation_follows_jacobian(run: Published) -> Evidence:
    """002.C10: on MNIST the perturbation lies where the Jacobian of the wrong output is large.

    Scope: MNIST; on ImageNet the paper says the reverse. Cells: an attack each, the rank
    correlation of the attacked image's Jacobian with its perturbation less that with another
    image's, paired. Attacks whose perturbation is a sign are not admitted: their ranks are ties.
    Control: that other perturbation must correlate less than half as much.
    """
    cells, shares = [], []
    for row in run.rows("03", "rank_correlation"):
        attack, bounds = row["attack"], row.get("interval")
        if row["attacked Jacobian"] is None or (bounds and None in bounds):
            continue  # every map or every perturbation is constant
        refused = "" if bounds else "no interval (older table)"
        if attack.removesuffix("_000") in SIGNS:
            refused = "the perturbation is a sign: its ranks are ties"
        success = run.row("03", "000.table1", attack=attack.removesuffix("_000")).get("success")
        refused = refused or few_fooled(success, row["n"])
        other = row.get("other image's perturbation", row.get("control", 0.0))
        value = row["attacked Jacobian"] - other
        low, high = bounds or (value, value)
        cells.append(cell(attack, (value, low, high), row["n"], refused=refused))
        if not refused:
            shares.append(other < row["attacked Jacobian"] / 2)
    control = NOT_RUN if not shares else SURVIVES if mean(shares) >= 0.5 else FALLS
    said = (
        f"another's perturbation correlates less than half as much on {sum(shares)} of "
        f"{len(shares)}"
    )
    return Evidence(cells, ("mnist",), control, said)


def gradient_map_finds_cw(run: Published) -> Evidence:
    """X1: a gradient map finds Carlini and Wagner's attack (002: yes; 000: no; 004: it depends on
    which).

    Scope: CIFAR-10. Cells: what is derived (logit, softmax, cross-entropy), alone or with the
    image; its readings (raw, scaled, in float64) are near-copies. Shown above an AUROC of .75,
    opposite under it. Control: no trivial scalar does as well as the best of them.
    """
    cells = []
    rows = run.rows("04", "readings", attack="carlini_wagner_l2")
    for row in rows:
        derived = row["reading"].removesuffix(" float64").removesuffix(" scaled").strip()
        found = (row["auroc"], *interval_of(row, "auroc", "interval"))
        kind = f"{row['input']} {derived}"
        edge = {"shown_above": 0.75, "opposite_below": 0.75, "copies": kind}
        refused = _few(run, "carlini_wagner_l2")
        cells.append(
            cell(f"{row['input']} {row['reading']}", found, row["n"], refused=refused, **edge)
        )
    scalars = {
        r["detector"]: r["auroc"]
        for r in run.rows("04", "scalars_and_stand_ins", attack="carlini_wagner_l2")
        if r["detector"] in SCALARS
    }
    best = max((row["auroc"] for row in rows), default=0)
    control = NOT_RUN if not scalars else FALLS if max(scalars.values()) >= best else SURVIVES
    return Evidence(cells, ("cifar10",), control, f"best reading {best:.2f}; {told(scalars)}")


def _own(run: Published, detector: str) -> list[Row]:
    """The rows of a detector on the attack that it was trained on."""
    rows = run.rows("04", "002.fig2", detector=detector)
    return [row for row in rows if row["fit_attack"] == row["test_attack"]]


def _few(run: Published, attack: str) -> str:
    row = run.row("04", "strength", attack=attack)
    return few_fooled(row.get("success"), row.get("n", 0))


def _unfit(jsd: Row, baseline: Row) -> str:
    if not (jsd and baseline):
        return "detector not measured"
    dead = collapsed(jsd, baseline) or at_chance(baseline, "interval")
    return dead or at_ceiling(jsd, baseline)


def _learned(row: Row, key: str) -> str:
    if not row:
        return "detector not measured"
    learned = row[key] >= LEARNED
    return collapsed(row) or ("" if learned else "the detector has not learned its own attack")


def _works(run: Published, row: Row) -> Cell:
    """The smaller of TPR and TNR."""
    value, low, high = share(min(row["tpr"], row["tnr"]), row["n"])
    refused = _few(run, row["test_attack"]) or collapsed(row)
    edge = {"shown_above": WORKS, "opposite_below": WORKS, "refused": refused}
    return cell(row["test_attack"], (value, low, high), row["n"], **edge)


def _asymmetry(name: str, known: dict, small: object, large: object, refused: str = "") -> Cell:
    """How much less training on `small` costs on `large` than the reverse, each against the matched
    fit.
    """
    pairs = ((large, large), (small, large), (small, small), (large, small))
    if not set(pairs) <= set(known):
        return Cell(name, 0.0, -1.0, 1.0, 0, refused="not measured")
    rows = [known[pair] for pair in pairs]
    n, values = rows[0]["n"], [row["here"] for row in rows]
    value = -((values[0] - values[1]) - (values[2] - values[3]))
    half = 1.96 * sum(max(v * (1 - v), 1 / (4 * n)) / (2 * n) for v in values) ** 0.5
    refused = refused or _learned(rows[0], "here") or _learned(rows[2], "here")
    edge = {"shown_above": 0.05, "opposite_below": -0.05, "refused": refused}
    return cell(name, (value, value - half, value + half), n, **edge)


def _noise(run: Published, detector: str, rows: list[Row] | None = None) -> tuple[str, str]:
    """Whether matched noise is flagged less than half as often as the attacks that fool."""
    rows = run.rows("04", "controls", detector=detector) if rows is None else rows
    return noise_control([row for row in rows if not _few(run, row["attack"])])
