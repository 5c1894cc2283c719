"""Is a detector more than a measure of how unsure the classifier is? Its scores beside those of
scalars that are nothing else, on the same images.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from nbutils.evaluation.distances import rank_correlation
from nbutils.evaluation.metrics import auroc, auroc_difference

Sides = tuple[torch.Tensor, torch.Tensor]  # scores (s,n) of clean images and of attacked ones

BESIDE = (
    "detector",
    "fitted_on",
    "tested_on",
    "scalar",
    "auroc",
    "auroc_scalar",
    "difference",
    "low",
    "high",
    "rank_clean",
    "rank_adversarial",
    "n",
    "fits",
)
TOLD = (
    "detector",
    "fitted_on",
    "tested_on",
    "auroc",
    "best_scalar",
    "difference",
    "low",
    "high",
    "nearest_scalar",
    "rank",
    "answer",
    "n",
    "fits",
)
MARGIN = 0.02  # of AUROC: what a detector must gain to be worth its training
ALIKE = 0.8  # rank correlation from which on two scores measure one thing
MORE = "more than confidence"
CONFIDENCE = "a confidence detector"
NO_MORE = "no better than confidence"
OPEN = "open"


def beside(detector: Sides, scalars: Mapping[str, Sides], seed: int = 0) -> list[dict]:
    """A detector beside each scalar, a row each: what of BESIDE is measured.

    Returns:
        both AUROCs, their paired `difference` with its bootstrap interval, and Spearman's
        correlation of both scores over the clean images and over the attacked ones apart (means
        over the detector's fits; not a number where one is constant).
    """
    clean, adversarial = (torch.atleast_2d(side) for side in detector)
    rows = []
    for name, sides in scalars.items():
        value, (low, high) = auroc_difference((clean, adversarial), sides, seed=seed)
        alone = torch.atleast_2d(sides[0]), torch.atleast_2d(sides[1])
        both = ((clean, alone[0]), (adversarial, alone[1]))
        ranks = [float(rank_correlation(a, b.expand_as(a)).mean()) for a, b in both]
        rows.append(
            {
                "scalar": name,
                "auroc": _mean_auroc(clean, adversarial),
                "auroc_scalar": _mean_auroc(*alone),
                "difference": value,
                "low": low,
                "high": high,
                "rank_clean": ranks[0],
                "rank_adversarial": ranks[1],
                "n": clean.shape[1],
                "fits": len(clean),
            }
        )
    return rows


def _mean_auroc(clean: torch.Tensor, adversarial: torch.Tensor) -> float:
    sides = (clean.numpy(force=True), adversarial.numpy(force=True))
    return float(np.mean([auroc(c, a) for c, a in zip(*sides, strict=True)]))


def told(rows: pd.DataFrame) -> pd.DataFrame:
    """What the rows of BESIDE say of each detector on each attack: columns of TOLD.

    `answer` is MORE where it beats every scalar beyond the interval; else CONFIDENCE where it ranks
    the clean images, or the attacked ones, as some scalar does (ALIKE; of one side a raw map's
    scores may all be the same); else NO_MORE where the interval of its gain over some scalar ends
    below MARGIN; else OPEN. `difference` is that to the best scalar, `rank` the larger correlation
    with the nearest.
    """
    found = []
    for key, cells in rows.groupby(["detector", "fitted_on", "tested_on"], sort=False):
        best = cells.loc[cells["auroc_scalar"].idxmax()]
        ranks = cells[["rank_clean", "rank_adversarial"]].max(axis=1).fillna(-1.0)
        if (cells["low"] > 0).all():
            answer = MORE
        elif ranks.max() >= ALIKE:
            answer = CONFIDENCE
        else:
            answer = NO_MORE if (cells["high"] < MARGIN).any() else OPEN
        found.append(
            {
                **dict(zip(("detector", "fitted_on", "tested_on"), key, strict=True)),
                "best_scalar": best["scalar"],
                "nearest_scalar": cells.loc[ranks.idxmax(), "scalar"],
                "rank": ranks.max(),
                "answer": answer,
                **{name: best[name] for name in ("auroc", "difference", "low", "high")},
                **{name: int(best[name]) for name in ("n", "fits")},
            }
        )
    return pd.DataFrame(found, columns=list(TOLD))
