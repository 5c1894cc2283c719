"""Games against detectors: judged by the detector itself, at thresholds from calibration images, on
images that are misread *and* unseen; and the tables of lecture 08.
"""

import numpy as np
import pytest
import torch

from nbutils import InputError, steps
from nbutils.adaptive import checks
from nbutils.adaptive.settings import FPRS, OF_004, budget, games
from nbutils.detectors import DETECTORS
from nbutils.detectors.base import scores, threshold_at
from nbutils.evaluation import papers
from nbutils.models.contract import predict
from nbutils.steps import hardening
from nbutils.steps import white_box as wb
from nbutils.steps import white_box_tables as wt

FIT = "fgsm"
EPS = budget("digits", 784)["eps"]


@pytest.fixture(scope="module")
def played(smoke):
    return wb.white_box(smoke, "id", "linf", FIT)


def test_thresholds_come_from_calibration_images_and_from_no_other(smoke, played):
    detector = wb.guard(smoke, "id", FIT).detector
    held = scores(detector, smoke.data.calibrate.pixels())
    expected = [threshold_at(held, rate) for rate in FPRS]
    assert played.thresholds.tolist() == pytest.approx(expected)
    assert expected == sorted(expected, reverse=True)  # fewer alarms, a higher threshold
    test = [threshold_at(scores(detector, played.x), rate) for rate in FPRS]
    assert played.thresholds.tolist() != pytest.approx(test)


def test_what_is_kept_is_what_classifier_and_detector_themselves_say(smoke, played):
    detector, model = wb.guard(smoke, "id", FIT).detector, steps.classifier(smoke).model
    assert torch.equal(predict(model, played.x_adv).argmax(1), played.prediction_adv)
    assert torch.equal(played.fooled, played.prediction_adv != played.prediction)
    assert torch.allclose(scores(detector, played.x_adv).double(), played.score)
    assert torch.allclose(scores(detector, played.x).double(), played.clean)


def test_an_image_is_won_only_if_it_is_misread_and_unseen(smoke, played):
    plain = wb.white_box(smoke, "metzen_late", "plain", FIT)
    seen = plain.fooled & (plain.score > plain.thresholds[0])
    assert seen.any() and not plain.won(0.01)[seen].any()
    for rate, limit in zip(FPRS, played.thresholds, strict=True):
        both = played.fooled & (played.score <= limit)
        assert torch.equal(played.won(rate), both)
    assert played.won(0.01).sum() >= played.won(0.1).sum()


def test_games_stay_within_their_size_and_in_the_unit_box(smoke, played):
    assert (played.x_adv - played.x).abs().max() <= EPS + 1e-6
    ball = wb.white_box(smoke, "id", "l2", FIT)
    assert ball.l2.max() <= budget("digits", 784)["eps_l2"] + 1e-4
    for one in (played, ball):
        assert 0 <= one.x_adv.min() and one.x_adv.max() <= 1


def test_a_game_is_no_worse_than_any_attack_in_it(smoke, played):
    rules = wb.game_of(smoke, "linf")
    for entry in rules["attacks"][:4]:
        alone, _ = _make(smoke, {**rules, "attacks": [entry]})
        won = alone["fooled"] & (alone["score"] <= alone["thresholds"][-1])
        assert (played.won(0.1) | ~won).all()


def test_of_least_l2_the_smaller_one_that_passes_is_kept(smoke):
    x = torch.zeros(3, 1, 2, 2)
    best = {"x_adv": x + 0.4, "fooled": torch.tensor([True, True, False])}
    found = {"x_adv": x + 0.2, "fooled": torch.tensor([True, True, True])}
    limits = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    best["score"] = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    found["score"] = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    kept = wb._better(best, found, torch.arange(3), x, "l2", limits)
    assert kept["x_adv"][:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.2])
    kept = wb._better(best, found, torch.arange(3), x, "score", limits)
    assert kept["score"].tolist() == [0.5, 0.5, 1.0]


