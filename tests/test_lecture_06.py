"""Tables of a classifier that is asked again: counted by hand on planted answers."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from nbutils import InputError, plots, steps
from nbutils.evaluation import consistency_tables as ct
from nbutils.evaluation import metrics
from nbutils.steps import tables
from tests.conftest import configure

GRID = ct.modifications(["none", "zero_mean"], [0.0, 0.2])


def planted(success=(1, 1, 1, 0)):
    """Four images, ten calibration images, four modifications in the order of GRID.

    Row g changes the first g clean labels and the last g adversarial ones; its scores are g times
    those of row 1.
    """
    before = torch.zeros(4, dtype=torch.long)
    rows = torch.arange(4)[:, None]
    ramp = torch.arange(1, 11) / 10
    tensors = {
        "y": torch.tensor([0, 0, 0, 1]),
        "success": torch.tensor(success, dtype=torch.bool),
        "clean_before": before,
        "adversarial_before": before + 1,
        "clean_label": (torch.arange(4)[None] < rows).long(),
        "adversarial_label": 1 - (torch.arange(4)[None] >= 4 - rows).long(),
        "calibrate_far": rows * ramp[None],
        "clean_far": rows * torch.tensor([0.1, 0.95, 0.5, 1.0])[None],
        "adversarial_far": rows * torch.tensor([0.85, 0.95, 0.2, 2.0])[None],
    }
    return SimpleNamespace(tensors=tensors, record={"names": list(GRID)})


def test_modifications_are_named_and_ordered():
    assert list(GRID) == ["none 0.0", "none 0.2", "zero_mean 0.0", "zero_mean 0.2"]
    other = ct.modifications(["none"], [0.1], ["shuffled", "random"])
    assert other["none random 0.1"] == {"maps": "random", "transform": "none", "theta": 0.1}
    readings = ct.other_readings(["overlay", "grey"], ["zero_mean"])
    assert list(readings) == [
        "overlay none 0.2",
        "grey none 0.2",
        "overlay zero_mean first 0.0",
        "overlay zero_mean first 0.2",
    ]
    assert [knobs["transform_first"] for knobs in readings.values()] == [False, False, True, True]


def test_the_label_rule_counts_successful_attacks_only():
    found = ct.label_rule(planted(), "zero_mean 0.0")  # clean 0, 1 and adversarial 2, 3 change
    assert (found["ospa"], found["n"], found["fooled"]) == (0.5, 4, 3)
    assert found["detection"] == pytest.approx(1 / 3)  # image 3 changes, and was not fooled
    assert found["ospa_of_fooled"] == pytest.approx(1 / 3)
    assert found["kept_right"] == 0.25  # clean labels 1, 1, 0, 0 against 0, 0, 0, 1
    low, high = found["detection_interval"]
    assert low < 1 / 3 < high


def test_several_modifications_flag_together():
    answers = planted()
    together = ct.label_changes(answers, "none 0.2", "zero_mean 0.0")
    assert together["clean"].tolist() == [True, True, False, False]
    calibrate, adversarial = ct.moved(answers, "none 0.2", "zero_mean 0.2")
    assert torch.equal(calibrate, answers.tensors["calibrate_far"][3])
    assert torch.equal(adversarial, answers.tensors["adversarial_far"][3])


def test_detection_at_one_ospa_has_its_threshold_from_calibration_images():
    answers = planted()
    # of the scores .1 to 1 at most a tenth may lie above: the threshold is .9
    assert ct.at_ospa(answers, "none 0.2", ospa=0.9) == pytest.approx(1 / 3)
    assert ct.at_ospa(answers, "none 0.2", ospa=0.8) == pytest.approx(2 / 3)
    measured = ct.measured_fpr(answers, ["none 0.2"], fpr=0.1).iloc[0]
    assert measured["measured"] == 0.5 and measured["n"] == 4
    assert measured["calibration images"] == 10


def test_an_unknown_modification_is_a_sentence():
    with pytest.raises(InputError, match="was not asked about"):
        ct.label_rule(planted(), "none 0.3")
    with pytest.raises(InputError, match="of no name"):
        ct.label_changes(planted())


def test_an_attack_that_fools_nobody_is_not_measured():
    nobody = planted(success=(0, 0, 0, 0))
    found = ct.label_rule(nobody, "none 0.2")
    assert np.isnan(found["detection"]) and found["fooled"] == 0
    assert found["detection_interval"] == (0.0, 1.0)
    every = ct.grid_table({"fgsm": nobody}, GRID)
    assert ct.best(every, "detection") == []
    assert ct.curves({"fgsm": nobody}, GRID, [0.5]).empty
    adds = ct.added_by_map({"fgsm": nobody}, {}, GRID)
    assert adds["detection"].isna().all()
    assert ct.sides(adds, ["attack"], "detection").empty
    assert ct.percent(float("nan"), (0, 1), 0) == ct.percent(None) == "not measured"


def test_tables_have_a_row_a_cell():
    found = {"fgsm": planted()}
    every = ct.grid_table(found, GRID)
    assert list(every["transform"] + " " + every["theta"].astype(str)) == list(GRID)
    assert every["ospa"].tolist() == [1.0, 0.75, 0.5, 0.25]
    asked = ct.asked_table(found, {"both": ["none 0.2", "zero_mean 0.0"]})
    assert asked.iloc[0]["ospa"] == 0.5 and asked.iloc[0]["n"] == 4
    curves = ct.curves(found, GRID, [0.8, 0.9])
    assert len(curves) == 6 and not ((curves["transform"] == "none") & (curves["theta"] == 0)).any()
    assert curves["detection"].tolist()[:2] == pytest.approx([2 / 3, 1 / 3])


def test_the_paper_stands_beside_in_per_cent():
    every = ct.grid_table({"fgsm": planted(), "carlini_wagner_l2": planted()}, GRID)
    rows = every[every["transform"] == "none"]
    beside = ct.beside_paper("003.table1", rows, model="vgg16")
    clean = beside[beside["attack"] == "clean"]
    assert len(clean) == 2 and clean["here"].tolist() == [100.0, 75.0]  # once, not for each attack
    at_0 = beside[beside["theta"] == 0.0].set_index("attack")
    assert at_0.loc["clean", "paper"] == 100 and at_0.loc["fgsm", "paper"] == 0
    assert at_0.loc["fgsm", "n"] == 3 and at_0.loc["clean", "n"] == 4


def test_what_the_map_adds_is_a_paired_difference():
    answers = planted()
    adds = ct.added_by_map({"fgsm": answers}, {}, GRID, ospas=[0.8])
    assert adds["grad_cam minus"].tolist() == ["without"]  # without a transformation: no rival
    row = adds.iloc[0]
    ours, theirs = ct.moved(answers, "zero_mean 0.2"), ct.moved(answers, "zero_mean 0.0")
    wanted = metrics.detection_difference(ours, theirs, answers.tensors["success"], 1 - 0.8)
    assert (row["detection"], row["interval"]) == wanted and row["n"] == 3
    names = [f"{t} {kind} 0.2" for t in ("none", "zero_mean") for kind in ct.OTHER_KINDS]
    others = SimpleNamespace(
        tensors={k: v[[1] * 8] if v.dim() == 2 else v for k, v in answers.tensors.items()},
        record={"names": names},
    )
    adds = ct.added_by_map({"fgsm": answers}, {"fgsm": others}, GRID, ospas=[0.8])
    assert adds["grad_cam minus"].tolist() == [*ct.OTHER_KINDS, *ct.OTHER_KINDS, "without"]


def test_joint_squeezers_are_subtracted():
    answers = planted()
    joint = ["none 0.2", "zero_mean 0.0"]
    versus = ct.against_squeezing(
        {"fgsm": answers}, {"fgsm": answers}, ["zero_mean 0.0"], joint, ospas=(80, 90)
    )
    assert versus["ospa"].tolist() == [80, 90]
    assert versus["minus joint squeezing"].tolist() == [0, 0]  # the larger of the two is the second
    assert versus["detection"].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_sides_count_intervals_and_best_takes_the_first_of_equals():
    table = pd.DataFrame(
        {
            "attack": ["a", "a", "a", "b"],
            "gain": [0.2, -0.2, 0.1, float("nan")],
            "interval": [(0.1, 0.3), (-0.3, -0.1), (0.0, 0.2), (float("nan"),) * 2],
        }
    )
    (row,) = ct.sides(table, ["attack"], "gain").to_dict("records")
    assert row == {
        "attack": "a",
        "settings": 3,
        "better": 1,
        "worse": 1,
        "open": 1,
        "mean": pytest.approx(0.1 / 3),
    }
    assert [r["gain"] for r in ct.best(table, "gain")] == [0.2]
    equal = table.assign(gain=0.5, place=range(4))
    assert [r["place"] for r in ct.best(equal, "gain")] == [0, 3]
    assert ct.percent(0.32, (0.17, 0.52), 25) == "32 % (17 to 52 %, n = 25)"
    assert ct.percent(0.32) == "32 %"


def test_images_with_maps_are_shown_first():
    maps = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[1] = 0
    other = maps.clone()
    other[2] = 0.3
    assert ct.empty(maps).tolist() == [False, True, False, False, False]
    assert ct.empty(other).tolist() == [False, True, True, False, False]
    success = torch.tensor([False, True, True, True, False])
    assert ct.worth_showing(success, maps, other, count=4).tolist() == [3, 1, 2, 0]
    figure, axes = plt.subplots(1, 5)
    plots.say_empty(axes, maps)
    assert [len(ax.texts) for ax in axes] == [0, 1, 0, 0, 0]
    plt.close(figure)


def test_curves_against_ospa_are_six_at_most():
    every = ct.grid_table({"fgsm": planted()}, GRID)
    figure, ax = plt.subplots()
    plots.detection_against_ospa(ax, every, ["transform"], bounds="detection_interval")
    assert [line.get_label() for line in ax.lines if line.get_marker() == "o"] == [
        "none",
        "zero_mean",
    ]
    plots.detection_against_ospa(ax, every.iloc[:0], ["transform"])
    assert "no attack" in ax.texts[0].get_text()
    many = pd.concat([every.assign(theta=k) for k in range(4)])
    with pytest.raises(InputError, match="8 curves"):
        plots.detection_against_ospa(ax, many, ["transform", "theta"])
    plt.close(figure)


def test_panels_have_one_legend():
    every = ct.grid_table({"fgsm": planted(), "other": planted()}, GRID)
    titles = {"fgsm": "one", "other": "two"}
    figure = plots.ospa_panels(every, ["transform"], titles, label="OSPA")
    assert [ax.get_title() for ax in figure.axes] == ["one", "two"]
    (legend,) = figure.legends
    assert [words.get_text() for words in legend.get_texts()] == ["none", "zero_mean"]
    assert figure.get_size_inches()[0] <= 8
    nothing = plots.ospa_panels(every.iloc[:0], ["transform"], {"fgsm": "one"}, label="OSPA")
    assert not nothing.legends
    plt.close("all")


def test_regions_and_noise_on_a_run(tmp_path):
    run = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    region = tables.regions(run, ["fgsm"]).iloc[0]
    pairs = steps.adversarial(run, "fgsm")
    assert 0 < region["n"] <= int(pairs.success.sum())
    gap = region["noisy"] - region["attacked"]
    assert region["interval"][0] <= gap <= region["interval"][1]
    if gap > 0:
        assert region["closed"] == pytest.approx((region["old class"] - region["attacked"]) / gap)
    grid = ct.modifications(["none", "colour_reversing"], [0.0])
    flagged = tables.noise_flagged(run, "fgsm", grid)
    assert flagged["asked"].tolist() == list(grid)
    still = flagged.iloc[0]  # nothing is done to the image: nothing can be flagged
    assert (still["noise flagged"], still["attack flagged"], still["all clean flagged"]) == (
        0,
        0,
        0,
    )
    answers = steps.consistency(run, "fgsm", grid)
    wanted = ct.label_rule(answers, "colour_reversing 0.0")
    assert flagged.iloc[1]["attack flagged"] == wanted["detection"]
    assert flagged["n"].tolist() == [int(answers.tensors["success"].sum())] * 2
