"""Scores that an attacker can derive: each detector's own, with a gradient where it has none.

A classifier of ReLUs is linear in pieces, so a gradient map does not move with the image, and what
looks at it has no gradient at all; rounding has none either; and TWS counts steps. Each surrogate
keeps the detector's own *value* wherever that can be had, and takes the *gradient* from something
smoother. Success is always judged by the detector itself.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import interpolate, softplus
from torch.overrides import TorchFunctionMode

from nbutils import InputError
from nbutils.detectors.base import Detector
from nbutils.detectors.consistency import TRANSFORMS, Consistency, GradCamConsistency, emphasised
from nbutils.detectors.gcd import GCD
from nbutils.detectors.networks import Network
from nbutils.detectors.squeezing import JOINT, SQUEEZERS, Squeezing, kind_of
from nbutils.detectors.tws import Tws
from nbutils.models.taps import scales, taps
from nbutils.saliency.grad_cam import grad_cam
from nbutils.saliency.gradients import logit
from nbutils.saliency.maps import between_0_and_1

SHARPNESS = 20.0  # of the softplus that stands in for a ReLU; 5 is too soft to follow its gradient
RELUS = (functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu)
RELUS += (torch.Tensor.relu_,)
OVER_ITS_INPUT = (functional.relu_, torch.relu_, torch.Tensor.relu_)
MOVED = ("jacobian", "sensitivity", "layer")  # in the names of views that hold a gradient map

Score = Callable[[torch.Tensor], torch.Tensor]


class Smooth(TorchFunctionMode):
    """While open, each ReLU is a softplus: the classifier then has a second derivative."""

    def __init__(self, sharpness: float = SHARPNESS) -> None:
        super().__init__()
        self.sharpness = sharpness

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in RELUS:
            return func(*args, **kwargs)
        if func in OVER_ITS_INPUT or kwargs.get("inplace") or any(args[1:]):
            return args[0].copy_(softplus(args[0].clone(), self.sharpness))
        return softplus(args[0], self.sharpness)


class Labelled(nn.Module):
    """A classifier that reads these images as labelled so: where it reads them otherwise, the
    label's logit is lifted over the largest, so that all derivatives of logits stay, and where it
    does not, the probabilities, too.
    """

    def __init__(self, body: nn.Module, labels: torch.Tensor) -> None:
        super().__init__()
        self.body, self.labels = body, labels
        self.training = body.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.body(x)
        label = self.labels[: len(x), None]  # of the first image alone, where a view asks for that
        held = logits.detach()
        top = held.amax(1, keepdim=True)
        lift = top - held.gather(1, label) + 1e-3 * (1 + top.abs())
        lift = lift.masked_fill(held.argmax(1, keepdim=True) == label, 0.0)
        return logits.scatter_add(1, label, lift)


def surrogate(
    detector: Detector,
    *,
    calibrate: torch.Tensor | None = None,
    sharpness: float = SHARPNESS,
    through_map: bool = True,
) -> Score:
    """A function x (n,c,h,w) -> (n,) with a gradient, for a detector that is fitted.

    - on pixels, layers, learned maps and distances: the score itself. The learned map is derived
      through its U-Net, whose gate is held at the class that the classifier finds.
    - on gradient maps: the true map goes in, its derivative is that of a copy of the classifier
      with softplus in place of ReLU.
    - on squeezed images (Athalye et al. 2018, BPDA): rounding and means count as the identity.
    - on an emphasised image (paper 003): through the map by the softplus copy, or with it held.
    - TWS: how far the image lies beyond clean ones by C1 itself (its noise is fixed) and by the
      lead in logits, which the steps of C2 grow with; this value is not TWS's own.

    Args:
        calibrate: clean images, needed for TWS.
        through_map: whether paper 003's map is derived too, or held constant.
    """
    if isinstance(detector, Tws):
        return _like_clean(detector, calibrate)
    if isinstance(detector, Consistency):
        return partial(_consistency, detector, sharpness, through_map)
    if isinstance(detector, GCD):
        return partial(_combined, detector, sharpness)
    if isinstance(detector, Network):
        return partial(_network, detector, sharpness)
    return detector.score


def is_exact(detector: Detector) -> bool:
    """Whether the surrogate's value is the detector's own score."""
    return not isinstance(detector, Tws)


def as_printed(detector: Detector, x: torch.Tensor) -> torch.Tensor:
    """The gradient (n,c,h,w) of the score with respect to what the detector *sees* (paper 000,
    algorithms 1 to 3): of a map repeated along the channels, of an image with its Jacobian the
    image's half.

    Raises:
        InputError: the detector is no network of its own view.
    """
    if not isinstance(detector, Network):
        raise InputError("Paper 000's attack is printed for networks: ID, JSD, SMD and SPD.")
    with torch.no_grad():
        seen = detector.view(x)
    seen = seen.detach().requires_grad_()
    with torch.enable_grad():
        score = detector.score(x, seen)
    found = torch.autograd.grad(score.sum(), seen)[0]
    if found.shape[2:] != x.shape[2:]:
        raise InputError("Paper 000's attack adds a gradient to the image: it needs its size.")
    return found[:, : x.shape[1]] if found.shape[1] >= x.shape[1] else found.expand_as(x)


def zero_gradients(score: Score, x: torch.Tensor) -> torch.Tensor:
    """(n,) bool: images at which the score has no gradient, or none that is finite: a sign that it
    is masked.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = score(x)
    if not value.requires_grad:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    slope = torch.autograd.grad(value.sum(), x, allow_unused=True)[0]
    slope = torch.zeros_like(x) if slope is None else slope
    size = slope.flatten(1).abs().amax(1)
    return (size == 0) | ~size.isfinite()


