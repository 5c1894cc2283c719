"""The corridor: each step loads what is kept, or makes it and keeps it.

What is handed on walks one way.

Every step is a door, `step(run, ...)`, and behind it a function `make_<step>` that holds the whole
protocol and is, with all that it uses, its fingerprint.
"""

from nbutils.steps.adversarial import adversarial
from nbutils.steps.classifier import classifier
from nbutils.steps.consistency import consistency
from nbutils.steps.controls import controls
from nbutils.steps.density import density
from nbutils.steps.detector import detector
from nbutils.steps.evaluation import evaluation
from nbutils.steps.joining import join
from nbutils.steps.robust import robust
from nbutils.steps.saliency import learned_saliency, maps

STEPS = {
    "classifier": classifier,
    "adversarial": adversarial,
    "saliency": learned_saliency,
    "density": density,
    "detector": detector,
    "evaluation": evaluation,
    "controls": controls,
    "consistency": consistency,
    "robust": robust,
}

__all__ = ["STEPS", "join", "maps"]
