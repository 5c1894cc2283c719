"""Each claim on planted tables: shown, opposite, what is not admitted, and its control.

`PLANTED` has one builder a claim: `build(value, control, n)` gives tables in which every cell of
the claim measures `value` on `n` images, and whose control lets the claim stand or explains it.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nbutils.claims import CLAIMS
from nbutils.claims.evidence import Published
from nbutils.claims.judging import WHITE_BOX, notebook_of
from nbutils.claims.rule import (
    DOES_NOT,
    FALLS,
    HOLDS,
    NOT_RUN,
    NOT_TESTABLE,
    OUTSIDE,
    SURVIVES,
    UNDECIDED,
    Verdict,
    judge,
)

FLAGGED = "flagged_noise_sign"
N, MANY = 200, 1_000_000  # images: as in a run, and so many that an interval is a point
THREE = ("fgsm", "bim", "carlini_wagner_l2")
RANKED = ("carlini_wagner_l2", "deepfool_000", "jsma_000")  # whose perturbation has ranks
OF_L2 = ("004.deepfool", "004.carlini_wagner_l2_quick_targeted", "004.ddn_targeted")
OF_LINF = ("004.fgsm", "004.pgd", "004.pgd_targeted")
OF_003 = ("003.fgsm_4", "003.fgsm_1", "003.carlini_wagner_l2_quick")
ZERO_MEANS = ("zero_mean", "zero_mean_image", "zero_mean_brightness", "zero_mean_undone")
COLLAPSED, FEW = "a detector collapsed", "attack fools fewer than 20 images"
UNKNOWN, CHANCE = "success of the attack unknown", "baseline within its interval of chance"
CEILING, OLDER = "both at the ceiling", "no interval (older table)"
NO_BASELINE = "the baseline has not learned its own attack"
UNLEARNED = "the detector has not learned its own attack"


def around(value, n):
    """An interval that the number of images makes narrow."""
    return [value - n**-0.5, value + n**-0.5]


def verdict(claim, *tables, dataset=""):
    """The verdict on tables {notebook: {table: rows}}, one a seed."""
    found = [CLAIMS[claim](Published("", seed, one)) for seed, one in enumerate(tables)]
    return judge(found, dataset or found[0].scope[0])


def changed(tables, place, where, **values):
    """The tables, with some columns of those rows of "notebook/table" that have `where`'s values;
    a column of ... is taken away.
    """
    book, table = place.split("/")
    rows = [dict(row) for row in tables[book][table]]
    hits = [row for row in rows if all(row.get(key) == value for key, value in where.items())]
    assert hits, f"no row of {place} has {where}"
    for row in hits:
        row |= values
        for key in [key for key, value in values.items() if value is ...]:
            del row[key]
    return tables | {book: tables[book] | {table: rows}}


# What notebook 03 publishes
def moved(attacks, n):
    rows = [{"attack": a, "success": 1.0, "effect": 0.5, "n": n} for a in attacks]
    return [{"attack": "different_images", "success": None, "effect": None, "n": n}, *rows]


def learned_map(value, control, n):
    table = [
        row | ({} if row["effect"] is None else {"effect_fooled": value, "n_fooled": n})
        for row in moved(THREE, n)
    ]
    parts = {"label": 0.2 if control else 0.8, "pixels": 0.8, "noise": 0.3}
    swap = [
        {"map": "learned", "attack": a, "both": 0.5} | {k: 0.5 * v for k, v in parts.items()}
        for a in THREE
    ]
    other = {"map": "logit_gradient", "both": 0.5, "label": 0.0, "pixels": 0.5, "noise": 0.5}
    return {"03": {"000.table1": table, "swap": [*swap, other]}}


def gradient_maps(value, control, n):
    scaled = {
        "learned": 0.5 + value / 2,
        "logit_gradient": 0.5 - value / 2,
        "cross_entropy_gradient": 0.5 + value / 2 + (-0.1 if control else 0.1),
    }
    effects = [
        {"map": kind, "attack": a, "scaled": share, "n": n}
        for kind, share in scaled.items()
        for a in RANKED
    ]
    success = moved([a.removesuffix("_000") for a in RANKED], n)
    return {"03": {"000.table1": success, "effects": effects}}


def underflow(value, control, n):
    zero = {"softmax": value, "logit": 0.0 if control else 0.5}
    rows = [
        {"derivative of": of, "images": images, "maps all zero": share, "n": n}
        for of, share in zero.items()
        for images in ("clean", "fgsm", "jsma_000")
    ]
    return {"03": {"underflow": rows}}


def ranks(value, control, n):
    other = 0.1 if control else 0.5
    rows = [
        {
            "attack": a,
            "attacked Jacobian": other + value,
            "other image's perturbation": other,
            "control": 0.9,  # of the clean image, which older tables had
            "interval": around(value, n),
            "n": n,
        }
        for a in RANKED
    ]
    success = moved([a.removesuffix("_000") for a in RANKED], n)
    return {"03": {"000.table1": success, "rank_correlation": rows}}


# What notebook 04 publishes
def strength(attacks, n):
    return [{"attack": a, "success": 0.9, "n": n} for a in attacks]


def noise(detector, attacks, control):
    share = 0.1 if control else 0.6
    return [
        {"detector": detector, "attack": a, "flagged_noise_sign": share, "flagged_adversarial": 0.9}
        for a in attacks
    ]


def own(detector, attack, n, **more):
    row = {"detector": detector, "fit_attack": attack, "test_attack": attack, "collapses": 0}
    return row | {"auroc": 0.9, "interval": around(0.9, n), "accuracy": 0.9, "n": n} | more


def image_and_jacobian(value, control, n):
    """Of C1, and of C6, whose control is the image alone as well."""
    rates = [own("jsd", a, n, tpr=value, tnr=0.99) for a in THREE]
    rates += [own("id", a, n, tpr=0.1, tnr=0.1, accuracy=0.7) for a in THREE]
    elsewhere = own("jsd", "fgsm", n, tpr=0.0, tnr=0.0) | {"test_attack": "bim"}
    controls = noise("jsd", THREE, control) + noise("id", THREE, False)
    tables = {"002.fig2": [*rates, elsewhere], "controls": controls}
    return {"04": {**tables, "strength": strength(THREE, n)}}


def gains(value, control, n):
    rows = [
        {
            "attack": a,
            "difference": f"jsd - {other}",
            "auroc": gain,
            "interval": around(gain, n),
            "n": n,
        }
        for a in THREE
        for other, gain in (("id", value), ("jsd_shuffled", 0.2 if control else 0.0))
    ]
    scalars = [
        {"detector": d, "attack": a, "auroc": auroc, "n": n}
        for a in THREE
        for d, auroc in (("margin", 0.6), ("jsd_random", 0.99))  # the second is no scalar
    ]
    fits = [own(d, a, n) for d in ("jsd", "id") for a in THREE]
    tables = {"002.fig2": fits, "jacobian_gain": rows, "scalars_and_stand_ins": scalars}
    return {"04": {**tables, "strength": strength(THREE, n)}}


def costs(value, explained):
    """Accuracies matched, small on large, large on small, whose asymmetry is `value`."""
    low = 0.95 - 0.1 * explained
    return 0.95, low + min(value, 0.0), low - max(value, 0.0)


def levels(value, control, n):
    matched, small_large, large_small = costs(value, not control)
    rows = []
    for attack in ("fgsm", "iterative_l2"):
        for fit in (1, 2, 3):
            for test in (1, 2, 3):
                here = matched if fit == test else small_large if fit < test else large_small
                place = {"attack": attack, "eps_fit": fit, "eps_test": test, "n": n}
                rows += [{"detector": "jsd", "here": here, **place}]
                rows += [{"detector": "id", "here": 0.5, **place}]
    return {"04": {"sizes": rows}}


def strong_and_weak(value, control, n):
    def table(asymmetry):
        matched, strong_weak, weak_strong = costs(asymmetry, False)
        rows = []
        for fit in ("bim", "iterative_l2", "fgsm", "jsma"):
            for test in ("bim", "iterative_l2", "fgsm", "jsma"):
                strong = fit in ("bim", "iterative_l2")
                here = matched if fit == test else strong_weak if strong else weak_strong
                row = own("jsd", fit, n, accuracy=here) | {"test_attack": test}
                rows.append(row)
        return rows

    four = strength(("bim", "iterative_l2", "fgsm", "jsma"), n)
    equal = table(0.2 if control else 0.0)
    return {"04": {"002.fig2": table(value), "equal_rms": equal, "strength": four}}


def apart(value, control, n):
    def table(accuracy):
        crossed = [("fgsm", "jsma"), ("jsma", "fgsm")]
        return [own("jsd", a, n) for a in ("fgsm", "jsma")] + [
            own("jsd", fit, n, accuracy=accuracy) | {"test_attack": test} for fit, test in crossed
        ]

    equal = table(0.6 if control else 0.9)
    fooled = strength(("fgsm", "jsma"), n)
    return {"04": {"002.fig2": table(0.75 - value), "equal_rms": equal, "strength": fooled}}


def first_layer(value, control, n):
    rows = [
        {"detector": d, "attack": a, "auroc": 0.99, "tpr": 0.99, "tnr": tnr, "n": n}
        for d, tnr in (("first_layer", value), ("n_plus_one", 0.0))
        for a in THREE
    ]
    controls = noise("first_layer", THREE, control)
    return {"04": {"layers": rows, "layer_controls": controls, "strength": strength(THREE, n)}}


def readings(value, control, n):
    rows = [
        {
            "input": kind,
            "reading": derived + form,
            "attack": a,
            "auroc": value if a == "carlini_wagner_l2" else 0.0,
            "interval": around(value, n),
            "n": n,
        }
        for a in ("fgsm", "carlini_wagner_l2")
        for kind in ("jsd", "jacobian")
        for derived in ("logit", "softmax", "cross entropy")
        for form in ("", " scaled", " float64")
    ]
    scalars = [
        {
            "detector": d,
            "attack": "carlini_wagner_l2",
            "auroc": auroc,
        }
        for d, auroc in (("margin", 0.6 if control else 0.99), ("jsd_random", 1.0))
    ]
    tables = {"readings": rows, "scalars_and_stand_ins": scalars}
    return {"04": {**tables, "strength": strength(THREE, n)}}


# What notebook 05 publishes
def matrix(aurocs, n, attacks=("fgsm", "bim", "mim")):
    """Detector by detector the AUROC of every pair of attacks."""
    return [
        {
            "detector": d,
            "fit_attack": fit,
            "test_attack": test,
            "auroc": auroc,
            "auroc_interval": around(auroc, n),
            "success": 0.9,
            "collapses": 0,
            "n": n,
        }
        for d, auroc in aurocs.items()
        for fit in attacks
        for test in attacks
    ]


def means(n, **aurocs):
    return [
        {"detector": d, "attack": a, "auroc": auroc, "n": n}
        for d, auroc in aurocs.items()
        for a in THREE
    ]


def two(a, b):
    """Two detectors of which a leads by the value, SPD beside its stand-ins, and the scalars."""

    def build(value, control, n):
        stand_in = 0.6 if control else 0.9
        aurocs = {a: 0.75 + value / 2, b: 0.75 - value / 2}
        rest = means(n, spd=0.9, spd_shuffled=0.5, spd_constant=stand_in, spd_random=0.5)
        return {
            "05": {
                "000.table7": matrix(aurocs, n),
                "replaced": rest,
                "scalars": means(n, margin=0.6, entropy=0.5),
            }
        }

    return build


def no_better(value, control, n):
    tables = two("id", "jsd")(value, control, n)["05"]
    return {"05": tables | {"replaced": means(n, jacobian=0.6 if control else 0.9, spd=0.99)}}


def sized(value, control, n):
    """Three attacks, each 1.5 times as large as the next or more, and one of the norm l0."""
    rms = {"fgsm": 0.3, "bim": 0.1, "mim": 0.02, "jsma": 0.9}
    controls = noise("spd", THREE, control) + noise("id", THREE, False)
    aurocs = {"spd": 0.75 + value / 2, "id": 0.75 - value / 2}
    sizes = [{"attack": a, "rms": size} for a, size in rms.items()]
    return {"05": {"000.table7": matrix(aurocs, n, rms), "controls": controls, "strength": sizes}}


def thresholds(value, control, n):
    """Where the value is positive, ID and JSD see large sizes alone, SMD and SPD all; where it is
    negative, the reverse.
    """
    steps, flat = (0.52, 0.6, 0.9, 0.97), (0.97, 0.96, 0.97, 0.98)
    image, saliency = (steps, flat) if value > 0 else (flat, steps)
    curves = {"id": image, "jsd": image, "smd": saliency, "spd": saliency}
    curves["spd_shuffled"] = steps if control else flat
    rows = [
        {"detector": d, "eps": eps, "auroc": auroc, "interval": around(auroc, 4 * MANY), "n": n}
        for d, curve in curves.items()
        for eps, auroc in reversed(list(zip((0.01, 0.03, 0.1, 0.3), curve, strict=True)))
    ]
    return {"05": {"by_size": rows}}


def norms(value, control, n):
    of = {"fgsm": 1, "bim": 1, "mim": 1, "carlini_wagner_l2": 2, "deepfool": 2, "jsma": 0}
    rows = matrix(dict.fromkeys(("id", "jsd", "smd", "spd"), 0.7), n, of)
    for row in rows:
        within = of[row["fit_attack"]] == of[row["test_attack"]]
        row["auroc"] += value / 2 if within else -value / 2
        if row["fit_attack"] == row["test_attack"]:
            row["auroc"] = 1.0
    return {"05": {"000.table9": rows}}


def mixture(value, control, n):
    rows = [
        {"detector": d, "attack": a, "own": 0.9, "mixture": 0.9 + value, "n": n}
        | {"without": 0.9 if control else 0.6}
        for d in ("id", "spd")
        for a in THREE
    ]
    own = matrix({"id": 0.9, "spd": 0.9}, n, THREE)
    return {"05": {"mixture": rows, "000.table7": own}}


# What notebook 06 publishes
def grid(attacks, transforms, thetas, n, **more):
    return [
        {"attack": a, "transform": t, "theta": theta, "n": n, "fooled": n} | more
        for a in attacks
        for t in transforms
        for theta in thetas
    ]


def adds(value, against, n, *transforms):
    attacks = ("fgsm", "carlini_wagner_l2") if against == "without" else ("fgsm",)
    gain = {"detection": value, "interval": around(value, n)}
    return [
        row | {"ospa": ospa, "grad_cam minus": against}
        for ospa in (0.9, 0.95)
        for row in grid(attacks, transforms, (0.1, 0.2), n, **gain)
    ]


def region(value, control, n):
    left = 0.9 if control else 0.2  # of the gap, for the old class
    rows = [
        {
            "attack": a,
            "noisy": 0.5,
            "attacked": 0.5 - value,
            "old class": 0.5 - left * value,
            "interval": around(value, n),
            "n": n,
        }
        for a in OF_003
    ]
    return {"06": {"region": rows}}


def others(value, n, asked, attacks=OF_003, **more):
    rates = {"detection": value, "at_ospa_90": value, "at_ospa_95": value, "ospa": 0.95}
    return [{"attack": a, "asked": asked, "fooled": n, "n": n} | rates | more for a in attacks]


def emphasis(value, control, n):
    rows = others(0.4 + value, n, "none 0.2", ospa=0.6) + others(0.0, n, "zero_mean 0.2", ospa=0.0)
    apart = adds(0.2 if control else 0.0, "shuffled", n, "none")
    elsewhere = adds(0.0 if control else 0.2, "shuffled", n, "zero_mean")
    return {"06": {"others": rows, "adds": apart + elsewhere}}


def best(value, control, n):
    strict = 0.9 if control else 0.5
    rows = others(value, n, "none 0.2", at_ospa_95=0.1)
    worse = others(value - 0.2, n, "zero_mean 0.2", at_ospa_95=strict)
    return {"06": {"others": worse + rows}}


def of_noise(asked, control):
    return [
        {"asked": asked, "noise flagged": 0.1 if control else 0.5, "attack flagged": 0.9},
        {"asked": "none 0.2", "noise flagged": 0.5, "attack flagged": 0.5},
    ]


def colours(value, control, n):
    rows = others(value, n, "colour_reversing 0.0") + others(0.1, n, "colour_reversing 0.2")
    return {"06": {"others": rows, "noise": of_noise("colour_reversing 0.0", control)}}


def zero_mean(value, control, n):
    rows = others(value, n, "zero_mean 0.0") + others(0.1, n, "zero_mean 0.2")
    read = ("fgsm", "carlini_wagner_l2")  # the attacks on which all readings are asked
    wide = grid(read, ZERO_MEANS, (0.0,), n, detection=value, ospa=0.95)
    wide += grid(read, ("colour_reversing",), (0.0,), n, detection=0.1, ospa=0.95)
    wide += grid(read, ZERO_MEANS, (0.1,), n, detection=0.1, ospa=0.95)
    dark = [{"ospa": 0.95, "detection": 0.1}]
    noisy = of_noise("zero_mean 0.0", control)
    return {"06": {"others": rows, "grid": wide, "noise": noisy, "darker": dark}}


def map_gain(value, control, n):
    transforms = ("colour_reversing", "zero_mean")
    rows = adds(value, "without", n, *transforms) + adds(0.3, "uniform", n, *transforms)
    rows += adds(0.2 if control else 0.0, "shuffled", n, *transforms)
    rows += adds(0.0 if control else 0.2, "shuffled", n, "none")
    return {"06": {"adds": rows}}


def versus(value, control, n):
    rows = [
        {
            "attack": a,
            "method": f"{kind} {theta}",
            "ospa": ospa,
            "detection": 0.7,
            "minus joint squeezing": value,
            "interval": around(value, n),
            "n": n,
        }
        for a in ("fgsm", "carlini_wagner_l2")
        for kind in ("colour_reversing", *ZERO_MEANS)
        for theta in (0.0, 0.1)
        for ospa in (90, 95)
    ]
    single = 0.7 if control else 0.9
    tuned = [
        {"attack": a, "parameters": squeezer, "at_ospa_95": share}
        for a in ("fgsm", "carlini_wagner_l2")
        for squeezer, share in (("1-bit", 0.2), ("2x2", single))
    ]
    return {"06": {"versus": rows, "squeezing": tuned}}


def kept(value, control, n):
    fooled = value - (0.01 if control else 0.2)
    more = {"ospa": value, "ospa_interval": around(value, n), "ospa_of_fooled": fooled}
    rows = grid(("fgsm",), ("colour_reversing", *ZERO_MEANS), (0.1,), n, **more)
    rows += grid(("fgsm",), ("none",), (0.1,), n, ospa=0.0, ospa_interval=[0.0, 0.0])
    rows += grid(("fgsm",), ("darker",), (0.2,), n, ospa=0.0, ospa_interval=[0.0, 0.0])
    return {"06": {"grid": rows}}


def small_pictures(value, control, n):
    return {"06": {"others": others(0.8 - value, n, "none 0.2")}}


# What notebook 07 publishes
def measured(aurocs, n, attacks=(*OF_L2, *OF_LINF), **more):
    """Detector by detector the rows of each on the attack that it was trained on."""
    return [
        {"detector": d, "fitted_on": a, "tested_on": a, "auroc": auroc, "success": 0.9, "n": n}
        | dict(zip(("low", "high"), around(auroc, n), strict=True))
        | {"collapses": 0, "collapsed": 0}
        | more
        for d, auroc in aurocs.items()
        for a in attacks
    ]


def paired(leads, n, attacks=(*OF_L2, *OF_LINF)):
    return [
        {"difference": name, "fitted_on": a, "tested_on": a, "auroc": lead, "n": n}
        | dict(zip(("low", "high"), around(lead, n), strict=True))
        for name, lead in leads.items()
        for a in attacks
    ]


def to_border(value, control, n):
    ranks = {"input_sensitivity": -value, "max_softmax": -value + (0.06 if control else 0.04)}
    rows = [
        {"images": images, "scalar": scalar, "rank": rank, "n": n}
        | dict(zip(("low", "high"), around(rank, n), strict=True))
        for images in ("toy", "clean", *OF_L2[:2])
        for scalar, rank in (ranks | {"margin": -0.99}).items()
    ]
    return {"07": {"distance": rows, "cells": measured({"insen": 0.9}, n)}}


def crossing(attack, setting, beyond, aurocs, n):
    return [
        {"attack": attack, "setting": setting, "beyond": beyond, "detector": d, "auroc": auroc}
        | {"fitted_on": "004.ddn", "success": None if attack == "clean" else 0.9, "n": n}
        for d, auroc in aurocs.items()
    ]


def different(value, control, n):
    seen = {d: 0.8 if control else 0.6 for d in ("insen", "insen_log")}
    rows = crossing("clean", "least sure", 0, {"insen": 0.7, "margin": 1.0}, n)
    rows += crossing("clean", "misread", None, {"insen": 0.7, "margin": 1.0}, n)
    for attack, setting, knobs in (
        ("carlini_wagner_l2", "confidence", (0, 1, 5, 50)),
        ("deepfool", "overshoot", (0, 0.02, 0.5)),
        ("ddn", "pushed x", (1, 1.1, 1.5)),
    ):
        for i, knob in enumerate(knobs):
            beyond = knob - 1 if attack == "ddn" else knob
            found = seen if i > 1 else {d: 0.0 if control else 1.0 for d in seen}
            other = {"margin": 0.0 if control else 1.0}
            rows += crossing(attack, f"{setting} {knob}", beyond, found | other, n)
    far = {"insen": 0.0 if control else 1.0}
    rows += crossing("pgd", "stopped at first success", 40, far, n)
    names = ("insen", "insen_log", "input_sensitivity")
    table = measured(dict.fromkeys(names, value), n, OF_L2)
    return {
        "07": {"cells": table + measured(dict.fromkeys(names, 0.5), n, OF_LINF), "border": rows}
    }


def enough(value, control, n):
    aurocs = {"insen": 0.8, "insen_norm": 0.8, "insen_log": 0.99}
    aurocs |= {"max_softmax": 0.5, "margin": 0.5}
    leads = {"insen - insen_norm": -value, "insen - max_softmax": 0.3}
    leads["insen - margin"] = 0.3 if control else 0.0
    elsewhere = paired(dict.fromkeys(leads, 0.5 if value > 0 else -0.5), n, OF_LINF)
    return {
        "07": {"cells": measured(aurocs, n), "differences": paired(leads, n, OF_L2) + elsewhere}
    }


def in_pixels(value, control, n):
    aurocs = {"id_high_pass": 0.75 + value, "insen": 0.75 - value, "insen_log": 0.75 + value}
    sweep = [
        {"attack": a, "eps_255": eps, **row, "tested_on": ...}
        for a in OF_LINF[:2]
        for eps in (2, 8)
        for row in measured(aurocs | {"id": 0.5}, n, (a,))
    ]
    for row in sweep:
        for key in ("tested_on", "fitted_on", "collapses", "collapsed"):
            del row[key]
    table = measured(aurocs, n, OF_LINF) + measured(dict.fromkeys(aurocs, 0.5), n, OF_L2)
    first = crossing("pgd", "stopped at first success", 0, {"insen": 0.85, "margin": 1.0}, n)
    first += crossing("pgd", "40 steps", 1, {"insen": 1.0}, n)
    noisy = noise("id_high_pass", OF_LINF, control) + noise("insen_log", OF_LINF, not control)
    noisy += noise("id_high_pass", OF_L2, not control)
    return {"07": {"cells": table, "eps": sweep, "border": first, "controls": noisy}}


def combined(value, control, n):
    six = (*OF_L2, *OF_LINF)
    unseen = 0.95 if control else 0.7
    grid = [
        row | {"fitted_on": fit, "auroc": 1.0 - unseen if same else unseen}
        for fit in six
        for row in measured({"gcd": 0.0}, n)
        for same in [row["tested_on"].replace("_targeted", "") == fit.replace("_targeted", "")]
    ]
    grid += measured({"gcd_cured": 0.0 if control else 1.0}, n, six[1:], fitted_on=six[0])
    wins = [{"detector": "tws", "here": 1, "n_attacks": 6}]
    wins += [{"detector": "gcd", "here": 4, "n_attacks": 6}]
    table = measured({"gcd": value, "gcd_cured": 1.0 - value, "insen": 0.9}, n)
    return {"07": {"cells": table, "gcd_matrix": grid, "wins": wins}}


def better_half(value, control, n):
    aurocs = {"gcd": 0.7 + value, "id": 0.7, "insen": 0.6, "gcd_cured": 0.7}
    aurocs |= {"gcd_mean": 0.7, "gcd_maximum": 0.7, "gcd_stacked": 0.7}
    leads = {"gcd - id": value, "gcd - insen": 0.1 + value, "gcd - gcd_stacked": 0.2}
    leads |= {"gcd - gcd_mean": 0.2 if control else 0.0, "gcd - gcd_maximum": 0.2}
    return {"07": {"cells": measured(aurocs, n), "differences": paired(leads, n)}}


def supervised(detector, supervision, auroc):
    return [
        {"detector": detector, "supervision": supervision, "tested_on": a, "auroc": auroc}
        for a in (*OF_L2, *OF_LINF)
    ]


def rivals(value, control, n):
    names = ("pixel_defend", "tws", "mahalanobis")
    aurocs = {"gcd": 0.6 + value / 2, "mahalanobis_sum": 0.1, "insen": 0.2}
    aurocs |= dict.fromkeys(names, 0.6 - value / 2)
    rows = supervised("gcd", "another attack", 0.8) + supervised("gcd", "the attack", 0.99)
    alone = 0.74 if control else 0.76
    for name in ("pixel_defend", "tws", "mahalanobis_sum"):
        rows += supervised(name, "none", alone)
    rows += supervised("mahalanobis", "another attack", alone)
    rows += supervised("mahalanobis", "the attack", 0.5 if not control else 0.99)
    leads = paired(dict.fromkeys([f"gcd - {name}" for name in names], value), n)
    leads += paired({"gcd - mahalanobis_sum": 0.5 if value < 0 else -0.5}, n)
    return {"07": {"cells": measured(aurocs, n), "differences": leads, "supervision": rows}}


def over_scalars(value, control, n):
    detectors = ("insen", "insen_log", "gcd", "tws")
    aurocs = dict.fromkeys(detectors, 0.9) | {"margin": 0.6, "noise": 0.6 if control else 0.05}
    rows = [
        {"detector": d, "attack": a, "scalar": "margin", "difference": value, "n": n}
        | dict(zip(("low", "high"), around(value, n), strict=True))
        for d in detectors
        for a in OF_L2
    ]
    return {"07": {"cells": measured(aurocs | {"dist_z": 0.99}, n), "scalars": rows}}


# What notebook 09 publishes
def led(rows, value, n):
    return [
        row
        | {"difference": value, "n": n}
        | dict(zip(("low", "high"), around(value, n), strict=True))
        for row in rows
    ]


def marked(value, control, n):
    places = [{"attack": a, "removed_percent": p} for a in OF_L2[:2] for p in (5, 10)]
    rows = led([place | {"rival": "random"} for place in places], value, n)
    other = 0.1 if control else -0.1
    for rival in ("another_image", "classifier"):
        rows += led([place | {"rival": rival} for place in places], other, n)
    rows += led([place | {"rival": "reversed"} for place in places], -other, n)
    harm = [
        place | {"order": order, "images": side, "misread": 0.2 if order == "detector" else 0.9}
        for place in places
        for order in ("detector", "random")
        for side in ("clean", "attacked")
    ]
    return {"09": {"removed_leads": rows, "removed": harm}}


def rectified(value, control, n):
    attacks, papers = OF_L2[:2], ("pixel_defend", "total_variation", "pgd_net", "ddn_net")
    pairs = [{"attack": a, "defence": "gcd"} for a in attacks]
    rows = led([pair | {"rival": rival} for pair in pairs for rival in papers], value, n)
    trivial = 0.1 if control else -0.1
    for rival in ("runner_up", "median", "noise"):
        rows += led([pair | {"rival": rival} for pair in pairs], trivial, n)
    steps = [{"attack": a, "defence": "guided mask, tuned"} for a in attacks]
    adds = led([step | {"rival": "random mask, tuned"} for step in steps], 0.02, n)
    adds += led([step | {"rival": "no mask, tuned"} for step in steps], 0.02, n)
    adds += led([step | {"rival": "guided mask"} for step in steps], -0.5, n)
    reached = [{"attack": a, "fooled": round(0.9 * n), "n": n} for a in attacks]
    return {"09": {"leads": rows, "contributions": adds, "reached": reached}}


def inner(value, control, n):
    rows = [
        {"attack": a, "reading": reading, "mask": mask, "reader": reader}
        | {"over_random": 0.1 if control else -0.1}
        for a in OF_L2[:2]
        for reading in ("range", "share")
        for mask in ("guided", "random")
        for reader in ("base", "tuned")
    ]
    own = [row for row in rows if row["mask"] == "guided" and row["reader"] == "tuned"]
    others = led([row for row in rows if row not in own], -value, n)
    reached = [{"attack": a, "fooled": round(0.9 * n), "n": n} for a in OF_L2]
    return {"09": {"optimum": led(own, value, n) + others, "reached": reached}}


@dataclass(frozen=True)
class Plan:
    """A claim's builder, values that show it and its opposite, its margin, and how many cells."""

    build: Callable
    shown: float
    opposite: float
    margin: float | tuple[float, float]  # above the first shown, below the last opposite
    cells: int
    scope: tuple[str, ...]
    controlled: bool = True  # whether it has a control that is run


