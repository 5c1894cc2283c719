"""Sizes of perturbations, distances of maps, and what is said of them: ranks, correlations,
margins.
"""

import numpy as np
import torch

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
