"""One training loop for classifiers and detectors: Adam on cross-entropy, best epoch by validation,
resumable, divergence noticed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils import InputError
from nbutils.data.images import to_float
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of

CHECKPOINT_SECONDS = 20  # at least so long between two checkpoints
JUDGED_ON = 20  # of fewer validation images, all may well be of one class


def _adam(parameters, lr):
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def _sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=10 * lr, momentum=0.9)


OPTIMIZERS = {"adam": _adam, "sgd": _sgd, "rmsprop": torch.optim.RMSprop}


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Args:
        epochs: passes over the images. batch: images in a step.
        optimizer: adam, sgd (momentum .9; ten times the rate) or rmsprop. lr: its rate.
        validate: share of the groups that choose the epoch (accuracy, then loss); 0: none, and the
            last epoch is kept.
    """

    epochs: int
    batch: int = 64
    optimizer: str = "adam"
    lr: float = 1e-3
    validate: float = 0.1


def fit(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    how: Training,
    *,
    groups: torch.Tensor,
    seed: int,
    parts: Parts | None = None,
    progress: Callable = iter,
) -> dict:
    """Train `model` in place on images and labels; the weights of the best validation epoch are
    kept.

    Args:
        x: (n,c,h,w), uint8 or float in [0,1]. y: (n,) int64.
        groups: (n,) the source image of each row: rows of one group never lie on both sides of the
            validation split.
        parts: where checkpoints go; a killed run continues from the last one and ends with the same
            weights.
        progress: wraps the epochs, for a progress bar.
    Returns:
        record: `epoch` (the best), its `validation_accuracy` and `validation_loss`, `train_loss`
            and
        `validation` (accuracy) by epoch, `collapsed` (one answer for every image), `diverged` (loss
        became NaN or infinite; the best epoch before that is kept).
    Raises:
        InputError: the loss is not finite in the first epoch.
    """
    kept, held = _split(groups, how.validate, seed)
    if how.optimizer not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise InputError(f"optimizer {how.optimizer!r} is unknown: choose one of {known}.")
    stepping = OPTIMIZERS[how.optimizer](model.parameters(), lr=how.lr)
    key = key_of([seed, str(how), str(model)], x, y, model.state_dict()) if parts else ""
    model.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    best, first, losses, accuracies = {}, 0, [], []
    found = parts.find("epoch", key) if parts else None
    if found:
        first, losses, accuracies = (
            int(found.pop("epoch")) + 1,
            found.pop("losses").tolist(),
            found.pop("accuracies").tolist(),
        )
        best = _restore(model, stepping, found)
    saved = time.monotonic()
    for epoch in progress(range(first, how.epochs)):
        loss = _epoch(model, stepping, x[kept], y[kept], how.batch, seed * 100_003 + epoch)
        losses.append(loss)
        if not np.isfinite(loss):
            if not best:
                raise InputError(
                    f"Training diverged in epoch {epoch + 1}: lower the learning rate {how.lr}."
                )
            break
        score = _validate(model, x[held], y[held]) if len(held) else (float("nan"), float(epoch))
        accuracies.append(score[0])
        if not best or not len(held) or score > best["score"]:
            best = {
                "score": score,
                "epoch": epoch,
                "state": {k: v.detach().clone() for k, v in model.state_dict().items()},
            }
        if parts and epoch + 1 < how.epochs and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            checkpoint = _checkpoint(model, stepping, best, epoch, losses, accuracies)
            parts.keep("epoch", checkpoint, key)
            saved = time.monotonic()
    model.load_state_dict(best["state"])
    model.to(memory_format=torch.contiguous_format).eval()
    accuracy, negative_loss = best["score"]
    judged = held if len(held) >= JUDGED_ON else torch.cat([held, kept[:1000]])
    return {
        "epoch": best["epoch"] + 1,
        "epochs": how.epochs,
        "validation_accuracy": accuracy,
        "validation_loss": -negative_loss,
        "train_loss": losses,
        "validation": accuracies,
        "collapsed": _constant(model, x[judged]),
        "diverged": not np.isfinite(losses[-1]),
    }


def held_back(groups: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """The numbers of the rows that `fit` validates on, and never trains on, from this seed."""
    return _split(groups, share, seed)[1]


def _split(groups: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers to fit and to validate, split by group."""
    names = torch.unique(groups).cpu()
    order = np.random.default_rng([seed, 3]).permutation(len(names))
    chosen = names[torch.from_numpy(order[: max(1, round(share * len(names))) if share else 0])]
    held = torch.isin(groups.cpu(), chosen)
    return torch.nonzero(~held).flatten().to(groups.device), torch.nonzero(held).flatten().to(
        groups.device
    )


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    batch: int,
    seed: int,
) -> float:
    """One pass in an order, and with dropout, drawn from `seed`; returns the mean loss."""
    model.train()
    order = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(len(x))).to(x.device)
    total = torch.zeros((), device=x.device)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        for rows in order.split(batch):
            if len(rows) == 1 < len(x):
                continue  # batch normalisation has no variance of one image
            loss = cross_entropy(
                model(to_float(x[rows]).contiguous(memory_format=torch.channels_last)), y[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(rows)
    model.eval()
    optimizer.zero_grad()
    return total.item() / len(x)


@torch.no_grad()
def _validate(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    logits = torch.cat([model(to_float(part)) for part in x.split(512)])
    return (logits.argmax(1) == y).float().mean().item(), -cross_entropy(logits, y).item()


@torch.no_grad()
def _constant(model: nn.Module, x: torch.Tensor) -> bool:
    return len(torch.cat([model(to_float(part)).argmax(1) for part in x.split(512)]).unique()) == 1


def _checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict,
    epoch: int,
    losses: list[float],
    accuracies: list[float],
) -> dict[str, torch.Tensor]:
    out = {
        "epoch": torch.tensor(epoch),
        "losses": torch.tensor(losses, dtype=torch.float64),
        "accuracies": torch.tensor(accuracies, dtype=torch.float64),
        "best.epoch": torch.tensor(best["epoch"]),
        "best.score": torch.tensor(best["score"], dtype=torch.float64),
    }
    out |= {f"now.{name}": value for name, value in model.state_dict().items()}
    out |= {f"best.state.{name}": value for name, value in best["state"].items()}
    for i, state in optimizer.state_dict()["state"].items():
        out |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    return out


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, found: dict[str, torch.Tensor]
) -> dict:
    device = next(model.parameters()).device
    model.load_state_dict(
        {name[4:]: value for name, value in found.items() if name.startswith("now.")}
    )
    state: dict[int, dict] = {}
    for name, value in found.items():
        if name.startswith("optimizer."):
            _, i, field = name.split(".")
            state.setdefault(int(i), {})[field] = (
                value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
            )
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    weights = {
        name[11:]: value.to(device)
        for name, value in found.items()
        if name.startswith("best.state.")
    }
    return {
        "score": tuple(found["best.score"].tolist()),
        "epoch": int(found["best.epoch"]),
        "state": weights,
    }
