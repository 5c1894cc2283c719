"""Paper 003's claims: an emphasised or transformed image must be read as before."""

from dataclasses import replace

from nbutils.claims.evidence import Published, Row, cell, mean, share, told
from nbutils.claims.rule import FALLS, LEAST_FOOLED, NOT_RUN, SURVIVES, Cell, Evidence
from nbutils.evaluation.intervals import square_and_add

ALL = ("imagenet_subset",)  # VGG16 and ResNet50 on ImageNet; CIFAR-10 is left out, as C10 says
KEPT = 0.9  # of clean images, the least that counts as kept
FEW = f"attack fools fewer than {LEAST_FOOLED} images"


def emphasis_changes_attacks(run: Published) -> Evidence:
    """003.C1: an emphasised image keeps an honest label and changes a forged one.

    Scope: pictures of ImageNet. Cells: an attack each at theta .2, the share of forged labels that
    change less that of honest labels. Control: the map of another image, at the same share of
    honest labels kept, must do worse in half of the settings.
    """
    cells = []
    for row in run.rows("06", "others", asked="none 0.2"):
        found = (0.0, -1.0, 1.0)
        if row["fooled"]:
            sides = (share(row["detection"], row["fooled"]), share(1 - row["ospa"], row["n"]))
            found = square_and_add(*sides)
        cells.append(cell(row["attack"], found, row["fooled"], refused=_few(row)))
    control, said = _other_maps(run, "none")
    return Evidence(cells, ALL, control, said)


def region_differs(run: Published) -> Evidence:
    """003.C2: the region that Grad-CAM marks differs under attack.

    Scope: pictures of ImageNet. Cells: an attack each, the overlap of the hottest fifth with the
    clean image's under noise of the attack's size, less that under attack, paired. Control: ask the
    attacked image about the old class; where that closes half of the gap, it was mostly the label
    that moved.
    """
    cells, gap, left = [], 0.0, 0.0
    for row in run.rows("06", "region"):
        if row["noisy"] is None:  # no map of a fooled image has a region
            continue
        bounds = row.get("interval")
        value = row["noisy"] - row["attacked"]
        refused = "" if bounds else "no interval (older table)"
        refused = refused or ("" if row.get("n", 0) >= LEAST_FOOLED else FEW)
        found = (value, *(bounds or (value, value)))
        cells.append(cell(row.get("attack", "fgsm"), found, row.get("n", 0), refused=refused))
        if not refused:
            gap, left = gap + value, left + row["noisy"] - row["old class"]
    control = NOT_RUN if gap <= 0 else SURVIVES if left >= gap / 2 else FALLS
    said = f"of the gap, left for the old class: {left / gap:.2f}" if gap > 0 else ""
    return Evidence(cells, ALL, control, said)


def finds_four_fifths(run: Published) -> Evidence:
    """003.C3: every attack is detected with over 80 %.

    Scope: pictures of ImageNet. Cells: an attack each, the best reading's share of forged images
    detected with nine tenths of the honest labels kept; shown above .8, opposite under it; a claim
    on every attack. Control: the same with 95 % kept.
    """
    best, strict = (_best(run, key) for key in ("at_ospa_90", "at_ospa_95"))
    cells = [_rate(attack, row["at_ospa_90"], row, 0.8) for attack, row in best.items()]
    values = {attack: row["at_ospa_95"] for attack, row in strict.items() if not _few(row)}
    control = NOT_RUN if not values else SURVIVES if min(values.values()) >= 0.8 else FALLS
    return Evidence(cells, ALL, control, "at OSPA .95: " + told(values), every=True)


def colours_detect(run: Published) -> Evidence:
    """003.C4: colour reversing alone breaks the perturbation (over 70 %) and keeps honest labels.

    Scope: pictures of ImageNet. Cells: an attack each; shown where over .7 of the forged labels
    change while .9 of the honest ones stay. Control: matched noise must change labels less than
    half as often.
    """
    cells = [_alone(row) for row in run.rows("06", "others", asked="colour_reversing 0.0")]
    return Evidence(cells, ALL, *_noise(run, "colour_reversing 0.0"))


