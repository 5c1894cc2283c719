"""Detectors: one contract for all, planted signals found, trivial scalars by hand."""

import copy

import pytest
import torch

from nbutils import InputError, detectors, models, saliency
from nbutils.detectors import scalars
from nbutils.metrics import auroc

FIT = {"architecture": "digits_net", "epochs": 12}


@pytest.fixture
def guarded():
    return models.build("digits_net", (1, 12, 12), 3, seed=2)


def pairs(n=80, seed=0):
    """Clean images, and the same with a faint checkerboard."""
    x = 0.2 + 0.6 * torch.rand(n, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(6, 6)
    return x, x + 0.15 * board, torch.arange(n)


def build(name, classifier):
    """With a saliency model of random weights, or a bank of others' Jacobians, where the detector looks through one."""
    through = None
    if name in detectors.LEARNED:
        through = saliency.SaliencyModel(classifier, torch.rand(1, 1, 12, 12)).requires_grad_(False).eval()
    if name in detectors.STAND_INS:
        through = detectors.others(name, classifier, *pairs()[:2])
    return detectors.build(name, classifier, through)


def fitted(name, classifier, **more):
    detector = build(name, classifier)
    if name in detectors.TRAINED:
        detector.fit(*pairs(), **FIT, **more)
    return detector


@pytest.mark.parametrize("name", detectors.DETECTORS)
def test_contract(guarded, name):
    detector, (x, _, _) = fitted(name, guarded), pairs(seed=1)
    before = x.clone()
    score = detectors.scores(detector, x)
    assert score.shape == (len(x),) and torch.isfinite(score).all() and torch.equal(x, before)
    assert torch.allclose(score, detectors.scores(detector, x, batch=7), atol=1e-4)
    threshold = detector.calibrate(x, 0.1)
    assert detector.threshold == threshold and detector.decide(x).sum() == 8
    if detector.differentiable:
        z = x[:3].clone().requires_grad_()
        gradient = torch.autograd.grad(detector.score(z).sum(), z)[0]
        assert torch.isfinite(gradient).all() and (gradient.abs().sum() > 0 or name in ("jacobian", "jacobian_scaled"))  # constant in pieces
    assert all(p.grad is None for p in guarded.parameters())


@pytest.mark.parametrize("name", detectors.TRAINED)
def test_trained_detectors_find_a_planted_signal_and_keep_it(guarded, name, tmp_path):
    detector, (x, x_adv, _) = fitted(name, guarded), pairs(seed=1)
    found = auroc(detectors.scores(detector, x).numpy(), detectors.scores(detector, x_adv).numpy())
    assert found > (0.6 if name.startswith("jacobian") or name == "smd" else 0.95)  # these do not see the image
    again = build(name, guarded).load(detector.state(), (1, 12, 12), architecture="digits_net")
    assert torch.equal(detectors.scores(detector, x), detectors.scores(again, x))


def test_fits_of_one_kind_share_what_they_look_at(guarded):
    several, (x, _, _) = [fitted("jsd", guarded, seed=seed) for seed in (0, 1)], pairs(seed=1)
    counted = models.Counted(guarded)
    for fit in several:
        fit.classifier = counted
    together = detectors.scores_of(several, x, batch=50)
    assert counted.forwards == counted.backwards == len(x) and together.shape == (2, len(x))
    assert torch.allclose(together, torch.stack([detectors.scores(fit, x) for fit in several]), atol=1e-4)


def test_jsd_sees_a_signal_that_only_the_jacobian_carries():
    """A classifier whose gradient depends on one corner pixel: the image hides it among 144 values of the same size, the Jacobian shows it."""
    class Switch(torch.nn.Module):
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
        bank = detectors.others(name, classifier, x[:80], x_adv[:80]) if name in detectors.STAND_INS else None
        detector = detectors.build(name, classifier, bank)
        detector.fit(x[:80], x_adv[:80], torch.arange(80), architecture="digits_net", epochs=40)
        score[name] = auroc(detectors.scores(detector, x[80:]).numpy(), detectors.scores(detector, x_adv[80:]).numpy())
    assert score["jsd"] > 0.95 and all(score["jsd"] > score[name] + 0.1 for name in score if name != "jsd")
    assert all(score[name] < score["id"] + 0.1 for name in detectors.STAND_INS)  # another's Jacobian does not beat the image


def test_a_jacobian_that_carries_nothing_adds_nothing(guarded):
    """The faint checkerboard is in the image alone when the classifier's gradient is the same everywhere."""
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3)).eval().requires_grad_(False)
    linear[1].weight[0], linear[1].bias[0] = 1.0, 99.0  # always class 0: one Jacobian for all
    (x, x_adv, _), score = pairs(seed=1), {}
    for name in ("id", "jsd", "jsd_shuffled", "jacobian"):
        detector = fitted(name, linear)
        score[name] = auroc(detectors.scores(detector, x).numpy(), detectors.scores(detector, x_adv).numpy())
    assert score["jacobian"] == 0.5 and abs(score["jsd"] - score["id"]) < 0.05 and abs(score["jsd_shuffled"] - score["id"]) < 0.05


