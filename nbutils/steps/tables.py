"""Cells run and told as tidy tables (`evaluation.tables`): what a notebook selects, pivots and
plots.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks import ATTACKS, cost, settings
from nbutils.attacks.settings import CLEVERHANS_SETTINGS, PHOTOGRAPHS, settings_for
from nbutils.data.images import to_levels
from nbutils.detectors import READINGS, views
from nbutils.detectors.consistency import emphasised
from nbutils.detectors.groups import CONFIDENCE, READING_NAMES, SCALARS
from nbutils.evaluation import confidence, distances, metrics, papers, sizing
from nbutils.evaluation.consistency_tables import label_rule
from nbutils.evaluation.controls import matched_noise, random_noise_harmless
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.tables import CELL, DIFFERENCE, cell, frame
from nbutils.models.contract import predict
from nbutils.saliency.gradients import dist_z
from nbutils.saliency.maps import between_0_and_1
from nbutils.steps.adversarial import AdversarialSet, adversarial
from nbutils.steps.classifier import classifier
from nbutils.steps.consistency import consistency
from nbutils.steps.controls import controls
from nbutils.steps.detector import detector
from nbutils.steps.evaluation import evaluation
from nbutils.steps.run import Run
from nbutils.steps.saliency import learned_saliency, maps
from nbutils.store.artifacts import Artifact

Attacks = (
    Sequence[str] | Mapping[str, tuple[str, dict]]
)  # names, or name -> setting and changed knobs


def cross(
    run: Run,
    detectors: Sequence[str],
    fitted_on: Attacks,
    tested_on: Attacks | None = None,
    *,
    own: bool = False,
    fits: int | None = None,
    variant: dict | None = None,
) -> pd.DataFrame:
    """Every detector, fitted on each attack, tested on each: a row a cell, columns of
    `tables.CELL`.

    Args:
        tested_on: None: the attacks that it is fitted on.
        own: only the attack that it was fitted on.
        fits, variant: as of `evaluation`.
    """
    rows = []
    for name, fit, test in _cells(detectors, fitted_on, tested_on, own):
        found = _evaluated(run, name, fit[1], test[1], fits, variant)
        pairs = adversarial(run, test[1][0], **test[1][1])
        rows.append(cell(name, fit[0], test[0], found.record, pairs.record["success_rate"]))
    return frame(rows, CELL)


def difference(
    run: Run,
    a: str,
    b: str,
    fitted_on: Attacks,
    tested_on: Attacks | None = None,
    *,
    own: bool = False,
    fits: int | None = None,
) -> pd.DataFrame:
    """AUROC of detector a less that of b, paired, on the same cells: columns of
    `tables.DIFFERENCE`.
    """
    rows = []
    for _, fit, test in _cells([a], fitted_on, tested_on, own):
        both = [_evaluated(run, name, fit[1], test[1], fits, None) for name in (a, b)]
        value, (low, high) = metrics.auroc_difference(*map(both_sides, both), seed=run.seed)
        rows.append(
            {
                "difference": f"{a} - {b}",
                "fitted_on": fit[0],
                "tested_on": test[0],
                "auroc": value,
                "low": low,
                "high": high,
                "n": both[0].record["n"],
                "fits": both[0].record["fits"],
            }
        )
    return frame(rows, DIFFERENCE)


def beside_confidence(
    run: Run,
    detectors: Sequence[str],
    fitted_on: Attacks,
    tested_on: Attacks | None = None,
    *,
    own: bool = False,
    fits: int | None = None,
) -> pd.DataFrame:
    """Each detector beside the scalars that say how unsure the classifier is, paired, on the same
    images: a row a cell and scalar, columns of `confidence.BESIDE`; `confidence.told` reads it.

    The arguments are those of `cross`. A scalar that this classifier does not have (`dist_z`
    without a last dense layer) is left out.
    """
    scalars, rows = confidence_scalars(run), []
    for name, fit, test in _cells(detectors, fitted_on, tested_on, own):
        sides = {
            one: both_sides(_evaluated(run, one, fit[1], test[1], fits, None))
            for one in (name, *scalars)
        }
        beside = confidence.beside(sides[name], {s: sides[s] for s in scalars}, seed=run.seed)
        cell_ = {"detector": name, "fitted_on": fit[0], "tested_on": test[0]}
        rows += [{**cell_, **row} for row in beside]
    return frame(rows, confidence.BESIDE)


def confidence_scalars(run: Run) -> list[str]:
    """Those of `groups.CONFIDENCE` that this run's classifier has."""
    try:
        dist_z(classifier(run).model, run.data.test[:1].pixels())
    except InputError:
        return [name for name in CONFIDENCE if name != "dist_z"]
    return [*CONFIDENCE]


