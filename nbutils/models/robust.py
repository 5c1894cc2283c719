"""Adversarial training: a classifier fitted on attacked images (Madry et al. 2018 with PGD, Rony et
al. 2019 with DDN).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils import InputError
from nbutils.data.images import to_float
from nbutils.models import training
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of

Attacked = Callable[..., torch.Tensor]
JUDGED = 500  # held-back images, at most, whose accuracy under attack chooses the epoch


@dataclass(frozen=True)
class AdversarialTraining:
    """How a robust classifier is trained.

    Args:
        attack: pgd (in the l-infinity ball of `size`) or ddn (its perturbations are scaled back
            into the l2 ball of `size` where they are longer).
        steps: of the attack on each batch. step: of PGD, a share of `size`.
        epochs: passes over the images. warm: epochs over which `size` grows to its value, since a
            plain net may sit at chance under the whole of it.
        batch: images in a step. lr: of Adam.
    """

    attack: str
    size: float
    steps: int
    step: float = 0.25
    epochs: int = 5
    warm: int = 1
    batch: int = 32
    lr: float = 1e-3


def fit(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    how: AdversarialTraining,
    attacked: Attacked,
    *,
    index: torch.Tensor,
    seed: int,
    parts: Parts | None = None,
    progress: Callable = iter,
) -> dict:
    """Train `model` in place on attacked images and their true labels; kept are the weights of the
    epoch with the best accuracy on attacked images that were held back.

    Differs from the papers: it starts from the weights that the model has, and takes few epochs.

    Args:
        attacked: what makes attacked images of clean ones, by the recipe: (model, x, y, how, index,
            seed, share of the size) -> x_adv.
        x: (n,c,h,w), uint8 or float in [0,1]. y: (n,) int64. index: (n,) the images' numbers.
        parts: where checkpoints go; a killed run continues from the last one and ends with the same
            weights.
    Returns:
        record: `epoch` (the best), `train_loss` and `validation` (accuracy under the attack) by
        epoch, and `collapsed` (one answer for every image).
    Raises:
        InputError: the loss is not finite.
    """
    held = training.held_back(index, training.Training.validate, seed)
    kept = torch.ones(len(x), dtype=torch.bool, device=x.device)
    kept[held] = False
    kept, held = kept.nonzero().flatten(), held[:JUDGED]
    stepping = torch.optim.Adam(model.parameters(), lr=how.lr)
    key = key_of([seed, str(how), str(model)], x, y, model.state_dict()) if parts else ""
    model.to(memory_format=torch.channels_last)
    first, losses, accuracies, best = 0, [], [], {}
    found = parts.find("epoch", key) if parts else None
    if found:
        first = int(found.pop("epoch")) + 1
        losses, accuracies = found.pop("losses").tolist(), found.pop("accuracies").tolist()
        best = training._restore(model, stepping, found)
    for epoch in progress(range(first, how.epochs)):
        share = min(1.0, (epoch + 1) / (how.warm + 1))
        use = seed * 100_003 + epoch
        losses.append(_epoch(model, stepping, x, y, kept, how, attacked, index, use, share))
        if not np.isfinite(losses[-1]):
            raise InputError(
                f"Adversarial training diverged in epoch {epoch + 1}: lower its rate {how.lr}."
            )
        x_adv = attacked(model, to_float(x[held]), y[held], how, index[held], seed, 1.0)
        right = (_logits(model, x_adv).argmax(1) == y[held]).double().mean().item()
        accuracies.append(right)
        if share == 1 or epoch + 1 == how.epochs:  # an epoch under less than the size is no rival
            if not best or right > best["score"][0]:
                state = {k: v.detach().clone() for k, v in model.state_dict().items()}
                best = {"score": (right, -losses[-1]), "epoch": epoch, "state": state}
        if parts and best and epoch + 1 < how.epochs:
            now = training._checkpoint(model, stepping, best, epoch, losses, accuracies)
            parts.keep("epoch", now, key)
    model.load_state_dict(best["state"])
    model.to(memory_format=torch.contiguous_format).eval()
    return {
        "epoch": best["epoch"] + 1,
        "epochs": how.epochs,
        "train_loss": losses,
        "validation": accuracies,
        "collapsed": len(_logits(model, to_float(x[held])).argmax(1).unique()) == 1,
    }


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    kept: torch.Tensor,
    how: AdversarialTraining,
    attacked: Attacked,
    index: torch.Tensor,
    seed: int,
    share: float,
) -> float:
    """One pass over attacked images, in an order drawn from `seed`; returns the mean loss."""
    drawn = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(len(kept)))
    order, total = kept[drawn.to(kept.device)], 0.0
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)  # for dropout
        for rows in order.split(how.batch):
            if len(rows) == 1 < len(kept):
                continue  # batch normalisation has no variance of one image
            images = to_float(x[rows])
            x_adv = attacked(model, images, y[rows], how, index[rows], seed, share)
            model.train()
            loss = cross_entropy(
                model(x_adv.contiguous(memory_format=torch.channels_last)), y[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
    model.eval()
    optimizer.zero_grad()
    return total / len(kept)


@torch.no_grad()
def _logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(n,k) in batches."""
    return torch.cat([model(part) for part in x.split(512)])
