"""What detectors look at, computed once for each set of images, whoever asks."""

from collections.abc import Sequence

import torch

from nbutils.detectors import base
from nbutils.detectors.base import Detector
from nbutils.steps.run import Memory
from nbutils.store.fingerprints import key_of

KEPT = 2**28  # values of views that are remembered, about: 1 GiB


def scores_of(memory: Memory, fits: Sequence[Detector], x: torch.Tensor) -> torch.Tensor:
    """As `base.scores_of`: (s,n) by s fits of one detector."""
    seen = viewed(memory, fits[0], x)
    if seen is None:
        return base.scores_of(fits, x)
    return base.scores_of(fits, seen, viewed=True)


def viewed(memory: Memory, made: Detector, x: torch.Tensor) -> torch.Tensor | None:
    """What the detector's `view` makes of the images; None where others could not use it.

    Detectors with the same view (readings, rules, fits of one detector) share it, and so do the
    halves of GCD with those detectors that they are.
    """
    names = [viewer.view_name for viewer in made.viewers]
    if None in names or not len(x):
        return None
    most, images = max(1, KEPT // x.numel()), key_of(x)
    found = [
        memory.once(("view", name, images), viewer.view_all, x, most=most)
        for name, viewer in zip(names, made.viewers, strict=True)
    ]
    return torch.cat(found, 1) if len(found) > 1 else found[0]