def _network(detector: Network, sharpness: float, x: torch.Tensor) -> torch.Tensor:
    return detector.score(x, _seen(detector, sharpness, x))


def _combined(detector: GCD, sharpness: float, x: torch.Tensor) -> torch.Tensor:
    halves = [half.score(x, _seen(half, sharpness, x)) for half in detector.halves]
    return detector.combined(*halves)


def _seen(detector: Network, sharpness: float, x: torch.Tensor) -> torch.Tensor | None:
    """The view's own value with the derivative of the smooth classifier's; None where the view can
    be derived as it is.
    """
    name = detector.view_name
    if name is None or not any(word in name for word in MOVED):
        return None
    if "layer" in name and "('with_jacobian', True)" not in name:
        return None
    with torch.no_grad():
        true = detector.view(x.detach())
        labels = detector.classifier(x).argmax(1)
    if not (x.requires_grad and torch.is_grad_enabled()):
        return true
    reads = detector.classifier
    if "sensitivity" not in name:  # which needs the probabilities of all classes
        reads = Labelled(reads, labels)
    with Smooth(sharpness):
        smooth = detector.looks_at(reads, x)
    return smooth + (true - smooth).detach()


def _consistency(
    detector: Consistency, sharpness: float, through_map: bool, x: torch.Tensor
) -> torch.Tensor:
    """The largest L1 distance between the softmaxes, as the detector's score."""
    before = detector.classifier(x).softmax(1)
    far = [
        (detector.classifier(changed).softmax(1) - before).abs().sum(1)
        for changed in _modified(detector, sharpness, through_map, x)
    ]
    return torch.stack(far).amax(0)


def _modified(
    detector: Consistency, sharpness: float, through_map: bool, x: torch.Tensor
) -> list[torch.Tensor]:
    if isinstance(detector, Squeezing):
        names = detector.squeezers or JOINT[kind_of(x)]
        return [x + (SQUEEZERS[name](x) - x).detach() for name in names]
    if not isinstance(detector, GradCamConsistency):
        raise InputError(f"No gradient is known for {type(detector).__name__}.")
    if not detector.theta:
        return [TRANSFORMS[detector.transform](x, detector.mean)]
    maps = between_0_and_1(grad_cam(detector.classifier, x, layer=detector.layer))
    if through_map and x.requires_grad and torch.is_grad_enabled():
        with Smooth(sharpness):
            smooth = between_0_and_1(_cam(detector.classifier, x, detector.layer))
        maps = smooth + (maps - smooth).detach()
    knobs = {"theta": detector.theta, "transform": detector.transform}
    return [emphasised(x, maps, detector.mean, emphasis=detector.emphasis, **knobs)]


def _cam(model: nn.Module, x: torch.Tensor, layer: str) -> torch.Tensor:
    """Grad-CAM with its graph kept."""
    if not layer:
        made = [
            name
            for name, _, module in scales(model, x[:1].detach(), every=True)
            if not any(word in type(module).__name__ for word in ("Pool", "Dropout"))
        ]
        layer = made[-1]
    with taps(model, [layer]) as found:
        logits = model(x)
        chosen = logit(logits, logits.argmax(1)).sum()
        slope = torch.autograd.grad(chosen, found[layer], create_graph=True)[0]
    cam = (slope.mean((2, 3), keepdim=True) * found[layer]).sum(1, keepdim=True)
    cam = cam.clamp_min(0)  # the map's own ReLU stays one: it has a derivative, and no scale
    return interpolate(cam, x.shape[2:], mode="bilinear")


def _like_clean(detector: Tws, calibrate: torch.Tensor | None) -> Score:
    if calibrate is None:
        raise InputError("TWS's surrogate compares with clean images: hand over `calibrate`.")
    with torch.no_grad():
        found = _signs(detector, calibrate)
    middle = found.median(0).values
    spread = (found.quantile(0.75, 0) - found.quantile(0.25, 0)).clamp_min(1e-6)

    def score(x: torch.Tensor) -> torch.Tensor:
        return ((_signs(detector, x) - middle) / spread).amax(1)

    return score


def _signs(detector: Tws, x: torch.Tensor) -> torch.Tensor:
    """(n,2): the lead in logits, which the steps to another label grow with, and C1."""
    before = detector.classifier(x)
    label = before.argmax(1)
    first, second = before.topk(2, 1).values.unbind(1)
    noisy = detector.classifier(x + _noise(detector, x))
    apart = noisy.double().softmax(1) - before.double().softmax(1)
    others = apart.scatter(1, label[:, None], 0.0)
    moved = (others.abs().sum(1) + others.sum(1).abs()).clamp_min(1e-30).log()
    return torch.stack([first - second, moved.to(first)], 1)


def _noise(detector: Tws, x: torch.Tensor) -> torch.Tensor:
    """The noise of C1, which is one picture of it for all images."""
    import numpy as np

    drawn = np.random.default_rng([detector.search.seed, 13]).standard_normal(x.shape[1:])
    return detector.search.sigma * torch.from_numpy(drawn).to(x)
