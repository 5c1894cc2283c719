"""The PixelCNN: an exact likelihood, causal, the same on a window as on the whole image; what its
detector finds, and what it says of its own reference.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from nbutils import InputError, __main__, steps
from nbutils.density import fitting
from nbutils.density.fitting import DensityTraining, fit
from nbutils.density.pixelcnn import PixelCNN, outputs_of
from nbutils.density.ranks import p_values, ranks, same_distribution
from nbutils.detectors.base import scores
from nbutils.detectors.pixel_defend import PixelDefend
from nbutils.evaluation.metrics import auroc
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of
from tests.conftest import configure


def net(channels=1, *, levels=4, seed=0, filters=12, blocks=2, mixtures=3):
    """A density in float64 whose distributions depend strongly on the image."""
    sizes = {"filters": filters, "blocks": blocks, "mixtures": mixtures, "levels": levels}
    made = PixelCNN(channels, **sizes, seed=seed).double().requires_grad_(False)
    made.last.weight.mul_(15)
    return made


def images(n, channels, height, width, *, levels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, levels, (n, channels, height, width), generator=generator)
    return drawn.double() / (levels - 1)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 4, 1), (2, 1, 2), (3, 1, 1), (4, 1, 1)])
def test_the_likelihoods_of_all_images_sum_to_1(shape):
    dimensions = math.prod(shape)
    every = torch.tensor([*itertools.product(range(4), repeat=dimensions)]).double() / 3
    for seed in range(5):
        p = (-net(shape[0], seed=seed).bits(every.view(-1, *shape)) * dimensions).exp2()
        assert p.sum().item() == pytest.approx(1, abs=1e-12)
        assert p.max() > 3 * p.mean()  # it is no uniform one


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_likelihood_is_the_product_of_the_distributions(channels):
    made, x = net(channels, levels=8), images(3, channels, 4, 5, levels=8)
    log_p = made.distributions(x)
    assert log_p.shape == (3, channels, 4, 5, 8)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(()).double(), atol=1e-12)
    its_own = log_p.gather(4, (x * 7).round().long()[..., None])[..., 0].sum(1)
    assert torch.allclose(its_own, made.log_likelihood(x), atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_causal_at_every_pixel_and_channel(channels):
    made, x = net(channels), images(1, channels, 5, 4, levels=4)
    before = made.distributions(x)
    order = [*itertools.product(range(5), range(4), range(channels))]
    rank = torch.tensor(range(len(order))).view(5, 4, channels).permute(2, 0, 1)[None]
    for i, (row, column, channel) in enumerate(order):
        changed = x.clone()
        changed[0, channel, row, column] = (x[0, channel, row, column] + 1 / 3) % (4 / 3)
        moved = (made.distributions(changed) != before).any(-1)
        assert not moved[rank <= i].any(), (row, column, channel)
        following = [channel + 1, row, column] if channel + 1 < channels else [0, row, column + 1]
        if column + 1 < 4 or channel + 1 < channels:
            assert moved[0][tuple(following)], (row, column, channel)
        elif row + 1 < 5:
            assert moved[rank > i].any(), (row, column, channel)


def test_a_window_gives_a_pixel_the_distribution_of_the_whole_image():
    """What a purifier needs, which asks again for a pixel after each change: the rows above it and
    the columns beside it, as far as it reaches. In float64, read as float32, bit for bit (float32
    itself is added up in another order on another shape).
    """
    made, x = net(3, blocks=1), images(2, 3, 12, 14, levels=4)
    whole, reach = made.distributions(x), made.reach
    assert reach == 4
    for row, column in itertools.product(range(12), range(14)):
        top, left = max(0, row - reach), max(0, column - reach)
        window = x[:, :, top : row + 1, left : column + reach + 1]
        found = made.distributions(window)[:, :, row - top, column - left]
        assert torch.equal(found.float(), whole[:, :, row, column].float()), (row, column)
    changed = made.distributions(x.clone().index_fill_(2, torch.tensor([7 - reach]), 0.0))
    assert not torch.allclose(changed[:, :, 7, 7], whole[:, :, 7, 7])  # as far as it says


def test_the_mixture_by_hand():
    """Two logistics of two channels with known numbers: masses from the logistic's distribution
    function, the second channel's mean moved by the first channel's value.
    """
    made = PixelCNN(2, filters=2, blocks=0, mixtures=2, levels=4).double().requires_grad_(False)
    made.last.weight.zero_()
    weights, means, scales = [0.4, -0.3], [[-0.9, 0.2], [0.5, 1.4]], [[-1.0, -2.0], [0.3, -0.5]]
    slope = [0.7, -1.1]
    numbers = [*weights, *means[0], *means[1], *scales[0], *scales[1], *slope]
    made.last.bias.copy_(torch.tensor(numbers, dtype=torch.float64))
    p = np.exp(weights) / np.exp(weights).sum()
    values = np.array([-1, -1 / 3, 1 / 3, 1])
    ends = np.array([-np.inf, -2 / 3, 0, 2 / 3, np.inf])

    def masses(mean, log_scale):
        below = 1 / (1 + np.exp(-(ends - mean) / np.exp(log_scale)))
        return below[1:] - below[:-1]

    for first, second in itertools.product(range(4), repeat=2):
        want = 0.0
        for k in range(2):
            mean = means[1][k] + np.tanh(slope[k]) * values[first]
            want += (
                p[k] * masses(means[0][k], scales[0][k])[first] * masses(mean, scales[1][k])[second]
            )
        x = torch.tensor([first / 3, second / 3]).double().view(1, 2, 1, 1)
        assert made.log_likelihood(x).exp().item() == pytest.approx(want, rel=1e-9)


def test_nothing_is_lost_where_a_logistic_is_sharp_or_far_away():
    """A naive difference of sigmoids is 0 there in float32, and its logarithm infinite."""
    made = PixelCNN(1, filters=2, blocks=0, mixtures=1).requires_grad_(False)
    made.last.weight.zero_()
    for mean, log_scale in ((40.0, -3.0), (-40.0, -3.0), (0.3, -9.0), (0.0, 9.0)):
        made.last.bias.copy_(torch.tensor([0.0, mean, log_scale]))
        log_p = made.distributions(torch.zeros(1, 1, 1, 1))
        assert torch.isfinite(log_p).all()
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_only_levels_count_and_the_derivative_passes_straight_through():
    made, x = net(1, levels=256), images(4, 1, 6, 6, levels=256)
    bits = made.bits(x)
    assert torch.equal(made.bits(x + 0.49 / 255 * torch.sign(torch.randn(x.shape))), bits)
    assert not torch.equal(made.bits((x + 0.51 / 255).clamp(0, 1)), bits)
    as_bytes = (x * 255).round().to(torch.uint8)
    assert torch.allclose(made.float().bits(as_bytes), bits.float(), atol=1e-4)
    z = (x + 0.2 / 255).requires_grad_()
    gradient = torch.autograd.grad(made.double().bits(z).sum(), z)[0]
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    with pytest.raises(InputError, match="of images of 1 channels, but these have 3"):
        made.bits(x.expand(-1, 3, -1, -1))


def test_a_batch_does_not_move_an_image_and_a_state_dict_tells_the_sizes():
    made, x = net(3, levels=256, mixtures=4), images(5, 3, 70, 71, levels=256)
    bits = made.bits(x)  # larger than a batch that a cache holds
    assert torch.allclose(bits, torch.cat([made.bits(part) for part in x.split(1)]), atol=1e-9)
    again = PixelCNN.of(made.state_dict()).double()
    assert len(again.last.bias) == 4 * outputs_of(3) and len(again.blocks) == 2
    assert torch.allclose(again.bits(x), bits, atol=1e-9)
    assert key_of(PixelCNN(1, seed=3).state_dict()) == key_of(PixelCNN(1, seed=3).state_dict())
    assert key_of(PixelCNN(1, seed=3).state_dict()) != key_of(PixelCNN(1, seed=4).state_dict())


def slopes(n, seed):
    """Clean images of one source (n,1,8,8): a brightness, a slope each way, faint noise."""
    generator = torch.Generator().manual_seed(seed)
    level, down, across = torch.rand(3, n, 1, 1, 1, generator=generator)
    rows = torch.linspace(-0.5, 0.5, 8)
    x = 0.25 + 0.5 * level + (down - 0.5) * 0.4 * rows[:, None] + (across - 0.5) * 0.4 * rows
    x = x + 0.01 * torch.randn(x.shape, generator=generator)
    return (x.clamp(0, 1) * 255).round() / 255


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    made = PixelCNN(1, filters=12, blocks=1, mixtures=2)
    record = fit(made, slopes(600, 1), DensityTraining(12))
    return made, record


def detector(trained, **knobs):
    made = PixelDefend(torch.nn.Identity(), **knobs)
    told = made.fit(slopes(600, 1), trained[0])
    assert told["n"] == 600 and told["bits"] == pytest.approx(
        trained[0].bits(slopes(600, 1)).mean()
    )
    return made


def noisy(x, deviation):
    generator = torch.Generator().manual_seed(9)
    return (x + deviation * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_training_saves_bits_and_a_noisy_image_costs_more(trained):
    made, record = trained
    assert record["bits_by_epoch"][0] > record["bits_by_epoch"][-1] + 1
    x, bits_of = slopes(200, 2), made.bits
    # the noise alone has 3.4 bits: log2(255 * 0.01 * sqrt(2 pi e))
    assert 3.3 < bits_of(x).mean() < 4.8
    more = bits_of(noisy(x, 0.05)) - bits_of(x)
    assert (more > 0).float().mean() > 0.98
    assert not any(p.requires_grad for p in made.parameters())


def test_clean_p_values_are_uniform_and_a_density_that_knows_its_reference_is_told(trained):
    found, x = detector(trained), slopes(400, 2)
    p = found.p_values(x)
    assert p.min() > 0 and p.max() <= 1
    told = same_distribution(trained[0].bits(x), found.reference)
    assert told["ks"] < 0.1 and told["ks_p"] > 0.01
    uniform = torch.arange(1, 401) / 400
    assert (p.sort().values - uniform).abs().max().item() == pytest.approx(told["ks"], abs=0.006)
    by_heart = PixelCNN(1, filters=24, blocks=2, mixtures=2)
    few = slopes(24, 3)
    fit(by_heart, few, DensityTraining(200))
    told = same_distribution(by_heart.bits(x), by_heart.bits(few))
    assert told["ks"] > 0.5 and told["ks_p"] < 1e-4
    assert (p_values(by_heart.bits(x), by_heart.bits(few)) < 0.05).float().mean() > 0.3


def test_one_side_finds_noise_and_misses_what_is_smoother_two_sides_find_both(trained):
    x, z = slopes(300, 4), slopes(300, 5)
    smoother = torch.nn.functional.avg_pool2d(z, 3, 1, 1, count_include_pad=False)

    def found_by(made, attacked):
        return auroc(scores(made, x).numpy(), scores(made, attacked).numpy())

    one, two = detector(trained), detector(trained, two_sided=True)
    assert found_by(one, noisy(z, 0.05)) > 0.95 and found_by(two, noisy(z, 0.05)) > 0.95
    assert found_by(one, smoother) < 0.2 and found_by(two, smoother) > 0.8
    for made in (one, two):
        made.calibrate(slopes(400, 6), 0.05)
        assert made.decide(x).float().mean() < 0.1
    with pytest.raises(InputError, match="not fitted yet: call fit with clean images"):
        PixelDefend(torch.nn.Identity()).score(x)


def test_p_values_and_ranks_by_counting():
    generator = torch.Generator().manual_seed(0)
    reference, bits = torch.randn(50, generator=generator), torch.randn(30, generator=generator)
    bits[:2] = reference[:2]  # a tie counts as as unlikely
    want = [(1 + sum(r >= b for r in reference.tolist())) / 51 for b in bits.tolist()]
    assert p_values(bits, reference).tolist() == pytest.approx(want)
    every = torch.cat([bits, torch.tensor([-30.0, -9.0, 9.0, 30.0])]).sort().values
    found = ranks(every, reference)
    assert (found.diff() > 0).all() and found.min() > 0 and found.max() < 1
    assert ((1 - found) - p_values(every, reference)).abs().max() < 1.01 / 51
    z = every.clone().requires_grad_()
    gradient = torch.autograd.grad(ranks(z, reference).sum(), z)[0]
    assert (gradient >= 0).all() and gradient[0] > 0 and gradient[-1] > 0
    with pytest.raises(InputError, match="at least 2 clean images, but there are 1"):
        ranks(bits, reference[:1])


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0)
    x, how = slopes(40, 1), DensityTraining(3)

    def stopped(steps_):
        for step in steps_:
            if step == 5:
                raise KeyboardInterrupt
            yield step

    def fresh():
        return PixelCNN(1, filters=4, blocks=1, mixtures=2)

    straight, killed, resumed = fresh(), fresh(), fresh()
    record = fit(straight, x, how)
    parts = Parts(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, x, how, parts=parts, progress=stopped)
    done = []
    again = fit(resumed, x, how, parts=parts, progress=lambda s: (done.append(i) or i for i in s))
    assert done == [5, 6, 7, 8] and again == record
    assert key_of(resumed.state_dict()) == key_of(straight.state_dict())
    with pytest.raises(InputError, match="no clean images to fit a density on"):
        fit(fresh(), x[:0], how)
    with pytest.raises(InputError, match="diverged: lower its learning rate inf"):
        fit(fresh(), x, DensityTraining(2, lr=math.inf))


def test_the_step_keeps_it_and_evaluates_both_readings(smoke):
    made = steps.density(smoke)
    record, test = made.record, smoke.data.test.pixels()
    assert record["n_train"] == len(made.reference) == smoke.preset["density_train"]
    assert torch.allclose(made.model.bits(test), made.test, atol=1e-4)
    assert record["bits_test"] == pytest.approx(made.test.mean().item())
    assert 0 <= record["ks"] <= 1 and record["bits_test"] < 8
    kept = {}
    for name in ("pixel_defend", "pixel_defend_two_sided"):
        found, told = steps.detector(smoke, name)
        assert told == record and found.threshold is None
        kept[name] = steps.evaluation(smoke, name, "", "fgsm")
        assert kept[name].record["fits"] == 1
        assert steps.controls(smoke, name, "fgsm")
    one, two = (kept[name].tensors["clean"][0] for name in kept)
    assert torch.allclose(one, made.test[: len(one)], atol=1e-4)
    wanted = (ranks(made.test[: len(one)], made.reference) - 0.5).abs().float()
    assert torch.allclose(two, wanted, atol=1e-3)


def test_a_density_serves_every_classifier(smoke, tmp_path):
    """A brought classifier has its calibration images from the test part; the density is trained
    on the same images as ever.
    """
    own = configure(tmp_path, MODEL="tests.conftest:NearestMean")
    assert own.brought and not torch.equal(own.data.train.index, smoke.data.train.index)
    assert steps.density(own).artifact.content == steps.density(smoke).artifact.content


def test_the_command_line_makes_it_and_nothing_else(tmp_path, capsys):
    words = ["--preset", "smoke", "--threads", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert __main__.main(["make", "density", *words]) == 0
    told = capsys.readouterr().out
    assert "density: bits per dimension" in told and "(n 200), on training images" in told
    assert [path.name for path in (tmp_path / "digits-smoke-s0").iterdir()] == ["density"]