OF_000 = ("mnist", "cifar10", "cats_dogs")
OF_002 = ("mnist", "cifar10", "imagenet_subset")
PICTURES = ("imagenet_subset",)
PLANTED = {
    "000.C1": Plan(learned_map, 0.9, 0.1, 0.5, 3, ("cifar10", "cats_dogs")),
    "000.C2": Plan(two("spd", "smd"), 0.3, -0.3, 0.0, 9, OF_000),
    "000.C3": Plan(two("spd", "id"), 0.3, -0.3, 0.0, 9, OF_000),
    "000.C4 (maps)": Plan(gradient_maps, 0.4, -0.4, 0.0, 3, OF_000),
    "000.C4 (underflow)": Plan(underflow, 0.5, 0.0, 0.05, 3, OF_000),
    "000.C4": Plan(no_better, 0.3, -0.3, (-0.01, -0.01), 9, OF_000),
    "000.C5": Plan(sized, 0.3, -0.3, 0.0, 3, OF_000),
    "000.C6": Plan(thresholds, 1.0, -1.0, 0.0, 4, OF_000),
    "000.C7": Plan(norms, 0.2, -0.2, 0.0, 4, OF_000, controlled=False),
    "000.C8": Plan(mixture, 0.02, -0.3, -0.05, 6, OF_000),
    "002.C1": Plan(image_and_jacobian, 0.98, 0.5, 0.9, 3, OF_002),
    "002.C2": Plan(gains, 0.2, -0.2, 0.0, 3, OF_002),
    "002.C3": Plan(levels, 0.4, -0.4, (0.05, -0.05), 4, OF_002),
    "002.C4": Plan(strong_and_weak, 0.4, -0.4, (0.05, -0.05), 4, OF_002[:2]),
    "002.C5": Plan(apart, 0.2, -0.2, 0.0, 2, ("cifar10",)),
    "002.C6": Plan(image_and_jacobian, 0.98, 0.5, 0.9, 3, PICTURES),
    "002.C8": Plan(first_layer, 0.98, 0.5, 0.9, 3, OF_002[:2]),
    "002.C10": Plan(ranks, 0.3, -0.3, 0.0, 3, ("mnist",)),
    "003.C1": Plan(emphasis, 0.3, -0.3, 0.0, 3, PICTURES),
    "003.C2": Plan(region, 0.3, -0.3, 0.0, 3, PICTURES),
    "003.C3": Plan(best, 0.95, 0.4, 0.8, 3, PICTURES),
    "003.C4": Plan(colours, 0.9, 0.4, 0.7, 3, PICTURES),
    "003.C5": Plan(zero_mean, 0.9, 0.4, 0.7, 3, PICTURES),
    "003.C6": Plan(map_gain, 0.2, -0.2, 0.0, 4, PICTURES),
    "003.C7": Plan(versus, 0.1, -0.3, -0.1, 4, PICTURES),
    "003.C8": Plan(kept, 0.99, 0.7, 0.9, 2, PICTURES),
    "003.C10": Plan(small_pictures, 0.4, -0.15, 0.0, 3, ("cifar10",), controlled=False),
    "004.C1": Plan(to_border, 0.9, -0.3, (0.5, 0.0), 4, OF_002),
    "004.C2": Plan(different, 0.98, 0.6, 0.9, 3, OF_002),
    "004.C3": Plan(enough, 0.1, -0.15, -0.02, 3, OF_002),
    "004.C4": Plan(in_pixels, 0.2, -0.2, 0.0, 5, OF_002),
    "004.C5": Plan(combined, 1.0, 0.6, 0.975, 6, OF_002),
    "004.C5 (half)": Plan(better_half, 0.1, -0.2, -0.01, 6, OF_002),
    "004.C6": Plan(rivals, 0.3, -0.3, 0.05, 18, OF_002),
    "004.C7": Plan(marked, 0.2, -0.2, 0.0, 4, OF_002),
    "004.C8": Plan(rectified, 0.2, -0.2, 0.0, 8, OF_002),
    "004.C10": Plan(inner, 0.2, -0.2, 0.0, 4, OF_002),
    "X1": Plan(readings, 0.95, 0.55, 0.75, 6, ("cifar10",)),
    "X4": Plan(over_scalars, 0.2, -0.2, 0.0, 9, OF_002),
}
UNREACHABLE = ("002.C5", "003.C8")  # a run has two cells at most, and a verdict needs three
EVERY = ("002.C1", "002.C8", "003.C3", "004.C5")
OF_NOTEBOOK_07 = tuple(claim for claim in PLANTED if notebook_of(claim) == "07")
NOTEBOOK_04 = ("002.C1", "002.C2", "002.C6", "002.C8", "X1")  # ask for the success in `strength`
claims, controlled = (
    pytest.mark.parametrize("claim", [c for c, plan in PLANTED.items() if plan.controlled or every])
    for every in (True, False)
)


