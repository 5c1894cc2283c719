"""What 32 bits lose of a gradient map."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from nbutils.evaluation.metrics import auroc
from nbutils.saliency.gradients import gradient, in_float64, input_sensitivity
from nbutils.saliency.maps import in_batches


def lost_in_32_bits(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, *, of: str
) -> dict[str, float]:
    """The share of images whose gradient is zero everywhere in 32 bits, and the share whose
    gradient differs from the one in 64 bits by more than a tenth of that one's length.

    Args:
        of: what is derived: logit, softmax or cross_entropy.
    """
    derive = partial(gradient, of=of)
    single = in_batches(derive, model, x.float(), labels).double()
    double = in_batches(derive, in_float64(model), x.double(), labels)
    error = (single - double).flatten(1).norm(dim=1)
    length = double.flatten(1).norm(dim=1).clamp_min(1e-300)
    return {
        "maps all zero": (single == 0).flatten(1).all(1).double().mean().item(),
        "maps off by a tenth": (error / length > 0.1).double().mean().item(),
    }


def underflow(
    model: nn.Module,
    images: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor],
    outputs: Sequence[str] = ("logit", "softmax", "cross_entropy"),
) -> list[dict]:
    """`lost_in_32_bits` for each output that can be derived and each set of images.

    Args:
        images: a name -> (n,c,h,w). labels: the same names -> (n,) the class asked about.
    """
    return [
        {
            "derivative of": of,
            "images": name,
            **lost_in_32_bits(model, x, labels[name], of=of),
            "n": len(x),
        }
        for of in outputs
        for name, x in images.items()
    ]


def sensitivity_in_32_bits(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """What the cross-entropy's gradient loses in plain 32 bits, beside paper 004's input
    sensitivity computed as a sum over the other classes in 64 bits, on images (n,c,h,w).

    Returns:
        shares of images: `p rounds to 1` (that of the predicted class, whose own term is then
        lost), `maps all zero`, `maps off by a tenth` (of the exact map's length); `values lost`,
        the share of values that are 0 and should not be; the relative `error` of a map, median and
        largest, and `error by factors`, the largest of the same sum in 32 bits
        (`gradients.sensitivity_factors`).
    """
    return _lost(model, x, *_sensitivities(model, x))


def _lost(
    model: nn.Module,
    x: torch.Tensor,
    exact: torch.Tensor,
    naive: torch.Tensor,
    factors: torch.Tensor,
) -> dict[str, float]:
    error, by_factors = (_relative_error(one, exact) for one in (naive, factors))
    with torch.no_grad():
        sure = torch.cat([model(part.float()).softmax(1).amax(1) == 1 for part in x.split(256)])
    return {
        "p rounds to 1": sure.double().mean().item(),
        "maps all zero": (naive == 0).flatten(1).all(1).double().mean().item(),
        "maps off by a tenth": (error > 0.1).double().mean().item(),
        "values lost": ((naive == 0) & (exact != 0)).double().mean().item(),
        "error, median": error.median().item(),
        "error, largest": error.max().item(),
        "error by factors, largest": by_factors.max().item(),
    }


def sensitivity_lost(
    model: nn.Module, images: dict[str, torch.Tensor], clean: str = "clean"
) -> list[dict]:
    """`sensitivity_in_32_bits` of each set of images, a row each; of those that are not `clean` the
    AUROC against those that are, of the norm of the plain map and of the exact one.
    """
    rows, sizes = [], {}
    for name, x in images.items():
        maps = exact, naive, _ = _sensitivities(model, x)
        sizes[name] = [m.flatten(1).norm(dim=1).numpy(force=True) for m in (naive, exact)]
        rows.append({"images": name, **_lost(model, x, *maps), "n": len(x)})
    for row in rows:
        pairs = zip(sizes.get(clean, ()), sizes[row["images"]], strict=False)
        found = [auroc(*pair) for pair in pairs] if row["images"] != clean else []
        row |= dict(zip(("auroc in 32 bits", "auroc exact"), found or (None, None), strict=False))
    return rows


def _sensitivities(
    model: nn.Module, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The exact map, the plain one in float32, and the factors' in float32, all as float64."""
    return (
        in_batches(input_sensitivity, model, x),
        in_batches(partial(gradient, of="cross_entropy"), model, x.float()).double(),
        in_batches(partial(input_sensitivity, double=False), model, x.float()),
    )


def _relative_error(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    length = exact.flatten(1).norm(dim=1).clamp_min(1e-300)
    return (found - exact).flatten(1).norm(dim=1) / length
