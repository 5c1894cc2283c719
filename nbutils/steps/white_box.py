"""What is left of a detector when the attacker knows it: games of attacks on classifier and
detector together, judged by the detector itself at thresholds from calibration images.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nbutils import InputError
from nbutils.adaptive import ADAPTIVE
from nbutils.adaptive.objectives import Joint, both_orders, joint
from nbutils.adaptive.settings import FPRS, games
from nbutils.adaptive.surrogates import as_printed, is_exact, surrogate, zero_gradients
from nbutils.attacks.contract import other_labels
from nbutils.attacks.cost import Counted
from nbutils.attacks.objective import CLASSIFIER, Objective
from nbutils.data.images import Dataset, Images
from nbutils.detectors.base import Detector, scores, threshold_at
from nbutils.models.contract import predict
from nbutils.steps.adversarial import AdversarialSet, adversarial
from nbutils.steps.classifier import Classifier, classifier
from nbutils.steps.detector import fitted, usable
from nbutils.steps.evaluation import held_out
from nbutils.steps.hardening import refitted
from nbutils.steps.run import Memory, Run
from nbutils.store.artifacts import Artifact, Parts
from nbutils.store.fingerprints import key_of

OF_GAME = (
    "attack",
    "form",
    "weight",
    "in_deviations",
    "targeted",
)  # of an attack's entry, not knobs of it
BASE = "004.pgd"  # whose test images, and labels to leave, all games share
JUDGED_AT = 0.05  # false positives at which the least size is kept
COMPARED = 200  # calibration images that a surrogate's own threshold comes from


@dataclass(frozen=True)
class Guard:
    """A detector that is attacked; `detector` None: nothing guards the classifier."""

    name: str
    detector: Detector | None
    artifact: Artifact | None
    collapsed: bool = False

    @property
    def content(self) -> str:
        return self.artifact.content if self.artifact else self.name


@dataclass(frozen=True)
class Played:
    """What a game made of n images.

    `fooled` (n,) bool: misread, or read as the target; `score` and `clean` (n,) the detector's own
    of the attacked and of the clean images; `thresholds` (3,) at FPRS; `zero` (n,) bool: no
    gradient at the clean image, of the detector itself.
    """

    x: torch.Tensor
    x_adv: torch.Tensor
    y: torch.Tensor
    prediction: torch.Tensor
    prediction_adv: torch.Tensor
    fooled: torch.Tensor
    score: torch.Tensor
    clean: torch.Tensor
    thresholds: torch.Tensor
    zero: torch.Tensor
    record: dict

    def won(self, fpr: float) -> torch.Tensor:
        """(n,) bool: the classifier is wrong and the detector silent, at this rate of false
        positives.
        """
        return self.fooled & (self.score <= self.thresholds[FPRS.index(fpr)])

    @property
    def l2(self) -> torch.Tensor:
        """(n,) the size of each perturbation."""
        return (self.x_adv - self.x).flatten(1).double().norm(dim=1)


def guard(
    run: Run, name: str, fitted_on: str, *, hardened: int = 0, half: int | None = None
) -> Guard:
    """The detector of this name, fitted on an attack or a mixture.

    Args:
        hardened: so many rounds of adversarial training against paper 000's attack. half: fitted on
            one half of the training images alone, 0 or 1. Both are for networks.
    """
    if name == "none":
        return Guard(name, None, None)
    if hardened or half is not None:
        made, artifact = refitted(run, name, fitted_on, rounds=hardened, half=half)
    else:
        made, artifact = fitted(run, name, fitted_on)
    return Guard(name, made, artifact, bool(artifact and artifact.record.get("collapsed")))


def white_box(
    run: Run,
    name: str,
    game: str,
    fitted_on: str,
    *,
    hardened: int = 0,
    half: int | None = None,
    n: int = 0,
    through_map: bool = True,
    **changed: float | int | str | bool,
) -> Played:
    """A game against a detector, on the first `white_box_test` test images.

    Args:
        name: of the detector; "none": the classifier alone.
        game: one of `adaptive.settings.games`. changed: knobs of its attacks.
        fitted_on, hardened, half: as of `guard`.
        n: fewer images. through_map: as of `surrogate`.
    """
    key = (name, game, fitted_on, hardened, half, n, through_map, *changed.items())
    return run.memory.once(
        ("white box", *key),
        _white_box,
        run,
        name,
        game,
        fitted_on,
        hardened,
        half,
        n,
        through_map,
        changed,
    )


def _white_box(
    run: Run,
    name: str,
    game: str,
    fitted_on: str,
    hardened: int,
    half: int | None,
    n: int,
    through_map: bool,
    changed: dict,
) -> Played:
    if name != "none":
        usable(run, name)
    rules = game_of(run, game, changed)
    known = guard(run, name, fitted_on, hardened=hardened, half=half)
    pairs, base = adversarial(run, BASE), classifier(run)
    most = run.preset["white_box_test"] or len(pairs.x)
    n = min(n or most, most, len(pairs.x))
    words = [name, *([fitted_on] if known.artifact else []), game]
    words += [f"{knob}{value}" for knob, value in changed.items()]
    words += [f"hardened{hardened}"] if hardened else []
    words += [f"half{half}"] if half is not None else []
    words += [] if through_map else ["held"]
    artifact = run.step(
        "white_box",
        "-".join([*words, f"n{n}"]),
        make_white_box,
        {
            "data": run.data,
            "base": base,
            "pairs": pairs,
            "detector": known.detector,
            "content": known.content,
            "memory": run.memory,
        },
        {
            "game": rules,
            "n": n,
            "seed": run.seed,
            "through_map": through_map,
        },
        known={"calibrate": key_of(run.data.calibrate.index), "detector": name},
        parents={"pairs": pairs.artifact, "classifier": base.artifact}
        | ({"detector": known.artifact} if known.artifact else {}),
    )
    kept = {part: tensor.to(run.device) for part, tensor in artifact.tensors.items()}
    shared = {part: getattr(pairs, part)[:n] for part in ("x", "y", "prediction")}
    return Played(**shared, **kept, record=artifact.record)


def game_of(run: Run, name: str, changed: dict | None = None) -> dict:
    """A game for the run's pictures, its attacks' knobs changed where they have them."""
    found = games(
        run.data.name,
        int(np.prod(run.data.shape)),
        steps=run.preset["white_box_steps"],
        search_steps=run.preset["white_box_search"],
    )
    if name not in found:
        raise InputError(f"Game {name!r} is unknown: choose one of {', '.join(found)}.")
    attacks = []
    for entry in found[name]["attacks"]:
        its = {knob: value for knob, value in (changed or {}).items() if knob in entry}
        its |= {k: v for k, v in (changed or {}).items() if k in ("form", "accumulate", "sigma")}
        attacks.append({**entry, **its})
    return {**found[name], "attacks": attacks}


def make_white_box(
    parts: Parts,
    *,
    data: Dataset,
    base: Classifier,
    pairs: AdversarialSet,
    detector: Detector | None,
    content: str,
    memory: Memory,
    game: dict,
    n: int,
    seed: int,
    through_map: bool,
) -> tuple[dict, dict]:
    """The images of a game, each by the best of its attacks; thresholds and the verdict on every
    image are the detector's own.
    """
    held_out(data, base, pairs, memory)
    model, rows = Counted(base.model), slice(0, n)
    x, y, index = pairs.x[rows], pairs.prediction[rows], pairs.index[rows]
    thresholds, follow, strict, spread = _rules(
        memory, content, detector, data.calibrate, game["fpr"], through_map
    )
    started, best = time.perf_counter(), None
    for entry in game["attacks"]:
        todo = torch.arange(n, device=x.device)
        if best is not None:
            wanted = thresholds[-1 if game["keep"] == "score" else FPRS.index(JUDGED_AT)]
            todo = (~(best["fooled"] & (best["score"] <= wanted))).nonzero().flatten()
        if not len(todo):
            break
        objective = _objective(model, detector, follow, strict, spread, entry, game)
        found = _played(model, detector, x[todo], y[todo], index[todo], objective, entry, seed)
        best = found if best is None else _better(best, found, todo, x, game["keep"], thresholds)
    seconds = time.perf_counter() - started
    clean = _scores(detector, x)
    zero = torch.zeros(n, dtype=torch.bool, device=x.device)
    if detector is not None:
        zero = _no_gradient(detector, x)
    record = {
        "n": n,
        "fooled": best["fooled"].double().mean().item(),
        "seconds": round(seconds, 3),
        "forwards_per_image": model.forwards / n,
        "backwards_per_image": model.backwards / n,
        "zero": zero.double().mean().item(),
    }
    return {**best, "clean": clean, "thresholds": thresholds, "zero": zero}, record


def _rules(
    memory: Memory,
    content: str,
    detector: Detector | None,
    calibrate: Images,
    fpr: float | None,
    through_map: bool,
) -> tuple[torch.Tensor, Callable | None, float, float]:
    """Thresholds at FPRS, the score that is followed, the threshold that it is handed, and the
    deviation of that score over clean images.
    """
    if detector is None:
        return torch.full((len(FPRS),), torch.inf, dtype=torch.float64), None, float("inf"), 1.0
    held = calibrate.pixels()
    own = memory.once(("calibrate", "white box", content), scores, detector, held, most=8)
    thresholds = torch.tensor([threshold_at(own, rate) for rate in FPRS], dtype=torch.float64)
    few = held[:COMPARED]
    follow = surrogate(detector, calibrate=few, through_map=through_map)
    if not is_exact(detector):
        with torch.no_grad():
            own = torch.cat([follow(part) for part in few.split(256)])
    spread = max(own.double().std(correction=0).item(), 1e-12)
    strict = detector.own_threshold if fpr is None else threshold_at(own, fpr)
    return thresholds.to(held.device), follow, strict, spread


def _objective(
    model: nn.Module,
    detector: Detector | None,
    follow: Callable | None,
    threshold: float,
    spread: float,
    entry: dict,
    game: dict,
) -> Objective:
    if entry.get("form") == "both_orders":
        return both_orders(model)
    if detector is None or game.get("blind"):
        return CLASSIFIER
    seen = None
    if entry["attack"] == "alternating":

        def seen(x: torch.Tensor) -> torch.Tensor:
            return as_printed(detector, x)

    weight = entry.get("weight", 1.0) / (spread if entry.get("in_deviations") else 1.0)
    return joint(follow, threshold, weight=weight, form=entry.get("form", "sum"), seen=seen)


def _played(
    model: nn.Module,
    detector: Detector | None,
    x: torch.Tensor,
    y: torch.Tensor,
    index: torch.Tensor,
    objective: Objective,
    entry: dict,
    seed: int,
) -> dict[str, torch.Tensor]:
    """One attack, and what classifier and detector themselves say of its images."""
    target = None
    if entry.get("targeted"):
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        target = other_labels(y, classes, index, seed)
    knobs = {knob: value for knob, value in entry.items() if knob not in OF_GAME}
    if entry["attack"] in ("selective_pgd", "to_border", "alternating", "mixed"):
        if not isinstance(objective, Joint):  # nothing to be seen by: the score of nothing is 0
            objective = joint(lambda images: images.flatten(1)[:, 0] * 0, 0.0)
    attack = ADAPTIVE[entry["attack"]]
    x_adv = attack(
        model, x, y, target=target, index=index.cpu(), seed=seed, objective=objective, **knobs
    ).detach()
    if not torch.isfinite(x_adv).all():
        raise InputError("The attack made NaN of some images: a gradient is NaN or infinite there.")
    labels = predict(model.model, x_adv).argmax(1)
    fooled = labels != y if target is None else labels == target
    return {
        "x_adv": x_adv.contiguous(),
        "prediction_adv": labels,
        "fooled": fooled,
        "score": _scores(detector, x_adv),
    }


def _better(
    best: dict[str, torch.Tensor],
    found: dict[str, torch.Tensor],
    rows: torch.Tensor,
    x: torch.Tensor,
    keep: str,
    thresholds: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The better outcome of each image: misread before not, unseen before seen, then by `keep`."""
    old = {name: part[rows] for name, part in best.items()}
    ranks = []
    for side in (old, found):
        l2 = (side["x_adv"] - x[rows]).flatten(1).double().norm(dim=1)
        if keep == "l2":
            unseen = side["score"] <= thresholds[FPRS.index(JUDGED_AT)]
            ranks.append(torch.where(side["fooled"] & unseen, l2, torch.inf))
        else:
            ranks.append(torch.where(side["fooled"], side["score"], torch.inf))
    better = ranks[1] < ranks[0]
    out = {name: part.clone() for name, part in best.items()}
    for name, part in found.items():
        out[name][rows[better]] = part[better].to(out[name])
    return out


def _scores(detector: Detector | None, x: torch.Tensor) -> torch.Tensor:
    if detector is None:
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)
    return scores(detector, x).double()


def _no_gradient(detector: Detector, x: torch.Tensor) -> torch.Tensor:
    """(n,) bool: where the detector's own score has no gradient (not that of its surrogate)."""
    if not detector.differentiable:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return torch.cat([zero_gradients(detector.score, part) for part in x.split(64)])