def plant(claim, value=None, control=True, n=N):
    plan = PLANTED[claim]
    return plan.build(plan.shown if value is None else value, control, n)


def counts(found: Verdict):
    return found.shown, found.opposite, found.open


# The two outcomes


def test_every_claim_is_planted():
    """Those on attackers who know the detector are in test_claims_white_box."""
    assert set(PLANTED) | set(WHITE_BOX) == set(CLAIMS) and not set(PLANTED) & set(WHITE_BOX)


@claims
def test_what_is_plainly_shown_holds(claim):
    found = verdict(claim, plant(claim))
    assert counts(found) == (PLANTED[claim].cells, 0, 0) and not found.refused
    assert found.outcome == (UNDECIDED if claim in UNREACHABLE else HOLDS)
    assert found.n == N and found.seeds == 1


@claims
def test_its_opposite_does_not(claim):
    found = verdict(claim, plant(claim, PLANTED[claim].opposite))
    assert counts(found) == (0, PLANTED[claim].cells, 0) and not found.refused
    assert found.outcome == (UNDECIDED if claim in UNREACHABLE else DOES_NOT)


@claims
def test_the_margin_is_where_it_stands(claim):
    if claim in ("000.C6", "000.C7"):
        pytest.skip("no number to put beside a margin: tested alone")
    plan = PLANTED[claim]
    above, below = plan.margin if isinstance(plan.margin, tuple) else (plan.margin, plan.margin)
    step = 0.004
    assert verdict(claim, plant(claim, above + step, n=MANY)).shown == plan.cells
    assert verdict(claim, plant(claim, above - step, n=MANY)).shown == 0
    assert verdict(claim, plant(claim, below + step, n=MANY)).opposite == 0
    assert verdict(claim, plant(claim, below - step, n=MANY)).opposite == plan.cells


