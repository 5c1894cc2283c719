"""Detectors that are fitted again: on what a white-box attack makes of them, or on half of the
images.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nbutils import InputError
from nbutils.adaptive.objectives import joint
from nbutils.adaptive.printed import alternating
from nbutils.adaptive.settings import budget
from nbutils.adaptive.surrogates import as_printed, surrogate
from nbutils.data.images import Images
from nbutils.detectors.base import Detector, scores, threshold_at
from nbutils.detectors.building import build, needs
from nbutils.detectors.groups import COMBINED, TRAINED
from nbutils.detectors.networks import Network, Recipe
from nbutils.models.training import Training
from nbutils.saliency.learned import SaliencyModel
from nbutils.steps.adversarial import AdversarialSet, adversarial, first_rows
from nbutils.steps.classifier import classifier
from nbutils.steps.detector import as_recipe, recipe_of
from nbutils.steps.run import Run
from nbutils.steps.saliency import learned_saliency
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

T_000 = 5  # rounds of paper 000's attack in its adversarial training
JUDGED_AT = 0.05  # false positives at the threshold that the attack is handed


def refitted(
    run: Run, name: str, fitted_on: str, *, rounds: int = 0, half: int | None = None
) -> tuple[Detector, Artifact]:
    """A network fitted on an attack, then again in each round on what paper 000's attack makes of
    the training images against its last state, beside all before it.

    Args:
        half: 0 or 1: on every other training image alone.
    """
    key = ("refitted", name, fitted_on, rounds, half)
    return run.memory.once(key, _refitted, run, name, fitted_on, rounds, half)


def _refitted(
    run: Run, name: str, fitted_on: str, rounds: int, half: int | None
) -> tuple[Detector, Artifact]:
    if name not in TRAINED or name in COMBINED:
        raise InputError(f"{name} is not one network: it cannot be fitted in rounds or on halves.")
    pairs, base = adversarial(run, fitted_on, "train"), classifier(run)
    through = learned_saliency(run) if needs(name) == "saliency" else None
    saliency = through.model if through else None
    settings = {**recipe_of(run, name, {}), "seed": run.seed, "detector": name}
    step = budget(run.data.name, pairs.x[0].numel())["step_000"]
    artifact = run.step(
        "refitted",
        "-".join([name, pairs.artifact.path.name, f"rounds{rounds}", f"half{half}"]),
        make_refitted,
        {
            "model": base.model,
            "pairs": pairs,
            "saliency": saliency,
            "calibrate": run.data.calibrate,
            "progress": run.progress,
        },
        {**settings, "rounds": rounds, "half": half, "step": step},
        known={"calibrate": key_of(run.data.calibrate.index)},
        parents={"pairs": pairs.artifact, "classifier": base.artifact}
        | ({"saliency": through.artifact} if through else {}),
    )
    made = build(name, base.model, saliency)
    return made.load(artifact.tensors, run.data.shape, as_recipe(settings)), artifact


def make_refitted(
    parts: Parts,
    *,
    model: nn.Module,
    pairs: AdversarialSet,
    saliency: SaliencyModel | None,
    calibrate: Images,
    progress: Callable,
    detector: str,
    seed: int,
    rounds: int,
    half: int | None,
    step: float,
    architecture: str,
    width: float,
    epochs: int,
    batch: int,
    optimizer: str,
) -> tuple[dict, dict]:
    """The detector's last state, and `passes`: the share of training images on which the attack of
    each round passed the state before it.
    """
    recipe = Recipe(architecture, Training(epochs, batch, optimizer), width)
    once = first_rows(pairs)
    place = {source: i for i, source in enumerate(pairs.index[once].tolist())}
    side = torch.tensor([place[source] % 2 for source in pairs.index.tolist()])
    chosen = torch.ones(len(side), dtype=torch.bool) if half is None else side == half
    clean_rows = once[chosen[once.cpu()].to(once.device)]
    x, index, labels = (part[clean_rows] for part in (pairs.x, pairs.index, pairs.prediction))
    rows = chosen.to(pairs.x.device)
    attacked, sources = [pairs.x_adv[rows]], [pairs.index[rows]]
    made, passes, records = build(detector, model, saliency), [], []
    for turn in range(rounds + 1):
        if turn:
            x_adv = _against(made, model, x, labels, index, calibrate, step, passes)
            attacked.append(x_adv)
            sources.append(index)
        copies = max(1, len(torch.cat(attacked)) // len(x))  # as many clean as attacked images
        records.append(
            made.fit(
                x.repeat(copies, 1, 1, 1),
                torch.cat(attacked),
                index.repeat(copies),
                recipe,
                index_adversarial=torch.cat(sources),
                seed=seed * 100 + 50 + turn,
                progress=partial(progress, what=f"fitting {detector}, round {turn}"),
            )
        )
    last = records[-1]
    record = {"passes": passes, "collapsed": last["collapsed"], "collapses": last["collapses"]}
    return made.state(), record | {"n": len(x)}


def _against(
    made: Network,
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    index: torch.Tensor,
    calibrate: Images,
    step: float,
    passes: list[float],
) -> torch.Tensor:
    """Paper 000's attack on training images; notes how many passed."""
    threshold = threshold_at(scores(made, calibrate.pixels()), JUDGED_AT)
    objective = joint(surrogate(made), threshold, seen=partial(as_printed, made))
    knobs = {"step": step, "rounds": T_000, "objective": objective}
    done = [
        alternating(model, x[part], labels[part], index=index[part].cpu(), **knobs)
        for part in torch.arange(len(x), device=x.device).split(100)
    ]
    x_adv = torch.cat(done)
    with torch.no_grad():
        wrong = torch.cat([model(part).argmax(1) for part in x_adv.split(256)]) != labels
    unseen = scores(made, x_adv) <= threshold
    passes.append((wrong & unseen).double().mean().item())
    return x_adv
