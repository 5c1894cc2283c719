"""Attacks against closed forms, cleverhans, and the contract of the module."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from nbutils import InputError
from nbutils.attacks import ATTACKS, gradient
from nbutils.attacks.cleverhans import through_cleverhans
from nbutils.attacks.contract import NORMS
from nbutils.attacks.cost import Counted
from nbutils.attacks.geometry import direction
from nbutils.attacks.gradient import bim, fgsm, pgd
from nbutils.attacks.objective import Objective, lead
from nbutils.models.building import build

KNOBS = {
    "fgsm": {"eps": 0.1},
    **{name: {"eps": 0.1, "step": 0.03, "steps": 5} for name in ("bim", "mim", "pgd")},
    "pgd_early_stopped": {"eps": 0.1, "step": 0.03, "steps": 5},
}
# of every attack; enough steps for each to reach something on `net`
SHORT = {
    **KNOBS,
    "iterative_l2": {"eps": 1.0, "step": 0.3, "steps": 5},
    "carlini_wagner_l2": {"search_steps": 4, "steps": 40, "lr": 0.05, "const": 1.0},
    "deepfool": {"steps": 50},
    "jsma": {"gamma": 0.5},
    "ddn": {"steps": 40},
}
EVERY = [(name, norm) for name in KNOBS for norm in NORMS]


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_stays_in_the_ball_and_moves(net, images, name, norm):
    x_adv = ATTACKS[name](net, images, predicted(net, images), norm=norm, **KNOBS[name])
    delta = (x_adv - images).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= 0.1 + 1e-12 and size.min() > 0.01
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_raises_the_loss_and_targeted_lowers_it(net, images, name, norm):
    y = predicted(net, images)
    target = (y + 1) % 4

    def loss(x, labels):
        return cross_entropy(net(x), labels, reduction="none").detach()

    away = ATTACKS[name](net, images, y, norm=norm, **KNOBS[name])
    towards = ATTACKS[name](net, images, y, target=target, norm=norm, **KNOBS[name])
    assert (loss(away, y) > loss(images, y)).all()
    assert (loss(towards, target) < loss(images, target)).all()


def test_targeting_class_0_is_no_missing_target(net, images):
    zero = torch.zeros(len(images), dtype=torch.int64)
    knobs = KNOBS["bim"]
    towards = bim(net, images, zero + 1, target=zero, **knobs)
    assert not torch.equal(towards, bim(net, images, zero + 1, **knobs))


@pytest.mark.parametrize("norm", NORMS)
def test_linear_model_reaches_the_optimum_of_its_budget(linear, interior, norm):
    y, eps = predicted(linear, interior), 0.05
    sign = torch.where(y == 0, 1.0, -1.0).double()
    before = sign * linear(interior).detach()[:, 0]
    dual = linear.w.detach().norm() if norm == "l2" else linear.w.detach().abs().sum()
    optimum = before - eps * dual
    steps = {"fgsm": {}, "bim": {"step": 0.02, "steps": 10}, "pgd": {"step": 0.02, "steps": 200}}
    for name, knobs in steps.items():
        x_adv = ATTACKS[name](linear, interior, y, eps=eps, norm=norm, **knobs)
        after = sign * linear(x_adv).detach()[:, 0]
        assert torch.allclose(after, optimum, rtol=0, atol=1e-6 if name == "pgd" else 1e-10), name


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-6, 1.0, 1e25])
def test_l2_steps_are_unit_steps_for_gradients_of_any_size(scale):
    given = scale * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    size = direction(given, "l2").flatten(1).norm(dim=1)
    assert torch.allclose(size, torch.ones(4), atol=1e-5)


def test_linear_model_border_is_where_it_should_be(linear, interior):
    y = predicted(linear, interior)
    distance = linear(interior).detach()[:, 0].abs() / linear.w.detach().norm()
    for share, expected in ((0.99, False), (1.01, True)):
        budgets = (share * distance).tolist()
        each = zip(interior.split(1), y.split(1), budgets, strict=True)
        moved = [fgsm(linear, x, label, eps=eps, norm="l2") for x, label, eps in each]
        assert ((predicted(linear, torch.cat(moved)) != y) == expected).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_equal_to_cleverhans(net, images, norm, targeted, monkeypatch):
    y = predicted(net, images)
    target = (y + 2) % 4 if targeted else None
    # inside both balls
    start = torch.from_numpy(np.random.default_rng(3).uniform(-0.005, 0.005, images.shape))

    def their_start(self, low, high):
        return self.copy_(start)

    def our_start(x, index, seed, norm):
        return start / 0.1

    # cleverhans casts every image to torch.float
    monkeypatch.setattr(torch, "float", torch.float64)
    for name in ("fgsm", "bim", "pgd"):
        theirs = through_cleverhans(name)
        if name == "pgd":  # give both the same random start
            monkeypatch.setattr(torch.Tensor, "uniform_", their_start)
            monkeypatch.setattr(gradient, "unit_ball", our_start)
        a = ATTACKS[name](net, images, y, target=target, norm=norm, **KNOBS[name])
        b = theirs(net, images, y, target=target, norm=norm, **KNOBS[name])
        assert (a - b).abs().max() < 1e-9, name


def test_cleverhans_cw_runs_and_leaves_no_gradients(net, images):
    y = predicted(net, images[:3])
    knobs = {"initial_const": 10, "binary_search_steps": 2, "max_iterations": 50, "lr": 0.1}
    x_adv = through_cleverhans("carlini_wagner_l2")(net.float(), images[:3].float(), y, **knobs)
    assert (predicted(net, x_adv) != y).any()
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(InputError, match="no deepfool"):
        through_cleverhans("deepfool")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_batch_and_order_do_not_matter(net, images, dtype, name, norm):
    net, x = net.to(dtype), images.to(dtype)
    y, index = predicted(net, x), torch.arange(100, 112)
    knobs = {**KNOBS[name], "norm": norm, "seed": 5}

    def run(rows):
        return ATTACKS[name](net, x[rows], y[rows], index=index[rows], **knobs)

    whole, order = run(torch.arange(12)), torch.randperm(12)
    shuffled = torch.empty_like(whole)
    for rows in order.split(5):
        shuffled[rows] = run(rows)
    if dtype == torch.float64:
        assert (whole - shuffled).abs().max() < 1e-9
    assert torch.equal(predicted(net, whole), predicted(net, shuffled))
    sizes = [(x_adv - x).flatten(1).norm(dim=1) for x_adv in (whole, shuffled)]
    assert (sizes[0] - sizes[1]).abs().max() < 1e-3


def test_random_start_is_a_function_of_seed_and_number(net, images):
    y = predicted(net, images)

    def start(seed, index):
        return pgd(net, images, y, eps=0.1, step=0.0, steps=1, seed=seed, index=index)

    a = start(0, torch.arange(12))
    assert torch.equal(a, start(0, torch.arange(12)))
    assert not torch.equal(a, start(1, torch.arange(12)))
    assert not torch.equal(a, start(0, torch.arange(12) + 1))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(KNOBS)),
    norm=st.sampled_from(NORMS),
    n=st.integers(1, 4),
    side=st.integers(4, 9),
    classes=st.integers(2, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    eps=st.sampled_from([0.0, 0.01, 0.3]),
    corner=st.booleans(),
    seed=st.integers(0, 99),
)
def test_contract(name, norm, n, side, classes, dtype, eps, corner, seed):
    model = build("digits_net", (1, side, side), classes, seed=seed).to(dtype)
    x = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed)).to(dtype)
    x = x.round() if corner else x
    y = predicted(model, x)
    flags = [p.requires_grad for p in model.parameters()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = x.clone()
    x_adv = ATTACKS[name](model, x, y, norm=norm, **{**KNOBS[name], "eps": eps})
    assert x_adv.shape == x.shape and x_adv.dtype == dtype and not x_adv.requires_grad
    assert torch.equal(x, before) and not x.requires_grad and not model.training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.isfinite(x_adv).all() and (eps > 0 or torch.equal(x_adv, x))


def test_zero_gradient_gives_the_image_back(images):
    class Flat(torch.nn.Module):
        def forward(self, x):
            return (x * 0).flatten(1)[:, :3]

    y = torch.zeros(len(images), dtype=torch.int64)
    for norm in NORMS:
        assert torch.equal(fgsm(Flat().eval(), images, y, eps=0.1, norm=norm), images)


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
            ATTACKS[name](net, x, y, **{**KNOBS[name], **more})


@pytest.mark.parametrize(
    ("name", "knobs", "sentence"),
    [
        *[(name, {**SHORT[name], "stepps": 3}, f"{name} has no knob 'stepps'") for name in ATTACKS],
        ("deepfool", {"eps": 0.1}, "deepfool has no knob 'eps'"),
        ("fgsm", {}, "fgsm needs eps"),
    ],
)
def test_a_knob_that_is_unknown_or_missing_is_named_in_one_line(net, images, name, knobs, sentence):
    with pytest.raises(InputError) as refused:
        ATTACKS[name](net, images, predicted(net, images), **knobs)
    assert re.fullmatch(rf"{sentence}: it has .+\.", str(refused.value))


def test_train_mode_is_refused_and_left_alone(net, images):
    y = predicted(net, images)
    net.train()
    with pytest.raises(InputError, match="train mode"):
        fgsm(net, images, y, eps=0.1)
    assert net.training


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("targeted", [False, True])
def test_the_usual_objective_written_out_changes_no_bit(net, images, name, targeted):
    y = predicted(net, images)
    given = {"target": (y + 1) % 4 if targeted else None, "seed": 3, **SHORT[name]}
    if targeted and name == "deepfool":  # it has no targeted form
        with pytest.raises(InputError):
            ATTACKS[name](net, images, y, objective=Objective(), **given)
        return
    usual = ATTACKS[name](net, images, y, **given)
    assert torch.equal(ATTACKS[name](net, images, y, objective=Objective(), **given), usual)
    assert not torch.equal(usual, images)


def logit_0(logits, x, labels, targeted):
    return logits[:, 0]


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "pgd", "iterative_l2"])
def test_gradient_attacks_raise_the_objectives_loss_and_nothing_else(net, images, name):
    y, objective = predicted(net, images), Objective(loss=logit_0)
    usual = ATTACKS[name](net, images, y, **SHORT[name])
    raised = ATTACKS[name](net, images, y, objective=objective, **SHORT[name])
    before, after, without = (net(x)[:, 0] for x in (images, raised, usual))
    assert (after > before).all() and (after >= without).all() and (after > without).any()
    # it does not ask for the labels, so no others make a difference
    other = {"target": (y + 2) % 4, "objective": objective}
    assert torch.equal(ATTACKS[name](net, images, (y + 1) % 4, **other, **SHORT[name]), raised)


def test_an_objective_sees_the_images_and_their_graph(net, images):
    def brightness(logits, x, labels, targeted):
        return x.flatten(1).sum(1)

    y, objective = predicted(net, images), Objective(loss=brightness)
    brighter = fgsm(net, images, y, eps=0.1, objective=objective)
    assert torch.equal(brighter, (images + 0.1).clamp(0, 1))


def test_carlini_and_wagners_attack_raises_the_objectives_margin(net, images):
    y, aim = predicted(net, images), net(images)[:, 0].max().item() + 0.2

    def margin(logits, x, labels, targeted):
        return logits[:, 0] - aim

    attack, knobs = ATTACKS["carlini_wagner_l2"], SHORT["carlini_wagner_l2"]
    raised = attack(net, images, y, objective=Objective(margin=margin), **knobs)
    assert (net(raised)[:, 0] > aim).all()
    assert (net(attack(net, images, y, **knobs))[:, 0] < aim).all()
    further = attack(net, images, y, objective=Objective(margin=margin), confidence=0.1, **knobs)
    assert (net(further)[:, 0] >= aim + 0.1).all()
    # what it does not ask for it does not follow
    others = attack(net, images, (y + 1) % 4, objective=Objective(margin=margin), **knobs)
    assert torch.equal(others, raised)


@pytest.mark.parametrize("name", ["ddn", "deepfool", "jsma"])
def test_attacks_stop_where_the_objective_says(net, images, name):
    def everywhere(logits, x, labels, targeted):
        return torch.ones_like(labels, dtype=torch.bool)

    def far(logits, x, labels, targeted):
        return lead(logits, x, labels, targeted) > 0.1

    y, targeted = predicted(net, images), name == "jsma"
    labels = (y + 1) % 4 if targeted else y

    def attacked(**objective):
        given = {"target": labels if targeted else None, **SHORT[name]}
        return ATTACKS[name](net, images, y, objective=Objective(**objective), **given)

    usual, farther = attacked(), attacked(success=far)
    leads = [lead(net(x), x, labels, targeted) for x in (usual, farther)]
    assert (leads[0] > 0).all() and (leads[0] < 0.1).any() and (leads[1] > 0.1).all()
    assert torch.equal(attacked(success=everywhere), images)
    # DDN alone follows the loss
    assert torch.equal(attacked(loss=logit_0, margin=logit_0), usual) == (name != "ddn")


@pytest.mark.parametrize("training", [False, True])
def test_counted_leaves_the_modes_of_a_models_parts_alone(net, training):
    net.train(training)
    net.body[3].train(not training)
    before = [module.training for module in net.modules()]
    assert Counted(net).training == training
    assert [module.training for module in net.modules()] == before


def test_counted_counts_image_passes(net, images):
    counted = Counted(net)
    bim(counted, images, predicted(net, images), **KNOBS["bim"])
    assert (counted.forwards, counted.backwards) == (60, 60)