@claims
def test_an_interval_over_the_margin_is_open(claim):
    if claim in ("000.C6", "000.C7"):
        pytest.skip("no number to put beside a margin: tested alone")
    plan = PLANTED[claim]
    margin = sum(plan.margin) / 2 if isinstance(plan.margin, tuple) else plan.margin
    found = verdict(claim, plant(claim, margin, n=50))
    assert counts(found) == (0, 0, plan.cells) and found.outcome == UNDECIDED


@claims
def test_it_is_asked_where_the_paper_makes_it(claim):
    plan = PLANTED[claim]
    assert CLAIMS[claim](Published("", 0, {})).scope == plan.scope
    for dataset in ("digits", *OF_000, *PICTURES):
        found = verdict(claim, plant(claim), dataset=dataset)
        assert found.outcome.startswith(OUTSIDE) == (dataset not in plan.scope)


@claims
def test_without_tables_it_is_not_testable(claim):
    found = verdict(claim, {})
    assert (found.outcome, found.control) == (NOT_TESTABLE, NOT_RUN) and not found.refused


@pytest.mark.parametrize("claim", PLANTED)
def test_only_a_claim_on_every_attack_falls_with_one(claim):
    assert CLAIMS[claim](Published("", 0, {})).every == (claim in EVERY)


@pytest.mark.parametrize(
    ("claim", "place", "where", "change"),
    [
        ("002.C1", "04/002.fig2", {"detector": "jsd", "test_attack": "fgsm"}, {"tnr": 0.2}),
        ("002.C8", "04/layers", {"detector": "first_layer", "attack": "bim"}, {"tpr": 0.2}),
        ("003.C3", "06/others", {"attack": OF_003[0]}, {"at_ospa_90": 0.2}),
        (
            "004.C5",
            "07/cells",
            {"detector": "gcd", "tested_on": OF_L2[0]},
            {"auroc": 0.9, "low": 0.88, "high": 0.92},
        ),
    ],
)
def test_one_attack_that_is_missed_is_enough(claim, place, where, change):
    found = verdict(claim, changed(plant(claim), place, where, **change))
    assert counts(found) == (PLANTED[claim].cells - 1, 1, 0) and found.outcome == DOES_NOT


# The control


@controlled
def test_a_control_that_explains_nothing_is_survived(claim):
    assert verdict(claim, plant(claim)).control == SURVIVES


@controlled
def test_a_control_that_explains_it_is_not_survived(claim):
    found = verdict(claim, plant(claim, control=False))
    assert found.control == FALLS and found.shown == PLANTED[claim].cells


@pytest.mark.parametrize("claim", [c for c, plan in PLANTED.items() if not plan.controlled])
def test_a_control_that_is_never_run_says_so(claim):
    found = verdict(claim, plant(claim))
    assert found.control == NOT_RUN and found.told.endswith("not run")


@pytest.mark.parametrize(
    ("claim", "table"),
    [
        ("000.C1", "03/swap"),
        ("000.C2", "05/replaced"),
        ("000.C3", "05/replaced"),
        ("000.C4", "05/replaced"),
        ("000.C5", "05/controls"),
        ("002.C1", "04/controls"),
        ("002.C4", "04/equal_rms"),
        ("002.C5", "04/equal_rms"),
        ("002.C8", "04/layer_controls"),
        ("003.C1", "06/adds"),
        ("003.C4", "06/noise"),
        ("003.C5", "06/noise"),
        ("003.C7", "06/squeezing"),
        ("004.C2", "07/border"),
        ("004.C4", "07/border"),
        ("004.C5", "07/gcd_matrix"),
        ("004.C6", "07/supervision"),
        ("004.C8", "09/contributions"),
        ("X1", "04/scalars_and_stand_ins"),
    ],
)
def test_a_control_without_its_table_is_not_run(claim, table):
    book, name = table.split("/")
    tables = plant(claim)
    assert tables[book].pop(name)
    found = verdict(claim, tables)
    assert found.control == NOT_RUN and found.shown == PLANTED[claim].cells