def _make(run, rules, name="id"):
    known = wb.guard(run, name, FIT)
    return wb.make_white_box(
        None,
        data=run.data,
        base=steps.classifier(run),
        pairs=steps.adversarial(run, wb.BASE),
        detector=known.detector,
        content=known.content,
        memory=run.memory,
        game=rules,
        n=run.preset["white_box_test"],
        seed=run.seed,
        through_map=True,
    )


def test_the_same_seed_gives_the_same_images(smoke, played):
    again, _ = _make(smoke, wb.game_of(smoke, "linf"))
    assert torch.equal(again["x_adv"], played.x_adv)


def test_a_blind_game_follows_no_detector(smoke):
    blind = wb.white_box(smoke, "id", "plain", FIT)
    bare = wb.white_box(smoke, "none", "plain", FIT)
    assert torch.equal(blind.x_adv, bare.x_adv)
    assert bare.thresholds.isinf().all() and torch.equal(bare.won(0.05), bare.fooled)


def test_without_a_detector_only_the_classifier_is_asked(smoke):
    for game in ("linf", "carlini_wagner_l2", "mixed", *OF_004):
        found = wb.white_box(smoke, "none", game, FIT)
        assert torch.equal(found.won(0.01), found.fooled)


@pytest.mark.parametrize(
    "name", ["jsd", "smd", "insen", "gcd", "metzen_late", "mahalanobis_unmoved", "tws", "squeezing"]
)
def test_every_kind_of_detector_can_be_attacked(smoke, name):
    found = wb.white_box(smoke, name, "linf", FIT)
    plain = wb.white_box(smoke, name, "plain", FIT)
    assert torch.isfinite(found.score).all() and len(found.x) == smoke.preset["white_box_test"]
    assert found.record["forwards_per_image"] > 0 and torch.equal(plain.clean, found.clean)
    assert bool(found.zero.all()) == (not DETECTORS[name].func.differentiable)


def test_targeted_games_count_the_target_alone(smoke, monkeypatch):
    def another_picture(model, x, y, **given):
        return x.roll(1, 0)

    monkeypatch.setitem(wb.ADAPTIVE, "pgd", another_picture)
    found, _ = _make(smoke, wb.game_of(smoke, "004.pgd_targeted"))
    pairs = steps.adversarial(smoke, wb.BASE)
    n = len(found["fooled"])
    target = wb.other_labels(pairs.prediction[:n], 10, pairs.index[:n], smoke.seed)
    assert torch.equal(found["fooled"], found["prediction_adv"] == target)
    moved = found["prediction_adv"] != pairs.prediction[:n]
    assert (moved & ~found["fooled"]).any()  # somewhere else is not enough


def test_the_attack_of_000_is_handed_the_threshold_that_the_game_states(smoke, monkeypatch):
    seen = {}

    def spied(score, threshold, **more):
        seen[len(seen)] = threshold
        return joint(score, threshold, **more)

    joint = wb.joint
    monkeypatch.setattr(wb, "joint", spied)
    for game in ("alternating", "alternating_own"):
        _make(smoke, wb.game_of(smoke, game))
    detector = wb.guard(smoke, "id", FIT).detector
    held = scores(detector, smoke.data.calibrate.pixels())
    assert list(seen.values()) == [threshold_at(held, 0.05), detector.own_threshold]


def test_unknown_games_and_detectors_get_a_sentence(smoke):
    with pytest.raises(InputError, match="Game 'nonsense' is unknown"):
        wb.white_box(smoke, "id", "nonsense", FIT)
    with pytest.raises(InputError, match="Detector 'nonsense' is unknown"):
        wb.white_box(smoke, "nonsense", "linf", FIT)
    with pytest.raises(InputError, match="is not one network"):
        wb.guard(smoke, "gcd", FIT, hardened=1)
    with pytest.raises(InputError, match="is no GCD"):
        wt.whole_defence(smoke, FIT, "id")


