"""Rectifiers: PixelDefend's walk against one by brute force and against the whole forward passes,
total variation against an independent solver, and the contract that all of them keep.
"""

import functools
import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from scipy.optimize import minimize
from torch.nn.functional import avg_pool2d

from nbutils import InputError
from nbutils.data.images import to_levels
from nbutils.density.fitting import DensityTraining, fit
from nbutils.density.pixelcnn import PixelCNN
from nbutils.detectors.gcd import GCD
from nbutils.rectifiers import RECTIFIERS, pixel_defend, trivial
from nbutils.rectifiers import total_variation as tv
from nbutils.rectifiers.pixel_defend import Column, Whole, purify, walk
from tests.test_density import slopes


def net(channels=1, *, seed=0, blocks=1):
    """A density of 8-bit images in float64 whose distributions depend strongly on the image."""
    made = PixelCNN(channels, filters=10, blocks=blocks, mixtures=3, seed=seed)
    made = made.double().requires_grad_(False)
    made.last.weight.mul_(15)
    return made


def pictures(n, channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, height, width, generator=generator)


def levels_of(x):
    return (x.double() * 255).round().long()


def by_brute_force(density, image, eps):
    """Song et al.'s algorithm, with the distributions of the whole image anew for each value."""
    own = levels_of(image)
    out = own.clone()
    channels, height, width = out.shape
    for row, column, c in itertools.product(range(height), range(width), range(channels)):
        log_p = density.distributions(out[None].double() / 255)[0, c, row, column].tolist()
        middle = own[c, row, column].item()
        near = range(max(0, middle - eps), min(255, middle + eps) + 1)
        best = max(near, key=lambda level: (log_p[level], -abs(level - middle), -level))
        out[c, row, column] = best
    return out


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_walk_is_that_of_brute_force(channels):
    moved = []
    for seed, eps in itertools.product(range(3), (5, 16, 300)):
        density, x = net(channels, seed=seed), pictures(2, channels, 3, 3, seed)
        want = torch.stack([by_brute_force(density, image, eps) for image in x])
        assert torch.equal(levels_of(purify(x, through=density, eps_255=eps)), want)
        moved.append((want - levels_of(x)).abs())
    assert torch.cat(moved).max() > 100 and (torch.cat(moved) > 0).float().mean() > 0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(12, 12), (7, 12), (12, 3), (1, 5), (5, 1)])
def test_one_column_of_the_network_tells_what_the_whole_does(channels, size):
    """Where it reaches over the whole image and where it does not."""
    density, levels = net(channels, blocks=2), levels_of(pictures(3, channels, *size))
    assert 3 < density.reach < 12
    found = walk(density, levels, 40)
    assert torch.equal(found, walk(density, levels, 40, Whole))
    assert not torch.equal(found, levels)


def test_the_logistics_of_a_column_are_those_of_the_whole_image():
    """Not only the levels that they choose, and after every change."""
    density, x = net(3, blocks=2), pictures(2, 3, 9, 10).double()
    v = 2 * x - 1
    column, whole = Column(density, v), Whole(density, v)
    for row, place in itertools.product(range(9), range(10)):
        found, want = column.at(row, place), whole.at(row, place)
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, want, strict=True))
        new = -v[:, :, row : row + 1, place : place + 1]
        column.put(row, place, new)
        whole.put(row, place, new)


def test_a_walk_stays_near_and_on_levels():
    x = pictures(4, 3, 6, 6)
    for eps in (1, 7.9, 16):
        out = levels_of(purify(x, through=net(3), eps_255=eps))
        assert (out - levels_of(x)).abs().max() == int(eps)
    assert torch.equal(purify(x, through=net(3), eps_255=0), to_levels(x))
    assert not torch.equal(to_levels(x), x)
    edge = torch.stack([torch.full((3, 6, 6), level / 255) for level in (5.0, 250.0)])
    out = purify(edge, through=net(3), eps_255=30)
    assert out.min() >= 0 and out.max() <= 1 and not torch.equal(out, edge)
    assert torch.equal(out, to_levels(out))  # the same bits as an 8-bit picture that is read


