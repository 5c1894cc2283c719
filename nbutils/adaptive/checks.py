"""Checks that distrust an attack on a detector: each raises `Weak` where the attack cannot be as
strong as it must be, and detectors that are planted to be broken.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from nbutils.detectors.base import Detector

SLACK = 0.02  # of the images, on which a longer or better informed attack may do worse by chance
LATE = 0.06  # of the images that twice the steps may find more: one of the twenty that are tried
FALLEN = 0.8  # share of misread images that must pass a detector which is planted to be weak
MASKED = 0.5  # share of images without a gradient from which a detector counts as masked


class Weak(AssertionError):
    """An attack that is too weak for its failure to say anything of the detector."""


def unbounded_succeeds(success: float, name: str) -> None:
    """Without a bound on its size an attack must succeed on every image: any other picture will
    do.
    """
    if success < 1 - SLACK:
        raise Weak(
            f"{name}: without a bound {success:.0%} of the images pass, and all of them must: the "
            "attack gets stuck, so what it does not find under a bound proves nothing."
        )


def more_is_not_weaker(successes: Sequence[float], name: str) -> None:
    """More steps, or a larger eps, find no less."""
    for less, more in pairwise(successes):
        if more < less - SLACK:
            raise Weak(
                f"{name}: with more to spend the attack finds less, {more:.2f} < {less:.2f}."
            )


def has_converged(success: float, longer: float, name: str) -> None:
    """Twice the steps find no more."""
    if longer > success + LATE:
        raise Weak(
            f"{name}: with twice the steps the attack finds {longer:.2f} in place of "
            f"{success:.2f}: it had stopped too early."
        )


def knowing_is_not_weaker(white: float, other: float, name: str) -> None:
    """Who knows the detector finds no less than who does not (plain and transferred attacks)."""
    if white < other - SLACK:
        raise Weak(
            f"{name}: the attack that knows the detector finds {white:.2f}, less than one that "
            f"does not, {other:.2f}: it is weak, or the gradient that it follows is masked."
        )


def gradient_is_there(zero: float, name: str) -> None:
    """The detector has a gradient to follow."""
    if zero >= MASKED:
        raise Weak(
            f"{name}: the score has no gradient at {zero:.0%} of the images, so it is masked: "
            "attack it through a surrogate."
        )


def noise_does_not_break(success: float, name: str) -> None:
    """Random noise of the attack's size does not do what the attack does."""
    if success > 0.2:
        raise Weak(
            f"{name}: {success:.0%} of images with mere noise are misread and unseen: the size is "
            "so large that no attack is needed."
        )


def planted_falls(success: float, name: str) -> None:
    """A detector that is planted to be weak stops next to none of what the attack finds without it
    (Zimmermann et al. 2022).
    """
    if success < FALLEN:
        raise Weak(
            f"{name}: of a detector that is known to be weak only {success:.0%} of the misread "
            "images pass: the attack is too weak to judge others by."
        )


def holds(check, *given: object) -> str:
    """What a check says: "" where it holds, else its sentence."""
    try:
        check(*given)
    except Weak as weak:
        return str(weak)
    return ""


class Planted(Detector):
    """A detector that is known to be weak: how much of a fixed pattern the image holds.

    It is linear, so an attack that knows it needs next to nothing to satisfy it. `masked`: its
    score is rounded, which leaves no gradient and makes it no stronger.
    """

    def __init__(
        self, classifier: nn.Module, pattern: torch.Tensor, *, masked: bool = False
    ) -> None:
        super().__init__(classifier)
        self.pattern, self.masked = pattern / pattern.norm(), masked

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        found = (x * self.pattern).flatten(1).sum(1)
        return (found * 20).round() / 20 if self.masked else found
