"""The run's classifier, trained on against attacks: the robust networks of paper 004's table 5."""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks import ATTACKS
from nbutils.attacks.geometry import l2_norm
from nbutils.attacks.settings import settings_for
from nbutils.data.images import Dataset
from nbutils.models import contract
from nbutils.models import robust as training
from nbutils.models.robust import AdversarialTraining
from nbutils.steps.classifier import (
    Derived,
    as_committed,
    classifier,
    committed_network,
    copied,
    derived,
)
from nbutils.steps.run import Run
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of

KINDS = ("pgd", "ddn")
JUDGED = 500  # test images whose accuracy under PGD is told
PGD_STEPS = 20  # of that PGD
MADRY = 0.3  # paper's own size on grey pictures; others as in the attacks' settings
RONY = {1: (2.4, 784), 3: (1.0, 3072)}  # by channels: the l2 size, and of how many values


def robust(run: Run, kind: str) -> Derived:
    """The classifier of this run, trained on against PGD ("pgd", Madry et al. 2018) or DDN ("ddn",
    Rony et al. 2019): the committed one, else trained here.

    Returns:
        in its record `accuracy` on the `n` clean test images, `accuracy_pgd` on `n_pgd` of them
        under PGD, and the plain classifier's beside it (`plain`, `plain_pgd`).
    """
    return run.memory.once(("robust", kind), _robust, run, kind)


def _robust(run: Run, kind: str) -> Derived:
    if kind not in KINDS:
        raise InputError(f"Robust network {kind!r} is unknown: choose one of {', '.join(KINDS)}.")
    base, how = classifier(run), recipe(run, kind)
    settings = {"kind": kind, "seed": run.seed, "train": run.preset["robust_train"]}
    settings["how"] = asdict(how)
    known = {"data": run.data_key, "classifier": key_of(base.model.state_dict())}
    found = committed_network(run, f"robust-{kind}", {**settings, **known})
    known["committed"] = bool(found)
    made = run.step(
        "robust",
        kind,
        make_robust,
        {
            "model": copied(base.model),
            "base": base.model,
            "data": run.data,
            "eps": settings_for(run.data.name)["004.pgd"]["eps"],
            "committed": found,
            "progress": run.progress,
        },
        settings,
        known=known,
        parents={"classifier": base.artifact},
    )
    return derived(run, made)


def recipe(run: Run, kind: str) -> AdversarialTraining:
    """The recipe for the run's pictures at its preset: sizes as the run's own attacks have them, of
    `paper` as the papers that the training is from.
    """
    channels, height, width = run.data.shape
    preset = run.preset
    common = {"epochs": preset["robust_epochs"], "warm": min(1, preset["robust_epochs"] - 1)}
    if kind == "ddn":
        size, values = RONY[channels]
        size *= math.sqrt(channels * height * width / values)
        return AdversarialTraining("ddn", size, preset["robust_ddn_steps"], **common)
    eps = settings_for(run.data.name)["004.pgd"]["eps"]
    if run.parameters["PRESET"] == "paper" and channels == 1:
        eps = MADRY
    return AdversarialTraining("pgd", eps, preset["robust_steps"], **common)


def attacked(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    how: AdversarialTraining,
    index: torch.Tensor,
    seed: int,
    share: float = 1.0,
) -> torch.Tensor:
    """Images (n,c,h,w) attacked away from their true labels, within `share` of the recipe's size.

    The model is in eval mode meanwhile, and left as it was.
    """
    size, was = how.size * share, model.training
    knobs = {"steps": how.steps, "index": index, "seed": seed}
    if how.attack == "pgd":
        knobs |= {"eps": size, "step": how.step * size}
    elif how.attack != "ddn":
        raise InputError(f"Adversarial training with {how.attack!r} is unknown: choose pgd or ddn.")
    model.eval()
    x_adv = ATTACKS[how.attack](model, x, y, **knobs)
    model.train(was)
    if how.attack == "pgd":
        return x_adv
    delta = x_adv - x
    longer = l2_norm(delta).clamp_min(1e-12)
    return x + delta * (size / longer).clamp(max=1)


def make_robust(
    parts: Parts,
    *,
    model: nn.Module,
    base: nn.Module,
    data: Dataset,
    eps: float,
    committed: tuple | None,
    progress: Callable,
    kind: str,
    seed: int,
    train: int,
    how: dict,
) -> tuple[dict, dict]:
    """The weights after adversarial training, and what they are worth."""
    if committed:
        return as_committed(committed)
    if not len(data.train):
        raise InputError(
            f"{data.name} has no training pictures to fit a robust network on: add a train/ folder."
        )
    images, own = data.train[: train or len(data.train)], AdversarialTraining(**how)
    model.requires_grad_(True)
    record = training.fit(
        model,
        images.x,
        images.y,
        own,
        attacked,
        index=images.index,
        seed=seed,
        parts=parts,
        progress=partial(progress, what=f"training against {kind}"),
    )
    if record["collapsed"]:
        raise InputError(
            f"Training against {kind} ended in one answer for every image: raise robust_epochs in "
            "CHANGES, or leave its network out."
        )
    record |= {"trained_on": len(images), "n": len(data.test)}
    record["n_pgd"] = len(data.test[:JUDGED])
    for name, network in (("accuracy", model), ("plain", base)):
        logits = contract.predict(network, data.test.x)
        record[name] = (logits.argmax(1) == data.test.y).double().mean().item()
        record[f"{name}_pgd"] = under_pgd(network, data, eps, seed)
    return model.state_dict(), record


def under_pgd(model: nn.Module, data: Dataset, eps: float, seed: int) -> float:
    """Accuracy on the first JUDGED test images under PGD of this size, away from the true label."""
    right, asked = [], data.test[:JUDGED]
    knobs = {"eps": eps, "step": eps / 4, "steps": PGD_STEPS, "seed": seed}
    for rows in torch.arange(len(asked)).split(100):
        part = asked[rows[0] : rows[-1] + 1]
        x_adv = ATTACKS["pgd"](model, part.pixels(), part.y, index=part.index, **knobs)
        right.append(contract.predict(model, x_adv).argmax(1) == part.y)
    return torch.cat(right).double().mean().item()
