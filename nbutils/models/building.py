"""A network with normalisation inside: fresh, with published weights, or started from another."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad

from nbutils import InputError
from nbutils.models import ARCHITECTURES
from nbutils.models.brought import load_weights
from nbutils.models.normalised import Normalised
from nbutils.models.published import NETWORKS, PUBLISHED, torchvisions_weights


def build(
    name: str,
    shape: tuple[int, int, int],
    outputs: int,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    width: float = 1.0,
    dropout: float | None = None,
    seed: int = 0,
) -> Normalised:
    """A fresh network of ARCHITECTURES with weights drawn from `seed`, normalising with `mean` and
    `std` (one value, or one a channel).

    Args:
        width: factor on the numbers of filters. dropout: before the dense layers (None: the
            architecture's own).
    """
    if name not in ARCHITECTURES:
        raise InputError(
            f"MODEL {name!r} is unknown: choose one of {', '.join(ARCHITECTURES)}, or name your "
            "own as package.module:factory."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        knobs = {} if dropout is None else {"dropout": dropout}
        return Normalised(ARCHITECTURES[name](shape, outputs, width, **knobs), mean, std).eval()


def with_published_weights(
    name: str, shape: tuple[int, int, int], *, weights: str = "", root: Path | str = "data"
) -> Normalised:
    """A network with the weights that others have published, normalising as they did.

    Args:
        weights: a file, "torchvision" (downloaded), or "" for weights/`name`*.safetensors under
            `root`, else torchvision's.
    Raises:
        InputError: no such file, one that does not fit, or no network.
    """
    spec = PUBLISHED[name]
    model = build(name, shape, spec["outputs"], mean=spec["mean"], std=spec["std"])
    found = sorted((Path(root) / "weights").glob(f"{name}*.safetensors")) if weights == "" else []
    if weights in ("", "torchvision") and not found:
        if name not in NETWORKS:
            raise InputError(
                f"The weights of {name} are not there: put {name}.safetensors into "
                f"{Path(root) / 'weights'}, or give WEIGHTS a file."
            )
        model.body.load_state_dict(torchvisions_weights(name))
    else:
        load_weights(model, found[0] if found else Path(weights))
    return model


def start_from(model: Normalised, given: nn.Module) -> int:
    """Fill the weights and statistics of `model` with those of `given` that have the same name and
    fit; returns how many weights did.

    Where `model` reads more channels (image and Jacobian), the first have the given weights and the
    others weigh nothing: it starts as on the image alone.
    """
    state, parameters, filled = model.body.state_dict(), dict(model.body.named_parameters()), 0
    for name, its in given.state_dict().items():
        name = name.removeprefix("body.").removeprefix("body.")
        if name in state:
            more = state[name].shape[1] - its.shape[1] if state[name].dim() == 4 == its.dim() else 0
            fitting = pad(its, (0, 0, 0, 0, 0, more)) if more > 0 else its
            if state[name].shape == fitting.shape:
                state[name] = fitting
                filled += name in parameters
    model.body.load_state_dict(state)
    return filled
