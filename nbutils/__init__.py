"""Does saliency detect adversarial examples? The module under the notebooks.

Rooms, in the order in which data walks through them; each uses those before it and none behind it:
`store` (what was made, kept), `data`, `models`, `attacks`, `saliency`, `density`, `detectors`,
`rectifiers`, `adaptive`, `evaluation`, `claims`, `steps` (load it, or make it and keep it),
`series` (notebooks), beside them `plots`.
"""

__version__ = "0.1.0"


class InputError(ValueError):
    """Something that the user can put right; the message is one sentence that says what and how."""