def zero_mean_detects(run: Published) -> Evidence:
    """003.C5: zero mean alone breaks the perturbation and keeps honest labels.

    Scope: pictures of ImageNet. Cells: an attack each, its readings of "zero mean" near-copies;
    shown as of C4. Control: matched noise, as of C4, and darkening by the same amount must not
    detect as much.
    """
    cells = []
    for row in run.rows("06", "others", asked="zero_mean 0.0"):
        one = _alone(row)
        cells.append(replace(one, copies=row["attack"]))
    for row in run.rows("06", "grid", theta=0.0):
        if row["transform"].startswith("zero_mean_"):
            attack = next((c.name for c in cells if row["attack"] in c.name), row["attack"])
            one = _alone(row, f"{attack} {row['transform']}")
            cells.append(replace(one, copies=attack))
    control, said = _noise(run, "zero_mean 0.0")
    dark, plain = run.row("06", "darker"), run.row("06", "grid", transform="zero_mean", theta=0.0)
    known = None not in (dark.get("detection"), plain.get("detection"))
    if known and dark["detection"] >= plain["detection"] - 0.05:
        control, said = FALLS, f"plain darkening detects {dark['detection']:.2f}; {said}"
    return Evidence(cells, ALL, control, said)


def map_adds(run: Published) -> Evidence:
    """003.C6: the map adds to the transformation, at equal share of honest labels kept.

    Scope: pictures of ImageNet. Cells: attack x transformation x theta x share kept, detection with
    the map less without, paired. Control: the map of another image must add less in half of the
    settings.
    """
    cells = []
    for row in run.rows("06", "adds", **{"grad_cam minus": "without"}):
        name = f"{row['attack']} {row['transform']} {row['theta']} at {row['ospa']}"
        refused = "" if row["n"] >= LEAST_FOOLED else FEW
        found = _interval(row, "detection")
        copies = f"{row['attack']} {row['transform']}"
        cells.append(cell(name, found, row["n"], refused=refused, copies=copies))
    control, said = _other_maps(run, "colour_reversing", "zero_mean")
    return Evidence(cells, ALL, control, said)


def on_par_with_squeezing(run: Published) -> Evidence:
    """003.C7: at least on par with feature squeezing.

    Scope: pictures of ImageNet. Cells: attack x method, its shares kept near-copies, theta .1,
    detection less that of the joint squeezers on the same images, paired; the readings of zero mean
    are near-copies; shown above -.1, opposite under it. Control: the best single squeezer in place
    of the joint ones.
    """
    cells = []
    for row in run.rows("06", "versus"):
        kind = row["method"].removesuffix(" 0.1")
        if not row["method"].endswith(" 0.1") or kind == "none":
            continue
        copies = f"{row['attack']} {'zero_mean' if 'zero' in kind else kind}"
        edge = {"shown_above": -0.1, "opposite_below": -0.1, "copies": copies}
        refused = "" if row["n"] >= LEAST_FOOLED else FEW
        name = f"{row['attack']} {kind} at {row['ospa']}"
        found = _interval(row, "minus joint squeezing")
        cells.append(cell(name, found, row["n"], refused=refused, **edge))
    on_par = []
    for row in run.rows("06", "versus", ospa=95):
        theirs = run.rows("06", "squeezing", attack=row["attack"])
        single = [r["at_ospa_95"] for r in theirs if ", " not in r["parameters"]]
        asked = row["method"].endswith(" 0.1") and not row["method"].startswith("none")
        if single and asked and row["n"] >= LEAST_FOOLED:
            on_par.append(row["detection"] >= max(single) - 0.1)
    control = NOT_RUN if not on_par else SURVIVES if mean(on_par) >= 0.5 else FALLS
    said = f"on par with the best single squeezer in {sum(on_par)} of {len(on_par)} settings"
    return Evidence(cells, ALL, control, said)


