"""Does saliency detect adversarial examples? The module under the notebooks: data, classifier, attacks, saliency, detectors, evaluation."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Something that the user can put right; the message is one sentence that says what and how."""