class Valley(PixelCNN):
    """Least likely is level 100, and what is as far from it is as likely; levels beyond 255 would
    be likelier still.
    """

    def _log_mass(self, v, centred, log_scale):
        assert not torch.is_grad_enabled()
        return ((v + 1) / 2 * 255 - 100).round().abs() + 0 * centred


def test_of_equally_likely_levels_the_nearest_then_the_lower():
    flat = net()
    flat.last.weight.zero_()
    flat.last.bias[6:] = 50.0  # log scales: all levels but the first and the last tie
    x = torch.tensor([[100, 60], [127, 128]]).view(1, 1, 2, 2) / 255
    assert torch.equal(purify(x, through=flat, eps_255=10), to_levels(x))
    out = levels_of(purify(x, through=flat, eps_255=255))
    assert out.flatten().tolist() == [0, 0, 0, 255]
    valley = Valley(1, filters=2, blocks=0, mixtures=2)
    out = purify(torch.tensor([100, 101, 245]).view(1, 1, 1, 3) / 255, through=valley)
    assert levels_of(out).flatten().tolist() == [84, 117, 255]


def test_the_walk_of_an_image_is_its_own(monkeypatch):
    density, x = net(3), pictures(5, 3, 5, 6)
    together = purify(x, through=density)
    for order in ([0], [3, 1], [4, 3, 2, 1, 0]):
        assert torch.equal(purify(x[order], through=density), together[order])
    monkeypatch.setattr(pixel_defend, "TOGETHER", 2)
    assert torch.equal(purify(x, through=density), together)
    assert len(purify(x[:0], through=density)) == 0


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    made = PixelCNN(1, filters=12, blocks=1, mixtures=2)
    fit(made, slopes(400, 1), DensityTraining(12))
    return made


def test_noisy_images_become_as_likely_as_clean_ones(trained):
    """What purification is for. (It brings them to the density's liking, and not back to what they
    were: a greedy walk goes further from these slopes than the noise did.)
    """
    x = slopes(24, 2)
    noisy = trivial.noise(x, deviation=0.04)
    out = purify(noisy, through=trained, eps_255=32)
    assert (trained.bits(out) < trained.bits(noisy)).all()
    assert (trained.bits(noisy) > trained.bits(x).max()).all()
    assert trained.bits(out).median() < trained.bits(x).median()
    # as large a move without the density's advice does not
    moved = (out - to_levels(noisy)).flatten(1)[:, torch.arange(64).flip(0)].view_as(out)
    assert trained.bits((noisy + moved).clamp(0, 1)).min() > trained.bits(x).max()


def test_likely_images_are_left_alone(trained):
    x = torch.cat([slopes(6, 3), trivial.noise(slopes(6, 3), deviation=0.1)])
    bits, always = trained.bits(x), purify(x, through=trained)
    above = (bits[:6].max() + bits[6:].min()).item() / 2
    assert bits[:6].max() < above < bits[6:].min()
    out = purify(x, through=trained, above=above)
    assert torch.equal(out[:6], to_levels(x[:6])) and torch.equal(out[6:], always[6:])
    assert not torch.equal(out[:6], always[:6]) and not torch.equal(out[6:], to_levels(x[6:]))
    assert torch.equal(purify(x, through=trained, above=0.0), always)
    assert torch.equal(purify(x, through=trained, above=1e9), to_levels(x))


def least(x, kept, weight):
    """The objective that SciPy's L-BFGS reaches, on lengths sqrt(d^2 + 1e-8), written anew."""

    def value(flat):
        z = flat.reshape(x.shape)
        down, right = np.zeros_like(z), np.zeros_like(z)
        down[:, :-1], right[:, :, :-1] = np.diff(z, axis=1), np.diff(z, axis=2)
        length = np.sqrt(down**2 + right**2 + 1e-8)
        slope = kept * (z - x)
        for part, axis in ((down / length, 1), (right / length, 2)):
            slope -= weight * (part - np.roll(part, 1, axis))  # 0 in the last place, by `down`
        return (kept * (z - x) ** 2).sum() / 2 + weight * length.sum(), slope.ravel()

    begun = np.where(kept, x, x.mean()).ravel()
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-13, "gtol": 1e-9, "maxcor": 30}
    found = minimize(value, begun, jac=True, method="L-BFGS-B", options=options).x.reshape(x.shape)
    return plainly(found, x, kept, weight)


