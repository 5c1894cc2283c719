"""Tables of lecture 09: GCD's rectifier and its rivals beside what paper 004 prints and beside what
could overturn it. Tidy data frames, as those of `steps.tables`.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from nbutils.evaluation import papers
from nbutils.evaluation.distances import sizes
from nbutils.evaluation.intervals import interval, resamples, wilson
from nbutils.evaluation.tables import frame
from nbutils.steps import tables
from nbutils.steps.adversarial import setting_of
from nbutils.steps.classifier import Derived
from nbutils.steps.detection_tables import of_paper_004
from nbutils.steps.detector import detector
from nbutils.steps.evaluation import evaluation
from nbutils.steps.recovery import DEFENCES, ORDERS, SHARES, Recovered, attacked, recovery, removal
from nbutils.steps.robust import robust
from nbutils.steps.run import Run

PAPER_DEFENCES = {  # paper 004's names, and ours
    "gcd": "gcd",
    "pixel_defend": "pixeldefend",
    "ddn_net": "ddn_adversarial_training",
    "pgd_net": "pgd_adversarial_training",
    "total_variation": "tvm",
    "none": "base",
}
TRIVIAL = ("runner_up", "median", "noise")
ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)
MIXED = "+"  # joins the attacks that one detector and one tuned net see, an attack an image
TABLE1 = ("attack", "removed_percent", "paper", "here", "low", "high", "n", "seeds")
TABLE5 = ("attack", "targeted", "method", "paper", "here", "attacked", "low", "high", "n", "seeds")
REMOVED = (
    "attack",
    "order",
    "removed_percent",
    "images",
    "misread",
    "low",
    "high",
    "n",
    "seeds",
)
RECOVERED = (
    "attack",
    "targeted",
    "method",
    "attacked",
    "accuracy",
    "low",
    "high",
    "accuracy_fooled",
    "area",
    "n",
    "seeds",
)
RATES = (
    "attack",
    "targeted",
    "reading",
    "alpha",
    "mask",
    "reader",
    "accuracy",
    "low",
    "high",
    "accuracy_clean",
    "area",
    "n",
    "seeds",
)
FACTORS = ("attack", "mask", "tuned", "accuracy", "low", "high", "accuracy_clean", "n", "seeds")
LEADS = ("attack", "defence", "rival", "difference", "low", "high", "n", "seeds")
REMOVED_LEADS = ("attack", "removed_percent", "rival", "difference", "low", "high", "n", "seeds")
OPTIMUM = (
    "attack",
    "targeted",
    "reading",
    "mask",
    "reader",
    "best",
    "area",
    "difference",
    "low",
    "high",
    "over_random",
    "n",
    "seeds",
)
NEEDED = ("method", "attack", "fooled", "l2", "l2_classifier", "n")
UNSEEN = ("fitted_on", "tested_on", "accuracy", "low", "high", "n")
PIPELINE = (
    "attack",
    "fitted_on",
    "fpr",
    "flagged_clean",
    "flagged_attacked",
    "accuracy_clean",
    "accuracy_attacked",
    "base_clean",
    "base_attacked",
    "n",
)


def guide_for(run: Run, attacks: Sequence[str]) -> str:
    """The GCD whose gradient is followed: the paper's, or the cured one where a half of the paper's
    collapsed, which then points nowhere.
    """
    records = [detector(run, "gcd", attack)[1] for attack in attacks]
    return "gcd_cured" if any(record["collapsed"] for record in records) else "gcd"


def removed(
    run: Run, attacks: Sequence[str], *, guide: str = "gcd", seeds: int = 1
) -> pd.DataFrame:
    """Table 1 of paper 004, with what could explain it: pixels blanked in each of ORDERS, on images
    that fooled the classifier and on the same images, clean. Columns of REMOVED.

    `misread`: the share that is read otherwise than the clean image was, the mean over `seeds` fits
    of the detector, with a bootstrap interval over seeds and images.
    """
    rows = []
    for attack in attacks:
        for (order, share, side), wrong in _misread(run, attack, guide, seeds).items():
            key = {"attack": attack, "order": order, "removed_percent": round(100 * share)}
            told = _mean(wrong, run.seed, "misread")
            rows.append({**key, "images": side, **told, "seeds": seeds})
    return frame(rows, REMOVED)


def removed_leads(
    run: Run, attacks: Sequence[str], *, guide: str = "gcd", seeds: int = 1
) -> pd.DataFrame:
    """How many more attacked images are read as before where the detector's gradient chose the
    pixels than where another order did, paired over seeds and images: columns of REMOVED_LEADS.
    """
    rows = []
    for attack in attacks:
        found = _misread(run, attack, guide, seeds)
        for share in SHARES[1:] if found else ():
            for rival in ORDERS[1:]:
                own, other = (found[o, share, "attacked"].double() for o in ("detector", rival))
                key = {"attack": attack, "removed_percent": round(100 * share), "rival": rival}
                told = _difference(other - own, run.seed)
                rows.append({**key, **told, "seeds": seeds})
    return frame(rows, REMOVED_LEADS)


def _misread(
    run: Run, attack: str, guide: str, seeds: int
) -> dict[tuple[str, float, str], torch.Tensor]:
    """By order, share and side: which of the images that the attack fooled are read otherwise than
    before, (seeds,n); nothing where it fooled none.
    """
    pairs = attacked(run, attack)
    fooled = pairs.prediction_adv != pairs.prediction
    if not fooled.any():
        return {}
    found = [removal(run, attack, guide=guide, repetition=i).tensors for i in range(seeds)]
    wrong = {}
    for order in ORDERS:
        for share in SHARES:
            for side in ("attacked", "clean"):
                each = [one[f"{order}.{share:g}.{side}"].to(fooled.device) for one in found]
                each = torch.stack([labels != pairs.prediction for labels in each])
                wrong[order, share, side] = each[:, fooled]
    return wrong


def recovered(
    run: Run,
    attacks: Sequence[str],
    defences: Sequence[str] = tuple(DEFENCES),
    *,
    guide: str = "gcd",
    itself: Sequence[str] = (),
) -> pd.DataFrame:
    """Table 5 of paper 004: the accuracy of each defence on the clean images and on those of each
    attack, columns of RECOVERED; `attacked` says whose images: the classifier's, or those of an
    attack on the defence's own network (the defences in `itself`).
    """
    rows = []
    for attack in attacks:
        for defence in defences:
            found = _defended(run, defence, attack, guide)
            rows.append({**_row(run, attack, defence, found), "attacked": "the classifier"})
        for defence in itself:
            found = _defended(run, defence, attack, guide, itself=True)
            rows.append({**_row(run, attack, defence, found), "attacked": "itself"})
    for defence in defences:
        found = _defended(run, defence, attacks[0], guide)
        told = _mean(found.right_clean[None], run.seed, "accuracy")
        key = {"attack": "clean", "targeted": False, "method": defence}
        rows.append({**key, **told, "attacked": "nobody", "seeds": 1})
    return frame(rows, RECOVERED)


def table5(run: Run, table: pd.DataFrame, attacks: Sequence[str]) -> pd.DataFrame:
    """Table 5 as the paper prints it beside ours: rows of `recovered`, with columns `paper` and
    `here`; the paper's names of attacks and methods.
    """
    theirs = of_paper_004(run, attacks) | {"clean": ("clean", False)}
    rows = []
    for row in table.to_dict("records"):
        if row["attack"] in theirs and row["method"] in PAPER_DEFENCES:
            attack, targeted = theirs[row["attack"]]
            ours = {"attack": attack, "targeted": targeted, "here": row["accuracy"]}
            kept = {name: row[name] for name in ("attacked", "low", "high", "n", "seeds")}
            rows.append({**ours, "method": PAPER_DEFENCES[row["method"]], **kept})
    if not rows:
        return frame([], TABLE5)
    return papers.compare("004.table5", rows, dataset=tables.pictures_of_002(run))


def table1(run: Run, table: pd.DataFrame, attacks: Sequence[str]) -> pd.DataFrame:
    """Table 1 as the paper prints it beside ours: rows of `removed` of the detector's gradient."""
    theirs = of_paper_004(run, attacks)
    own = table[(table["order"] == "detector") & (table["images"] == "attacked")]
    rows = [
        {
            "attack": theirs[row["attack"]][0],
            "removed_percent": row["removed_percent"],
            "here": row["misread"],
            **{name: row[name] for name in ("low", "high", "n", "seeds")},
        }
        for row in own.to_dict("records")
        if row["attack"] in theirs and not theirs[row["attack"]][1]
    ]
    return papers.compare("004.table1", rows) if rows else frame([], TABLE1)


