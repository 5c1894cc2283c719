"""Emphasis, transformations and squeezers against matplotlib, SciPy, OpenCV and pictures by hand;
the rule of paper 003 and that of Xu et al.
"""

import matplotlib
import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from nbutils import InputError
from nbutils.detectors.base import scores
from nbutils.detectors.building import build as build_detector
from nbutils.detectors.building import needs
from nbutils.detectors.consistency import (
    EMPHASES,
    OTHER_MAPS,
    TRANSFORMS,
    Consistency,
    GradCamConsistency,
    ask,
    emphasised,
    jet,
)
from nbutils.detectors.groups import CONSISTENCY
from nbutils.detectors.squeezing import (
    JOINT,
    SQUEEZERS,
    Squeezing,
    bit_depth,
    kind_of,
    median,
    non_local_means,
)
from nbutils.models.building import build as build_network
from nbutils.saliency.grad_cam import grad_cam
from nbutils.saliency.maps import between_0_and_1


@pytest.fixture
def guarded():
    return classifier_of()


def classifier_of(channels=3, side=12):
    normalisation = {"mean": [0.5] * channels, "std": [0.05] * channels}
    return build_network("digits_net", (channels, side, side), 4, seed=3, **normalisation)


def images(n=6, channels=3, side=12, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def smooth_images(n, channels, side):
    """Pictures whose neighbours are alike, with a little noise: a filter has something to do."""
    coarse = avg_pool2d(images(n, channels, side + 4), 5, stride=1)
    return (coarse + 0.02 * images(n, channels, side, seed=1)).clamp(0, 1)


def as_pixels(image):
    """An image (c,h,w) in [0,1] as bytes (h,w,c)."""
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


def darkened(x):
    return x * 0.05


def test_jet_is_matplotlibs():
    values = torch.linspace(0, 1, 256)
    ours = jet(values.view(1, 1, 16, 16))[0].flatten(1).T.numpy()
    assert np.abs(ours - matplotlib.colormaps["jet"](values.numpy())[:, :3]).max() < 1e-4
    assert torch.allclose(jet(torch.zeros(1, 1, 1, 1)).flatten(), torch.tensor([0, 0, 0.5]))


def test_maps_reach_from_0_to_1_and_a_constant_one_says_nothing():
    maps = torch.tensor([[0.0, 2.0, 4.0, 1.0], [3.0, 3.0, 3.0, 3.0]]).view(2, 1, 2, 2)
    want = torch.tensor([[0, 0.5, 1, 0.25], [0, 0, 0, 0]])
    assert torch.equal(between_0_and_1(maps).flatten(1), want)


def test_emphasis_by_hand():
    """Two pixels, one where the map is 0 and one where it is 1, on a grey of .6."""
    x, s = torch.full((1, 3, 1, 2), 0.6), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    cold, hot = [0, 0, 0.5], [0.5, 0, 0]
    want = {
        "overlay": [[0.6, 0.6, 0.8], [0.8, 0.6, 0.6]],
        "overlay_bgr": [[0.8, 0.6, 0.6], [0.6, 0.6, 0.8]],
        "grey": [[0.6] * 3, [1.0] * 3],
        "blend": [[0.36 + 0.4 * v for v in cold], [0.36 + 0.4 * v for v in hot]],
        "multiply": [[0.6] * 3, [0.84] * 3],
    }
    assert set(want) == set(EMPHASES)
    for name, pixels in want.items():
        assert torch.allclose(EMPHASES[name](x, s, 0.4)[0, :, 0].T, torch.tensor(pixels)), name
    assert EMPHASES["overlay"](x, s, 1.0).max() == 1  # clipped
    assert all(torch.equal(lay(x, s, 0.0), x) for lay in EMPHASES.values())


def test_transforms_by_hand():
    x = torch.tensor([0.1, 0.3, 0.8, 0.4, 0.2, 0.6]).view(1, 3, 1, 2)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    want = {
        "none": x.flatten(),
        "colour_reversing": [0.2, 0.6, 0.8, 0.4, 0.1, 0.3],
        "zero_mean": [0, 0.2, 0.6, 0.2, -0.1, 0.3],
        "zero_mean_image": [-0.1, 0.1, 0.2, -0.2, -0.2, 0.2],
        "zero_mean_brightness": [-0.3, -0.1, 0.4, 0, -0.2, 0.2],
        "zero_mean_undone": [0.2, 0.4, 1.0, 0.6, 0.5, 0.9],
        "darker": [-0.1, 0.1, 0.6, 0.2, 0, 0.4],
    }
    assert set(want) == set(TRANSFORMS)
    for name, values in want.items():
        found = TRANSFORMS[name](x, mean).flatten()
        assert torch.allclose(found, torch.as_tensor(values), atol=1e-6), name


def test_both_orders():
    x, s, mean = images(2), images(2, 1, seed=1), torch.full((1, 3, 1, 1), 0.4)
    knobs = {"theta": 0.3, "transform": "colour_reversing"}
    laid = (x + 0.3 * jet(s)).clamp(0, 1)
    assert torch.equal(emphasised(x, s, mean, **knobs), laid.flip(1))
    on_the_reversed = (x.flip(1) + 0.3 * jet(s)).clamp(0, 1)
    assert torch.equal(emphasised(x, s, mean, **knobs, transform_first=True), on_the_reversed)


def test_stand_ins_say_nothing_of_their_image():
    maps = between_0_and_1(images(5, 1, 14))
    made = {kind: stand_in(maps, 3) for kind, stand_in in OTHER_MAPS.items()}
    assert set(made) == {"shuffled", "random", "uniform"}
    assert all(torch.equal(made["shuffled"][i], maps[i - 1]) for i in range(5))
    means = maps.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(made["uniform"], torch.ones_like(maps) * means)
    noise, draw = made["random"], OTHER_MAPS["random"]
    assert torch.equal(noise, draw(torch.rand_like(maps), 3))
    assert not torch.equal(noise, draw(maps, 4)) and not torch.equal(noise[0], noise[1])
    assert noise.amin((1, 2, 3)).tolist() == [0] * 5 and noise.amax((1, 2, 3)).tolist() == [1] * 5
    step = (noise[..., 1:] - noise[..., :-1]).abs().mean()
    assert step < 0.6 * (maps[..., 1:] - maps[..., :-1]).abs().mean()  # smooth


@pytest.mark.parametrize("size", [2, 3])
def test_median_is_scipys(size):
    from scipy.ndimage import median_filter

    x = images(3, side=9)
    x[0] = x[0].round()  # ties
    want = [
        [median_filter(channel, size=size, mode="reflect") for channel in image]
        for image in x.numpy()
    ]
    assert np.array_equal(median(x, size).numpy(), np.stack(want))
    with pytest.raises(InputError, match="size must be 2 or 3, but is 5"):
        median(x, 5)


def test_bit_depth_by_hand():
    x = torch.tensor([0.0, 0.2, 0.49, 0.51, 1.0]).view(1, 1, 1, 5)
    assert bit_depth(x, 1).flatten().tolist() == [0, 0, 0, 1, 1]
    assert torch.allclose(bit_depth(x, 2).flatten(), torch.tensor([0, 1, 1, 2, 3]) / 3)
    eight = (images(2) * 255).round() / 255
    assert torch.allclose(bit_depth(eight, 8), eight, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_non_local_means_is_opencvs(channels):
    import cv2

    sizes = {"templateWindowSize": 3, "searchWindowSize": 11}

    def opencvs(pixels):
        if channels == 1:
            return cv2.fastNlMeansDenoising(pixels[..., 0], None, h=4, **sizes)[..., None]
        reversed_order = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        found = cv2.fastNlMeansDenoisingColored(reversed_order, None, h=4, hColor=4, **sizes)
        return found[..., ::-1]

    x = (images(2, channels, 24) * 255).round() / 255
    for image, ours in zip(x, non_local_means(x, 11, 3, 4), strict=True):
        assert np.array_equal(as_pixels(ours), opencvs(as_pixels(image)))
    flat = torch.full((1, channels, 24, 24), 100 / 255)
    generator = torch.Generator().manual_seed(0)
    noisy = flat + torch.randint(-2, 3, flat.shape, generator=generator) / 255
    left = (non_local_means(noisy, 11, 3, 4) - flat).abs().mean()
    assert left < 0.6 * (noisy - flat).abs().mean()  # it removes noise


def test_the_squeezers_are_those_of_the_paper():
    depths = [f"{bits}-bit" for bits in range(1, 9)]
    filters = ["2*2", "3*3", "11-3-2", "11-3-4", "13-3-2", "13-3-4"]
    assert set(SQUEEZERS) == {*depths, *filters}
    assert all(name in SQUEEZERS for joint in JOINT.values() for name in joint)


def test_ask_counts_every_image_once_whatever_the_batch(guarded):
    x, maps = images(7), images(7, 1, seed=2)
    mean = x.mean((0, 2, 3)).view(1, 3, 1, 1)
    thetas = (0.0, 0.5)
    grid = [
        lambda z, rows, t=t: emphasised(z, maps[rows], mean, theta=t, transform="zero_mean")
        for t in thetas
    ]
    far, label = ask(guarded, x, grid, batch=3)
    for i, t in enumerate(thetas):
        after = guarded((x + t * jet(maps)).clamp(0, 1) - mean)
        apart = (after.softmax(1) - guarded(x).softmax(1)).abs().sum(1)
        assert torch.allclose(far[i], apart, atol=1e-6)
        assert torch.equal(label[i], after.argmax(1))
    assert (far >= 0).all() and (far <= 2).all()


def test_the_rule_is_the_label_until_a_threshold_is_calibrated(guarded):
    class Both(Consistency):
        def modified(self, x):
            return [bit_depth(x, 5), darkened(x)]

    x = images(40)
    detector, before = Both(guarded), guarded(x)
    after = [guarded(bit_depth(x, 5)), guarded(darkened(x))]
    changed = torch.stack([logits.argmax(1) != before.argmax(1) for logits in after]).any(0)
    assert 0 < changed.sum() < 40 and torch.equal(detector.decide(x), changed)
    each = torch.stack([(z.softmax(1) - before.softmax(1)).abs().sum(1) for z in after])
    assert torch.allclose(scores(detector, x, batch=7), each.amax(0), atol=1e-6)
    detector.calibrate(x, 0.05)
    assert detector.decide(x).sum() == 2


# Paper 003's detectors: proportion of the map, and transformation.
OF_PAPER_003 = {
    "gradcam": (0.2, "none"),
    "colour_reversing": (0.0, "colour_reversing"),
    "zero_mean": (0.0, "zero_mean"),
    "gradcam_colour_reversing": (0.1, "colour_reversing"),
    "gradcam_zero_mean": (0.1, "zero_mean"),
}


@pytest.mark.parametrize("layer", ["", "body.relu1"])
@pytest.mark.parametrize("name", OF_PAPER_003)
def test_paper_003s_scores_by_hand(guarded, name, layer):
    x, (theta, transform) = images(20), OF_PAPER_003[name]
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    maps = between_0_and_1(grad_cam(guarded, x, layer=layer))

    def asked_about(images, rows):
        return emphasised(images, maps[rows], mean, theta=theta, transform=transform)

    far, label = ask(guarded, x, [asked_about])
    detector = build_detector(name, guarded, mean=mean, layer=layer)
    assert far.std() > 0.01 and torch.allclose(scores(detector, x), far[0], atol=1e-6)
    assert torch.equal(detector.decide(x), label[0] != guarded(x).argmax(1))


def test_a_map_can_be_laid_on_in_other_ways(guarded):
    x, mean = images(20), torch.full((1, 3, 1, 1), 0.4)
    maps = between_0_and_1(grad_cam(guarded, x))
    for emphasis in EMPHASES:
        knobs = {"theta": 0.3, "transform": "darker", "emphasis": emphasis}
        changed = emphasised(x, maps, mean, **knobs)
        want = ask(guarded, x, [lambda z, rows, changed=changed: changed[rows]])[0][0]
        found = scores(GradCamConsistency(guarded, mean=mean, **knobs), x)
        assert torch.allclose(found, want, atol=1e-6), emphasis


def test_paper_003s_detectors_refuse_grey_pictures():
    grey = classifier_of(1)
    for name in OF_PAPER_003:
        detector = build_detector(name, grey, mean=torch.full((1, 1, 1, 1), 0.5))
        for asked in (detector.score, detector.decide):
            with pytest.raises(InputError, match="lays colours on a picture, and these are grey"):
                asked(images(2, 1))


def squeezed_apart(classifier, x, names):
    """The largest distance that these squeezers bring about, and whether one changes the label."""
    asked_about = [lambda images, _, squeeze=SQUEEZERS[name]: squeeze(images) for name in names]
    far, label = ask(classifier, x, asked_about)
    return far.amax(0), (label != classifier(x).argmax(1)).any(0)


@pytest.mark.parametrize("squeezer", SQUEEZERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_squeezers_scores_by_hand(squeezer, channels):
    classifier, x = classifier_of(channels), smooth_images(20, channels, 12)
    far, changed = squeezed_apart(classifier, x, [squeezer])
    detector = build_detector(f"squeezing_{squeezer.replace('*', 'x')}", classifier)
    assert far.max() > 0 and torch.allclose(scores(detector, x), far, atol=1e-6)
    assert torch.equal(detector.decide(x), changed)


@pytest.mark.parametrize(
    "kind, channels, side", [("grey", 1, 12), ("small", 3, 12), ("large", 3, 112)]
)
def test_the_joint_sets_scores_by_hand(kind, channels, side):
    classifier, smooth = classifier_of(channels, side), smooth_images(4, channels, side)
    flat = images(4, channels, 1).expand_as(smooth)  # no filter changes it
    sharp = images(4, channels, side).round()  # no bit depth changes it
    x = torch.cat([smooth, flat, sharp])
    assert kind_of(x) == kind
    far, changed = squeezed_apart(classifier, x, JOINT[kind])
    detector = build_detector("squeezing", classifier)
    assert torch.allclose(scores(detector, x), far, atol=1e-6)
    assert torch.equal(detector.decide(x), changed)
    alone = torch.stack([squeezed_apart(classifier, x, [name])[0] for name in JOINT[kind]])
    assert torch.equal(far, alone.amax(0)) and len(alone.argmax(0).unique()) > 1
    chosen = Squeezing(classifier, squeezers=JOINT[kind][:1])
    assert torch.allclose(scores(chosen, x), alone[0], atol=1e-6)


def test_every_detector_that_asks_again_is_checked_by_hand():
    squeezing = {f"squeezing_{name.replace('*', 'x')}" for name in SQUEEZERS}
    assert set(CONSISTENCY) == {*OF_PAPER_003, "squeezing", *squeezing}
    assert {name for name in CONSISTENCY if needs(name) == "mean"} == set(OF_PAPER_003)