def both_sides(found: Artifact) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores (fits,n) of an evaluation's clean and attacked images."""
    return found.tensors["clean"], found.tensors["adversarial"]


def controlled(
    run: Run, detectors: Sequence[str], attacks: Attacks, *, fpr: float = 0.05
) -> pd.DataFrame:
    """The leak controls of each detector on the attack that it was fitted on: a row each."""
    rows = [
        {"detector": name, "attack": attack, **controls(run, name, setting, fpr=fpr, **knobs)}
        for name in detectors
        for attack, (setting, knobs) in _named(attacks).items()
    ]
    return pd.DataFrame(rows)


def _named(attacks: Attacks) -> dict[str, tuple[str, dict]]:
    if isinstance(attacks, Mapping):
        return dict(attacks)
    return {name: (name, {}) for name in attacks}


def _cells(
    detectors: Sequence[str], fitted_on: Attacks, tested_on: Attacks | None, own: bool
) -> list:
    fits = _named(fitted_on)
    tests = fits if tested_on is None else _named(tested_on)
    return [
        (name, fit, test)
        for name in detectors
        for fit in fits.items()
        for test in tests.items()
        if not own or fit == test
    ]


def _evaluated(
    run: Run,
    name: str,
    fit: tuple[str, dict],
    test: tuple[str, dict],
    fits: int | None,
    variant: dict | None,
) -> Artifact:
    knobs = {"fit_knobs": fit[1], **test[1]}
    return evaluation(run, name, fit[0], test[0], fits=fits, variant=variant, **knobs)


def within_linf(run: Run, name: str) -> bool:
    """Whether a setting has a budget in the l-infinity norm."""
    return settings.within_linf(settings_for(run.data.name).get(name, {}))


def knobs(run: Run, name: str) -> dict:
    """What the parameters EPS_255, STEPS and BACKEND change of a setting; None: nothing.

    EPS_255 reaches the l-infinity budgets alone, STEPS every setting that has steps.
    """
    given, backend = run.parameters, run.parameters["BACKEND"]
    theirs = backend == "cleverhans"
    setting = (CLEVERHANS_SETTINGS if theirs else settings_for(run.data.name)).get(name, {})
    count = settings.count_of(setting)
    return {
        "eps": given["EPS_255"] / 255 if given["EPS_255"] and within_linf(run, name) else None,
        count or "steps": (given["STEPS"] if count else 0) or None,
        "backend": backend,
    }


def success(run: Run, name: str, **changes: float | int) -> float:
    """Share of the test images on which the setting, with these knobs changed, succeeds."""
    made = adversarial(run, name, backend=run.parameters["BACKEND"], **changes)
    return made.success.float().mean().item()


def sweep(run: Run, names: Sequence[str], changes: Sequence[dict]) -> dict[str, list[float]]:
    """The success of each setting under each change of its knobs."""
    return {name: [success(run, name, **change) for change in changes] for name in names}


def nearest(values: Sequence[float], wanted: float) -> int:
    """The place of the value that is nearest to the wanted one; the first of several."""
    return int(np.abs(np.asarray(values) - wanted).argmin())


def reached(sets: Mapping[str, AdversarialSet]) -> list[dict]:
    """What each attack reaches, a row each: the share of predictions changed with Wilson's
    interval, the accuracy that is left, and the mean sizes over all images (`distances.sizes`).
    """
    rows = []
    for name, made in sets.items():
        hits, n = int((made.prediction_adv != made.prediction).sum()), len(made.x)
        size = {k: v.mean().item() for k, v in distances.sizes(made.x, made.x_adv).items()}
        accuracy = (made.prediction_adv == made.y).float().mean().item()
        share = {"success": hits / n, "interval": wilson(hits, n), "accuracy": accuracy}
        rows.append({"setting": name, **share, **size, "n": n})
    return rows


# Paper 000's name of an attack where it is not the setting's; "" where the paper has none.
OF_000 = {"deepfool": "", "deepfool_000": "deepfool", "jsma_000": "jsma"}


STATISTICS_OF_000 = {"perturbation_rate_l0": "l0", "l2": "rms", "linf": "linf"}


