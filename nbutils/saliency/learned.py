"""The saliency model of Dabkowski and Gal (2017) as paper 000 uses it: a small U-Net on the
protected classifier's own features gives the map.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle, relu

from nbutils import InputError
from nbutils.models.taps import scales, taps

NARROWEST, WIDEST = 16, 64  # channels of the decoder's stages
SMALL = 64  # pixels a side up to which a map has the image's resolution; above, a quarter of it


class SaliencyModel(nn.Module):
    """Maps f_s(x, c) in [0,1]: where the classifier finds class c.

    The classifier's features, frozen, at each resolution; a gate that lets the coarsest pass where
    they speak for class c; a decoder that brings them to the image's resolution (a quarter of it
    for sides above 64), adding the finer features; the map is |a| / (|a| + |b|) of its two outputs.
    Source: Dabkowski and Gal 2017. Differs from it: the encoder is the protected classifier, not a
    ResNet-50, of which 28 pixels leave one.
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
        order = sorted(
            [item for item in found if max(item[1][2:]) <= finest] or found[-1:],
            key=lambda item: item[1][2],
        )
        self.layers = [name for name, _, _ in order]
        shapes = [shape for _, shape, _ in order]
        if (
            side <= SMALL and max(shapes[-1][2:]) < side
        ):  # the image itself, where the classifier has no features of its size
            shapes.append(x.shape)
        channels = [shapes[0][1], *(min(max(shape[1], NARROWEST), WIDEST) for shape in shapes[1:])]
        with torch.no_grad():
            classes = classifier(x).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gate = nn.Embedding(classes, channels[0])
            nn.init.normal_(self.gate.weight, std=channels[0] ** -0.5)
            self.decoder = nn.ModuleList(
                _Upsampler(a, shape[1], b)
                for (a, b), shape in zip(pairwise(channels), shapes[1:], strict=True)
            )
            self.out = nn.Conv2d(channels[-1], 2, 1)
        self.to(x.device, x.dtype)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (n,1,h,w) of images (n,c,h,w) in [0,1]; `labels` (n,) the class looked for, None:
        the classifier's own prediction.
        """
        features, logits = self.features(x)
        return self.decode(features, logits.argmax(1) if labels is None else labels, x.shape[2:])

    def map_of(
        self, model: nn.Module, x: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`forward` by the contract of all maps; `model` must be the classifier that it was made
        for.
        """
        if model is not self.classifier:
            raise InputError(
                "A learned saliency model maps the classifier that it was made for; this is "
                "another."
            )
        return self(x, labels)

    def features(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The classifier's features, coarsest first, and its logits."""
        with taps(self.classifier, self.layers) as found:
            logits = self.classifier(x)
        features = [found[name] for name in self.layers]
        return features + [x] * (len(self.decoder) + 1 - len(features)), logits

    def activation(self, coarsest: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n,1,h,w): how much the coarsest features speak for the class at each place.

        Differs from Dabkowski and Gal's code: there the gate has a bias ("confidence"), 0 in
        training and 6 by default at evaluation, which empties all but the surest maps. Here it is 0
        in both: the map is read as it was trained, and as paper 000, which names no such knob,
        describes it.
        """
        return (coarsest * self.gate(labels)[:, :, None, None]).sum(1, keepdim=True)

    def decode(
        self, features: list[torch.Tensor], labels: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        u = features[0] * self.activation(features[0], labels).sigmoid()
        for stage, finer in zip(self.decoder, features[1:], strict=True):
            u = stage(u, finer)
        a, b = self.out(u).abs().split(1, 1)
        return interpolate(a / (a + b + 1e-8), size, mode="bilinear")


class _Upsampler(nn.Module):
    """Twice the resolution by pixel shuffle, the finer features beside it, one bottleneck residual
    unit.
    """

    def __init__(self, channels: int, finer: int, out: int) -> None:
        super().__init__()
        inner = max(4, out // 4)
        self.up, self.norm = (
            nn.Conv2d(channels, 4 * out, 3, padding=1, bias=False),
            nn.BatchNorm2d(4 * out),
        )
        self.shortcut = nn.Conv2d(out + finer, out, 1)
        self.unit = nn.Sequential(
            nn.Conv2d(out + finer, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out, 1),
        )

    def forward(self, x: torch.Tensor, finer: torch.Tensor) -> torch.Tensor:
        x = pixel_shuffle(relu(self.norm(self.up(x))), 2)
        if x.shape[2:] != finer.shape[2:]:
            x = interpolate(x, finer.shape[2:], mode="bilinear")
        both = torch.cat([x, finer], 1)
        return relu(self.shortcut(both) + self.unit(both))
