"""Paper 004's claims: input sensitivity, GCD and its rivals; and X4, whether any detector beats a
trivial scalar.

Where raw maps made DET_IS collapse, its logarithmic reading is asked, and where that or the pixel
half made GCD collapse, GCD on the halves that do not.
"""

from collections.abc import Iterable, Sequence

from nbutils.claims.evidence import (
    Published,
    Row,
    at_ceiling,
    at_chance,
    cell,
    collapsed,
    few_fooled,
    half_explained,
    half_passed,
    interval_of,
    mean,
    noise_control,
    told,
)
from nbutils.claims.rule import FALLS, LEAST_FOOLED, NOT_RUN, SURVIVES, Cell, Evidence
from nbutils.evaluation.confidence import MARGIN
from nbutils.evaluation.intervals import square_and_add

ALL = ("mnist", "cifar10", "imagenet_subset")
L2 = ("deepfool", "carlini_wagner_l2", "ddn")
LINF = ("fgsm", "pgd")
DET_IS = ("insen", "insen_log")
HALVES = {"gcd": ("id", "insen"), "gcd_cured": ("id_high_pass", "insen_log")}
RIVALS = ("pixel_defend", "tws", "mahalanobis")  # PD, TWS and MDS
SCALARS = ("max_softmax", "margin", "entropy", "gradient_norm", "noise")
BEYOND = {"carlini_wagner_l2": 5, "deepfool": 0.5, "ddn": 0.5}  # confidence, overshoot, stretch
SEEN = 0.75  # AUROC from which a detector sees an attack
WORKS = 0.9
PRINTED = 0.975  # what the paper prints as .98
KEPT = 0.01  # of the better half's AUROC, what a rule may lose
LARGE = 0.05  # the least lead that is "a large margin"
UNMEASURED, UNKNOWN = "detector not measured", "no interval"


def sensitivity_grows_at_border(run: Published) -> Evidence:
    """004.C1: the input sensitivity grows as the distance to the border, Dist_z, falls.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: the toy, clean images and each attack's,
    minus the rank correlation of the norm with Dist_z; shown above .5, opposite below 0. Control: 1
    - p must not follow Dist_z as closely (to .05) on half of them, or it is confidence.
    """
    cells, as_close, ranks = [], [], []
    for row in run.rows("07", "distance", scalar="input_sensitivity"):
        images, n = row["images"], row["n"]
        refused = "" if images in ("toy", "clean") else _few(run, images)
        found = _turned(row["rank"], row["low"], row["high"])
        refused = refused or ("" if found else UNKNOWN)
        edge = {"shown_above": 0.5, "opposite_below": 0.0, "refused": refused}
        cells.append(cell(images, found or (0.0, -1.0, 1.0), n, **edge))
        other = run.row("07", "distance", scalar="max_softmax", images=images).get("rank")
        if not refused and other is not None:
            as_close.append(-other >= -row["rank"] - 0.05)
            ranks.append((row["rank"], other))
    said = f"1 - p follows Dist_z as closely on {sum(as_close)} of {len(as_close)} kinds of images"
    pairs = zip(("||G||", "1 - p"), zip(*ranks, strict=True), strict=False)
    said += "".join(f", {name} {mean(values):+.2f}" for name, values in pairs)
    return Evidence(cells, ALL, half_explained(as_close), said)


def l2_is_different(run: Published) -> Evidence:
    """004.C2: L2 adversarial images are intrinsically different, their input sensitivity is larger.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an L2 attack each, the AUROC of DET_IS and
    of the bare norm (larger = adversarial) as near-copies; shown above .9, opposite under it.
    Control: the same attacks pushed beyond the border (a confidence of 5, an overshoot of .5, half
    as far again, or more) must be seen wherever they were pushed, with an AUROC of .75 at the worst
    push (the attacker chooses the push, the defender the better reading); and the clean images that
    the classifier is least sure of or misreads must not be flagged as well, with a mean of .9.
    """
    cells = []
    for attack in _attacks(run, L2):
        for row in (_reading(run, DET_IS, attack), _own(run, "input_sensitivity", attack)):
            if row:
                edge = {"shown_above": WORKS, "opposite_below": WORKS, "copies": attack}
                refused = _few(run, attack) or collapsed(row)
                cells.append(_cell(f"{attack} {row['detector']}", _auroc(row), row, refused, edge))
    return Evidence(cells, ALL, *_pushed(run))


