"""Gradient maps: what moves the classifier's answer, pixel by pixel."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nbutils import InputError
from nbutils.models.normalised import Restricted


def logit(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) the logit of each label."""
    return logits.gather(1, labels[:, None])[:, 0]


def softmax(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) the probability of each label."""
    return logit(logits.softmax(1), labels)


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) the cross-entropy of each label, in nats."""
    return cross_entropy(logits, labels, reduction="none")


OUTPUTS = {"logit": logit, "softmax": softmax, "cross_entropy": cross_entropies}  # what is derived


def gradient(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    of: str = "logit",
    create_graph: bool = False,
) -> torch.Tensor:
    """The Jacobian's row of one class, signed, shaped like `x` (papers 000 and 002).

    Args:
        labels: (n,) the class that is derived; None: the model's own prediction, as in the papers.
        of: logit (the papers' choice), softmax (000: it underflows) or cross_entropy.
        create_graph: keep the graph, so that a detector on this map can itself be differentiated.
    """
    if of not in OUTPUTS:
        raise InputError(f"of={of!r} is unknown: choose one of {', '.join(OUTPUTS)}.")
    if not (create_graph and x.requires_grad):
        x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        chosen = OUTPUTS[of](logits, logits.argmax(1) if labels is None else labels).sum()
    return torch.autograd.grad(chosen, x, create_graph=create_graph)[0]


def in_float64(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model as a function of float64 images, computed in float64; where it knows less alone (it
    casts its images itself), only what is done with its logits is.
    """
    named = dict([*model.named_parameters(), *model.named_buffers()])
    doubled = {
        name: value.double() if value.is_floating_point() else value
        for name, value in named.items()
    }
    return partial(_as_precise_as_it_can, model, doubled)


def _as_precise_as_it_can(
    model: nn.Module, doubled: dict[str, torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    try:
        return functional_call(model, doubled, x).double()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, InputError):  # two types met: its own, or what a brought one says of it
        return model(x.float()).double()


def input_sensitivity(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    double: bool = True,
    create_graph: bool = False,
) -> torch.Tensor:
    """Paper 004's map G (n,c,h,w), float64: the gradient of the cross-entropy of each label.

    The cross-entropy's gradient is the sum over the other classes of p_j (grad z_j - grad z_y): one
    vector-Jacobian product for all classes, with p_j for each other class and minus their sum for
    y. Nothing is taken from 1, so a classifier that is sure rounds nothing to 0. Its L2 norm is the
    input sensitivity (eq 1).

    Args:
        labels, double, create_graph: as of `sensitivity_factors`.
    """
    log_doubt, direction = sensitivity_factors(
        model, x, labels, double=double, create_graph=create_graph
    )
    return log_doubt.exp()[:, None, None, None] * direction


def sensitivity_factors(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    double: bool = True,
    create_graph: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The input sensitivity's two factors: the logarithm (n,) of the doubt d = 1 - p_y, summed over
    the other classes, and G / d (n,c,h,w), both float64.

    G / d is one backward pass with coefficients of unit size (p_j / d, and -1 for y), so that it
    has the range of a logit's gradient however small d is.

    Args:
        labels: (n,) the class y; None: the model's own prediction, as in the paper.
        double: passes in float64, where the model can; one that knows float32 alone has its two
            passes in float32, and only the coefficients in float64.
        create_graph: keep the graph, so that a detector on this map can itself be differentiated.
    """
    if not (create_graph and x.requires_grad):
        x = x.detach()
    with torch.enable_grad():
        z, logits = _logits_in_float64(model, x) if double else (x, None)
        if logits is None:
            z = x if x.requires_grad else x.requires_grad_()
            logits = model(z)
        chosen = (logits.argmax(1) if labels is None else labels)[:, None]
        exact = logits.double()
        others = exact.scatter(1, chosen, -torch.inf)
        log_doubt = others.logsumexp(1) - exact.logsumexp(1)
        weights = others.softmax(1).scatter(1, chosen, -1.0).to(logits.dtype)
        if not create_graph:
            log_doubt, weights = log_doubt.detach(), weights.detach()
        direction = torch.autograd.grad(logits, z, weights, create_graph=create_graph)[0]
    return log_doubt, direction.double()


def _logits_in_float64(
    model: nn.Module, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images and logits in float64; no logits where the model knows float32 alone."""
    z = x.double() if x.requires_grad else x.double().requires_grad_()
    try:
        logits = in_float64(model)(z)
    except (RuntimeError, TypeError):  # a user's own model, which may hold float32 of its own
        return z, None
    return z, logits if logits.dtype == torch.float64 else None


def dist_z(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Paper 004's generalised distance to the border (n,), float64, >= 0: of the last dense layer's
    input z to the nearest hyperplane between the predicted class m and another, |(w_m - w_n) z| /
    ||w_m - w_n||_2 (eq 5).

    Differs from the paper: the layer's bias counts, and n, which the paper leaves open, is the
    class whose hyperplane is nearest.

    Raises:
        InputError: the logits do not come from a dense layer.
    """
    seen: list[tuple[nn.Linear, torch.Tensor]] = []
    handles = [
        part.register_forward_pre_hook(lambda layer, given: seen.append((layer, given[0])))
        for part in model.modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    chosen = next((p.positions for p in model.modules() if isinstance(p, Restricted)), slice(None))
    layer, z = seen[-1] if seen else (None, None)
    own = layer(z) if z is not None and z.dim() == 2 else logits.new_empty(len(x), 0)
    own = own[:, chosen] if own.shape[1] else own
    if own.shape != logits.shape or not torch.allclose(own, logits, rtol=1e-4, atol=1e-5):
        raise InputError(
            f"Dist_z is a distance in front of the last dense layer, and the logits of this "
            f"{type(model).__name__} do not come from one."
        )
    weight = layer.weight.double()[chosen]
    bias = 0.0 if layer.bias is None else layer.bias.double()[chosen]
    a = z.double() @ weight.T + bias
    m = a.argmax(1)
    apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")[m]  # (n,k)
    away = (a.gather(1, m[:, None]) - a) / apart.clamp_min(torch.finfo(a.dtype).tiny)
    return away.masked_fill(apart == 0, torch.inf).amin(1)


def gradient_map(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None, *, of: str = "logit"
) -> torch.Tensor:
    """Map (n,1,h,w) of the gradient's size: at each pixel the largest over the channels (Simonyan
    et al. 2013).
    """
    return gradient(model, x, labels, of=of).abs().amax(1, keepdim=True)
