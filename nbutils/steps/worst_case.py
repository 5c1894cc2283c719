"""How a detector stands that has to meet every attack at once: what the scoreboard ranks by."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nbutils import InputError
from nbutils.adaptive.settings import FPRS
from nbutils.attacks.settings import settings_for
from nbutils.data.images import Dataset
from nbutils.detectors.base import Detector, scores, threshold_at
from nbutils.evaluation import leaks
from nbutils.evaluation.controls import matched_noise
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.matrices import norm_of
from nbutils.evaluation.tables import frame
from nbutils.models.contract import predict
from nbutils.steps import viewing
from nbutils.steps.adversarial import AdversarialSet, adversarial
from nbutils.steps.classifier import classifier
from nbutils.steps.detector import fitted, usable
from nbutils.steps.evaluation import evaluation
from nbutils.steps.run import Memory, Run
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of

FAMILIES = {"linf": "L-infinity", "l2": "L2", "l0": "L0"}
EVERY = "every attack"
CAUGHT = (
    "detector",
    "family",
    "attacks",
    "mean_1",
    "mean_5",
    "worst_5",
    "worst",
    "caught_1",
    "caught_5",
    "low",
    "high",
    "caught_10",
    "n",
)
BESIDE_NOISE = ("detector", "flagged_noise", "flagged_attack", "cost", "n")


def caught(found: torch.Tensor, success: torch.Tensor, threshold: float) -> torch.Tensor:
    """(m,) bool, of the images that at least one attack fools: is *every* picture that fools, made
    from this image, flagged? The multi-armed evaluation of Granese et al. (2022).

    Args:
        found: (a,n) scores of what each attack made of each image.
        success: (a,n) bool, whether it fools.
        threshold: the score above which a picture is flagged.
    """
    missed = (success & (found <= threshold)).any(0)
    return ~missed[success.any(0)]


def of_every_attack(
    run: Run, detectors: Sequence[str], fitted_on: str, attacks: Sequence[str]
) -> pd.DataFrame:
    """Each detector, fitted once, on all these attacks: columns of CAUGHT, a row for the attacks of
    each norm and one for all of them.

    `mean_k`: the share of the pictures that fool which is flagged at k % false positives, mean over
    attacks, `worst_5` that under the attack `worst`, which is flagged least. `caught_k`: the share
    of images of which every picture that fools is flagged, of the n that some attack fools, with
    Wilson's interval at 5 %. Thresholds come from calibration images.
    """
    kinds = settings_for(run.pictures)
    norms = {attack: FAMILIES[norm_of(kinds[attack])] for attack in attacks}
    families = {
        family: [attack for attack in attacks if norms[attack] == family]
        for family in FAMILIES.values()
    }
    families = {family: members for family, members in families.items() if members}
    rows = []
    for name in detectors:
        found = {attack: evaluation(run, name, fitted_on, attack, fits=1) for attack in attacks}
        pairs = {attack: adversarial(run, attack) for attack in attacks}
        first = next(iter(pairs.values()))
        if any(not torch.equal(one.index, first.index) for one in pairs.values()):
            raise InputError("Attacks that start from different test images have no common worst.")
        thresholds = {
            fpr: threshold_at(found[attacks[0]].tensors["calibrate"][0], fpr) for fpr in FPRS
        }
        for family, members in {**families, EVERY: list(attacks)}.items():
            by_attack = [found[one].tensors["adversarial"][0].cpu() for one in members]
            success = torch.stack([pairs[one].success.cpu() for one in members])
            rows.append(_row(name, family, members, torch.stack(by_attack), success, thresholds))
    return frame(rows, CAUGHT)


def _row(
    name: str,
    family: str,
    members: list[str],
    found: torch.Tensor,
    success: torch.Tensor,
    thresholds: dict[float, float],
) -> dict:
    shares = {}
    for fpr, threshold in thresholds.items():
        flagged = (found > threshold) & success
        counts = success.sum(1)
        shares[fpr] = {
            one: flagged[i].sum().item() / counts[i].item()
            for i, one in enumerate(members)
            if counts[i]
        }
    hits = {fpr: caught(found, success, threshold) for fpr, threshold in thresholds.items()}
    n, at_5 = len(hits[0.05]), shares[0.05]
    worst = min(at_5, key=at_5.get, default="")
    low, high = wilson(int(hits[0.05].sum()), n) if n else (None, None)
    told = {f"caught_{round(100 * fpr)}": _share(hit) for fpr, hit in hits.items()}
    return {
        "detector": name,
        "family": family,
        "attacks": len(members),
        "mean_1": _mean(shares[0.01]),
        "mean_5": _mean(at_5),
        "worst_5": at_5.get(worst),
        "worst": worst,
        **told,
        "low": low,
        "high": high,
        "n": n,
    }


def _share(hits: torch.Tensor) -> float | None:
    return hits.double().mean().item() if len(hits) else None


def _mean(values: dict[str, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def beside_noise(run: Run, detectors: Sequence[str], fitted_on: str) -> pd.DataFrame:
    """What each detector flags that is no attack, and what it costs: columns of BESIDE_NOISE.

    `flagged_noise`: the share of clean pictures with sign noise of the attack's size that are
    flagged at 5 % false positives, of the attack or mixture that it was fitted on;
    `flagged_attack` that of the attacked pictures.
    """
    rows = []
    for name in detectors:
        made, _ = fitted(run, name, fitted_on)
        spent = cost(made, run.data.test[:4].pixels())
        rows.append({"detector": name, **on_noise(run, name, fitted_on), "cost": spent})
    return frame(rows, BESIDE_NOISE)


def on_noise(run: Run, name: str, fitted_on: str) -> dict:
    """How often a detector flags an attack, and noise of its size: `make_on_noise`'s record."""
    usable(run, name)
    found, artifact = fitted(run, name, fitted_on)
    pairs, base = adversarial(run, fitted_on), classifier(run)
    parents = {"pairs": pairs.artifact, "classifier": base.artifact}
    return run.step(
        "on_noise",
        f"{name}-{pairs.artifact.path.name}",
        make_on_noise,
        {"data": run.data, "found": found, "pairs": pairs, "memory": run.memory},
        {"detector": name, "fpr": 0.05, "seed": run.seed},
        known={"calibrate": key_of(run.data.calibrate.index)},
        parents=parents | ({"fit": artifact} if artifact else {}),
    ).record


