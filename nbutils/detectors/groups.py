"""The detectors' names by kind."""

from nbutils.detectors import DETECTORS, READINGS
from nbutils.detectors.building import needs
from nbutils.detectors.consistency import Consistency
from nbutils.detectors.gcd import GCD
from nbutils.detectors.mahalanobis import LayerDistances, UnsupervisedMahalanobis
from nbutils.detectors.pixel_defend import PixelDefend
from nbutils.detectors.scalars import Scalar
from nbutils.detectors.tws import Tws

TRAINED = [name for name, entry in DETECTORS.items() if entry.func.trained]
LEARNED = [name for name in DETECTORS if needs(name) == "saliency"]
STAND_INS = [name for name in DETECTORS if needs(name) == "bank"]
LAYERS = ["metzen_early", "metzen_late", "first_layer", "first_layer_jacobian"]
COMBINED = {  # name -> those of its two halves
    name: (entry.keywords["pixels"], entry.keywords["sensitivity"])
    for name, entry in DETECTORS.items()
    if issubclass(entry.func, GCD)
}
OF_004 = ["input_sensitivity", "dist_z"]  # the scalars that paper 004 names
SCALARS = [name for name, entry in DETECTORS.items() if entry.func is Scalar and name not in OF_004]
# What says how unsure the classifier is: a detector that ranks images as one of these do is no more
# than a confidence detector. (`gradient_norm` is log ||G||, `input_sensitivity` ||G||.)
CONFIDENCE = ["max_softmax", "margin", "entropy", "input_sensitivity", "gradient_norm", "dist_z"]
CONSISTENCY = [name for name, entry in DETECTORS.items() if issubclass(entry.func, Consistency)]
DENSITY = [name for name, entry in DETECTORS.items() if entry.func is PixelDefend]
MAHALANOBIS = [name for name, entry in DETECTORS.items() if issubclass(entry.func, LayerDistances)]
TWS = [name for name, entry in DETECTORS.items() if entry.func is Tws]
# Fitted on clean images alone, and all that are fitted at all.
ON_CLEAN = [
    name for name, entry in DETECTORS.items() if entry.func in (UnsupervisedMahalanobis, Tws)
]
FITTED = [*TRAINED, *ON_CLEAN]
# The readings of the Jacobian by the names that a notebook shows and takes.
READING_NAMES = {
    reading: reading[1:] if reading not in ("", "_scaled") else f"logit{reading}"
    for reading in READINGS
}
