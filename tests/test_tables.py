"""Tidy tables: the same columns everywhere, differences paired, rows over seeds matched by what
names them.
"""

import numpy as np
import pytest
import torch

from nbutils import steps
from nbutils.evaluation import metrics
from nbutils.evaluation.intervals import at_the_edge, auroc_interval, square_and_add
from nbutils.evaluation.tables import CELL, DIFFERENCE
from nbutils.series.runner import _mean_rows
from nbutils.steps import tables


def test_cells_are_what_the_evaluation_says(smoke):
    frame = tables.cross(smoke, ["id", "margin"], ["fgsm", "pgd"])
    assert list(frame.columns) == list(CELL) and len(frame) == 8
    row = (
        frame[(frame["detector"] == "id") & (frame["fitted_on"] == "fgsm")]
        .set_index("tested_on")
        .loc["pgd"]
    )
    record = steps.evaluation(smoke, "id", "fgsm", "pgd").record
    assert row["auroc"] == record["all"]["auroc"] and row["fits"] == record["fits"] == 1
    assert (row["low"], row["high"]) == tuple(record["all"]["auroc_interval"])
    assert row["tnr"] == 1 - record["all"]["at_decision"]["fpr"]
    assert row["fpr_measured_5"] == record["all"]["at_fpr_5"]["fpr"]
    assert row["success"] == steps.adversarial(smoke, "pgd").record["success_rate"]
    own = tables.cross(
        smoke, ["id"], {"small": ("fgsm", {"eps": 0.05}), "pgd": ("pgd", {})}, own=True
    )
    assert list(own["fitted_on"]) == list(own["tested_on"]) == ["small", "pgd"]
    assert frame[frame["detector"] == "margin"]["accuracy"].isna().all()  # no rule of its own


def test_differences_are_paired(smoke):
    frame = tables.difference(smoke, "id", "jsd", ["fgsm"], ["fgsm", "pgd"])
    assert list(frame.columns) == list(DIFFERENCE) and list(frame["difference"]) == ["id - jsd"] * 2
    cells = tables.cross(smoke, ["id", "jsd"], ["fgsm"], ["fgsm", "pgd"]).pivot(
        index="tested_on", columns="detector", values="auroc"
    )
    wanted = (cells["id"] - cells["jsd"]).loc[list(frame["tested_on"])]
    assert np.allclose(frame["auroc"], wanted) and (frame["low"] <= frame["auroc"]).all()


def test_controls_are_a_row_each(smoke):
    frame = tables.controlled(smoke, ["id"], ["fgsm"])
    assert frame.iloc[0].to_dict() == {
        "detector": "id",
        "attack": "fgsm",
        **steps.controls(smoke, "id", "fgsm"),
    }


def test_intervals_have_a_width_at_the_edge():
    for value, n in ((1.0, 150), (0.0, 40), (1.0, 20)):
        low, high = auroc_interval(value, n, n)
        assert 0.005 < high - low < 0.2 and low <= value <= high
    assert auroc_interval(1.0, 600, 600)[0] > auroc_interval(1.0, 150, 150)[0]
    low, high = auroc_interval(0.8, 150, 150)
    assert low < 0.8 < high and high - low == pytest.approx(0.1, abs=0.02)
    apart = torch.arange(150.0)
    record = metrics.evaluate(apart[None], apart[None] + 1000, torch.ones(150), apart[None])
    assert record["all"]["auroc"] == 1 and 0.97 < record["all"]["auroc_interval"][0] < 0.99
    assert at_the_edge(0.99, 150) and not at_the_edge(0.9, 150)


def test_the_score_interval_covers():
    """Newcombe's method 5 on normal scores whose true AUROC is known."""
    from scipy.stats import norm

    rng, n = np.random.default_rng(0), 80
    for true in (0.75, 0.95):
        shift = norm.ppf(true) * 2**0.5
        hits = 0
        for _ in range(300):
            value = metrics.auroc(rng.normal(0, 1, n), rng.normal(shift, 1, n))
            low, high = auroc_interval(value, n, n)
            hits += low <= true <= high
        assert 0.92 <= hits / 300 <= 0.99, (true, hits)


def test_a_difference_at_the_edge_has_a_width():
    clean = torch.arange(150.0)
    both = (clean, clean + 1000)
    value, (low, high) = metrics.auroc_difference(both, both)
    assert value == 0 and low < -0.005 and high > 0.005
    assert square_and_add((0.9, 0.8, 0.95), (0.5, 0.4, 0.6))[0] == pytest.approx(0.4)
    assert square_and_add((0.9, 0.8, 0.95), (0.5, 0.4, 0.6))[1] == pytest.approx(0.4 - 0.02**0.5)


def test_rows_over_seeds_are_matched_by_what_names_them_and_never_by_results():
    first = [{"attack": "fgsm", "auroc": 0.8, "note": "holds .80"}, {"attack": "bim", "auroc": 0.7}]
    second = [
        {"attack": "bim", "auroc": 0.9},
        {"attack": "fgsm", "auroc": 0.6, "note": "in part .6"},
    ]
    merged = {row["attack"]: row for row in _mean_rows([first, second])}
    assert set(merged) == {"fgsm", "bim"} and merged["fgsm"]["seeds"] == 2
    assert merged["fgsm"]["auroc"] == pytest.approx(0.7) and "note" not in merged["fgsm"]
    assert merged["bim"]["auroc_interval"] == pytest.approx([0.8 - 1.2706, 0.8 + 1.2706], abs=1e-3)


def test_a_missing_value_is_counted():
    rows = [
        [{"attack": "fgsm", "auroc": 0.8, "without": None}],
        [{"attack": "fgsm", "auroc": 0.6, "without": 0.5}],
    ]
    (merged,) = _mean_rows(rows)
    assert merged["seeds"] == 2 and merged["without"] == 0.5 and merged["without_seeds"] == 1
    assert "auroc_seeds" not in merged
