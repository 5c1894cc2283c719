"""Checks that distrust the evaluation: each raises `Leak` where the fault would make every number
worthless.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks.carlini_wagner import through_tanh
from nbutils.data.images import to_levels
from nbutils.detectors.base import Detector, scores
from nbutils.evaluation.distances import mann_whitney
from nbutils.evaluation.intervals import auroc_interval
from nbutils.evaluation.metrics import auroc
from nbutils.store import files


class Leak(AssertionError):
    """A detector or an attack that looks good for a reason that has nothing to do with what it
    claims.
    """


def attack_moves(x: torch.Tensor, x_adv: torch.Tensor, budget: float, norm: str = "linf") -> None:
    """An attack with a budget changes images, stays within the budget and within [0,1]."""
    delta = (x_adv - x).flatten(1)
    if budget > 0 and not delta.any():
        raise Leak(
            "The attack returned every image unchanged: it does nothing, or the model's loss has "
            "no gradient on any of them."
        )
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    rounding = 1e-6 + (
        2**-25 * delta.shape[1] ** 0.5 if norm == "l2" else 0
    )  # each value of a float32 image is off by up to half a step
    if not (size.max() <= budget + rounding and x_adv.min() >= 0 and x_adv.max() <= 1):
        raise Leak(
            f"The attack left its budget: {norm} {size.max():.6f} of {budget}, values in "
            f"[{x_adv.min():.3f}, {x_adv.max():.3f}]."
        )


def twins(train_x: torch.Tensor, test_x: torch.Tensor) -> int:
    """How many of the test images (n,c,h,w) are byte for byte among the training images."""
    seen = {image.tobytes() for image in train_x.cpu().numpy()}
    return sum(image.tobytes() in seen for image in test_x.cpu().numpy())


def sources_disjoint(
    train: torch.Tensor,
    test: torch.Tensor,
    train_x: torch.Tensor | None = None,
    test_x: torch.Tensor | None = None,
) -> None:
    """No source image on both sides of the split, by number and, where the images are given, by
    content.
    """
    shared = np.intersect1d(train.cpu().numpy(), test.cpu().numpy())
    if len(shared):
        raise Leak(
            f"{len(shared)} source images stand on both sides of the split, the first is number "
            f"{shared[0]}."
        )
    if train_x is not None and test_x is not None:
        if same := twins(train_x, test_x):
            raise Leak(f"{same} of the test images stand byte for byte among those of training.")


def calibration_held_out(right: torch.Tensor, right_test: torch.Tensor) -> None:
    """The classifier reads calibration images no better than test images: it was not trained on
    them.

    Thresholds that are fixed on images it knows flag more of those that it does not: a nominal 5 %
    FPR becomes 15 % for a network that has memorised its training part.

    Args:
        right, right_test: (m,), (n,) bool, what it reads rightly of both.
    """
    shares, counts = [], []
    for part in (right, right_test):
        shares.append(part.double().mean().item())
        counts.append(len(part))
    both = (shares[0] * counts[0] + shares[1] * counts[1]) / sum(counts)
    spread = (both * (1 - both) * (1 / counts[0] + 1 / counts[1])) ** 0.5
    if abs(shares[0] - shares[1]) > 3.5 * spread:
        raise Leak(
            f"The classifier reads {shares[0]:.3f} of {counts[0]} calibration images rightly and "
            f"{shares[1]:.3f} of {counts[1]} test images: these are not of one kind, it may have "
            "been trained on the first."
        )


def score_sign(
    detector: Detector, clean: torch.Tensor, adversarial: torch.Tensor, *, viewed: bool = False
) -> float:
    """On its own training images a detector must not score adversarial ones lower.

    Its sign is flipped then. A weak detector, whose AUROC is under .5 by chance, is no fault: this
    raises under .4, and where chance does so in one case of a thousand at most.

    Args:
        viewed: the images are given as what the detector's `view` made of them.
    Returns:
        the AUROC.
    """
    sides = [
        scores(detector, part, viewed=viewed).numpy(force=True) for part in (clean, adversarial)
    ]
    value = auroc(*sides)
    if value < 0.4 and mann_whitney(sides[1], sides[0])["p_smaller"] < 0.001:
        raise Leak(
            "The detector scores its own training attacks lower than clean images (AUROC "
            f"{value:.2f}): its sign is flipped."
        )
    return value


def null_attack(
    detector: Detector, attack: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> None:
    """Clean images through the attack with no budget, through storage and the detector's maps, get
    bit-equal scores.

    Args:
        attack: images -> images, the attack with eps 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        files.write_tensors(Path(folder) / "x", {"x": attack(x)})
        back = files.read_tensors(Path(folder) / "x")["x"].to(x.device)
    if not torch.equal(scores(detector, back), scores(detector, x)):
        raise Leak(
            "Clean images that went through the attack with no budget get other scores: the path "
            "itself leaves a trace."
        )


