"""Attacks by who knows the detector (or the whole defence): the papers' own, and a referee's.

Each is an attack as those of `attacks` are, and follows an objective (`objectives.joint`) that
counts an image only where the classifier is wrong and the detector's score is under a threshold.
What has no gradient of its own is followed through `surrogates`.
"""

from nbutils.adaptive.printed import alternating, mixed
from nbutils.adaptive.referee import selective_pgd, to_border
from nbutils.attacks import ATTACKS

ADAPTIVE = {
    **ATTACKS,  # fgsm, pgd, carlini_wagner_l2 and ddn follow whatever objective they are handed
    "alternating": alternating,
    "mixed": mixed,
    "selective_pgd": selective_pgd,
    "to_border": to_border,
}
