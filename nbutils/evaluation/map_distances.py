"""How far saliency maps lie apart, and what paper 000 makes of it: its tables 1 and 5, and the same
comparison for maps of other kinds.

Maps are (n,1,h,w), those of one image in the same row everywhere; "clean" names the maps of the
images as they are, every other name an attack.
"""

from collections.abc import Mapping

import numpy as np
import torch

from nbutils.evaluation.distances import distances, mann_whitney, rank_correlation, rank_gain
from nbutils.evaluation.intervals import auroc_interval
from nbutils.saliency.maps import normalised

Sets = Mapping[str, torch.Tensor]  # "clean" and each attack -> maps or labels

PHOTOGRAPHS = ("cats_dogs", "imagenet_subset", "folder")


def column_of_000(dataset: str) -> str:
    """The column of paper 000's tables beside which a data set stands: its own, else the nearest
    kind of picture.
    """
    if dataset == "cifar10":
        return "cifar10"
    return "cats_dogs" if dataset in PHOTOGRAPHS else "mnist"


def printed_name(attack: str) -> str:
    """An attack's name in paper 000's tables: the setting's name without the mark of the paper."""
    return attack.removesuffix("_000")


def moved(clean: torch.Tensor, attacked: torch.Tensor, *, scaled: bool = False) -> torch.Tensor:
    """How far each map moved under attack: the distance (n,) of the maps of an image and of its
    attacked version, in [0,1] for maps in [0,1].

    Args:
        scaled: divide each map by its own largest value first, so that only its shape counts.
    """
    if scaled:
        clean, attacked = normalised(clean), normalised(attacked)
    return distances(clean, attacked)