def honest_labels_kept(run: Published) -> Evidence:
    """003.C8: honest predictions are kept (about 94 %).

    Scope: pictures of ImageNet. Cells: a transformation each at theta .1, the readings of zero mean
    near-copies; shown above .9, opposite under it. Control: counted on all clean images, not only
    on those whose attack succeeded; it survives where the two differ by less than a twentieth.
    """
    cells, apart = [], []
    rows = run.rows("06", "grid", theta=0.1)
    for row in rows:
        kind = row["transform"]
        if kind == "none" or row["attack"] != rows[0]["attack"]:  # the same clean images
            continue
        found = (row["ospa"], *row["ospa_interval"])
        copies = "zero_mean" if kind.startswith("zero_mean") else kind
        edge = {"shown_above": KEPT, "opposite_below": KEPT, "copies": copies}
        cells.append(cell(kind, found, row["n"], **edge))
        if row["ospa_of_fooled"] is not None:
            apart.append(abs(row["ospa"] - row["ospa_of_fooled"]))
    control = NOT_RUN if not apart else SURVIVES if max(apart) < 0.05 else FALLS
    return Evidence(
        cells, ALL, control, f"all clean and fooled differ by {max(apart, default=0):.2f}"
    )


def not_at_32_pixels(run: Published) -> Evidence:
    """003.C10: the method does not work at 32x32 (the paper leaves CIFAR-10 out).

    Scope: CIFAR-10. Cells: an attack each, as of C3, shown under .8. Control: Grad-CAM of a layer
    of higher resolution, not run.
    """
    cells = []
    for attack, row in _best(run, "at_ospa_90").items():
        value, low, high = share(row["at_ospa_90"], row["fooled"])
        found = (0.8 - value, 0.8 - high, 0.8 - low)
        cells.append(cell(attack, found, row["fooled"], refused=_few(row)))
    return Evidence(cells, ("cifar10",), NOT_RUN, "a layer of higher resolution: not run")


def _few(row: Row) -> str:
    return "" if row["fooled"] >= LEAST_FOOLED else FEW


def _rate(name: str, value: float, row: Row, edge: float) -> Cell:
    found = share(value, row["fooled"]) if row["fooled"] else (value, 0.0, 1.0)
    margins = {"shown_above": edge, "opposite_below": edge}
    return cell(name, found, row["fooled"], refused=_few(row), **margins)


def _alone(row: Row, name: str = "") -> Cell:
    """A transformation without a map: over .7 of forged labels changed and over .9 of honest ones
    kept.

    The value is the lesser of the two margins.
    """
    if not row["fooled"]:
        return cell(name or row["attack"], (0.0, -1.0, 1.0), 0, refused=FEW)
    changed, kept = share(row["detection"], row["fooled"]), share(row["ospa"], row["n"])
    found = tuple(min(a - 0.7, b - KEPT) for a, b in zip(changed, kept, strict=True))
    return cell(name or row["attack"], found, row["fooled"], refused=_few(row))


def _interval(row: Row, key: str) -> tuple[float, float, float]:
    """A paired difference with its interval; all that there can be, where nothing was fooled."""
    if row[key] is None or None in row["interval"]:
        return 0.0, -1.0, 1.0
    return row[key], *row["interval"]


def _best(run: Published, key: str) -> dict[str, Row]:
    """Of each attack the reading that detects most."""
    best: dict[str, Row] = {}
    for row in run.rows("06", "others"):
        known = best.get(row["attack"])
        if row[key] is not None and (known is None or row[key] > known[key]):
            best[row["attack"]] = row
    return best


def _noise(run: Published, asked: str) -> tuple[str, str]:
    """Whether matched noise changes labels less than half as often as the attack's images do."""
    rows = run.rows("06", "noise", asked=asked)
    if not rows:
        return NOT_RUN, ""
    noise, attack = (mean(row[key] for row in rows) for key in ("noise flagged", "attack flagged"))
    said = f"noise of the attack's size flagged {noise:.2f}, the attack {attack:.2f}"
    return (FALLS if noise >= attack / 2 else SURVIVES), said


def _other_maps(run: Published, *transforms: str) -> tuple[str, str]:
    """Whether the image's own map detects more than another's, interval and all, in half of the
    settings.
    """
    rows = [
        row
        for row in run.rows("06", "adds", **{"grad_cam minus": "shuffled"})
        if row["transform"] in transforms and row["n"] >= LEAST_FOOLED
    ]
    better = [row["interval"][0] > 0 for row in rows]
    if not rows:
        return NOT_RUN, ""
    said = f"own map beats another's in {sum(better)} of {len(better)} settings"
    gain = mean(row["detection"] for row in rows)
    return (SURVIVES if mean(better) >= 0.5 else FALLS), f"{said} ({gain:+.3f} in the mean)"
