"""Sizes of perturbations, distances of maps, and what is said of them: ranks, correlations,
margins.
"""

import numpy as np
import torch

from nbutils.evaluation.intervals import interval, resamples
from nbutils.evaluation.metrics import auroc


def sizes(x: torch.Tensor, x_adv: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sizes of perturbations, (n,) each: `l0` share of values changed, `l2` norm, `rms` = l2 /
    sqrt(values), `linf` largest change.
    """
    delta = (x_adv - x).flatten(1)
    l2 = delta.double().norm(dim=1)
    return {
        "l0": (delta != 0).double().mean(1),
        "l2": l2,
        "rms": l2 / delta.shape[1] ** 0.5,
        "linf": delta.abs().amax(1).double(),
    }


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L2 distance (n,) of maps a and b (n,1,h,w), as rms over their values: what paper 000 prints;
    times the root of their number it is the norm.
    """
    return (a - b).flatten(1).double().square().mean(1).sqrt()


def mann_whitney(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> dict[str, float]:
    """Is a larger than b?

    `effect`: the share of pairs in which it is (.5: no difference); p values that it is `p_larger`,
    `p_smaller`.
    """
    from scipy.stats import mannwhitneyu

    a, b = (
        np.asarray(s.numpy(force=True) if isinstance(s, torch.Tensor) else s, float) for s in (a, b)
    )
    return {
        "effect": auroc(b, a),
        "p_larger": float(mannwhitneyu(a, b, alternative="greater").pvalue),
        "p_smaller": float(mannwhitneyu(a, b, alternative="less").pvalue),
    }


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Spearman's correlation (n,) of the values of each row of a with those of b; not a number
    where one of them is constant.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(s.flatten(1).numpy(force=True), axis=1) for s in (a, b)]
    a, b = (r - r.mean(1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def rank_gain(
    map_: torch.Tensor, own: torch.Tensor, other: torch.Tensor, seed: int = 0
) -> tuple[float, float, list[float]]:
    """How much better a map's ranks follow its own perturbation than another image's, paired.

    Returns:
        the mean rank correlation with the one, with the other, and the bootstrap interval of the
        mean difference; images whose map or perturbation is constant are left out.
    """
    both = np.stack([rank_correlation(map_, part) for part in (own, other)])
    both = both[:, np.isfinite(both).all(0)]
    if not both.size:
        return float("nan"), float("nan"), [float("nan")] * 2
    gain, weights = both[0] - both[1], resamples(both.shape[1], seed)
    draws = (weights * gain).sum(1) / weights.sum(1)
    return float(both[0].mean()), float(both[1].mean()), list(interval(draws))


def overlaps(a: torch.Tensor, b: torch.Tensor, share: float = 0.2) -> torch.Tensor:
    """Overlap (n,) of the hottest `share` of two maps (n,1,h,w) each, intersection over union.

    An empty map has no region: not-a-number where `a` is one.
    """
    hot = []
    for maps in (a, b):
        flat = maps.flatten(1)
        hot.append(flat >= flat.quantile(1 - share, dim=1, keepdim=True).clamp_min(1e-12))
    union = (hot[0] | hot[1]).sum(1).clamp_min(1)
    found = (hot[0] & hot[1]).sum(1) / union
    return torch.where(hot[0].any(1), found, torch.nan)


def mean_interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """The bootstrap interval of a mean over images."""
    weights = resamples(len(values), seed)
    return list(interval((weights * values).sum(1) / weights.sum(1)))


def double_centred(values: np.ndarray) -> np.ndarray:
    """A square matrix off its diagonal less the least-squares effects of rows and of columns; the
    diagonal becomes not-a-number.
    """
    k = len(values)
    i, j = np.nonzero(~np.eye(k, dtype=bool))
    effects = np.hstack([np.eye(k)[i], np.eye(k)[j]])
    out = np.full((k, k), np.nan)
    out[i, j] = values[i, j] - effects @ np.linalg.lstsq(effects, values[i, j], rcond=None)[0]
    return out