def beside_000(rows: Sequence[dict], clean: dict) -> tuple[list[dict], list[dict]]:
    """Rows of `reached` as paper 000 prints them: its table 2 (sizes) and table 4 (accuracy in
    percent).

    Args:
        clean: the classifier's record, whose accuracy is table 4's first row.
    """
    known = set(papers.table("000.table4")["attack"])
    named = [(OF_000.get(r["setting"], r["setting"].removeprefix("000.")), r) for r in rows]
    named = [(attack, row) for attack, row in named if attack in known]
    sizes = [
        {"attack": attack, "setting": row["setting"], "statistic": theirs, "here": row[ours]}
        for attack, row in named
        for theirs, ours in STATISTICS_OF_000.items()
    ]
    accuracies = [
        {"attack": "clean", "setting": "", "here": 100 * clean["accuracy"], "n": clean["n"]}
    ]
    for attack, row in named:
        here = {"here": 100 * row["accuracy"], "n": row["n"]}
        accuracies.append({"attack": attack, "setting": row["setting"], **here})
    return sizes, accuracies


def costs(
    run: Run, model: nn.Module, sets: Mapping[str, AdversarialSet], few: int = 12
) -> list[dict]:
    """What each attack cost an image, a row each.

    `forwards`, `backwards` and `seconds` are of the run that made the set; `overhead` is `seconds`
    over what as many bare passes take now; `excess` is, for the attacks whose images leave the
    batch, the passes of the first `few` images together over their passes one at a time (not asked
    at smoke size).
    """
    first = next(iter(sets.values()))
    bare = cost.bare_seconds(model, first.x[: run.preset["chunk"]])
    rows = []
    for name, made in sets.items():
        record = made.record
        passes = (record["forwards_per_image"], record["backwards_per_image"])
        seconds = record["seconds"] / record["n"]
        leaves = made.setting["attack"] in ("deepfool", "jsma") and record["backend"] == "nbutils"
        asked = leaves and run.parameters["PRESET"] != "smoke"
        rows.append(
            {
                "setting": name,
                "forwards": passes[0],
                "backwards": passes[1],
                "seconds": seconds,
                "overhead": cost.overhead(seconds, passes, bare),
                "excess": _excess(model, made, few) if asked else None,
                "n": record["n"],
            }
        )
    return rows


def _excess(model: nn.Module, made: AdversarialSet, few: int) -> float:
    attack, own = ATTACKS[made.setting["attack"]], made.knobs
    used, needed = (
        cost.passes(attack, model, made.x[:few], made.prediction[:few], batch=batch, **own)
        for batch in (0, 1)
    )
    return cost.pass_excess(used, needed)


def leads(model: nn.Module, made: AdversarialSet) -> np.ndarray:
    """How far the wrong label leads the one that was left, in logits, where the prediction changed:
    none where it changed nowhere.
    """
    won = made.prediction_adv != made.prediction
    logits = predict(model, made.x_adv)
    ahead = logits.amax(1) - logits.gather(1, made.prediction[:, None])[:, 0]
    return ahead[won].double().numpy(force=True)


def kept(model: nn.Module, sets: Mapping[str, AdversarialSet]) -> list[dict]:
    """What changes predictions: each attack, sign noise of its size, the attack's images rounded to
    8 bits; and its median lead (`leads`), None where it changed none.
    """
    rows = []
    for name, made in sets.items():
        shares = random_noise_harmless(model, made.x, made.x_adv, made.index, made.prediction)
        stored = predict(model, to_levels(made.x_adv)).argmax(1)
        ahead = leads(model, made)
        rows.append(
            {
                "setting": name,
                "changed by attack": shares["attack"],
                "changed by noise": shares["noise"],
                "changed after 8 bits": (stored != made.prediction).float().mean().item(),
                "median margin": float(np.median(ahead)) if len(ahead) else None,
                "n": len(made.x),
            }
        )
    return rows


def beside_cleverhans(run: Run, names: Sequence[str]) -> list[dict]:
    """Each setting made by this module and by cleverhans: how far the images agree, and what both
    reach.
    """
    rows = []
    for name in names:
        ours, theirs = (adversarial(run, name, backend=b) for b in ("nbutils", "cleverhans"))
        apart = (ours.x_adv - theirs.x_adv).abs()
        rows.append(
            {
                "setting": name,
                "share equal to 1e-6": (apart < 1e-6).float().mean().item(),
                "largest difference": apart.max().item(),
                "success here": ours.record["success_rate"],
                "success cleverhans": theirs.record["success_rate"],
            }
        )
    return rows


SELECTOR_PARTS = ("both", "label", "pixels", "noise")  # what is changed of the clean image's map