def leads(
    run: Run,
    attacks: Sequence[str],
    defence: str = "gcd",
    rivals: Sequence[str] = tuple(DEFENCES),
    *,
    guide: str = "gcd",
) -> pd.DataFrame:
    """Accuracy of a defence less that of each rival on the same attacked images, with the paired
    interval; columns of LEADS.
    """
    rows = []
    for attack in attacks:
        own = _defended(run, defence, attack, guide).right
        for rival in rivals:
            if rival == defence:
                continue
            other = _defended(run, rival, attack, guide).right
            told = _difference((own - other)[None], run.seed)
            key = {"attack": attack, "defence": defence, "rival": rival}
            rows.append({**key, **told, "seeds": 1})
    return frame(rows, LEADS)


def rates(
    run: Run,
    attacks: Sequence[str],
    *,
    guide: str = "gcd",
    alphas: Sequence[float] = ALPHAS,
    seeds: int = 1,
) -> pd.DataFrame:
    """Figure 6 of paper 004: accuracy against alpha, in both readings, with the guided mask and
    with a random one of the same area, read by the classifier and by the tuned one; columns of
    RATES.

    The tuned classifier is the one that was tuned at the paper's alpha.
    """
    rows = []
    for key, found in _swept(run, attacks, guide, alphas, seeds):
        for alpha, several in found.items():
            rows.append({**key, "alpha": alpha, **_accuracies(run, several)})
    return frame(rows, RATES)


