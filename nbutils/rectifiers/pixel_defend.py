"""PixelDefend's purification (Song et al. 2018): each image is walked to a more likely one nearby.

A pixel's distribution is asked for h x w times, each time after one pixel has changed. A causal
network need not be run anew for that: nothing that it has computed for the pixels before depends
on the one that changed. So each layer keeps what it was shown, and a pixel costs one column of the
network: of each layer one position.
"""

import copy

import torch
from torch import nn
from torch.nn.functional import conv2d

from nbutils import InputError
from nbutils.attacks.contract import sizes
from nbutils.data.images import to_levels
from nbutils.density.pixelcnn import CausalConv, PixelCNN
from nbutils.rectifiers.contract import numbers_of

LEVELS = 256
TOGETHER = 256  # images walked at once: more gain nothing


class Walked(nn.Module):
    """A causal convolution that is shown the pixels one by one, in raster order.

    What the rows above give to a row is summed when the row begins.
    """

    def __init__(self, conv: CausalConv, n: int, width: int) -> None:
        super().__init__()
        weight = conv.weight * conv.mask
        self.reach, self.bias, self.column = conv.reach, conv.bias, 0
        self.above = weight[:, :, :-1]
        # the pixels left of it and its own, one after the other; mask A blanks its own
        self.beside = weight[:, :, -1, : conv.reach + 1].permute(2, 1, 0).flatten(0, 1)
        self.seen = weight.new_zeros(n, conv.reach + 1, width + 2 * conv.reach, weight.shape[1])
        self.width, self.from_above = width, None

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """The next pixel (n,filters,1,1) in, and out."""
        if self.column == self.width:
            self.seen[:, :-1] = self.seen[:, 1:].clone()
            self.column = 0
        if self.column == 0:
            summed = conv2d(self.seen[:, :-1].permute(0, 3, 1, 2), self.above, self.bias)
            self.from_above = summed[:, :, 0].permute(2, 0, 1).contiguous()
        self.column += 1
        self.put(h)
        beside = self.seen[:, -1, self.column - 1 : self.column + self.reach].flatten(1)
        return torch.addmm(self.from_above[self.column - 1], beside, self.beside)[..., None, None]

    def put(self, h: torch.Tensor) -> None:
        """The pixel last shown is this one."""
        self.seen[:, -1, self.column + self.reach - 1, : h.shape[1]] = h[..., 0, 0]