def null_tanh(detector: Detector, x: torch.Tensor) -> float:
    """Clean images through C&W's change of variable, with nothing to do, are not told from clean
    images.

    That path moves each value by half a millionth at most, and no detector of attacks may live on
    it.

    Returns:
        their AUROC against the clean images; .5 where the path leaves no trace.
    """
    value = auroc(*(scores(detector, part).numpy(force=True) for part in (x, through_tanh(x))))
    # a score that is moved by next to nothing still wins or loses against its own image
    if abs(value - 0.5) > max(0.1, 0.5 / len(x) + 1e-6):
        raise Leak(
            f"Clean images that went through C&W's tanh alone have an AUROC of {value:.2f}: the "
            "path leaves a trace."
        )
    return value


def batch_composition(
    detector: Detector, clean: torch.Tensor, adversarial: torch.Tensor, tolerance: float = 1e-3
) -> None:
    """An image's score must not depend on the company it is scored in (train-mode batch
    normalisation on pure batches is such a leak).

    Scores that differ are asked for again in float64, of the images with a ten-thousandth of noise:
    the last bit of a float32 sum can put an activation on the other side of its kink, and where a
    flat patch ties the values of a max-pooling its derivative is any of theirs. A Jacobian jumps
    there; a leak leaks without either too.

    Args:
        tolerance: in units of the scores' spread, the smaller of their deviation and ten times
            their median absolute deviation.
    """
    n = min(len(clean), len(adversarial), 32)
    apart = _apart_by_batch(detector, clean[:n], adversarial[:n], tolerance)
    if apart:
        try:
            sides = (_untied(part[:n]) for part in (clean, adversarial))
            apart = _apart_by_batch(in_float64(detector), *sides, tolerance)
        except (
            RuntimeError,
            TypeError,
            InputError,
        ):  # a user's own model may know float32 alone: what was found stands
            pass
    if apart:
        raise Leak(
            "Scores depend on the batch: pure, mixed and single batches differ by up to "
            f"{apart:.3g}."
        )