def optimum(
    run: Run,
    attacks: Sequence[str],
    *,
    guide: str = "gcd",
    alphas: Sequence[float] = ALPHAS,
    seeds: int = 1,
) -> pd.DataFrame:
    """Whether accuracy is best between the ends of alpha: the best inner alpha's less the better
    end's, paired over seeds and images, and less that of a random mask of the same area; columns of
    OPTIMUM.

    The inner alpha is chosen on the tested images, which favours the claim.
    """
    swept = list(_swept(run, attacks, guide, alphas, seeds))
    places = ("attack", "reading", "reader")
    random = {
        tuple(key[name] for name in places): found
        for key, found in swept
        if key["mask"] == "random"
    }
    rows = []
    for key, found in swept:
        right = {alpha: _rights(several) for alpha, several in found.items()}
        means = {alpha: one.mean().item() for alpha, one in right.items()}
        best = max(alphas[1:-1], key=means.get)
        end = max(alphas[0], alphas[-1], key=means.get)
        other = _rights(random[tuple(key[name] for name in places)][best])
        told = {
            "best": best,
            "area": _area(found[best]),
            "over_random": (right[best] - other).mean().item(),
            **_difference(right[best] - right[end], run.seed),
        }
        rows.append({**key, **told, "seeds": seeds})
    return frame(rows, OPTIMUM)


def _swept(
    run: Run, attacks: Sequence[str], guide: str, alphas: Sequence[float], seeds: int
) -> Iterator[tuple[dict, dict[float, list[Recovered]]]]:
    """For each attack, reading of alpha, mask and reader what is recovered at each alpha."""
    for attack in attacks:
        for reading, guided in (("range", "gcd"), ("share", "gcd_share")):
            for mask, rectifier in (("guided", guided), ("random", f"{guided}_random")):
                for reader in ("base", "tuned"):
                    key = {"reading": reading, "mask": mask, "reader": reader}
                    given = {"guide": guide, "tuned_as": "gcd"}
                    found = {
                        alpha: _several(run, rectifier, reader, attack, seeds, alpha=alpha, **given)
                        for alpha in alphas
                    }
                    yield {**_aim(run, attack), **key}, found


def factors(
    run: Run, attacks: Sequence[str], *, guide: str = "gcd", seeds: int = 1
) -> pd.DataFrame:
    """What each step of the rectifier contributes: masks (none, random of the same area, guided) by
    readers (the classifier, and the classifier tuned on images masked in the same way); columns of
    FACTORS.

    Detector and tuned classifiers are of one mixture of all the attacks.
    """
    masks = {"none": "none", "random": "gcd_random", "guided": "gcd"}
    return _by_mask(run, attacks, masks, seeds, guide=guide, fitted_on=MIXED.join(attacks))


