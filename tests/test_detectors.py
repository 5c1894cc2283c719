"""Detectors: one contract for all, planted signals found, trivial scalars by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import pixel_shuffle

from nbutils import InputError
from nbutils.attacks.cost import Counted
from nbutils.density.pixelcnn import PixelCNN
from nbutils.detectors import DETECTORS, READINGS, scalars
from nbutils.detectors.base import scores, scores_of
from nbutils.detectors.building import bank_for, needs
from nbutils.detectors.building import build as build_detector
from nbutils.detectors.groups import (
    CONSISTENCY,
    DENSITY,
    LEARNED,
    MAHALANOBIS,
    OF_004,
    ON_CLEAN,
    SCALARS,
    STAND_INS,
    TRAINED,
    TWS,
)
from nbutils.detectors.networks import Recipe
from nbutils.detectors.stand_ins import bank_of
from nbutils.evaluation.metrics import auroc
from nbutils.models import training
from nbutils.models.building import build as build_network
from nbutils.models.building import start_from
from nbutils.models.normalised import Restricted
from nbutils.models.published import CAM_LAYERS
from nbutils.models.taps import taps
from nbutils.models.training import Training
from nbutils.saliency.learned import SaliencyModel
from nbutils.store.files import read_tensors, write_tensors

RECIPE = Recipe("digits_net", Training(12))
SHORT = Recipe("digits_net", Training(1))
# A name of each kind of detector: a network on the image, with a class more, through a bank,
# through a learned map; a scalar; both kinds of consistency; a density, read in both ways;
# distances in the layers with and without a regression; steps to another label.
KINDS = ["id", "n_plus_one", "jsd_random", "spd", "margin", "gradcam", "squeezing"]
KINDS += ["spectral", "gcd", "gcd_cured_stacked"]
KINDS += ["pixel_defend", "pixel_defend_two_sided"]
KINDS += ["mahalanobis", "mahalanobis_max", "tws"]
WITH_RECIPE = [name for name in TRAINED if name not in MAHALANOBIS]


@pytest.fixture
def guarded():
    return classifier_of(1)


def classifier_of(channels, **normalisation):
    return build_network("digits_net", (channels, 12, 12), 3, seed=2, **normalisation)


def channels_for(name):
    """Grad-CAM consistency reads pictures in colour; for the others grey ones will do."""
    return 3 if needs(name) == "mean" else 1


def classifier_for(name):
    """What it guards; where it asks again, a classifier whose answers small changes move."""
    sharp = {"mean": [0.5], "std": [0.05]} if name in CONSISTENCY else {}
    return classifier_of(channels_for(name), **sharp)


def pairs(n=80, seed=0, channels=1):
    """Clean images, and the same with a faint checkerboard."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(n, channels, 12, 12, generator=generator)
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(6, 6)
    return x, x + 0.15 * board, torch.arange(n)


def unfitted(name, classifier):
    """With what it needs beside the classifier: a saliency model of random weights, a bank of
    others' Jacobians, or a mean.
    """
    through = None
    if name in LEARNED:
        through = SaliencyModel(classifier, torch.rand(1, 1, 12, 12)).requires_grad_(False).eval()
    if name in STAND_INS:
        through = bank_of(name, classifier, *pairs()[:2])
    mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    return build_detector(name, classifier, through, mean=mean)


def fitted(name, classifier, recipe=RECIPE, **more):
    detector = unfitted(name, classifier)
    if name in TRAINED:
        detector.fit(*pairs(), *([recipe] if name in WITH_RECIPE else []), **more)
    if name in DENSITY:
        detector.fit(pairs()[0], PixelCNN(1, filters=4, blocks=1, mixtures=2))
    if name in ON_CLEAN:
        detector.fit(pairs(seed=2)[0], **({"tune": False} if name in TWS else {}))
    return detector


def load(name, detector, kept, channels, recipe):
    """A network is told what it looks like."""
    return detector.load(kept, *([(channels, 12, 12), recipe] if name in WITH_RECIPE else []))


def view_of(name):
    """The function that a network among the detectors looks with."""
    return DETECTORS[name].keywords["view"]


def found_by(detector, x, x_adv):
    """AUROC of a detector on these images."""
    return auroc(scores(detector, x).numpy(), scores(detector, x_adv).numpy())


