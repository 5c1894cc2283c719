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


def auroc_interval(value: float, clean: int, adversarial: int) -> tuple[float, float]:
    """Newcombe's score interval of an AUROC from its value and the numbers of images alone.

    As Wilson's does for a proportion, it asks which true values could have given this one, so it
    has a width at 0 and at 1, where a bootstrap has none. Source: Newcombe 2006, method 5
    (Statistics in Medicine 25, 559-573).
    """
    if not (clean and adversarial) or value != value:
        return 0.0, 1.0
    z, average = NormalDist().inv_cdf(0.5 + LEVEL / 2), (clean + adversarial) / 2 - 1

    def beyond(theta: float) -> float:
        spread = 1 + average * (1 - theta) / (2 - theta) + average * theta / (1 + theta)
        return abs(value - theta) - z * np.sqrt(
            theta * (1 - theta) * spread / (clean * adversarial)
        )

    ends = []
    for edge in (0.0, 1.0):
        inside, outside = value, edge
        for _ in range(60):  # the one place between the value and the edge where the two are equal
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if beyond(middle) > 0 else (middle, outside)
        ends.append(outside if abs(value - edge) > 0 else edge)
    return float(ends[0]), float(ends[1])


def interval_of_auroc(
    value: float, draws: np.ndarray, clean: int, adversarial: int
) -> tuple[float, float]:
    """The bootstrap's interval of an AUROC, or Newcombe's where the bootstrap is at its edge.

    With less than five images' worth of misranked pairs the resamples hardly differ, and at 0 and 1
    not at all: "1.000 to 1.000" would not be certainty.
    """
    if at_the_edge(value, min(clean, adversarial)):
        return auroc_interval(value, clean, adversarial)
    return interval(draws)


def at_the_edge(value: float, n: int) -> bool:
    """Whether an AUROC of n images is too near to 0 or 1 for a bootstrap."""
    return min(value, 1 - value) * n < 5


def square_and_add(
    a: tuple[float, float, float], b: tuple[float, float, float]
) -> tuple[float, float, float]:
    """a - b of two (value, low, high) as if they were independent (Newcombe 1998)."""
    value = a[0] - b[0]
    down = ((a[0] - a[1]) ** 2 + (b[2] - b[0]) ** 2) ** 0.5
    up = ((a[2] - a[0]) ** 2 + (b[0] - b[1]) ** 2) ** 0.5
    return value, value - down, value + up