def contributions(
    run: Run, attacks: Sequence[str], *, guide: str = "gcd", seeds: int = 1
) -> pd.DataFrame:
    """What guidance adds to a random mask, a random mask to none, tuning to not tuning: paired
    differences of `factors` over seeds and images; columns of LEADS.
    """
    mixture, rows = MIXED.join(attacks), []
    sides = {
        ("guided mask, tuned", "random mask, tuned"): (("gcd", "tuned"), ("gcd_random", "tuned")),
        ("guided mask, tuned", "no mask, tuned"): (("gcd", "tuned"), ("none", "tuned")),
        ("guided mask, tuned", "guided mask"): (("gcd", "tuned"), ("gcd", "base")),
        ("no mask, tuned", "no mask"): (("none", "tuned"), ("none", "base")),
        ("guided mask", "random mask"): (("gcd", "base"), ("gcd_random", "base")),
        ("guided mask", "no mask"): (("gcd", "base"), ("none", "base")),
    }
    for attack in attacks:
        for (defence, rival), pair in sides.items():
            given = {"guide": guide, "fitted_on": mixture}
            own, other = (_several(run, *one, attack, seeds, **given) for one in pair)
            told = _difference(_rights(own) - _rights(other), run.seed)
            key = {"attack": attack, "defence": defence, "rival": rival}
            rows.append({**key, **told, "seeds": seeds})
    return frame(rows, LEADS)


def variants(
    run: Run, attacks: Sequence[str], *, guide: str = "gcd", seeds: int = 1
) -> pd.DataFrame:
    """The mask by the gradient of the input sensitivity's map, and by the gradient through that map
    to the image (double backpropagation), read by the classifier and by the one that was tuned with
    the first; columns of FACTORS.
    """
    masks = {"to the map": "gcd", "to the image": "gcd_to_image"}
    return _by_mask(run, attacks, masks, seeds, guide=guide, tuned_as="gcd")


def _by_mask(
    run: Run, attacks: Sequence[str], masks: Mapping[str, str], seeds: int, **given: str
) -> pd.DataFrame:
    """Rows of FACTORS: each attack with each of the rectifiers that `masks` names, read by the
    classifier and by the tuned one.
    """
    rows = []
    for attack in attacks:
        for mask, rectifier in masks.items():
            for reader in ("base", "tuned"):
                found = _several(run, rectifier, reader, attack, seeds, **given)
                key = {"attack": attack, "mask": mask, "tuned": reader == "tuned"}
                rows.append({**key, **_accuracies(run, found)})
    return frame(rows, FACTORS)


def needed(run: Run, attacks: Sequence[str], defences: Sequence[str]) -> pd.DataFrame:
    """How large an attack on a defence's own network is beside the same attack on the classifier:
    columns of NEEDED.

    An attack without a budget fools any network at some size, so the size is what robustness is.
    `l2`, `l2_classifier`: mean L2 sizes over the images that each of the two attacks fooled.
    """
    rows = []
    for defence in defences:
        network = robust(run, DEFENCES[defence][1])
        for attack in attacks:
            own, plain = (_needed(run, attack, of) for of in (network, None))
            sides = {"fooled": own[0], "l2": own[1], "l2_classifier": plain[1], "n": own[2]}
            rows.append({"method": defence, "attack": attack, **sides})
    return frame(rows, NEEDED)


def _needed(run: Run, attack: str, of: Derived | None) -> tuple[float, float, int]:
    """The share that an attack fooled, the mean L2 size of these, and of how many images."""
    pairs = attacked(run, attack, of)
    won = pairs.prediction_adv != pairs.prediction
    size = sizes(pairs.x, pairs.x_adv)["l2"][won].mean().item()
    return won.double().mean().item(), size, len(pairs.x)


def unseen(run: Run, attacks: Sequence[str], *, guide: str = "gcd") -> pd.DataFrame:
    """The rectifier fitted on each attack, on the images of each: columns of UNSEEN."""
    rows = []
    for fit in attacks:
        for test in attacks:
            found = recovery(run, "gcd", "tuned", test, fitted_on=fit, guide=guide)
            told = _mean(found.right[None], run.seed, "accuracy")
            rows.append({"fitted_on": fit, "tested_on": test, **told})
    return frame(rows, UNSEEN)


