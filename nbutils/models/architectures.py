"""Architectures: `name(shape, outputs, width=1.0, dropout=.6)` gives a fresh network for normalised
images of `shape` (c,h,w).

`width` scales the filters of those that are trained here; dropout stands before every dense layer
where the paper has it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import pad, relu

Shape = tuple[int, int, int]


def digits_net(
    shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.0
) -> nn.Sequential:
    """Two convolutions of stride 2 (16, 32 filters), one hidden layer of 64, no dropout unless
    asked for: for the embedded digits.
    """
    c, h, w = shape
    a, b = _widths(width, 16, 32)
    layers = [
        ("conv1", nn.Conv2d(c, a, 5, 2, 2)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(a, b, 5, 2, 2)),
        ("relu2", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(b * -(-h // 4) * -(-w // 4), 64)),
        ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(64, outputs)),
    ]
    return _sequence(
        *layers[:-1], *([("drop", nn.Dropout(dropout))] if dropout else []), layers[-1]
    )


def mnist_net(
    shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.6
) -> nn.Sequential:
    """Paper 000's MNIST network: convolutions 2x64 of 8x8, 2x128 of 6x6, 2x128 of 3x3, no pool, one
    dense layer.

    The paper does not say how it pads; without padding the picture would vanish at the sixth layer,
    so it is "same".
    """
    layers: list[tuple[str, nn.Module]] = []
    c, h, w = shape
    for i, (filters, kernel) in enumerate(
        zip(_widths(width, 64, 64, 128, 128, 128, 128), (8, 8, 6, 6, 3, 3), strict=True), 1
    ):
        before, after = (kernel - 1) // 2, kernel // 2
        layers += [
            (f"pad{i}", nn.ZeroPad2d((before, after, before, after))),
            (f"conv{i}", nn.Conv2d(c, filters, kernel)),
            (f"relu{i}", nn.ReLU()),
        ]
        c = filters
    return _sequence(
        *layers,
        ("flatten", nn.Flatten()),
        ("drop", nn.Dropout(dropout)),
        ("out", nn.Linear(c * h * w, outputs)),
    )


def cifar_net(
    shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.6, *, depth: int = 6
) -> nn.Sequential:
    """Paper 000's CIFAR-10 network: 3x3 convolutions 2x32, 2x64, 2x128 with a pool after each pair,
    128 hidden units, dropout .6.

    Differs from the paper: `depth=6`; its figure 3 prints every pair twice, which is `depth=12`,
    and "63", a misprint of 64.
    """
    return _pooled(
        shape,
        outputs,
        [[f] * (depth // 3) for f in _widths(width, 32, 64, 128)],
        hidden=[128],
        dropout=dropout,
    )


def assira_net(
    shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.6
) -> nn.Sequential:
    """Paper 000's network for ASSIRA's cats and dogs: 3x3 convolutions 2x64, 2x128, 2x256, 2x512, a
    pool after each pair, 256 hidden units twice.
    """
    return _pooled(
        shape,
        outputs,
        [[f, f] for f in _widths(width, 64, 128, 256, 512)],
        hidden=_widths(width, 256, 256),
        dropout=dropout,
    )


def zhang_net(
    shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.0
) -> nn.Sequential:
    """Paper 002's MNIST-NET and CIFAR10-NET: 3x3 convolutions 32, 32, 64, 64, one 2x2 pool, 100
    hidden units.

    F reads an image and has ten outputs, D image and Jacobian (twice the channels) and two. The
    size of the printed dense layer asks for one pool; where it stands is not said: here it is last.
    """
    return _pooled(
        shape,
        outputs,
        [_widths(width, 32, 32, 64, 64)],
        hidden=_widths(width, 100),
        dropout=dropout,
    )


def vgg11(shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.6) -> nn.Sequential:
    """VGG11 for small pictures: eight 3x3 convolutions with batch normalisation, five pools, 512
    hidden units.
    """
    blocks = [
        [f] * n
        for f, n in zip(_widths(width, 64, 128, 256, 512, 512), (1, 1, 2, 2, 2), strict=True)
    ]
    return _pooled(shape, outputs, blocks, hidden=_widths(width, 512), norm=True, dropout=dropout)


def appendix_a(
    shape: Shape,
    outputs: int,
    width: float = 1.0,
    dropout: float = 0.6,
    *,
    convs: int = 6,
    doubling: bool = True,
    dense: int = 2,
    pool: bool = True,
) -> nn.Sequential:
    """What paper 000's appendix A varies of its baselines: `convs` convolutions in three groups of
    32, 64, 128 filters (or 32 each), each closed by a pool (or its last step two pixels wide:
    without any reduction the dense layer would outgrow the rest), `dense` dense layers.
    """
    blocks = [
        [f] * (convs // 3) for f in _widths(width, 32, *((64, 128) if doubling else (32, 32)))
    ]
    return _pooled(
        shape,
        outputs,
        blocks,
        hidden=_widths(width, *[128] * (dense - 1)),
        dropout=dropout,
        pool=pool,
    )


def metzen_branch(
    shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.0
) -> nn.Sequential:
    """The detector of Metzen et al. (2017) on a layer of the classifier.

    3x3 convolutions 96, 192, 192 with batch normalisation, a 1x1
    convolution to the outputs, the mean over the picture; while the picture is wider than 8, a pool
    after each of the first two.
    """
    c, h, w = shape
    layers: list[tuple[str, nn.Module]] = []
    for i, f in enumerate(_widths(width, 96, 192, 192), 1):
        layers += [
            (f"conv{i}", nn.Conv2d(c, f, 3, padding=1, bias=False)),
            (f"norm{i}", nn.BatchNorm2d(f)),
            (f"relu{i}", nn.ReLU()),
        ]
        if i < 3 and min(h, w) > 8:
            layers.append((f"pool{i}", nn.MaxPool2d(2)))
            h, w = h // 2, w // 2
        c = f
    return _sequence(
        *layers,
        ("drop", nn.Dropout(dropout)),
        ("out", nn.Conv2d(c, outputs, 1)),
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
    )


class ResNet20(nn.Module):
    """He et al.'s ResNet-20 for CIFAR-10: three stages of three blocks, 16, 32, 64 filters,
    shortcuts without weights ("option A").

    Module names are those under which its weights are commonly kept: conv1, bn1, layer1.0.conv1 ...
    linear.
    """

    def __init__(self, channels: int, outputs: int, width: float) -> None:
        super().__init__()
        filters = _widths(width, 16, 32, 64)
        self.conv1, self.bn1 = (
            nn.Conv2d(channels, filters[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(filters[0]),
        )
        before = filters[0]
        for i, f in enumerate(filters, 1):
            self.add_module(
                f"layer{i}",
                nn.Sequential(
                    _Block(before, f, 1 if i == 1 else 2), _Block(f, f, 1), _Block(f, f, 1)
                ),
            )
            before = f
        self.linear = nn.Linear(before, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(before, filters, 3, stride, 1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.conv2, self.bn2 = (
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.stride, self.more = stride, filters - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.more or self.stride > 1:  # option A: every other pixel, new channels are zero
            x = pad(
                x[:, :, :: self.stride, :: self.stride],
                (0, 0, 0, 0, self.more // 2, self.more - self.more // 2),
            )
        return relu(x + y)


def resnet20(shape: Shape, outputs: int, width: float = 1.0, dropout: float = 0.0) -> ResNet20:
    return ResNet20(shape[0], outputs, width)


def _pooled(
    shape: Shape,
    outputs: int,
    blocks: list[list[int]],
    *,
    hidden: Sequence[int],
    dropout: float,
    norm: bool = False,
    pool: bool = True,
) -> nn.Sequential:
    """Blocks of 3x3 "same" convolutions (filters), each closed by a 2x2 pool (a side of 1 is not
    pooled), then dense layers behind dropout.
    """
    layers: list[tuple[str, nn.Module]] = []
    c, h, w = shape
    for i, filters in enumerate(blocks, 1):
        for j, f in enumerate(filters, 1):
            layers += [
                (
                    f"conv{i}_{j}",
                    nn.Conv2d(
                        c, f, 3, 1 if pool or j < len(filters) else 2, padding=1, bias=not norm
                    ),
                )
            ]
            layers += [(f"norm{i}_{j}", nn.BatchNorm2d(f))] if norm else []
            layers += [(f"relu{i}_{j}", nn.ReLU())]
            c = f
        if not pool:
            h, w = -(-h // 2), -(-w // 2)
        elif min(h, w) > 1:
            layers.append((f"pool{i}", nn.MaxPool2d(2)))
            h, w = h // 2, w // 2
    layers.append(("flatten", nn.Flatten()))
    sizes = [c * h * w, *hidden]
    for i, (a, b) in enumerate(pairwise(sizes), 1):
        layers += [
            (f"drop{i}", nn.Dropout(dropout)),
            (f"fc{i}", nn.Linear(a, b)),
            (f"relu_fc{i}", nn.ReLU()),
        ]
    return _sequence(*layers, ("drop", nn.Dropout(dropout)), ("out", nn.Linear(sizes[-1], outputs)))


def _sequence(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _widths(width: float, *filters: int) -> list[int]:
    return [max(4, round(width * f)) for f in filters]


# One factor of paper 000's appendix A changed at a time (the sixth is the optimizer).
APPENDIX_A = {
    "no_dropout": {"dropout": 0.0},
    "convolutions_3": {"convs": 3},
    "constant_filters": {"doubling": False},
    "dense_1": {"dense": 1},
    "no_pool": {"pool": False},
}
