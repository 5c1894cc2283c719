"""Detectors behind one contract: `score(x) -> (n,)`, continuous, higher = adversarial. Adding one: a function or a file, and a line below."""

from collections.abc import Callable
from functools import partial

from torch import nn

from nbutils import InputError
from nbutils.detectors import inconsistency, network, scalars
from nbutils.detectors.base import Detector, scores, scores_of
from nbutils.detectors.network import Network, Others, others
from nbutils.detectors.scalars import Scalar
from nbutils.saliency import OUTPUTS

# Those that look through a learned saliency model; the last three are SPD's stand-ins, with a map that says nothing of the image.
LEARNED: dict[str, Callable] = {
    "smd": network.saliency_map,
    "spd": network.salient_pixels,
    "spd_shuffled": network.shuffled_pixels,
    "spd_constant": network.constant_pixels,
    "spd_random": network.random_pixels,
}
# JSD and its Jacobian alone ("jacobian"), in the readings of paper 002: what is derived, raw or scaled image by image, in float32 or float64.
READINGS: dict[str, dict] = {
    "_".join(["", *[of] * (of != "logit"), *["scaled"] * scaled, *["float64"] * double]): {"of": of, "scaled": scaled, "double": double}
    for of in OUTPUTS for double in (False, True)[:1 + (of != "logit")] for scaled in (False, True)
}
READING_NAMES = {reading: reading[1:] if reading not in ("", "_scaled") else f"logit{reading}" for reading in READINGS}
JACOBIANS: dict[str, Callable] = {
    f"{name}{reading}": partial(features, **knobs) if reading else features
    for name, features in (("jsd", network.image_and_jacobian), ("jacobian", network.jacobian)) for reading, knobs in READINGS.items()
}
# Stand-ins for JSD, that look at a bank (`Others`) in the Jacobian's place.
STAND_INS: dict[str, Callable] = {"jsd_shuffled": network.image_and_other, "jsd_random": network.image_and_other}
# Those that read the classifier's own layers, early and late (Metzen et al. 2017), or the first (paper 002, II.C).
LAYERS: dict[str, Callable] = {
    "metzen_early": partial(network.layer, depth=1 / 3),
    "metzen_late": partial(network.layer, depth=1.0),
    "first_layer": partial(network.layer, depth=0.0),
    "first_layer_jacobian": partial(network.layer, depth=0.0, with_jacobian=True),
}
OWN_ARCHITECTURE = {"metzen_early": "metzen_branch", "metzen_late": "metzen_branch"}
TRAINED: dict[str, Callable] = {"id": network.image, "n_plus_one": network.image, **JACOBIANS, **STAND_INS, **LAYERS, **LEARNED}
SCALARS: dict[str, Callable] = {
    "max_softmax": scalars.max_softmax,
    "margin": scalars.margin,
    "entropy": scalars.entropy,
    "gradient_norm": scalars.gradient_norm,
    "noise": scalars.noise,
}
DETECTORS: dict[str, Callable[..., Detector]] = {
    **{name: partial(Network, features=features, classes=name == "n_plus_one") for name, features in TRAINED.items()},
    **{name: partial(Scalar, function=scalar) for name, scalar in SCALARS.items()},
}


def build(name: str, classifier: nn.Module, through: nn.Module | None = None) -> Detector:
    """An unfitted detector by its name, guarding `classifier`; those of `LEARNED` look through a saliency model, `STAND_INS` into a bank."""
    if name not in DETECTORS:
        raise InputError(f"Detector {name!r} is unknown: choose one of {', '.join(DETECTORS)}.")
    if name not in (*LEARNED, *STAND_INS):
        return DETECTORS[name](classifier)
    if through is None:
        needed = "a learned saliency model: hand one over (nbutils.saliency.SaliencyModel)" if name in LEARNED else (
            "a bank of others' Jacobians: hand one over (nbutils.detectors.others)")
        raise InputError(f"Detector {name!r} looks through {needed}.")
    return DETECTORS[name](classifier, through=through)


__all__ = ["DETECTORS", "LAYERS", "LEARNED", "OWN_ARCHITECTURE", "READINGS", "READING_NAMES", "SCALARS", "STAND_INS", "TRAINED", "Detector",
           "Network", "Others", "Scalar", "build", "inconsistency", "others", "scores", "scores_of"]
