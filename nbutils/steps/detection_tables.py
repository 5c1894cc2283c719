"""Tables of lecture 07: input sensitivity, GCD and its rivals beside what paper 004 prints and
beside what could overturn it. Tidy data frames, as those of `steps.tables`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from nbutils import InputError
from nbutils.detectors import scalars
from nbutils.detectors.base import Detector, scores_of
from nbutils.detectors.groups import SCALARS, TRAINED
from nbutils.evaluation import distances, metrics, papers
from nbutils.evaluation.intervals import auroc_interval, interval, wilson
from nbutils.evaluation.tables import DIFFERENCE, frame
from nbutils.evaluation.toy import toy_net, toy_points
from nbutils.models.contract import predict
from nbutils.steps import tables
from nbutils.steps.adversarial import AdversarialSet, adversarial, setting_of
from nbutils.steps.classifier import classifier
from nbutils.steps.detector import fitted
from nbutils.steps.evaluation import evaluation
from nbutils.steps.run import Run

PAPER_ATTACKS = ("fgsm", "pgd", "deepfool", "carlini_wagner_l2", "ddn")
PAPER_DETECTORS = {  # paper 004's names, and ours: of DET_IS and GCD the readings as printed
    "det_org": "id",
    "det_sal": "jsd",
    "det_is": "insen",
    "pixeldefend": "pixel_defend",
    "tws": "tws",
    "mds": "mahalanobis",
    "gcd": "gcd",
}
TIE = 0.005  # of AUROC: as far as the paper's two decimals tell two detectors apart
TABLE2 = (
    "attack",
    "targeted",
    "detector",
    "statistic",
    "paper",
    "here",
    "low",
    "high",
    "n",
    "fits",
)
WINS = ("detector", "paper", "here", "n_attacks")
DISTANCE = ("images", "scalar", "rank", "low", "high", "n")
BORDER = (
    "attack",
    "setting",
    "beyond",
    "on_border",
    "detector",
    "fitted_on",
    "auroc",
    "low",
    "high",
    "success",
    "l2",
    "n",
    "fits",
    "collapsed",
)
SUPERVISION = (
    "detector",
    "supervision",
    "fitted_on",
    "tested_on",
    "auroc",
    "low",
    "high",
    "n",
    "collapsed",
)
BESIDE_SCALARS = ("detector", "attack", "scalar", "difference", "low", "high", "n", "collapsed")
EPS = ("attack", "eps_255", "detector", "auroc", "low", "high", "success", "n", "collapsed")
OF_DISTANCE = ("input_sensitivity", "max_softmax", "margin")  # scalars beside Dist_z
KAPPAS = (0, 1, 2, 5, 10, 20, 50)  # the lead in logits that C&W asks for
OVERSHOOTS = (0.02, 0.2, 0.5, 1.0)  # of DeepFool; the first is the paper's, at the border
PUSHES = (1.0, 1.2, 1.5, 2.0)  # factors on DDN's perturbation
LEAST_SURE = 0.1  # share of the rightly read clean images that counts as low confidence
MOST = 1000  # clean images that are sorted into sure and unsure ones
FEWEST = 3  # images that have a rank correlation
L2, SIGN = "004.deepfool", "004.fgsm"  # an attack of either kind, where none is at hand
ON_THE_ATTACK = ("gcd", "gcd_cured", "mahalanobis")
ON_NO_ATTACK = ("mahalanobis_sum", "tws", "pixel_defend", "margin", "noise")


def of_paper_004(run: Run, attacks: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Our names of attacks -> those of paper 004, and whether they are targeted; attacks that its
    table 2 has not are left out, and of several of ours that are one of its all but the first.

    "004.carlini_wagner_l2_quick" is its C&W in fewer steps.
    """
    found: dict[str, tuple[str, bool]] = {}
    for name in attacks:
        theirs = name.removeprefix("004.").removesuffix("_targeted").removesuffix("_quick")
        if theirs in PAPER_ATTACKS:
            known = (theirs, bool(setting_of(run, name).get("targeted")))
            if known not in found.values():
                found[name] = known
    return found


