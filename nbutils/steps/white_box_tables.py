"""Tables of lecture 08: what is left of each detector when the attacker knows it, beside what the
papers print. Tidy data frames, as those of `steps.tables`.
"""

import math
from collections.abc import Sequence
from itertools import product

import pandas as pd
import torch

from nbutils import InputError
from nbutils.adaptive import checks
from nbutils.adaptive.objectives import joint
from nbutils.adaptive.referee import selective_pgd
from nbutils.adaptive.settings import FPRS, OF_004, SIGMAS, budget
from nbutils.adaptive.surrogates import zero_gradients
from nbutils.attacks import ATTACKS
from nbutils.detectors.base import scores, threshold_at
from nbutils.detectors.groups import COMBINED, TRAINED
from nbutils.evaluation import papers
from nbutils.evaluation.controls import matched_noise
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.metrics import auroc
from nbutils.evaluation.tables import frame
from nbutils.models.contract import predict
from nbutils.steps.classifier import classifier
from nbutils.steps.detection_tables import of_paper_004
from nbutils.steps.end_to_end import end_to_end
from nbutils.steps.run import Run
from nbutils.steps.tables import pictures_of_002
from nbutils.steps.white_box import Played, guard, white_box

KNOWS = {  # game -> who plays it
    "plain": "not knowing it, l-infinity",
    "plain_l2": "not knowing it, L2",
    "alternating": "paper 000",
    "mixed": "papers 000, 002 (mix)",
    "both_orders": "paper 003",
    "004.pgd": "paper 004",
    "linf_half": "referee, half the box",
    "linf": "referee, the box",
    "l2": "referee, l2 ball",
    "carlini_wagner_l2": "referee, least L2",
}
REFEREE = ("linf_half", "linf", "l2", "carlini_wagner_l2")
WITHOUT = {
    "linf": "plain",
    "linf_half": "linf_half",
    "l2": "plain_l2",
    "carlini_wagner_l2": "plain_l2",
}  # the same, blind
PRINTED = {  # detector -> the game that its paper prints for it
    "id": "alternating",
    "id_high_pass": "alternating",
    "jsd": "alternating",
    "smd": "alternating",
    "spd": "alternating",
    "first_layer": "mixed",
    "first_layer_jacobian": "mixed",
    "metzen_late": "mixed",
    "colour_reversing": "both_orders",
    "gradcam_colour_reversing": "both_orders",
    "insen": "004.pgd",
    "insen_log": "004.pgd",
    "gcd": "004.pgd",
    "gcd_cured": "004.pgd",
}
COLOURED = ("colour_reversing", "gradcam_colour_reversing")
CURED = {"id_high_pass": "id", "insen_log": "insen", "gcd_cured": "gcd"}
OF_000 = ("id", "jsd", "smd", "spd")
ROUNDS = (1, 2, 5, 10, 20, 50)  # T of paper 000's attack
FACTORS = (0.5, 1.0, 2.0)  # of the budget
LEDGER = (
    "detector",
    "game",
    "auroc",
    "tpr_at_fpr_5",
    "fooled",
    "success_1",
    "success_5",
    "low",
    "high",
    "success_10",
    "rms",
    "linf",
    "l2",
    "l2_ratio",
    "passes",
    "pass_ratio",
    "zero",
    "n",
    "collapsed",
)
TABLE3_000 = (
    "adversarial_training",
    "detector",
    "statistic",
    "paper",
    "here",
    "low",
    "high",
    "n",
)
HARDENED = (
    "detector",
    "adversarial_training",
    "game",
    "tpr",
    "tnr",
    "balanced",
    "success_5",
    "low",
    "high",
    "n",
    "collapsed",
)
TABLE3_004 = (
    "attack",
    "targeted",
    "detector",
    "paper",
    "here",
    "low",
    "high",
    "success_1",
    "success_10",
    "l2",
    "n",
)
TABLE4_004 = ("attack", "targeted", "detector", "paper", "here", "success", "n")
FORMS = ("detector", "attack", "form", "success_5", "low", "high", "n")
AGAINST_EPS = ("detector", "game", "eps_255", "success_5", "low", "high", "n")
ALTERNATIONS = ("detector", "rounds", "reading", "fooled", "success_5", "low", "high", "linf", "n")
MIXES = ("detector", "sigma", "fooled", "success_5", "low", "high", "n")
TRANSFERRED = ("detector", "attacker", "success_1", "success_5", "low", "high", "success_10", "n")
INFORMED = ("detector", "game", "map", "success_5", "low", "high", "n")
CHECKED = ("check", "detector", "measured", "says")
END_TO_END = ("attacker", "accuracy", "low", "high", "flagged", "n")


