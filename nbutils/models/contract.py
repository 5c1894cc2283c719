"""What is asked of a model: images in [0,1] to logits of their own, checked on arrival."""

import copy
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils import InputError
from nbutils.data.images import to_float
from nbutils.models.brought import in_words

LEAST = 50  # images that tell an accuracy from chance
ALWAYS = 0.98  # share of images from which on one label is the answer to everything
DIRECTIONS = 8  # in which a gradient is known

# Values of images that others train on: what is said of them, and how they come from [0,1].
SCALES = {
    "run from 0 to 255": (255.0, 0.0),
    "run from -1 to 1": (2.0, -1.0),
    "are normalised as ImageNet's": (4.4, -2.0),
}


def check(model: nn.Module, x: torch.Tensor, *classes: int) -> int:
    """Refuse a model that breaks the contract: images in [0,1] -> finite logits (n, classes),
    deterministic, each image's its own, differentiable to the input.

    Args:
        classes: the numbers of outputs that will do.
    Returns:
        the one that the model has.
    Raises:
        InputError: with the one sentence that says which part is broken.
    """
    if model.training:
        raise InputError(
            "The model is in train mode: call model.eval() first, or its answers change with the "
            "batch."
        )
    given, x = x, x.detach().clone().requires_grad_()
    with in_words(x):
        logits = model(x)
    if (
        not isinstance(logits, torch.Tensor)
        or logits.dim() != 2
        or len(logits) != len(x)
        or logits.shape[1] not in classes
    ):
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        needed = " or ".join(str((len(x), k)) for k in classes)
        raise InputError(
            f"The model returns {shape} for {len(x)} images of {classes[0]} classes; logits of "
            f"shape {needed} are needed."
        )
    if not torch.isfinite(logits).all():
        raise InputError("The model returns NaN or infinite logits.")
    if (logits >= 0).all() and torch.allclose(
        logits.sum(1), torch.ones(len(x), device=x.device, dtype=logits.dtype), atol=5e-3
    ):
        raise InputError(
            "The model returns probabilities, not logits: remove its softmax, the attacks apply "
            "their own."
        )
    if not torch.equal(logits, model(x)):
        raise InputError(
            "The model answers the same images differently twice: its eval mode must be "
            "deterministic."
        )
    if not torch.equal(x, given):
        raise InputError("The model changes the images that it is handed: let it work on a copy.")
    if apart := _apart(model, given):
        raise InputError(
            f"The model answers an image differently in other company: logits differ by up to "
            f"{apart:.2g} between batches. Each image must be answered by itself, which a batch "
            "normalisation without running statistics, or a scale taken over the batch, does not."
        )
    if not logits.requires_grad:
        raise InputError("The model's logits carry no gradient to the image: the attacks need one.")
    with in_words(x):
        gradient = torch.autograd.grad(logits.sum(), x)[0]
    if not torch.isfinite(gradient).all():
        raise InputError("The model's gradient with respect to the image is NaN or infinite.")
    return logits.shape[1]


@torch.no_grad()
def _apart(model: nn.Module, x: torch.Tensor) -> float:
    """The largest difference of a logit between batches of these images; 0 where it is rounding.

    What differs in 32 bits is asked for again in 64, where the model can: a leak leaks there too.
    """
    short = [part.dtype for part in (*model.parameters(), *model.buffers())]
    rounding = max((torch.finfo(kind).eps for kind in short if kind.is_floating_point), default=0)
    apart = _between_batches(model, x, max(1e-3, 16 * rounding))
    if apart:
        with suppress(RuntimeError, TypeError, ValueError):  # it may know 32 bits alone
            apart = _between_batches(copy.deepcopy(model).double(), x.double(), 1e-3)
    return apart


def _between_batches(model: nn.Module, x: torch.Tensor, tolerance: float) -> float:
    """As `_apart`, with what is allowed in units of the largest spread of an image's logits."""
    others = torch.cat([x, 1 - x, x / 2])  # company of another kind
    ways = (
        lambda: model(others),
        lambda: model(others.flip(0)).flip(0),
        lambda: torch.cat([model(one) for one in x.split(1)]),
    )
    with in_words(x):
        first = model(x)
        allowed = tolerance * (first.amax(1) - first.amin(1)).max() + 1e-5 * first.abs().max()
        for ask in ways:
            gap = (ask()[: len(x)] - first).abs().max()
            if not gap <= allowed:
                return gap.item()
    return 0.0


@dataclass(frozen=True)
class Answers:
    """What a model says of n images: `logits` (n,k), their `slopes` (n,DIRECTIONS), derivatives of
    a fixed mixture of logits; and which images have no gradient at all, of the logits or of the
    cross-entropy of the predicted class, `flat` and `flat_loss` (n,) bool.
    """

    logits: torch.Tensor
    slopes: torch.Tensor
    flat: torch.Tensor
    flat_loss: torch.Tensor


