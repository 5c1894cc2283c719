"""The rivals of paper 004 that are no networks: Mahalanobis distances, fitted on training images,
and TWS, fitted on calibration images.
"""

from dataclasses import asdict, replace

from torch import nn

from nbutils import InputError
from nbutils.data.images import Images
from nbutils.detectors import DETECTORS
from nbutils.detectors.base import Detector
from nbutils.detectors.groups import MAHALANOBIS, TRAINED
from nbutils.detectors.mahalanobis import LayerDistances
from nbutils.detectors.tws import GREY, SEARCHES, Search
from nbutils.evaluation.controls import matched_noise
from nbutils.evaluation.leaks import score_sign
from nbutils.steps.adversarial import AdversarialSet, adversarial, first_rows
from nbutils.steps.classifier import classifier
from nbutils.steps.run import Memory, Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

STATISTICS = 10_000  # training images at most that class means and covariances are taken of
REFERENCE = 500  # calibration images at most that TWS compares with
QUICK_CAP = 200  # of C2u where two cores do it; the authors' is 1000


def rival(
    run: Run, name: str, attack: str = "", repetition: int = 0, variant: dict | None = None, **knobs
) -> tuple[Detector, Artifact]:
    """A detector of Mahalanobis distances or TWS, and its artifact; arguments as of
    `detector.fitted`.
    """
    if variant:
        raise InputError(f"{name} is no network: it has no variant {variant}.")
    if name not in MAHALANOBIS:
        return _tws(run, name)
    base, trained = classifier(run), name in TRAINED
    pairs = adversarial(run, attack, "train", **knobs) if trained else None
    words = [name, *([pairs.artifact.path.name, str(repetition)] if pairs else [])]
    settings = {"detector": name, "statistics": STATISTICS, "seed": run.seed}
    artifact = run.step(
        "detector",
        "-".join(words),
        make_mahalanobis,
        {"model": base.model, "train": run.data.train, "pairs": pairs, "memory": run.memory},
        settings | {"repetition": repetition if trained else 0},
        known={"train": run.data_key["train"]},
        parents={"classifier": base.artifact} | ({"pairs": pairs.artifact} if pairs else {}),
    )
    return DETECTORS[name](base.model).load(artifact.tensors), artifact


def make_mahalanobis(
    parts: Parts,
    *,
    model: nn.Module,
    train: Images,
    pairs: AdversarialSet | None,
    memory: Memory,
    detector: str,
    statistics: int,
    seed: int,
    repetition: int,
) -> tuple[dict, dict]:
    """Statistics from clean training images; the regression, where there is one, from pairs of
    training images and noise of the attack's size.
    """
    made, images = DETECTORS[detector](model), train[:statistics]
    key = ("gaussians", statistics, key_of(train.index))
    made.gaussians = memory.once(key, _learned, made, images)
    if pairs is None:
        record = made.fit(images.pixels(), images.y)
        return made.state(), record
    once = first_rows(pairs)
    noisy = matched_noise(pairs.x, pairs.x_adv, pairs.index, "gaussian", seed)
    images = pairs.x[once], pairs.x_adv, noisy
    measured = memory.once(
        ("distances", detector, pairs.artifact.content), made.measure, *images, most=1
    )
    record = made.fit(
        *images[:2],
        pairs.index[once],
        index_adversarial=pairs.index,
        noisy=noisy,
        seed=seed * 100 + repetition,
        measured=measured,
    )
    score_sign(made, *images[:2])
    return made.state(), record


def _learned(made: LayerDistances, images: Images) -> nn.ModuleList:
    return made.learn(images.pixels(), images.y)


def search_of(run: Run) -> Search:
    """TWS's knobs for the run's pictures; of `paper` the authors' caps."""
    found = SEARCHES.get(run.data.name, GREY)
    if run.parameters["PRESET"] != "paper":
        found = replace(found, cap_untargeted=QUICK_CAP)
    return replace(found, seed=run.seed)


def _tws(run: Run, name: str) -> tuple[Detector, Artifact]:
    base, search = classifier(run), search_of(run)
    artifact = run.step(
        "detector",
        name,
        make_tws,
        {"model": base.model, "clean": run.data.calibrate},
        {"detector": name, "reference": REFERENCE, "search": asdict(search)},
        known={"calibrate": key_of(run.data.calibrate.index)},
        parents={"classifier": base.artifact},
    )
    return DETECTORS[name](base.model).load(artifact.tensors), artifact


def make_tws(
    parts: Parts, *, model: nn.Module, clean: Images, detector: str, reference: int, search: dict
) -> tuple[dict, dict]:
    """Step sizes and ranks from calibration images, which the classifier was not trained on."""
    made = DETECTORS[detector](model, search=Search(**search))
    record = made.fit(clean[:reference].pixels())
    return made.state(), record