def chosen(run: Run, detectors: Sequence[str], fitted_on: str) -> dict[str, str]:
    """These detectors, each with "" where it is asked here, else why it is not: its fit collapsed,
    it stands in for one that did not, or it needs colour.
    """
    found = {}
    for name in detectors:
        if name in COLOURED and run.data.shape[0] != 3:
            found[name] = "needs colour"
        elif name in CURED and not guard(run, CURED[name], fitted_on).collapsed:
            found[name] = f"stands in for {CURED[name]}, which did not collapse"
        else:
            found[name] = "collapsed" if guard(run, name, fitted_on).collapsed else ""
    return found


def guards_of_004(run: Run, fitted_on: str) -> dict[str, str]:
    """Paper 004's "none", "det_is" and "gcd" -> our detectors, the cured ones where the plain ones
    collapsed.
    """
    known = chosen(run, ["insen", "insen_log", "gcd", "gcd_cured"], fitted_on)
    asked = [name for name, why in known.items() if not why]
    picked = {"none": "none"}
    for name in asked:
        picked["gcd" if name.startswith("gcd") else "det_is"] = name
    return picked


def ledger(
    run: Run, detectors: Sequence[str], fitted_on: str, games: Sequence[str] = ("plain", *REFEREE)
) -> pd.DataFrame:
    """Each detector under the plain attack, under its own paper's, and under the referee's: columns
    of LEDGER.

    `success_*`: the share of images that are misread and unseen at that rate of false positives (in
    percent), with Wilson's interval at 5; `auroc` and `tpr_at_fpr_5` are of the same images;
    `l2_ratio` is the median, over images that pass here and are misread there, of the size beside
    that of the same kind of attack that knows no detector; `pass_ratio` compares the classifier's
    passes an image with that attack's.
    """
    rows = []
    for name in detectors:
        own = [PRINTED[name]] if name in PRINTED else []
        for game in [games[0], *own, *games[1:]]:
            found = white_box(run, name, game, fitted_on)
            blind = WITHOUT.get(game, "plain")
            rows.append(_row(name, game, found, white_box(run, "none", blind, fitted_on)))
            rows[-1]["collapsed"] = guard(run, name, fitted_on).collapsed
    return frame(rows, LEDGER)


def _row(name: str, game: str, found: Played, blind: Played) -> dict:
    sides = [side.numpy(force=True) for side in (found.clean, found.score)]
    delta = (found.x_adv - found.x).flatten(1)
    passed, both = found.l2[found.won(0.05)], found.won(0.05) & blind.fooled & (blind.l2 > 0)
    ratio = (found.l2[both] / blind.l2[both]).median().item() if both.any() else None
    passes = sum(found.record[f"{way}_per_image"] for way in ("forwards", "backwards"))
    plain = sum(blind.record[f"{way}_per_image"] for way in ("forwards", "backwards"))
    return {
        "detector": name,
        "game": game,
        "auroc": auroc(*sides),
        "tpr_at_fpr_5": (found.score > found.thresholds[1]).double().mean().item(),
        "fooled": found.fooled.double().mean().item(),
        **_successes(found),
        "rms": found.l2.mean().item() / delta.shape[1] ** 0.5,
        "linf": delta.abs().amax(1).mean().item(),
        "l2": passed.median().item() if len(passed) else None,
        "l2_ratio": ratio,
        "passes": passes,
        "pass_ratio": passes / plain if plain else None,
        "zero": found.record["zero"],
        "n": len(found.x),
    }


def _successes(found: Played) -> dict:
    """Success at FPRS, with Wilson's interval at 5 %."""
    told = {f"success_{round(100 * rate)}": _share(found.won(rate)) for rate in FPRS}
    low, high = wilson(int(found.won(0.05).sum()), len(found.x))
    return {**told, "low": low, "high": high}


def _share(hits: torch.Tensor) -> float:
    return hits.double().mean().item()


def against_eps(run: Run, detectors: Sequence[str], fitted_on: str) -> pd.DataFrame:
    """Success at 5 % FPR of the referee's l-infinity attack, and of the plain one, against the size
    of the ball: columns of AGAINST_EPS. The step keeps its length.
    """
    eps, rows = _size(run)["eps"], []
    for name, game, factor in product(detectors, ("plain", "linf"), FACTORS):
        size = {} if factor == 1 else {"eps": eps * factor}
        found = white_box(run, name, game, fitted_on, **size)
        key = {"detector": name, "game": game, "eps_255": 255 * eps * factor, "n": len(found.x)}
        rows.append({**key, **_successes(found)})
    return frame(rows, AGAINST_EPS)