def answers(model: nn.Module, x: torch.Tensor, *, batch: int = 16) -> Answers:
    """What the model says of images (n,c,h,w), and how that changes with them.

    Raises:
        InputError: a gradient that is NaN or infinite.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x[0].numel(), DIRECTIONS, generator=generator).to(x)
    found = []
    for part in x.split(batch):
        part = part.detach().requires_grad_()
        with in_words(part):
            logits = model(part)
            mixed = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(1))
            loss = cross_entropy(logits, logits.argmax(1), reduction="sum")
            gradient, of_loss = (
                torch.autograd.grad(value, part, retain_graph=True)[0].flatten(1)
                for value in ((logits * mixed.to(logits)).sum(), loss)
            )
        if not (torch.isfinite(gradient).all() and torch.isfinite(of_loss).all()):
            raise InputError(
                "The model's gradient with respect to the image is NaN or infinite for some of the "
                "test images."
            )
        slopes = gradient @ directions.to(gradient)
        flat = [(one == 0).all(1) for one in (gradient, of_loss)]
        found.append((logits.detach(), slopes, *flat))
    return Answers(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def check_gradients(found: Answers) -> str:
    """Refuse a model whose logits do not change with the image; what there is to say of one with
    some such images, or with a softmax that rounds to certainty, is returned, else "".

    Known as gradient masking (Papernot et al. 2017); AutoAttack raises a flag for zero gradients.
    """
    n, flat, loss = len(found.flat), int(found.flat.sum()), int(found.flat_loss.sum())
    masking = (
        "Attacks that follow gradients fail there whatever the model is (gradient masking, a flag "
        "of AutoAttack): their failure says nothing of robustness, and nothing is left to detect."
    )
    if flat > ALWAYS * n:
        raise InputError(
            f"The model's logits have no gradient at all for {flat} of {n} test images: something "
            f"in it rounds, compares or detaches. {masking} Give that step a gradient of its own "
            "(a straight-through estimator, as in BPDA)."
        )
    some = f"of {n} test images"
    if flat:
        return f"The model's logits have no gradient at all for {flat} {some}. {masking}"
    if loss:
        return (
            f"The model's cross-entropy has no gradient in 32 bits for {loss} {some}: its softmax "
            f"is rounded to 0 and 1. {masking} Logits divided by a constant give the same labels, "
            "and a gradient."
        )
    return ""


def check_trained(logits: torch.Tensor, y: torch.Tensor) -> str:
    """Refuse a model that reads pictures no better than chance: nothing is measured on random
    weights.

    Args:
        logits: (n,k) of n test images; y: (n,) their labels.
    Returns:
        what there is to say where they are too few to tell, else "".
    Raises:
        InputError: its accuracy is not above 1/k, and above what the same answers have with the
            labels in another order, by more than chance allows (one case in a thousand); one label
            for everything; logits that are not finite.
    """
    (n, k), y = logits.shape, y.to(logits.device)
    if not torch.isfinite(logits).all():
        raise InputError("The model returns NaN or infinite logits for some of the test images.")
    label = logits.argmax(1)
    right, times = (label == y).sum().item(), label.bincount().max().item()
    others = (y != label.bincount().argmax()).sum().item()
    said = (
        f"The model gives {times} of {n} test images the same label, {right} of them rightly: it "
        "has no trained weights (give WEIGHTS the file that holds them), or it expects other "
        "values than [0,1] (0 to 255, or normalised), which it must make itself."
    )
    if n < LEAST:
        if times == n and others >= 10:
            raise InputError(said)
        return said if times == n and others else ""
    if times >= ALWAYS * n and others >= n / 4:
        raise InputError(said)
    chance, spread = 1 / k, (n * (1 / k) * (1 - 1 / k)) ** 0.5
    better = right >= n / k + 3.1 * spread
    if better and len(y.unique()) > 1:  # answers that the labels decide, and not their frequency
        generator = torch.Generator().manual_seed(0)
        orders = torch.stack([torch.randperm(n, generator=generator) for _ in range(1000)])
        by_chance = (y[orders.to(y.device)] == label).sum(1)
        chance, better = by_chance.double().mean().item() / n, bool((by_chance < right).all())
    if not better:
        raise InputError(
            f"The model reads {right / n:.1%} of {n} test images rightly, no better than chance "
            f"({chance:.1%}): it has no trained weights, or its outputs stand in another order; "
            "give WEIGHTS the file that holds them."
        )
    return ""


def check_scale(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Refuse a model that is made for images of other values than [0,1].

    Args:
        x: (n,c,h,w) test images in [0,1]; y: (n,) their labels.
    One that would read as many rightly if its outputs stood in another order is left to
    `check_trained`, for other values are not what it lacks.

    Raises:
        InputError: it reads a tenth more of them rightly on one of SCALES, and by more than chance
            allows.
    """
    label, gains = predict(model, x).argmax(1), {}
    right = label == y
    reordered = sum(y[label == one].bincount().max().item() for one in label.unique())
    for values, (factor, shift) in SCALES.items():
        try:
            scaled = predict(model, factor * x + shift).argmax(1) == y
        except InputError:  # a model may refuse such values itself
            continue
        won, lost = (scaled & ~right).sum().item(), (right & ~scaled).sum().item()
        if scaled.sum() > reordered and won - lost > max(0.1 * len(x), 3.5 * (won + lost) ** 0.5):
            gains[values] = won - lost
    if gains:
        before, values = right.sum().item(), max(gains, key=gains.get)
        raise InputError(
            f"The model reads {before / len(x):.1%} of {len(x)} test images in [0,1] rightly, and "
            f"{(before + gains[values]) / len(x):.1%} when their values {values}: all images here "
            "lie in [0,1], and the model must scale or normalise them itself."
        )


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, *, batch: int = 512) -> torch.Tensor:
    """Logits (n,k) of images (n,c,h,w), uint8 or float in [0,1], in batches."""
    return (
        torch.cat([model(to_float(part)) for part in x.split(batch)]) if len(x) else torch.empty(0)
    )
