"""Turning a weakness into a strength (Hu et al. 2019): attacked images lie apart by how much noise
moves the classifier's answer, and by how many gradient steps move it to another label.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.unfinished import unfinished
from nbutils.detectors.base import Detector

CRITERIA = ("noise", "targeted", "untargeted")
WANTED = (20, 60)  # the median of the steps of clean images that step sizes are chosen for
TUNED, TRIES = 64, 12  # clean images that a step size is chosen on, and attempts
LEAST = 1e-300  # of a distance, before its logarithm


@dataclass(frozen=True)
class Search:
    """The knobs of the three criteria, in [0,1] units of a pixel.

    Args:
        sigma: deviation of the noise (C1).
        targeted, untargeted: where the search for a step size begins (C2t, C2u): the step is this
            times the gradient, neither its sign nor its direction.
        radius, radius_untargeted: of the l-infinity ball that is not left.
        cap, cap_untargeted: steps at most.
        seed: of the noise, and of the label that an image is driven to.
    """

    sigma: float = 0.1
    targeted: float = 0.005
    radius: float = 0.5
    cap: int = 200
    untargeted: float = 1.0
    radius_untargeted: float = 1.0
    cap_untargeted: int = 1000
    seed: int = 0


# The authors' (detect.py, imagenet.sh) for CIFAR-10 and ImageNet; grey pictures, which they have
# not, take more noise.
COLOUR = Search(sigma=0.01, targeted=0.0005, untargeted=1.0)
PHOTOGRAPH = Search(targeted=0.005, radius=0.03, untargeted=0.1)
GREY = Search()
SEARCHES = {
    "digits": GREY,
    "mnist": GREY,
    "digits_rgb": COLOUR,
    "mnist_rgb": COLOUR,
    "cifar10": COLOUR,
    "cats_dogs": PHOTOGRAPH,
    "imagenet_subset": PHOTOGRAPH,
    "folder": PHOTOGRAPH,
}


class Tws(Detector):
    """Hu et al.'s detector: an image is suspicious that one of the criteria finds extreme.

    The score is the largest of its ranks among clean images, one a criterion, in [0,1]: an image is
    rejected when any criterion exceeds its threshold, and all thresholds have one false positive
    rate.

    Args:
        criteria: which of CRITERIA are asked. search: their knobs.
    """

    differentiable = False

    def __init__(
        self,
        classifier: nn.Module,
        *,
        criteria: Sequence[str] = CRITERIA,
        search: Search = GREY,
    ) -> None:
        super().__init__(classifier)
        for name in criteria:
            if name not in CRITERIA:
                raise InputError(
                    f"Criterion {name!r} is unknown: choose among {', '.join(CRITERIA)}."
                )
        self.criteria, self.search = tuple(criteria), search
        self.reference: torch.Tensor | None = None  # (m,c) of clean images, in order

    def fit(self, clean: torch.Tensor, *, tune: bool = True) -> dict:
        """Step sizes, and what the criteria say of clean images; no attack is seen.

        Args:
            clean: (n,c,h,w) images that the classifier was not trained on.
            tune: choose step sizes for which half of the first TUNED images leave their label
                within WANTED steps, beginning at those given, which stay where they do.
        Returns:
            record: the `search` that is used, medians of each criterion's values and the share of
            images that came to the `capped` end.
        """
        if not len(clean):
            raise InputError("TWS compares with clean images, and there are none: hand some over.")
        record: dict = {"n": len(clean), "collapses": 0, "collapsed": False}
        for kind in self.criteria if tune else ():
            if kind != "noise":
                self._tune(kind, clean[:TUNED])
        found = torch.cat([self.view(part) for part in clean.split(256)])
        self.reference = found.sort(0).values
        record["search"] = asdict(self.search)
        for i, kind in enumerate(self.criteria):
            record[f"median_{kind}"] = found[:, i].median().item()
            if kind != "noise":
                capped = found[:, i] >= self._cap(kind)
                record[f"capped_{kind}"] = capped.double().mean().item()
        return record

    def view(self, x: torch.Tensor) -> torch.Tensor:
        """(n,c): what each criterion says of each image, large = suspicious to the authors.

        "noise": the logarithm of the l1 distance between the softmaxes of the image and of it with
        noise. "targeted", "untargeted": the gradient steps until the label is left, with the share
        of the last step that lies before the border; where it was not left, the cap and, in (0,1),
        how far the label still leads.
        """
        with torch.no_grad():
            before = self.classifier(x)
        label = before.argmax(1)
        columns = {}
        if "noise" in self.criteria:
            columns["noise"] = self._noise(x, before, label)
        kinds = [kind for kind in ("untargeted", "targeted") if kind in self.criteria]
        if kinds:  # the longest first, so that the batch stays full
            jobs = [self._job(kind, x, label, before.shape[1]) for kind in kinds]
            knobs = [torch.cat(parts) for parts in zip(*jobs, strict=True)]
            count = steps_to_leave(self.classifier, x, label, *knobs)
            columns |= dict(zip(kinds, count.split(len(x)), strict=True))
        return torch.stack([columns[kind] for kind in self.criteria], 1)

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        ranks = self.ranks(self.view(x) if viewed is None else viewed)
        # of equal largest ranks the others decide
        return ranks.amax(1) + 1e-3 / len(self.reference) * ranks.mean(1)

    def ranks(self, viewed: torch.Tensor) -> torch.Tensor:
        """(n,c) in [0,1]: the share of clean images of a smaller value, in straight lines between
        them and the ends of the criterion's range.
        """
        if self.reference is None:
            raise InputError("This detector is not fitted yet: call fit, or load one.")
        columns = []
        for i, kind in enumerate(self.criteria):
            low, high = self._range(kind)
            inner = self.reference[:, i]
            knots = torch.cat([inner.new_tensor([low]), inner, inner.new_tensor([high])])
            value = viewed[:, i].to(knots).clamp(low, high).contiguous()
            place = torch.searchsorted(knots, value, right=True).clamp(1, len(knots) - 1)
            a, b = knots[place - 1], knots[place]
            share = torch.where(b > a, (value - a) / (b - a), 0.0)
            columns.append((place - 1 + share) / (len(knots) - 1))
        return torch.stack(columns, 1)

    def state(self) -> dict[str, torch.Tensor]:
        if self.reference is None:
            raise InputError("This detector is not fitted yet: there is nothing to keep.")
        knobs = torch.tensor([*asdict(self.search).values()], dtype=torch.float64)
        return {"reference": self.reference.contiguous(), "search": knobs} | super().state()

    def load(self, tensors: dict[str, torch.Tensor]) -> "Tws":
        kinds = {name: type(value) for name, value in asdict(self.search).items()}
        given = zip(kinds.items(), tensors["search"].tolist(), strict=True)
        self.search = Search(**{name: kind(value) for (name, kind), value in given})
        self.reference = tensors["reference"]
        return super().load(tensors)

    def _noise(self, x: torch.Tensor, before: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        drawn = np.random.default_rng([self.search.seed, 13]).standard_normal(x.shape[1:])
        with torch.no_grad():
            after = self.classifier(x + self.search.sigma * torch.from_numpy(drawn).to(x))
        apart = after.double().softmax(1) - before.double().softmax(1)
        # the label's own probability by the others': where the classifier is sure, it rounds to 1
        others = apart.scatter(1, label[:, None], 0.0)
        return (others.abs().sum(1) + others.sum(1).abs()).clamp_min(LEAST).log()

    def _job(self, kind: str, x: torch.Tensor, label: torch.Tensor, classes: int) -> tuple:
        """Of each image the label followed, the step, the radius and the cap: (n,) each."""
        aim = label if kind == "untargeted" else self._aim(x, label, classes)
        rate = -self.search.untargeted if kind == "untargeted" else self.search.targeted
        knobs = (rate, self._radius(kind), self._cap(kind))
        return aim, *(x.new_full((len(x),), value) for value in knobs)

    def _aim(self, x: torch.Tensor, label: torch.Tensor, classes: int) -> torch.Tensor:
        """Another label, drawn by the image's own 8-bit values, so neither by its batch nor its
        place.
        """
        values = (x.detach().float() * 255).round().long().flatten(1)
        rng = np.random.default_rng([self.search.seed, 16])
        weights = torch.from_numpy(rng.integers(2**40, size=values.shape[1])).to(x.device)
        drawn = (values * weights).sum(1).bitwise_right_shift(8)  # exact in any order
        return (label + 1 + drawn % (classes - 1)) % classes

    def _tune(self, kind: str, x: torch.Tensor) -> None:
        low, high = WANTED
        for _ in range(TRIES):
            short = replace(self.search, cap=high, cap_untargeted=high)
            tried = Tws(self.classifier, criteria=(kind,), search=short)
            middle = tried.view(x)[:, 0].median().item()
            if low <= middle <= high:
                return
            rate = getattr(self.search, kind)
            factor = 8 if middle > high else max(middle, 1) / ((low + high) / 2)
            self.search = replace(self.search, **{kind: float(f"{rate * factor:.2g}")})

    def _radius(self, kind: str) -> float:
        return self.search.radius if kind == "targeted" else self.search.radius_untargeted

    def _cap(self, kind: str) -> int:
        return self.search.cap if kind == "targeted" else self.search.cap_untargeted

    def _range(self, kind: str) -> tuple[float, float]:
        if kind == "noise":
            return float(np.log(LEAST)), float(np.log(2))
        return 0.0, self._cap(kind) + 1.0


def steps_to_leave(
    model: nn.Module,
    x: torch.Tensor,
    label: torch.Tensor,
    aim: torch.Tensor,
    rate: torch.Tensor,
    radius: torch.Tensor,
    cap: torch.Tensor,
) -> torch.Tensor:
    """(j,) gradient steps until an image is no longer read as `label`, for j = r n searches: r of
    each of n images.

    A step adds `rate` times the gradient of log p of `aim`, inside [0,1] and the l-infinity ball;
    one forward pass a step serves the test and the next step. At most n searches run at once; what
    is done leaves, and what waits takes its place.

    Args:
        x, label: (n,c,h,w), (n,). aim, rate, radius, cap: (j,), the first n of them for the images
            in their order, and so on; a negative rate moves away from `aim`.
    Returns:
        float64: the steps before the last, and the share of the last that lies before the border;
        or the cap, and l / (1 + l) of the lead l in logits that is left.
    """
    n, count = len(x), torch.empty(len(aim), dtype=torch.float64, device=x.device)
    rows, waiting = torch.arange(n, device=x.device), n
    steps, before = torch.zeros_like(rows), x.new_full((n,), torch.inf)
    now, low, high = x.detach(), *_bounds(x, rows, radius)
    while len(rows):
        now = now.requires_grad_()
        with torch.enable_grad():
            logits = model(now)
        lead = _lead(logits.detach(), label[rows % n])
        left = lead <= 0
        going = ~(left | (steps >= cap[rows]))
        if not going.all():
            done = ~going
            ended, last = lead[done].double(), before[done].double()
            share = last / (last - ended)  # of an image that is at a border already none
            crossed = steps[done] - 1 + torch.where(share.isfinite(), share, 1.0)
            stayed = cap[rows[done]].double() + ended / (1 + ended)
            count[rows[done]] = torch.where(left[done], crossed, stayed)
        rows, steps, before, low, high = (
            (part if going.all() else part[going]) for part in (rows, steps + 1, lead, low, high)
        )
        if len(rows):
            with torch.enable_grad():
                now, logits, going = unfinished(model, now, logits, going, 1)
            now = _stepped(now, logits, going, aim[rows], rate[rows])
            now = torch.minimum(torch.maximum(now, low), high)
        else:
            now = now.detach()[:0]
        room = min(n - len(rows), len(aim) - waiting)
        if room:
            more = torch.arange(waiting, waiting + room, device=x.device)
            waiting += room
            now, rows = torch.cat([now, x.detach()[more % n]]), torch.cat([rows, more])
            steps = torch.cat([steps, torch.zeros_like(more)])
            before = torch.cat([before, before.new_full((room,), torch.inf)])
            bounds = _bounds(x, more, radius)
            low, high = (torch.cat(pair) for pair in zip((low, high), bounds, strict=True))
    return count


def _lead(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """(n,) how far the label's logit lies above the largest other one."""
    others = logits.scatter(1, label[:, None], -torch.inf).amax(1)
    return logits.gather(1, label[:, None])[:, 0] - others


def _stepped(
    now: torch.Tensor,
    logits: torch.Tensor,
    going: torch.Tensor,
    aim: torch.Tensor,
    rate: torch.Tensor,
) -> torch.Tensor:
    """Those images of `now` that are `going`, each moved by `rate` times the gradient of log p of
    its `aim`.

    In the logits that gradient is onehot - p, whose own entry is taken as the sum of the others'
    p: where the classifier is sure, 1 - p rounds to 0.
    """
    others = logits.detach().softmax(1)[going].scatter(1, aim[:, None], 0.0)
    slope = (-others).scatter(1, aim[:, None], others.sum(1, keepdim=True)) * rate[:, None]
    weights = torch.zeros_like(logits)
    weights[going] = slope
    move = torch.autograd.grad(logits, now, weights)[0]
    moved = now.detach() + move
    return moved if going.all() else moved[going]


def _bounds(
    x: torch.Tensor, rows: torch.Tensor, radius: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the largest value that each pixel of these searches may take."""
    images, far = x.detach()[rows % len(x)], radius[rows].view(-1, 1, 1, 1)
    return (images - far).clamp_min(0), (images + far).clamp_max(1)
