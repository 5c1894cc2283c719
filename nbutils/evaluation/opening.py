"""What notebook 00 opens with: one image, a forged copy of it, as much noise, and their maps."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from nbutils.data.images import to_levels
from nbutils.evaluation.controls import matched_noise
from nbutils.evaluation.distances import mean_interval, rank_correlation, sizes
from nbutils.evaluation.intervals import auroc_interval, wilson
from nbutils.evaluation.metrics import auroc
from nbutils.models.contract import predict
from nbutils.saliency.gradients import gradient
from nbutils.saliency.maps import in_batches

SURE = 0.95  # the largest softmax probability of a reading that we call sure
FARTHEST = 4.0  # how often the smallest perturbation is taken at most
NOISY, ATTACKED = "noisy image, its own class", "attacked image, its own class"
RIGHT_CLASS = "attacked image, asked for the right class"
WRONG_CLASS = "clean image, asked for the wrong class"


def smallest(model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor, y: torch.Tensor) -> int:
    """Which image was fooled by the smallest perturbation (l2), of those read rightly and surely.

    Where no fooled image was read surely, of those read rightly; where none was, of all that were
    fooled; where the attack fooled nobody, the first image.
    """
    before, after = predict(model, x), predict(model, x_adv)
    label = before.argmax(1)
    fooled = after.argmax(1) != label
    right = fooled & (label == y.to(label.device))
    sure = right & (before.softmax(1).amax(1) >= SURE)
    size = sizes(x, x_adv)["l2"].to(label.device)
    for group in (sure, right, fooled):
        if group.any():
            return int(size.masked_fill(~group, torch.inf).argmin())
    return 0


def carried_on(model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """A perturbation of one image, carried on along its line until the wrong reading is as sure as
    the right one was.

    The smallest perturbation ends on the border between two classes, where the classifier is sure
    of neither.

    Args:
        x, x_adv: (1,c,h,w), the image and its smallest adversarial neighbour.
    Returns:
        (1,c,h,w) with 8 bits a value: the nearest point of the line with the same wrong reading
        and the probability of the clean one's reading (SURE is enough); the surest one up to
        FARTHEST where none has it.
    """
    factors = torch.arange(1, FARTHEST + 0.01, 0.05, device=x.device, dtype=x.dtype)
    line = to_levels((x + factors[:, None, None, None] * (x_adv - x)).clamp(0, 1))
    probabilities = predict(model, line).softmax(1)
    wrong = predict(model, x_adv).argmax(1)
    reached = probabilities[:, wrong[0]].masked_fill(probabilities.argmax(1) != wrong, -1)
    enough = predict(model, x).softmax(1).amax().clamp_max(SURE)
    sure = (reached >= enough).nonzero().flatten()
    place = int(sure[0]) if len(sure) else int(reached.argmax())
    return line[place : place + 1]


def readings(
    model: nn.Module, pictures: Mapping[str, torch.Tensor], classes: Sequence[str]
) -> pd.DataFrame:
    """How the classifier reads each picture (1,c,h,w), and how far it is from the first of them.

    Returns:
        a row a picture: `read_as`, `confidence` (largest softmax probability), `rms` and `largest`
        change in [0,1] units.
    """
    first, rows = next(iter(pictures.values())), []
    for name, picture in pictures.items():
        confidence, label = predict(model, picture).softmax(1)[0].max(0)
        size = sizes(first, picture)
        rows.append(
            {
                "picture": name,
                "read_as": classes[int(label)],
                "confidence": confidence.item(),
                "rms": size["rms"].item(),
                "largest": size["linf"].item(),
            }
        )
    return pd.DataFrame(rows)


def noise_changes(
    model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor, draws: int = 1000
) -> dict[str, float]:
    """How often random signs of the perturbation's rms change the reading of one image.

    Args:
        x, x_adv: (1,c,h,w).
    Returns:
        `changed` and `draws`, counts, and Wilson's `interval` of their quotient.
    """
    label = predict(model, x).argmax(1)
    many = [picture.expand(draws, -1, -1, -1) for picture in (x, x_adv)]
    noisy = matched_noise(*many, torch.arange(draws), "sign")
    changed = int((predict(model, noisy).argmax(1) != label).sum())
    return {"changed": changed, "draws": draws, "interval": list(wilson(changed, draws))}


def map_correlations(
    model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor, index: torch.Tensor
) -> pd.DataFrame:
    """How like the clean image's gradient map others are: rank correlation, mean over the fooled.

    A map belongs to an image and to the class that is asked for, its selector. The attack changes
    both, so each is also changed alone.

    Returns:
        a row a map: `correlation` with its bootstrap interval `low`, `high`, and `n` images; no
        number where nobody was fooled.
    """
    label, label_adv = (predict(model, part).argmax(1).to(x.device) for part in (x, x_adv))
    noisy = matched_noise(x, x_adv, index, "sign")
    others = {
        NOISY: (noisy, predict(model, noisy).argmax(1).to(x.device)),
        ATTACKED: (x_adv, label_adv),
        RIGHT_CLASS: (x_adv, label),
        WRONG_CLASS: (x, label_adv),
    }
    fooled = label != label_adv
    rows = []
    for name, (images, classes) in others.items():
        row = {"map": name, "correlation": None, "low": None, "high": None, "n": 0}
        if fooled.any():
            both = [(x, label), (images, classes)]
            maps = [in_batches(gradient, model, a[fooled], b[fooled], batch=64) for a, b in both]
            found = rank_correlation(*maps)
            found = found[np.isfinite(found)]  # a constant map has no ranks
        if fooled.any() and len(found):
            low, high = mean_interval(found)
            row |= {"correlation": found.mean().item(), "low": low, "high": high, "n": len(found)}
        rows.append(row)
    return pd.DataFrame(rows)


def separation(clean: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """AUROC of two groups of scores, with Newcombe's interval."""
    groups = [part.flatten().numpy(force=True) for part in (clean, other)]
    value = auroc(*groups)
    low, high = auroc_interval(value, *(len(group) for group in groups))
    return {"auroc": value, "low": low, "high": high, "n": len(groups[0])}