@pytest.mark.parametrize("name", DETECTORS)
def test_contract(name):
    guarded, (x, _, _) = classifier_for(name), pairs(seed=1, channels=channels_for(name))
    detector, before = fitted(name, guarded), x.clone()
    score = scores(detector, x)
    assert score.shape == (len(x),) and torch.isfinite(score).all() and torch.equal(x, before)
    assert torch.equal(score, scores(detector, x))
    tolerance = 1e-6 if name in CONSISTENCY else 1e-4  # some of their scores are small
    assert torch.allclose(score, scores(detector, x, batch=7), atol=tolerance)
    threshold = detector.calibrate(x, 0.1)
    assert detector.threshold == threshold and detector.decide(x).sum() == 8
    assert detector.differentiable == (name not in (*CONSISTENCY, *TWS))
    if detector.differentiable:
        z = x[:3].clone().requires_grad_()
        gradient = torch.autograd.grad(detector.score(z).sum(), z)[0]
        assert torch.isfinite(gradient).all()
        constant_in_pieces = name in ("jacobian", "jacobian_scaled")
        assert gradient.abs().sum() > 0 or constant_in_pieces
    assert all(p.grad is None for p in guarded.parameters())


def test_every_detector_is_of_one_kind():
    kinds = [*TRAINED, *ON_CLEAN, *SCALARS, *OF_004, *CONSISTENCY, *DENSITY]
    assert sorted(kinds) == sorted(DETECTORS)
    assert {"gradcam", "colour_reversing", "zero_mean", "squeezing"} < set(CONSISTENCY)
    assert {needs(name) for name in KINDS} == {"", "bank", "saliency", "mean"}


@pytest.mark.parametrize("name", [*SCALARS, *OF_004])
def test_a_scalar_has_no_rule_until_it_is_calibrated(guarded, name):
    detector, (x, _, _) = unfitted(name, guarded), pairs()
    assert detector.threshold is None
    with pytest.raises(InputError, match="no threshold yet: calibrate it on clean images first"):
        detector.decide(x)
    detector.calibrate(x, 0.1)
    assert detector.decide(x).sum() == 8


def test_a_network_decides_at_0_until_it_is_calibrated(guarded):
    detector, (x, x_adv, _) = fitted("id", guarded), pairs(seed=1)
    both = torch.cat([x, x_adv])
    assert detector.threshold == 0
    assert torch.equal(detector.decide(both), scores(detector, both) > 0)
    assert 0 < detector.decide(both).sum() < len(both)


@pytest.mark.parametrize("name", CONSISTENCY)
def test_what_asks_again_decides_by_the_label_until_it_is_calibrated(name):
    guarded, (x, _, _) = classifier_for(name), pairs(channels=channels_for(name))
    detector = unfitted(name, guarded)
    before = guarded(x).argmax(1)
    changed = torch.stack([guarded(z).argmax(1) != before for z in detector.modified(x)]).any(0)
    assert detector.threshold is None and torch.equal(detector.decide(x), changed)
    assert 0 < changed.sum() < len(x)
    detector.calibrate(x, 0.1)
    assert torch.equal(detector.decide(x), scores(detector, x) > detector.threshold)


@pytest.mark.parametrize("name", KINDS)
def test_a_threshold_survives_being_kept(name, tmp_path):
    channels = channels_for(name)
    guarded, (x, _, _) = classifier_for(name), pairs(channels=channels)
    detector = fitted(name, guarded, SHORT)
    first = 0.0 if name in TRAINED else None  # a paper's own operating point, or none
    for want in (first, detector.calibrate(x, 0.1)):
        detector.threshold = want
        write_tensors(tmp_path / "kept", detector.state())
        kept, again = read_tensors(tmp_path / "kept"), unfitted(name, guarded)
        again.threshold = 99.0
        load(name, again, kept, channels, SHORT)
        assert again.threshold == want
    assert torch.equal(again.decide(x), detector.decide(x)) and detector.decide(x).sum() == 8


@pytest.mark.parametrize("name", TRAINED)
def test_trained_detectors_find_a_planted_signal_and_keep_it(guarded, name):
    detector, (x, x_adv, _) = fitted(name, guarded), pairs(seed=1)
    sees_no_image = name.startswith(("jacobian", "insen")) or name == "smd"
    least = 0.9 if name in MAHALANOBIS else 0.95  # means over the picture see little of a board
    assert found_by(detector, x, x_adv) > (0.6 if sees_no_image else least)
    again = load(name, unfitted(name, guarded), detector.state(), 1, RECIPE)
    assert torch.equal(scores(detector, x), scores(again, x))