def table2(run: Run, cells: pd.DataFrame, attacks: Sequence[str]) -> pd.DataFrame:
    """Table 2 of paper 004 beside ours: the AUROC of seven detectors, each fitted on the attack
    that it is tested on, and the accuracy that the attack leaves the classifier.

    Args:
        cells: rows of CELL; those of PAPER_DETECTORS that were fitted and tested on one attack
            count. Detectors that are missing have no row.
    """
    ours = {detector: theirs for theirs, detector in PAPER_DETECTORS.items()}
    own = cells[cells["fitted_on"] == cells["tested_on"]]
    rows = []
    for name, (attack, targeted) in of_paper_004(run, attacks).items():
        pairs, key = adversarial(run, name), {"attack": attack, "targeted": targeted}
        under, n = tables.accuracy_under(pairs), len(pairs.x)
        low, high = wilson(round(under * n), n)
        base = {"detector": "none", "statistic": "base_accuracy", "here": under}
        rows.append({**key, **base, "low": low, "high": high, "n": n, "fits": 0})
        for cell in own[own["tested_on"] == name].to_dict("records"):
            if cell["detector"] in ours:
                measured = {column: cell[column] for column in ("low", "high", "n", "fits")}
                auc = {"detector": ours[cell["detector"]], "statistic": "auc"}
                rows.append({**key, **auc, "here": cell["auroc"], **measured})
    if not rows:
        return frame([], TABLE2)
    found = papers.compare("004.table2", rows, dataset=tables.pictures_of_002(run))
    return found[list(TABLE2)]


def wins(table: pd.DataFrame) -> pd.DataFrame:
    """On how many attacks each detector is the best one, or within TIE of it, in paper and here:
    columns of WINS.

    Args:
        table: of `table2`. An attack counts where every detector of the table has a number.
    """
    auc = table[table["statistic"] == "auc"]
    sides = {
        side: auc.pivot(index=["attack", "targeted"], columns="detector", values=side).astype(float)
        for side in ("paper", "here")
    }
    whole = sides["here"].notna().all(axis=1) & sides["paper"].notna().all(axis=1)
    counts = {}
    for side, values in sides.items():
        values = values[whole]
        best = values.max(axis=1)
        counts[side] = values.ge(best - TIE - 1e-9, axis=0).sum()
    names = [name for name in PAPER_DETECTORS if name in sides["here"].columns]
    rows = [
        {
            "detector": name,
            **{side: int(count[name]) for side, count in counts.items()},
            "n_attacks": int(whole.sum()),
        }
        for name in names
    ]
    return frame(rows, WINS)


def differences(
    run: Run, pairs: Sequence[tuple[str, str]], attacks: tables.Attacks, fits: int | None = None
) -> pd.DataFrame:
    """AUROC of the first detector of each pair less that of the second, paired, each fitted and
    tested on the same attack: columns of DIFFERENCE.

    A pair with a scalar that this classifier does not have is left out.
    """
    lacking = {"dist_z"} - set(tables.confidence_scalars(run))
    found = [
        tables.difference(run, a, b, attacks, own=True, fits=fits)
        for a, b in pairs
        if not lacking & {a, b}
    ]
    return pd.concat(found, ignore_index=True) if found else frame([], DIFFERENCE)


def distance(run: Run, sets: Mapping[str, AdversarialSet]) -> pd.DataFrame:
    """How the input sensitivity, and plainer measures of doubt, rise as Dist_z falls (insight I of
    paper 004): Spearman's correlation with Dist_z over images, with its bootstrap interval; columns
    of DISTANCE.

    Rows are of the toy net's points ("toy"), the clean images, and each attack's images that fooled
    the classifier. Where fewer than FEWEST did, the attack is left out; where the classifier has no
    last dense layer, and so no Dist_z, all but the toy is.
    """
    groups: list[tuple[str, nn.Module, torch.Tensor]] = []
    groups.append(("toy", toy_net(run.seed), toy_points(run.seed)[0]))
    if "dist_z" in tables.confidence_scalars(run):
        model = classifier(run).model
        if sets:
            groups.append(("clean", model, next(iter(sets.values())).x))
        fooled = ((name, one.x_adv[_fooled(one)]) for name, one in sets.items())
        groups += [(name, model, x) for name, x in fooled]
    rows = []
    for name, model, x in groups:
        if len(x) < FEWEST:
            continue
        away = -_scalar("dist_z", model, x)
        for scalar in OF_DISTANCE:
            rank, (low, high) = _ranked(_scalar(scalar, model, x), away, run.seed)
            found = {"images": name, "scalar": scalar, "rank": rank}
            rows.append({**found, "low": low, "high": high, "n": len(x)})
    return frame(rows, DISTANCE)


