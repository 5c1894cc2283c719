"""The white-box attacks as data: what is run against a detector, in which order, within which size.

A game is a list of attacks on the same images, each tried on those that none before it has won;
of each image the best outcome is kept: by `keep` the misread one of the lowest score, or of the
least L2 norm among those that pass. `fpr` says which threshold the attacker is handed (None: the
detector's own); a `blind` one is handed no detector.
"""

from nbutils.attacks.settings import PHOTOGRAPHS, settings_for

# Paper 004's weight of the detector, which it leaves to a supplement; 0 is who ignores it, so that
# knowing a detector harms nobody.
BETAS = (0.0, 0.01, 0.1, 1.0, 10.0)
WEIGHTS = (0.3, 3.0)  # of a deviation of clean scores, beside a logit, in the joint C&W
SIGMAS = (0.1, 0.3, 0.45, 0.5, 0.55, 0.7, 0.9)  # of the mix, dense where its rule flips
FPRS = (0.01, 0.05, 0.1)  # at which success is told
OF_004 = {  # paper 004's eight attacks: ours, and how each is made to see the detector
    "004.fgsm": ("fgsm", "sum"),
    "004.pgd": ("pgd", "sum"),
    "004.pgd_targeted": ("pgd", "sum"),
    "004.deepfool": ("to_border", "additive"),
    "004.carlini_wagner_l2": ("carlini_wagner_l2", "additive"),
    "004.carlini_wagner_l2_targeted": ("carlini_wagner_l2", "additive"),
    "004.ddn": ("ddn", "additive"),
    "004.ddn_targeted": ("ddn", "additive"),
}


def budget(dataset: str, values: int) -> dict[str, float]:
    """The sizes that attacks on detectors of these pictures have: `eps` and `step` of a value, the
    l2 norms `step_l2` and `eps_l2` (half of that of the box's corner), paper 000's `step_000`.
    """
    eps = settings_for(dataset)["004.pgd"]["eps"]
    corner = eps * values**0.5
    return {
        "eps": eps,
        "step": eps / 8,
        "eps_l2": corner / 2,
        "step_l2": corner / 12,
        "step_000": 0.0025 if dataset in PHOTOGRAPHS else 0.015,
    }


def games(dataset: str, values: int, *, steps: int, search_steps: int) -> dict[str, dict]:
    """Every game by its name, for pictures of so many values.

    Args:
        steps: of selective PGD and of the mix. search_steps: of a round of C&W's search, and of
            DDN.
    """
    size = budget(dataset, values)
    linf = {"attack": "selective_pgd", "eps": size["eps"], "steps": steps}
    sign = linf | {"moves": "sign", "step": size["step"]}
    along = linf | {"moves": "l2", "step": size["step_l2"]}
    ball = along | {"norm": "l2", "eps": size["eps_l2"]}
    straight = [sign, along, sign | {"orthogonal": True}, along | {"orthogonal": True}]
    cw = settings_for(dataset)["carlini_wagner_l2"] | {"steps": search_steps}
    pgd = {"attack": "pgd", "eps": size["eps"], "step": size["eps"] / 4, "steps": steps}
    turns = {"attack": "alternating", "step": size["step_000"], "rounds": 5}
    mix = {"attack": "mixed", "eps": size["eps"], "step": size["step"], "steps": steps}
    found = {
        "plain": {"attacks": [pgd], "keep": "score", "fpr": 0.05, "blind": True},
        "plain_l2": {"attacks": [cw], "keep": "l2", "fpr": 0.05, "blind": True},
        "linf": {
            "attacks": [*straight, sign | {"random_start": True}, along | {"random_start": True}],
            "keep": "score",
            "fpr": 0.1,
        },
        "linf_half": {
            "attacks": [entry | {"eps": size["eps"] / 2} for entry in straight],
            "keep": "score",
            "fpr": 0.1,
        },
        "l2": {"attacks": [ball, ball | {"orthogonal": True}], "keep": "score", "fpr": 0.1},
        "carlini_wagner_l2": {
            "attacks": [
                cw | {"form": "sum", "weight": weight, "in_deviations": True} for weight in WEIGHTS
            ],
            "keep": "l2",
            "fpr": 0.05,
        },
        "alternating": {"attacks": [turns], "keep": "score", "fpr": 0.05},
        "alternating_own": {"attacks": [turns], "keep": "score", "fpr": None},  # as printed
        "imitated": {  # against an imitation, so with room for what it does not share
            "attacks": [cw | {"form": "sum", "weight": WEIGHTS[0], "in_deviations": True}],
            "keep": "l2",
            "fpr": 0.2,
        },
        "mix": {"attacks": [mix], "keep": "score", "fpr": 0.1},
        "mixed": {
            "attacks": [mix | {"sigma": sigma} for sigma in SIGMAS],
            "keep": "score",
            "fpr": 0.1,
        },
        "both_orders": {
            "attacks": [pgd | {"form": "both_orders", "targeted": True}],
            "keep": "score",
            "fpr": 0.05,
        },
    }
    return found | _of_004(dataset, pgd, cw, search_steps)


def _of_004(dataset: str, pgd: dict, cw: dict, search_steps: int) -> dict[str, dict]:
    own = {
        "fgsm": {"attack": "fgsm", "eps": pgd["eps"]},
        "pgd": pgd,
        "to_border": {"attack": "to_border", "steps": 50},
        "carlini_wagner_l2": cw,
        "ddn": {"attack": "ddn", "steps": search_steps, "levels": 0},
    }
    found = {}
    for name, (attack, form) in OF_004.items():
        aimed = {"targeted": True} if name.endswith("_targeted") else {}
        least = attack in ("to_border", "carlini_wagner_l2", "ddn")
        shared = {"keep": "l2" if least else "score", "fpr": 0.05}
        weights = [{"weight": beta} for beta in BETAS] if form == "sum" else [{}]
        for suffix, as_form in (("", form), ("_printed", "printed")) if least else (("", form),):
            tried = [own[attack] | aimed | {"form": as_form} | weight for weight in weights]
            found[f"{name}{suffix}"] = {"attacks": tried, **shared}
    return found
