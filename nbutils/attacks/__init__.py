"""Attacks on batches of images, one contract for all (`contract`); the papers' settings are data
(`settings`).
"""

from nbutils.attacks import carlini_wagner, ddn, deepfool, gradient, jsma

ATTACKS = {
    "fgsm": gradient.fgsm,
    "bim": gradient.bim,
    "mim": gradient.mim,
    "pgd": gradient.pgd,
    "pgd_early_stopped": gradient.pgd_early_stopped,
    "iterative_l2": gradient.iterative_l2,
    "carlini_wagner_l2": carlini_wagner.carlini_wagner_l2,
    "deepfool": deepfool.deepfool,
    "jsma": jsma.jsma,
    "ddn": ddn.ddn,
}
