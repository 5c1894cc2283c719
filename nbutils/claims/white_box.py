"""The papers' claims on attackers who know the detector: 000.C9, C10, 002.C7 to C9, 003.C9, 004.C9.

Success is the share of images that are misread and unseen at 5 % false positives.
"""

from nbutils.claims.evidence import (
    Published,
    Row,
    at_chance,
    cell,
    collapsed,
    few_fooled,
    half_passed,
    share,
)
from nbutils.claims.rule import FALLS, NOT_RUN, SURVIVES, Cell, Evidence
from nbutils.evaluation.intervals import square_and_add

OF_000 = ("mnist", "cifar10", "cats_dogs")
OF_002 = ("mnist", "cifar10", "imagenet_subset")
HALF = 0.5  # of the images, from which an attack counts as one that works
NEARLY_ALL = 0.9
SLACK = 0.05  # of success, within which two attacks do as well
HARDER = 0.1  # of the images, what adversarial training must take from an attack
FEW_ROUNDS, MANY_ROUNDS = 5, 50
GCD = ("gcd", "gcd_cured")
DEFEATED = ("fgsm", "pgd", "carlini_wagner_l2")


def alternating_fools(run: Published) -> Evidence:
    """000.C9: the alternating attack fools classifier and detector with five iterations (not SPD on
    CIFAR-10), and does better than a mix of both gradients.

    Scope: the paper's three sets. Cells: of SMD and SPD each its success, shown over one half (of
    SPD on CIFAR-10 its failure); its success less that of 50 iterations, shown above -.05; its
    success less that of the best mix, shown above 0. Control: the referee's l-infinity attack,
    which follows the true gradient, must not find .1 more on half of the detectors.
    """
    cells, more, said = [], [], []
    for name in ("smd", "spd"):
        refused = _asked(run, name)
        few, many = (
            run.row("08", "alternations", detector=name, rounds=t, reading="accumulated")
            for t in (FEW_ROUNDS, MANY_ROUNDS)
        )
        mixes = run.rows("08", "mixes", detector=name)
        if not few:
            continue
        resists = name == "spd" and run.dataset == "cifar10"
        found = _failure(few) if resists else _success(few)
        says = "resists" if resists else "fooled"
        cells.append(_cell(f"{name} {says}", found, few, refused, HALF))
        if many:
            found = square_and_add(_success(few), _success(many))
            cells.append(_cell(f"{name} T = 5 enough", found, few, refused, -SLACK))
        if mixes:
            best = max(mixes, key=lambda row: row["success_5"])
            found = square_and_add(_success(few), _success(best))
            cells.append(_cell(f"{name} beats the mix", found, few, refused, 0.0))
        strong = run.row("08", "ledger", detector=name, game="linf")
        if strong and not refused:
            more.append(strong["success_5"] > few["success_5"] + HARDER)
            said.append(f"{name} {few['success_5']:.2f}, the referee's {strong['success_5']:.2f}")
    control = NOT_RUN if not more else FALLS if 2 * sum(more) >= len(more) else SURVIVES
    return Evidence(cells, OF_000, control, "; ".join(said))


def training_hardens(run: Published) -> Evidence:
    """000.C10: adversarial training makes SPD robust against the alternating attack, and not SMD.

    Scope: the paper's three sets. Cells: of both the success that training takes from the attack,
    and the share of attacked images that it finds more; shown above .1 of SPD, under .1 of SMD.
    Control: an attack on the last SPD through its map must succeed on less than half.
    """
    cells = []
    for name in ("spd", "smd"):
        before, after = (
            run.row("08", "hardened", detector=name, game="alternating_own", **when)
            for when in ({"adversarial_training": "before"}, {"adversarial_training": "after"})
        )
        if not (before and after):
            continue
        refused = collapsed(before, after)
        taken = square_and_add(_success(before), _success(after))
        n = after["n"]
        seen = square_and_add(share(after["tpr"], n), share(before["tpr"], n))
        for what, found in (("success", taken), ("found", seen)):
            if name == "smd":
                found = tuple(-value for value in (found[0], found[2], found[1]))
            edge = HARDER if name == "spd" else -HARDER
            cells.append(_cell(f"{name} {what}", found, after, refused, edge))
    last = run.row("08", "hardened", detector="spd", game="linf", adversarial_training="after")
    if not last or collapsed(last):
        return Evidence(cells, OF_000)
    falls = last["success_5"] >= HALF
    said = f"through the map of the last SPD {last['success_5']:.2f} pass"
    return Evidence(cells, OF_000, FALLS if falls else SURVIVES, said)


def second_round_fails(run: Published) -> Evidence:
    """002.C7: second-round attacks (eq 10) make no effective adversaries against image and
    Jacobian.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: the detectors with a Jacobian, the failure
    of eq 10 at its best sigma; shown over one half; a claim on every one. Control: the referee's
    attack through the Jacobian must succeed on less than half of the images of each.
    """
    cells, passed = [], {}
    for name in ("jsd", "first_layer_jacobian"):
        mixes = run.rows("08", "mixes", detector=name)
        if mixes:
            best = max(mixes, key=lambda row: row["success_5"])
            cells.append(_cell(name, _failure(best), best, _asked(run, name), HALF))
        strong = run.row("08", "ledger", detector=name, game="linf")
        if strong and mixes and not cells[-1].refused:
            passed[name] = strong["success_5"]
    return Evidence(cells, OF_002, *_referee(passed), every=True)


