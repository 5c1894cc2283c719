"""Controls that distrust the evaluation. Each raises `Leak` where the fault would make every number worthless, else returns what it measured."""

import copy
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nbutils import artifacts
from nbutils.attacks import per_image
from nbutils.data import Images
from nbutils.detectors.base import Detector, scores
from nbutils.metrics import auroc, wilson
from nbutils.models import predict

MOST = 1000  # clean images, read rightly and wrongly, that a control scores
NOISES = ("sign", "gaussian")


class Leak(AssertionError):
    """A detector or an attack that looks good for a reason that has nothing to do with what it claims."""


def attack_moves(x: torch.Tensor, x_adv: torch.Tensor, budget: float, norm: str = "linf") -> None:
    """An attack with a budget changes images, stays within the budget and within [0,1]."""
    delta = (x_adv - x).flatten(1)
    if budget > 0 and not delta.any():
        raise Leak("The attack returned every image unchanged.")
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    rounding = 1e-6 + (2**-25 * delta.shape[1] ** 0.5 if norm == "l2" else 0)  # each value of a float32 image is off by up to half a step
    if not (size.max() <= budget + rounding and x_adv.min() >= 0 and x_adv.max() <= 1):
        raise Leak(f"The attack left its budget: {norm} {size.max():.6f} of {budget}, values in [{x_adv.min():.3f}, {x_adv.max():.3f}].")


def sources_disjoint(train: torch.Tensor, test: torch.Tensor, train_x: torch.Tensor | None = None, test_x: torch.Tensor | None = None) -> None:
    """No source image on both sides of the split, by number and, where the images are given, by content."""
    twins = np.intersect1d(train.cpu().numpy(), test.cpu().numpy())
    if len(twins):
        raise Leak(f"{len(twins)} source images stand on both sides of the split, the first is number {twins[0]}.")
    if train_x is not None and test_x is not None:
        seen = {image.tobytes() for image in train_x.cpu().numpy()}
        same = sum(image.tobytes() in seen for image in test_x.cpu().numpy())
        if same:
            raise Leak(f"{same} test images are byte for byte training images.")


def score_sign(detector: Detector, clean: torch.Tensor, adversarial: torch.Tensor, *, seen: bool = False) -> float:
    """On its own training images a detector must score adversarial ones higher; AUROC under .4 means that its sign is flipped.

    Args:
        seen: the images are given as what the detector's `look` made of them.
    """
    value = auroc(*(scores(detector, part, seen=seen).numpy(force=True) for part in (clean, adversarial)))
    if value < 0.4:
        raise Leak(f"The detector scores its own training attacks lower than clean images (AUROC {value:.2f}): its sign is flipped.")
    return value


