"""How well a detector finds an attack on test images: scores kept image by image, measures with
intervals.
"""

from functools import partial

import torch

from nbutils import InputError
from nbutils.data.images import Dataset, Images
from nbutils.detectors.base import Detector
from nbutils.detectors.groups import TRAINED
from nbutils.evaluation import leaks, metrics
from nbutils.models.contract import predict
from nbutils.steps import viewing
from nbutils.steps.adversarial import AdversarialSet, adversarial
from nbutils.steps.classifier import Classifier, classifier
from nbutils.steps.detector import fitted, usable
from nbutils.steps.run import Memory, Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of


def evaluation(
    run: Run,
    name: str,
    fit_attack: str,
    test_attack: str,
    *,
    fits: int | None = None,
    fit_knobs: dict | None = None,
    variant: dict | None = None,
    **knobs: float | int | str | None,
) -> Artifact:
    """Detector `name`, fitted on `fit_attack` (unused where nothing is fitted), on the test images
    and what `test_attack` made of them.

    Args:
        fits: detectors fitted, each with a seed of its own (None: as many as the preset says).
        fit_knobs, knobs: knobs changed in the two attacks.
        variant: as of `detector`.
    Returns:
        an artifact with per-image scores `clean`, `adversarial` (fits, n), `calibrate` (fits, m)
        and the record of `metrics.evaluate`.
    """
    usable(run, name)
    once(test_attack)
    trained = name in TRAINED
    fits = (run.preset["detector_seeds"] if fits is None else fits) if trained else 1
    pairs = adversarial(run, test_attack, "test", **knobs)
    changed = {knob: value for knob, value in (fit_knobs or {}).items() if value is not None}
    found = [fitted(run, name, fit_attack, i, variant=variant, **changed) for i in range(fits)]
    words = [
        name,
        *([fit_attack] if trained else []),
        *(f"{knob}{value}" for knob, value in changed.items()),
        *(f"{field}{value}" for field, value in (variant or {}).items()),
        f"on-{pairs.artifact.path.name}-x{fits}",
    ]
    artifacts = [artifact for _, artifact in found if artifact]
    return run.step(
        "evaluation",
        "-".join(words),
        make_evaluation,
        {
            "data": run.data,
            "base": classifier(run),
            "pairs": pairs,
            "detectors": [made for made, _ in found],
            "contents": (name, *(artifact.content for artifact in artifacts)),
            "memory": run.memory,
        },
        {
            "detector": name,
            "trained": trained,
            "seed": run.seed,
            "collapses": sum(artifact.record.get("collapses", 0) for artifact in artifacts),
            "collapsed": sum(artifact.record.get("collapsed", 0) for artifact in artifacts),
        },
        known={"calibrate": key_of(run.data.calibrate.index)},
        parents={
            "pairs": pairs.artifact,
            "classifier": classifier(run).artifact,
            **{f"fit {i}": artifact for i, artifact in enumerate(artifacts)},
        },
    )


def make_evaluation(
    parts: Parts,
    *,
    data: Dataset,
    base: Classifier,
    pairs: AdversarialSet,
    detectors: list[Detector],
    contents: tuple,
    memory: Memory,
    detector: str,
    trained: bool,
    seed: int,
    collapses: int,
    collapsed: int,
) -> tuple[dict, dict]:
    """Scores of clean and attacked test images, and of the calibration images, which fix the
    thresholds.

    Clean images of both kinds are scored once for all attacks, which all start from the same
    images.
    """
    if trained:
        leaks.sources_disjoint(data.train.index, pairs.index)
    held_out(data, base, pairs, memory)
    scored = partial(viewing.scores_of, memory)
    tensors = {
        "clean": memory.once(("clean", contents), scored, detectors, pairs.x),
        "calibrate": memory.once(
            ("calibrate", contents), scored, detectors, data.calibrate.pixels()
        ),
        "adversarial": scored(detectors, pairs.x_adv),
    }
    decision = detectors[0].own_threshold
    record = metrics.evaluate(**tensors, success=pairs.success, decision=decision, seed=seed)
    record |= {"collapses": collapses, "collapsed": collapsed}
    return {**tensors, "index": pairs.index}, record


def held_out(data: Dataset, base: Classifier, pairs: AdversarialSet, memory: Memory) -> None:
    """Thresholds come from images that are not tested, and that the classifier does not know."""
    leaks.sources_disjoint(data.calibrate.index, pairs.index)
    right = memory.once(("calibration",), _read_rightly, base, data.calibrate)
    leaks.calibration_held_out(right, base.test_logits.argmax(1) == data.test.y.cpu())


def _read_rightly(base: Classifier, images: Images) -> torch.Tensor:
    return (predict(base.model, images.x).argmax(1) == images.y).cpu()


def once(attack: str) -> None:
    """Refuse a mixture that holds each test image several times."""
    if "&" in attack:
        raise InputError(
            f"{attack!r} holds each test image several times, and no interval would be right: "
            f"test on {attack.replace('&', '+')!r}."
        )