def test_fits_of_one_kind_share_what_they_look_at(guarded):
    several, (x, _, _) = [fitted("jsd", guarded, seed=seed) for seed in (0, 1)], pairs(seed=1)
    counted = Counted(guarded)
    for fit in several:
        fit.classifier = counted
    together = scores_of(several, x, batch=50)
    assert counted.forwards == counted.backwards == len(x) and together.shape == (2, len(x))
    alone = torch.stack([scores(fit, x) for fit in several])
    assert torch.allclose(together, alone, atol=1e-4)


def test_jsd_sees_a_signal_that_only_the_jacobian_carries():
    """A classifier whose gradient depends on one corner pixel: the image hides it among 144 values
    of the same size, the Jacobian shows it.
    """

    class Switch(nn.Module):
        def forward(self, x):
            corner = (x[:, :, 0, 0] - 0.5) * 50
            total = x.flatten(1).mean(1, keepdim=True) * torch.sigmoid(corner)
            return torch.cat([10 * total + 1, torch.zeros_like(total)], 1)

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 1, 12, 12, generator=generator)
    x_adv = x.clone()
    x[:, :, 0, 0], x_adv[:, :, 0, 0] = 0.45, 0.55
    classifier, score = Switch().eval(), {}
    for name in ("id", "jsd", "jsd_shuffled", "jsd_random"):
        bank = bank_for(name, classifier, x[:80], x_adv[:80])
        detector = build_detector(name, classifier, bank)
        detector.fit(x[:80], x_adv[:80], torch.arange(80), Recipe("digits_net", Training(40)))
        score[name] = found_by(detector, x[80:], x_adv[80:])
    assert score["jsd"] > 0.95
    assert all(score["jsd"] > score[name] + 0.1 for name in score if name != "jsd")
    # another's Jacobian does not beat the image
    assert all(score[name] < score["id"] + 0.1 for name in STAND_INS)


def test_a_jacobian_that_carries_nothing_adds_nothing():
    """The faint checkerboard is in the image alone when the classifier's gradient is the same
    everywhere.
    """
    linear = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval().requires_grad_(False)
    linear[1].weight[0], linear[1].bias[0] = 1.0, 99.0  # always class 0: one Jacobian for all
    (x, x_adv, _), score = pairs(seed=1), {}
    for name in ("id", "jsd", "jsd_shuffled", "jacobian"):
        score[name] = found_by(fitted(name, linear), x, x_adv)
    assert score["jacobian"] == 0.5
    assert abs(score["jsd"] - score["id"]) < 0.05
    assert abs(score["jsd_shuffled"] - score["id"]) < 0.05


def test_what_smd_and_spd_and_their_stand_ins_see(guarded):
    x = pairs(6)[0]
    made = unfitted("spd", guarded).through
    maps = made(x)

    def look(name):
        return view_of(name)(made, x)

    assert torch.equal(look("smd"), maps) and torch.equal(look("spd"), maps * x)
    assert torch.allclose(look("spd_constant"), maps.mean((1, 2, 3), keepdim=True) * x)
    shuffled, random = look("spd_shuffled") / x, look("spd_random") / x
    values, own = (part.flatten(1).sort(1).values for part in (shuffled, maps))
    assert torch.allclose(values, own, atol=1e-6) and not torch.allclose(shuffled, maps)
    assert torch.allclose(random, random[:1].expand_as(random), atol=1e-6) and random.std() > 0.2
    with pytest.raises(InputError, match="'spd' looks through a learned saliency model"):
        build_detector("spd", guarded)


def test_sources_stay_together_when_one_has_many_attacked_images(guarded, monkeypatch):
    seen = {}

    def noted(net, x, y, how, *, groups, **more):
        seen.update(n=len(x), y=y, groups=groups)
        return {"collapsed": False}

    monkeypatch.setattr(training, "fit", noted)
    x, x_adv, index = pairs(10)
    twice, detector = torch.cat([x_adv, x_adv]), build_detector("id", guarded)
    detector.fit(x, twice, index, RECIPE, index_adversarial=torch.cat([index, index]))
    sentence = "index_adversarial must name the source of each of the 20"
    with pytest.raises(InputError, match=sentence):
        build_detector("id", guarded).fit(x, twice, index, RECIPE)
    assert seen["n"] == 30 and seen["y"].tolist() == [0] * 10 + [1] * 20
    assert seen["groups"].tolist() == [*range(10)] * 3