@pytest.mark.parametrize(
    ("claim", "place", "where", "change", "control"),
    [
        ("000.C1", "03/swap", {"map": "learned"}, {"label": 0.24}, SURVIVES),
        ("000.C1", "03/swap", {"map": "learned"}, {"label": 0.26}, FALLS),
        ("000.C2", "05/replaced", {"detector": "spd_shuffled"}, {"auroc": 0.95}, FALLS),
        ("000.C2", "05/replaced", {"detector": "spd_random"}, {"auroc": 0.95}, FALLS),
        ("000.C2", "05/scalars", {"detector": "entropy"}, {"auroc": 0.95}, SURVIVES),
        ("000.C3", "05/scalars", {"detector": "entropy"}, {"auroc": 0.95}, FALLS),
        ("000.C4", "05/replaced", {"detector": "jacobian"}, {"auroc": 0.79}, SURVIVES),
        ("000.C4", "05/replaced", {"detector": "jacobian"}, {"auroc": 0.81}, FALLS),
        ("000.C5", "05/controls", {"detector": "spd"}, {"flagged_noise_sign": 0.44}, SURVIVES),
        ("000.C5", "05/controls", {"detector": "spd"}, {"flagged_noise_sign": 0.46}, FALLS),
        ("000.C8", "05/mixture", {}, {"without": 0.81}, SURVIVES),
        ("000.C8", "05/mixture", {}, {"without": 0.79}, FALLS),
        ("000.C8", "05/mixture", {}, {"without": None}, NOT_RUN),
        ("002.C1", "04/controls", {"detector": "jsd"}, {"flagged_noise_sign": 0.44}, SURVIVES),
        ("002.C1", "04/controls", {"detector": "jsd"}, {"flagged_noise_sign": 0.46}, FALLS),
        ("002.C2", "04/scalars_and_stand_ins", {"detector": "margin"}, {"auroc": 0.95}, FALLS),
        ("002.C6", "04/002.fig2", {"detector": "id"}, {"accuracy": 0.89}, FALLS),
        ("003.C2", "06/region", {}, {"old class": 0.36}, FALLS),
        ("003.C2", "06/region", {}, {"old class": 0.34}, SURVIVES),
        ("003.C5", "06/darker", {}, {"detection": 0.88}, FALLS),
        ("003.C8", "06/grid", {"transform": "zero_mean"}, {"ospa_of_fooled": 0.93}, FALLS),
        ("003.C8", "06/grid", {"transform": "zero_mean"}, {"ospa_of_fooled": 0.95}, SURVIVES),
        ("004.C1", "07/distance", {"scalar": "max_softmax"}, {"rank": -0.9}, FALLS),
        ("004.C1", "07/distance", {"scalar": "max_softmax"}, {"rank": 0.9}, SURVIVES),
        ("004.C1", "07/distance", {"scalar": "max_softmax"}, {"rank": None}, NOT_RUN),
        ("004.C2", "07/border", {"setting": "confidence 50"}, {"auroc": 0.3}, FALLS),
        ("004.C7", "09/removed_leads", {"rival": "classifier"}, {"difference": -0.01}, FALLS),
        ("004.C7", "09/removed_leads", {"rival": "another_image"}, {"difference": 0.0}, FALLS),
        ("004.C7", "09/removed_leads", {"rival": "reversed"}, {"difference": 0.9}, SURVIVES),
        ("004.C8", "09/leads", {"rival": "median"}, {"difference": -0.01}, FALLS),
        ("004.C8", "09/leads", {"rival": "runner_up"}, {"difference": 0.01}, SURVIVES),
        ("004.C8", "09/contributions", {"rival": "no mask, tuned"}, {"difference": 0.0}, FALLS),
        (
            "004.C8",
            "09/contributions",
            {"rival": "random mask, tuned"},
            {"difference": 0.005},
            FALLS,
        ),
        ("004.C10", "09/optimum", {"mask": "guided"}, {"over_random": 0.0}, FALLS),
        ("004.C10", "09/optimum", {"mask": "random"}, {"over_random": -1.0}, SURVIVES),
        (
            "004.C2",
            "07/border",
            {"setting": "confidence 50"},
            {"success": 0.05, "auroc": 0.0},
            SURVIVES,
        ),
        ("004.C2", "07/border", {"setting": "pushed x 1.5"}, {"auroc": 0.76}, SURVIVES),
        ("004.C2", "07/border", {"setting": "pushed x 1.5"}, {"auroc": 0.74}, FALLS),
        ("004.C2", "07/border", {"setting": "pushed x 1.5"}, {"auroc": 0.3}, FALLS),
        ("004.C2", "07/border", {"setting": "misread"}, {"auroc": 0.91}, FALLS),
        ("004.C2", "07/border", {"setting": "misread"}, {"auroc": 0.89}, SURVIVES),
        ("004.C2", "07/border", {"setting": "least sure"}, {"auroc": 0.91}, FALLS),
        ("004.C2", "07/border", {"setting": "least sure"}, {"auroc": 0.91, "n": 5}, SURVIVES),
        *[
            ("004.C4", "07/border", {"setting": "stopped at first success"}, change, control)
            for change, control in (
                ({"auroc": 0.91}, FALLS),
                ({"auroc": 0.89}, SURVIVES),
                ({"auroc": 0.91, "success": 0.05}, NOT_RUN),
            )
        ],
        *[
            ("004.C4", "07/controls", {"detector": "id_high_pass"}, {FLAGGED: share}, control)
            for share, control in ((0.44, SURVIVES), (0.46, FALLS))
        ],
        ("004.C5", "07/gcd_matrix", {"detector": "gcd"}, {"auroc": 0.91}, SURVIVES),
        ("004.C5", "07/gcd_matrix", {"detector": "gcd"}, {"auroc": 0.89}, FALLS),
        ("004.C5", "07/gcd_matrix", {"detector": "gcd"}, {"collapsed": 1}, NOT_RUN),
        ("004.C6", "07/supervision", {"supervision": "none"}, {"auroc": 0.9}, FALLS),
        ("004.C6", "07/supervision", {"detector": "tws"}, {"auroc": 0.9}, SURVIVES),
        ("X4", "07/cells", {"detector": "noise"}, {"auroc": 0.11}, SURVIVES),
        ("X4", "07/cells", {"detector": "noise"}, {"auroc": 0.09}, FALLS),
    ],
)
def test_where_a_control_turns(claim, place, where, change, control):
    assert verdict(claim, changed(plant(claim), place, where, **change)).control == control


def test_most_of_the_attacks_say_whether_the_jacobian_survives():
    one = {"difference": "jsd - jsd_shuffled", "attack": "fgsm"}
    tables = changed(plant("002.C2"), "04/jacobian_gain", one, interval=[-0.1, 0.1])
    assert verdict("002.C2", tables).control == SURVIVES  # two of three
    one = {"difference": "jsd - jsd_shuffled", "attack": "bim"}
    tables = changed(tables, "04/jacobian_gain", one, interval=[-0.1, 0.1])
    assert verdict("002.C2", tables).control == FALLS


# What is not admitted

