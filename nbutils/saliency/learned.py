"""The saliency model of Dabkowski and Gal (2017) as paper 000 uses it: a small U-Net on the protected classifier's own features gives the map."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, conv2d, interpolate, pad, pixel_shuffle, relu

from nbutils import InputError
from nbutils.data import to_float
from nbutils.models import taps

NARROWEST, WIDEST = 16, 64  # channels of the decoder's stages
SMALL = 64  # pixels a side up to which a map has the image's resolution; above, a quarter of it


def scales(model: nn.Module, x: torch.Tensor, *, every: bool = False) -> list[tuple[str, torch.Size, nn.Module]]:
    """The modules whose outputs are pictures (n,c,h,w) of more than one pixel, in the order of the forward pass: of each size the last, or every.

    Each is (name, shape, the module that made it: of a container the one inside whose output it hands on).
    """
    if model.training:
        raise InputError("The model is in train mode: call model.eval() first, or a look at its layers would change them.")
    seen: dict[str, tuple[str, torch.Size, nn.Module]] = {}
    last: list = [None, None]

    def note(module: nn.Module, _: object, out: object, name: str) -> None:
        seen.pop(name, None)  # a module used again is known by its last output, as `taps` leaves it
        if isinstance(out, torch.Tensor):
            handed_on = out is last[0] and any(True for _ in module.children())  # a layer that works in place is its own maker
            last[:] = [out, last[1] if handed_on else module]
            seen[name] = (name, out.shape, last[1])

    handles = [module.register_forward_hook(partial(note, name=name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    pictures = [item for item in seen.values() if len(item[1]) == 4 and min(item[1][2:]) > 1]
    if not pictures:
        raise InputError(f"{type(model).__name__} has no layer whose output is a picture (n,c,h,w): its features give no saliency map.")
    return pictures if every else list({item[1][2:]: item for item in pictures}.values())


class SaliencyModel(nn.Module):
    """Maps f_s(x, c) in [0,1]: where the classifier finds class c.

    The classifier's features, frozen, at each resolution; a gate that lets the coarsest pass where they speak for class c; a decoder that brings
    them to the image's resolution (a quarter of it for sides above 64), adding the finer features; the map is |a| / (|a| + |b|) of its two outputs.
    Source: Dabkowski and Gal 2017. Differs from it: the encoder is the protected classifier, not a ResNet-50, of which 28 pixels leave one.
    """

    def __init__(self, classifier: nn.Module, x: torch.Tensor, *, seed: int = 0) -> None:
        """
        Args:
            x: one image (1,c,h,w), which tells the sizes of the classifier's features.
        """
        super().__init__()
        self.__dict__["classifier"] = classifier  # guarded, not owned: not among the parameters
        side = max(x.shape[2:])
        finest, found = side if side <= SMALL else side / 4, scales(classifier, x)
        order = sorted([item for item in found if max(item[1][2:]) <= finest] or found[-1:], key=lambda item: item[1][2])
        self.layers = [name for name, _, _ in order]
        shapes = [shape for _, shape, _ in order]
        if side <= SMALL and max(shapes[-1][2:]) < side:  # the image itself, where the classifier has no features of its size
            shapes.append(x.shape)
        channels = [shapes[0][1], *(min(max(shape[1], NARROWEST), WIDEST) for shape in shapes[1:])]
        with torch.no_grad():
            classes = classifier(x).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gate = nn.Embedding(classes, channels[0])
            nn.init.normal_(self.gate.weight, std=channels[0] ** -0.5)
            self.decoder = nn.ModuleList(_Upsampler(a, shape[1], b) for (a, b), shape in zip(pairwise(channels), shapes[1:], strict=True))
            self.out = nn.Conv2d(channels[-1], 2, 1)
        self.to(x.device, x.dtype)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (n,1,h,w) of images (n,c,h,w) in [0,1]; `labels` (n,) the class looked for, None: the classifier's own prediction."""
        features, logits = self.features(x)
        return self.decode(features, logits.argmax(1) if labels is None else labels, x.shape[2:])

    def look(self, model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """`forward` by the contract of all maps; `model` must be the classifier that it was made for."""
        if model is not self.classifier:
            raise InputError("A learned saliency model maps the classifier that it was made for; this is another.")
        return self(x, labels)

    def features(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The classifier's features, coarsest first, and its logits."""
        with taps(self.classifier, self.layers) as found:
            logits = self.classifier(x)
        features = [found[name] for name in self.layers]
        return features + [x] * (len(self.decoder) + 1 - len(features)), logits

    def activation(self, coarsest: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n,1,h,w): how much the coarsest features speak for the class at each place."""
        return (coarsest * self.gate(labels)[:, :, None, None]).sum(1, keepdim=True)

    def decode(self, features: list[torch.Tensor], labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        u = features[0] * self.activation(features[0], labels).sigmoid()
        for stage, finer in zip(self.decoder, features[1:], strict=True):
            u = stage(u, finer)
        a, b = self.out(u).abs().split(1, 1)
        return interpolate(a / (a + b + 1e-8), size, mode="bilinear")


class _Upsampler(nn.Module):
    """Twice the resolution by pixel shuffle, the finer features beside it, one bottleneck residual unit."""

    def __init__(self, channels: int, finer: int, out: int) -> None:
        super().__init__()
        inner = max(4, out // 4)
        self.up, self.norm = nn.Conv2d(channels, 4 * out, 3, padding=1, bias=False), nn.BatchNorm2d(4 * out)
        self.shortcut = nn.Conv2d(out + finer, out, 1)
        self.unit = nn.Sequential(
            nn.Conv2d(out + finer, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, out, 1))

    def forward(self, x: torch.Tensor, finer: torch.Tensor) -> torch.Tensor:
        x = pixel_shuffle(relu(self.norm(self.up(x))), 2)
        if x.shape[2:] != finer.shape[2:]:
            x = interpolate(x, finer.shape[2:], mode="bilinear")
        both = torch.cat([x, finer], 1)
        return relu(self.shortcut(both) + self.unit(both))


def background(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What stands where a mask takes an image away, drawn for each: a colour with noise, or, for half of them, the image's own blur; black if grey.

    Source: Dabkowski and Gal 2017, whose blur (55 of 224 pixels, deviation 11) is scaled to the image. Differs from them: reflected borders, since
    black ones would darken small images whole; black for grey images, since a digit is read through such a blur, and black is its own ground.
    """
    n, c, h, w = x.shape
    draw = lambda *shape: torch.rand(shape, generator=generator, device=x.device)  # noqa: E731
    flat = 0.335 + 0.33 * draw(n, c, 1, 1) + 0.055 * torch.randn(x.shape, generator=generator, device=x.device)
    other = torch.zeros_like(x)
    if c > 1:
        sigma = 11 / 224 * max(h, w)
        side = min(round(2.5 * sigma), min(h, w) - 1)
        line = torch.exp(-torch.arange(-side, side + 1, device=x.device, dtype=x.dtype) ** 2 / (2 * sigma**2))
        line = (line / line.sum()).expand(c, 1, 1, -1)
        rows = conv2d(pad(x, (side, side, 0, 0), "reflect"), line, groups=c)
        other = conv2d(pad(rows, (0, 0, side, side), "reflect"), line.transpose(2, 3), groups=c)
    return torch.where(draw(n, 1, 1, 1) < 0.5, other, flat)


def masked(x: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """What the mask shows and what is left without it, 000's phi(x, m) and phi(x, 1-m): before one background, the image with a little noise."""
    ground = background(x, generator)
    noisy = x + 0.015 * torch.randn(x.shape, generator=generator, device=x.device)
    return mask * noisy + (1 - mask) * ground, (1 - mask) * noisy + mask * ground


def loss_000(shown: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, real: torch.Tensor, *, area: float = 7.0,
             destroyer: float = 5.0, power: float = 0.3) -> torch.Tensor:
    """Paper 000's equation 2: area * AV(m) - log f_c(shown) + destroyer * f_c(hidden)^power, from logits; its weights are not printed."""
    here = shown.log_softmax(1).gather(1, labels[:, None])[:, 0]
    left = hidden.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return area * mask.mean((1, 2, 3)) - here + destroyer * (power * left).exp()


def loss_hinge(shown: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, real: torch.Tensor, *, area: float = 8.0,
               preserver: float = 0.3, power: float = 0.3) -> torch.Tensor:
    """The loss of Dabkowski and Gal's code: margins of logits in place of probabilities; for a class that is not there (`real` false), no map."""
    margins = []
    for logits in (shown, hidden):
        own = logits.gather(1, labels[:, None])[:, 0]
        margins.append(own - logits.scatter(1, labels[:, None], -torch.inf).amax(1))
    keep = torch.where(real, relu(1 - margins[0]), relu(margins[0] + 1))
    destroy = torch.where(real, relu(margins[1] + 5), relu(1 - margins[1]))
    return area * (mask + 5e-4).pow(power).mean((1, 2, 3)) + preserver * keep + destroy


LOSSES: dict[str, Callable[..., torch.Tensor]] = {"000": loss_000, "hinge": loss_hinge}


def fit(saliency: SaliencyModel, x: torch.Tensor, *, epochs: int, gate_epochs: int = 10, seed: int = 0, loss: str = "000", batch: int = 32,
        lr: float = 5e-3, progress=iter, **weights: float) -> dict:
    """Train `saliency` in place on clean images alone: first the gate (is the class there?), then the decoder.

    Args:
        x: (n,c,h,w), uint8 or float in [0,1]. The class looked for is the one that the classifier predicts.
        loss: "000" (its equation 2) or "hinge" (Dabkowski and Gal's code, in which three labels of ten are false and must give no map).
        weights: of the terms of the loss.
    Returns:
        `gate_loss` and `loss` by epoch.
    """
    if loss not in LOSSES:
        raise InputError(f"loss={loss!r} is unknown: choose one of {', '.join(LOSSES)}.")
    if saliency.classifier.training:
        raise InputError("The classifier is in train mode: call eval() first, or its features depend on the batch.")
    generator = torch.Generator(x.device).manual_seed(seed)
    false = {"000": 0.0, "hinge": 0.3}[loss]

    def look(images: torch.Tensor, false: float) -> tuple:
        with torch.no_grad():
            features, logits = saliency.features(images)
        return features, *_labels(logits, false, generator)

    def gate_loss(images: torch.Tensor) -> torch.Tensor:
        features, labels, real = look(images, 0.5)
        return binary_cross_entropy_with_logits(saliency.activation(features[0], labels).mean((1, 2, 3)), real.float())

    def map_loss(images: torch.Tensor) -> torch.Tensor:
        features, labels, real = look(images, false)
        mask = saliency.decode(features, labels, images.shape[2:])
        shown, hidden = saliency.classifier(torch.cat(masked(images, mask, generator))).chunk(2)
        return LOSSES[loss](shown, hidden, mask, labels, real, **weights).mean()

    saliency.to(memory_format=torch.channels_last).eval()  # faster on a CPU
    decoder = [*saliency.decoder.parameters(), *saliency.out.parameters()]
    try:
        record = {"gate_loss": _descend(gate_loss, [*saliency.gate.parameters()], x, progress(range(gate_epochs)), gate_epochs, seed, batch, 10 * lr)}
        saliency.train()
        return record | {"loss": _descend(map_loss, decoder, x, progress(range(epochs)), epochs, seed, batch, lr)}
    finally:
        saliency.eval()


def _descend(loss: Callable[[torch.Tensor], torch.Tensor], parameters: list[nn.Parameter], x: torch.Tensor, passes: Iterable[int], epochs: int,
             seed: int, batch: int, lr: float) -> list[float]:
    """Adam with a falling rate on `loss(images)`, for these parameters alone; the mean loss of each pass."""
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=1e-4, fused=True)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * -(-len(x) // batch)))
    means = []
    for epoch in passes:
        order = torch.from_numpy(np.random.default_rng([seed, 8, epoch]).permutation(len(x))).to(x.device)
        total = 0.0
        for rows in order.split(batch):
            if len(rows) == 1 < len(x):
                continue  # batch normalisation has no variance of one image
            value = loss(to_float(x[rows]))
            optimizer.zero_grad()
            value.backward(inputs=parameters)  # the classifier's gradients stay as they are
            optimizer.step()
            falling.step()
            total += value.item() * len(rows)
        means.append(total / len(x))
    return means


def _labels(logits: torch.Tensor, false: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The predicted classes, a share `false` of them replaced by another; and which are real."""
    n, k = logits.shape
    other = torch.randint(1, k, (n,), generator=generator, device=logits.device)
    real = torch.rand(n, generator=generator, device=logits.device) >= false
    return (logits.argmax(1) + other * ~real) % k, real


def stand_ins(maps: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """Masks of the same area that say nothing of the image: a `centred` disc, the map of the image before (`other`), the map's own values in
    another order (`shuffled`), its mean everywhere (`constant`)."""
    n, _, h, w = maps.shape
    rows, columns = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    rank = (rows**2 + columns**2).flatten().argsort().argsort().to(maps.device)
    area = (maps.mean((1, 2, 3)) * h * w).round()
    order = torch.from_numpy(np.random.default_rng([seed, 11]).permuted(np.tile(np.arange(h * w), (n, 1)), axis=1)).to(maps.device)
    return {"centred": (rank < area[:, None]).to(maps.dtype).view_as(maps), "other": maps.roll(1, 0),
            "shuffled": maps.flatten(1).gather(1, order).view_as(maps), "constant": maps.mean((2, 3), keepdim=True).expand_as(maps)}


@torch.no_grad()
def quality(classifier: nn.Module, x: torch.Tensor, maps: torch.Tensor, *, seed: int = 0, batch: int = 256) -> dict[str, float]:
    """What clean images say of maps (n,1,h,w) in [0,1]: mean `area`, and the shares of images whose prediction is `preserved` where only what the
    map shows is left, and is still there where that is taken away (`destroyed`: lower is better)."""
    generator = torch.Generator(x.device).manual_seed(seed)
    kept, left = [], []
    for images, mask in zip(x.split(batch), maps.split(batch), strict=True):
        shown, hidden = masked(images, mask, generator)
        before = classifier(images).argmax(1)
        kept.append(classifier(shown).argmax(1) == before)
        left.append(classifier(hidden).argmax(1) == before)
    return {"area": maps.mean().item(), "preserved": torch.cat(kept).float().mean().item(), "destroyed": torch.cat(left).float().mean().item()}
