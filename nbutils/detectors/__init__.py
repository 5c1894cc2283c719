"""Detectors behind one contract: `score(x) -> (n,)`, continuous, higher = adversarial. Adding one: a function or a file, and a line below."""

from collections.abc import Callable

from nbutils import InputError
from nbutils.detectors import scalars
from nbutils.detectors.base import Detector, scores, scores_of
from nbutils.detectors.network import Network, image, image_and_jacobian
from nbutils.detectors.scalars import Scalar

TRAINED: dict[str, Callable] = {"id": image, "jsd": image_and_jacobian}
SCALARS: dict[str, Callable] = {
    "max_softmax": scalars.max_softmax,
    "margin": scalars.margin,
    "entropy": scalars.entropy,
    "gradient_norm": scalars.gradient_norm,
    "noise": scalars.noise,
}
DETECTORS: dict[str, Callable[..., Detector]] = {
    **{name: (lambda classifier, features=features: Network(classifier, features)) for name, features in TRAINED.items()},
    **{name: (lambda classifier, scalar=scalar: Scalar(classifier, scalar)) for name, scalar in SCALARS.items()},
}


def build(name: str, classifier) -> Detector:
    """An unfitted detector by its name, guarding `classifier`."""
    if name not in DETECTORS:
        raise InputError(f"Detector {name!r} is unknown: choose one of {', '.join(DETECTORS)}.")
    return DETECTORS[name](classifier)


__all__ = ["DETECTORS", "SCALARS", "TRAINED", "Detector", "Network", "Scalar", "build", "scores", "scores_of"]
