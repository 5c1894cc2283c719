"""What breaks the contract of a model, made on purpose: copies of a good model, each with one fault
that others' code often has, and the sentence that refuses each.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import dropout

from nbutils import InputError
from nbutils.models import contract

MEAN, STD = 0.45, 0.225  # about ImageNet's, of every channel


class Spoiled(nn.Module):
    """A model whose images go through `before` and whose logits go through `after`."""

    def __init__(
        self, body: nn.Module, before: Callable | None = None, after: Callable | None = None
    ) -> None:
        super().__init__()
        self.body, self.before, self.after = body, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.body(x if self.before is None else self.before(x))
        return logits if self.after is None else self.after(logits)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The softmax, which belongs to the attacks and to the loss."""
    return logits.softmax(1)


def from_bytes(x: torch.Tensor) -> torch.Tensor:
    """What a model does first that was trained on values from 0 to 255."""
    return x / 255


def from_normalised(x: torch.Tensor) -> torch.Tensor:
    """What turns images that somebody else has normalised back into images in [0,1]."""
    return STD * x + MEAN


def less_the_batch(logits: torch.Tensor) -> torch.Tensor:
    """Logits less their mean over the batch, as a layer has it that knows no running mean."""
    return logits - logits.mean(0)


def dropped_out(x: torch.Tensor) -> torch.Tensor:
    """Dropout that does not know that the training is over."""
    return dropout(x, 0.2, training=True)


def stored(x: torch.Tensor) -> torch.Tensor:
    """Values rounded to the 256 levels of a file."""
    return (x * 255).round() / 255


def logarithms(logits: torch.Tensor) -> torch.Tensor:
    """Logarithms of how far each logit leads the least one, which is not ahead of itself."""
    return (logits - logits.amin(1, keepdim=True)).log()


def next_class(logits: torch.Tensor) -> torch.Tensor:
    """The outputs moved on by one, as where a training numbered the classes in another order."""
    return logits.roll(1, 1)


def twice(logits: torch.Tensor) -> torch.Tensor:
    """Twice as many outputs as there are classes, as of a head made for other data."""
    return torch.cat([logits, logits], 1)


def in_train_mode(model: nn.Module) -> nn.Module:
    """A copy that was left in train mode."""
    return copy.deepcopy(model).train()


def untrained(model: nn.Module) -> nn.Module:
    """A copy whose weights are drawn anew, so that it has learned nothing."""
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in (*made.parameters(), *made.buffers()):
            if weights.is_floating_point() and weights.dim() > 1 and weights.numel() > 9:
                drawn = torch.randn(weights.shape, generator=generator)
                weights.copy_(drawn / weights[0].numel() ** 0.5)
    return made


# Fault -> what makes it of a good model: a function of the model, or what goes before and after it.
SPOILED: Mapping[str, Callable | dict[str, Callable]] = {
    "a softmax at its end": {"after": probabilities},
    "made for values from 0 to 255": {"before": from_bytes},
    "normalised outside": {"before": from_normalised},
    "left in train mode": in_train_mode,
    "depends on the batch": {"after": less_the_batch},
    "dropout that stays on": {"before": dropped_out},
    "detached from the image": {"before": torch.detach},
    "rounds the image": {"before": stored},
    "not a number": {"after": logarithms},
    "too many outputs": {"after": twice},
    "classes in another order": {"after": next_class},
    "untrained": untrained,
}


def spoiled(model: nn.Module, fault: str) -> nn.Module:
    """The model with one of the faults of SPOILED; itself it stays as it was.

    Raises:
        InputError: the fault is unknown.
    """
    if fault not in SPOILED:
        raise InputError(f"Fault {fault!r} is unknown: choose one of {', '.join(SPOILED)}.")
    make = SPOILED[fault]
    return make(model) if callable(make) else Spoiled(model, **make).eval()


def arrive(model: nn.Module, x: torch.Tensor, y: torch.Tensor, classes: int) -> str:
    """All checks of a model that is brought in, in their order: its contract, the values that it is
    made for, its training, its gradient.

    Args:
        x: (n,c,h,w) test images in [0,1]; y: (n,) their labels.
    Returns:
        what there is to say of a model that is let in, else "".
    Raises:
        InputError: the sentence that refuses it.
    """
    contract.check(model, x[:4], classes)
    contract.check_scale(model, x[:128], y[:128])
    trained = contract.check_trained(contract.predict(model, x[:500]), y[:500])
    gradients = contract.check_gradients(contract.answers(model, x[:32]))
    return " ".join(filter(None, (trained, gradients)))


def refusals(model: nn.Module, x: torch.Tensor, y: torch.Tensor, classes: int) -> list[dict]:
    """What is said of a good model with each fault of SPOILED: a row each.

    Returns:
        `fault`; `refused`: the fault was found; `says`: the sentence that refuses it, or what is
        said of it where it is let in.
    """
    rows = []
    for fault in SPOILED:
        refused, says = _asked(spoiled(model, fault), x, y, classes)
        rows.append({"fault": fault, "refused": refused, "says": says})
    return rows


def _asked(model: nn.Module, x: torch.Tensor, y: torch.Tensor, classes: int) -> tuple[bool, str]:
    try:
        return False, arrive(model, x, y, classes)
    except InputError as error:
        return True, str(error)
