"""How large an attack is made: the smallest level that is enough, and the budget that gives a
wanted size.
"""

from collections.abc import Callable, Mapping


def first_below(accuracies: Mapping[str, float], bound: float) -> str:
    """The rule of paper 002: of an attack's levels, from small to large, the first at which the
    classifier's accuracy is under `bound`; the last one where none is.
    """
    enough = [level for level, accuracy in accuracies.items() if accuracy < bound]
    return enough[0] if enough else list(accuracies)[-1]


def budget_for_rms(
    rms_at: Callable[[float], float],
    wanted: float,
    *,
    start: float,
    largest: float,
    rounds: int = 2,
) -> float:
    """The budget, to three digits, with which an attack's perturbation has the rms `wanted`.

    Clipping to [0,1] takes some of a perturbation away, so the budget is scaled by what is missing,
    `rounds` times.

    Args:
        rms_at: the rms (root of the mean squared change of a value) that a budget gives.
        start: the first guess. largest: what a budget may be at most.
    """
    budget = start
    for _ in range(rounds):
        found = rms_at(budget)
        if found == 0:
            return budget
        budget = float(f"{min(budget * wanted / found, largest):.3g}")
    return budget
