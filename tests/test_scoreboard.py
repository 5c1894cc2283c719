"""One table of all detectors, from what is published."""

import csv
import io
import json
import re

import pytest

from nbutils import __main__
from nbutils.claims.evidence import Published
from nbutils.series import scoreboard
from nbutils.series.publish import PUBLISHED
from tests.conftest import ROOT


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


def test_noise_comes_from_the_controls():
    run = run_of(cell("a", "fgsm", 1.0))
    assert scoreboard.board(run)[0]["flagged_noise"] is None
    run.tables["07"]["controls"] = [{"detector": "a", "attack": "fgsm", "flagged_noise_sign": 0.4}]
    assert scoreboard.board(run)[0]["flagged_noise"] == 0.4


def caught(name, share, family=scoreboard.EVERY, n=100):
    found = {"detector": name, "family": family, "caught_5": share, "caught_1": share / 2, "n": n}
    bounds = {"low": share - 0.1, "high": share + 0.1, "mean_5": 0.9, "attacks": 8}
    return found | bounds | {"worst_5": share, "worst": "ddn"}


def once(*rows, seed=0, ledger=(), noise=()):
    tables = {"every_attack": list(rows), "ledger": list(ledger), "beside_noise": list(noise)}
    return Published("digits", seed, {"08": tables}, "digits_net", f"digits-quick-s{seed}")


def test_the_board_ranks_by_images_of_which_every_picture_is_found():
    ledger = [
        {"detector": "a", "game": "linf", "success_5": 0.9},
        {"detector": "a", "game": "carlini_wagner_l2", "success_5": 1.0, "l2_ratio": 1.5},
        {"detector": "a", "game": "plain", "success_5": 0.1},
    ]
    noise = [{"detector": "a", "flagged_noise": 0.4, "cost": 3.0}]
    run = once(
        caught("b", 0.5),
        caught("b", 0.99, "L2"),
        caught("a", 0.6),
        ledger=ledger,
        noise=noise,
    )
    first, second = scoreboard.at_once(run)
    assert (first["detector"], second["detector"]) == ("a", "b")
    known = [first[key] for key in ("flagged_noise", "cost", "passes_box", "passes_l2", "l2_ratio")]
    assert known == [0.4, 3.0, 0.9, 1.0, 1.5]
    assert second["caught_5"] == 0.5 and second["passes_box"] is second["cost"] is None
    assert scoreboard.at_once(run_of(cell("a", "fgsm", 1.0))) == []


def test_over_seeds_the_interval_is_theirs():
    runs = [once(caught("a", value), seed=i) for i, value in enumerate((0.3, 0.5, 0.7))]
    (row,) = scoreboard.over_seeds(runs)
    assert row["caught_5"] == pytest.approx(0.5) and row["seeds"] == 3
    half = 4.3027 * 0.2 / 3**0.5  # Student's t with two degrees of freedom
    assert row["high"] - row["caught_5"] == pytest.approx(half, abs=1e-3)
    assert row["caught_1"] == pytest.approx(0.25) and row["worst"] == "ddn"
    (alone,) = scoreboard.over_seeds(runs[:1])
    assert (alone["low"], alone["high"], alone["seeds"]) == pytest.approx((0.2, 0.4, 1))


def test_own_results_take_the_place_of_the_published_ones_of_their_name(tmp_path):
    published, own = tmp_path / "published", tmp_path / "runs" / "digits-quick-s0" / "results"
    other = tmp_path / "runs" / "digits-smoke-s0" / "results"
    for folder, share in ((published / "digits-quick-s0", 0.1), (own, 0.8), (other, 0.4)):
        folder.mkdir(parents=True)
        result = {
            "notebook": "08_white_box",
            "parameters": {"DATASET": "digits", "SEED": 0, "MODEL": ""},
            "preset": {"classifier": "digits_net"},
            "tables": {"every_attack": [caught("a", share)]},
        }
        (folder / "08_white_box.json").write_text(json.dumps(result), encoding="utf-8")
    first = scoreboard.gathered("digits", folder=published)
    assert scoreboard.over_seeds(first["digits-quick"])[0]["caught_5"] == 0.1
    mine = scoreboard.gathered("digits", own, published)
    assert list(mine) == ["digits-quick"]
    assert scoreboard.over_seeds(mine["digits-quick"])[0]["caught_5"] == 0.8
    beside = scoreboard.gathered("digits", other, published)
    assert list(beside) == ["digits-quick", "digits-smoke-s0 (yours)"]
    assert scoreboard.gathered("mnist", folder=published) == {}
    assert list(scoreboard.gathered("", tmp_path / "none", published)) == ["digits-quick"]
    told = scoreboard.labels({"digits-quick-abcdef": mine["digits-quick"], **mine})
    assert set(told.values()) == {"digits, digits_net (abcde)", "digits, digits_net (quick)"}
    assert scoreboard.whose(mine)[0]["of an older code"] == "08"


def test_two_data_sets_agree_as_far_as_they_order_the_detectors_alike():
    one = scoreboard.at_once(once(caught("a", 0.9), caught("b", 0.5), caught("c", 0.2)))
    two = scoreboard.at_once(once(caught("a", 0.1), caught("b", 0.3), caught("c", 0.4)))
    rows = scoreboard.agreement({"one": one, "two": two, "few": one[:2]})
    assert rows == [{"a": "one", "b": "two", "rank": pytest.approx(-1), "detectors": 3}]


def test_claims_stand_in_their_order_with_a_link_to_their_notebook():
    rows = scoreboard.of_claims(scoreboard.gathered("digits"))
    names = [row["claim"] for row in rows]
    assert names.index("000.C2") < names.index("000.C9") < names.index("000.C10")
    assert names.index("000.C10") < names.index("002.C1") and names[-1].startswith("X")
    text = scoreboard.linked(rows)
    assert "| 000.C9 |" in text and text.count("\n") == len(rows) + 1
    for target in re.findall(r"\]\((\S+?)\)", text):
        assert (ROOT / "notebooks" / target).exists()
    (line,) = [line for line in text.splitlines() if line.startswith("| 002.C7 ")]
    assert "[08](08_white_box.ipynb)" in line


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