LEARNED = {"fit_attack": "fgsm", "test_attack": "fgsm"}
ON = {"tested_on": OF_L2[0]}
DEAD = {"auroc": 0.52, "low": 0.49, "high": 0.55}
UNMEASURED = "detector not measured"
REFUSED = [  # claim, place, rows, change, reason, cells that are left of those planted
    ("000.C1", "03/000.table1", {"attack": "fgsm"}, {"success": 0.05}, FEW, 2),
    ("000.C1", "03/000.table1", {"attack": "fgsm"}, {"success": None}, UNKNOWN, 2),
    (
        "000.C1",
        "03/000.table1",
        {"attack": "bim"},
        {"success": 0.05, "n_fooled": ..., "effect_fooled": ...},
        FEW,
        2,
    ),
    (
        "000.C1",
        "03/000.table1",
        {"attack": "bim"},
        {"success": 0.9, "n_fooled": ..., "effect_fooled": ...},
        "judged over images that were not fooled (older table)",
        2,
    ),
    ("000.C4 (maps)", "03/000.table1", {"attack": "jsma"}, {"success": 0.05}, FEW, 2),
    ("000.C4 (maps)", "03/000.table1", {"attack": "jsma"}, {"attack": "x"}, UNKNOWN, 2),
    *[
        (claim, "05/000.table7", {"detector": d, "fit_attack": "fgsm"}, change, why, 6)
        for claim, first, base in (
            ("000.C2", "spd", "smd"),
            ("000.C3", "spd", "id"),
            ("000.C4", "jsd", "id"),
        )
        for d, change, why in (
            (first, {"collapses": 3}, COLLAPSED),
            (base, {"collapses": 3}, COLLAPSED),
            (base, {"auroc": 0.52, "auroc_interval": [0.49, 0.55]}, NO_BASELINE),
        )
    ],
    ("000.C2", "05/000.table7", {"test_attack": "mim"}, {"success": 0.05}, FEW, 6),
    ("000.C2", "05/000.table7", {"test_attack": "mim"}, {"success": ...}, UNKNOWN, 6),
    ("000.C2", "05/000.table7", {"fit_attack": "mim"}, {"auroc": 0.985}, CEILING, 6),
    ("000.C4", "05/000.table7", {"fit_attack": "mim"}, {"auroc": 0.985}, CEILING, 6),
    ("000.C5", "05/000.table7", {"test_attack": "mim"}, {"success": 0.05}, FEW, 1),
    ("000.C5", "05/strength", {"attack": "mim"}, {"rms": None}, "sizes of the attacks unknown", 1),
    ("000.C7", "05/000.table9", {"detector": "id"}, {"collapses": 3}, COLLAPSED, 3),
    ("000.C8", "05/mixture", {"attack": "bim"}, {"own": 0.52}, CHANCE, 4),
    *[
        (claim, "04/strength", {"attack": a}, {"success": success}, why, left)
        for claim in NOTEBOOK_04
        for a, left in ((("bim", 2),) if claim != "X1" else ((RANKED[0], 0),))
        for success, why in ((0.05, FEW), (None, UNKNOWN))
    ],
    *[
        (claim, "04/002.fig2", {"detector": "jsd"} | LEARNED, {"collapses": 3}, COLLAPSED, 2)
        for claim in ("002.C1", "002.C2", "002.C6")
    ],
    ("002.C2", "04/002.fig2", {"detector": "id"} | LEARNED, {"collapses": 3}, COLLAPSED, 2),
    (
        "002.C2",
        "04/002.fig2",
        {"detector": "id"} | LEARNED,
        {"auroc": 0.52, "interval": [0.49, 0.55]},
        CHANCE,
        2,
    ),
    ("002.C2", "04/002.fig2", LEARNED, {"auroc": 0.99}, CEILING, 2),
    ("002.C2", "04/002.fig2", LEARNED, {"detector": "x"}, "detector not measured", 2),
    ("002.C3", "04/sizes", {"eps_fit": 1, "eps_test": 1}, {"here": 0.7}, UNLEARNED, 2),
    ("002.C3", "04/sizes", {"eps_fit": 3, "eps_test": 3}, {"here": 0.7}, UNLEARNED, 2),
    ("002.C4", "04/002.fig2", LEARNED, {"accuracy": 0.7}, UNLEARNED, 2),
    ("002.C4", "04/002.fig2", LEARNED, {"collapses": 3}, COLLAPSED, 2),
    ("002.C5", "04/002.fig2", LEARNED, {"accuracy": 0.7}, UNLEARNED, 1),
    ("002.C5", "04/002.fig2", LEARNED, {"collapses": 3}, COLLAPSED, 1),
    ("002.C5", "04/strength", {"attack": "jsma"}, {"success": 0.05}, FEW, 1),
    ("002.C8", "04/layers", {"attack": "fgsm"}, {"collapses": 3}, COLLAPSED, 2),
    ("002.C10", "03/000.table1", {"attack": "jsma"}, {"success": 0.05}, FEW, 2),
    ("002.C10", "03/rank_correlation", {"attack": "jsma_000"}, {"interval": ...}, OLDER, 2),
    (
        "002.C10",
        "03/rank_correlation",
        {"attack": "jsma_000"},
        {"attack": "bim"},
        "the perturbation is a sign: its ranks are ties",
        2,
    ),
    ("003.C1", "06/others", {"attack": OF_003[0], "asked": "none 0.2"}, {"fooled": 19}, FEW, 2),
    ("003.C2", "06/region", {"attack": OF_003[0]}, {"n": 19}, FEW, 2),
    ("003.C2", "06/region", {"attack": OF_003[0]}, {"interval": ...}, OLDER, 2),
    ("003.C3", "06/others", {"attack": OF_003[0]}, {"fooled": 19}, FEW, 2),
    ("003.C4", "06/others", {"attack": OF_003[0]}, {"fooled": 19}, FEW, 2),
    ("003.C5", "06/others", {"attack": OF_003[1]}, {"fooled": 19}, FEW, 2),
    ("003.C6", "06/adds", {"attack": "fgsm", "grad_cam minus": "without"}, {"n": 19}, FEW, 2),
    ("003.C7", "06/versus", {"attack": "fgsm"}, {"n": 19}, FEW, 2),
    ("003.C10", "06/others", {"attack": OF_003[0]}, {"fooled": 19}, FEW, 2),
    *[
        (claim, "07/cells", {"tested_on": OF_L2[0]}, {"success": success}, why, left)
        for claim, left in {
            "004.C1": 3,
            "004.C2": 2,
            "004.C3": 2,
            "004.C5": 5,
            "004.C5 (half)": 5,
            "004.C6": 15,
            "X4": 6,
        }.items()
        for success, why in ((0.05, FEW), (None, UNKNOWN))
    ],
    ("004.C4", "07/cells", {"tested_on": OF_LINF[2]}, {"success": 0.05}, FEW, 4),
    ("004.C4", "07/eps", {"attack": OF_LINF[0], "eps_255": 2}, {"success": 0.05}, FEW, 4),
    *[
        (claim, "07/cells", {"tested_on": OF_L2[0]}, {"collapsed": 1}, COLLAPSED, left)
        for claim, left in {
            "004.C2": 2,
            "004.C3": 2,
            "004.C5": 5,
            "004.C5 (half)": 5,
            "004.C6": 15,
            "X4": 6,
        }.items()
    ],
    ("004.C3", "07/cells", {"detector": "insen_norm"} | ON, {"collapsed": 1}, COLLAPSED, 2),
    ("004.C3", "07/cells", {"detector": "insen"} | ON, DEAD, CHANCE, 2),
    ("004.C6", "07/cells", {"detector": "tws"} | ON, {"collapsed": 1}, COLLAPSED, 17),
    ("004.C6", "07/cells", ON, {"auroc": 0.985}, CEILING, 15),
    ("004.C5 (half)", "07/cells", ON, {"auroc": 0.985}, CEILING, 5),
    ("X4", "07/cells", ON, {"auroc": 0.985}, CEILING, 6),
    ("004.C4", "07/cells", {"tested_on": OF_LINF[0]}, {"collapsed": 1}, COLLAPSED, 3),
    ("004.C4", "07/eps", {"detector": "id_high_pass"}, {"collapsed": 1}, COLLAPSED, 1),
    ("004.C4", "07/eps", {"detector": "id_high_pass"}, {"auroc": None}, UNMEASURED, 1),
    ("004.C5", "07/cells", {"detector": "gcd"} | ON, {"auroc": None}, UNMEASURED, 5),
    ("004.C6", "07/cells", {"detector": "tws"} | ON, {"auroc": None}, UNMEASURED, 17),
    ("004.C1", "07/distance", {"images": "toy"}, {"rank": None}, "no interval", 3),
    ("X4", "07/scalars", {"attack": OF_L2[0]}, {"low": None}, UNMEASURED, 6),
    ("004.C7", "09/removed_leads", {"attack": OF_L2[0]}, {"n": 19}, FEW, 2),
    ("004.C7", "09/removed_leads", {"attack": OF_L2[0]}, {"low": None}, "no interval", 2),
    ("004.C8", "09/reached", {"attack": OF_L2[0]}, {"fooled": 19}, FEW, 4),
    ("004.C10", "09/reached", {"attack": OF_L2[0]}, {"fooled": 19}, FEW, 2),
]


@pytest.mark.parametrize(("claim", "place", "where", "change", "why", "left"), REFUSED)
def test_what_is_not_admitted_is_named_and_not_counted(claim, place, where, change, why, left):
    found = verdict(claim, changed(plant(claim), place, where, **change))
    assert list(found.refused) == [why]
    assert counts(found) == (left, 0, 0)


def test_what_just_is_admitted():
    """Twenty images, two collapses of three, a baseline just above chance."""
    for claim, place, where, change in [
        ("000.C1", "03/000.table1", {"attack": "fgsm"}, {"success": 0.1}),
        ("000.C2", "05/000.table7", {"detector": "spd"}, {"collapses": 2}),
        ("000.C2", "05/000.table7", {"detector": "smd"}, {"auroc_interval": [0.51, 0.62]}),
        ("002.C1", "04/strength", {"attack": "fgsm"}, {"success": 0.1}),
        ("003.C1", "06/others", {}, {"fooled": 20}),
        ("004.C2", "07/cells", {}, {"success": 0.1}),
        ("004.C3", "07/cells", {"detector": "insen"}, {"auroc": 0.55, "low": 0.51}),
        ("004.C6", "07/cells", {"detector": "gcd"}, {"auroc": 0.99}),
    ]:
        found = verdict(claim, changed(plant(claim), place, where, **change))
        assert not found.refused and sum(counts(found)) == PLANTED[claim].cells


# What a claim alone does


def test_the_images_that_were_fooled_are_judged_not_all_of_them():
    tables = changed(plant("000.C1"), "03/000.table1", {"attack": "fgsm"}, effect=0.0)
    assert counts(verdict("000.C1", tables)) == (3, 0, 0)
    older = {"success": 1.0, "n_fooled": ..., "effect_fooled": ..., "effect": 0.1}
    tables = changed(tables, "03/000.table1", {"attack": "fgsm"}, **older)
    assert counts(verdict("000.C1", tables)) == (2, 1, 0)  # all were fooled: they are the same


def test_where_the_cross_entropy_moves_like_the_learned_map_it_is_a_claim_of_the_logit():
    where = {"map": "cross_entropy_gradient", "attack": RANKED[0]}
    tables = changed(plant("000.C4 (maps)"), "03/effects", where, scaled=1.0)
    assert verdict("000.C4 (maps)", tables).control == SURVIVES  # two of three
    where["attack"] = RANKED[1]
    tables = changed(tables, "03/effects", where, scaled=1.0)
    assert verdict("000.C4 (maps)", tables).control == FALLS


@pytest.mark.parametrize(("claim", "a", "b"), [("000.C2", "spd", "smd"), ("000.C4", "id", "jsd")])
def test_a_paired_interval_goes_before_two_of_the_detectors(claim, a, b):
    tables = plant(claim, 0.05)
    for name, bounds in ((f"{a} - {b}", [0.01, 0.2]), (f"{b} - {a}", [-0.2, -0.01])):
        place = {"difference": name, "fit_attack": "fgsm", "test_attack": "bim"}
        paired = {"05": tables["05"] | {"differences": [place | {"interval": bounds}]}}
        assert counts(verdict(claim, paired)) == (1, 0, 8)


def test_smaller_means_by_half_and_neither_of_one_value():
    found = CLAIMS["000.C5"](Published("", 0, plant("000.C5"))).cells
    names = [one.name for one in found]
    assert names == ["fgsm -> bim", "fgsm -> mim", "bim -> mim"]
    tables = changed(plant("000.C5"), "05/strength", {"attack": "bim"}, rms=0.201)
    assert verdict("000.C5", tables).cells == 2  # .3 is not 1.5 times .201
    older = {"02": {"sizes": [{"setting": "deepfool_000", "rms": 0.001}]}}
    rows = changed(plant("000.C5"), "05/000.table7", {"test_attack": "mim"}, test_attack="deepfool")
    assert verdict("000.C5", rows | older).cells == 4  # fgsm -> bim, and all three to deepfool


@pytest.mark.parametrize(
    ("detector", "at", "auroc", "expected"),
    [
        ("id", 0.01, 0.599, (4, 0, 0)),
        ("id", 0.01, 0.601, (3, 0, 1)),
        ("id", 0.3, 0.901, (4, 0, 0)),
        ("id", 0.3, 0.899, (3, 0, 1)),
        ("spd", 0.03, 0.901, (4, 0, 0)),
        ("spd", 0.03, 0.899, (3, 0, 1)),
        ("spd", 0.01, 0.52, (3, 1, 0)),
    ],
)
def test_thresholds_of_size(detector, at, auroc, expected):
    where, bounds = {"detector": detector, "eps": at}, around(auroc, 4 * MANY)
    tables = changed(plant("000.C6"), "05/by_size", where, auroc=auroc, interval=bounds)
    assert counts(verdict("000.C6", tables)) == expected


def test_the_opposite_in_two_seeds_is_the_opposite_of_thresholds():
    two = [plant("000.C6", -1.0)] * 2
    assert counts(verdict("000.C6", *two)) == (0, 4, 0)


def test_an_id_that_does_not_find_the_smaller_attack_shows_the_claim():
    tables = plant("000.C5")
    for row in tables["05"]["000.table7"]:
        if row["detector"] == "id" and row["fit_attack"] != row["test_attack"]:
            row |= {"auroc": 0.5, "auroc_interval": [0.45, 0.55]}
    assert counts(verdict("000.C5", tables)) == (3, 0, 0)