def natural(
    maps: torch.Tensor, classes: torch.Tensor, *, scaled: bool = False, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the maps of two different clean images lie apart: the yardstick for `moved`.

    The images stand in a random circle and each is compared with its neighbour, so that every map
    is used twice and none is compared with itself.

    Args:
        classes: (n,) of the images, by which pairs of the same class are told from others.
    Returns:
        distances (n,), and whether the two images of a pair are of the same class (n,).
    """
    if scaled:
        maps = normalised(maps)
    order = torch.from_numpy(np.random.default_rng([seed, 12]).permutation(len(maps)))
    order = order.to(maps.device)
    one, two = order, order.roll(1)
    return distances(maps[one], maps[two]), classes[one] == classes[two]


def table1(maps: Sets, classes: torch.Tensor, success: Sets, *, seed: int = 0) -> list[dict]:
    """Paper 000's table 1: distances of two clean images' maps, then how far each attack moved.

    Args:
        success: for each attack (n,), whether it changed the prediction.
    Returns:
        rows of `attack`, the mean distance `here`, its `std` over images, `norm` (the mean as an L2
        norm) and `n`; for attacks `effect` with its interval and p values (`mann_whitney` against
        the pairs of clean images), the share that was fooled, and the effect on those alone.
    """
    root = maps["clean"][0].numel() ** 0.5
    apart, same = natural(maps["clean"], classes, seed=seed)
    groups = {
        "different_images": apart,
        "different_images, same class": apart[same],
        "different_images, other class": apart[~same],
    }
    rows = [_row(name, found, root) for name, found in groups.items() if len(found)]
    for attack, fooled in success.items():
        found = moved(maps["clean"], maps[attack])
        row = _row(printed_name(attack), found, root)
        row |= mann_whitney(found, apart) | {"success": fooled.double().mean().item()}
        row["effect_interval"] = list(auroc_interval(row["effect"], len(apart), len(found)))
        if fooled.any():
            alone = found[fooled]
            row["effect_fooled"] = mann_whitney(alone, apart)["effect"]
            row["n_fooled"] = len(alone)
        rows.append(row)
    return rows


def _row(name: str, found: torch.Tensor, root: float) -> dict:
    mean = found.mean().item()
    return {
        "attack": name,
        "statistic": "mean",
        "here": mean,
        "std": found.std().item() if len(found) > 1 else None,
        "norm": mean * root,
        "n": len(found),
    }


def table5(maps: Sets, labels: Sets) -> list[dict]:
    """Paper 000's table 5: how far the maps of one attack's images lie from another attack's.

    Args:
        labels: (n,) the predicted class that each map is asked about.
    Returns:
        a row for each pair of attacks; `same label` is the share of images on which both end in one
        class.
    """
    attacks = [name for name in maps if name != "clean"]
    rows = []
    for i, a in enumerate(attacks):
        for b in attacks[i + 1 :]:
            found = distances(maps[a], maps[b])
            root = maps[a][0].numel() ** 0.5
            rows.append(
                {
                    "attack_a": printed_name(a),
                    "attack_b": printed_name(b),
                    "here": found.mean().item(),
                    "std": found.std().item() if len(found) > 1 else None,
                    "norm": found.mean().item() * root,
                    "same label": (labels[a] == labels[b]).double().mean().item(),
                    "n": len(found),
                }
            )
    return rows


def effects(maps: Mapping[str, Sets], classes: torch.Tensor, *, seed: int = 0) -> list[dict]:
    """For each kind of map and attack: the share of pairs in which the attack moved the map further
    than two clean images' maps lie apart, as the maps are (`raw`) and by their shape (`scaled`).

    Args:
        maps: kind -> "clean" and attacks -> maps.
    """
    rows = []
    for kind, sets in maps.items():
        apart = {
            name: natural(sets["clean"], classes, scaled=name == "scaled", seed=seed)[0]
            for name in ("raw", "scaled")
        }
        for attack in [name for name in sets if name != "clean"]:
            row: dict = {"map": kind, "attack": attack}
            for name, yardstick in apart.items():
                found = moved(sets["clean"], sets[attack], scaled=name == "scaled")
                row[name] = mann_whitney(found, yardstick)["effect"]
                bounds = auroc_interval(row[name], len(yardstick), len(found))
                row[f"{name}_interval"] = list(bounds)
            rows.append(row | {"n": len(sets["clean"])})
    return rows


def sizes_of_maps(maps: Mapping[str, Sets]) -> list[dict]:
    """How large the maps are before anything scales them: the median over images of a map's
    `largest` value, the share of maps that are `empty`, zero everywhere, and the median
    `half_area` of the others.
    """
    rows = []
    for kind, sets in maps.items():
        for name, found in sets.items():
            largest = found.flatten(1).amax(1).double()
            rows.append(
                {
                    "map": kind,
                    "images": name,
                    "largest": largest.median().item(),
                    "empty": (largest == 0).double().mean().item(),
                    "half_area": half_area(found).nanmedian().item(),
                    "n": len(found),
                }
            )
    return rows


def half_area(maps: torch.Tensor) -> torch.Tensor:
    """The smallest share of pixels (n,) that holds half of a map's sum: small where a map is sharp,
    one half where it is the same everywhere; not a number where it is empty.
    """
    ordered = maps.flatten(1).double().sort(1, descending=True).values.cumsum(1)
    whole = ordered[:, -1:]
    pixels = (ordered < whole / 2).sum(1) + 1
    return torch.where(whole[:, 0] > 0, pixels / ordered.shape[1], torch.nan)


def largest_change(x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """The perturbation as a map (n,1,h,w): at each pixel the largest change over the channels."""
    return (x_adv - x).abs().amax(1, keepdim=True)


def perturbation_ranks(jacobians: Sets, perturbations: Sets, *, seed: int = 0) -> list[dict]:
    """Is the perturbation large where the Jacobian is? Spearman's rank correlation over the pixels
    of an image, its mean over images, for each attack.

    Args:
        jacobians: gradient maps of "clean" and of each attack.
        perturbations: `largest_change` of each attack.
    Returns:
        rows of `clean Jacobian` and `attacked Jacobian`, each with the image's own perturbation;
        `control`, the clean one with the perturbation of the image before; `other image's
        perturbation`, the attacked one with that; `interval` of what the attacked one's own
        perturbation has above it.
    """
    rows = []
    for attack, own in perturbations.items():
        other, clean, attacked = own.roll(1, 0), jacobians["clean"], jacobians[attack]
        _, elsewhere, bounds = rank_gain(attacked, own, other, seed)
        rows.append(
            {
                "attack": attack,
                "clean Jacobian": _mean(rank_correlation(clean, own)),
                "attacked Jacobian": _mean(rank_correlation(attacked, own)),
                "control": _mean(rank_correlation(clean, other)),
                "other image's perturbation": elsewhere,
                "interval": bounds,
                "n": len(own),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float:
    """The mean of those that are numbers; not a number where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
