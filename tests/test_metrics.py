"""The evaluation against scikit-learn, closed forms, and simulations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nbutils import InputError
from nbutils.detectors.base import threshold_at
from nbutils.evaluation import metrics
from nbutils.evaluation.distances import (
    distances,
    double_centred,
    mann_whitney,
    rank_correlation,
    sizes,
)
from nbutils.evaluation.intervals import RESAMPLES, interval, wilson


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    st.lists(st.integers(-3, 3), min_size=1, max_size=30),
)
def test_auroc_is_scikit_learns_with_ties(clean, adversarial):
    expected = roc_auc_score([0] * len(clean) + [1] * len(adversarial), clean + adversarial)
    found = metrics.auroc(np.array(clean), np.array(adversarial))
    assert found == pytest.approx(expected, abs=1e-12)


def test_wilson_covers_and_is_known():
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1 and wilson(0, 0) == (0, 1)
    rng = np.random.default_rng(0)
    intervals = [wilson(int(hits), 40) for hits in rng.binomial(40, 0.3, 1000)]
    assert 0.92 < np.mean([low <= 0.3 <= high for low, high in intervals]) < 0.98


def test_bootstrap_auroc_of_unit_weights_is_auroc():
    rng = np.random.default_rng(1)
    clean, adversarial = rng.normal(size=40).round(1), rng.normal(0.7, size=40).round(1)
    chosen = rng.random(40) < 0.6
    got = metrics._bootstrap_auroc(clean, adversarial, chosen, np.ones((1, 40), np.float32))[0]
    assert got == pytest.approx(metrics.auroc(clean, adversarial[chosen]), abs=1e-6)


def test_interval_covers_the_true_auroc():
    rng = np.random.default_rng(2)
    truth, covered = 0.760, []  # P(N(1,1) > N(0,1)) = Phi(1/sqrt 2)
    for trial in range(60):
        clean, adversarial = (torch.from_numpy(rng.normal(mean, 1, 100)) for mean in (0, 1))
        out = metrics.evaluate(clean, adversarial, torch.ones(100), clean, seed=trial)
        low, high = out["all"]["auroc_interval"]
        covered.append(low <= truth <= high)
    assert np.mean(covered) > 0.85


def test_threshold_flags_no_more_than_the_share():
    scores = torch.arange(200).float()[torch.randperm(200)]
    for fpr, flagged in ((0.05, 10), (0.01, 2), (0.0, 0)):
        assert (scores > threshold_at(scores, fpr)).sum() == flagged
    with pytest.raises(InputError, match="fpr"):
        threshold_at(scores, 1.0)


def test_evaluate_counts_by_hand():
    clean = torch.tensor([[-2.0, -1.0, 1.0, -3.0]])
    adversarial = torch.tensor([[2.0, -1.5, 3.0, 0.5]])
    success = torch.tensor([True, False, True, True])
    out = metrics.evaluate(clean, adversarial, success, torch.tensor([[-2.0, -1.0, 0.0, -3.0]]))
    assert out["all"]["at_decision"]["tpr"] == 0.75 and out["all"]["at_decision"]["fpr"] == 0.25
    assert out["all"]["at_decision"]["accuracy"] == 0.75
    assert out["successful"]["n"] == 3 and out["successful"]["at_decision"]["tpr"] == 1.0
    theirs = roc_auc_score([0] * 4 + [1] * 4, clean[0].tolist() + adversarial[0].tolist())
    assert out["all"]["auroc"] == pytest.approx(theirs)
    # the threshold is the largest calibration score, 0
    assert out["all"]["at_fpr_5"]["tpr"] == 0.75
    assert metrics.evaluate(clean, adversarial, success & False, clean)["successful"] is None


def test_difference_of_a_detector_with_itself_is_nothing():
    clean, adversarial = torch.randn(2, 30), torch.randn(2, 30) + 1
    assert metrics.auroc_difference((clean, adversarial), (clean, adversarial)) == (0.0, [0.0, 0.0])
    better, bounds = metrics.auroc_difference((clean, adversarial + 5), (clean, clean))
    assert better == pytest.approx(0.5, abs=0.05) and bounds[0] > 0.3


def test_sizes_by_hand():
    x = torch.zeros(1, 1, 2, 2)
    x_adv = torch.tensor([[[[0.3, 0.0], [0.0, 0.4]]]])
    size = {k: round(v.item(), 6) for k, v in sizes(x, x_adv).items()}
    assert size == {"l0": 0.5, "l2": 0.5, "rms": 0.25, "linf": 0.4}


def test_distances_are_rms():
    a, b = torch.zeros(2, 1, 3, 3), torch.stack([torch.full((1, 3, 3), 0.5), torch.eye(3)[None]])
    assert distances(a, b).tolist() == pytest.approx([0.5, (3 / 9) ** 0.5])


def test_mann_whitney_both_ways():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0, 1, 200), torch.from_numpy(rng.normal(1, 1, 200))
    found = mann_whitney(high, low)
    assert found["effect"] == pytest.approx((high.numpy()[:, None] > low).mean())
    assert found["p_larger"] < 1e-6 and found["p_smaller"] > 0.99
    assert mann_whitney(low, low)["effect"] == pytest.approx(0.5)


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = torch.rand(4, 1, 5, 5), torch.rand(4, 1, 5, 5).round(decimals=1)
    pairs = zip(a.flatten(1), b.flatten(1), strict=True)
    assert rank_correlation(a, b) == pytest.approx([spearmanr(x, y).statistic for x, y in pairs])
    assert np.isnan(rank_correlation(a[:1], torch.zeros(1, 1, 5, 5))).all()


def test_double_centring_leaves_what_rows_and_columns_do_not_say():
    rng = np.random.default_rng(0)
    added = rng.normal(size=(6, 1)) + rng.normal(size=(1, 6))
    left = double_centred(added + 100 * np.eye(6))
    assert np.isnan(np.diag(left)).all() and np.abs(left[~np.eye(6, dtype=bool)]).max() < 1e-9
    block = np.zeros((6, 6))
    block[:3, :3] = 1
    left = double_centred(added + block)
    assert np.nanmean(left[:3, :3]) > 0.1 > 0 > np.nanmean(left[:3, 3:])


def test_detection_at_one_rate_of_false_alarms_by_hand():
    clean, adversarial = torch.arange(10.0), torch.tensor([3.0, 7.5, 8.5, 9.5])
    # the threshold is 8: one of ten lies above
    assert metrics.detection_at(clean, adversarial, 0.1) == 0.5
    assert metrics.detection_at(clean, adversarial, 0.0) == 0.25
    assert np.isnan(metrics.detection_at(clean, adversarial[:0], 0.1))


def test_difference_of_detection_is_paired_and_has_the_bootstraps_spread():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.rand(400, generator=generator), torch.rand(400, generator=generator)
    success = torch.arange(400) % 4 > 0
    better, worse = (clean, noise + 0.4), (clean, noise + 0.3)
    difference, (low, high) = metrics.detection_difference(better, worse, success, 0.05, seed=1)
    at = [metrics.detection_at(clean, s[success], 0.05) for _, s in (better, worse)]
    want = at[0] - at[1]
    # paired: the threshold is common, and every hit of the worse one of the better too
    assert difference == want and 0 < low < want < high < 0.2
    assert metrics.detection_difference(better, better, success, 0.05) == (0.0, [0.0, 0.0])
    other = torch.rand(400, generator=generator), worse[1]
    rng, size = np.random.default_rng([3, 6]), (RESAMPLES, 400)
    held, rows = (torch.from_numpy(rng.integers(400, size=size)) for _ in range(2))

    def drawn(scores, h, r):  # calibration images and source images are drawn apart
        return metrics.detection_at(scores[0][h], scores[1][r[success[r]]], 0.05)

    pairs = [*zip(held, rows, strict=True)]
    naive = interval(np.array([drawn(better, *pair) - drawn(other, *pair) for pair in pairs]))
    found = metrics.detection_difference(better, other, success, 0.05, seed=3)
    assert found[1] == pytest.approx(naive)