def norm_is_enough(run: Published) -> Evidence:
    """004.C3: the norm of the input sensitivity is all that DET_IS must learn.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an L2 attack each; shown where DET_IS leads
    a network that sees the norm alone by less than .02, paired interval and all, opposite where by
    more; a collapse on either side and a DET_IS at chance are not admitted. Control: DET_IS must
    beat both 1 - p and the margin beyond the interval on half of the attacks, or it is confidence.
    """
    cells, beaten = [], []
    for attack in _attacks(run, L2):
        row, norm = _reading(run, DET_IS, attack), _own(run, "insen_norm", attack)
        lead = _lead(run, row, norm, attack)
        refused = _few(run, attack) or collapsed(row, norm)
        refused = refused or (at_chance(row, "interval") if _auroc(row) else "")
        edge = {"shown_above": -MARGIN, "opposite_below": -MARGIN}
        found = lead and _turned(*lead)
        cells.append(_cell(attack, found, row, refused, edge))
        simple = [_lead(run, row, _own(run, s, attack), attack) for s in ("max_softmax", "margin")]
        if not cells[-1].refused and all(simple):
            beaten.append(all(low > 0 for _, low, _ in simple))
    said = f"DET_IS beats 1 - p and the margin on {sum(beaten)} of {len(beaten)} attacks"
    return Evidence(cells, ALL, half_passed(beaten), said)


def linf_in_pixels_alone(run: Published) -> Evidence:
    """004.C4: L-infinity attacks are not visible in the input sensitivity, but are in pixels.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an L-infinity attack and budget each; shown
    where the AUROC of the pixel detector behind its high-pass is over .75 and that of DET_IS under
    it, opposite where either is on the other side (the value is the lesser of both distances).
    Control: DET_IS must not see PGD that is stopped at its first success (AUROC of .9), or the
    border divides and not the norm; matched noise must be flagged by the pixel detector less than
    half as often as the attack.
    """
    cells = []
    for name, pixels, sensitivity in _levels(run):
        sides = _auroc(pixels), _auroc(sensitivity)
        found = None
        if all(sides):
            under = _turned(*sides[1])
            found = tuple(min(a - SEEN, b + SEEN) for a, b in zip(sides[0], under, strict=True))
        refused = few_fooled(pixels.get("success"), pixels.get("n", 0))
        refused = refused or collapsed(pixels, sensitivity)
        cells.append(_cell(name, found, pixels, refused))
    noisy = [
        row
        for row in run.rows("07", "controls", detector="id_high_pass")
        if _kind(row["attack"]) in LINF and not _few(run, row["attack"])
    ]
    noise, said = noise_control(noisy)
    stopped = [
        row["auroc"]
        for row in run.rows("07", "border", setting="stopped at first success")
        if _kind(row["attack"]) == "pgd" and row["detector"] in DET_IS and _admitted(row)
    ]
    if not stopped:
        return Evidence(cells, ALL, FALLS if noise == FALLS else NOT_RUN, said)
    falls = max(stopped) > WORKS or noise == FALLS
    said = f"PGD stopped at its first success {max(stopped):.2f}" + (f"; {said}" if said else "")
    return Evidence(cells, ALL, FALLS if falls else SURVIVES, said)


