"""Attacks against closed forms, cleverhans, and the contract of the module."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils import InputError, attacks, models
from nbutils.attacks.base import NORMS

KNOBS = {"fgsm": {"eps": 0.1}, **{name: {"eps": 0.1, "step": 0.03, "steps": 5} for name in ("bim", "mim", "pgd")}}
EVERY = [(name, norm) for name in KNOBS for norm in NORMS]


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_stays_in_the_ball_and_moves(net, images, name, norm):
    x_adv = attacks.ATTACKS[name](net, images, predicted(net, images), norm=norm, **KNOBS[name])
    delta = (x_adv - images).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= 0.1 + 1e-12 and size.min() > 0.01
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_raises_the_loss_and_targeted_lowers_it(net, images, name, norm):
    y = predicted(net, images)
    target = (y + 1) % 4
    loss = lambda x, labels: torch.nn.functional.cross_entropy(net(x), labels, reduction="none").detach()  # noqa: E731
    away = attacks.ATTACKS[name](net, images, y, norm=norm, **KNOBS[name])
    towards = attacks.ATTACKS[name](net, images, y, target=target, norm=norm, **KNOBS[name])
    assert (loss(away, y) > loss(images, y)).all()
    assert (loss(towards, target) < loss(images, target)).all()


def test_targeting_class_0_is_no_missing_target(net, images):
    zero = torch.zeros(len(images), dtype=torch.int64)
    knobs = KNOBS["bim"]
    assert not torch.equal(attacks.bim(net, images, zero + 1, target=zero, **knobs), attacks.bim(net, images, zero + 1, **knobs))


@pytest.mark.parametrize("norm", NORMS)
def test_linear_model_reaches_the_optimum_of_its_budget(linear, interior, norm):
    y, eps = predicted(linear, interior), 0.05
    sign = torch.where(y == 0, 1.0, -1.0).double()
    before = sign * linear(interior).detach()[:, 0]
    dual = linear.w.detach().norm() if norm == "l2" else linear.w.detach().abs().sum()
    optimum = before - eps * dual
    for name, knobs in {"fgsm": {}, "bim": {"step": 0.02, "steps": 10}, "pgd": {"step": 0.02, "steps": 200}}.items():
        x_adv = attacks.ATTACKS[name](linear, interior, y, eps=eps, norm=norm, **knobs)
        after = sign * linear(x_adv).detach()[:, 0]
        assert torch.allclose(after, optimum, rtol=0, atol=1e-6 if name == "pgd" else 1e-10), name


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-6, 1.0, 1e25])
def test_l2_steps_are_unit_steps_for_gradients_of_any_size(scale):
    gradient = scale * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(attacks._direction(gradient, "l2").flatten(1).norm(dim=1), torch.ones(4), atol=1e-5)


def test_linear_model_border_is_where_it_should_be(linear, interior):
    y = predicted(linear, interior)
    distance = linear(interior).detach()[:, 0].abs() / linear.w.detach().norm()
    for share, expected in ((0.99, False), (1.01, True)):
        moved = torch.cat([attacks.fgsm(linear, interior[i:i + 1], y[i:i + 1], eps=share * distance[i].item(), norm="l2") for i in range(len(y))])
        assert ((predicted(linear, moved) != y) == expected).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_equal_to_cleverhans(net, images, norm, targeted, monkeypatch):
    y = predicted(net, images)
    target = (y + 2) % 4 if targeted else None
    monkeypatch.setattr(torch, "float", torch.float64)  # cleverhans casts every image to torch.float
    for name in ("fgsm", "bim", "pgd"):
        theirs = attacks.through_cleverhans(name)
        if name == "pgd":  # give both the same random start
            start = torch.from_numpy(np.random.default_rng(3).uniform(-0.005, 0.005, images.shape))  # inside both balls
            monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high, start=start: self.copy_(start))
            monkeypatch.setattr(attacks, "_unit_ball", lambda x, index, seed, norm, start=start: start / 0.1)
        a = attacks.ATTACKS[name](net, images, y, target=target, norm=norm, **KNOBS[name])
        b = theirs(net, images, y, target=target, norm=norm, **KNOBS[name])
        assert (a - b).abs().max() < 1e-9, name


def test_cleverhans_cw_runs_and_leaves_no_gradients(net, images):
    y = predicted(net, images[:3])
    knobs = {"initial_const": 10, "binary_search_steps": 2, "max_iterations": 50, "lr": 0.1}
    x_adv = attacks.through_cleverhans("carlini_wagner_l2")(net.float(), images[:3].float(), y, **knobs)
    assert (predicted(net, x_adv) != y).any()
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(InputError, match="no deepfool"):
        attacks.through_cleverhans("deepfool")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_batch_and_order_do_not_matter(net, images, dtype, name, norm):
    net, x = net.to(dtype), images.to(dtype)
    y, index = predicted(net, x), torch.arange(100, 112)
    run = lambda rows: attacks.ATTACKS[name](net, x[rows], y[rows], index=index[rows], seed=5, norm=norm, **KNOBS[name])  # noqa: E731
    whole, order = run(torch.arange(12)), torch.randperm(12)
    shuffled = torch.empty_like(whole)
    for rows in order.split(5):
        shuffled[rows] = run(rows)
    if dtype == torch.float64:
        assert (whole - shuffled).abs().max() < 1e-9
    assert torch.equal(predicted(net, whole), predicted(net, shuffled))
    assert ((whole - x).flatten(1).norm(dim=1) - (shuffled - x).flatten(1).norm(dim=1)).abs().max() < 1e-3


def test_random_start_is_a_function_of_seed_and_number(net, images):
    y = predicted(net, images)
    start = lambda seed, index: attacks.pgd(net, images, y, eps=0.1, step=0.0, steps=1, seed=seed, index=index)  # noqa: E731
    a = start(0, torch.arange(12))
    assert torch.equal(a, start(0, torch.arange(12)))
    assert not torch.equal(a, start(1, torch.arange(12)))
    assert not torch.equal(a, start(0, torch.arange(12) + 1))


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(KNOBS)), norm=st.sampled_from(NORMS), n=st.integers(1, 4), side=st.integers(4, 9),
       classes=st.integers(2, 5), dtype=st.sampled_from([torch.float32, torch.float64]), eps=st.sampled_from([0.0, 0.01, 0.3]), corner=st.booleans(),
       seed=st.integers(0, 99))
def test_contract(name, norm, n, side, classes, dtype, eps, corner, seed):
    model = models.build("digits_net", (1, side, side), classes, seed=seed).to(dtype)
    x = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed)).to(dtype)
    x = x.round() if corner else x
    y = predicted(model, x)
    flags, state = [p.requires_grad for p in model.parameters()], {k: v.clone() for k, v in model.state_dict().items()}
    before = x.clone()
    x_adv = attacks.ATTACKS[name](model, x, y, norm=norm, **{**KNOBS[name], "eps": eps})
    assert x_adv.shape == x.shape and x_adv.dtype == dtype and not x_adv.requires_grad
    assert torch.equal(x, before) and not x.requires_grad and not model.training
    assert [p.requires_grad for p in model.parameters()] == flags and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.isfinite(x_adv).all() and (eps > 0 or torch.equal(x_adv, x))


def test_zero_gradient_gives_the_image_back(images):
    class Flat(torch.nn.Module):
        def forward(self, x):
            return (x * 0).flatten(1)[:, :3]

    y = torch.zeros(len(images), dtype=torch.int64)
    for norm in NORMS:
        assert torch.equal(attacks.fgsm(Flat().eval(), images, y, eps=0.1, norm=norm), images)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y: (x * 3, y, {}), r"must lie in \[0,1\] but reaches"),
        (lambda x, y: (x * float("nan"), y, {}), r"must lie in \[0,1\]"),
        (lambda x, y: ((x * 255).to(torch.uint8), y, {}), "must be float images"),
        (lambda x, y: (x, y.float(), {}), "y must hold 12 int64 labels"),
        (lambda x, y: (x, y[:3], {}), "y must hold 12 int64 labels"),
        (lambda x, y: (x, y, {"target": y[:2]}), "target must hold"),
        (lambda x, y: (x, y, {"eps": -0.1}), "eps must be finite and not negative"),
        (lambda x, y: (x, y, {"eps": float("nan")}), "eps must be finite"),
        (lambda x, y: (x, y, {"norm": "l7"}), "norm 'l7' is unknown"),
    ],
)
def test_bad_input_gets_a_sentence(net, images, change, sentence):
    x, y, more = change(images, predicted(net, images))
    for name in KNOBS:
        with pytest.raises(InputError, match=sentence):
            attacks.ATTACKS[name](net, x, y, **{**KNOBS[name], **more})


def test_train_mode_is_refused_and_left_alone(net, images):
    y = predicted(net, images)
    net.train()
    with pytest.raises(InputError, match="train mode"):
        attacks.fgsm(net, images, y, eps=0.1)
    assert net.training


def test_counted_counts_image_passes(net, images):
    counted = models.Counted(net)
    attacks.bim(counted, images, predicted(net, images), **KNOBS["bim"])
    assert (counted.forwards, counted.backwards) == (60, 60)