def plainly(z, x, kept, weight):
    """The objective of one image, value by value."""
    total, (channels, height, width) = 0.0, z.shape
    for c, i, j in itertools.product(range(channels), range(height), range(width)):
        down = z[c, i + 1, j] - z[c, i, j] if i + 1 < height else 0.0
        right = z[c, i, j + 1] - z[c, i, j] if j + 1 < width else 0.0
        total += weight * float(np.hypot(down, right))
        total += 0.5 * (z[c, i, j] - x[c, i, j]) ** 2 if kept[c, i, j] else 0.0
    return total


@pytest.mark.parametrize("weight", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_no_solver_finds_a_smaller_objective(weight, drop):
    """On noisy edges and on plain noise, grey and coloured."""
    edges = torch.zeros(2, 3, 9, 8).double()
    edges[:, :, 3:, 2:6] = torch.tensor([0.8, 0.4, 0.6]).double().view(3, 1, 1)
    x = (edges + 0.1 * pictures(2, 3, 9, 8).double()).clamp(0, 1)
    x[1] = pictures(1, 3, 9, 8, 5)[0].double()
    kept = tv.kept_values(x, [7, 8], 3, drop)
    index = torch.tensor([7, 8])
    z = tv.total_variation(x, index=index, seed=3, drop=drop, weight=weight)
    reached = tv.objective(z, x, kept.double(), weight)
    for n in range(2):
        arrays = (t[n].numpy() for t in (z, x, kept))
        assert reached[n].item() == pytest.approx(plainly(*arrays, weight), rel=1e-12)
        best = least(x[n].numpy(), kept[n].numpy(), weight)
        assert best * 0.999 < reached[n] < best * 1.0011, (n, reached[n], best)


def test_two_pixels_by_hand():
    """Each moves by the weight towards the other, or both to their mean."""
    x = torch.tensor([[0.2, 0.8], [0.5, 0.53], [0.1, 0.3]]).double().view(3, 1, 1, 2)
    want = torch.tensor([[0.25, 0.75], [0.515, 0.515], [0.15, 0.25]]).double()
    for shape in ((3, 1, 1, 2), (3, 1, 2, 1)):
        z = tv.total_variation(x.reshape(shape), drop=0.0, weight=0.05, tolerance=1e-9)
        assert torch.allclose(z.view(3, 2), want, atol=1e-4)


def test_the_gap_bounds_what_is_left_and_closes():
    x = pictures(4, 2, 6, 7).double()
    kept = tv.kept_values(x, range(4), 0, 0.5).double()
    best = tv.objective(tv.minimise(x, kept, 0.05, 1e-6), x, kept, 0.05)
    generator = torch.Generator().manual_seed(0)
    for size in (0.0, 0.01, 0.05):
        p = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64)
        p = size * p / p.square().sum(0).sqrt()
        z = pictures(4, 2, 6, 7, 3).double()
        left = tv.objective(z, x, kept, 0.05) - best
        assert (tv.gap(z, p, x, kept, 0.05) >= left - 1e-5).all()
    for tolerance in (1e-1, 1e-2, 1e-3):
        reached = tv.objective(tv.minimise(x, kept, 0.05, tolerance), x, kept, 0.05)
        assert (reached <= best * (1 + tolerance)).all()
    rough = tv.objective(tv.minimise(x, kept, 0.05, 1e-1), x, kept, 0.05)
    assert (rough > best * 1.001).any()  # the tolerance does something


