"""The attacks' settings, as data: attack, and knobs in [0,1] units.

What the notebooks run, and what the papers print ("000.jsma").
"""

# fgsm, bim, mim, deepfool_000, jsma_000: paper 000, figure 4; iterative_l2: the first level of
# paper 002 on MNIST. jsma: the share of values of Papernot et al. (000 prints a larger L0 than the
# share it states). C&W, DeepFool, DDN: as many steps as two cores have time for; C&W with the rate
# and constant that lead furthest in so few (of 0.01 to 0.2, 0.1 to 10, on digits and MNIST).
SETTINGS: dict[str, dict] = {
    "fgsm": {"attack": "fgsm", "eps": 0.2},
    "bim": {"attack": "bim", "eps": 0.15, "step": 0.015, "steps": 10},
    "mim": {"attack": "mim", "eps": 0.15, "step": 0.015, "steps": 10, "decay": 1.0},
    "pgd": {"attack": "pgd", "eps": 0.15, "step": 0.03, "steps": 20},
    "pgd_l2": {"attack": "pgd", "norm": "l2", "eps": 3.0, "step": 0.6, "steps": 20},
    "iterative_l2": {
        "attack": "iterative_l2",
        "norm": "l2",
        "eps": 1.0,
        "step": 0.1,
        "steps": 10,
        "surface": "sphere",
    },
    "carlini_wagner_l2": {
        "attack": "carlini_wagner_l2",
        "search_steps": 3,
        "steps": 60,
        "lr": 0.1,
        "const": 1.0,
        "warm_start": True,
    },
    "deepfool": {"attack": "deepfool", "steps": 50},
    "deepfool_000": {"attack": "deepfool", "steps": 2},
    "ddn": {"attack": "ddn", "steps": 50},
    "jsma": {"attack": "jsma", "gamma": 0.145, "outputs": "probabilities"},
    "jsma_000": {"attack": "jsma", "gamma": 0.05, "outputs": "probabilities"},
}
# Photographs, as paper 000 has ASSIRA: an eighth of the size.
PHOTOGRAPH_SETTINGS: dict[str, dict] = {
    **SETTINGS,
    "fgsm": {"attack": "fgsm", "eps": 0.025},
    "bim": {"attack": "bim", "eps": 0.025, "step": 0.0025, "steps": 10},
    "mim": {"attack": "mim", "eps": 0.025, "step": 0.0025, "steps": 10, "decay": 1.0},
    "pgd": {"attack": "pgd", "eps": 0.025, "step": 0.005, "steps": 20},
    "pgd_l2": {"attack": "pgd", "norm": "l2", "eps": 2.0, "step": 0.4, "steps": 20},
    "jsma": {"attack": "jsma", "gamma": 0.025, "outputs": "probabilities"},
    "jsma_000": {"attack": "jsma", "gamma": 0.025, "outputs": "probabilities"},
}
PHOTOGRAPHS = ("cats_dogs", "imagenet_subset", "folder")
GREY = ("digits", "mnist")

# What cleverhans 4.0.0 can run of these, and its C&W.
CLEVERHANS_SETTINGS: dict[str, dict] = {
    **{
        name: setting
        for name, setting in SETTINGS.items()
        if setting["attack"] in ("fgsm", "bim", "pgd")
    },
    "carlini_wagner_l2": {
        "attack": "carlini_wagner_l2",
        "binary_search_steps": 3,
        "max_iterations": 60,
        "lr": 0.01,
    },
}


def settings_for(dataset: str) -> dict[str, dict]:
    """The settings for a data set: the notebooks' by name, the papers' as "<paper>.<name>"."""
    return (PHOTOGRAPH_SETTINGS if dataset in PHOTOGRAPHS else SETTINGS) | _printed(dataset)


def within_linf(setting: dict) -> bool:
    """Whether a setting has a budget in the l-infinity norm."""
    return "eps" in setting and setting.get("norm", "linf") == "linf"