def gcd_finds_every_attack(run: Published) -> Evidence:
    """004.C5: GCD has an AUROC of .98 on every attack.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an attack each; shown above .975, which the
    paper prints as .98, opposite under it; a claim on every attack. Control: on attacks that it was
    not trained on (aim aside) its mean AUROC must be .9.
    """
    cells = []
    for attack in _attacks(run, (*L2, *LINF)):
        row = _reading(run, tuple(HALVES), attack)
        edge = {"shown_above": PRINTED, "opposite_below": PRINTED}
        refused = _few(run, attack) or collapsed(row)
        cells.append(_cell(attack, _auroc(row), row, refused, edge))
    names = {row["detector"] for row in _readings(run, tuple(HALVES))}
    unseen = [
        row["auroc"]
        for row in run.rows("07", "gcd_matrix")
        if row["detector"] in names
        and _kind(row["fitted_on"]) != _kind(row["tested_on"])
        and _admitted(row)
    ]
    value = mean(unseen)
    control = NOT_RUN if value != value else SURVIVES if value >= WORKS else FALLS
    said = f"mean AUROC on attacks it was not trained on {value:.2f}" if unseen else ""
    wins = run.row("07", "wins", detector="gcd")
    if wins and unseen:
        said += f"; best or tied on {wins['here']} of {wins['n_attacks']} attacks"
    return Evidence(cells, ALL, control, said, every=True)


def entropy_keeps_better_half(run: Published) -> Evidence:
    """004.C5 (half): the rule of entropy keeps the better half of GCD.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an attack each, GCD's AUROC less that of
    its better half, paired; shown above -.01, opposite under it; where both halves are at the
    ceiling there is nothing to choose. Control: it must beat the mean, the maximum and the stacked
    rule beyond the interval on half of the attacks, or any rule does.
    """
    cells, beaten = [], []
    for attack in _attacks(run, (*L2, *LINF)):
        row = _reading(run, tuple(HALVES), attack)
        halves = [_own(run, half, attack) for half in HALVES[row.get("detector", "gcd")]]
        refused, found = _few(run, attack) or collapsed(row), None
        if all(_auroc(half) for half in halves):
            better = max(halves, key=lambda half: half["auroc"])
            found = _lead(run, row, better, attack)
            refused = refused or at_ceiling(*halves)
        edge = {"shown_above": -KEPT, "opposite_below": -KEPT}
        cells.append(_cell(attack, found, row, refused, edge))
        if cells[-1].refused:
            continue
        rules = (f"{row['detector']}_{rule}" for rule in ("mean", "maximum", "stacked"))
        leads = [_lead(run, row, _own(run, rule, attack), attack) for rule in rules]
        if any(leads):
            beaten.append(all(lead[1] > 0 for lead in leads if lead))
    said = f"beats every other rule on {sum(beaten)} of {len(beaten)} attacks"
    return Evidence(cells, ALL, half_passed(beaten), said)


def gcd_beats_rivals(run: Published) -> Evidence:
    """004.C6: GCD beats PixelDefend's likelihood, TWS and MDS by a large margin.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: attack x rival, GCD's AUROC less the
    rival's, paired; a collapse and a common ceiling are not admitted; shown above .05, opposite
    under it. Control: equal supervision; trained on another attack it must lead by as much, over
    rivals that see no attack and MDS trained on another one too, in half of the comparisons.
    """
    cells, large = [], []
    for attack in _attacks(run, (*L2, *LINF)):
        row = _reading(run, tuple(HALVES), attack)
        for rival in RIVALS:
            other = _own(run, rival, attack)
            if not other:
                continue
            refused = _few(run, attack) or collapsed(row, other)
            if _auroc(row) and _auroc(other):
                refused = refused or at_ceiling(row, other)
            edge = {"shown_above": LARGE, "opposite_below": LARGE}
            lead = _lead(run, row, other, attack)
            cells.append(_cell(f"{attack} {rival}", lead, other, refused, edge))
        if row and not _few(run, attack):
            large += _unseen_leads(run, row["detector"], attack)
    said = f"at equal supervision it leads by {LARGE} in {sum(large)} of {len(large)} comparisons"
    return Evidence(cells, ALL, half_passed(large), said)