def hardened(
    run: Run, fitted_on: str, detectors: Sequence[str] = OF_000, game: str = "alternating_own"
) -> pd.DataFrame:
    """Adversarial training in rounds (paper 000, table 3): each detector before and after, under
    paper 000's attack and under the referee's. Columns of HARDENED.

    `tpr`, `tnr`, `balanced` at the detector's own rule, which only paper 000's attack is handed;
    `success_5` at 5 % FPR.
    """
    rows = []
    for name, rounds in product(detectors, (0, run.preset["white_box_rounds"])):
        known = guard(run, name, fitted_on, hardened=rounds)
        for played in (game, "linf"):
            found = white_box(run, name, played, fitted_on, hardened=rounds)
            rule = known.detector.own_threshold
            tpr, tnr = _share(found.score > rule), _share(found.clean <= rule)
            key = {"detector": name, "adversarial_training": "after" if rounds else "before"}
            rates = {"tpr": tpr, "tnr": tnr, "balanced": (tpr + tnr) / 2}
            if played != game:  # which stops at a threshold that is not this rule
                rates |= {"tpr": None, "balanced": None}
            end = {"n": len(found.x), "collapsed": known.collapsed}
            rows.append({**key, "game": played, **rates, **_successes(found), **end})
    return frame(rows, HARDENED)


def table3_000(run: Run, fitted_on: str) -> pd.DataFrame:
    """Table 3 of paper 000 beside ours: under its attack at the detector's own threshold the
    classifier's accuracy, and the share of attacked images that the detector finds.
    """
    rows = []
    for name, rounds in product(("smd", "spd"), (0, run.preset["white_box_rounds"])):
        found = white_box(run, name, "alternating_own", fitted_on, hardened=rounds)
        rule = guard(run, name, fitted_on, hardened=rounds).detector.own_threshold
        hits = {
            "classifier_accuracy": found.prediction_adv == found.y,
            "detector_accuracy": found.score > rule,
        }
        for statistic, right in hits.items():
            low, high = wilson(int(right.sum()), len(right))
            key = {"detector": name, "adversarial_training": "after" if rounds else "before"}
            told = {"here": _share(right), "low": low, "high": high, "n": len(right)}
            rows.append({**key, "statistic": statistic, **told})
    dataset = run.parameters["DATASET"]
    dataset = dataset if dataset in ("cifar10", "cats_dogs") else "mnist"
    return papers.compare("000.table3", rows, dataset=dataset)[list(TABLE3_000)]


def table3_004(
    run: Run, fitted_on: str, names: dict[str, str], attacks: Sequence[str] = tuple(OF_004)
) -> pd.DataFrame:
    """Table 3 of paper 004 beside ours: success of its eight attacks, each handed the threshold of
    5 % FPR, at which `here` is told. Columns of TABLE3_004.

    Args:
        names: the paper's "none", "det_is" and "gcd" -> our detectors.
    """
    rows, named = [], of_paper_004(run, attacks)
    for attack, (theirs, ours) in product(attacks, names.items()):
        found = white_box(run, ours, attack, fitted_on)
        passed = found.l2[found.won(0.05)]
        told = _successes(found)
        rows.append(
            {
                "attack": named[attack][0],
                "targeted": named[attack][1],
                "detector": theirs,
                "here": told.pop("success_5"),
                **told,
                "l2": passed.median().item() if len(passed) else None,
                "n": len(found.x),
            }
        )
    return papers.compare("004.table3", rows, dataset=pictures_of_002(run))[list(TABLE3_004)]


def table4_004(run: Run, fitted_on: str, names: dict[str, str]) -> pd.DataFrame:
    """Table 4 of paper 004 beside ours: the mean L2 of DDN's images that succeed."""
    rows, attacks = [], of_paper_004(run, ("004.ddn", "004.ddn_targeted"))
    for (name, (attack, targeted)), theirs in product(attacks.items(), ("none", "gcd")):
        found = white_box(run, names[theirs], name, fitted_on)
        won = found.won(0.05)
        here = found.l2[won].mean().item() if won.any() else None
        told = {"here": here, "success": _share(won), "n": len(won)}
        rows.append({"attack": attack, "targeted": targeted, "detector": theirs, **told})
    dataset = pictures_of_002(run)
    return papers.compare("004.table4", rows, dataset=dataset)[list(TABLE4_004)]


