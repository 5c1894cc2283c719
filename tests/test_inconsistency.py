"""Emphasis, transformations and squeezers against matplotlib, SciPy, OpenCV and pictures by hand; the rule of paper 003 and that of Xu et al."""

import matplotlib
import numpy as np
import pytest
import torch

from nbutils import InputError, detectors, models
from nbutils.detectors import inconsistency as inc


@pytest.fixture
def guarded():
    return models.build("digits_net", (3, 12, 12), 4, mean=[0.5] * 3, std=[0.05] * 3, seed=3)


def images(n=6, channels=3, side=12, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_jet_is_matplotlibs():
    values = torch.linspace(0, 1, 256)
    ours = inc.jet(values.view(1, 1, 16, 16))[0].flatten(1).T.numpy()
    assert np.abs(ours - matplotlib.colormaps["jet"](values.numpy())[:, :3]).max() < 1e-4
    assert torch.allclose(inc.jet(torch.zeros(1, 1, 1, 1)).flatten(), torch.tensor([0, 0, 0.5]))


def test_maps_reach_from_0_to_1_and_a_constant_one_says_nothing():
    maps = torch.tensor([[0.0, 2.0, 4.0, 1.0], [3.0, 3.0, 3.0, 3.0]]).view(2, 1, 2, 2)
    assert torch.equal(inc.between_0_and_1(maps).flatten(1), torch.tensor([[0, 0.5, 1, 0.25], [0, 0, 0, 0]]))


def test_emphasis_by_hand():
    """Two pixels, one where the map is 0 and one where it is 1, on a grey of .6."""
    x, s = torch.full((1, 3, 1, 2), 0.6), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    cold, hot = [0, 0, 0.5], [0.5, 0, 0]
    want = {
        "overlay": [[0.6, 0.6, 0.8], [0.8, 0.6, 0.6]], "overlay_bgr": [[0.8, 0.6, 0.6], [0.6, 0.6, 0.8]], "grey": [[0.6] * 3, [1.0] * 3],
        "blend": [[0.36 + 0.4 * v for v in cold], [0.36 + 0.4 * v for v in hot]], "multiply": [[0.6] * 3, [0.84] * 3],
    }
    for name, pixels in want.items():
        assert torch.allclose(inc.EMPHASES[name](x, s, 0.4)[0, :, 0].T, torch.tensor(pixels)), name
    assert inc.EMPHASES["overlay"](x, s, 1.0).max() == 1  # clipped
    assert all(torch.equal(lay(x, s, 0.0), x) for lay in inc.EMPHASES.values())


def test_transforms_by_hand():
    x, mean = torch.tensor([0.1, 0.3, 0.8, 0.4, 0.2, 0.6]).view(1, 3, 1, 2), torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    want = {"none": x.flatten(), "colour_reversing": [0.2, 0.6, 0.8, 0.4, 0.1, 0.3], "zero_mean": [0, 0.2, 0.6, 0.2, -0.1, 0.3],
            "zero_mean_image": [-0.1, 0.1, 0.2, -0.2, -0.2, 0.2], "zero_mean_brightness": [-0.3, -0.1, 0.4, 0, -0.2, 0.2],
            "zero_mean_undone": [0.2, 0.4, 1.0, 0.6, 0.5, 0.9], "darker": [-0.1, 0.1, 0.6, 0.2, 0, 0.4]}
    assert set(want) == set(inc.TRANSFORMS)
    for name, values in want.items():
        assert torch.allclose(inc.TRANSFORMS[name](x, mean).flatten(), torch.as_tensor(values), atol=1e-6), name


def test_both_orders():
    x, s, mean = images(2), images(2, 1, seed=1), torch.full((1, 3, 1, 1), 0.4)
    knobs = {"theta": 0.3, "transform": "colour_reversing"}
    laid = (x + 0.3 * inc.jet(s)).clamp(0, 1)
    assert torch.equal(inc.emphasised(x, s, mean, **knobs), laid.flip(1))
    assert torch.equal(inc.emphasised(x, s, mean, **knobs, transform_first=True), (x.flip(1) + 0.3 * inc.jet(s)).clamp(0, 1))


def test_stand_ins_say_nothing_of_their_image():
    maps = inc.between_0_and_1(images(5, 1, 14))
    made = {kind: stand_in(maps, 3) for kind, stand_in in inc.STAND_INS.items()}
    assert set(made) == {"shuffled", "random", "uniform"}
    assert all(torch.equal(made["shuffled"][i], maps[i - 1]) for i in range(5))
    assert torch.allclose(made["uniform"], torch.ones_like(maps) * maps.mean((1, 2, 3), keepdim=True))
    noise = made["random"]
    assert torch.equal(noise, inc.STAND_INS["random"](torch.rand_like(maps), 3)) and not torch.equal(noise, inc.STAND_INS["random"](maps, 4))
    assert noise.amin((1, 2, 3)).tolist() == [0] * 5 and noise.amax((1, 2, 3)).tolist() == [1] * 5 and not torch.equal(noise[0], noise[1])
    step = (noise[..., 1:] - noise[..., :-1]).abs().mean()
    assert step < 0.6 * (maps[..., 1:] - maps[..., :-1]).abs().mean()  # smooth


@pytest.mark.parametrize("size", [2, 3])
def test_median_is_scipys(size):
    from scipy.ndimage import median_filter

    x = images(3, side=9)
    x[0] = x[0].round()  # ties
    want = np.stack([[median_filter(channel, size=size, mode="reflect") for channel in image] for image in x.numpy()])
    assert np.array_equal(inc.median(x, size).numpy(), want)
    with pytest.raises(InputError, match="size must be 2 or 3, but is 5"):
        inc.median(x, 5)


def test_bit_depth_by_hand():
    x = torch.tensor([0.0, 0.2, 0.49, 0.51, 1.0]).view(1, 1, 1, 5)
    assert inc.bit_depth(x, 1).flatten().tolist() == [0, 0, 0, 1, 1]
    assert torch.allclose(inc.bit_depth(x, 2).flatten(), torch.tensor([0, 1, 1, 2, 3]) / 3)
    eight = (images(2) * 255).round() / 255
    assert torch.allclose(inc.bit_depth(eight, 8), eight, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_non_local_means_is_opencvs(channels):
    import cv2

    x = (images(2, channels, 24) * 255).round() / 255
    got = inc.non_local_means(x, 11, 3, 4)
    for image, ours in zip(x, got, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        want = (cv2.fastNlMeansDenoising(pixels[..., 0], None, h=4, templateWindowSize=3, searchWindowSize=11)[..., None] if channels == 1 else
                cv2.fastNlMeansDenoisingColored(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), None, h=4, hColor=4, templateWindowSize=3,
                                                searchWindowSize=11)[..., ::-1])
        assert np.array_equal((ours * 255).round().byte().permute(1, 2, 0).numpy(), want)
    flat = torch.full((1, channels, 24, 24), 100 / 255)
    noisy = flat + torch.randint(-2, 3, flat.shape, generator=torch.Generator().manual_seed(0)) / 255
    assert (inc.non_local_means(noisy, 11, 3, 4) - flat).abs().mean() < 0.6 * (noisy - flat).abs().mean()  # it removes noise


def test_the_squeezers_are_those_of_the_paper():
    assert set(inc.SQUEEZERS) == {*(f"{b}-bit" for b in range(1, 9)), "2*2", "3*3", "11-3-2", "11-3-4", "13-3-2", "13-3-4"}
    assert all(name in inc.SQUEEZERS for joint in inc.JOINT.values() for name in joint)


def test_ask_counts_every_image_once_whatever_the_batch(guarded):
    x, maps = images(7), images(7, 1, seed=2)
    mean = x.mean((0, 2, 3)).view(1, 3, 1, 1)
    grid = [lambda z, rows, t=t: inc.emphasised(z, maps[rows], mean, theta=t, transform="zero_mean") for t in (0.0, 0.5)]
    far, label = inc.ask(guarded, x, grid, batch=3)
    for i, t in enumerate((0.0, 0.5)):
        after = guarded((x + t * inc.jet(maps)).clamp(0, 1) - mean)
        assert torch.allclose(far[i], (after.softmax(1) - guarded(x).softmax(1)).abs().sum(1), atol=1e-6)
        assert torch.equal(label[i], after.argmax(1))
    assert (far >= 0).all() and (far <= 2).all()


def test_the_rule_is_the_label_until_a_threshold_is_calibrated(guarded):
    x = images(40)
    dark = lambda z: z * 0.05  # noqa: E731
    detector = inc.Inconsistency(guarded, [lambda z: inc.bit_depth(z, 5), dark])
    changed = (guarded(x).argmax(1) != guarded(dark(x)).argmax(1)) | (guarded(x).argmax(1) != guarded(inc.bit_depth(x, 5)).argmax(1))
    assert 0 < changed.sum() < 40 and torch.equal(detector.decide(x), changed)
    each = torch.stack([(guarded(m(x)).softmax(1) - guarded(x).softmax(1)).abs().sum(1) for m in (lambda z: inc.bit_depth(z, 5), dark)])
    assert torch.allclose(detectors.scores(detector, x, batch=7), each.amax(0), atol=1e-6)
    detector.calibrate(x, 0.05)
    assert detector.decide(x).sum() == 2