def test_a_jsd_that_may_lead_by_less_than_a_hundredth_is_open():
    tables, place = plant("000.C4", -0.02), {"difference": "jsd - id", "interval": [0.005, 0.05]}
    rows = [place | {k: row[k] for k in LEARNED} for row in tables["05"]["000.table7"]]
    tables = {"05": tables["05"] | {"differences": rows}}
    assert counts(verdict("000.C4", tables)) == (0, 0, 9)


def test_a_shuffled_jacobian_that_was_not_measured_is_not_run():
    tables = plant("002.C2")
    rows = tables["04"]["jacobian_gain"]
    tables["04"]["jacobian_gain"] = [r for r in rows if r["difference"] == "jsd - id"]
    assert verdict("002.C2", tables).control == NOT_RUN


def test_harm_has_an_interval_too():
    found = verdict("003.C1", plant("003.C1", 0.08))  # .48 [.41, .55] less .4 [.33, .47]
    assert counts(found) == (0, 0, 3)


def test_easy_attacks_and_good_teachers_are_no_transfer_within_a_norm():
    tables = plant("000.C7", 0.02)
    for row in tables["05"]["000.table9"]:
        row["auroc"] += 0.1 * (row["test_attack"] in THREE[:2]) - 0.1 * (
            row["fit_attack"] == "jsma"
        )
    assert counts(verdict("000.C7", tables)) == (4, 0, 0)
    assert {f"{value:.3f}" for value in _values("000.C7", tables)} == {
        f"{value:.3f}" for value in _values("000.C7", plant("000.C7", 0.02))
    }


def _values(claim, tables):
    return [one.value for one in CLAIMS[claim](Published("", 0, tables)).cells]


def test_the_smaller_of_both_rates_counts():
    for claim, place in (("002.C1", "04/002.fig2"), ("002.C8", "04/layers")):
        for rate in ("tpr", "tnr"):
            tables = changed(plant(claim), place, {}, **{rate: 0.3})
            assert _values(claim, tables) == [0.3] * 3


def test_one_of_four_readings_does_not_make_four_cells():
    worse = {"minus joint squeezing": -0.7, "interval": [-0.9, -0.5]}
    for claim, place, where, change in (
        ("X1", "04/readings", {"reading": "logit scaled"}, {"auroc": 0.5, "interval": [0.4, 0.6]}),
        ("003.C5", "06/grid", {"transform": "zero_mean_undone"}, {"detection": 0.2}),
        ("003.C7", "06/versus", {"method": "zero_mean_undone 0.1"}, worse),
    ):
        found = verdict(claim, changed(plant(claim), place, where, **change))
        assert found.cells == PLANTED[claim].cells and not found.opposite and found.open


def test_strong_and_weak_turned_around_is_the_opposite():
    assert _values("002.C4", plant("002.C4", 0.4)) == pytest.approx([0.4] * 4)
    assert _values("002.C3", plant("002.C3", -0.4)) == pytest.approx([-0.4] * 4)
    assert _values("002.C3", plant("002.C3", 0.4, control=False)) == pytest.approx([0.4] * 4)


def with_ospa(claim, ospa):
    tables = plant(claim)
    for table in {"others", "grid"} & set(tables["06"]):
        tables = changed(tables, f"06/{table}", {}, ospa=ospa)
    return tables


@pytest.mark.parametrize("claim", ["003.C4", "003.C5"])
@pytest.mark.parametrize(
    ("ospa", "expected"), [(0.95, (3, 0, 0)), (0.89, (0, 0, 3)), (0.5, (0, 3, 0))]
)
def test_labels_that_change_on_honest_images_detect_nothing(claim, ospa, expected):
    assert counts(verdict(claim, with_ospa(claim, ospa))) == expected
    assert verdict(claim, *[with_ospa(claim, ospa)] * 2).shown == expected[0]


def test_of_each_attack_the_best_reading_counts():
    tables = changed(plant("003.C3"), "06/others", {"asked": "none 0.2"}, at_ospa_90=0.1)
    assert _values("003.C3", tables) == [0.75] * 3
    assert _values("003.C10", tables) == pytest.approx([0.05] * 3)


def test_only_theta_of_a_tenth_is_compared_with_squeezing_and_kept():
    tables = changed(plant("003.C7"), "06/versus", {"method": "zero_mean 0.1"}, method="none 0.1")
    names = [one.name for one in CLAIMS["003.C7"](Published("", 0, tables)).cells]
    assert not [name for name in names if "none" in name] and len(names) == 16
    assert len(CLAIMS["003.C8"](Published("", 0, plant("003.C8"))).cells) == 5


# Docstrings


@pytest.mark.parametrize(
    "claim",
    CLAIMS,
)
def test_a_docstring_says_the_claim_its_scope_cells_and_control(claim):
    first, _, rest = inspect.getdoc(CLAIMS[claim]).replace("\n", " ").partition("  ")
    said = first.removeprefix(f"{claim}: ")
    assert said != first and said.endswith(".") and not re.search(r"[.!?] [A-Z]", said)
    assert rest.index("Scope:") < rest.index("Cells:") < rest.index("Control:")


# Faults of the claims that these tests found


def test_clean_images_are_counted_once():
    tables = plant("003.C8")
    again = [row | {"attack": "carlini_wagner_l2"} for row in tables["06"]["grid"]]
    tables["06"]["grid"] = tables["06"]["grid"] + again
    assert verdict("003.C8", tables).n == N


NOTHING = {  # what notebook 06 writes of an attack that fools nothing: means of nothing are None
    "003.C1": ("06/others", {"detection": None, "fooled": 0}),
    "003.C2": (
        "06/region",
        dict.fromkeys(("noisy", "attacked", "old class", "interval")) | {"n": 0},
    ),
    "003.C3": (
        "06/others",
        dict.fromkeys(("detection", "at_ospa_90", "at_ospa_95")) | {"fooled": 0},
    ),
    "003.C4": ("06/others", {"detection": None, "fooled": 0}),
    "003.C5": ("06/others", {"detection": None, "fooled": 0}),
    "003.C6": ("06/adds", {"detection": None, "interval": [None, None], "n": 0}),
    "003.C7": ("06/versus", {"detection": None, "interval": [None, None], "n": 0}),
    "003.C8": ("06/grid", {"detection": None, "ospa_of_fooled": None, "fooled": 0}),
    "003.C10": (
        "06/others",
        dict.fromkeys(("detection", "at_ospa_90", "at_ospa_95")) | {"fooled": 0},
    ),
}


@pytest.mark.parametrize("claim", NOTHING)
def test_no_attack_that_fools_is_not_testable(claim):
    place, change = NOTHING[claim]
    tables = changed(plant(claim), place, {}, **change)
    if claim == "003.C5":  # its other readings too
        tables = changed(tables, "06/grid", {}, detection=None, fooled=0)
    if claim == "003.C3" or claim == "003.C10":
        tables["06"]["others"] = tables["06"]["others"] * 2  # two readings
    found = verdict(claim, tables)
    if claim != "003.C8":  # of clean images
        assert found.outcome == NOT_TESTABLE


@pytest.mark.parametrize("bounds", [None, [None, None]])
def test_a_perturbation_without_ranks_is_not_admitted(bounds):
    change = {"attacked Jacobian": None, "other image's perturbation": None, "interval": bounds}
    where = {"attack": "jsma_000"}
    tables = changed(plant("002.C10"), "03/rank_correlation", where, **change)
    assert counts(verdict("002.C10", tables)) == (2, 0, 0)


def test_a_level_that_was_not_measured_is_no_cell():
    tables = changed(plant("002.C3"), "04/sizes", {"eps_fit": 1, "eps_test": 2}, eps_test=9)
    assert counts(verdict("002.C3", tables)) == (2, 0, 0)


def test_an_attack_without_the_learned_map_is_no_cell():
    where = {"map": "learned", "attack": RANKED[0]}
    tables = changed(plant("000.C4 (maps)"), "03/effects", where, attack="x")
    assert counts(verdict("000.C4 (maps)", tables)) == (2, 0, 0)


@pytest.mark.parametrize(
    ("claim", "place", "where", "left"),
    [
        ("000.C7", "05/000.table9", {}, 0),
        ("000.C8", "05/000.table7", {"test_attack": "bim"}, 4),
        ("002.C4", "04/strength", {"attack": "fgsm"}, 2),
    ],
)
def test_an_attack_that_fools_nobody_is_not_admitted(claim, place, where, left):
    found = verdict(claim, changed(plant(claim), place, where, success=0.05))
    assert found.shown == left and FEW in found.refused


def test_a_collapsed_detector_is_not_asked_whether_one_serves_for_all():
    tables = plant("000.C8")
    tables["05"]["000.table7"] = matrix({"id": 0.9, "spd": 0.9}, N, THREE)
    tables = changed(tables, "05/000.table7", {"detector": "id"}, collapses=3)
    assert verdict("000.C8", tables).refused == {COLLAPSED: 3}


def test_squeezing_is_compared_where_the_claim_is():
    tables = changed(plant("003.C7"), "06/squeezing", {"parameters": "2x2"}, at_ospa_95=0.9)
    for kind in ("colour_reversing", *ZERO_MEANS):
        method = {"method": f"{kind} 0.0"}
        tables = changed(tables, "06/versus", method, detection=0.95)
    assert verdict("003.C7", tables).control == FALLS


def test_joint_squeezers_are_no_single_one():
    tables = plant("003.C7")
    joint = [
        {"attack": a, "parameters": "1-bit, 2x2", "at_ospa_95": 0.95}
        for a in ("fgsm", "carlini_wagner_l2")
    ]
    tables["06"]["squeezing"] = tables["06"]["squeezing"] + joint
    assert verdict("003.C7", tables).control == SURVIVES


def test_a_collapsed_id_does_not_help_photographs():
    tables = changed(plant("002.C6"), "04/002.fig2", {"detector": "id"}, accuracy=0.9)
    where = {"detector": "id", "test_attack": "fgsm"}
    tables = changed(tables, "04/002.fig2", where, accuracy=0.5, collapses=3)
    assert verdict("002.C6", tables).control == FALLS


@pytest.mark.parametrize(
    ("claim", "place", "change", "control"),
    [
        ("003.C2", "06/region", {"n": 5, "old class": -9.0}, False),
        ("003.C3", "06/others", {"fooled": 5, "at_ospa_95": 0.1}, True),
    ],
)
def test_a_control_counts_the_cells_of_the_claim(claim, place, change, control):
    tables = changed(plant(claim, control=control), place, {"attack": OF_003[0]}, **change)
    assert verdict(claim, tables).control == (SURVIVES if control else FALLS)