@pytest.mark.parametrize("weight", [0.0, 1e-4, 0.03, 30.0])
def test_a_constant_image_stays_and_every_weight_converges(weight):
    grey = torch.full((2, 3, 8, 8), 0.3)
    assert torch.allclose(tv.total_variation(grey, weight=weight), grey, atol=1e-6)
    x = pictures(3, 1, 8, 8)
    z = tv.total_variation(x, weight=weight)
    kept = tv.kept_values(x, range(3), 0, 0.5)
    if weight == 0:
        assert torch.equal(z[kept], x[kept])
    elif weight == 30:  # all equal the mean of what is kept
        means = [image[places].mean() for image, places in zip(x, kept, strict=True)]
        assert torch.allclose(z.mean((1, 2, 3)), torch.stack(means), atol=1e-3)
        assert (z.amax((1, 2, 3)) - z.amin((1, 2, 3))).max() < 0.02


def test_dropped_values_are_half_of_each_channel_and_nobody_reads_them():
    x = pictures(20, 3, 16, 16)
    numbers = torch.arange(20) + 5
    for drop in (0.5, 0.2):
        kept = tv.kept_values(x, numbers.tolist(), 1, drop).float()
        assert abs(kept.mean().item() - (1 - drop)) < 4 * (drop * (1 - drop) / x.numel()) ** 0.5
        both = (kept[:, 0] * kept[:, 1]).mean().item()  # each channel has a draw of its own
        assert both == pytest.approx((1 - drop) ** 2, abs=0.03)
    kept = tv.kept_values(x, numbers.tolist(), 0, 0.5)
    other = torch.where(kept, x, 1 - x)
    z = tv.total_variation(x, index=numbers)
    assert torch.equal(tv.total_variation(other, index=numbers), z)
    assert not torch.equal(tv.total_variation(torch.where(kept, 1 - x, x), index=numbers), z)


def test_what_is_dropped_begins_as_its_kept_neighbours():
    x = torch.arange(9.0).view(1, 1, 3, 3) / 10
    kept = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 0]]).view(1, 1, 3, 3).double()
    want = torch.tensor([[0, 0.15, 0.15], [0.3, 0.15, 0.15], [0.3, 0.3, 0.15]]).double()
    assert torch.allclose(tv._filled(x.double(), kept)[0, 0], want)
    assert (tv._filled(x.double(), kept * 0) == 0.5).all()


def test_the_median_is_scipys_and_noise_has_its_deviation():
    x = pictures(3, 3, 7, 6)
    for size in (2, 3):
        want = median_filter(x.numpy(), (1, 1, size, size), mode="reflect")
        assert np.array_equal(trivial.median(x, size=size).numpy(), want)
    grey = torch.full((40, 3, 16, 16), 0.5)
    drawn = trivial.noise(grey, deviation=0.1) - grey
    assert drawn.std().item() == pytest.approx(0.1, rel=0.02) and abs(drawn.mean()) < 0.002
    assert drawn.std((1, 2, 3)).min() > 0.09 and len(drawn.mean((1, 2, 3)).unique()) == 40
    assert torch.equal(trivial.noise(x, deviation=0), x)
    assert torch.equal(trivial.none(x), x) and trivial.none(x).data_ptr() != x.data_ptr()


def test_the_runner_up_is_the_second_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [-1.0, -3.0, -2.0], [1.0, 1.0, 1.0], [0.0, 2.0, 2.0]])
    assert trivial.runner_up(logits).tolist() == [2, 2, 1, 2]
    assert (trivial.runner_up(logits) != logits.argmax(1)).all()
    shuffled = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(trivial.runner_up(shuffled), shuffled.argsort(1)[:, -2])
    with pytest.raises(InputError, match="at least 2 classes"):
        trivial.runner_up(logits[:, :1])


class Squares:
    """A half of GCD whose gradient is as large as what it sees."""

    net = torch.nn.Identity()

    def view_all(self, x):
        return x.detach().clone()

    view = view_all

    def score(self, x, viewed=None):
        return (x if viewed is None else viewed).square().flatten(1).sum(1)


def through(name, channels):
    if name in OF_GCD:
        halves = (Squares(), Squares())
        return GCD(torch.nn.Identity(), pixels="id", sensitivity="insen", halves=halves)
    return net(channels) if name.startswith("pixel_defend") else None


OF_GCD = {name for name in RECTIFIERS if name.startswith("gcd")}
RANDOM = {"noise", "total_variation"} | OF_GCD