def _scalar(name: str, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    function = getattr(scalars, name)
    with torch.no_grad():
        return torch.cat([function(model, part).double() for part in x.split(256)])


def _ranked(a: torch.Tensor, b: torch.Tensor, seed: int) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation of two scores (n,) over images, and its bootstrap interval, for which
    the images that are drawn are ranked anew.
    """
    rows = torch.from_numpy(np.random.default_rng([seed, 6]).integers(len(a), size=(1000, len(a))))
    a, b = a.cpu(), b.cpu()
    draws = distances.rank_correlation(a[rows], b[rows])
    return float(distances.rank_correlation(a[None], b[None])[0]), interval(draws)


def _fooled(pairs: AdversarialSet) -> torch.Tensor:
    """(n,) which images are read otherwise than before: a targeted attack's near misses too."""
    return pairs.prediction_adv != pairs.prediction


@dataclass(frozen=True)
class _Group:
    """Attacked images (n,c,h,w) beside the clean ones that they were made of."""

    attack: str
    setting: str
    beyond: float
    on_border: bool
    x_adv: torch.Tensor


def border(run: Run, detectors: Sequence[str], fitted_on: str, fits: int = 1) -> pd.DataFrame:
    """Detectors fitted on one attack, on images at the border between two classes and beyond it:
    what tells a property of L2 attacks from nearness to the border. Columns of BORDER.

    At the border end C&W asking for no confidence, DeepFool, DDN, and PGD where it stops at each
    image's first success; beyond it C&W with growing confidence, DeepFool with growing overshoot,
    DDN's images pushed on along their own line, and the whole of PGD. `auroc` is of the images that
    are read otherwise than before against their own clean versions, with the paired bootstrap
    interval; `success` is their share, `l2` their mean distance, `n` their number. An attack that
    changed no label has no row.

    Clean images: the least sure tenth of those that are read rightly (the tenth with the smallest
    margin, so `margin` finds it by definition), and those that are misread, against the others,
    which are surely and rightly read, with Newcombe's interval. They stand for a border that nobody
    attacked: `beyond`, `success` and `l2` are 0.

    Args:
        fitted_on: the attack that trained detectors are fitted on.
        fits: detectors fitted, each with a seed of its own; scores are not averaged, AUROCs are.
    """
    made, told = {}, {}
    for name in detectors:
        several = range(fits if name in TRAINED else 1)
        each = [fitted(run, name, fitted_on, i) for i in several]
        made[name] = [one for one, _ in each]
        ended = [artifact.record.get("collapsed", 0) for _, artifact in each if artifact]
        counts = {"fits": len(each), "collapsed": sum(ended)}
        told[name] = {"detector": name, "fitted_on": fitted_on, **counts}
    model, pairs = classifier(run).model, adversarial(run, "004.ddn")
    clean = {name: scores_of(each, pairs.x) for name, each in made.items()}
    rows = []
    for group in _groups(run, pairs):
        won = predict(model, group.x_adv).argmax(1) != pairs.prediction
        if not won.any():
            continue
        x_adv, l2 = group.x_adv[won], distances.sizes(pairs.x, group.x_adv)["l2"][won]
        where = {
            "attack": group.attack,
            "setting": group.setting,
            "beyond": group.beyond,
            "on_border": group.on_border,
            "success": won.double().mean().item(),
            "l2": l2.mean().item(),
            "n": int(won.sum()),
        }
        for name, each in made.items():
            sides = clean[name][:, won], scores_of(each, x_adv)
            rows.append({**where, **told[name], **_paired(*sides, run.seed)})
    rows += [{**row, **told[row["detector"]]} for row in _unsure(run, made)]
    return frame(rows, BORDER)


def _groups(run: Run, pushed: AdversarialSet) -> Iterator[_Group]:
    for kappa in KAPPAS:
        at = kappa == 0
        changed = {} if at else {"confidence": float(kappa)}
        x_adv = adversarial(run, "004.carlini_wagner_l2_quick", **changed).x_adv
        yield _Group("carlini_wagner_l2", f"confidence {kappa}", float(kappa), at, x_adv)
    for overshoot in OVERSHOOTS:
        at = overshoot == OVERSHOOTS[0]
        x_adv = adversarial(run, "004.deepfool", **({} if at else {"overshoot": overshoot})).x_adv
        beyond = 0.0 if at else overshoot
        yield _Group("deepfool", f"overshoot {overshoot:g}", beyond, at, x_adv)
    for factor in PUSHES:
        x_adv = (pushed.x + factor * (pushed.x_adv - pushed.x)).clamp(0, 1)
        yield _Group("ddn", f"pushed x {factor:g}", factor - 1, factor == 1, x_adv)
    stopped, whole = (adversarial(run, name) for name in ("004.pgd_early_stopped", "004.pgd"))
    steps = whole.setting["steps"]
    yield _Group("pgd", "stopped at first success", 0.0, True, stopped.x_adv)
    yield _Group("pgd", f"{steps} steps", float(steps), False, whole.x_adv)


def _unsure(run: Run, made: Mapping[str, list[Detector]]) -> Iterator[dict]:
    """Rows of BORDER of the clean groups, but for what is told of a detector's fits."""
    images = run.data.test[:MOST]
    x, logits = images.pixels(), predict(classifier(run).model, images.x)
    right = logits.argmax(1) == images.y
    first, second = logits.topk(2, 1).values.unbind(1)
    order = (first - second).masked_fill(~right, torch.inf).argsort()
    least = torch.zeros_like(right)
    least[order[: int(np.ceil(LEAST_SURE * int(right.sum())))]] = True
    groups = {"least sure": least, "misread": ~right}
    for name, each in made.items():
        scored = scores_of(each, x).double().numpy(force=True)
        for setting, rows in groups.items():
            chosen, others = (mask.numpy(force=True) for mask in (rows, right & ~least))
            n, m = int(chosen.sum()), int(others.sum())
            if not (n and m):
                continue
            auroc = float(np.mean([metrics.auroc(one[others], one[chosen]) for one in scored]))
            low, high = auroc_interval(auroc, m, n)
            yield {
                "attack": "clean",
                "setting": setting,
                "beyond": 0.0,
                "on_border": True,
                "detector": name,
                "auroc": auroc,
                "low": low,
                "high": high,
                "success": 0.0,
                "l2": 0.0,
                "n": n,
            }


def _paired(clean: torch.Tensor, adversarial: torch.Tensor, seed: int) -> dict[str, float]:
    """AUROC of scores (fits,n) of the same images with its paired bootstrap interval."""
    nothing = torch.zeros(clean.shape[1], dtype=torch.bool)  # no second group
    found = metrics.evaluate(clean, adversarial, nothing, clean, decision=None, seed=seed)["all"]
    low, high = found["auroc_interval"]
    return {"auroc": found["auroc"], "low": low, "high": high}


def by_eps(
    run: Run,
    detectors: Sequence[str],
    attacks: Sequence[str] = ("004.fgsm", "004.pgd"),
    factors: Sequence[float] = (0.25, 0.5, 1, 2),
    fits: int = 1,
) -> pd.DataFrame:
    """Detectors fitted and tested at several sizes of each attack, each at that size itself:
    columns of EPS.

    Args:
        factors: on the setting's `eps`; PGD's step keeps its share of it.
    Raises:
        InputError: an attack has no `eps`.
    """
    sized = {name: setting_of(run, name).get("eps") for name in attacks}
    for name, eps in sized.items():
        if eps is None:
            raise InputError(f"{name} has no eps that could be changed: choose an attack with one.")
    found = []
    for name, eps in sized.items():
        for factor in factors:
            changed = {} if factor == 1 else {"eps": factor * eps}
            cells = tables.cross(run, detectors, {name: (name, changed)}, own=True, fits=fits)
            found.append(cells.assign(attack=name, eps_255=255 * factor * eps))
    return pd.concat(found, ignore_index=True)[list(EPS)] if found else frame([], EPS)


def supervision(
    run: Run, attacks: Sequence[str], on_none: Sequence[str] = ON_NO_ATTACK, fits: int = 1
) -> pd.DataFrame:
    """Detectors at equal supervision: fitted on the attack that they are tested on, on another one,
    on none (`on_none`); columns of SUPERVISION.

    The other attack is of the other kind: to attacks with an l-infinity budget the first of
    `attacks` without one, and the reverse. Of what never sees an attack `fitted_on` is empty.
    """
    of_sign = [name for name in attacks if tables.within_linf(run, name)]
    of_l2 = [name for name in attacks if name not in of_sign]
    other = {True: next(iter(of_l2), L2), False: next(iter(of_sign), SIGN)}
    rows = []
    for test in attacks:
        cells = [(name, "the attack", test) for name in ON_THE_ATTACK]
        cells += [(name, "another attack", other[test in of_sign]) for name in ON_THE_ATTACK]
        cells += [(name, "none", "") for name in on_none]
        for name, kind, fit in cells:
            record = evaluation(run, name, fit or test, test, fits=fits).record
            found = record["all"]
            low, high = found["auroc_interval"]
            key = {"detector": name, "supervision": kind, "fitted_on": fit, "tested_on": test}
            measured = {"auroc": found["auroc"], "low": low, "high": high, "n": found["n"]}
            rows.append({**key, **measured, "collapsed": record["collapsed"]})
    return frame(rows, SUPERVISION)


def against_scalars(
    run: Run, detectors: Sequence[str], attacks: Sequence[str], fits: int = 1
) -> pd.DataFrame:
    """Each detector less the trivial scalar that finds the attack best, paired on the same images;
    columns of BESIDE_SCALARS.

    The scalar is chosen on the tested images, which favours it.
    """
    rows = []
    for attack in attacks:
        alone = {name: evaluation(run, name, attack, attack) for name in SCALARS}
        best = max(SCALARS, key=lambda name: alone[name].record["all"]["auroc"])
        for name in detectors:
            found = evaluation(run, name, attack, attack, fits=fits)
            both = tables.both_sides(found), tables.both_sides(alone[best])
            value, (low, high) = metrics.auroc_difference(*both, seed=run.seed)
            key = {"detector": name, "attack": attack, "scalar": best, "difference": value}
            measured = {name: found.record[name] for name in ("n", "collapsed")}
            rows.append({**key, "low": low, "high": high, **measured})
    return frame(rows, BESIDE_SCALARS)