def test_a_gap_next_to_nothing_does_not_decide():
    tables = plant("003.C2", control=False)
    change = {"attacked": 0.499, "old class": 0.4}
    tables = changed(tables, "06/region", {"attack": OF_003[0]}, **change)
    assert verdict("003.C2", tables).control == FALLS


# Paper 004


def dead(claim, *detectors):
    """The tables of a claim in which these detectors collapsed."""
    tables = plant(claim)
    for name in detectors:
        where = {"detector": name}
        tables = changed(tables, "07/cells", where, collapsed=1, auroc=0.5, low=0.45, high=0.55)
    return tables


def with_cells(tables, aurocs, n=N):
    rows = [row for row in tables["07"]["cells"] if row["detector"] not in aurocs]
    return {"07": tables["07"] | {"cells": rows + measured(aurocs, n)}}


def test_the_logarithm_is_asked_where_the_raw_map_collapsed():
    for claim, left in (("004.C2", 3), ("004.C3", 0)):
        found = verdict(claim, dead(claim, "insen"))
        assert not found.refused and found.shown == left  # .99 of the logarithm leads .8 by far
    assert verdict("004.C3", dead("004.C3", "insen")).opposite == 3
    assert verdict("004.C2", dead("004.C2", "insen", "insen_log")).refused == {COLLAPSED: 3}
    swept = changed(plant("004.C4"), "07/eps", {"detector": "insen"}, collapsed=1)
    assert counts(verdict("004.C4", swept)) == (1, 4, 0)  # the logarithm sees it there


@pytest.mark.parametrize(("auroc", "expected"), [(0.99, (6, 0, 0)), (0.8, (0, 6, 0))])
def test_gcd_on_halves_that_did_not_collapse_is_asked_where_gcd_did(auroc, expected):
    tables = with_cells(dead("004.C5", "gcd"), {"gcd_cured": auroc}, MANY)
    assert counts(verdict("004.C5", tables)) == expected


def test_gcd_on_halves_that_did_not_collapse_meets_its_own_halves_and_rivals():
    cured = {"gcd_cured": 0.9, "id_high_pass": 0.88, "insen_log": 0.5, "gcd_cured_mean": 0.9}
    for claim, value in (("004.C5 (half)", 0.02), ("004.C6", 0.9 - 0.45)):
        tables = with_cells(dead(claim, "gcd"), cured, MANY)
        found = verdict(claim, tables)
        assert found.shown == PLANTED[claim].cells and not found.refused
        assert _values(claim, tables) == pytest.approx([value] * PLANTED[claim].cells)
    assert (
        verdict("004.C5 (half)", with_cells(dead("004.C5 (half)", "gcd"), cured)).control == FALLS
    )


def test_a_lead_without_a_pair_is_of_two_detectors():
    tables = changed(plant("004.C6", n=50), "07/differences", {}, low=None)
    assert _values("004.C6", tables) == pytest.approx([0.3] * 18)
    wide = CLAIMS["004.C6"](Published("", 0, tables)).cells[0]
    assert wide.high - wide.low == pytest.approx(2 * 2**0.5 * 50**-0.5)


def test_a_sensitivity_that_is_not_larger_is_open():
    where = {"detector": "input_sensitivity"}
    tables = changed(plant("004.C2"), "07/cells", where, auroc=0.1, low=0.05, high=0.15)
    assert counts(verdict("004.C2", tables)) == (0, 0, 3)


def test_what_is_seen_in_neither_or_in_both_is_the_opposite():
    for detector, auroc in (("id_high_pass", 0.6), ("insen", 0.95)):
        tables = plant("004.C4")
        for table in ("cells", "eps"):
            tables = changed(
                tables,
                f"07/{table}",
                {"detector": detector},
                auroc=auroc,
                low=auroc - 0.05,
                high=auroc + 0.05,
            )
        assert counts(verdict("004.C4", tables)) == (0, 5, 0)
        assert _values("004.C4", tables) == pytest.approx([-0.15 if auroc < 0.75 else -0.2] * 5)


def test_what_falls_by_noise_falls_without_a_pgd_that_stops():
    tables = plant("004.C4", control=False)
    tables["07"].pop("border")
    assert verdict("004.C4", tables).control == FALLS


def test_another_aim_is_no_unseen_attack():
    tables = plant("004.C5")
    where = {"fitted_on": "004.pgd", "tested_on": "004.pgd_targeted"}
    changed(tables, "07/gcd_matrix", where)  # is there, of an AUROC of .05
    assert "trained on 0.95; best or tied on 4 of 6 attacks" in verdict("004.C5", tables).told


def test_clean_images_alone_can_overturn_the_difference_and_not_save_it():
    tables = plant("004.C2")
    clean = [row for row in tables["07"]["border"] if row["attack"] == "clean"]
    tables = {"07": tables["07"] | {"border": clean}}
    assert verdict("004.C2", tables).control == NOT_RUN
    tables = changed(tables, "07/border", {"setting": "misread"}, auroc=0.95)
    assert verdict("004.C2", tables).control == FALLS


def test_readings_of_one_detector_are_one_cell_beside_the_scalars():
    where = {"detector": "insen_log"}
    change = {"difference": -0.2, "low": -0.3, "high": -0.1}
    tables = changed(plant("X4"), "07/scalars", where, **change)
    assert counts(verdict("X4", tables)) == (6, 0, 3)


@pytest.mark.parametrize("claim", OF_NOTEBOOK_07)
def test_rows_of_nothing_are_read_as_they_were_written(claim):
    """Every result of every row is None, as JSON writes not-a-number."""
    names = {"attack", "detector", "difference", "eps_255", "fitted_on", "images", "n", "scalar"}
    names |= {"setting", "supervision", "tested_on"}
    tables = {
        table: [{key: row[key] if key in names else None for key in row} for row in rows]
        for table, rows in plant(claim)["07"].items()
    }
    found = verdict(claim, {"07": tables})
    assert (found.outcome, found.control, found.cells) == (NOT_TESTABLE, NOT_RUN, 0)


@pytest.mark.parametrize("claim", OF_NOTEBOOK_07)
def test_an_interval_that_reaches_over_the_margin_is_open(claim):
    plan = PLANTED[claim]
    above, below = plan.margin if isinstance(plan.margin, tuple) else (plan.margin, plan.margin)
    for value in (above + 0.01, below - 0.01):
        assert counts(verdict(claim, plant(claim, value, n=50))) == (0, 0, plan.cells)


def test_half_of_the_comparisons_at_equal_supervision_decide():
    tables = plant("004.C6")
    for name in ("pixel_defend", "tws"):
        where = {"detector": name, "supervision": "none"}
        tables = changed(tables, "07/supervision", where, auroc=0.9)
    assert verdict("004.C6", tables).control == SURVIVES  # MDS is left, either way
    where = {"detector": "mahalanobis", "supervision": "another attack"}
    tables = changed(tables, "07/supervision", where, auroc=0.9)
    assert verdict("004.C6", tables).control == FALLS


def test_attacks_that_fool_nobody_are_not_asked_at_equal_supervision():
    tables = plant("004.C6")
    for attack in (*OF_L2, OF_LINF[0]):
        where = {"tested_on": attack}
        tables = changed(tables, "07/cells", where, success=0.05)
        where |= {"detector": "gcd", "supervision": "another attack"}
        tables = changed(tables, "07/supervision", where, auroc=0.5)
    assert verdict("004.C6", tables).control == SURVIVES


@pytest.mark.parametrize("claim", ["000.C3", "000.C4"])
def test_where_id_collapsed_the_cured_one_is_the_baseline(claim):
    dead = changed(plant(claim), "05/000.table7", {"detector": "id"}, collapsed=1)
    assert counts(verdict(claim, dead)) == (0, 0, 0)
    rows, sign = dead["05"]["000.table7"], 1 if claim == "000.C3" else -1
    other = "spd" if claim == "000.C3" else "jsd"
    keys = [
        {"fit_attack": r["fit_attack"], "test_attack": r["test_attack"]}
        for r in rows
        if r["detector"] == "id"
    ]
    cured = [
        k
        | {"difference": f"{other} - id_high_pass", "auroc": 0.3 * sign, "n": N}
        | {"interval": sorted([0.25 * sign, 0.35 * sign])}
        for k in keys
    ]
    cells = [k | {"auroc": 0.7, "interval": [0.65, 0.75], "success": 1.0, "n": N} for k in keys]
    beside = {"05": dead["05"] | {"cured": cured, "cured_cells": cells}}
    assert counts(verdict(claim, beside)) == (len(keys), 0, 0)
    for change, why in (
        ({"collapsed": 1}, COLLAPSED),
        ({"auroc": 0.52, "interval": [0.45, 0.6]}, NO_BASELINE),
        ({"success": 0.05}, FEW),
    ):
        found = verdict(claim, changed(beside, "05/cured_cells", {}, **change))
        assert counts(found) == (0, 0, 0) and list(found.refused) == [why]
    alive = {"05": plant(claim)["05"] | {"cured": cured, "cured_cells": cells}}
    worse = changed(alive, "05/cured", {}, auroc=-0.9 * sign)
    assert verdict(claim, worse).here == verdict(claim, plant(claim)).here  # not asked


def test_where_id_collapsed_the_jacobian_is_compared_with_the_cured_one():
    dead = changed(plant("002.C2"), "04/002.fig2", {"detector": "id"}, collapsed=1)
    assert counts(verdict("002.C2", dead)) == (0, 0, 0)
    gain = {"difference": "jsd - id_high_pass", "auroc": -0.3, "interval": [-0.4, -0.2], "n": N}
    own = {"detector": "id_high_pass", "auroc": 0.8, "interval": [0.75, 0.85], "n": N}
    tables = dead["04"]
    more = {
        "jacobian_gain": tables["jacobian_gain"] + [gain | {"attack": a} for a in THREE],
        "scalars_and_stand_ins": tables["scalars_and_stand_ins"]
        + [own | {"attack": a} for a in THREE],
    }
    assert counts(verdict("002.C2", {"04": tables | more})) == (0, 3, 0)
    alive = {"04": plant("002.C2")["04"] | more}
    assert counts(verdict("002.C2", alive)) == (3, 0, 0)
