"""The one evaluation of a detector, with intervals."""

import numpy as np
import torch

from nbutils import InputError
from nbutils.detectors.base import threshold_at
from nbutils.evaluation.intervals import (
    RESAMPLES,
    at_the_edge,
    interval,
    interval_of_auroc,
    resamples,
    square_and_add,
    wilson,
)


def auroc(clean: np.ndarray, adversarial: np.ndarray) -> float:
    """Probability that an adversarial score exceeds a clean one, ties counted half (the rank
    statistic); NaN without images.
    """
    if not (len(clean) and len(adversarial)):
        return float("nan")
    if not (np.isfinite(clean).all() and np.isfinite(adversarial).all()):
        raise InputError("Scores hold NaN or infinite values, which have no rank.")
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, adversarial, "left") + np.searchsorted(
        ordered, adversarial, "right"
    )
    return float(below.mean() / (2 * len(clean)))


def evaluate(
    clean: torch.Tensor,
    adversarial: torch.Tensor,
    success: torch.Tensor,
    calibrate: torch.Tensor,
    *,
    decision: float | None = 0.0,
    seed: int = 0,
) -> dict:
    """Everything that is reported of a detector on one attack.

    Args:
        clean, adversarial: scores (s, n) of s fitted detectors on the same n source images and what
            the attack made of them.
        success: (n,) did the attack change the prediction?
        calibrate: scores (s, m) of clean images held back, which fix the thresholds.
        decision: the paper's operating point (score above it = adversarial); None where it has
            none.
    Returns:
        `all` and `successful` (adversarial images that fooled the classifier, against all clean
        ones): auroc with its paired bootstrap interval and the range over the s fits, tpr and fpr
        at thresholds of 1 and 5 % FPR, and at `decision` accuracy (balanced), tpr, tnr. Rates are
        means over the s fits, their intervals Wilson's for n images.
    """
    clean, adversarial, calibrate = (
        np.atleast_2d(s.double().cpu().numpy()) for s in (clean, adversarial, calibrate)
    )
    success = success.cpu().numpy().astype(bool)
    weights = resamples(clean.shape[1], seed)
    out = {
        "n": int(clean.shape[1]),
        "fits": int(clean.shape[0]),
        "n_successful": int(success.sum()),
    }
    for group, chosen in (("all", np.ones_like(success)), ("successful", success)):
        out[group] = (
            _group(clean, adversarial, chosen, calibrate, weights, decision)
            if chosen.any()
            else None
        )
    return out


def _group(
    clean: np.ndarray,
    adversarial: np.ndarray,
    chosen: np.ndarray,
    calibrate: np.ndarray,
    weights: np.ndarray,
    decision: float | None,
) -> dict:
    each = [auroc(c, a[chosen]) for c, a in zip(clean, adversarial, strict=True)]
    draws = np.mean(
        [_bootstrap_auroc(c, a, chosen, weights) for c, a in zip(clean, adversarial, strict=True)],
        0,
    )
    n = int(chosen.sum())
    out = {
        "n": n,
        "auroc": float(np.mean(each)),
        "auroc_interval": list(interval_of_auroc(float(np.mean(each)), draws, clean.shape[1], n)),
        "auroc_range": [min(each), max(each)],
    }
    rules = {"at_fpr_1": 0.01, "at_fpr_5": 0.05}
    for rule, fpr in rules.items():
        out[rule] = _rates(
            clean,
            adversarial[:, chosen],
            [threshold_at(torch.from_numpy(c), fpr) for c in calibrate],
        )
    if decision is not None:
        out["at_decision"] = _rates(clean, adversarial[:, chosen], [decision] * len(clean))
    return out


