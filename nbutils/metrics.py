"""The one evaluation of a detector, with intervals; and the sizes of perturbations."""

from statistics import NormalDist

import numpy as np
import torch

from nbutils import InputError
from nbutils.detectors.base import threshold_at

LEVEL = 0.95  # of every interval
RESAMPLES = 1000


def auroc(clean: np.ndarray, adversarial: np.ndarray) -> float:
    """Probability that an adversarial score exceeds a clean one, ties counted half (the rank statistic); NaN without images."""
    if not (len(clean) and len(adversarial)):
        return float("nan")
    if not (np.isfinite(clean).all() and np.isfinite(adversarial).all()):
        raise InputError("Scores hold NaN or infinite values, which have no rank.")
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, adversarial, "left") + np.searchsorted(ordered, adversarial, "right")
    return float(below.mean() / (2 * len(clean)))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf(0.5 + LEVEL / 2), hits / n
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 0.0 if hits <= 0 else float(centre - half), 1.0 if hits >= n else float(centre + half)


def resamples(n: int, seed: int = 0) -> np.ndarray:
    """Bootstrap weights (RESAMPLES, n): how often each source image is drawn; one draw serves clean and adversarial, so pairs stay pairs."""
    return np.random.default_rng([seed, 6]).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float32)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The central interval of bootstrap draws."""
    draws = draws[np.isfinite(draws)]
    return tuple(float(q) for q in np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])) if len(draws) else (float("nan"), float("nan"))


def evaluate(clean: torch.Tensor, adversarial: torch.Tensor, success: torch.Tensor, calibrate: torch.Tensor, *, decision: float | None = 0.0,
             seed: int = 0) -> dict:
    """Everything that is reported of a detector on one attack.

    Args:
        clean, adversarial: scores (s, n) of s fitted detectors on the same n source images and what the attack made of them.
        success: (n,) did the attack change the prediction?
        calibrate: scores (s, m) of clean images held back, which fix the thresholds.
        decision: the paper's operating point (score above it = adversarial); None where it has none.
    Returns:
        `all` and `successful` (adversarial images that fooled the classifier, against all clean ones): auroc with its paired bootstrap
        interval and the range over the s fits, tpr and fpr at thresholds of 1 and 5 % FPR, and at `decision` accuracy (balanced), tpr, tnr.
        Rates are means over the s fits, their intervals Wilson's for n images.
    """
    clean, adversarial, calibrate = (np.atleast_2d(s.double().cpu().numpy()) for s in (clean, adversarial, calibrate))
    success = success.cpu().numpy().astype(bool)
    weights = resamples(clean.shape[1], seed)
    out = {"n": int(clean.shape[1]), "fits": int(clean.shape[0]), "n_successful": int(success.sum())}
    for group, chosen in (("all", np.ones_like(success)), ("successful", success)):
        out[group] = _group(clean, adversarial, chosen, calibrate, weights, decision) if chosen.any() else None
    return out


def _group(clean: np.ndarray, adversarial: np.ndarray, chosen: np.ndarray, calibrate: np.ndarray, weights: np.ndarray,
           decision: float | None) -> dict:
    each = [auroc(c, a[chosen]) for c, a in zip(clean, adversarial, strict=True)]
    draws = np.mean([_bootstrap_auroc(c, a, chosen, weights) for c, a in zip(clean, adversarial, strict=True)], 0)
    out = {"n": int(chosen.sum()), "auroc": float(np.mean(each)), "auroc_interval": list(interval(draws)), "auroc_range": [min(each), max(each)]}
    rules = {"at_fpr_1": 0.01, "at_fpr_5": 0.05}
    for rule, fpr in rules.items():
        out[rule] = _rates(clean, adversarial[:, chosen], [threshold_at(torch.from_numpy(c), fpr) for c in calibrate])
    if decision is not None:
        out["at_decision"] = _rates(clean, adversarial[:, chosen], [decision] * len(clean))
    return out


def _rates(clean: np.ndarray, adversarial: np.ndarray, thresholds: list[float]) -> dict:
    """TPR, FPR and balanced accuracy, means over fits, with Wilson intervals for the number of images."""
    cut = np.array(thresholds)[:, None]
    tpr, fpr = float((adversarial > cut).mean()), float((clean > cut).mean())
    n, m = adversarial.shape[1], clean.shape[1]
    return {"tpr": tpr, "tpr_interval": list(wilson(tpr * n, n)), "fpr": fpr, "fpr_interval": list(wilson(fpr * m, m)),
            "accuracy": (tpr + 1 - fpr) / 2}


def _bootstrap_auroc(clean: np.ndarray, adversarial: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    wins = (adversarial[:, None] > clean).astype(np.float32) + 0.5 * (adversarial[:, None] == clean)
    positive = weights * chosen
    with np.errstate(invalid="ignore"):
        return ((positive @ wins) * weights).sum(1) / (positive.sum(1) * weights.sum(1))


def auroc_difference(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor], seed: int = 0) -> tuple[float, list[float]]:
    """AUROC of detector a minus that of b on the same images, with its paired bootstrap interval; each is (clean (s,n), adversarial (s,n))."""
    (ac, aa), (bc, ba) = [[np.atleast_2d(s.double().cpu().numpy()) for s in pair] for pair in (a, b)]
    everyone = np.ones(ac.shape[1], bool)

    def mean(clean: np.ndarray, adversarial: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.mean([_bootstrap_auroc(c, d, everyone, weights) for c, d in zip(clean, adversarial, strict=True)], 0)

    weights = resamples(ac.shape[1], seed)
    low, high = interval(mean(ac, aa, weights) - mean(bc, ba, weights))
    here = np.mean([auroc(c, d) for c, d in zip(ac, aa, strict=True)]) - np.mean([auroc(c, d) for c, d in zip(bc, ba, strict=True)])
    return float(here), [low, high]


def detection_at(clean: torch.Tensor, adversarial: torch.Tensor, fpr: float) -> float:
    """The share of adversarial scores (m,) above the threshold that at most the share `fpr` of the clean ones (n,) exceeds."""
    return float((adversarial > threshold_at(clean, fpr)).double().mean()) if len(adversarial) else float("nan")


def detection_difference(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor], success: torch.Tensor, fpr: float,
                         seed: int = 0) -> tuple[float, list[float]]:
    """`detection_at` of detector a minus that of b, each at its own threshold, with its paired bootstrap interval over source images.

    Args:
        a, b: scores (clean (n,), adversarial (n,)) of the same n source images. success: (n,) adversarial images that count.
    """
    rows = np.random.default_rng([seed, 6]).integers(len(success), size=(RESAMPLES, len(success)))
    wins = success.numpy(force=True).astype(bool)
    flagged = int(fpr * rows.shape[1] + 1e-9)
    drawn = []
    for clean, adversarial in ((s.double().numpy(force=True) for s in pair) for pair in (a, b)):
        cut = np.partition(clean[rows], -1 - flagged, axis=1)[:, -1 - flagged]  # `threshold_at` of each draw
        with np.errstate(invalid="ignore"):
            drawn.append(((adversarial[rows] > cut[:, None]) & wins[rows]).sum(1) / wins[rows].sum(1))
    here = [detection_at(clean, adversarial[success.bool()], fpr) for clean, adversarial in (a, b)]
    return here[0] - here[1], list(interval(drawn[0] - drawn[1]))


def sizes(x: torch.Tensor, x_adv: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sizes of perturbations, (n,) each: `l0` share of values changed, `l2` norm, `rms` = l2 / sqrt(values), `linf` largest change."""
    delta = (x_adv - x).flatten(1)
    l2 = delta.double().norm(dim=1)
    return {"l0": (delta != 0).double().mean(1), "l2": l2, "rms": l2 / delta.shape[1] ** 0.5, "linf": delta.abs().amax(1).double()}


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L2 distance (n,) of maps a and b (n,1,h,w), as rms over their values: what paper 000 prints; times the root of their number it is the norm."""
    return (a - b).flatten(1).double().square().mean(1).sqrt()


def mann_whitney(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> dict[str, float]:
    """Is a larger than b? `effect`: the share of pairs in which it is (.5: no difference); p values that it is `p_larger`, `p_smaller`."""
    from scipy.stats import mannwhitneyu

    a, b = (np.asarray(s.numpy(force=True) if isinstance(s, torch.Tensor) else s, float) for s in (a, b))
    return {"effect": auroc(b, a), "p_larger": float(mannwhitneyu(a, b, alternative="greater").pvalue),
            "p_smaller": float(mannwhitneyu(a, b, alternative="less").pvalue)}


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Spearman's correlation (n,) of the values of each row of a with those of b; not a number where one of them is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(s.flatten(1).numpy(force=True), axis=1) for s in (a, b)]
    a, b = (r - r.mean(1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def without_margins(values: np.ndarray) -> np.ndarray:
    """A square matrix off its diagonal less the least-squares effects of rows and of columns; the diagonal becomes not-a-number."""
    k = len(values)
    i, j = np.nonzero(~np.eye(k, dtype=bool))
    effects = np.hstack([np.eye(k)[i], np.eye(k)[j]])
    out = np.full((k, k), np.nan)
    out[i, j] = values[i, j] - effects @ np.linalg.lstsq(effects, values[i, j], rcond=None)[0]
    return out