@pytest.mark.parametrize("name", RECTIFIERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_contract(name, channels):
    rectify = functools.partial(RECTIFIERS[name], through=through(name, channels))
    x, index = pictures(6, channels, 8, 7), torch.tensor([40, 3, 17, 5, 8, 21])
    x[0], x[1] = (x[0] > 0.5).float(), 0.25  # at both ends of the range, and nothing to see
    before, state = x.clone(), torch.get_rng_state()
    out = rectify(x, index=index, seed=2)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    assert out.shape == x.shape and out.dtype == x.dtype and not out.requires_grad
    assert out.min() >= 0 and out.max() <= 1 and out.data_ptr() != x.data_ptr()
    assert torch.equal(out, x) == (name == "none")
    assert torch.equal(rectify(x, index=index, seed=2), out)
    assert torch.equal(rectify(x.clone().requires_grad_(), index=index, seed=2), out)
    with warnings.catch_warnings():
        if name in OF_GCD:  # torch: of no images there is no deviation
            warnings.simplefilter("ignore")
        assert rectify(x[:0]).shape == (0, channels, 8, 7)
    # another batch, in another order, in another memory format
    order = torch.tensor([4, 0, 3])
    part = x[order].contiguous(memory_format=torch.channels_last)
    assert torch.equal(rectify(part, index=index[order], seed=2), out[order])
    numbered = rectify(x, index=torch.arange(6), seed=2)
    assert torch.equal(rectify(x, seed=2), numbered)
    assert torch.equal(numbered, out) == (name not in RANDOM)
    assert torch.equal(rectify(x, index=index, seed=3), out) == (name not in RANDOM)
    twins = rectify(x[:1].expand(2, -1, -1, -1), seed=2)
    assert torch.equal(twins[0], twins[1]) == (name not in RANDOM)


@pytest.mark.parametrize("name", RECTIFIERS)
def test_what_is_wrong_is_said(name):
    rectify = functools.partial(RECTIFIERS[name], through=through(name, 1))
    x = pictures(2, 1, 6, 6)
    for wrong, sentence in (
        (x + 1.5, r"must lie in \[0,1\] but reaches from 1.5"),
        (x - 0.5, r"must lie in \[0,1\] but reaches from -0"),
        (x * torch.nan, "must lie in"),
        ((x * 255).byte(), "must be float images"),
        (x[0], r"must be float images \(n,c,h,w\), but is torch.float32 of shape \(1, 6, 6\)"),
    ):
        with pytest.raises(InputError, match=sentence):
            rectify(wrong)
    with pytest.raises(InputError, match="index must number 2 images"):
        rectify(x, index=torch.arange(3))


def test_wrong_knobs_are_said():
    x = pictures(2, 1, 6, 6)
    for call, sentence in (
        (lambda: purify(x), "through a density of 8-bit images: pass .* it is NoneType"),
        (
            lambda: purify(x, through=PixelCNN(1, levels=16)),
            "a PixelCNN of 256 levels; it is one of 16 levels",
        ),
        (lambda: purify(x, through=net(3)), "of images of 3 channels, but these have 1"),
        (lambda: purify(x, through=net(), eps_255=-1), "eps_255 must be finite and not negative"),
        (lambda: trivial.noise(x, deviation=-0.1), "deviation must be finite and not negative"),
        (lambda: trivial.median(x, size=5), "size must be 2 or 3"),
        (lambda: tv.total_variation(x, weight=-1.0), "weight must be finite and not negative"),
        (lambda: tv.total_variation(x, drop=1.0), "drop must be below 1"),
        (lambda: tv.total_variation(x, tolerance=0.0), "tolerance above 0"),
    ):
        with pytest.raises(InputError, match=sentence):
            call()


def test_total_variation_smooths_noise_away():
    x = torch.zeros(4, 1, 16, 16)
    x[:, :, 4:12, 4:12] = 0.8
    noisy = trivial.noise(x + 0.1, deviation=0.05)
    out = tv.total_variation(noisy)
    blurred = avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)
    error = [(z - x - 0.1).square().mean().item() for z in (out, blurred)]
    assert error[0] < error[1]
