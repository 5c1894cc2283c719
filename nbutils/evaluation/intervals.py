"""Intervals: Wilson's of a proportion, and the paired bootstrap over source images."""

from statistics import NormalDist

import numpy as np

LEVEL = 0.95  # of every interval
RESAMPLES = 1000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf(0.5 + LEVEL / 2), hits / n
    centre, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n),
    )
    return 0.0 if hits <= 0 else float(centre - half), 1.0 if hits >= n else float(centre + half)


def resamples(n: int, seed: int = 0) -> np.ndarray:
    """Bootstrap weights (RESAMPLES, n): how often each source image is drawn; one draw serves clean
    and adversarial, so pairs stay pairs.
    """
    return (
        np.random.default_rng([seed, 6])
        .multinomial(n, np.full(n, 1 / n), RESAMPLES)
        .astype(np.float32)
    )


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The central interval of bootstrap draws."""
    draws = draws[np.isfinite(draws)]
    return (
        tuple(float(q) for q in np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]))
        if len(draws)
        else (float("nan"), float("nan"))
    )
