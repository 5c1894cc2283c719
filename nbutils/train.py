"""One training loop for classifiers and detectors: Adam on cross-entropy, best epoch by validation, resumable, divergence noticed."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils import InputError, artifacts
from nbutils.data import to_float

CHECKPOINT_SECONDS = 20  # at least so long between two checkpoints
OPTIMIZERS = {
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=10 * lr, momentum=0.9),
    "rmsprop": lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr),
}


def fit(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, groups: torch.Tensor, epochs: int, seed: int, lr: float = 1e-3, batch: int = 64,
    validate: float = 0.1, optimizer: str = "adam", folder: Path | None = None, progress=iter,
) -> dict:
    """Train `model` in place on images and labels; the weights of the best validation epoch are kept.

    Args:
        x: (n,c,h,w), uint8 or float in [0,1]. y: (n,) int64.
        groups: (n,) the source image of each row: rows of one group never lie on both sides of the validation split.
        optimizer: adam, sgd (momentum .9; ten times the rate) or rmsprop.
        validate: share of the groups that choose the epoch (accuracy, then loss); 0: none, and the last epoch is kept.
        folder: where checkpoints go; a killed run continues from the last one and ends with the same weights.
        progress: wraps the epochs, for a progress bar.
    Returns:
        record: `epoch` (the best), its `validation_accuracy` and `validation_loss`, `train_loss` and `validation` (accuracy) by epoch,
        `collapsed` (one answer for every image),
        `diverged` (loss became NaN or infinite; the best epoch before that is kept).
    Raises:
        InputError: the loss is not finite in the first epoch.
    """
    kept, held = _split(groups, validate, seed)
    if optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer {optimizer!r} is unknown: choose one of {', '.join(OPTIMIZERS)}.")
    stepping = OPTIMIZERS[optimizer](model.parameters(), lr)
    key = artifacts.key_of(fit, [seed, epochs, lr, batch, validate, optimizer, str(model)], x, y, model.state_dict()) if folder else ""
    model.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    best, first, losses, accuracies = {}, 0, [], []
    found = artifacts.find_part(folder, "epoch", key) if folder else None
    if found:
        first, losses, accuracies = int(found.pop("epoch")) + 1, found.pop("losses").tolist(), found.pop("accuracies").tolist()
        best = _restore(model, stepping, found)
    saved = time.monotonic()
    for epoch in progress(range(first, epochs)):
        loss = _epoch(model, stepping, x[kept], y[kept], batch, seed * 100_003 + epoch)
        losses.append(loss)
        if not np.isfinite(loss):
            if not best:
                raise InputError(f"Training diverged in epoch {epoch + 1}: lower the learning rate {lr}.")
            break
        score = _validate(model, x[held], y[held]) if len(held) else (float("nan"), float(epoch))
        accuracies.append(score[0])
        if not best or not len(held) or score > best["score"]:
            best = {"score": score, "epoch": epoch, "state": {k: v.detach().clone() for k, v in model.state_dict().items()}}
        if folder and epoch + 1 < epochs and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            artifacts.keep_part(folder, "epoch", _checkpoint(model, stepping, best, epoch, losses, accuracies), key)
            saved = time.monotonic()
    model.load_state_dict(best["state"])
    model.to(memory_format=torch.contiguous_format).eval()
    accuracy, negative_loss = best["score"]
    return {
        "epoch": best["epoch"] + 1, "epochs": epochs, "validation_accuracy": accuracy, "validation_loss": -negative_loss,
        "train_loss": losses, "validation": accuracies, "collapsed": _constant(model, x[held if len(held) else kept[:1000]]),
        "diverged": not np.isfinite(losses[-1]),
    }


def _split(groups: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers to fit and to validate, split by group."""
    names = torch.unique(groups).cpu()
    order = np.random.default_rng([seed, 3]).permutation(len(names))
    chosen = names[torch.from_numpy(order[: max(1, round(share * len(names))) if share else 0])]
    held = torch.isin(groups.cpu(), chosen)
    return torch.nonzero(~held).flatten().to(groups.device), torch.nonzero(held).flatten().to(groups.device)


def _epoch(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, batch: int, seed: int) -> float:
    """One pass in an order, and with dropout, drawn from `seed`; returns the mean loss."""
    model.train()
    order = torch.from_numpy(np.random.default_rng([seed, 4]).permutation(len(x))).to(x.device)
    total = torch.zeros((), device=x.device)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        for rows in order.split(batch):
            if len(rows) == 1 < len(x):
                continue  # batch normalisation has no variance of one image
            loss = cross_entropy(model(to_float(x[rows]).contiguous(memory_format=torch.channels_last)), y[rows])
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


def _checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, best: dict, epoch: int, losses: list[float],
                accuracies: list[float]) -> dict[str, torch.Tensor]:
    out = {"epoch": torch.tensor(epoch), "losses": torch.tensor(losses, dtype=torch.float64),
           "accuracies": torch.tensor(accuracies, dtype=torch.float64), "best.epoch": torch.tensor(best["epoch"]),
           "best.score": torch.tensor(best["score"], dtype=torch.float64)}
    out |= {f"now.{name}": value for name, value in model.state_dict().items()}
    out |= {f"best.state.{name}": value for name, value in best["state"].items()}
    for i, state in optimizer.state_dict()["state"].items():
        out |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    return out


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, found: dict[str, torch.Tensor]) -> dict:
    device = next(model.parameters()).device
    model.load_state_dict({name[4:]: value for name, value in found.items() if name.startswith("now.")})
    state: dict[int, dict] = {}
    for name, value in found.items():
        if name.startswith("optimizer."):
            _, i, field = name.split(".")
            state.setdefault(int(i), {})[field] = value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    weights = {name[11:]: value.to(device) for name, value in found.items() if name.startswith("best.state.")}
    return {"score": tuple(found["best.score"].tolist()), "epoch": int(found["best.epoch"]), "state": weights}