def test_jsd_input_is_image_and_gradient_of_the_predicted_class(guarded):
    x = pairs(5)[0].requires_grad_()
    logits = guarded(x)
    want = torch.autograd.grad(logits.max(1).values.sum(), x)[0]
    both = view_of("jsd")(guarded, x.detach())
    assert torch.equal(both[:, :1], x.detach()) and torch.allclose(both[:, 1:], want, atol=1e-7)


@pytest.mark.parametrize("reading", READINGS)
def test_each_reading_of_the_jacobian_by_hand(guarded, reading):
    x, model = pairs(5)[0], guarded
    z = x.clone()
    if reading.endswith("_float64"):
        model, z = copy.deepcopy(guarded).double(), x.double()
    p = model(z.requires_grad_())
    top = p.argmax(1)
    if reading.startswith("_softmax"):
        derived = p.exp() / p.exp().sum(1, keepdim=True)
    elif reading.startswith("_cross_entropy"):
        derived = p.exp().sum(1, keepdim=True).log() - p
    else:
        derived = p
    want = []
    for i in range(len(x)):
        slope = torch.autograd.grad(derived[i, top[i]], z, retain_graph=True)[0][i]
        want.append(slope / slope.abs().max() if "_scaled" in reading else slope)
    alone, both = (view_of(kind + reading)(guarded, x) for kind in ("jacobian", "jsd"))
    assert alone.dtype == torch.float32
    assert torch.allclose(alone, torch.stack(want).float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(both, torch.cat([x, alone], 1))


def test_float64_keeps_what_float32_rounds_away():
    """Where the classifier is sure, float32 finds 1 - p = 0 and loses the predicted class's share
    of the gradient.
    """
    sure = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval().requires_grad_(False)
    sure[1].weight.copy_(torch.linspace(-1, 1, 432).view(3, 144))
    sure[1].bias.copy_(torch.tensor([0.0, 0.0, -13.0]))
    x = torch.full((2, 1, 12, 12), 0.4)
    z, w = sure(x)[0].double(), sure[1].weight.double()
    p = z.softmax(0)
    assert z.argmax() == 2 and p[2].float() == 1 > p[2]
    slope = (p[:2, None] * (w[2] - w[:2])).sum(0).view(1, 12, 12)
    for of, want in (("softmax", p[2] * slope), ("cross_entropy", -slope)):
        single = view_of(f"jacobian_{of}")(sure, x)[0].double()
        double = view_of(f"jacobian_{of}_float64")(sure, x)[0].double()
        assert ((double / want - 1).abs() < 1e-4).all()
        assert ((single / want - 1).abs() > 0.1).all()


def test_a_stand_in_depends_on_the_image_alone(guarded):
    x, x_adv, _ = pairs(300)
    bank = bank_of("jsd_shuffled", guarded, x, x_adv)
    own = view_of("jacobian")(guarded, torch.cat([x, x_adv]))
    drawn = bank(x)
    assert len(bank.bank) == 512 and torch.equal(bank(x[:3]), drawn[:3])
    assert torch.equal(drawn, torch.cat([bank(part) for part in x.split(7)]))
    its_own = (drawn == own[:300]).flatten(1).all(1)
    assert its_own.float().mean() < 0.2  # another's (some of these Jacobians are equal)

    def pick(images):
        return (bank(images)[:, None] == bank.bank).flatten(2).all(2).float().argmax(1)

    for images in (x, x_adv):  # clean and attacked alike, whatever the image is
        picked = pick(images)
        assert 0.35 < (picked < 256).float().mean() < 0.65 and len(picked.unique()) > 100
    noise, other = (bank_of("jsd_random", guarded, x, x_adv, seed=seed).bank for seed in (1, 2))
    assert abs(noise.std() - 1) < 0.02 and not torch.equal(noise, other)
    sentence = "'jsd_shuffled' looks through a bank of others' Jacobians"
    with pytest.raises(InputError, match=sentence):
        build_detector("jsd_shuffled", guarded)


def test_layers_are_the_classifiers_own(guarded):
    x = pairs(4)[0]
    conv1 = guarded.body.relu1(guarded.body.conv1((x - guarded.mean) / guarded.std))
    conv2 = guarded.body.relu2(guarded.body.conv2(conv1))

    def look(name, classifier=guarded):
        return view_of(name)(classifier, x)

    assert torch.allclose(look("first_layer"), conv1)
    assert torch.allclose(look("metzen_early"), conv1)
    assert torch.allclose(look("metzen_late"), conv2)
    both = look("first_layer_jacobian")
    folded = pixel_shuffle(both[:, conv1.shape[1] :], 2)
    assert torch.allclose(both[:, : conv1.shape[1]], conv1)
    assert torch.allclose(folded, look("jacobian"))
    assert not any(module._forward_hooks for module in guarded.modules())
    # no activation; 12 -> 5 pixels a side
    odd = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Flatten(), nn.Linear(50, 3)).eval()
    assert look("first_layer_jacobian", odd).shape == (4, 2 + 4, 5, 5)
    layers = []
    for channels in (1, 2, 2):
        layers += [nn.Conv2d(channels, 2, 3), nn.ReLU(inplace=True)]
    inside = nn.Sequential(*layers)  # its activations replace their inputs
    net = nn.Sequential(inside, nn.Flatten(), nn.Linear(72, 3)).eval()
    for name, n in (("first_layer", 2), ("metzen_early", 4), ("metzen_late", 6)):
        assert torch.equal(look(name, net), inside[:n](x.clone())), name