def test_halves_share_no_image_and_rounds_add_attacked_ones(smoke, monkeypatch):
    seen = []
    fit = hardening.Network.fit

    def spied(self, clean, adversarial, index, *given, index_adversarial=None, **more):
        seen.append((set(index.tolist()), set(index_adversarial.tolist()), len(adversarial)))
        both = {"index_adversarial": index_adversarial, **more}
        return fit(self, clean, adversarial, index, *given, **both)

    monkeypatch.setattr(hardening.Network, "fit", spied)
    smoke.memory.known = {
        key: value for key, value in smoke.memory.known.items() if key[0] != "refitted"
    }
    for half in (0, 1):
        _refit(smoke, rounds=0, half=half)
    (first, others, _), (second, rest, _) = seen
    assert first == others and second == rest and not first & second
    assert len(first | second) == smoke.preset["attacked_train"]
    seen.clear()
    _, record = _refit(smoke, rounds=2, half=None)
    assert [count for _, _, count in seen] == [60, 120, 180] and len(record["passes"]) == 2


def _refit(run, **how):
    recipe = hardening.recipe_of(run, "id", {})
    return hardening.make_refitted(
        None,
        model=steps.classifier(run).model,
        pairs=steps.adversarial(run, FIT, "train"),
        saliency=None,
        calibrate=run.data.calibrate,
        progress=run.progress,
        detector="id",
        seed=run.seed,
        step=0.015,
        **how,
        **recipe,
    )


# The tables of the lecture


def test_the_ledger_tells_each_game_as_it_was_played(smoke):
    ledger = wt.ledger(smoke, ["id", "squeezing"], FIT)
    assert list(ledger["game"]) == [
        "plain",
        "alternating",
        "linf_half",
        "linf",
        "l2",
        "carlini_wagner_l2",
        "plain",
        "linf_half",
        "linf",
        "l2",
        "carlini_wagner_l2",
    ]
    row = ledger[(ledger["detector"] == "id") & (ledger["game"] == "linf")].iloc[0]
    found = wb.white_box(smoke, "id", "linf", FIT)
    blind = wb.white_box(smoke, "none", "plain", FIT)
    both = found.won(0.05) & blind.fooled
    ratio = (found.l2[both] / blind.l2[both]).median() if both.any() else None
    assert row["success_5"] == pytest.approx(found.won(0.05).double().mean().item())
    assert row["tpr_at_fpr_5"] == pytest.approx(
        (found.score > found.thresholds[1]).double().mean().item()
    )
    if ratio is not None:
        assert row["l2_ratio"] == pytest.approx(ratio.item())
    assert row["low"] <= row["success_5"] <= row["high"]
    wins = (found.score[:, None] > found.clean).double() + 0.5 * (
        found.score[:, None] == found.clean
    )
    assert row["auroc"] == pytest.approx(wins.mean().item())


def test_a_cured_detector_stands_in_only_where_the_plain_one_collapsed(smoke, monkeypatch):
    names = ["id", "id_high_pass", "colour_reversing"]
    known = wt.chosen(smoke, names, FIT)
    assert known["id"] == "" and "stands in for id" in known["id_high_pass"]
    assert known["colour_reversing"] == "needs colour"
    guard = wt.guard

    def dead(run, name, fitted_on, **more):
        found = guard(run, name, fitted_on, **more)
        return wb.Guard(name, found.detector, found.artifact, name in ("id", "gcd", "insen"))

    monkeypatch.setattr(wt, "guard", dead)
    known = wt.chosen(smoke, names, FIT)
    assert known["id"] == "collapsed" and known["id_high_pass"] == ""
    assert wt.guards_of_004(smoke, FIT) == {
        "none": "none",
        "det_is": "insen_log",
        "gcd": "gcd_cured",
    }


def test_the_papers_tables_stand_beside_ours(smoke):
    table = wt.table3_000(smoke, FIT)
    assert set(table["statistic"]) == {"classifier_accuracy", "detector_accuracy"}
    printed = papers.table("000.table3")
    printed = printed[printed["dataset"] == "mnist"]
    assert sorted(table["paper"]) == sorted(printed["value"]) and len(table) == 8
    found = wb.white_box(smoke, "smd", "alternating_own", FIT)
    row = table[(table["detector"] == "smd") & (table["adversarial_training"] == "before")]
    here = row.set_index("statistic")["here"]
    assert here["classifier_accuracy"] == pytest.approx(
        (found.prediction_adv == found.y).double().mean().item()
    )
    assert here["detector_accuracy"] == pytest.approx((found.score > 0).double().mean().item())
    guards = wt.guards_of_004(smoke, FIT)
    table = wt.table3_004(smoke, FIT, guards)
    assert len(table) == 24 and table["paper"].notna().all()
    assert set(table["detector"]) == {"none", "det_is", "gcd"}
    table = wt.table4_004(smoke, FIT, guards)
    assert table.loc[~table["targeted"], "paper"].tolist() == [0.787, 10.252]


