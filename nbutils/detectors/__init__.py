"""Detectors behind one contract: `score(x) -> (n,)`, continuous, higher = adversarial. Adding one: a function or a file, and a line below."""

from collections.abc import Callable
from functools import partial

from torch import nn

from nbutils import InputError
from nbutils.detectors import network, scalars
from nbutils.detectors.base import Detector, scores, scores_of
from nbutils.detectors.network import Network
from nbutils.detectors.scalars import Scalar

# Those that look through a learned saliency model; the last three are SPD's stand-ins, with a map that says nothing of the image.
LEARNED: dict[str, Callable] = {
    "smd": network.saliency_map,
    "spd": network.salient_pixels,
    "spd_shuffled": network.shuffled_pixels,
    "spd_constant": network.constant_pixels,
    "spd_random": network.random_pixels,
}
TRAINED: dict[str, Callable] = {"id": network.image, "jsd": network.image_and_jacobian, "jacobian": network.jacobian, **LEARNED}
SCALARS: dict[str, Callable] = {
    "max_softmax": scalars.max_softmax,
    "margin": scalars.margin,
    "entropy": scalars.entropy,
    "gradient_norm": scalars.gradient_norm,
    "noise": scalars.noise,
}
DETECTORS: dict[str, Callable[..., Detector]] = {
    **{name: partial(Network, features=features) for name, features in TRAINED.items()},
    **{name: partial(Scalar, function=scalar) for name, scalar in SCALARS.items()},
}


def build(name: str, classifier: nn.Module, saliency: nn.Module | None = None) -> Detector:
    """An unfitted detector by its name, guarding `classifier`; those of `LEARNED` look through the model `saliency`."""
    if name not in DETECTORS:
        raise InputError(f"Detector {name!r} is unknown: choose one of {', '.join(DETECTORS)}.")
    if name not in LEARNED:
        return DETECTORS[name](classifier)
    if saliency is None:
        raise InputError(f"Detector {name!r} looks through a learned saliency model: hand one over (nbutils.saliency.SaliencyModel).")
    return DETECTORS[name](classifier, through=saliency)


__all__ = ["DETECTORS", "LEARNED", "SCALARS", "TRAINED", "Detector", "Network", "Scalar", "build", "scores", "scores_of"]