def count_of(setting: dict) -> str:
    """The knob of a setting that counts its steps (cleverhans' C&W has another name); "": none."""
    return next((knob for knob in ("max_iterations", "steps") if knob in setting), "")


def _printed(dataset: str) -> dict[str, dict]:
    """What the papers state for pictures of this kind, where they are silent the library's defaults
    of their time.
    """
    grey, photograph = dataset in GREY, dataset in PHOTOGRAPHS
    own = PHOTOGRAPH_SETTINGS if photograph else SETTINGS
    minimal = {
        "attack": "carlini_wagner_l2",
        "search_steps": 5,
        "steps": 1000,
        "lr": 0.005,
        "const": 0.01,
    }
    # 000, figure 4: three steps of the search for C&W's constant, two steps of DeepFool.
    found = {f"000.{name}": own[name] for name in ("fgsm", "bim", "mim")}
    found |= {
        "000.carlini_wagner_l2": minimal | {"search_steps": 3},
        "000.deepfool": own["deepfool_000"],
        "000.jsma": own["jsma_000"],
    }
    # 002: four levels of k/255, which do nothing to MNIST, so k tenths there; of l2 20k/255, k on
    # MNIST. Its second reading is scaled by the root of the number of values, as 20/255 on 32x32x3
    # is to 224x224x3 ("wide"). Ten steps of a tenth of the budget.
    linf, l2 = (0.1, 1.0) if grey else (1 / 255, 20 / 255)
    for k in (1, 2, 3, 4):
        found[f"002.fgsm_{k}"] = {"attack": "fgsm", "eps": k * linf}
        found[f"002.iterative_{k}"] = {
            "attack": "bim",
            "eps": k * linf,
            "step": k * linf / 10,
            "steps": 10,
        }
        for name, size in (("", l2), ("_wide", l2 * (7 if photograph else 1))):
            found[f"002.iterative_l2{name}_{k}"] = {
                "attack": "iterative_l2",
                "norm": "l2",
                "eps": k * size,
                "step": k * size / 10,
                "steps": 10,
                "surface": "sphere",
            }
    found["002.carlini_wagner_l2"] = minimal | {"targeted": True}
    # 003: FGSM "tuned", so a range of eps; C&W from Carlini's code, targeted; of "_quick" as many
    # steps as two cores have time for.
    found |= {f"003.fgsm_{k}": {"attack": "fgsm", "eps": k / 255} for k in (1, 2, 4, 8)}
    cw = {
        "attack": "carlini_wagner_l2",
        "search_steps": 9,
        "steps": 1000,
        "lr": 0.01,
        "const": 0.001,
        "targeted": True,
    }
    found |= {
        "003.carlini_wagner_l2": cw,
        "003.carlini_wagner_l2_quick": cw
        | {"search_steps": 3, "steps": 100, "const": 1.0, "warm_start": True},
    }
    # 004: 8/255 on CIFAR-10 with 40 steps of 2/255; it states nothing for MNIST (0.15) and 4 to
    # 8/255 for ImageNet. "_quick": the notebooks' own C&W, in as many steps as two cores have time
    # for. Its PGD stopped at each image's first success is no attack of the paper.
    eps = 0.15 if grey else 4 / 255 if photograph else 8 / 255
    steps = {"eps": eps, "step": eps / 4, "steps": 40}
    found |= {
        "004.fgsm": {"attack": "fgsm", "eps": eps},
        "004.pgd": {"attack": "pgd", **steps},
        "004.pgd_early_stopped": {"attack": "pgd_early_stopped", **steps},
        "004.deepfool": own["deepfool"],
        "004.carlini_wagner_l2": minimal,
        "004.carlini_wagner_l2_quick": own["carlini_wagner_l2"],
        "004.ddn": {"attack": "ddn", "steps": 100},
    }
    return found | {
        f"{name}_targeted": {**found[name], "targeted": True}
        for name in (
            "004.pgd",
            "004.carlini_wagner_l2",
            "004.carlini_wagner_l2_quick",
            "004.ddn",
        )
    }
