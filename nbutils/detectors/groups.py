"""The detectors' names by kind."""

from nbutils.detectors import DETECTORS, READINGS
from nbutils.detectors.building import needs
from nbutils.detectors.consistency import Consistency
from nbutils.detectors.mahalanobis import LayerDistances, UnsupervisedMahalanobis
from nbutils.detectors.networks import Network
from nbutils.detectors.scalars import Scalar
from nbutils.detectors.tws import Tws

TRAINED = [name for name, entry in DETECTORS.items() if entry.func.trained]
LEARNED = [name for name in DETECTORS if needs(name) == "saliency"]
STAND_INS = [name for name in DETECTORS if needs(name) == "bank"]
LAYERS = ["metzen_early", "metzen_late", "first_layer", "first_layer_jacobian"]
SCALARS = [name for name, entry in DETECTORS.items() if entry.func is Scalar]
CONSISTENCY = [name for name, entry in DETECTORS.items() if issubclass(entry.func, Consistency)]
NETWORKS = [name for name, entry in DETECTORS.items() if entry.func is Network]
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
