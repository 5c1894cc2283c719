"""A small PixelCNN with an exact likelihood of 8-bit images (van den Oord et al. 2016; mixture of
logistics: Salimans et al. 2017, "PixelCNN++").

log p(x) is the sum, in raster order, of log p(pixel | the pixels above it and left of it), and
within a pixel of log p(channel | the channels before it). Images are floats in [0,1]; the
likelihood is that of the levels round(255 x), so a change of less than half a level is not seen.
"""

import math

import torch
from torch import nn
from torch.nn.functional import conv2d, logsigmoid

from nbutils import InputError
from nbutils.data.images import to_float

IN_CACHE = 2**14  # pixels of a batch
SMALLEST_LOG_SCALE = -9.0  # of a logistic, where the levels run from -1 to 1


class CausalConv(nn.Module):
    """A convolution that sees the rows above and, of its own row, what lies left.

    With `centre` its own pixel too (van den Oord's mask B; without: mask A). The rows below, which
    a mask would blank, are not in the kernel.
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, centre: bool) -> None:
        super().__init__()
        self.reach = size // 2
        conv = nn.Conv2d(inputs, outputs, (self.reach + 1, size))
        self.weight, self.bias = conv.weight, conv.bias
        mask = torch.ones(1, 1, self.reach + 1, size)
        mask[..., -1, self.reach + int(centre) :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = conv2d(x, self.weight * self.mask, self.bias, padding=self.reach)
        return out[:, :, : x.shape[2]]  # the rows below the image fall away


class Block(nn.Module):
    """h + what a 3x3 causal and a 1x1 convolution add to it."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.causal = CausalConv(filters, filters, 3, centre=True)
        self.mix = nn.Conv2d(filters, filters, 1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.mix(self.causal(h.relu()).relu())


class PixelCNN(nn.Module):
    """p(image) over images of `channels` channels, any height and width, with `levels` values each.

    A first 7x7 convolution without its own pixel, then residual blocks. Each pixel gets `mixtures`
    weighted products of one logistic a channel, cut into levels; the mean of a channel moves
    linearly with the values of the channels before it. There is no normalisation over a batch, and
    an image's distributions at a pixel depend on a window of it (`reach`).

    Differs from the paper (PixelDefend): its PixelCNN++ has 160 filters, two streams, down-sampling
    and dropout; this one is what two cores can train.
    """

    def __init__(
        self,
        channels: int,
        *,
        filters: int = 32,
        blocks: int = 6,
        mixtures: int = 5,
        levels: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.mixtures, self.levels = channels, mixtures, levels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # a channel of ones beside the image tells its border from its middle grey
            self.first = CausalConv(channels + 1, filters, 7, centre=False)
            self.blocks = nn.ModuleList(Block(filters) for _ in range(blocks))
            self.last = nn.Conv2d(filters, mixtures * outputs_of(channels), 1)
        spread = torch.linspace(-1, 1, mixtures + 2)[1:-1].repeat(channels)
        with torch.no_grad():  # the logistics begin side by side, not all in one place
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()[mixtures : mixtures * (1 + channels)] = spread
            self.last.bias[mixtures * (1 + channels) : mixtures * (1 + 2 * channels)] = -2.0

    @property
    def reach(self) -> int:
        """Rows above a pixel, and columns to each side of it, that its distributions depend on."""
        return self.first.reach + len(self.blocks)

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """The levels of images in [0,1], put between -1 and 1.

        The derivative is that without the rounding (straight through), so that an attack on the
        likelihood has a gradient to follow.
        """
        top = self.levels - 1
        return 2 * (x + ((x * top).round() / top - x).detach()) - 1

    def parameters_at(self, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The logistics at each pixel, from `values` (n,c,h,w).

        Returns:
            log weights (n,1,k,h,w), means and log scales (n,c,k,h,w), and the slopes
            (n, c(c-1)/2, k,h,w) with which a channel's mean moves with each channel before it.
        """
        if v.shape[1] != self.channels:
            raise InputError(
                f"This density is one of images of {self.channels} channels, but these have "
                f"{v.shape[1]}."
            )
        h = self.first(torch.cat([v, torch.ones_like(v[:, :1])], 1))
        for block in self.blocks:
            h = block(h)
        out = self.last(h.relu()).unflatten(1, (-1, self.mixtures))
        c = self.channels
        weights, means, scales, slopes = out.split([1, c, c, c * (c - 1) // 2], 1)
        return (
            weights.log_softmax(2),
            means,
            scales.clamp_min(SMALLEST_LOG_SCALE),
            slopes.tanh(),
        )

    def _moved(self, means: torch.Tensor, slopes: torch.Tensor, v: torch.Tensor, j: int):
        """The means (n,k,h,w) of channel j's logistics, given the channels before it."""
        first = j * (j - 1) // 2
        return means[:, j] + sum(slopes[:, first + i] * v[:, i, None] for i in range(j))

    def log_likelihood(self, x: torch.Tensor) -> torch.Tensor:
        """log p (n,h,w), in nats, of each pixel of images (n,c,h,w) in [0,1], given those before
        it.
        """
        v = self.values(x)
        weights, means, scales, slopes = self.parameters_at(v)
        total = weights[:, 0]
        for j in range(self.channels):
            centred = v[:, j, None] - self._moved(means, slopes, v, j)
            total = total + self._log_mass(v[:, j, None], centred, scales[:, j])
        return total.logsumexp(1)

    def distributions(self, x: torch.Tensor) -> torch.Tensor:
        """log p (n,c,h,w,levels) of each value that a channel of a pixel could have, given the
        pixels and the channels before it.
        """
        v = self.values(x)
        weights, means, scales, slopes = self.parameters_at(v)
        known, found = weights[:, 0], []
        every = torch.linspace(-1, 1, self.levels, dtype=v.dtype, device=v.device)
        for j in range(self.channels):
            mean, scale = self._moved(means, slopes, v, j), scales[:, j]
            could = self._log_mass(every, every - mean[..., None], scale[..., None])
            # how far each logistic is to be believed, after the channels before this one
            believed = known.log_softmax(1)[..., None]
            found.append((believed + could).logsumexp(1))
            known = known + self._log_mass(v[:, j, None], v[:, j, None] - mean, scale)
        return torch.stack(found, 1)

    def _log_mass(
        self, v: torch.Tensor, centred: torch.Tensor, log_scale: torch.Tensor
    ) -> torch.Tensor:
        """log of a logistic's mass in the bin of a level; the lowest and the highest bin reach to
        infinity, so that all levels sum to 1.

        With sigmoids s at the bin's ends a > b: s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), which
        loses nothing where both are near 0 or near 1.
        """
        half = 1 / (self.levels - 1)
        steep = (-log_scale).exp()
        above = logsigmoid((centred + half) * steep)
        below = logsigmoid((half - centred) * steep)
        between = (-torch.expm1(-2 * half * steep)).log()
        inside = above + below + between
        lowest, highest = v < -1 + half, v > 1 - half
        return torch.where(lowest, above, torch.where(highest, below, inside))

    def bits(self, x: torch.Tensor) -> torch.Tensor:
        """Bits per dimension (n,) of images (n,c,h,w), uint8 or float in [0,1]: -log2 p(x) / (chw).

        They are read in batches that a cache holds.
        """
        batch = max(1, IN_CACHE // x[0, 0].numel())
        parts = [self.log_likelihood(to_float(part)).sum((1, 2)) for part in x.split(batch)]
        return torch.cat(parts) / (-math.log(2) * x[0].numel())

    @classmethod
    def of(cls, state: dict[str, torch.Tensor], *, levels: int = 256) -> "PixelCNN":
        """The density whose `state_dict` this is, ready to be read; its sizes are those of the
        tensors.
        """
        filters, inputs = state["first.weight"].shape[:2]
        c, blocks = inputs - 1, sum(name.endswith("mix.bias") for name in state)
        mixtures = len(state["last.bias"]) // outputs_of(c)
        net = cls(c, filters=filters, blocks=blocks, mixtures=mixtures, levels=levels)
        net.load_state_dict(state)
        net.to(state["last.bias"].device, memory_format=torch.channels_last)
        return net.requires_grad_(False).eval()


def outputs_of(channels: int) -> int:
    """Numbers that make a logistic of each channel: its weight, means, scales, slopes."""
    return 1 + 2 * channels + channels * (channels - 1) // 2