def make_on_noise(
    parts: Parts,
    *,
    data: Dataset,
    found: Detector,
    pairs: AdversarialSet,
    memory: Memory,
    detector: str,
    fpr: float,
    seed: int,
) -> tuple[dict, dict]:
    """No tensors; shares flagged at a threshold from calibration images."""
    leaks.sources_disjoint(data.calibrate.index, pairs.index)
    threshold = threshold_at(viewing.scores_of(memory, [found], data.calibrate.pixels())[0], fpr)
    noisy = matched_noise(pairs.x, pairs.x_adv, pairs.index, "sign", seed)
    flagged = {
        f"flagged_{name}": (scores(found, x) > threshold).double().mean().item()
        for name, x in (("noise", noisy), ("attack", pairs.x_adv))
    }
    return {}, {**flagged, "n": len(noisy)}


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products, those of
    derivatives among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        out = function(*arguments, **(named or {}))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.total += count(*arguments, **(named or {}), out_val=out)
        return out


def cost(detector: Detector, x: torch.Tensor) -> float:
    """The arithmetic of the scores of these images beside that of the classifier's reading."""
    with Flops() as reading:
        predict(detector.classifier, x)
    scores(detector, x)  # what is looked up once, such as the places of taps, is no part of it
    with Flops() as scoring:
        scores(detector, x)
    return scoring.total / reading.total