def selector_maps(
    run: Run, kind: str, pairs: AdversarialSet, rows: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The map of some clean images, and what it becomes when parts of an attack are done to it.

    A map is a function of the pixels and of the class that it is asked about, and a successful
    attack changes both.

    Args:
        rows: (k,) which of the attacked images.
    Returns:
        `clean`: m(x, c). `both`: m(x', c'), of the attacked image and its class. `label`:
        m(x, c'), of the untouched image asked about that class. `pixels`: m(x', c). `noise`: of the
        clean image with sign noise of the attack's size, asked about what the classifier then
        predicts.
    """
    x, x_adv, c, c_adv = (
        part[rows] for part in (pairs.x, pairs.x_adv, pairs.prediction, pairs.prediction_adv)
    )
    noisy = matched_noise(x, x_adv, pairs.index[rows], "sign", run.seed)
    return {
        "clean": maps(run, kind, x, c),
        "both": maps(run, kind, x_adv, c_adv),
        "label": maps(run, kind, x, c_adv),
        "pixels": maps(run, kind, x_adv, c),
        "noise": maps(run, kind, noisy),
    }


def selector_swap(
    run: Run, kinds: Sequence[str], attacks: Mapping[str, AdversarialSet]
) -> pd.DataFrame:
    """Mean distance of each of SELECTOR_PARTS from the clean image's map, over the images that the
    attack fooled: a row a kind of map and attack; an attack that fooled nobody has none.
    """
    found = []
    for kind in kinds:
        for name, pairs in attacks.items():
            rows = pairs.success.nonzero()[:, 0]
            if not len(rows):
                continue
            parts = selector_maps(run, kind, pairs, rows)
            row: dict = {"map": kind, "attack": name}
            for part in SELECTOR_PARTS:
                row[part] = distances.distances(parts["clean"], parts[part]).mean().item()
            found.append(row | {"n": len(rows)})
    return frame(found, ("map", "attack", *SELECTOR_PARTS, "n"))


ENOUGH = 0.3  # paper 002: an attack is strong enough when the classifier's accuracy is under it


LADDERS = {"fgsm": "002.fgsm", "bim": "002.iterative", "iterative_l2": "002.iterative_l2"}


IN_002 = {  # our names of attacks, as the tables of paper 002 call them
    "fgsm": "fgsm",
    "bim": "iterative_linf",
    "iterative_l2": "iterative_l2",
    "carlini_wagner_l2": "carlini_wagner_l2",
}


# fitted once, or not at all
BASELINES = ("id_high_pass", "jsd_shuffled", "jsd_random", "jacobian", *SCALARS)


def accuracy_under(pairs: AdversarialSet) -> float:
    """The classifier's accuracy on attacked images."""
    return (pairs.prediction_adv == pairs.y).float().mean().item()


def mean_rms(pairs: AdversarialSet) -> float:
    """The mean over images of the perturbation's rms."""
    return distances.sizes(pairs.x, pairs.x_adv)["rms"].mean().item()


def levels(run: Run, attacks: Sequence[str]) -> dict[str, list[str]]:
    """The settings of paper 002's levels, from small to large, of each attack that has a size.

    Four levels, as in its table 3; three of photographs, as in its table 4. Where the largest l2
    level is too weak for photographs, the wide ones take its place (`attacks.settings`).
    """
    counts = range(1, 4 if run.data.shape[1] > 100 else 5)
    found = {}
    for name in attacks:
        if name not in LADDERS:
            continue
        found[name] = [f"{LADDERS[name]}_{k}" for k in counts]
        wide = name == "iterative_l2" and run.parameters["DATASET"] in PHOTOGRAPHS
        if wide and accuracy_under(adversarial(run, found[name][-1])) >= ENOUGH:
            found[name] = [f"{LADDERS[name]}_wide_{k}" for k in counts]
    return found


def sized(
    run: Run, attacks: Sequence[str], eps_255: float = 0.0
) -> dict[str, tuple[str, dict[str, float]]]:
    """The setting of each attack, and the knobs changed in it, by the rule of paper 002: the
    smallest level at which the classifier's accuracy is under ENOUGH.

    Args:
        eps_255: a budget in 1/255 that replaces the rule for l-infinity attacks; 0: the rule.
    Returns:
        what `cross` takes; attacks without a size keep the setting of their own name.
    """
    ladders = levels(run, attacks)
    found: dict[str, tuple[str, dict[str, float]]] = {}
    for name in attacks:
        found[name] = (name, {})
        if eps_255 and within_linf(run, name):
            found[name] = (name, {"eps": eps_255 / 255})
        elif name in ladders:
            known = {level: accuracy_under(adversarial(run, level)) for level in ladders[name]}
            found[name] = (sizing.first_below(known, ENOUGH), {})
    return found


def strength(run: Run, attacks: Attacks) -> pd.DataFrame:
    """What each attack does to the classifier, and how large it is: a row each."""
    rows = []
    for name, (setting, knobs) in _named(attacks).items():
        pairs = adversarial(run, setting, **knobs)
        rows.append(
            {
                "attack": name,
                "setting": setting,
                "eps": pairs.setting.get("eps"),
                "accuracy": accuracy_under(pairs),
                "success": pairs.record["success_rate"],
                "rms": mean_rms(pairs),
                "n": len(pairs.x),
            }
        )
    return pd.DataFrame(rows)


def baselines(run: Run, attacks: Attacks) -> pd.DataFrame:
    """BASELINES on each attack, the trained ones fitted on it: rows of CELL, attack by attack."""
    named = _named(attacks)
    return pd.concat(
        [
            cross(run, BASELINES, {name: setting}, own=True, fits=1)
            for name, setting in named.items()
        ],
        ignore_index=True,
    )


def gains(run: Run, pairs: Sequence[tuple[str, str]], attacks: Attacks) -> pd.DataFrame:
    """AUROC of the first detector of each pair less that of the second, paired, each fitted and
    tested on the same attack: columns of DIFFERENCE without `fits`.

    BASELINES are fitted once, other detectors as often as the preset says.
    """
    rows = []
    for name, setting in _named(attacks).items():
        for a, b in pairs:
            fits = [1 if one in BASELINES else None for one in (a, b)]
            both = [
                _evaluated(run, one, setting, setting, count, None)
                for one, count in zip((a, b), fits, strict=True)
            ]
            value, (low, high) = metrics.auroc_difference(*map(both_sides, both), seed=run.seed)
            found = {"difference": f"{a} - {b}", "fitted_on": name, "tested_on": name}
            found |= {"auroc": value, "low": low, "high": high, "n": both[0].record["n"]}
            rows.append(found)
    return frame(rows, DIFFERENCE[:-1])


def readings(run: Run, attacks: Attacks, names: Sequence[str] = ()) -> pd.DataFrame:
    """Detectors on each reading of the Jacobian, with the image ("jsd") and alone ("jacobian"), one
    fit each: columns input, reading, attack, then those of CELL.

    Args:
        names: readings as in `groups.READING_NAMES`; none: all.
    """
    chosen = {suffix: name for suffix, name in READING_NAMES.items() if not names or name in names}
    rows = []
    for attack, setting in _named(attacks).items():
        for kind in ("jsd", "jacobian"):
            detectors = [kind + suffix for suffix in chosen]
            found = cross(run, detectors, {attack: setting}, own=True, fits=1)
            words = [name.replace("_", " ") for name in chosen.values()]
            found.insert(0, "attack", attack)
            found.insert(0, "reading", words)
            found.insert(0, "input", kind)
            rows.append(found)
    return pd.concat(rows, ignore_index=True)


def zero_shares(run: Run, attack: str, names: Sequence[str] = (), **knobs: float) -> pd.Series:
    """The share of values of clean test images' Jacobians that are exactly 0, by reading; scaled
    readings have the zeros of the unscaled ones and are left out.
    """
    model, x = classifier(run).model, adversarial(run, attack, **knobs).x
    found = {}
    for suffix, name in READING_NAMES.items():
        reading = READINGS[suffix]
        if (not names or name in names) and not reading["scaled"]:
            zeros = views.jacobian(model, x, **reading) == 0
            found[name.replace("_", " ")] = zeros.float().mean().item()
    return pd.Series(found, dtype=float)


def across_levels(
    run: Run,
    detectors: Sequence[str],
    ladders: Mapping[str, Sequence[str]],
    *,
    several: Sequence[str] = (),
) -> pd.DataFrame:
    """Detectors fitted at each level of an attack, tested at each level of the same attack: columns
    attack (as paper 002 calls it), then those of CELL; levels are numbers from 1.

    Args:
        ladders: of `levels`.
        several: detectors that are fitted as often as the preset says, the others once.
    """
    rows = [frame([], CELL).assign(attack="")]
    for attack, ladder in ladders.items():
        numbered = {k: (setting, {}) for k, setting in enumerate(ladder, 1)}
        for name in detectors:
            fits = None if name in several else 1
            found = cross(run, [name], numbered, fits=fits)
            found.insert(0, "attack", IN_002[attack])
            rows.append(found)
    return pd.concat(rows[1:] or rows, ignore_index=True)


def at_equal_rms(
    run: Run, attacks: Mapping[str, tuple[str, dict]], to: str
) -> dict[str, tuple[str, dict]]:
    """The attacks that have a size, brought to the mean rms of the attack `to`, and that attack.

    Args:
        attacks: of `sized`.
    """
    wanted, root = mean_rms(_attacked(run, attacks[to])), float(np.prod(run.data.shape) ** 0.5)
    found = {}
    for name, (setting, knobs) in attacks.items():
        if name == to:
            found[name] = (setting, knobs)
        elif name in LADDERS:
            most = root if name == "iterative_l2" else 1.0  # l2 norm or largest change of all ones
            rms_at = partial(_rms_at, run, setting)
            eps = sizing.budget_for_rms(rms_at, wanted, start=wanted * most, largest=most)
            found[name] = (setting, {"eps": eps})
    return found


def rates_beside_002(run: Run, own: pd.DataFrame, attacks: Attacks) -> pd.DataFrame:
    """Table 2 of paper 002 beside ours: the classifier's accuracy on clean and on attacked images,
    and the rates of a detector on both, at its own rule.

    Args:
        own: cells of one detector, each tested on the attack that it was fitted on.
    """
    base, rows = classifier(run), []
    for name, (setting, knobs) in _named(attacks).items():
        for row in own[own["tested_on"] == name].to_dict("records") if name in IN_002 else []:
            under = accuracy_under(adversarial(run, setting, **knobs))
            rates = (
                ("f_clean", base.record["accuracy"], base.record["n"]),
                ("f_adversarial", under, row["n"]),
                ("d_clean", row["tnr"], row["n"]),
                ("d_adversarial", row["tpr"], row["n"]),
            )
            for statistic, here, n in rates:
                rate = {"attack": IN_002[name], "statistic": statistic, "here": here, "n": n}
                rows.append({**rate, "interval": list(wilson(here * n, n))})
    if not rows:
        return pd.DataFrame(columns=["attack", "statistic", "paper", "here", "n", "interval"])
    return papers.compare("002.table2", rows, dataset=pictures_of_002(run))


def levels_beside_002(run: Run, cells: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Table 3 (of photographs table 4) of paper 002 beside ours, and its name.

    The print does not say which axis is the level of the training; `paper` reads it as the columns,
    `paper_other_axis` as the rows.

    Args:
        cells: of `across_levels`, of one detector.
    """
    name = "002.table4" if run.data.shape[1] > 100 else "002.table3"
    words = {"fitted_on": "eps_fit", "tested_on": "eps_test", "accuracy": "here"}
    columns = ["attack", "detector", *words.values(), "auroc", "n", "fits"]
    ours = cells.rename(columns=words)[columns]
    if ours.empty:
        return name, ours.assign(paper=[], paper_other_axis=[])
    turned = ours.rename(columns={"eps_fit": "eps_test", "eps_test": "eps_fit"})
    dataset = pictures_of_002(run)
    compared = papers.compare(name, ours.to_dict("records"), dataset=dataset)
    other = papers.compare(name, turned.to_dict("records"), dataset=dataset)
    return name, compared.assign(paper_other_axis=other["paper"].to_numpy())


def pictures_of_002(run: Run) -> str:
    """The data set of paper 002 that stands beside this one: its own, or else MNIST."""
    dataset = run.parameters["DATASET"]
    return dataset if dataset in ("cifar10", "imagenet_subset") else "mnist"


def _attacked(run: Run, chosen: tuple[str, dict]) -> AdversarialSet:
    return adversarial(run, chosen[0], **chosen[1])


def _rms_at(run: Run, setting: str, eps: float) -> float:
    return mean_rms(adversarial(run, setting, eps=eps))


def as_printed(run: Run, detectors: Sequence[str], attacks: Attacks) -> pd.DataFrame:
    """The matrix of paper 000's tables 7 to 9: a row a cell, with the balanced accuracy `here` at
    the paper's own rule (a score above 0 is adversarial) and its interval `low`, `high`.

    Beside it AUROC with its interval and `range`, the smallest and the largest over the fits.
    """
    rows = []
    for name, fit, test in _cells(detectors, attacks, None, False):
        found = _evaluated(run, name, fit[1], test[1], None, None).record
        every, rule = found["all"], found["all"]["at_decision"]
        (hit, hits), (alarm, alarms) = rule["tpr_interval"], rule["fpr_interval"]
        rows.append(
            {
                "detector": name,
                "fitted_on": fit[0],
                "tested_on": test[0],
                "success": adversarial(run, test[1][0], **test[1][1]).record["success_rate"],
                "here": rule["accuracy"],
                "low": (hit + 1 - alarms) / 2,
                "high": (hits + 1 - alarm) / 2,
                "tpr": rule["tpr"],
                "tnr": 1 - rule["fpr"],
                **{key: every[key] for key in ("auroc", "auroc_interval", "n")},
                "range": every["auroc_range"],
                "auroc_successful": (found["successful"] or {}).get("auroc"),
                **{key: found[key] for key in ("fits", "collapses", "collapsed")},
            }
        )
    return pd.DataFrame(rows)


def differences(
    run: Run,
    pairs: Sequence[tuple[str, str]],
    detectors: Sequence[str],
    attacks: Attacks,
    fits: int | None = None,
) -> pd.DataFrame:
    """`difference` of every pair whose two detectors are among `detectors`, one below the other."""
    there = [pair for pair in pairs if set(pair) <= set(detectors)]
    found = [difference(run, a, b, attacks, fits=fits) for a, b in there]
    return pd.concat(found, ignore_index=True) if found else frame([], DIFFERENCE)


def mixtures(run: Run, detectors: Sequence[str], attacks: Sequence[str]) -> list[dict]:
    """Paper 000's table 6, one detector for all attacks, tested on images with one attack each.

    `mixture`: "one" trains on as many attacked as clean images, each with one attack, drawn evenly;
    "all" on every attack of each clean image (one fit).
    """
    one, rows = "+".join(attacks), []
    for name in detectors:
        for mixture, fit, fits in (("one", one, None), ("all", "&".join(attacks), 1)):
            found = evaluation(run, name, fit, one, fits=fits).record["all"]
            measured = {key: found[key] for key in ("auroc", "auroc_interval", "n")}
            here = found["at_decision"]["accuracy"]
            rows.append({"detector": name, "mixture": mixture, "here": here, **measured})
    return rows


def mixture_by_attack(run: Run, detectors: Sequence[str], attacks: Sequence[str]) -> list[dict]:
    """AUROC on each attack of a detector trained on it (`own`), on all of them mixed (`mixture`),
    on all but it (`without`: one fit; missing where the preset fits one detector a cell).
    """
    several, one, rows = run.preset["detector_seeds"] > 1, "+".join(attacks), []
    for name in detectors:
        for attack in attacks:
            others = "+".join(other for other in attacks if other != attack) or attack
            own = evaluation(run, name, attack, attack).record["all"]
            mixed = evaluation(run, name, one, attack).record["all"]
            left = evaluation(run, name, others, attack, fits=1) if several else None
            rows.append(
                {
                    "detector": name,
                    "attack": attack,
                    "own": own["auroc"],
                    "mixture": mixed["auroc"],
                    "without": left.record["all"]["auroc"] if left else float("nan"),
                    "n": own["n"],
                }
            )
    return rows


VARIATIONS = ("no_dropout", "convolutions_3", "constant_filters", "dense_1", "no_pool")


def appendix_a(run: Run, attack: str, detectors: Sequence[str] = ("id", "jsd")) -> list[dict]:
    """Paper 000's appendix A on one attack: six changes of the baselines, one at a time, from
    `base`, six convolutions of 3x3 with pools at half the preset's epochs.

    Returns:
        a row a detector and variation; none where the preset's `variation_fits` is 0.
    """
    fits, rows = run.preset["variation_fits"], []
    base = {
        "architecture": "appendix_a",
        "width": run.preset["variation_width"],
        "epochs": -(-run.preset["detector_epochs"] // 2),
    }
    variants = {"base": {}}
    variants |= {name: {"architecture": f"appendix_a-{name}"} for name in VARIATIONS}
    variants |= {"sgd": {"optimizer": "sgd"}}
    for name in detectors if fits else ():
        for variation, changed in variants.items():
            found = evaluation(run, name, attack, attack, fits=fits, variant=base | changed)
            every = found.record["all"]
            rows.append(
                {
                    "detector": name,
                    "variation": variation,
                    "attack": attack,
                    "accuracy": every["at_decision"]["accuracy"],
                    "auroc": every["auroc"],
                    "interval": every["auroc_interval"],
                    "range over fits": every["auroc_range"],
                    "n": every["n"],
                    "fits": fits,
                }
            )
    return rows


def latency(run: Run, attack: str, *, images: int = 256) -> pd.DataFrame:
    """Milliseconds of SPD, fitted on `attack`, and of its parts on one batch of test images: the
    median of five passes; `detector` is its network alone.
    """
    x = run.data.test[:images].pixels()
    spd, learned = detector(run, "spd", attack)[0], learned_saliency(run).model
    with torch.no_grad():
        features, logits = learned.features(x)
        labels, size = logits.argmax(1), x.shape[2:]
        viewed = learned.decode(features, labels, size) * x
        parts = {
            "classifier": partial(learned.features, x),
            "decoder": partial(learned.decode, features, labels, size),
            "detector": partial(spd.net, viewed),
            "spd": partial(spd.score, x),
        }
        took = cost.seconds(*parts.values())
    table = pd.DataFrame({"part": list(parts), "milliseconds": [1000 * t for t in took]})
    return table.assign(images=len(x))


def regions(run: Run, attacks: Sequence[str]) -> pd.DataFrame:
    """How far the region that Grad-CAM marks moves under each attack: a row each.

    Returns:
        the mean overlap (intersection over union of the hottest fifth) of the clean image's map
        with that of the attacked image (`attacked`), of the attacked image asked about the label
        that it had (`old class`), of the image with noise of the attack's size (`noisy`), and of
        another clean image; `closed` is the share of the gap between `noisy` and `attacked` that
        asking about the old class closes; `interval` is that of the gap, paired, and `n` counts the
        fooled images whose clean map has a region.
    """
    rows = []
    for attack in attacks:
        pairs = adversarial(run, attack)
        clean = maps(run, "grad_cam", pairs.x, pairs.prediction)
        noisy = matched_noise(pairs.x, pairs.x_adv, pairs.index, "sign", run.seed)
        others = {
            "attacked": maps(run, "grad_cam", pairs.x_adv, pairs.prediction_adv),
            "old class": maps(run, "grad_cam", pairs.x_adv, pairs.prediction),
            "noisy": maps(run, "grad_cam", noisy),
            "two clean images": clean.roll(1, 0),
        }
        found = {
            name: distances.overlaps(clean, other)[pairs.success].cpu().numpy()
            for name, other in others.items()
        }
        there = ~pd.isna(found["attacked"])  # an empty map has no region
        gap = (found["noisy"] - found["attacked"])[there]
        means = {n: float(v[there].mean()) if len(gap) else None for n, v in found.items()}
        bounds = distances.mean_interval(gap, run.seed) if len(gap) else None
        moved = gap.mean() if len(gap) else 0.0
        closed = 1 - (means["noisy"] - means["old class"]) / moved if moved > 0 else None
        found = {**means, "closed": closed, "interval": bounds, "n": len(gap)}
        rows.append({"attack": attack, **found})
    return pd.DataFrame(rows)


def noise_flagged(run: Run, attack: str, modifications: Mapping[str, dict]) -> pd.DataFrame:
    """The label rule on clean images with noise of the attack's size, on those that it fools.

    Args:
        modifications: as of `consistency`, by name.
    Returns:
        a row each: the shares flagged of the adversarial images, of the same images with noise
        instead (of those that the attack fooled), and of all clean images, with intervals.
    """
    model, pairs = classifier(run).model, adversarial(run, attack)
    answers = consistency(run, attack, dict(modifications))
    success, mean = answers.tensors["success"].bool(), answers.tensors["mean"].to(run.device)
    noisy = matched_noise(pairs.x, pairs.x_adv, pairs.index, "sign", run.seed)
    before = predict(model, noisy).argmax(1)
    laid = between_0_and_1(maps(run, "grad_cam", noisy))
    rows = []
    for name, modification in modifications.items():
        knobs = {knob: value for knob, value in modification.items() if knob != "maps"}
        after = predict(model, emphasised(noisy, laid, mean, **knobs)).argmax(1)
        flagged = (after != before)[success.to(after.device)]
        rates = label_rule(answers, name)
        rows.append(
            {
                "asked": name,
                "attack flagged": rates["detection"],
                "attack_interval": rates["detection_interval"],
                "n": len(flagged),
                "noise flagged": flagged.float().mean().item(),
                "noise_interval": wilson(int(flagged.sum()), len(flagged)),
                "all clean flagged": 1 - rates["ospa"],
            }
        )
    return pd.DataFrame(rows)