def _untied(x: torch.Tensor) -> torch.Tensor:
    """The images in float64, a ten-thousandth of the way to noise, so still in [0,1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return x.double().lerp(noise.to(x.device), 1e-4)


def _apart_by_batch(
    detector: Detector, clean: torch.Tensor, adversarial: torch.Tensor, tolerance: float
) -> float:
    """The largest difference of a score between batches; 0 where all are within the tolerance."""
    both = torch.stack([clean, adversarial], 1).flatten(0, 1)
    pure = torch.stack([scores(detector, clean), scores(detector, adversarial)], 1).flatten()
    mixed, alone = scores(detector, both), scores(detector, both[:4], batch=1)
    gap = torch.cat([pure - mixed, mixed[:4] - alone]).abs()
    allowed = (
        tolerance * torch.minimum(pure.std(), 10 * (pure - pure.median()).abs().median())
        + 1e-5 * pure.abs()
    )
    return 0.0 if (gap <= torch.cat([allowed, allowed[:4]])).all() else gap.max().item()


def in_float64(detector: Detector) -> Detector:
    """The detector, all of whose networks compute in float64."""
    made = copy.deepcopy(detector)
    for network in [part for part in vars(made).values() if isinstance(part, nn.Module)]:
        network.double()

    def view(x: torch.Tensor) -> torch.Tensor | None:
        seen = type(detector).view(
            made, x
        )  # of a Jacobian it is float32 whatever it was computed in
        return seen if seen is None else seen.double()

    made.view = view
    return made


def storage_format(
    detector: Detector,
    clean: torch.Tensor,
    adversarial: torch.Tensor,
    index: torch.Tensor,
    tolerance: float = 0.02,
) -> dict[str, float]:
    """A detector of attacks does not live on values that no 8-bit picture holds.

    Two questions, for either alone accuses the innocent. Does its AUROC change by more than
    `tolerance` when both sides are rounded to 8 bits? So it does for an honest detector too, where
    rounding undoes the attack. Does it see the attack's fractions of a level alone, without the
    attack (`with_fractions`)? So does whatever measures noise, but it needs them not. A reader of
    the format says yes to both, also where it has an honest signal beside it.

    Returns:
        raw, rounded: the AUROC as the images are, and with both sides rounded; fractions: that of
        clean images with the attack's fractions against clean images in 8 bits, .5 where the
        detector does not care.
    """
    stored, stored_adv = to_levels(clean), to_levels(adversarial)
    carried = with_fractions(clean, adversarial, index)
    raw, raw_adv, rounded, rounded_adv, fractions = (
        scores(detector, x).numpy(force=True)
        for x in (clean, adversarial, stored, stored_adv, carried)
    )
    found = {
        "raw": auroc(raw, raw_adv),
        "rounded": auroc(rounded, rounded_adv),
        "fractions": auroc(rounded, fractions),
    }
    change = abs(found["raw"] - found["rounded"])
    low, high = auroc_interval(found["fractions"], len(clean), len(carried))
    by_chance = low <= 0.5 <= high  # as with a handful of images, whose AUROC is 0 or 1 by luck
    if abs(found["fractions"] - 0.5) > 0.1 and not by_chance and change > tolerance:
        raise Leak(
            f"AUROC goes from {found['raw']:.2f} to {found['rounded']:.2f} when both sides are "
            "rounded to 8 bits, and clean images with the attack's fractions of a level alone have "
            f"{found['fractions']:.2f}: the detector reads the storage format."
        )
    return found


def with_fractions(
    clean: torch.Tensor, adversarial: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """Clean images, rounded to 8 bits, whose values then lie as far from a level as those of the
    attacked image do, shuffled over the image, above or below it by a coin (both drawn for the
    image's number).

    Of the perturbation nothing is left: neither its places nor its signs, and of its size what is
    below half a level.
    """
    levels, apart = (clean * 255).round(), adversarial * 255
    apart = (apart - apart.round()).abs()
    carried = np.empty(clean.shape, np.float32)
    for place, found, number in zip(carried, apart.numpy(force=True), index.tolist(), strict=True):
        generator = np.random.default_rng([11, number])
        shuffled = generator.permutation(found.reshape(-1)).reshape(found.shape)
        place[...] = shuffled * generator.choice((-1, 1), found.shape)
    carried = torch.from_numpy(carried).to(clean)
    inward = torch.where(levels == 0, carried.abs(), -carried.abs())  # or it would leave [0,1]
    carried = torch.where((levels == 0) | (levels == 255), inward, carried)
    return (levels + carried) / 255


def says_something(clean: np.ndarray, adversarial: np.ndarray) -> None:
    """Scores (n,), (m,) of images that differ are not all the same: a detector that says the same
    of everything has an AUROC of .5, passes every other control, and detects nothing.
    """
    both = np.concatenate([clean, adversarial])
    if len(both) > 1 and (both == both[0]).all():
        raise Leak(
            f"The detector gives every image the same score ({both[0]:.3g}): it says "
            "nothing of them."
        )