def pipeline(
    run: Run, attacks: Sequence[str], *, guide: str = "gcd", fpr: float = 0.05
) -> pd.DataFrame:
    """What a user gets: an image that GCD flags at the allowed share of clean images is rectified
    and read by the tuned classifier, any other is read by the classifier. Columns of PIPELINE.

    Both the detector and the rectifier have seen the tested attack, or a mixture of all of them.
    """
    mixture, rows = MIXED.join(attacks), []
    for attack in attacks:
        for known in (attack, mixture) if len(attacks) > 1 else (attack,):
            scores = evaluation(run, guide, known, attack, fits=1).tensors
            clean, forged, calibrate = (
                scores[name][0] for name in ("clean", "adversarial", "calibrate")
            )
            limit = calibrate.double().quantile(1 - fpr)
            base = recovery(run, "none", "base", attack)
            own = recovery(run, "gcd", "tuned", attack, fitted_on=known, guide=guide)
            n = len(base.y)
            flags = {"clean": clean[:n] > limit, "attacked": forged[:n] > limit}
            plain = {"clean": base.right_clean, "attacked": base.right}
            mended = {"clean": own.right_clean, "attacked": own.right}
            row = {"attack": attack, "fpr": fpr, "n": n}
            row["fitted_on"] = "the attack" if known == attack else "all attacks"
            for side, flagged in flags.items():
                flagged = flagged.to(plain[side].device)
                end = torch.where(flagged, mended[side], plain[side])
                row[f"flagged_{side}"] = flagged.double().mean().item()
                row[f"accuracy_{side}"] = end.mean().item()
                row[f"base_{side}"] = plain[side].mean().item()
            rows.append(row)
    return frame(rows, PIPELINE)


def _defended(
    run: Run, defence: str, attack: str, guide: str, *, itself: bool = False
) -> Recovered:
    rectifier, reader = DEFENCES[defence]
    return recovery(run, rectifier, reader, attack, guide=guide, itself=itself)


def _several(
    run: Run, rectifier: str, reader: str, attack: str, seeds: int, **given: object
) -> list[Recovered]:
    return [recovery(run, rectifier, reader, attack, repetition=i, **given) for i in range(seeds)]


def _rights(found: Sequence[Recovered]) -> torch.Tensor:
    return torch.stack([one.right for one in found])


def _aim(run: Run, attack: str) -> dict:
    return {"attack": attack, "targeted": bool(setting_of(run, attack).get("targeted"))}


def _accuracies(run: Run, found: Sequence[Recovered]) -> dict:
    """Accuracy over seeds and images, on clean images, and the mean area."""
    clean = torch.stack([one.right_clean for one in found]).mean().item()
    told = _mean(_rights(found), run.seed, "accuracy")
    return {**told, "accuracy_clean": clean, "area": _area(found), "seeds": len(found)}


def _area(found: Sequence[Recovered]) -> float:
    return torch.stack([one.area for one in found]).double().mean().item()


def _row(run: Run, attack: str, defence: str, found: Recovered) -> dict:
    told = _mean(found.right[None], run.seed, "accuracy")
    fooled = found.right[found.fooled]
    told["accuracy_fooled"] = fooled.mean().item() if len(fooled) else float("nan")
    told["area"] = _area([found])
    return {**_aim(run, attack), "method": defence, **told, "seeds": 1}


def _mean(values: torch.Tensor, seed: int, name: str) -> dict:
    """The mean of shares (seeds,n) of images, with an interval: Wilson's of the yes and no of one
    seed, else a bootstrap over seeds and images.
    """
    values = values.double()
    n, value = values.shape[1], values.mean().item()
    bounds = _bootstrap(values, seed)
    if len(values) == 1 and bool(((values == 0) | (values == 1)).all()):
        bounds = wilson(round(value * n), n)
    return {name: value, "low": bounds[0], "high": bounds[1], "n": n}


def _difference(values: torch.Tensor, seed: int) -> dict:
    """The mean of differences (seeds,n) of images, with its bootstrap interval."""
    low, high = _bootstrap(values.double(), seed)
    told = {"difference": values.double().mean().item(), "low": low, "high": high}
    return told | {"n": values.shape[1]}


def _bootstrap(values: torch.Tensor, seed: int) -> tuple[float, float]:
    """The interval of the mean of (seeds,n), over seeds and images."""
    seeds, n = values.shape
    images = resamples(n, seed)
    rng = np.random.default_rng([seed, 14])
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), len(images))
    return interval((drawn @ values.numpy(force=True) * images).sum(1) / (seeds * n))
