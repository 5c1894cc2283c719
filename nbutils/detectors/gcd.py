"""GCD (paper 004): a detector on the pixels and one on the input sensitivity, and a rule that makes
one score of both; and the rules that rival the paper's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from nbutils import InputError
from nbutils.detectors.base import Detector
from nbutils.detectors.networks import Network, Recipe
from nbutils.detectors.regression import logistic
from nbutils.models.training import Training, held_back
from nbutils.store.artifacts import Parts

ENOUGH = 8  # source images that a stacked rule is fitted on, at least

Pairs = tuple[torch.Tensor, torch.Tensor]


# Each rule: logits (n,) of p- from the half on the pixels and from the half on the input
# sensitivity -> the logit (n,) of one p-. In logits nothing saturates: p- = 1 is no tie.
def entropy(pixels: torch.Tensor, sensitivity: torch.Tensor) -> torch.Tensor:
    """Paper 004, eq 10 and 11: the half whose p- has the lower binary entropy, in a tie the input
    sensitivity's.

    The entropy falls with the logit's size, so the larger size is the lower entropy.
    """
    return torch.where(pixels.abs() > sensitivity.abs(), pixels, sensitivity)


def mean(pixels: torch.Tensor, sensitivity: torch.Tensor) -> torch.Tensor:
    """The mean (or the sum) of both p-."""
    adversarial = torch.logaddexp(logsigmoid(pixels), logsigmoid(sensitivity))
    return adversarial - torch.logaddexp(logsigmoid(-pixels), logsigmoid(-sensitivity))


def maximum(pixels: torch.Tensor, sensitivity: torch.Tensor) -> torch.Tensor:
    """The larger p-: adversarial where either half says so."""
    return torch.maximum(pixels, sensitivity)


RULES = {"entropy": entropy, "mean": mean, "maximum": maximum}


class GCD(Detector):
    """Two fitted networks and a rule.

    The score is the logit of p-, so that `decide` flags p- > p+ until it is calibrated, as the
    paper does.
    """

    trained, own_threshold = True, 0.0

    def __init__(
        self,
        classifier: nn.Module,
        *,
        pixels: str,
        sensitivity: str,
        rule: str = "entropy",
        halves: tuple[Network, Network] | None = None,
    ) -> None:
        """
        Args:
            pixels, sensitivity: names of DETECTORS: DET_org and DET_IS.
            rule: one of RULES.
            halves: both of them, fitted; None: fresh ones.
        """
        from nbutils.detectors import DETECTORS  # which holds this class

        super().__init__(classifier)
        self.rule = rule
        self.halves = halves or tuple(DETECTORS[name](classifier) for name in (pixels, sensitivity))
        self._note_nets()

    def fit(
        self,
        clean: torch.Tensor,
        adversarial: torch.Tensor,
        index: torch.Tensor,
        recipe: Recipe,
        *,
        index_adversarial: torch.Tensor | None = None,
        seed: int = 0,
        start: nn.Module | None = None,
        viewed: Pairs | None = None,
        parts: Parts | None = None,
        progress: Callable = iter,
    ) -> dict:
        """Fit both halves, each as `Network.fit` does, and then the rule.

        Returns:
            the record of `combine`.
        """
        records = [
            half.fit(
                clean,
                adversarial,
                index,
                recipe,
                index_adversarial=index_adversarial,
                seed=seed,
                start=start,
                parts=parts,
                progress=progress,
            )
            for half in self.halves
        ]
        return self.combine(
            clean, adversarial, index, records, index_adversarial=index_adversarial, seed=seed
        )

    def combine(
        self,
        clean: torch.Tensor,
        adversarial: torch.Tensor,
        index: torch.Tensor,
        records: list[dict],
        *,
        index_adversarial: torch.Tensor | None = None,
        seed: int = 0,
    ) -> dict:
        """What is left to do where both halves are fitted on these images, from this seed.

        Args:
            records: those of the halves' fits.
        Returns:
            `collapses` of both halves together, and `collapsed`: whether one of them is.
        """
        self._note_nets()
        return {
            "collapses": sum(record["collapses"] for record in records),
            "collapsed": any(record["collapsed"] for record in records),
        }

    def combined(self, pixels: torch.Tensor, sensitivity: torch.Tensor) -> torch.Tensor:
        """One logit (n,) of both halves' (n,)."""
        return RULES[self.rule](pixels, sensitivity)

    @property
    def viewers(self) -> tuple[Network, ...]:
        return self.halves

    def view(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([half.view(x) for half in self.halves], 1)

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        return self.combined(*self.scores_of_halves(x, viewed))

    def scores_of_halves(
        self, x: torch.Tensor, viewed: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits (n,) of p- of the half on the pixels and of the one on the input
        sensitivity.
        """
        pixels, sensitivity = self.halves
        if pixels.net is None:
            raise InputError("This detector is not fitted yet: call fit, or load one.")
        seen = self.view(x) if viewed is None else viewed
        channels = pixels.net.mean.shape[1]
        return pixels.score(x, seen[:, :channels]), sensitivity.score(x, seen[:, channels:])

    def by_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) bool: whether the half on the pixels is the surer one, by the paper's rule; its
        rectifier follows the gradient of that half.
        """
        pixels, sensitivity = self.scores_of_halves(x)
        return pixels.abs() > sensitivity.abs()

    def state(self) -> dict[str, torch.Tensor]:
        """What `own_state` holds, and both halves' networks."""
        nets = {
            f"{place}.{name}": tensor
            for place, half in zip(("pixels", "sensitivity"), self.halves, strict=True)
            for name, tensor in half.state().items()
        }
        return nets | self.own_state()

    def own_state(self) -> dict[str, torch.Tensor]:
        """What is its own beside the halves: the threshold."""
        return super().state()

    def load(
        self,
        tensors: dict[str, torch.Tensor],
        shape: tuple[int, int, int] | None = None,
        recipe: Recipe | None = None,
    ) -> "GCD":
        """Take the kept tensors back: of `state`, for images of `shape` (c,h,w), or of `own_state`
        where the halves are there.
        """
        for place, half in zip(("pixels", "sensitivity"), self.halves, strict=True):
            its = {
                name.removeprefix(f"{place}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{place}.")
            }
            if its:
                half.load(its, shape, recipe)
        self._note_nets()
        return super().load(tensors)

    def _note_nets(self) -> None:
        """Its networks where all that a detector holds is looked for (`leaks.in_float64`)."""
        nets = [half.net for half in self.halves]
        self.nets = None if None in nets else nn.ModuleList(nets)


class StackedGCD(GCD):
    """A logistic regression on both halves' logits (stacked generalisation, Wolpert 1992), fitted
    on those of the training pairs that neither half was trained on: what both held back to choose
    their epoch.

    Where there are fewer than ENOUGH (a half was fitted again from another seed), the sum of both
    logits; the record's `stacked_on` says how many source images there were.
    """

    def __init__(self, classifier: nn.Module, **knobs: object) -> None:
        super().__init__(classifier, **knobs)
        self.weights = torch.tensor([1.0, 1.0, 0.0])  # of both logits, and the constant

    def combine(
        self,
        clean: torch.Tensor,
        adversarial: torch.Tensor,
        index: torch.Tensor,
        records: list[dict],
        *,
        index_adversarial: torch.Tensor | None = None,
        seed: int = 0,
    ) -> dict:
        own = super().combine(clean, adversarial, index, records)
        groups = torch.cat([index, index if index_adversarial is None else index_adversarial])
        held = torch.ones(len(groups), dtype=torch.bool, device=groups.device)
        for record in records:
            if not record["collapsed"]:  # which says the same of every row, seen or not
                its = held_back(groups, Training.validate, seed + 1000 * record["collapses"])
                held &= torch.zeros_like(held).index_fill(0, its, True)
        sources = len(groups[held].unique())
        self.weights = torch.tensor([1.0, 1.0, 0.0])
        if sources >= ENOUGH:
            x = torch.cat([clean, adversarial])[held]
            with torch.no_grad():
                halves = [torch.stack(self.scores_of_halves(part)) for part in x.split(256)]
            logits = torch.cat(halves, 1).T.double().numpy(force=True)
            y = (torch.arange(len(groups), device=held.device) >= len(clean))[held]
            weight, constant = logistic(logits, y.numpy(force=True))
            self.weights = torch.tensor([*weight, constant], dtype=torch.float32)
        return own | {"stacked_on": sources if sources >= ENOUGH else 0}

    def combined(self, pixels: torch.Tensor, sensitivity: torch.Tensor) -> torch.Tensor:
        a, b, constant = self.weights.to(pixels)
        return a * pixels + b * sensitivity + constant

    def own_state(self) -> dict[str, torch.Tensor]:
        return super().own_state() | {"weights": self.weights}

    def load(
        self,
        tensors: dict[str, torch.Tensor],
        shape: tuple[int, int, int] | None = None,
        recipe: Recipe | None = None,
    ) -> "StackedGCD":
        self.weights = tensors["weights"]
        return super().load(tensors, shape, recipe)


def with_rules(pixels: str, sensitivity: str) -> dict[str, Callable[..., GCD]]:
    """The paper's rule ("") and its rivals ("_mean", "_maximum", "_stacked") on these halves."""
    halves = {"pixels": pixels, "sensitivity": sensitivity}
    named = {f"_{rule}": partial(GCD, **halves, rule=rule) for rule in ("mean", "maximum")}
    return {"": partial(GCD, **halves), **named, "_stacked": partial(StackedGCD, **halves)}