def test_rounds_of_training_are_told_before_and_after(smoke):
    table = wt.hardened(smoke, FIT, ["id"])
    assert list(table["adversarial_training"]) == ["before", "before", "after", "after"]
    own = table[table["game"] == "alternating_own"]
    assert ((own["tpr"] + own["tnr"]) / 2 - own["balanced"]).abs().max() < 1e-12
    others = table[table["game"] == "linf"]  # who was handed another threshold
    assert others["tpr"].isna().all() and others["tnr"].notna().all()


def test_alternations_and_mixes_are_told_by_their_knob(smoke):
    table = wt.alternations(smoke, FIT, ["smd"])
    assert sorted(table["rounds"].unique()) == sorted(wt.ROUNDS)
    start = table[table["reading"] == "from the image"]
    assert (start["linf"] <= 0.015 + 1e-6).all()  # one step, however often it is taken
    gone = table[table["reading"] == "accumulated"].set_index("rounds")["linf"]
    assert gone[10] > gone[1]
    mixes = wt.mixes(smoke, FIT, ["id"])
    assert list(mixes["sigma"]) == list(wt.SIGMAS)


def test_the_transferred_attack_is_judged_by_the_detector_that_it_does_not_know(smoke, monkeypatch):
    table = wt.transferred(smoke, FIT, ["id"]).set_index("attacker")
    judge = wb.guard(smoke, "id", FIT, half=0).detector
    made = wb.white_box(smoke, "id", "imitated", FIT, half=1)
    limit = threshold_at(scores(judge, smoke.data.calibrate.pixels()), 0.05)
    expected = (made.fooled & (scores(judge, made.x_adv) <= limit)).double().mean().item()
    assert table.loc["its imitation", "success_5"] == pytest.approx(expected)

    def alarmed(detector, x):
        return torch.full((len(x),), 1e9)

    monkeypatch.setattr(wt, "scores", alarmed)
    assert not wt.transferred(smoke, FIT, ["id"])["success_5"].any()
    assert not wt.informed(smoke, FIT).size  # grey pictures


def test_planted_detectors_are_told_apart(smoke):
    table = wt.checked(smoke, ["id"], FIT, few=4)
    at = table.set_index(["detector", "check"])
    assert at.loc[("planted, masked", "no gradient"), "says"]
    assert not at.loc[("planted, weak", "no gradient"), "says"]
    assert at.loc[("id", "no gradient"), "measured"] == 0
    assert at.loc[("planted, weak", "falls"), "measured"] >= checks.FALLEN


def test_the_whole_defence_is_read_by_both_branches(smoke):
    table = wt.whole_defence(smoke, FIT, "gcd").set_index("attacker")
    attacked = table.loc[["plain", "unseen", "pipeline"], "accuracy"]
    assert table.loc["worst", "accuracy"] <= attacked.min() + 1e-12
    assert table.loc["clean", "accuracy"] >= 0.5 and np.isfinite(table["low"]).all()


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cats_dogs"])
def test_all_games_of_one_kind_have_one_size(dataset):
    found = games(dataset, 3072, steps=7, search_steps=9)
    eps = budget(dataset, 3072)["eps"]
    for name in ("plain", "linf", "mixed", "mix", "004.pgd", "004.fgsm", "both_orders"):
        assert {entry["eps"] for entry in found[name]["attacks"]} == {eps}, name
    assert set(OF_004) <= set(found)
    assert {entry["steps"] for entry in found["linf"]["attacks"]} == {7}
