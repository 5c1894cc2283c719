"""Detectors that are a small classifier of clean against attacked: on the image (ID), on image and
Jacobian (JSD), on the classifier's own layers, on the learned saliency map (SMD), on the salient
pixels (SPD).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from nbutils import InputError
from nbutils.detectors.base import Detector, scores
from nbutils.models import training
from nbutils.models.building import build, start_from
from nbutils.models.contract import predict
from nbutils.models.training import Training
from nbutils.store.artifacts import Parts

View = Callable[[nn.Module, torch.Tensor], torch.Tensor]
RETRIES = 3  # fits, each from a seed of its own, before a collapse is reported


@dataclass(frozen=True)
class Recipe:
    """The network that a detector becomes, and how it is trained.

    Args:
        architecture: one of ARCHITECTURES. width: factor on its numbers of filters.
    """

    architecture: str
    training: Training
    width: float = 1.0


class Network(Detector):
    """A network of two outputs on `view(through, x)`; the score is the logit of adversarial minus
    that of clean.
    """

    trained, own_threshold = True, 0.0

    def __init__(
        self,
        classifier: nn.Module,
        *,
        view: View,
        needs: str = "",
        through: nn.Module | None = None,
        classes: bool = False,
    ) -> None:
        """
        Args:
            view: what it looks at, computed through the classifier or through what it `needs`:
                "saliency", a learned saliency model, or "bank", others' Jacobians.
            through: that model.
            classes: clean images are not one kind but as many as the classifier finds in them
                ("N+1", Grosse et al. 2017); the score is then the logit of adversarial minus the
                largest of the others.
        """
        super().__init__(classifier)
        self.looks_at, self.needs, self.through = view, needs, through
        self.classes, self.net = classes, None

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
        viewed: tuple[torch.Tensor, torch.Tensor] | None = None,
        parts: Parts | None = None,
        progress: Callable = iter,
    ) -> dict:
        """Train on clean and adversarial images; those of one source stay together in the
        validation split.

        Inputs are normalised by the mean and deviation of each channel over the training views. A
        fit that ends in one answer for everything (a collapse) is repeated with another seed, up to
        RETRIES times.

        Args:
            index, index_adversarial: (n,) the source of each clean image, and of each adversarial
                one where they are not pairs, row by row.
            start: a network of this architecture whose weights it starts from where they fit, at a
                tenth of the learning rate.
            viewed: what `view` gave for both, where it is known already.
        Returns:
            the record of `training.fit`, and `collapses`: how many fits ended so.
        """
        x = torch.cat(viewed or [self.view_all(clean), self.view_all(adversarial)])
        outputs = self._outputs(clean[:1])
        y = (
            predict(self.classifier, clean).argmax(1)
            if self.classes
            else torch.zeros(len(clean), dtype=torch.long, device=x.device)
        )
        y = torch.cat([y, y.new_full((len(adversarial),), outputs - 1)])
        groups = torch.cat([index, index if index_adversarial is None else index_adversarial])
        if len(groups) != len(x):
            raise InputError(
                f"index_adversarial must name the source of each of the {len(adversarial)} "
                "adversarial images."
            )
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).clamp_min(1e-8).tolist()
        for collapses in range(RETRIES):
            use = seed + 1000 * collapses
            self.net = build(
                recipe.architecture,
                tuple(x.shape[1:]),
                outputs,
                mean=mean,
                std=std,
                width=recipe.width,
                seed=use,
            ).to(x.device)
            how = recipe.training
            if start is not None and start_from(self.net, start):
                how = replace(how, lr=how.lr / 10)
            record = training.fit(
                self.net, x, y, how, groups=groups, seed=use, parts=parts, progress=progress
            )
            self.net.to(memory_format=torch.channels_last)  # scores faster on a CPU
            if self.classes:  # it may tell the classes apart, and clean from attacked not at all
                record["collapsed"] |= len((scores(self, x, viewed=True) > 0).unique()) == 1
            if not record["collapsed"]:
                return {**record, "collapses": collapses}
        return {**record, "collapses": RETRIES}

    @torch.no_grad()
    def _outputs(self, x: torch.Tensor) -> int:
        return self.classifier(x).shape[1] + 1 if self.classes else 2

    @property
    def view_name(self) -> str | None:
        """Of a view of the classifier: the function with its knobs."""
        if self.needs:
            return None
        function, knobs = getattr(self.looks_at, "func", self.looks_at), {}
        knobs = getattr(self.looks_at, "keywords", knobs)
        return f"{function.__module__}.{function.__qualname__} {sorted(knobs.items())}"

    def view(self, x: torch.Tensor) -> torch.Tensor:
        return self.looks_at(self.through if self.needs else self.classifier, x)

    @torch.no_grad()
    def view_all(self, x: torch.Tensor) -> torch.Tensor:
        """`view` in batches, without a graph."""
        return torch.cat([self.view(part).detach() for part in x.split(256)])

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        if self.net is None:
            raise InputError("This detector is not fitted yet: call fit, or load one.")
        logits = self.net(self.view(x) if viewed is None else viewed)
        return logits[:, -1] - logits[:, :-1].amax(1)

    def state(self) -> dict[str, torch.Tensor]:
        if self.net is None:
            raise InputError("This detector is not fitted yet: there is nothing to keep.")
        net = {f"net.{name}": tensor.contiguous() for name, tensor in self.net.state_dict().items()}
        return net | super().state()

    def load(
        self, tensors: dict[str, torch.Tensor], shape: tuple[int, int, int], recipe: Recipe
    ) -> "Network":
        """Take the kept tensors back, for images of `shape` (c,h,w)."""
        state = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
        blank = torch.zeros(2, *shape, device=self.device)
        mean, std = ([fill] * state["mean"].shape[1] for fill in (0.0, 1.0))
        viewed, outputs = tuple(self.view(blank).shape[1:]), self._outputs(blank)
        self.net = build(
            recipe.architecture, viewed, outputs, mean=mean, std=std, width=recipe.width
        )
        self.net.load_state_dict(state)
        self.net.to(self.device, memory_format=torch.channels_last)  # as after fit
        return super().load(tensors)