def forms(run: Run, fitted_on: str, detectors: Sequence[str]) -> pd.DataFrame:
    """The classifier of L + 1 classes, additive and as printed: columns of FORMS."""
    rows = []
    attacks = [name for name, (_, form) in OF_004.items() if form == "additive"]
    for name, attack, form in product(detectors, attacks, ("", "_printed")):
        found = white_box(run, name, f"{attack}{form}", fitted_on)
        key = {"detector": name, "attack": attack, "form": form[1:] or "additive"}
        rows.append({**key, **_successes(found), "n": len(found.x)})
    return frame(rows, FORMS)


def alternations(
    run: Run, fitted_on: str, detectors: Sequence[str] = ("smd", "spd")
) -> pd.DataFrame:
    """Paper 000's attack by its rounds T, and by both readings of its steps: columns of
    ALTERNATIONS.
    """
    rows = []
    for name, accumulate, rounds in product(detectors, (True, False), ROUNDS):
        knobs = {} if rounds == 5 else {"rounds": rounds}
        knobs |= {} if accumulate else {"accumulate": False}
        found = white_box(run, name, "alternating", fitted_on, **knobs)
        reading = "accumulated" if accumulate else "from the image"
        linf = (found.x_adv - found.x).flatten(1).abs().amax(1).mean().item()
        key = {"detector": name, "rounds": rounds, "reading": reading, "linf": linf}
        rows.append({**key, "fooled": _share(found.fooled), **_successes(found)})
        rows[-1]["n"] = len(found.x)
    return frame(rows, ALTERNATIONS)


def mixes(run: Run, fitted_on: str, detectors: Sequence[str]) -> pd.DataFrame:
    """Metzen's mix, which is paper 002's eq 10, by the weight sigma of the detector: columns of
    MIXES.
    """
    rows = []
    for name, sigma in product(detectors, SIGMAS):
        found = white_box(run, name, "mix", fitted_on, sigma=sigma)
        key = {"detector": name, "sigma": sigma, "fooled": _share(found.fooled)}
        rows.append({**key, **_successes(found), "n": len(found.x)})
    return frame(rows, MIXES)


def transferred(
    run: Run, fitted_on: str, detectors: Sequence[str] = ("id", "n_plus_one")
) -> pd.DataFrame:
    """Carlini and Wagner's transfer (002.C9): a detector that was fitted on one half of the images,
    under attacks made for its imitation, fitted on the other half. Columns of TRANSFERRED.

    Beside it who attacks the detector itself, and who knows none.
    """
    rows = []
    for name in detectors:
        judge = guard(run, name, fitted_on, half=0).detector
        own = white_box(run, name, "carlini_wagner_l2", fitted_on, half=0)
        tries = {
            "the detector itself": own,
            "its imitation": white_box(run, name, "imitated", fitted_on, half=1),
            "no detector": white_box(run, "none", "plain_l2", fitted_on),
        }
        for attacker, found in tries.items():
            score = scores(judge, found.x_adv).double()
            passed = [found.fooled & (score <= limit) for limit in own.thresholds]
            low, high = wilson(int(passed[1].sum()), len(score))
            told = {
                f"success_{round(100 * r)}": _share(p) for r, p in zip(FPRS, passed, strict=True)
            }
            key = {"detector": name, "attacker": attacker, "low": low, "high": high}
            rows.append({**key, **told, "n": len(score)})
    return frame(rows, TRANSFERRED)


def informed(run: Run, fitted_on: str) -> pd.DataFrame:
    """Paper 003's detectors under an attacker who knows the colours are reversed (its IV.C), and
    under one who knows the map too, held constant or derived: columns of INFORMED; empty on grey
    pictures.
    """
    rows = []
    if run.data.shape[0] == 3:
        for name in COLOURED:
            games = {"plain": ("",), "both_orders": ("",)}
            games["linf"] = ("held", "derived") if name.startswith("gradcam") else ("",)
            for game, maps in games.items():
                for how in maps:
                    found = white_box(run, name, game, fitted_on, through_map=how != "held")
                    key = {"detector": name, "game": game, "map": how, "n": len(found.x)}
                    rows.append({**key, **_successes(found)})
    return frame(rows, INFORMED)


