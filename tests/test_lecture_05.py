"""What notebook 05 hands to tested functions: matrices of paper 000, their counts and figures."""

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from nbutils import plots, steps
from nbutils.evaluation import matrices, papers
from nbutils.evaluation.distances import double_centred
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.tables import DIFFERENCE
from nbutils.steps import tables

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_papers_names_stay_apart_where_both_settings_run():
    assert matrices.printed_names(["jsma_000", "bim"]) == {"jsma_000": "jsma", "bim": "bim"}
    both = matrices.printed_names(["jsma", "jsma_000"])
    assert both == {"jsma": "jsma", "jsma_000": "jsma_000"}
    assert plots.short("carlini_wagner_l2") == "C&W" and plots.short("my_attack") == "my_attack"


def test_every_kind_of_pictures_has_a_printed_matrix():
    for dataset in ("digits", "mnist", "cifar10", "folder"):
        name, column = matrices.table_of(dataset)
        assert column in set(papers.table(name)["dataset"])


def test_the_printed_matrix_is_what_the_evaluation_says(smoke):
    rows = matrices.renamed(tables.as_printed(smoke, ["id"], ["fgsm", "jsma_000"]), NAMES)
    assert [(r["fit_attack"], r["test_attack"]) for r in rows] == [
        ("fgsm", "fgsm"),
        ("fgsm", "jsma"),
        ("jsma", "fgsm"),
        ("jsma", "jsma"),
    ]
    found = steps.evaluation(smoke, "id", "fgsm", "jsma_000").record
    rule, row = found["all"]["at_decision"], rows[1]
    assert row["here"] == rule["accuracy"] == (row["tpr"] + row["tnr"]) / 2
    assert row["interval"][0] < row["here"] < row["interval"][1]
    assert row["auroc"] == found["all"]["auroc"] and row["range"] == found["all"]["auroc_range"]
    square = matrices.square(rows, "id", "auroc")
    assert list(square.index) == list(square.columns) == ["fgsm", "jsma"]
    assert square.loc["fgsm", "jsma"] == row["auroc"]
    assert matrices.on_diagonal(rows, "id", ["jsma"])[0][0] == rows[3]["auroc"]
    assert matrices.luck_of_fits(rows).loc["id", "largest"] == 0  # one fit a cell at this preset


NAMES = {"fgsm": "fgsm", "jsma_000": "jsma"}


def test_differences_of_pairs_that_run(smoke):
    pairs = [("id", "jsd"), ("spd", "id")]
    found = tables.differences(smoke, pairs, ["id", "jsd"], ["fgsm"])
    pd.testing.assert_frame_equal(found, tables.difference(smoke, "id", "jsd", ["fgsm"]))
    nothing = tables.differences(smoke, pairs, ["id"], ["fgsm"])
    assert nothing.empty and tuple(nothing.columns) == DIFFERENCE
    assert matrices.counted(matrices.renamed(nothing, NAMES)) == []


def test_counts_of_better_worse_and_open():
    bounds = [[0.1, 0.2], [-0.2, -0.1], [-0.1, 0.1], [0.0, 0.1]]
    rows = [
        {"difference": "spd - id", "auroc": sum(b) / 2, "interval": b, "n": 150} for b in bounds
    ]
    (found,) = matrices.counted(rows)
    assert (found["better"], found["worse"], found["open"], found["n"]) == (1, 1, 2, 150)
    assert found["mean"] == pytest.approx(0.0125)
    assert "neither leads" in matrices.told(found)
    assert "ID leads more often" in matrices.told({**found, "worse": 2})


def test_transfer_of_a_planted_matrix():
    """Pairs of one norm get .1 more than row and column say; rows and columns must not matter."""
    norms, rms = ["linf", "linf", "l2", "l2", "l0"], [0.3, 0.1, 0.1, 0.01, 0.2]
    same = np.array(norms)[:, None] == np.array(norms)
    bare = np.where(same, 0.1, 0.0)
    shift = np.arange(5) / 50
    found = matrices.transfer(0.5 + bare + shift[:, None] - 2 * shift, norms, rms)
    wanted = matrices.transfer(0.5 + bare, norms, rms)
    for key in ("within a norm", "between norms"):
        assert found[key] == pytest.approx(wanted[key])
    assert wanted["within a norm"] > 0 > wanted["between norms"]
    assert wanted["own"] == pytest.approx(0.6) and wanted["to l0"] == pytest.approx(-0.1)
    rest = double_centred(0.5 + bare + shift[:, None])
    assert np.nansum(rest) == pytest.approx(0)
    alone = matrices.transfer(np.array([[0.9]]), ["linf"], [0.1])
    assert alone["own"] == 0.9 and all(math.isnan(alone[k]) for k in alone if k != "own")


def test_large_to_small_is_the_training_attack_larger():
    values = np.array([[0.9, 0.7], [0.6, 0.9]])
    found = matrices.transfer(values, ["linf", "l2"], [0.2, 0.1])
    assert (found["large to small"], found["small to large"]) == (0.7, 0.6)
    assert matrices.norm_of({"attack": "pgd", "norm": "l2"}) == "l2"
    assert matrices.norm_of({"attack": "fgsm"}) == "linf"