def null_attack(detector: Detector, attack: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    """Clean images through the attack with no budget, through storage and the detector's maps, get bit-equal scores.

    Args:
        attack: images -> images, the attack with eps 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifacts.write_tensors(Path(folder) / "x", {"x": attack(x)})
        back = artifacts.read_tensors(Path(folder) / "x")["x"].to(x.device)
    if not torch.equal(scores(detector, back), scores(detector, x)):
        raise Leak("Clean images that went through the attack with no budget get other scores: the path itself leaves a trace.")


def batch_composition(detector: Detector, clean: torch.Tensor, adversarial: torch.Tensor, tolerance: float = 1e-3) -> None:
    """An image's score must not depend on the company it is scored in (train-mode batch normalisation on pure batches is such a leak).

    Scores that differ are asked for again in float64: the last bit of a float32 sum can put an activation on the other side of its kink,
    and a Jacobian jumps there; a leak leaks in float64 too.

    Args:
        tolerance: in units of the scores' spread, the smaller of their deviation and ten times their median absolute deviation.
    """
    n = min(len(clean), len(adversarial), 32)
    apart = _apart_by_batch(detector, clean[:n], adversarial[:n], tolerance)
    if apart:
        try:
            apart = _apart_by_batch(_in_float64(detector), clean[:n].double(), adversarial[:n].double(), tolerance)
        except (RuntimeError, TypeError):  # a user's own model may know float32 alone: what was found stands
            pass
    if apart:
        raise Leak(f"Scores depend on the batch: pure, mixed and single batches differ by up to {apart:.3g}.")


def _apart_by_batch(detector: Detector, clean: torch.Tensor, adversarial: torch.Tensor, tolerance: float) -> float:
    """The largest difference of a score between batches; 0 where every one is within the tolerance."""
    both = torch.stack([clean, adversarial], 1).flatten(0, 1)
    pure = torch.stack([scores(detector, clean), scores(detector, adversarial)], 1).flatten()
    mixed, alone = scores(detector, both), scores(detector, both[:4], batch=1)
    gap = torch.cat([pure - mixed, mixed[:4] - alone]).abs()
    allowed = tolerance * torch.minimum(pure.std(), 10 * (pure - pure.median()).abs().median()) + 1e-5 * pure.abs()
    return 0.0 if (gap <= torch.cat([allowed, allowed[:4]])).all() else gap.max().item()


def _in_float64(detector: Detector) -> Detector:
    """The detector, all of whose networks compute in float64."""
    made = copy.deepcopy(detector)
    for network in [part for part in vars(made).values() if isinstance(part, nn.Module)]:
        network.double()

    def look(x: torch.Tensor) -> torch.Tensor | None:
        seen = type(detector).look(made, x)  # of a Jacobian it is float32 whatever it was computed in
        return seen if seen is None else seen.double()

    made.look = look
    return made


def eight_bit(detector: Detector, clean: torch.Tensor, adversarial: torch.Tensor, tolerance: float = 0.2) -> dict[str, float]:
    """AUROC before and after both sides are rounded to 8 bits; a fall by more than `tolerance` means that it reads the storage format."""
    raw = auroc(scores(detector, clean).numpy(force=True), scores(detector, adversarial).numpy(force=True))
    a, b = (scores(detector, (x * 255).round() / 255).numpy(force=True) for x in (clean, adversarial))
    if raw - auroc(a, b) > tolerance:
        raise Leak(f"AUROC falls from {raw:.2f} to {auroc(a, b):.2f} when both sides are rounded to 8 bits: the detector reads the storage format.")
    return {"raw": raw, "rounded": auroc(a, b)}


def through_jpeg(x: torch.Tensor, quality: int = 90) -> torch.Tensor:
    """Images (n,c,h,w) of one or three channels as they come back from JPEG files of this quality, colour at full resolution."""
    from PIL import Image

    def one(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality, subsampling=0)
        back = np.asarray(Image.open(file))
        return back[None] if back.ndim == 2 else back.transpose(2, 0, 1)

    stored = (x * 255).round().to(torch.uint8).numpy(force=True)
    return torch.from_numpy(np.stack([one(image) for image in stored])).to(x.device).to(x.dtype) / 255


def matched_noise(x: torch.Tensor, x_adv: torch.Tensor, index: torch.Tensor, kind: str, seed: int = 0) -> torch.Tensor:
    """Clean images with noise of the rms that the attack gave each: random signs, or Gaussian, clipped to [0,1] and refilled to that rms."""
    rms = per_image(x_adv - x, lambda d: d.norm(dim=1) / d.shape[1] ** 0.5)
    noise = np.empty(x.shape, np.float32)
    for place, number in zip(noise, index.tolist(), strict=True):
        draw = np.random.default_rng([seed, 7, number]).standard_normal(place.shape)
        place[...] = np.sign(draw) if kind == "sign" else draw
    noise = torch.from_numpy(noise).to(x)
    scale = rms
    for _ in range(10):  # clipping takes some of the noise away: scale until the size matches
        noisy = (x + scale * noise).clamp(0, 1)
        scale = scale * rms / per_image(noisy - x, lambda d: d.norm(dim=1) / d.shape[1] ** 0.5).clamp_min(1e-12)
    return (x + scale * noise).clamp(0, 1)


def swapped(x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """Clean images with the perturbation that was made for the image before: the attack's size and structure, in the wrong place."""
    return (x + (x_adv - x).roll(1, 0)).clamp(0, 1)


def controls(detector: Detector, x: torch.Tensor, x_adv: torch.Tensor, index: torch.Tensor, test: Images, calibrate: torch.Tensor,
             *, right: torch.Tensor | None = None, fpr: float = 0.05, seed: int = 0) -> dict[str, float]:
    """The measured controls of one fitted detector on test pairs, at a threshold of `fpr` on the images `calibrate`.

    Args:
        test: clean test images, for the third group: those that the classifier gets wrong without any attack (MOST of each group are scored).
        right: (n,) which of them it gets right; None: asked here.

    Returns:
        auroc, and auroc_8bit: both sides rounded; auroc_jpeg: both sides through JPEG, so that neither side alone has such a past;
        auroc_within_class: clean and adversarial images of the same *predicted* class only;
        auroc_noise_*: clean images with noise of the attack's rms, in the attack's place; auroc_swapped: with another image's perturbation;
        flagged_*: shares above the threshold of the adversarial images, of these controls, of clean images through JPEG, of those classified
        rightly and wrongly.
    """
    batch_composition(detector, x, x_adv)
    model, threshold = detector.classifier, detector.calibrate(calibrate, fpr)
    clean, adversarial = (scores(detector, part).numpy(force=True) for part in (x, x_adv))
    out = {"auroc": auroc(clean, adversarial), "auroc_8bit": eight_bit(detector, x, x_adv)["rounded"]}
    jpeg, jpeg_adv = (scores(detector, through_jpeg(part)).numpy(force=True) for part in (x, x_adv))
    out |= {"auroc_jpeg": auroc(jpeg, jpeg_adv), "flagged_jpeg": float((jpeg > threshold).mean())}
    label, label_adv = (predict(model, part).argmax(1).numpy(force=True) for part in (x, x_adv))
    out["auroc_within_class"] = within_class(clean, adversarial, label, label_adv)
    out["flagged_adversarial"] = float((adversarial > threshold).mean())
    stand_ins = {f"noise_{kind}": matched_noise(x, x_adv, index, kind, seed) for kind in NOISES} | {"swapped": swapped(x, x_adv)}
    for name, images in stand_ins.items():
        found = scores(detector, images).numpy(force=True)
        out[f"auroc_{name}"], out[f"flagged_{name}"] = auroc(clean, found), float((found > threshold).mean())
    out["n"] = len(x)
    right = predict(model, test.x).argmax(1) == test.y if right is None else right
    test = test[torch.cat([group.nonzero()[:MOST, 0] for group in (right, ~right)])]
    right = torch.arange(len(test)) < right.sum().clamp_max(MOST).item()
    flagged = (scores(detector, test.pixels()) > threshold).numpy(force=True)
    right = right.numpy()
    out["flagged_clean_right"] = float(flagged[right].mean())
    out["flagged_clean_wrong"] = float(flagged[~right].mean()) if (~right).any() else None
    out["n_clean_right"], out["n_clean_wrong"] = int(right.sum()), int((~right).sum())
    return out


def within_class(clean: np.ndarray, adversarial: np.ndarray, label: np.ndarray, label_adv: np.ndarray) -> float | None:
    """Mean AUROC over predicted classes, weighted by the number of pairs compared; None when no class has both."""
    values, weights = [], []
    for c in np.union1d(label, label_adv):
        a, b = clean[label == c], adversarial[label_adv == c]
        if len(a) and len(b):
            values.append(auroc(a, b))
            weights.append(len(a) * len(b))
    return float(np.average(values, weights=weights)) if values else None


def random_noise_harmless(model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor, index: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Share of predictions changed by the attack and by sign noise of the same size: an attack must do more than noise does."""
    attacked = (predict(model, x_adv).argmax(1) != y).float().mean().item()
    noisy = (predict(model, matched_noise(x, x_adv, index, "sign")).argmax(1) != y).float().mean().item()
    n = len(x)
    return {"attack": attacked, "noise": noisy, "noise_interval": list(wilson(noisy * n, n))}
