"""Controls that measure: what a detector says of noise, of storage, of another image's
perturbation, of misread images.
"""

import io

import numpy as np
import torch
from torch import nn

from nbutils.attacks.geometry import l2_norm
from nbutils.data.images import Images
from nbutils.detectors.base import Detector, scores, threshold_at
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.leaks import batch_composition, says_something, storage_format
from nbutils.evaluation.metrics import auroc
from nbutils.models.contract import predict

MOST = 1000  # clean images, read rightly and wrongly, that a control scores


NOISES = ("sign", "gaussian")


def through_jpeg(x: torch.Tensor, quality: int = 90) -> torch.Tensor:
    """Images (n,c,h,w) of one or three channels as they come back from JPEG files of this quality,
    colour at full resolution.
    """
    from PIL import Image

    def one(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(
            file, "JPEG", quality=quality, subsampling=0
        )
        back = np.asarray(Image.open(file))
        return back[None] if back.ndim == 2 else back.transpose(2, 0, 1)

    stored = (x * 255).round().to(torch.uint8).numpy(force=True)
    back = torch.from_numpy(np.stack([one(image) for image in stored])).contiguous()
    return back.to(x.device).to(x.dtype) / 255


def matched_noise(
    x: torch.Tensor, x_adv: torch.Tensor, index: torch.Tensor, kind: str, seed: int = 0
) -> torch.Tensor:
    """Clean images with noise of the rms that the attack gave each: random signs, or Gaussian,
    clipped to [0,1] and refilled to that rms.
    """
    rms = l2_norm(x_adv - x) / x[0].numel() ** 0.5
    noise = np.empty(x.shape, np.float32)
    for place, number in zip(noise, index.tolist(), strict=True):
        draw = np.random.default_rng([seed, 7, number]).standard_normal(place.shape)
        place[...] = np.sign(draw) if kind == "sign" else draw
    noise = torch.from_numpy(noise).to(x)
    scale = rms
    for _ in range(10):  # clipping takes some of the noise away: scale until the size matches
        noisy = (x + scale * noise).clamp(0, 1)
        scale = scale * rms / (l2_norm(noisy - x) / x[0].numel() ** 0.5).clamp_min(1e-12)
    return (x + scale * noise).clamp(0, 1)


def swapped(x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """Clean images with the perturbation that was made for the image before: the attack's size and
    structure, in the wrong place.
    """
    return (x + (x_adv - x).roll(1, 0)).clamp(0, 1)


def measured(
    detector: Detector,
    x: torch.Tensor,
    x_adv: torch.Tensor,
    index: torch.Tensor,
    test: Images,
    calibrate: torch.Tensor,
    *,
    right: torch.Tensor | None = None,
    collapsed: bool = False,
    fpr: float = 0.05,
    seed: int = 0,
) -> dict[str, float]:
    """The controls of one fitted detector on test pairs, at a threshold of `fpr` on the images
    `calibrate`.

    Args:
        test: clean test images, for the third group: those that the classifier gets wrong without
            any attack (MOST of each group are scored).
        right: (n,) which of them it gets right; None: asked here.
        collapsed: its training is known to have failed, so that it may say the same of everything.
    Returns:
        auroc, and auroc_8bit: both sides rounded; auroc_fractions: clean images with the attack's
            fractions of a level alone; auroc_jpeg: both sides through JPEG, so that neither side
            alone has such a past;
        auroc_within_class: clean and adversarial images of the same *predicted* class only;
        auroc_noise_*: clean images with noise of the attack's rms, in the attack's place;
            auroc_swapped:
        with another image's perturbation;
        flagged_*: shares above the threshold of the adversarial images, of these controls, of clean
            images
        through JPEG, of those classified rightly and wrongly.
    """
    batch_composition(detector, x, x_adv)
    model, threshold = detector.classifier, threshold_at(scores(detector, calibrate), fpr)
    clean, adversarial = (scores(detector, part).numpy(force=True) for part in (x, x_adv))
    if not collapsed:
        says_something(clean, adversarial)
    stored = storage_format(detector, x, x_adv, index)
    out = {
        "auroc": auroc(clean, adversarial),
        "auroc_8bit": stored["rounded"],
        "auroc_fractions": stored["fractions"],
    }
    jpeg, jpeg_adv = (scores(detector, through_jpeg(part)).numpy(force=True) for part in (x, x_adv))
    out["auroc_jpeg"] = auroc(jpeg, jpeg_adv)
    out["flagged_jpeg"] = float((jpeg > threshold).mean())
    label, label_adv = (predict(model, part).argmax(1).numpy(force=True) for part in (x, x_adv))
    out["auroc_within_class"] = within_class(clean, adversarial, label, label_adv)
    out["flagged_adversarial"] = float((adversarial > threshold).mean())
    harmless = {f"noise_{kind}": matched_noise(x, x_adv, index, kind, seed) for kind in NOISES}
    harmless["swapped"] = swapped(x, x_adv)
    for name, images in harmless.items():
        found = scores(detector, images).numpy(force=True)
        out[f"auroc_{name}"] = auroc(clean, found)
        out[f"flagged_{name}"] = float((found > threshold).mean())
    out["n"] = len(x)
    right = predict(model, test.x).argmax(1) == test.y if right is None else right
    return out | _flagged_clean(detector, threshold, test, right)


def _flagged_clean(
    detector: Detector, threshold: float, test: Images, right: torch.Tensor
) -> dict[str, float]:
    """Shares flagged of the clean images that the classifier reads rightly, and of those that it
    does not.
    """
    out = {}
    for name, group in (("right", right), ("wrong", ~right)):
        chosen = test[group.nonzero()[:MOST, 0]]
        out[f"n_clean_{name}"] = len(chosen)
        out[f"flagged_clean_{name}"] = None
        if len(chosen):
            flagged = scores(detector, chosen.pixels()) > threshold
            out[f"flagged_clean_{name}"] = flagged.double().mean().item()
    return out


def within_class(
    clean: np.ndarray, adversarial: np.ndarray, label: np.ndarray, label_adv: np.ndarray
) -> float | None:
    """Mean AUROC over predicted classes, weighted by the number of pairs compared; None when no
    class has both.
    """
    values, weights = [], []
    for c in np.union1d(label, label_adv):
        a, b = clean[label == c], adversarial[label_adv == c]
        if len(a) and len(b):
            values.append(auroc(a, b))
            weights.append(len(a) * len(b))
    return float(np.average(values, weights=weights)) if values else None


def random_noise_harmless(
    model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor, index: torch.Tensor, y: torch.Tensor
) -> dict[str, float]:
    """Share of predictions changed by the attack and by sign noise of the same size: an attack must
    do more than noise does.
    """
    attacked = (predict(model, x_adv).argmax(1) != y).float().mean().item()
    noisy = (
        (predict(model, matched_noise(x, x_adv, index, "sign")).argmax(1) != y)
        .float()
        .mean()
        .item()
    )
    n = len(x)
    return {"attack": attacked, "noise": noisy, "noise_interval": list(wilson(noisy * n, n))}