def test_levels_and_sizes_in_words():
    rows = [
        {"detector": "id", "fit_attack": a, "test_attack": b, "auroc": v}
        for a, b, v in (("a", "a", 0.9), ("a", "b", 0.5), ("b", "a", 0.7), ("b", "b", 0.8))
    ]
    level = matrices.own_and_others(rows).loc["id"]
    assert level["own attack"] == pytest.approx(0.85)
    assert level["other attacks"] == pytest.approx(0.6)
    assert level["lowest where"] == "a -> b"
    sizes = [{"detector": "id", "eps": e, "auroc": v} for e, v in ((0.1, 0.95), (0.03, 0.6))]
    assert matrices.reached(sizes, "id") == "at eps 0.1"
    assert matrices.reached(sizes, "id", 0.99) == "at no size"


def test_shares_flagged_have_the_interval_of_their_number():
    row = {"detector": "id", "n": 150, "n_clean_right": 440, "n_clean_wrong": 0}
    row |= {"flagged_clean_right": 0.05, "flagged_clean_wrong": None}
    row |= {"flagged_adversarial": 1.0, "flagged_swapped": 0.5, "flagged_noise_sign": 0.1}
    found = matrices.flagged([row, {**row, "detector": "spd"}], "id")
    assert list(found) == list(matrices.GROUPS) and len(found["clean"]) == 1
    assert found["clean"][0] == (0.05, *wilson(22, 440))
    assert all(math.isnan(v) for v in found["misread"][0])


def test_verdicts_are_told_by_outcome():
    rows = [
        {"claim": "000.C2", "verdict": "outside the paper's scope: holds", "control": "survives"},
        {"claim": "000.C3", "verdict": "does not", "control": "does not survive"},
        {"claim": "000.C4", "verdict": "holds", "control": "not run"},
    ]
    assert matrices.verdicts_told(rows) == "holds: C2, C4*; does not: C3*"


def test_mixtures_and_sizes(smoke):
    attacks = ["fgsm", "pgd"]
    found = tables.mixtures(smoke, ["id"], attacks)
    assert [row["mixture"] for row in found] == ["one", "all"]
    record = steps.evaluation(smoke, "id", "fgsm+pgd", "fgsm+pgd").record["all"]
    assert found[0]["auroc"] == record["auroc"]
    assert found[0]["here"] == record["at_decision"]["accuracy"]
    for row in tables.mixture_by_attack(smoke, ["id"], attacks):
        own = steps.evaluation(smoke, "id", row["attack"], row["attack"]).record["all"]
        assert row["own"] == own["auroc"] and math.isnan(row["without"])  # one fit a cell
    sizes = {eps: ("fgsm", {"eps": eps}) for eps in (0.05, 0.3)}
    cells = tables.cross(smoke, ["id"], sizes, fits=1)
    own = matrices.own_attack(cells, "eps")
    assert [row["eps"] for row in own] == [0.05, 0.3]
    assert own[1]["interval"][0] <= own[1]["auroc"] <= own[1]["interval"][1]


def test_appendix_a_runs_only_where_the_preset_has_time(smoke):
    assert smoke.preset["variation_fits"] == 0 and tables.appendix_a(smoke, "fgsm") == []
    assert len(tables.VARIATIONS) == 5  # and the optimizer


def test_latency_has_spd_and_its_parts(smoke):
    found = tables.latency(smoke, "fgsm", images=8).set_index("part")
    assert list(found.index) == ["classifier", "decoder", "detector", "spd"]
    assert (found["milliseconds"] > 0).all() and (found["images"] == 8).all()


def test_dots_join_no_categories_and_few_are_hollow():
    ax = plt.subplots()[1]
    groups = {
        "clean": [(0.1, 0.0, 0.2), (0.2, 0.1, 0.3)],
        "misread": [(0.5, 0.2, 0.8), (math.nan, math.nan, math.nan)],
    }
    plots.dots(ax, ["fgsm", "bim"], groups, few=["misread"], counts={"clean": 440, "misread": 9})
    markers = [container.lines[0] for container in ax.containers]
    assert all(marker.get_linestyle() == "None" for marker in markers)
    assert [marker.get_markerfacecolor() for marker in markers] == ["#000000", "white"]
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["clean (n = 440)", "misread (n = 9)"]
    segments = ax.containers[0].lines[2][0].get_segments()
    assert segments[0][:, 1] == pytest.approx([0.0, 0.2])


def test_matrices_have_legible_type_and_one_panel_each():
    names = ["fgsm", "bim", "cw"]
    square = pd.DataFrame(0.75, names, names)
    panels = {"id": square, "jsd": square, "spd": square}
    figure = plots.matrices(panels, across=2, title="n = 150")
    shown = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in shown] == ["id", "jsd", "spd"]
    assert figure.get_size_inches()[0] <= 8
    least = min(text.get_fontsize() for ax in shown for text in ax.texts)
    assert least * figure.dpi / 100 >= 8


def test_empty_maps_are_said_to_be_empty():
    x = torch.full((2, 1, 4, 4), 0.4)
    maps = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    figure = plots.views_under_attack(x, x + 0.1, {"map": (maps, maps)}, title="maps")
    labels = [figure.axes[i].get_ylabel() for i in range(0, 10, 2)]
    assert labels[:3] == ["clean", "adversarial", "perturbation\nx 5"]
    assert labels[3:] == ["map,\nclean", "map,\nadversarial"]
    said = [bool(ax.texts) for ax in figure.axes]
    assert said == [False] * 6 + [True, False, True, False]