def test_what_smd_and_spd_and_their_stand_ins_see(guarded):
    x = pairs(6)[0]
    made = build("spd", guarded).through
    maps = made(x)
    look = lambda name: detectors.TRAINED[name](made, x)  # noqa: E731
    assert torch.equal(look("smd"), maps) and torch.equal(look("spd"), maps * x)
    assert torch.allclose(look("spd_constant"), maps.mean((1, 2, 3), keepdim=True) * x)
    shuffled, random = look("spd_shuffled") / x, look("spd_random") / x
    assert torch.allclose(shuffled.flatten(1).sort(1).values, maps.flatten(1).sort(1).values, atol=1e-6) and not torch.allclose(shuffled, maps)
    assert torch.allclose(random, random[:1].expand_as(random), atol=1e-6) and random.std() > 0.2
    with pytest.raises(InputError, match="'spd' looks through a learned saliency model"):
        detectors.build("spd", guarded)


def test_sources_stay_together_when_one_has_many_attacked_images(guarded, monkeypatch):
    from nbutils import train

    seen = {}
    monkeypatch.setattr(train, "fit", lambda net, x, y, *, groups, **k: seen.update(n=len(x), y=y, groups=groups) or {"collapsed": False})
    x, x_adv, index = pairs(10)
    detectors.build("id", guarded).fit(x, torch.cat([x_adv, x_adv]), index, torch.cat([index, index]), **FIT)
    with pytest.raises(InputError, match="index_adversarial must name the source of each of the 20"):
        detectors.build("id", guarded).fit(x, torch.cat([x_adv, x_adv]), index, **FIT)
    assert seen["n"] == 30 and seen["y"].tolist() == [0] * 10 + [1] * 20 and seen["groups"].tolist() == [*range(10)] * 3


def test_jsd_input_is_image_and_gradient_of_the_predicted_class(guarded):
    x = pairs(5)[0].requires_grad_()
    logits = guarded(x)
    want = torch.autograd.grad(logits.max(1).values.sum(), x)[0]
    both = detectors.TRAINED["jsd"](guarded, x.detach())
    assert torch.equal(both[:, :1], x.detach()) and torch.allclose(both[:, 1:], want, atol=1e-7)


@pytest.mark.parametrize("reading", detectors.READINGS)
def test_each_reading_of_the_jacobian_by_hand(guarded, reading):
    x, knobs = pairs(5)[0], detectors.READINGS[reading]
    model, z = (copy.deepcopy(guarded).double(), x.double()) if knobs["double"] else (guarded, x.clone())
    p = model(z.requires_grad_())
    top = p.argmax(1)
    derived = {"logit": lambda: p, "softmax": lambda: p.exp() / p.exp().sum(1, keepdim=True),
               "cross_entropy": lambda: p.exp().sum(1, keepdim=True).log() - p}[knobs["of"]]()
    want = torch.stack([torch.autograd.grad(derived[i, top[i]], z, retain_graph=True)[0][i] for i in range(len(x))])
    if knobs["scaled"]:
        want = torch.stack([w / w.abs().max() for w in want])
    alone, both = (detectors.TRAINED[kind + reading](guarded, x) for kind in ("jacobian", "jsd"))
    assert alone.dtype == torch.float32 and torch.allclose(alone, want.float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(both, torch.cat([x, alone], 1))


def test_float64_keeps_what_float32_rounds_away():
    """Where the classifier is sure, float32 finds 1 - p = 0 and loses the predicted class's share of the gradient."""
    sure = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3)).eval().requires_grad_(False)
    sure[1].weight.copy_(torch.linspace(-1, 1, 432).view(3, 144))
    sure[1].bias.copy_(torch.tensor([0.0, 0.0, -13.0]))
    x = torch.full((2, 1, 12, 12), 0.4)
    z, w = sure(x)[0].double(), sure[1].weight.double()
    p = z.softmax(0)
    assert z.argmax() == 2 and p[2].float() == 1 > p[2]
    slope = (p[:2, None] * (w[2] - w[:2])).sum(0).view(1, 12, 12)
    for of, want in (("softmax", p[2] * slope), ("cross_entropy", -slope)):
        single, double = (detectors.TRAINED[f"jacobian_{of}{kind}"](sure, x)[0].double() for kind in ("", "_float64"))
        assert ((double / want - 1).abs() < 1e-4).all() and ((single / want - 1).abs() > 0.1).all()


