"""The whole defence of paper 004 under attack: detect, rectify what was flagged, read it again."""

import torch
from torch import nn

from nbutils.adaptive.pipeline import Pipeline
from nbutils.adaptive.settings import budget
from nbutils.adaptive.surrogates import surrogate
from nbutils.attacks import ATTACKS
from nbutils.attacks.objective import lead
from nbutils.data.images import Dataset
from nbutils.detectors.base import scores, threshold_at
from nbutils.detectors.gcd import GCD
from nbutils.steps.adversarial import AdversarialSet, adversarial
from nbutils.steps.classifier import Classifier, classifier
from nbutils.steps.detector import fitted
from nbutils.steps.evaluation import held_out
from nbutils.steps.rectifier import alpha_of, draw_seed, tuned
from nbutils.steps.run import Memory, Run
from nbutils.steps.white_box import BASE, white_box
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

FPR = 0.05  # at which images are flagged
DRAWS = 4  # of the rectifier's noise that the attacker takes the mean of
READ = 5  # draws of noise, unknown to the attacker, that an image is read with


def end_to_end(run: Run, fitted_on: str, guide: str) -> Artifact:
    """What the whole defence reads of clean images, of PGD that knows the classifier, of attacks
    that want to be unseen (the game "linf"), and of who attacks the pipeline itself: the best, by
    draws of his own, of PGD on it, from the image and from a random start, and of the first PGD.

    Returns:
        an artifact with `right.<who>` and `flagged.<who>` (n,): the share of READ draws in which an
        image is read as its true label, and whether it was flagged; who is one of clean, plain,
        unseen, pipeline.
    """
    pairs, base = adversarial(run, BASE), classifier(run)
    detector, artifact = fitted(run, guide, fitted_on)
    reader = tuned(run, fitted_on, "gcd", guide=guide)
    plain, unseen = (white_box(run, guide, game, fitted_on) for game in ("plain", "linf"))
    return run.step(
        "end_to_end",
        "-".join([guide, fitted_on, f"n{len(plain.x)}"]),
        make_end_to_end,
        {
            "data": run.data,
            "base": base,
            "pairs": pairs,
            "detector": detector,
            "reader": reader.model,
            "memory": run.memory,
            "plain": plain.x_adv,
            "unseen": unseen.x_adv,
        },
        {
            "n": len(plain.x),
            "seed": run.seed,
            "alpha": alpha_of(run, fitted_on),
            "steps": run.preset["white_box_steps"],
        },
        known={
            "calibrate": key_of(run.data.calibrate.index),
            "attacked": key_of(plain.x_adv, unseen.x_adv),
        },
        parents={
            "pairs": pairs.artifact,
            "classifier": base.artifact,
            "guide": artifact,
            "reader": reader.artifact,
        },
    )


def make_end_to_end(
    parts: Parts,
    *,
    data: Dataset,
    base: Classifier,
    pairs: AdversarialSet,
    detector: GCD,
    reader: nn.Module,
    memory: Memory,
    plain: torch.Tensor,
    unseen: torch.Tensor,
    n: int,
    seed: int,
    alpha: float,
    steps: int,
) -> tuple[dict, dict]:
    """Images of each attacker, read by the pipeline with noise that none of them knew."""
    held_out(data, base, pairs, memory)
    x, y, index = pairs.x[:n], pairs.prediction[:n], pairs.index[:n]
    threshold = threshold_at(scores(detector, data.calibrate.pixels()), FPR)
    shared = (base.model, reader, detector, surrogate(detector), threshold)
    whole = Pipeline(*shared, alpha=alpha, draws=DRAWS, seed=draw_seed(seed, 0, 1000))
    eps = budget(data.name, x[0].numel())["eps"]
    knobs = {"eps": eps, "step": eps / 4, "steps": steps, "index": index.cpu(), "seed": seed}
    tried = [plain]  # who knows the pipeline can do what others do
    for start in (False, True):
        tried.append(ATTACKS["pgd"](whole, x, y, random_start=start, **knobs))
    with torch.no_grad():  # by noise of the attacker's own
        leads = torch.stack([lead(whole(images), images, y, False) for images in tried])
    made = torch.stack(tried)[leads.argmax(0), torch.arange(n, device=x.device)]
    tensors = {}
    kinds = {"clean": x, "plain": plain, "unseen": unseen, "pipeline": made}
    for who, images in kinds.items():
        right = torch.zeros(n, dtype=torch.float64, device=x.device)
        for draw in range(READ):
            one = Pipeline(*shared, alpha=alpha, draws=1, seed=draw_seed(seed, 1, draw))
            with torch.no_grad():
                right += (one(images).argmax(1) == pairs.y[:n]).double() / READ
        tensors[f"right.{who}"], tensors[f"flagged.{who}"] = right, whole.flags(images)
    return {**tensors, "x_adv": made}, {"n": n, "alpha": alpha, "steps": steps}