def test_metzens_branch_is_the_papers():
    body = build_network("metzen_branch", (16, 32, 32), 2).body
    convs = [m for m in body if isinstance(m, nn.Conv2d)]
    sizes = [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs]
    assert sizes == [(16, 96, 3), (96, 192, 3), (192, 192, 3), (192, 2, 1)]
    kinds = [type(m).__name__ for m in body]
    assert kinds.count("BatchNorm2d") == 3 and kinds.count("MaxPool2d") == 2
    assert body(torch.rand(3, 16, 32, 32)).shape == (3, 2)
    small = build_network("metzen_branch", (16, 8, 8), 2).body
    assert [type(m).__name__ for m in small].count("MaxPool2d") == 0


def test_n_plus_one_is_a_classifier_with_a_class_more(guarded, monkeypatch):
    seen, real = {}, training.fit

    def noted(net, x, y, how, **more):
        seen.update(y=y, net=net)
        return real(net, x, y, how, **more)

    monkeypatch.setattr(training, "fit", noted)
    detector = fitted("n_plus_one", guarded)
    x, x_adv, _ = pairs()
    assert torch.equal(seen["y"], torch.cat([guarded(x).argmax(1), torch.full((80,), 3)]))
    logits = detector.net(x_adv)
    assert logits.shape[1] == 4
    assert torch.allclose(detector.score(x_adv), logits[:, 3] - logits[:, :3].max(1).values)


def test_a_detector_starts_from_the_classifiers_weights_where_they_fit():
    given = build_network("cifar_net", (3, 16, 16), 10, seed=1)
    wide = build_network("cifar_net", (6, 16, 16), 2, seed=2)
    here, there, before = wide.body, given.body, wide.body.out.weight.clone()
    all_but_the_last_layer = len(list(there.parameters())) - 2
    assert start_from(wide, Restricted(given, [0, 1])) == all_but_the_last_layer
    assert not here.conv1_1.weight[:, 3:].any()
    assert torch.equal(here.conv3_2.weight, there.conv3_2.weight)
    assert torch.equal(here.out.weight, before)
    x = torch.rand(2, 3, 16, 16)
    with_more = torch.cat([x, torch.rand_like(x)], 1)  # it starts on the image alone
    assert torch.allclose(here.conv1_1(with_more), there.conv1_1(x), atol=1e-6)
    normed = build_network("resnet20", (3, 16, 16), 10, seed=1)
    for _ in range(3):
        normed.train()(x)
    same = build_network("resnet20", (3, 16, 16), 10, seed=2)
    start_from(same, normed.eval())
    # with the statistics of its batch normalisation
    assert torch.allclose(same(x), normed(x), atol=1e-5)


def test_a_detector_that_starts_learns_slowly_from_there(guarded, monkeypatch):
    asked = []

    def noted(net, x, y, how, **more):
        asked.append((how.lr, net.body.conv1.weight.clone(), how.batch))
        return {"collapsed": False}

    monkeypatch.setattr(training, "fit", noted)
    recipe = Recipe("digits_net", Training(12, batch=16))
    for start in (None, guarded):
        build_detector("id", guarded).fit(*pairs(), recipe, start=start)
    rates, weights, batches = zip(*asked, strict=True)
    assert rates == (1e-3, 1e-4) and batches == (16, 16)
    own = guarded.body.conv1.weight
    assert torch.equal(weights[1], own) and not torch.equal(weights[0], own)