def test_a_stand_in_depends_on_the_image_alone(guarded):
    x, x_adv, _ = pairs(300)
    bank = detectors.others("jsd_shuffled", guarded, x, x_adv)
    own = detectors.TRAINED["jacobian"](guarded, torch.cat([x, x_adv]))
    drawn = bank(x)
    assert len(bank.bank) == 512 and torch.equal(drawn, torch.cat([bank(part) for part in x.split(7)])) and torch.equal(bank(x[:3]), drawn[:3])
    assert (drawn == own[:300]).flatten(1).all(1).float().mean() < 0.2  # another's (some of these Jacobians are equal)
    pick = lambda z: (bank(z)[:, None] == bank.bank).flatten(2).all(2).float().argmax(1)  # noqa: E731
    for images in (x, x_adv):  # clean and attacked alike, whatever the image is
        assert 0.35 < (pick(images) < 256).float().mean() < 0.65 and len(pick(images).unique()) > 100
    noise = detectors.others("jsd_random", guarded, x, x_adv, seed=1)
    assert abs(noise.bank.std() - 1) < 0.02 and not torch.equal(noise.bank, detectors.others("jsd_random", guarded, x, x_adv, seed=2).bank)
    with pytest.raises(InputError, match="'jsd_shuffled' looks through a bank of others' Jacobians"):
        detectors.build("jsd_shuffled", guarded)


def test_layers_are_the_classifiers_own(guarded):
    x = pairs(4)[0]
    conv1 = guarded.body.relu1(guarded.body.conv1((x - guarded.mean) / guarded.std))
    conv2 = guarded.body.relu2(guarded.body.conv2(conv1))
    look = lambda name: detectors.TRAINED[name](guarded, x)  # noqa: E731
    assert torch.allclose(look("first_layer"), conv1) and torch.allclose(look("metzen_late"), conv2) and torch.allclose(look("metzen_early"), conv1)
    both = look("first_layer_jacobian")
    folded = torch.nn.functional.pixel_shuffle(both[:, conv1.shape[1]:], 2)
    assert torch.allclose(both[:, : conv1.shape[1]], conv1) and torch.allclose(folded, detectors.TRAINED["jacobian"](guarded, x))
    assert not any(module._forward_hooks for module in guarded.modules())
    odd = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, stride=2), torch.nn.Flatten(), torch.nn.Linear(50, 3)).eval()  # no activation; 12 -> 5
    assert detectors.TRAINED["first_layer_jacobian"](odd, x).shape == (4, 2 + 4, 5, 5)
    inside = torch.nn.Sequential(*[layer for i in range(3) for layer in (torch.nn.Conv2d(2 if i else 1, 2, 3), torch.nn.ReLU(inplace=True))])
    net = torch.nn.Sequential(inside, torch.nn.Flatten(), torch.nn.Linear(72, 3)).eval()  # its activations replace their inputs
    for name, n in (("first_layer", 2), ("metzen_early", 4), ("metzen_late", 6)):
        assert torch.equal(detectors.TRAINED[name](net, x), inside[:n](x.clone())), name


def test_metzens_branch_is_the_papers():
    body = models.build("metzen_branch", (16, 32, 32), 2).body
    convs = [m for m in body if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs] == [(16, 96, 3), (96, 192, 3), (192, 192, 3), (192, 2, 1)]
    kinds = [type(m).__name__ for m in body]
    assert kinds.count("BatchNorm2d") == 3 and kinds.count("MaxPool2d") == 2 and body(torch.rand(3, 16, 32, 32)).shape == (3, 2)
    assert [type(m).__name__ for m in models.build("metzen_branch", (16, 8, 8), 2).body].count("MaxPool2d") == 0


def test_n_plus_one_is_a_classifier_with_a_class_more(guarded, monkeypatch):
    from nbutils import train

    seen, real = {}, train.fit
    monkeypatch.setattr(train, "fit", lambda net, x, y, **k: seen.update(y=y, net=net) or real(net, x, y, **k))
    detector = fitted("n_plus_one", guarded)
    x, x_adv, _ = pairs()
    assert torch.equal(seen["y"], torch.cat([guarded(x).argmax(1), torch.full((80,), 3)]))
    logits = detector.net(x_adv)
    assert logits.shape[1] == 4 and torch.allclose(detector.score(x_adv), logits[:, 3] - logits[:, :3].max(1).values)