def _rates(clean: np.ndarray, adversarial: np.ndarray, thresholds: list[float]) -> dict:
    """TPR, FPR and balanced accuracy, means over fits, with Wilson intervals for the number of
    images.
    """
    cut = np.array(thresholds)[:, None]
    tpr, fpr = float((adversarial > cut).mean()), float((clean > cut).mean())
    n, m = adversarial.shape[1], clean.shape[1]
    return {
        "tpr": tpr,
        "tpr_interval": list(wilson(tpr * n, n)),
        "fpr": fpr,
        "fpr_interval": list(wilson(fpr * m, m)),
        "accuracy": (tpr + 1 - fpr) / 2,
    }


def _bootstrap_auroc(
    clean: np.ndarray, adversarial: np.ndarray, chosen: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    wins = (adversarial[:, None] > clean).astype(np.float32) + 0.5 * (adversarial[:, None] == clean)
    positive = weights * chosen
    with np.errstate(invalid="ignore"):
        return ((positive @ wins) * weights).sum(1) / (positive.sum(1) * weights.sum(1))


def auroc_difference(
    a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor], seed: int = 0
) -> tuple[float, list[float]]:
    """AUROC of detector a minus that of b on the same images, with its paired bootstrap interval.

    Where one of them is at the edge, and the bootstrap with it, the interval is made of those of
    both (`intervals.square_and_add`).

    Args:
        a, b: scores (clean (s,n), adversarial (s,n)) of s fits.
    """
    n, found, draws = len(np.atleast_2d(a[0])[0]), [], []
    everyone, weights = np.ones(n, bool), resamples(n, seed)
    for pair in (a, b):
        clean, adversarial = (np.atleast_2d(side.double().cpu().numpy()) for side in pair)
        fits = [*zip(clean, adversarial, strict=True)]
        value = float(np.mean([auroc(c, d) for c, d in fits]))
        drawn = np.mean([_bootstrap_auroc(c, d, everyone, weights) for c, d in fits], 0)
        found.append((value, *interval_of_auroc(value, drawn, n, n)))
        draws.append(drawn)
    if any(at_the_edge(value, n) for value, *_ in found):
        value, low, high = square_and_add(*found)
    else:
        value = found[0][0] - found[1][0]
        low, high = interval(draws[0] - draws[1])
    return value, [low, high]


def detection_at(clean: torch.Tensor, adversarial: torch.Tensor, fpr: float) -> float:
    """The share of adversarial scores (m,) above the threshold that at most the share `fpr` of the
    clean ones (n,) exceeds.
    """
    return (
        float((adversarial > threshold_at(clean, fpr)).double().mean())
        if len(adversarial)
        else float("nan")
    )


def detection_difference(
    a: tuple[torch.Tensor, torch.Tensor],
    b: tuple[torch.Tensor, torch.Tensor],
    success: torch.Tensor,
    fpr: float,
    seed: int = 0,
) -> tuple[float, list[float]]:
    """`detection_at` of detector a minus that of b, each at its own threshold, with its interval.

    The bootstrap draws calibration images and source images, the same for both detectors.

    Args:
        a, b: scores of m clean calibration images, which fix the threshold, and of n adversarial
            ones.
        success: (n,) adversarial images that count.
    """
    m, n = len(a[0]), len(success)
    rng = np.random.default_rng([seed, 6])
    held, rows = rng.integers(m, size=(RESAMPLES, m)), rng.integers(n, size=(RESAMPLES, n))
    wins, flagged = success.numpy(force=True).astype(bool), int(fpr * m + 1e-9)
    drawn = []
    for clean, adversarial in ((s.double().numpy(force=True) for s in pair) for pair in (a, b)):
        sorted_clean = np.partition(clean[held], -1 - flagged, axis=1)
        cut = sorted_clean[:, -1 - flagged]  # `threshold_at` of each draw
        hits = (adversarial[rows] > cut[:, None]) & wins[rows]
        with np.errstate(invalid="ignore"):
            drawn.append(hits.sum(1) / wins[rows].sum(1))
    here = [detection_at(clean, adversarial[success.bool()], fpr) for clean, adversarial in (a, b)]
    return here[0] - here[1], list(interval(drawn[0] - drawn[1]))
