"""The leak controls of one detector: those that raise, then those that measure."""

from functools import partial

from nbutils.attacks import ATTACKS
from nbutils.data.images import Dataset
from nbutils.detectors.base import Detector
from nbutils.detectors.groups import TRAINED
from nbutils.evaluation import leaks
from nbutils.evaluation.controls import measured
from nbutils.steps.adversarial import AdversarialSet, adversarial
from nbutils.steps.classifier import Classifier, classifier
from nbutils.steps.detector import fitted, usable
from nbutils.steps.evaluation import held_out, once
from nbutils.steps.run import Memory, Run
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of


def controls(
    run: Run, name: str, attack: str, *, fpr: float = 0.05, **knobs: float | int | str | None
) -> dict:
    """The controls of the detector `name`, fitted on `attack`, on the test images and what it made
    of them.
    """
    usable(run, name)
    once(attack)
    found, artifact = fitted(run, name, attack, **knobs)
    pairs, base = adversarial(run, attack, "test", **knobs), classifier(run)
    parents = {"pairs": pairs.artifact, "classifier": base.artifact}
    return run.step(
        "controls",
        f"{name}-{pairs.artifact.path.name}",
        make_controls,
        {"data": run.data, "base": base, "found": found, "pairs": pairs, "memory": run.memory},
        {
            "detector": name,
            "trained": name in TRAINED,
            "collapsed": bool(artifact and artifact.record.get("collapsed", False)),
            "setting": pairs.setting,
            "fpr": fpr,
            "seed": run.seed,
        },
        known={"calibrate": key_of(run.data.calibrate.index), "test": run.data_key["test"]},
        parents=parents | ({"fit": artifact} if artifact else {}),
    ).record


def make_controls(
    parts: Parts,
    *,
    data: Dataset,
    base: Classifier,
    found: Detector,
    pairs: AdversarialSet,
    memory: Memory,
    detector: str,
    trained: bool,
    collapsed: bool,
    setting: dict,
    fpr: float,
    seed: int,
) -> tuple[dict, dict]:
    """No tensors; the measures of `controls.measured`, and of C&W `auroc_tanh`: its path with
    nothing to do.
    """
    n, more = len(pairs.x), {}
    held_out(data, base, pairs, memory)
    if trained:
        fit, test = data.train, data.test[:n]
        leaks.sources_disjoint(fit.index, pairs.index, fit.x, test.x)
    if "eps" in setting:  # an attack without a budget has no null case, and no ball to stay in
        knobs = pairs.knobs | {"eps": 0.0}
        if "steps" in knobs:
            knobs["steps"] = min(2, knobs["steps"])  # of no size: two are as good as many
        given = {"y": pairs.prediction, "index": pairs.index, "seed": seed, **knobs}
        nothing = partial(_attacked, setting["attack"], found.classifier, given)
        leaks.null_attack(found, nothing, pairs.x)
        leaks.attack_moves(pairs.x, pairs.x_adv, setting["eps"], setting.get("norm", "linf"))
    if setting["attack"] == "carlini_wagner_l2":
        more["auroc_tanh"] = leaks.null_tanh(found, pairs.x)
    right = base.test_logits.argmax(1).to(pairs.x.device) == data.test.y
    calibrate = data.calibrate.pixels()
    record = measured(
        found,
        pairs.x,
        pairs.x_adv,
        pairs.index,
        data.test,
        calibrate,
        right=right,
        collapsed=collapsed,
        fpr=fpr,
        seed=seed,
    )
    return {}, {**record, **more}


def _attacked(attack: str, model, given: dict, x):
    return ATTACKS[attack](model, x, **given)