def told(found: pd.DataFrame, noise: Mapping[str, float]) -> str:
    """What `readings` of a clean, a noisy and an attacked picture, and `noise_changes`, say."""
    clean, _, attacked = found.to_dict("records")
    if attacked["read_as"] == clean["read_as"]:
        return (
            f"The attack fooled nobody here: the picture is read as {clean['read_as']} before and "
            "after, and there is nothing to detect."
        )
    return (
        f"The attacked picture is read as {attacked['read_as']} ({attacked['confidence']:.0%}), "
        f"the clean one as {clean['read_as']} ({clean['confidence']:.0%}), and yet no value "
        f"differs by more than {attacked['largest']:.1%} of the range. Of {noise['draws']} draws "
        f"of noise of the same rms, {noise['changed']} change the reading."
    )


def told_maps(found: pd.DataFrame) -> str:
    """What `map_correlations` says: does the map follow the forgery, or the class asked for?"""
    rows = found.set_index("map")
    if not rows["n"].min():
        return "The attack fooled nobody here, so there are no forged maps to compare."
    mean = rows["correlation"]
    said = (
        f"In the mean over {rows['n'].min()} fooled images, the map has a rank correlation of "
        f"{mean[NOISY]:.2f} with the clean image's after noise, and of {mean[ATTACKED]:.2f} after "
        "the attack. "
    )
    by_class = 1 - mean[WRONG_CLASS]
    by_image = 1 - mean[RIGHT_CLASS]
    said += (
        f"Changing the class alone gives {mean[WRONG_CLASS]:.2f}, and changing the image alone "
        f"{mean[RIGHT_CLASS]:.2f}. "
    )
    if by_class > 2 * by_image:
        return said + "So the map has changed with the class that is asked for, not by the forgery."
    if by_image > 2 * by_class:
        return said + "So the map has changed with the image, whichever class is asked for."
    return said + "So both the class that is asked for and the image have changed the map."


def told_detector(known: Mapping, unknown: Mapping, noise: Mapping) -> str:
    """What a detector has learned: rows with `auroc`, `low`, `high` of the attack that it was
    trained on, of another one, and of noise that is no attack.
    """
    said = (
        f"The detector tells {known['tested_on']} from clean images with an AUROC of "
        f"{known['auroc']:.3f} ({known['low']:.3f} to {known['high']:.3f}), "
        f"{unknown['tested_on']} with {unknown['auroc']:.3f} ({unknown['low']:.3f} to "
        f"{unknown['high']:.3f}), and noise that is no attack with {noise['auroc']:.3f} "
        f"({noise['low']:.3f} to {noise['high']:.3f}). "
    )
    if known["low"] <= 0.5:
        return said + "It has not learned to tell even its own attack from clean images."
    if unknown.get("success") == 0:
        return said + f"But {unknown['tested_on']} fooled nobody here and left nothing to find."
    if noise["low"] <= 0.5:
        return said + "It does not take noise for an attack."
    if noise["low"] > unknown["high"]:
        return said + (
            "Noise looks more like an attack to it than another attack does: it has learned to "
            "see what is added, not that the classifier was fooled."
        )
    return said + "It takes some noise for an attack, so a part of what it sees is noise."


def literal(name: str) -> str:
    """A name for Markdown, which would read signs like `*` and `$` in it as marks and formulas."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", name)


def found_out(
    pictures: pd.DataFrame, noise: Mapping, maps: pd.DataFrame, tested: pd.DataFrame
) -> str:
    """The findings of the notebook, one a line of Markdown.

    Args:
        pictures: of `readings`. noise: of `noise_changes`. maps: of `map_correlations`.
        tested: AUROC of one detector on its own attack, on another and on noise, in this order.
    """
    clean, _, attacked = pictures.to_dict("records")
    before, after = literal(clean["read_as"]), literal(attacked["read_as"])
    lines = [
        f"- A change with an rms of {attacked['rms']:.3f} turned {before} into "
        f"{after}, and {noise['draws']} draws of noise of that rms changed the "
        f"reading {noise['changed']} times. An attack is a direction, not an amount."
    ]
    if attacked["read_as"] == clean["read_as"]:
        lines = ["- The gentle attack fooled nobody in this run, so its picture shows nothing."]
    mean = maps.set_index("map")["correlation"]
    if maps["n"].min():
        lines.append(
            f"- The forged image's map was another one (rank correlation {mean[ATTACKED]:.2f} with "
            "the clean image's), but the clean image's own map for the wrong class had "
            f"{mean[WRONG_CLASS]:.2f}. Whoever compares maps has to control for the class."
        )
    own, other, harmless = tested["auroc"]
    lines.append(
        f"- A detector with an AUROC of {own:.2f} on the attack that it was trained on had "
        f"{other:.2f} on another one and {harmless:.2f} on noise. One number does not say what a "
        "detector has learned."
    )
    return "\n".join(lines)