def checked(run: Run, detectors: Sequence[str], fitted_on: str, *, few: int = 20) -> pd.DataFrame:
    """What distrusts the attacks (`adaptive.checks`): a row a check and detector, `says` empty
    where it holds. Columns of CHECKED.
    """
    rows = [*_planted(run)]
    for name in detectors:
        strong = white_box(run, name, "linf", fitted_on)
        plain = white_box(run, name, "plain", fitted_on)
        free = white_box(run, name, "linf", fitted_on, n=few, eps=1.0, steps=4 * _steps(run))
        long = white_box(run, name, "linf", fitted_on, n=few, steps=2 * _steps(run))
        won, blind = _share(strong.won(0.05)), _share(plain.won(0.05))
        less = _share(white_box(run, name, "linf_half", fitted_on).won(0.05))
        unbounded, more = _share(free.won(0.05)), _share(long.won(0.05))
        same = _share(strong.won(0.05)[: len(long.x)])
        noisy = matched_noise(plain.x, plain.x_adv, torch.arange(len(plain.x)), "sign", run.seed)
        known = guard(run, name, fitted_on).detector
        read = predict(classifier(run).model, noisy).argmax(1) != plain.prediction
        passed = _share(read & (scores(known, noisy).double() <= plain.thresholds[1]))
        zero = strong.record["zero"]
        for check, measured, given in (
            ("without a bound", unbounded, (checks.unbounded_succeeds, unbounded)),
            ("half the box", less, (checks.more_is_not_weaker, [less, won])),
            ("twice the steps", more, (checks.has_converged, same, more)),
            ("not knowing it", blind, (checks.knowing_is_not_weaker, won, blind)),
            ("noise", passed, (checks.noise_does_not_break, passed)),
            ("no gradient", zero, (checks.gradient_is_there, zero)),
        ):
            says = checks.holds(*given, name)
            rows.append({"check": check, "detector": name, "measured": measured, "says": says})
    return frame(rows, CHECKED)


def _steps(run: Run) -> int:
    return run.preset["white_box_steps"]


def _size(run: Run) -> dict[str, float]:
    return budget(run.data.name, math.prod(run.data.shape))


def _planted(run: Run) -> list[dict]:
    """A detector that is planted to be weak must fall, and one whose gradient is planted to be
    masked must be named.
    """
    model, n = classifier(run).model, run.preset["white_box_test"] or 100
    x = run.data.test[:n].pixels()
    y = predict(model, x).argmax(1)
    size = _size(run)
    knobs = {"eps": size["eps"], "step": size["eps"] / 4, "steps": _steps(run)}
    blind = ATTACKS["pgd"](model, x, y, seed=run.seed, **knobs)
    pattern = (blind - x).mean(0, keepdim=True)  # what the attacks have in common
    rows = []
    for masked in (False, True):
        weak = checks.Planted(model, pattern, masked=masked)
        name = "planted, masked" if masked else "planted, weak"
        limit = threshold_at(scores(weak, run.data.calibrate.pixels()), 0.05)
        follow = checks.Planted(model, pattern).score
        won, fooled = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(2))
        for moves, step in (("sign", size["step"]), ("l2", size["step_l2"])):
            told = {"eps": size["eps"], "step": step, "moves": moves, "steps": _steps(run)}
            x_adv = selective_pgd(model, x, y, objective=joint(follow, limit), **told)
            wrong = predict(model, x_adv).argmax(1) != y
            won, fooled = won | (wrong & (scores(weak, x_adv) <= limit)), fooled | wrong
        won = _share(won) / max(_share(fooled), 1e-9)
        zero = _share(zero_gradients(weak.score, x))
        says = checks.holds(checks.gradient_is_there, zero, name)
        fell = checks.holds(checks.planted_falls, won, name)
        rows.append({"check": "falls", "detector": name, "measured": won, "says": fell})
        rows.append({"check": "no gradient", "detector": name, "measured": zero, "says": says})
    return rows


def whole_defence(run: Run, fitted_on: str, guide: str) -> pd.DataFrame:
    """Detector and rectifier end to end, by attacker: the accuracy of what the user reads, columns
    of END_TO_END; "worst": each image by the attacker that does best on it.
    """
    if guide not in COMBINED or guide not in TRAINED:
        raise InputError(f"{guide!r} is no GCD: its rectifier follows the gradient of one.")
    found = end_to_end(run, fitted_on, guide).tensors
    right = {who[6:]: part for who, part in found.items() if who.startswith("right.")}
    flagged = {who: found[f"flagged.{who}"] for who in right}
    right["worst"] = torch.stack([right[who] for who in ("plain", "unseen", "pipeline")]).amin(0)
    rows = []
    for who, part in right.items():
        low, high = wilson(part.sum().item(), len(part))
        seen = _share(flagged[who]) if who in flagged else None
        told = {"accuracy": part.mean().item(), "low": low, "high": high, "n": len(part)}
        rows.append({"attacker": who, **told, "flagged": seen})
    return frame(rows, END_TO_END)


def setting_told(run: Run) -> dict:
    """The budget of all games: eps in 255ths, l2, steps."""
    size = _size(run)
    steps = {"steps": _steps(run), "search": run.preset["white_box_search"]}
    return {"eps_255": 255 * size["eps"], "l2": size["eps_l2"], **steps}
