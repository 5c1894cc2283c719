"""One table of all detectors, from what is published."""

import csv
import io

import pytest

from nbutils import __main__
from nbutils.claims.evidence import Published
from nbutils.series import scoreboard
from nbutils.series.publish import PUBLISHED


def cell(detector, attack, auroc, **more):
    known = {"detector": detector, "fitted_on": attack, "tested_on": attack, "auroc": auroc}
    return (
        known | {"low": auroc - 0.02, "high": auroc + 0.02, "n": 100, "tpr_at_fpr_5": auroc} | more
    )


def run_of(*rows, **tables):
    return Published("digits", 0, {"07": {"cells": list(rows)}, **tables}, mark="digits-quick-s0")


def test_detectors_stand_by_their_worst_attack():
    found = scoreboard.board(
        run_of(
            cell("a", "fgsm", 1.0),
            cell("a", "ddn", 0.6),
            cell("b", "fgsm", 0.7),
            cell("b", "ddn", 0.8, tpr_at_fpr_5=0.1),
        )
    )
    assert [row["detector"] for row in found] == ["b", "a"]
    assert (found[0]["worst"], found[0]["on"], found[0]["tpr_at_fpr_5"]) == (0.7, "fgsm", 0.1)
    assert found[1]["mean"] == pytest.approx(0.8) and found[1]["attacks"] == 2


def test_a_detector_counts_on_the_attack_that_it_was_fitted_on():
    foreign = cell("a", "fgsm", 0.9) | {"fitted_on": "ddn"}
    free = cell("margin", "fgsm", 0.8) | {"fitted_on": ""}
    found = scoreboard.cells(run_of(foreign, free, cell("spd_shuffled", "fgsm", 0.9)))
    assert [row["detector"] for row in found] == ["margin"]
    matrix = [
        {"detector": "smd", "fit_attack": "bim", "test_attack": other, "auroc": 0.7, "n": 50}
        for other in ("bim", "fgsm")
    ]
    rows = scoreboard.cells(run_of(**{"05": {"000.table8": matrix}}))
    assert [(row["detector"], row["attack"], row["notebook"]) for row in rows] == [
        ("smd", "bim", "05")
    ]
    assert rows[0]["low"] < 0.7 < rows[0]["high"]


def test_what_collapsed_is_said_and_stays_in_the_count():
    (row,) = scoreboard.board(
        run_of(cell("a", "fgsm", 1.0), cell("a", "ddn", 0.5, collapsed=1), cell("a", "ddn", 0.9))
    )
    assert (row["worst"], row["attacks"], row["collapsed"]) == (0.5, 2, 1)


def test_noise_and_who_knows_it_come_from_their_own_tables():
    noise = [{"detector": "a", "attack": "fgsm", "flagged_noise_sign": 0.4}]
    played = [
        {"detector": "a", "game": "linf", "success_5": 0.9},
        {"detector": "a", "game": "carlini_wagner_l2", "success_5": 1.0, "l2_ratio": 1.5},
        {"detector": "a", "game": "plain", "success_5": 0.1},
    ]
    run = run_of(cell("a", "fgsm", 1.0), **{"08": {"ledger": played}})
    run.tables["07"]["controls"] = noise
    (row,) = scoreboard.board(run)
    known = (row["flagged_noise"], row["passes_box"], row["passes_l2"], row["l2_ratio"])
    assert known == (0.4, 0.9, 1.0, 1.5)
    (row,) = scoreboard.board(run_of(cell("a", "fgsm", 1.0)))
    assert row["flagged_noise"] is row["passes_box"] is None


def test_the_page_and_its_cells_are_what_the_command_writes():
    for name, text in (
        (scoreboard.PAGE, scoreboard.page()),
        (scoreboard.CELLS, scoreboard.table()),
    ):
        written = (PUBLISHED / name).read_text(encoding="utf-8")
        assert written == text, "run `python -m nbutils scoreboard --write`"


def test_the_cells_are_one_row_a_run_detector_and_attack():
    rows = list(csv.DictReader(io.StringIO(scoreboard.table())))
    keys = [(row["run"], row["detector"], row["attack"]) for row in rows]
    assert len(keys) == len(set(keys)) > 500
    assert all(0 <= float(r["low"]) <= float(r["auroc"]) <= float(r["high"]) <= 1 for r in rows)


def test_the_command_prints_the_page(capsys):
    assert __main__.main(["scoreboard"]) == 0
    assert capsys.readouterr().out.strip() == scoreboard.page().strip()
