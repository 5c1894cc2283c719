"""The five questions between the papers, on planted tables."""

import pytest

from nbutils.claims import across
from nbutils.claims.evidence import Published

CW = "carlini_wagner_l2"


def run_of(**tables):
    return Published("cifar10", 0, {name.strip("_"): rows for name, rows in tables.items()})


def reading(name, auroc, kind="jsd"):
    return {"input": kind, "reading": name, "attack": CW, "auroc": auroc, "n": 300}


def scalar(name, auroc):
    return {"detector": name, "attack": CW, "auroc": auroc, "n": 300}


def test_a_gradient_map_finds_what_its_best_reading_finds():
    rows = [
        reading("logit", 0.6),
        reading("logit scaled", 0.9),
        reading("softmax", 0.5, "jacobian"),
    ]
    answer, said = across.gradient_map_finds_cw(run_of(_04={"readings": rows}))
    assert answer == "yes" and "logit with the image 0.90" in said
    assert "softmax without the image 0.50" in said and "n = 300" in said
    scalars = [scalar("noise", 0.89), scalar("jsd_random", 1.0)]  # a stand-in is no scalar
    tables = {"readings": rows, "scalars_and_stand_ins": scalars}
    answer, said = across.gradient_map_finds_cw(run_of(_04=tables))
    assert answer == "yes, and a scalar does as well" and "(noise): 0.89" in said
    tables = {"readings": [reading("logit", 0.7)], "scalars_and_stand_ins": scalars}
    assert across.gradient_map_finds_cw(run_of(_04=tables))[0] == "no"


@pytest.mark.parametrize(
    ("up", "down", "answer"),
    [
        ((0.9, 0.8), (0.6, 0.7), "small to large"),
        ((0.5, 0.5), (0.6, 0.7), "large to small"),
        ((0.9, 0.5), (0.6, 0.7), "neither way"),
        ((0.61, 0.7), (0.6, 0.7), "neither way"),
    ],
)
def test_the_direction_of_transfer_is_that_of_most_detectors(up, down, answer):
    rows = [
        {"detector": name, "small to large": a, "large to small": b, "own": 0.9, "n": 50}
        for name, a, b in zip(("id", "spd"), up, down, strict=True)
    ]
    found, said = across.direction_of_transfer(run_of(_05={"transfer": rows}))
    assert found == answer and f"spd {up[1]:.2f} and {down[1]:.2f} (own attack 0.90)" in said


def test_sizes_are_compared_with_the_fit_at_the_tested_size():
    values = {(1, 1): 0.9, (1, 2): 0.8, (2, 1): 0.5, (2, 2): 1.0}
    rows = [
        {"detector": "jsd", "attack": "fgsm", "eps_fit": fit, "eps_test": test, "auroc": value}
        for (fit, test), value in values.items()
    ]
    told = across._sizes(run_of(_04={"sizes": rows}))
    assert "by -0.20 where it was fitted at a smaller one" in told  # 0.8 beside 1.0
    assert "by -0.40 at a larger one" in told  # 0.5 beside 0.9
    assert across._sizes(run_of(_04={"sizes": rows[:1]})) == ""


def test_a_saliency_moves_if_attacks_move_it_further_than_another_picture():
    effects = [
        {"map": "learned", "attack": "a", "scaled": 0.9, "n": 80},
        {"map": "learned", "attack": "b", "scaled": 0.3, "n": 80},
        {"map": "grad_cam", "attack": "a", "scaled": 0.4, "n": 80},
    ]
    swap = [{"map": "learned", "attack": "a", "both": 0.5, "label": 0.4, "n": 80}]
    answer, said = across.moving_saliency(run_of(_03={"effects": effects, "swap": swap}))
    assert answer == "learned" and "grad_cam 0.40" in said and "makes: learned 0.80" in said


def lead(detector, attack, low, high, collapsed=0):
    bounds = {"low": low, "high": high, "collapsed": collapsed, "n": 40}
    return {"detector": detector, "attack": attack, "scalar": "margin", **bounds}


def test_a_detector_beats_the_scalars_beyond_its_interval():
    rows = [lead("a", "x", 0.01, 0.2), lead("a", "y", 0.1, 0.2), lead("b", "x", -0.2, -0.1)]
    answer, said = across.beats_scalars(run_of(_07={"scalars": rows}))
    assert answer == "a on all" and "above in 2 of 3" in said and "below in 1" in said
    rows[1] = lead("a", "y", -0.01, 0.2)
    assert across.beats_scalars(run_of(_07={"scalars": rows}))[0] == "on some attacks"
    rows = [lead("a", "x", 0.01, 0.2, collapsed=1), lead("b", "x", -0.1, 0.1)]
    assert across.beats_scalars(run_of(_07={"scalars": rows}))[0] == "no"


def test_the_image_alone_sees_unless_it_collapsed_and_noise_is_told():
    own = {"fitted_on": f"004.{CW}", "tested_on": f"004.{CW}", "n": 60}
    rows = [
        {"detector": "id", "auroc": 0.9, "collapsed": 1, **own},
        {"detector": "id_high_pass", "auroc": 0.8, "collapsed": 0, **own},
        {"detector": "jsd", "auroc": 1.0, "collapsed": 0, **own},
    ]
    noise = {"detector": "id_high_pass", "attack": f"004.{CW}", "flagged_noise_sign": 0.7}
    answer, said = across.image_sees_cw(run_of(_07={"cells": rows, "controls": [noise]}))
    assert answer == "yes" and "id collapsed, id_high_pass 0.80" in said and "jsd" not in said
    assert "flagged by id_high_pass 0.70" in said
    assert across.image_sees_cw(run_of(_07={"cells": rows[:1]}))[0] == "no"


def test_what_was_not_measured_is_said_for_every_question():
    rows = across.answered(run_of())
    assert [row["name"] for row in rows] == ["X1", "X2", "X3", "X4", "X5"]
    assert all(row["answer"] == "not measured" and not row["numbers"] for row in rows)
    assert all(row["question"].endswith("?") for row in rows)
