"""Detectors: one contract for all, planted signals found, trivial scalars by hand."""

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
    """With a saliency model of random weights, where the detector looks through one."""
    through = saliency.SaliencyModel(classifier, torch.rand(1, 1, 12, 12)).requires_grad_(False).eval() if name in detectors.LEARNED else None
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
        assert torch.isfinite(gradient).all() and (gradient.abs().sum() > 0 or name == "jacobian")  # of a ReLU network: constant in pieces
    assert all(p.grad is None for p in guarded.parameters())


@pytest.mark.parametrize("name", detectors.TRAINED)
def test_trained_detectors_find_a_planted_signal_and_keep_it(guarded, name, tmp_path):
    detector, (x, x_adv, _) = fitted(name, guarded), pairs(seed=1)
    found = auroc(detectors.scores(detector, x).numpy(), detectors.scores(detector, x_adv).numpy())
    assert found > (0.95 if name not in ("jacobian", "smd") else 0.6)  # these two do not see the image
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
    score = {}
    for name in ("id", "jsd"):
        detector = detectors.build(name, Switch().eval())
        detector.fit(x[:80], x_adv[:80], torch.arange(80), architecture="digits_net", epochs=40)
        score[name] = auroc(detectors.scores(detector, x[80:]).numpy(), detectors.scores(detector, x_adv[80:]).numpy())
    assert score["jsd"] > 0.95 and score["jsd"] > score["id"] + 0.1


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
