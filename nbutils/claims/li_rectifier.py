"""Paper 004's claims on recovery: the detector's gradient, the rectifier, its masking rate."""

from nbutils.claims.evidence import Published, Row, cell, few_fooled, half_explained, mean
from nbutils.claims.rule import FALLS, SURVIVES, Cell, Evidence

ALL = ("mnist", "cifar10", "imagenet_subset")
RIVALS = ("pixel_defend", "total_variation", "pgd_net", "ddn_net")
TRIVIAL = ("runner_up", "median", "noise")
ADDS = 0.01  # of accuracy: what a mask must add, in the mean, to be said to add something


def gradient_marks_pixels(run: Published) -> Evidence:
    """004.C7: the detector's gradient marks the pixels that the attack polluted.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: attack x share blanked, how many more of
    the fooled images are read as before than where as many random pixels are blanked, paired over
    detectors and images; shown above 0, opposite under it. Control: neither another image's
    gradient nor the classifier's own, which asks no detector, may do as well in half of them.
    """
    cells, other, clean = [], [], []
    for row in run.rows("09", "removed_leads", rival="random"):
        place = {"attack": row["attack"], "removed_percent": row["removed_percent"]}
        cells.append(_cell(f"{row['attack']} {row['removed_percent']} %", row))
        if cells[-1].refused:
            continue
        for rival in ("another_image", "classifier"):
            lead = run.row("09", "removed_leads", rival=rival, **place).get("difference")
            other += [] if lead is None else [lead <= 0]
        kept = run.row("09", "removed", order="detector", images="clean", **place)
        clean += [kept["misread"]] if kept else []
    said = f"another gradient does as well in {sum(other)} of {len(other)} comparisons"
    said += f"; of the same images, clean, {mean(clean):.2f} are then misread" if clean else ""
    return Evidence(cells, ALL, half_explained(other), said if other else "")


def rectifier_beats_rivals(run: Published) -> Evidence:
    """004.C8: the rectifier beats PixelDefend, TVM and adversarial training, and both its steps,
    the guided mask and the tuning, contribute.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: attack x rival, accuracy on the same
    attacked images less the rival's, paired; shown above 0, opposite under it. Control: the guided
    mask must add .01, in the mean, to tuning with a random mask of its area and to tuning with
    none; and no trivial rectifier (the second class, a median, a draw of noise) may do as well on
    half of the attacks.
    """
    cells, trivial = [], {}
    for row in run.rows("09", "leads", defence="gcd"):
        if row["rival"] in RIVALS:
            cells.append(_cell(f"{row['attack']} {row['rival']}", row, run))
        elif row["rival"] in TRIVIAL and not _few(run, row["attack"]):
            trivial.setdefault(row["rival"], []).append(row["difference"] <= 0)
    adds = {
        name: mean(
            row["difference"]
            for row in run.rows("09", "contributions", defence="guided mask, tuned", rival=rival)
            if not _few(run, row["attack"])
        )
        for name, rival in (
            ("a random mask", "random mask, tuned"),
            ("no mask", "no mask, tuned"),
        )
    }
    adds = {name: value for name, value in adds.items() if value == value}
    as_well = {name: mean(found) for name, found in trivial.items()}
    if not adds:
        return Evidence(cells, ALL)
    falls = min(adds.values()) < ADDS or any(share >= 0.5 for share in as_well.values())
    said = ", ".join(f"the guided mask adds {value:+.3f} to {name}" for name, value in adds.items())
    for name, found in trivial.items():
        said += f"; {name} does as well on {sum(found)} of {len(found)} attacks"
    return Evidence(cells, ALL, FALLS if falls else SURVIVES, said)


def inner_rate_is_best(run: Published) -> Evidence:
    """004.C10: the masking rate has an optimum between its ends.

    Scope: MNIST, CIFAR-10, pictures of ImageNet. Cells: attack x reading of alpha, with the tuned
    classifier: accuracy at the best inner alpha less that at the better end, paired over detectors
    and images; shown above 0, opposite under it. Control: a random mask of the same area must not
    do as well there in half of them.
    """
    cells, random = [], []
    for row in run.rows("09", "optimum", mask="guided", reader="tuned"):
        cells.append(_cell(f"{row['attack']} {row['reading']}", row, run))
        if not cells[-1].refused:
            random.append(row["over_random"] <= 0)
    said = f"a random mask of the same area does as well in {sum(random)} of {len(random)}"
    return Evidence(cells, ALL, half_explained(random), said if random else "")


def _cell(name: str, row: Row, run: Published | None = None) -> Cell:
    """A cell of a paired difference; of images that were fooled alone, or of all of a run's."""
    few = _few(run, row["attack"]) if run else few_fooled(1.0, row["n"])
    found = (row["difference"], row["low"], row["high"])
    refused = few or ("no interval" if None in found else "")
    return cell(name, (0.0, -1.0, 1.0) if refused else found, row["n"], refused=refused)


def _few(run: Published, attack: str) -> str:
    row = run.row("09", "reached", attack=attack)
    return few_fooled(row["fooled"] / row["n"] if row else None, row.get("n", 0))