def beats_trivial_scalars(run: Published) -> Evidence:
    """X4: a detector beats the best trivial scalar (1 - p, margin, entropy, gradient norm, noise).

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: detector x attack, its AUROC less that of
    the scalar that is best on this attack, paired; readings and rules of one detector are
    near-copies; a collapse and a common ceiling are not admitted. Control: the scalars read either
    way (small = adversarial, too), of which none may do as well in half of the cells.
    """
    cells, beaten = [], []
    for row in run.rows("07", "scalars"):
        detector, attack = row["detector"], row["attack"]
        own, scalar = _own(run, detector, attack), _own(run, row["scalar"], attack)
        refused = _few(run, attack) or collapsed(own)
        if _auroc(own) and _auroc(scalar):
            refused = refused or at_ceiling(own, scalar)
        found = (row["difference"], row["low"], row["high"])
        edge = {"copies": f"{detector.split('_')[0]} {attack}"}
        found = None if None in found else found
        cells.append(_cell(f"{detector} {attack}", found, row, refused, edge))
        either = [r["auroc"] for s in SCALARS if _auroc(r := _own(run, s, attack))]
        if not cells[-1].refused and either and _auroc(own):
            beaten.append(own["auroc"] > max(max(value, 1 - value) for value in either))
    said = f"beats every scalar read either way in {sum(beaten)} of {len(beaten)} comparisons"
    return Evidence(cells, ALL, half_passed(beaten), said)


def _kind(attack: str) -> str:
    """What an attack is, whatever its paper, its aim and its steps: "004.pgd_targeted" is "pgd"."""
    return attack.rpartition(".")[2].removesuffix("_targeted").removesuffix("_quick")


def _attacks(run: Published, kinds: Sequence[str], *tables: str) -> list[str]:
    """The attacks of these kinds on which a detector was measured that was trained on them."""
    rows = [row["tested_on"] for row in run.rows("07", "cells")]
    rows += [row["attack"] for table in tables for row in run.rows("07", table)]
    return [attack for attack in dict.fromkeys(rows) if _kind(attack) in kinds]


def _own(run: Published, detector: str, attack: str) -> Row:
    """The row of a detector on the attack that it was trained on, with its `interval`."""
    pair = {"detector": detector, "fitted_on": attack, "tested_on": attack}
    row = run.row("07", "cells", **pair)
    return row and row | {"interval": (row["low"], row["high"])}


def _reading(run: Published, detectors: Sequence[str], attack: str) -> Row:
    """The row of the first of these detectors that did not collapse; of the first, if all did."""
    return _first(_own(run, detector, attack) for detector in detectors)


def _readings(run: Published, detectors: Sequence[str]) -> list[Row]:
    """Such a row of every attack."""
    rows = [_reading(run, detectors, attack) for attack in _attacks(run, (*L2, *LINF))]
    return [row for row in rows if row]


def _first(rows: Iterable[Row]) -> Row:
    there = [row for row in rows if row]
    return next((row for row in there if not collapsed(row)), there[0] if there else {})


def _few(run: Published, attack: str) -> str:
    row = run.row("07", "cells", tested_on=attack)
    return few_fooled(row.get("success"), row.get("n", 0))


def _admitted(row: Row) -> bool:
    """Whether a row that is no cell of a claim may speak for its control."""
    few = few_fooled(row["success"], row["n"])
    return row["auroc"] is not None and not few and not collapsed(row)


def _auroc(row: Row) -> tuple[float, float, float] | None:
    """An AUROC with its interval; None where it was not measured."""
    if row.get("auroc") is None:
        return None
    bounds = row | {"interval": (row["low"], row["high"])}
    return row["auroc"], *interval_of(bounds, "auroc", "interval")


