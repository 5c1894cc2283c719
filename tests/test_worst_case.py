"""Every attack at once, noise, and the cost of a score."""

import copy

import pytest
import torch

from nbutils import InputError, steps
from nbutils.detectors.base import scores, threshold_at
from nbutils.detectors.scalars import Scalar, max_softmax
from nbutils.evaluation.controls import matched_noise
from nbutils.steps import worst_case
from tests.conftest import Linear

FOUND = torch.tensor([[3.0, 3.0, 1.0, 3.0], [3.0, 1.0, 1.0, 3.0]])  # two attacks, four images
FOOLS = torch.tensor([[True, True, False, False], [True, True, True, False]])


def test_an_image_is_caught_if_every_picture_that_fools_is_flagged():
    hits = worst_case.caught(FOUND, FOOLS, 2.0)
    assert hits.tolist() == [True, False, False]  # the fourth image fools nobody
    assert worst_case.caught(FOUND, FOOLS, 0.5).all()
    forgiven = FOOLS.clone()
    forgiven[1, 1] = False  # the picture that is not flagged does not fool: it is nobody's success
    assert worst_case.caught(FOUND, forgiven, 2.0).tolist() == [True, True, False]
    silent = torch.full_like(FOUND, 2.0)  # at the threshold there is no alarm, as in `decide`
    assert not worst_case.caught(silent, FOOLS, 2.0).any()


def test_a_row_holds_mean_worst_and_caught():
    thresholds = {0.01: 2.5, 0.05: 2.0, 0.1: 0.5}
    row = worst_case._row("a", "L2", ["one", "two"], FOUND, FOOLS, thresholds)
    assert row["n"] == 3 and row["attacks"] == 2 and row["worst"] == "two"
    assert row["mean_5"] == pytest.approx((2 / 2 + 1 / 3) / 2)
    assert row["worst_5"] == pytest.approx(1 / 3) and row["caught_5"] == pytest.approx(1 / 3)
    assert row["low"] < 1 / 3 < row["high"] and row["caught_10"] == 1
    nobody = worst_case._row("a", "L2", ["one"], FOUND[:1], torch.zeros(1, 4).bool(), thresholds)
    assert nobody["n"] == 0 and nobody["caught_5"] is nobody["worst_5"] is nobody["low"] is None


def test_on_a_run_it_is_what_the_kept_scores_say(smoke):
    attacks = ["fgsm", "pgd", "ddn"]
    table = worst_case.of_every_attack(smoke, ["id", "noise"], "fgsm+ddn", attacks)
    assert set(table["family"]) == {"L-infinity", "L2", worst_case.EVERY}
    rows = table[table["detector"] == "id"].set_index("family")
    found = [steps.evaluation(smoke, "id", "fgsm+ddn", attack, fits=1) for attack in attacks]
    threshold = threshold_at(found[0].tensors["calibrate"][0], 0.05)
    pairs = [steps.adversarial(smoke, attack) for attack in attacks]
    missed = torch.zeros(len(pairs[0].x), dtype=torch.bool)
    any_fools = missed.clone()
    for one, evaluation in zip(pairs, found, strict=True):
        any_fools |= one.success
        missed |= one.success & (evaluation.tensors["adversarial"][0] <= threshold)
    every = rows.loc[worst_case.EVERY]
    assert every["n"] == any_fools.sum() and 0 < every["n"]
    assert every["caught_5"] == pytest.approx((~missed)[any_fools].double().mean().item())
    least = rows.loc[["L-infinity", "L2"], "caught_5"].min()
    assert every["caught_1"] <= every["caught_5"] <= every["caught_10"]
    assert every["caught_5"] <= every["worst_5"] + 1e-9 or every["n"] != pairs[0].success.sum()
    assert rows.loc["L-infinity", "attacks"] == 2 and least <= 1


def test_noise_has_the_size_of_the_attack_that_it_was_fitted_on(smoke):
    record = worst_case.on_noise(smoke, "id", "fgsm+ddn")
    made, _ = steps.detector(smoke, "id", "fgsm+ddn")
    pairs = steps.adversarial(smoke, "fgsm+ddn")
    threshold = threshold_at(scores(made, smoke.data.calibrate.pixels()), 0.05)
    noisy = matched_noise(pairs.x, pairs.x_adv, pairs.index, "sign", smoke.seed)
    assert record["flagged_noise"] == (scores(made, noisy) > threshold).double().mean().item()
    attacked = (scores(made, pairs.x_adv) > threshold).double().mean().item()
    assert record["flagged_attack"] == attacked and record["n"] == len(pairs.x)
    trivial = worst_case.on_noise(smoke, "noise", "fgsm+ddn")  # an estimate of noise sees noise
    assert trivial["flagged_noise"] >= trivial["flagged_attack"] > 0.5


def test_cost_counts_passes_where_they_can_be_counted(smoke):
    model, x = steps.classifier(smoke).model, smoke.data.test[:4].pixels()
    assert worst_case.cost(Scalar(model, function=max_softmax), x) == 1
    squeezed, _ = steps.detector(smoke, "squeezing_1-bit")
    assert worst_case.cost(squeezed, x) == 2  # the picture, and its squeezed copy
    derived, _ = steps.detector(smoke, "gradient_norm")
    assert 1.5 < worst_case.cost(derived, x) < 3.1  # forward and back
    tapped, _ = steps.detector(smoke, "mahalanobis_sum")
    tapped = copy.deepcopy(tapped)  # as when it has scored nothing yet
    assert worst_case.cost(tapped, x) == worst_case.cost(tapped, x)
    with worst_case.Flops() as counted:
        Linear(m=48).double()(torch.zeros(5, 3, 4, 4, dtype=torch.float64))
    assert counted.total == 0 or counted.total == 2 * 5 * 48


def test_attacks_of_different_images_have_no_common_worst(smoke, monkeypatch):
    real = worst_case.adversarial

    def moved(run, attack, *more, **knobs):
        pairs = real(run, attack, *more, **knobs)
        if attack == "pgd":
            import dataclasses

            return dataclasses.replace(pairs, index=pairs.index + 1)
        return pairs

    monkeypatch.setattr(worst_case, "adversarial", moved)
    with pytest.raises(InputError, match="no common worst"):
        worst_case.of_every_attack(smoke, ["noise"], "fgsm", ["fgsm", "pgd"])