def test_a_detector_starts_from_the_classifiers_weights_where_they_fit():
    given, wide = models.build("cifar_net", (3, 16, 16), 10, seed=1), models.build("cifar_net", (6, 16, 16), 2, seed=2)
    here, there, before = wide.body, given.body, wide.body.out.weight.clone()
    assert models.start_from(wide, models.Restricted(given, [0, 1])) == len(list(there.parameters())) - 2  # all but the last layer
    assert not here.conv1_1.weight[:, 3:].any() and torch.equal(here.conv3_2.weight, there.conv3_2.weight)
    assert torch.equal(here.out.weight, before)
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(here.conv1_1(torch.cat([x, torch.rand_like(x)], 1)), there.conv1_1(x), atol=1e-6)  # it starts on the image alone
    normed = models.build("resnet20", (3, 16, 16), 10, seed=1)
    for _ in range(3):
        normed.train()(x)
    same = models.build("resnet20", (3, 16, 16), 10, seed=2)
    models.start_from(same, normed.eval())
    assert torch.allclose(same(x), normed(x), atol=1e-5)  # with the statistics of its batch normalisation


def test_a_detector_that_starts_learns_slowly_from_there(guarded, monkeypatch):
    from nbutils import train

    rates = []
    keep = lambda net, *a, lr, batch, **k: rates.append((lr, net.body.conv1.weight.clone(), batch)) or {"collapsed": False}  # noqa: E731
    monkeypatch.setattr(train, "fit", keep)
    for start in (None, guarded):
        detectors.build("id", guarded).fit(*pairs(), **FIT, start=start, batch=16)
    assert [rate for rate, *_ in rates] == [1e-3, 1e-4] and [batch for *_, batch in rates] == [16, 16]
    assert torch.equal(rates[1][1], guarded.body.conv1.weight) and not torch.equal(rates[0][1], guarded.body.conv1.weight)


def test_n_plus_one_that_never_says_adversarial_has_collapsed(guarded):
    x, _, index = pairs()
    shade = (torch.arange(80) % 2).view(-1, 1, 1, 1) * 0.5
    two = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 2)).eval().requires_grad_(False)
    two[1].weight.copy_(torch.stack([torch.ones(144), -torch.ones(144)]))
    two[1].bias.copy_(torch.tensor([-72.0, 72.0]))
    record = detectors.build("n_plus_one", two).fit(x * 0.2 + shade, (x * 0.2 + shade).clone()[:2], index, index[:2], **FIT)
    assert record["collapsed"] and record["collapses"] == 3


def test_collapse_is_retried_and_counted(guarded, monkeypatch):
    from nbutils import train

    outcomes, seeds = iter([True, True, False]), []
    monkeypatch.setattr(train, "fit", lambda *a, seed, **k: seeds.append(seed) or {"collapsed": next(outcomes)})
    record = detectors.build("id", guarded).fit(*pairs(), **FIT, seed=5)
    assert record["collapses"] == 2 and not record["collapsed"] and len(set(seeds)) == 3


def test_scalars_by_hand():
    class Fixed(torch.nn.Module):
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
    class Sure(torch.nn.Module):
        def forward(self, x):
            return torch.stack([60 + x.flatten(1)[:, 0], torch.zeros(len(x))], 1)

    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    for scalar in (scalars.max_softmax, scalars.entropy, scalars.gradient_norm):
        sure, surer = scalar(Sure(), x)
        assert sure > surer


def test_noise_estimates_the_deviation():
    x = 0.5 + 0.05 * torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scalars.noise(torch.nn.Identity(), x), torch.full((4,), 0.05), atol=0.003)


def test_unknown_and_unfitted_get_a_sentence(guarded):
    with pytest.raises(InputError, match="Detector 'smd9' is unknown: choose one of id"):
        detectors.build("smd9", guarded)
    with pytest.raises(InputError, match="not fitted yet"):
        detectors.build("id", guarded).score(torch.rand(1, 1, 12, 12))


def test_squeezenet_reads_image_and_jacobian_and_has_a_layer_for_grad_cam():
    from nbutils import networks

    given, wide = models.build("squeezenet1_1", (3, 64, 64), 10, seed=1), models.build("squeezenet1_1", (6, 64, 64), 2, seed=1)
    x = torch.rand(2, 3, 64, 64)
    assert models.start_from(wide, given) == len(list(given.body.parameters())) - 2  # all but the last layer
    assert torch.allclose(wide.body.features(torch.cat([x, torch.rand_like(x)], 1)), given.body.features(x), atol=1e-5)
    with models.taps(given, [networks.CAM_LAYERS["squeezenet1_1"]]) as found:
        given(x)
    assert found["features"].shape[1] == 512
    with pytest.raises(InputError, match="reads colour pictures"):
        models.build("squeezenet1_1", (4, 64, 64), 2)
