"""What notebook 04 shows: how attacks are sized, cells as squares and sentences, tables of paper
002.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nbutils import plots, steps
from nbutils.evaluation import metrics, sizing, squares
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.tables import CELL
from nbutils.steps import tables
from tests.conftest import configure


def test_the_first_level_that_is_enough():
    assert sizing.first_below({"a": 0.9, "b": 0.29, "c": 0.1}, 0.3) == "b"
    assert sizing.first_below({"a": 0.9, "b": 0.3}, 0.3) == "b", "none is enough: the largest"
    assert sizing.first_below({"a": 0.3, "b": 0.8, "c": 0.2}, 0.3) == "c"


def test_a_budget_makes_up_for_what_clipping_takes():
    def clipped(budget):
        return 0.8 * budget

    found = sizing.budget_for_rms(clipped, 0.1, start=0.1, largest=1.0)
    assert found == 0.125 and clipped(found) == pytest.approx(0.1)
    assert sizing.budget_for_rms(clipped, 0.1, start=0.1, largest=0.11) == 0.11
    assert sizing.budget_for_rms(lambda budget: 0.0, 0.1, start=0.1, largest=1.0) == 0.1


def cells():
    rows = [
        (fit, test, 0.9 if fit == test else 0.5 + 0.1 * fit)
        for fit in (1, 2, 3)
        for test in (1, 2, 3)
    ]
    return pd.DataFrame(rows, columns=["fitted_on", "tested_on", "accuracy"])


def test_a_square_has_the_fits_as_rows_in_the_order_of_the_cells():
    found = squares.square(cells().iloc[::-1], "accuracy")
    assert list(found.index) == list(found.columns) == [3, 2, 1]
    assert found.loc[1, 3] == pytest.approx(0.6) and found.loc[3, 1] == pytest.approx(0.8)


def test_costs_are_taken_inside_the_tested_level():
    found = squares.costs(squares.square(cells(), "accuracy"))
    assert found[["small", "large"]].to_numpy().tolist() == [[1, 2], [2, 3]]
    assert np.allclose(found["small_on_large"], [0.3, 0.2])
    assert np.allclose(found["large_on_small"], [0.2, 0.1])


def test_records_hold_an_interval_and_the_names_of_the_results():
    frame = pd.DataFrame([{"fitted_on": "a", "low": 0.1, "high": 0.2, "n": 3}])
    assert squares.recorded(frame, fitted_on="fit_attack") == [
        {"fit_attack": "a", "n": 3, "interval": [0.1, 0.2]}
    ]
    assert list(frame.columns) == ["fitted_on", "low", "high", "n"]


def test_flagged_shares_have_the_interval_of_their_own_group():
    row = {"flagged_clean_right": 0.1, "n_clean_right": 40, "flagged_swapped": 0.5, "n": 10}
    assert squares.flagged([row], "clean") == [(0.1, *wilson(4, 40))]
    assert squares.flagged([row], "swapped") == [(0.5, *wilson(5, 10))]


def test_a_lead_needs_the_whole_interval():
    rows = [("x", 0.01, 0.2), ("y", -0.2, -0.01), ("z", -0.1, 0.1)]
    frame = pd.DataFrame(rows, columns=["tested_on", "low", "high"]).assign(difference="a - b")
    said = squares.lead(frame, "a", "b")
    assert (
        "ahead of b on 1 of 3 attacks (x)" in said
        and "behind on 1 (y)" in said
        and "on 1 (z)" in said
    )
    assert "not both measured" in squares.lead(frame, "b", "a")


def test_attacks_get_the_smallest_level_that_is_enough(smoke):
    ladders = tables.levels(smoke, ["fgsm", "jsma", "iterative_l2"])
    assert list(ladders) == ["fgsm", "iterative_l2"]
    assert ladders["fgsm"] == [f"002.fgsm_{k}" for k in (1, 2, 3, 4)]
    chosen = tables.sized(smoke, ["fgsm", "jsma"])
    assert chosen["jsma"] == ("jsma", {}) and chosen["fgsm"][0] in ladders["fgsm"]
    place = ladders["fgsm"].index(chosen["fgsm"][0])
    under = [tables.accuracy_under(steps.adversarial(smoke, one)) for one in ladders["fgsm"]]
    assert all(accuracy >= tables.ENOUGH for accuracy in under[:place])
    assert under[place] < tables.ENOUGH or place == 3
    given = tables.sized(smoke, ["fgsm", "iterative_l2"], 51)
    assert given["fgsm"] == ("fgsm", {"eps": 0.2}) and "002" in given["iterative_l2"][0]


def test_attacks_are_brought_to_one_rms(smoke):
    chosen = tables.sized(smoke, ["fgsm", "iterative_l2", "bim"])
    equal = tables.at_equal_rms(smoke, chosen, "fgsm")
    assert equal["fgsm"] == chosen["fgsm"] and list(equal) == list(chosen)
    rms = tables.strength(smoke, equal).set_index("attack")["rms"]
    assert np.allclose(rms, rms["fgsm"], rtol=0.05)


def test_gains_are_differences_of_the_same_cells(smoke):
    chosen = {"fgsm": ("fgsm", {})}
    found = tables.gains(smoke, [("jsd", "id"), ("jsd", "noise")], chosen)
    assert list(found["difference"]) == ["jsd - id", "jsd - noise"]
    scores = [steps.evaluation(smoke, d, "fgsm", "fgsm").tensors for d in ("jsd", "id")]
    value, interval = metrics.auroc_difference(
        *[(one["clean"], one["adversarial"]) for one in scores], seed=smoke.seed
    )
    assert found.iloc[0][["auroc", "low", "high"]].tolist() == [value, *interval]


def test_readings_are_named_as_the_reader_names_them(smoke):
    found = tables.readings(smoke, ["fgsm"], ["logit", "softmax_float64"])
    assert list(found["input"]) == ["jsd", "jsd", "jacobian", "jacobian"]
    assert list(found["reading"]) == ["logit", "softmax float64"] * 2
    assert list(found["detector"][:2]) == ["jsd", "jsd_softmax_float64"]
    zeros = tables.zero_shares(smoke, "fgsm", ["logit", "logit_scaled"])
    assert list(zeros.index) == ["logit"] and 0 <= zeros["logit"] < 1


def test_baselines_go_attack_by_attack(smoke):
    found = tables.baselines(smoke, ["fgsm", "bim"])
    assert list(found["detector"]) == [*tables.BASELINES] * 2
    assert list(found["tested_on"].unique()) == ["fgsm", "bim"]


def test_tables_of_002_stand_beside_ours(smoke):
    attacks = ["fgsm", "jsma"]
    own = tables.cross(smoke, ["jsd"], attacks, own=True)
    beside = tables.rates_beside_002(smoke, own, {name: (name, {}) for name in attacks})
    assert list(beside["attack"].unique()) == ["fgsm"] and len(beside) == 4
    rates = beside.set_index("statistic")
    assert rates.loc["f_clean", "paper"] == 0.99
    assert rates.loc["d_adversarial", "here"] == own.set_index("tested_on").loc["fgsm", "tpr"]
    assert tables.rates_beside_002(smoke, own, {"jsma": ("jsma", {})}).empty

    sizes = tables.across_levels(smoke, ["jsd"], {"fgsm": ["002.fgsm_1", "002.fgsm_2"]})
    assert list(sizes.columns) == ["attack", *CELL] and len(sizes) == 4
    name, compared = tables.levels_beside_002(smoke, sizes)
    cell = compared.set_index(["eps_fit", "eps_test"]).loc[(1, 2)]
    mirror = compared.set_index(["eps_fit", "eps_test"]).loc[(2, 1)]
    assert name == "002.table3" and cell["paper_other_axis"] == mirror["paper"] != cell["paper"]
    one = sizes[(sizes["fitted_on"] == 1) & (sizes["tested_on"] == 2)].iloc[0]
    assert cell["here"] == one["accuracy"]
    none = tables.across_levels(smoke, ["jsd"], {})
    assert none.empty and tables.levels_beside_002(smoke, none)[1].empty


def test_the_data_set_that_stands_beside(tmp_path):
    assert tables.pictures_of_002(configure(tmp_path)) == "mnist"


def test_matrices_leave_no_axis_without_a_number_and_forest_draws_each_group():
    one = squares.square(cells(), "accuracy")
    figure = plots.matrices({"a": one, "b": one, "c": one}, across=2, title="n = 3")
    shown = [ax for ax in figure.axes if ax.axison]
    assert len(shown) == 3 and all(len(ax.texts) == 9 for ax in shown)
    assert figure.get_size_inches()[0] <= 8
    sizes = [text.get_fontsize() for ax in shown for text in (*ax.texts, *ax.get_xticklabels())]
    assert min(sizes) >= 8
    plt.close(figure)
    figure, ax = plt.subplots()
    plots.forest(ax, ["fgsm", "x"], {"a": [(0.1, 0, 0.2)] * 2, "b": [(0.3, 0.2, 0.4)] * 2})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["FGSM", "x"]
    assert len(ax.containers) == 2
    plt.close(figure)