def test_n_plus_one_that_never_says_adversarial_has_collapsed():
    x, _, index = pairs()
    shade = (torch.arange(80) % 2).view(-1, 1, 1, 1) * 0.5
    two = nn.Sequential(nn.Flatten(), nn.Linear(144, 2)).eval().requires_grad_(False)
    two[1].weight.copy_(torch.stack([torch.ones(144), -torch.ones(144)]))
    two[1].bias.copy_(torch.tensor([-72.0, 72.0]))
    clean, detector = x * 0.2 + shade, build_detector("n_plus_one", two)
    record = detector.fit(clean, clean.clone()[:2], index, RECIPE, index_adversarial=index[:2])
    assert record["collapsed"] and record["collapses"] == 3


def test_collapse_is_retried_and_counted(guarded, monkeypatch):
    outcomes, seeds = iter([True, True, False]), []

    def noted(*images, seed, **more):
        seeds.append(seed)
        return {"collapsed": next(outcomes)}

    monkeypatch.setattr(training, "fit", noted)
    record = build_detector("id", guarded).fit(*pairs(), RECIPE, seed=5)
    assert record["collapses"] == 2 and not record["collapsed"] and len(set(seeds)) == 3


@pytest.mark.parametrize("name", [*SCALARS, *OF_004])
def test_a_scalar_takes_what_was_viewed_and_needs_none_of_it(guarded, name):
    detector, x = unfitted(name, guarded), pairs(5)[0]
    want = getattr(scalars, name)(guarded, x)
    assert detector.view(x) is None
    for viewed in (None, x):
        assert torch.equal(detector.score(x, viewed), want)
        assert torch.equal(detector.score(x, viewed=viewed), want)
    assert torch.equal(scores(detector, x, viewed=True), want.float())


def test_scalars_by_hand():
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.tensor([[2.0, 0.0, -1.0]]) * x.flatten(1)[:, :1]

    model, x = Fixed(), torch.ones(1, 1, 4, 4)
    p = torch.tensor([2.0, 0.0, -1.0]).double().softmax(0)
    assert scalars.max_softmax(model, x).item() == pytest.approx(1 - p[0].item())
    assert scalars.margin(model, x).item() == pytest.approx(-2.0)
    assert scalars.entropy(model, x).item() == pytest.approx(-(p * p.log()).sum().item())
    slope = ((p - torch.tensor([1.0, 0.0, 0.0])) * torch.tensor([2.0, 0.0, -1.0])).sum()
    assert scalars.gradient_norm(model, x).item() == pytest.approx(slope.abs().log().item())


def test_scalars_do_not_round_to_zero_when_the_classifier_is_sure():
    class Sure(nn.Module):
        def forward(self, x):
            return torch.stack([60 + x.flatten(1)[:, 0], torch.zeros(len(x))], 1)

    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    for scalar in (scalars.max_softmax, scalars.entropy, scalars.gradient_norm):
        sure, surer = scalar(Sure(), x)
        assert sure > surer


def test_noise_estimates_the_deviation():
    x = 0.5 + 0.05 * torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scalars.noise(nn.Identity(), x), torch.full((4,), 0.05), atol=0.003)


def test_unknown_and_unfitted_get_a_sentence(guarded):
    with pytest.raises(InputError, match="Detector 'smd9' is unknown: choose one of id"):
        build_detector("smd9", guarded)
    with pytest.raises(InputError, match="not fitted yet"):
        build_detector("id", guarded).score(torch.rand(1, 1, 12, 12))
    with pytest.raises(InputError, match="'gradcam' looks through the training images' mean"):
        build_detector("gradcam", classifier_of(3))


def test_squeezenet_reads_image_and_jacobian_and_has_a_layer_for_grad_cam():
    given, wide = (
        build_network("squeezenet1_1", shape, outputs, seed=1)
        for shape, outputs in (((3, 64, 64), 10), ((6, 64, 64), 2))
    )
    x = torch.rand(2, 3, 64, 64)
    all_but_the_last_layer = len(list(given.body.parameters())) - 2
    assert start_from(wide, given) == all_but_the_last_layer
    with_more = torch.cat([x, torch.rand_like(x)], 1)
    assert torch.allclose(wide.body.features(with_more), given.body.features(x), atol=1e-5)
    with taps(given, [CAM_LAYERS["squeezenet1_1"]]) as found:
        given(x)
    assert found["features"].shape[1] == 512
    with pytest.raises(InputError, match="reads colour pictures"):
        build_network("squeezenet1_1", (4, 64, 64), 2)