def first_layer_falls(run: Published) -> Evidence:
    """002.C8 (second round): eq 10 breaks the first layer's detector nearly always, and not the one
    with the Jacobian beside it.

    Scope: MNIST, CIFAR-10. Cells: eq 10 at its best sigma; its success on the first, shown over .9,
    its failure on the second, shown over one half; a claim on both. Control: the referee's attack
    on the second must succeed on less than half.
    """
    cells, passed = [], {}
    for name, says, edge in (
        ("first_layer", "falls", NEARLY_ALL),
        ("first_layer_jacobian", "resists", HALF),
    ):
        mixes = run.rows("08", "mixes", detector=name)
        if mixes:
            best = max(mixes, key=lambda row: row["success_5"])
            found = _success(best) if says == "falls" else _failure(best)
            cells.append(_cell(f"{name} {says}", found, best, _asked(run, name), edge))
    strong = run.row("08", "ledger", detector="first_layer_jacobian", game="linf")
    if strong and not _asked(run, "first_layer_jacobian"):
        passed["first_layer_jacobian"] = strong["success_5"]
    return Evidence(cells, OF_002[:2], *_referee(passed), every=True)


def second_round_breaks_rivals(run: Published) -> Evidence:
    """002.C9: N+1 and 1+1 detectors fall to a second round, and to C&W made for an imitation that
    was fitted on the other half of the images.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: detector x attacker, the success; shown
    over .9. Control: C&W that knows no detector must do worse by .05 in half of them.
    """
    cells, as_well, said = [], [], []
    for row in run.rows("08", "transferred"):
        if row["attacker"] == "no detector":
            continue
        blind = run.row("08", "transferred", detector=row["detector"], attacker="no detector")
        refused = _asked(run, row["detector"])
        name = f"{row['detector']}, {row['attacker']}"
        cells.append(_cell(name, _success(row), row, refused, NEARLY_ALL))
        if blind and not refused:
            as_well.append(blind["success_5"] >= row["success_5"] - SLACK)
            said.append(f"{row['detector']} {blind['success_5']:.2f}")
    control = half_passed([not one for one in as_well])
    told = f"without knowing a detector {', '.join(dict.fromkeys(said))}" if said else ""
    return Evidence(cells, OF_002, control, told)


def saliency_guards_colours(run: Published) -> Evidence:
    """003.C9: colour reversing alone is evaded by an informed attacker, and with the map it is not.

    Scope: pictures of ImageNet. Cells: success of {RGB, BGR} on colour reversing alone, shown over
    one half; with the map the failure of {RGB, BGR}, and of the referee's attack with the map held
    and derived, each shown over one half. Control: the better of the last two must succeed on less
    than half.
    """
    cells, passed = [], {}
    for row in run.rows("08", "informed"):
        alone = row["detector"] == "colour_reversing"
        if row["game"] == "plain" or (alone and row["game"] != "both_orders"):
            continue
        found = _success(row) if alone else _failure(row)
        name = f"{row['detector']} {row['game']} {row['map']}".strip()
        cells.append(_cell(name, found, row, _asked(run, row["detector"]), HALF))
        if row["game"] == "linf" and not cells[-1].refused:
            passed[f"map {row['map']}"] = row["success_5"]
    return Evidence(cells, ("imagenet_subset",), *_referee(passed))


def gcd_defeats(run: Published) -> Evidence:
    """004.C9: GCD defeats FGSM, PGD and C&W that know it.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: an attack each (both aims), the failure of
    the paper's own; shown over one half, its own rule; a claim on every one; a GCD that does not
    see plain PGD is no witness. Control: the referee's l-infinity attack of the same size, and C&W
    without a bound, must succeed on less than half.
    """
    cells, passed, blind = [], {}, ""
    for name in GCD:
        plain = run.row("08", "ledger", detector=name, game="plain")
        blind = blind or (at_chance({**plain, "auroc_interval": None}) if plain else "")
    for row in run.rows("08", "004.table3", detector="gcd"):
        place = {"attack": row["attack"], "targeted": row["targeted"]}
        bare = run.row("08", "004.table3", detector="none", **place)
        if row["attack"] in DEFEATED:
            refused = blind or few_fooled(bare.get("here"), row["n"])
            name = row["attack"] + (" T" if row["targeted"] else "")
            cells.append(_cell(name, (1 - row["here"], *_turned(row)), row, refused, HALF))
    for game in ("linf", "carlini_wagner_l2"):
        for name in GCD:
            strong = run.row("08", "ledger", detector=name, game=game)
            passed |= {game: strong["success_5"]} if strong else {}
    return Evidence(cells, OF_002, *_referee(passed), every=True)


def _referee(passed: dict[str, float]) -> tuple[str, str]:
    """The control that the referee's attack succeeds on less than half of the images."""
    if not passed:
        return NOT_RUN, ""
    said = ", ".join(f"{name} {value:.2f}" for name, value in passed.items())
    falls = max(passed.values()) >= HALF
    return (FALLS if falls else SURVIVES), f"under the referee's attack pass {said}"


def _asked(run: Published, name: str) -> str:
    """Why a detector is no witness: it collapsed, or told nothing apart before."""
    row = run.row("08", "ledger", detector=name, game="plain")
    if not row:
        return "detector collapsed, or was not measured"
    return collapsed(row) or at_chance({**row, "auroc_interval": None})


def _success(row: Row) -> tuple[float, float, float]:
    return row["success_5"], row["low"], row["high"]


def _failure(row: Row) -> tuple[float, float, float]:
    return 1 - row["success_5"], 1 - row["high"], 1 - row["low"]


def _turned(row: Row) -> tuple[float, float]:
    return 1 - row["high"], 1 - row["low"]


def _cell(
    name: str, found: tuple[float, float, float], row: Row, refused: str, edge: float
) -> Cell:
    return cell(name, found, row["n"], shown_above=edge, opposite_below=edge, refused=refused)