def _lead(run: Published, a: Row, b: Row, attack: str) -> tuple[float, float, float] | None:
    """AUROC of a less that of b: paired where that was measured, else as if independent."""
    if not (_auroc(a) and _auroc(b)):
        return None
    name = f"{a['detector']} - {b['detector']}"
    pair = {"difference": name, "fitted_on": attack, "tested_on": attack}
    row = run.row("07", "differences", **pair)
    paired = tuple(row.get(key) for key in ("auroc", "low", "high"))
    return square_and_add(_auroc(a), _auroc(b)) if None in paired else paired


def _turned(
    value: float | None, low: float | None, high: float | None
) -> tuple[float, float, float] | None:
    return None if None in (value, low, high) else (-value, -high, -low)


def _cell(
    name: str,
    found: tuple[float, float, float] | None,
    row: Row,
    refused: str,
    edge: dict | None = None,
) -> Cell:
    """A cell; refused where nothing was measured."""
    refused = refused or ("" if found else UNMEASURED)
    place = found or (0.0, -1.0, 1.0)
    return cell(name, place, row.get("n", 0), refused=refused, **(edge or {}))


def _pushed(run: Published) -> tuple[str, str]:
    """Whether DET_IS sees L2 attacks beyond the border, and flags no clean images as well."""
    beyond, clean = {}, {"least sure": [], "misread": []}
    for row in run.rows("07", "border"):
        attack, setting = row["attack"], row["setting"]
        if row["detector"] not in DET_IS or row["auroc"] is None or collapsed(row):
            continue
        if attack == "clean" and setting in clean and row["n"] >= LEAST_FOOLED:
            clean[setting].append(row["auroc"])
        elif (row["beyond"] or 0) >= BEYOND.get(_kind(attack), float("inf")) and _admitted(row):
            push = f"{_kind(attack)} {setting}"
            beyond[push] = max(row["auroc"], beyond.get(push, 0))  # the better reading's
    values = {f"{name} clean": mean(found) for name, found in clean.items() if found}
    as_well = any(value >= WORKS for value in values.values())
    if beyond:
        worst = min(beyond, key=beyond.get)
        values = {f"at the worst push ({worst})": beyond[worst]} | values
    falls = as_well or (beyond and min(beyond.values()) < SEEN)
    return FALLS if falls else SURVIVES if beyond else NOT_RUN, told(values)


def _levels(run: Published) -> list[tuple[str, Row, Row]]:
    """Of each L-infinity attack and budget the rows of the pixel detector and of DET_IS: from the
    sweep, or from the table of all attacks where an attack was not swept.
    """
    found = []
    for attack in _attacks(run, LINF, "eps"):
        own = {d: _own(run, d, attack) for d in ("id_high_pass", *DET_IS)}
        swept = run.rows("07", "eps", attack=attack)
        levels = dict.fromkeys(row["eps_255"] for row in swept)
        if not levels:
            pixels, sensitivity = own["id_high_pass"], _first(own[d] for d in DET_IS)
            found += [(attack, pixels, sensitivity)] if pixels and sensitivity else []
        for level in levels:  # a sweep that does not say so itself collapsed where the table did
            rows = {
                row["detector"]: {"collapsed": own.get(row["detector"], {}).get("collapsed")} | row
                for row in swept
                if row["eps_255"] == level
            }
            sensitivity = _first(rows.get(d, {}) for d in DET_IS)
            found.append((f"{attack} {level}/255", rows.get("id_high_pass", {}), sensitivity))
    return found


def _unseen_leads(run: Published, detector: str, attack: str) -> list[bool]:
    """Whether GCD, trained on another attack, leads each rival by a large margin on this one."""

    def auroc(name: str, supervision: str) -> float:
        place = {"detector": name, "supervision": supervision, "tested_on": attack}
        return mean(row["auroc"] for row in run.rows("07", "supervision", **place))

    ours = auroc(detector, "another attack")
    theirs = [auroc(name, "none") for name in ("pixel_defend", "tws", "mahalanobis_sum")]
    theirs.append(auroc("mahalanobis", "another attack"))
    return [ours - other > LARGE for other in theirs if ours == ours and other == other]