class Pointwise(nn.Module):
    """A 1x1 convolution of one pixel (n,filters,1,1)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight[:, :, 0, 0].T.contiguous(), conv.bias

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, h[..., 0, 0], self.weight)[..., None, None]


class Whole:
    """A density's logistics at one pixel after the other, each from the whole image: what the walk
    is measured against.
    """

    def __init__(self, density: PixelCNN, v: torch.Tensor) -> None:
        self.density, self.v = density, v.clone()

    def at(self, row: int, column: int) -> list[torch.Tensor]:
        found = self.density.parameters_at(self.v)
        return [p[..., row : row + 1, column : column + 1] for p in found]

    def put(self, row: int, column: int, v: torch.Tensor) -> None:
        self.v[:, :, row, column] = v[..., 0, 0]


class Column:
    """The same logistics, each from one column of the network; in raster order only."""

    def __init__(self, density: PixelCNN, v: torch.Tensor) -> None:
        n, _, _, width = v.shape
        self.net = copy.deepcopy(density)
        self.net.first = Walked(self.net.first, n, width)
        for block in self.net.blocks:
            block.causal = Walked(block.causal, n, width)
            block.mix = Pointwise(block.mix)
        self.net.last = Pointwise(self.net.last)
        self.unknown = torch.zeros_like(v[:, :, :1, :1])

    def at(self, row: int, column: int) -> tuple[torch.Tensor, ...]:
        return self.net.parameters_at(self.unknown)

    def put(self, row: int, column: int, v: torch.Tensor) -> None:
        self.net.first.put(v)


@torch.no_grad()
def purify(
    x: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    seed: int = 0,
    through: PixelCNN | None = None,
    eps_255: float = 16.0,
    above: float | None = None,
) -> torch.Tensor:
    """PixelDefend's greedy purification: in raster order, and channel by channel, each value
    becomes the most likely level near its own, given those before it as they are by then.

    Of equally likely levels it takes the one nearest to the image's own, then the lower one. All is
    computed in float64: a sum over a window and one over the whole image, or over another batch,
    run in different orders, and in float32 that difference could choose another level.

    Args:
        through: the density of clean images, of 8-bit values.
        eps_255: how far a value may move from its own 8-bit level, in levels; the paper takes 16 on
            CIFAR-10 and 32 on Fashion-MNIST.
        above: purify only images of at least so many bits per dimension (the paper's adaptive
            version); the others are only rounded. None: all.
    Returns:
        (n,c,h,w) on 8-bit levels, each at most eps_255 from that of the rounded image.
    Raises:
        InputError: no density, or one of other images.
    """
    numbers_of(x, index)
    sizes(eps_255=eps_255)
    levels = getattr(through, "levels", 0)
    if not isinstance(through, PixelCNN) or levels != LEVELS:
        found = f"one of {levels} levels" if levels else type(through).__name__
        raise InputError(
            "PixelDefend purifies through a density of 8-bit images: pass through=, a PixelCNN of "
            f"{LEVELS} levels; it is {found}."
        )
    density, levels = copy.deepcopy(through).double(), (x * (LEVELS - 1)).round().long()
    chosen = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if above is not None:
        chosen = density.bits(levels.double() / (LEVELS - 1)) >= above
    eps = int(min(eps_255, LEVELS - 1))
    for part in chosen.nonzero()[:, 0].split(TOGETHER):
        levels[part] = walk(density, levels[part], eps)
    return to_levels(levels.to(x) / (LEVELS - 1))


def walk(
    density: PixelCNN, levels: torch.Tensor, eps: int, reader: type[Column | Whole] = Column
) -> torch.Tensor:
    """Levels (n,c,h,w) int64 of images, and those that `purify` makes of them.

    Args:
        density: in float64.
        reader: how a pixel's logistics are found; both find the same.
    """
    out, reading = levels.clone(), reader(density, _value(levels))
    near = sorted(range(-eps, eps + 1), key=lambda step: (abs(step), step))
    near = torch.tensor(near, device=levels.device)
    for row in range(levels.shape[2]):
        for column in range(levels.shape[3]):
            here = levels[:, :, row, column, None] + near
            best = _most_likely(density, reading.at(row, column), here)
            out[:, :, row, column] = best
            reading.put(row, column, _value(best)[..., None, None])
    return out


def _most_likely(
    density: PixelCNN, parameters: tuple[torch.Tensor, ...], levels: torch.Tensor
) -> torch.Tensor:
    """(n,c) of the candidate levels (n,c,l) of one pixel the most likely, given the channels before
    it as they were chosen; the first of equally likely ones.
    """
    weights, means, scales, slopes = parameters
    known, values, best = weights[:, 0, :, 0], _value(levels), []
    outside = (levels < 0) | (levels >= LEVELS)
    v = torch.zeros_like(means[:, :, 0])
    for j in range(levels.shape[1]):
        mean, could = density._moved(means, slopes, v, j)[..., 0], values[:, j, None]
        log_p = density._log_mass(could, could - mean, scales[:, j, :, 0])
        mixed = (known.log_softmax(1) + log_p).logsumexp(1)
        place = mixed.masked_fill(outside[:, j], -torch.inf).argmax(1, keepdim=True)
        best.append(levels[:, j].gather(1, place))
        v[:, j] = values[:, j].gather(1, place)[..., None]
        known = known + log_p.gather(2, place[:, None].expand(-1, known.shape[1], 1))
    return torch.cat(best, 1)


def _value(levels: torch.Tensor) -> torch.Tensor:
    """Between -1 and 1, as the density reads levels from 0 to 255."""
    return 2 * (levels.double() / (LEVELS - 1)) - 1
