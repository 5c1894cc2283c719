"""Attacks that know the detector: the joint criterion by hand, attacks against closed forms and
loops without a batch, surrogates against finite differences, checks that can tell, the whole
defence.
"""

import copy
import inspect
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from nbutils import InputError
from nbutils.adaptive import ADAPTIVE, checks
from nbutils.adaptive.objectives import FORMS, both_orders, joint
from nbutils.adaptive.pipeline import Pipeline
from nbutils.adaptive.printed import alternating, mixed
from nbutils.adaptive.referee import selective_pgd, to_border
from nbutils.adaptive.settings import games
from nbutils.adaptive.surrogates import (
    Labelled,
    Smooth,
    as_printed,
    is_exact,
    surrogate,
    zero_gradients,
)
from nbutils.attacks.carlini_wagner import carlini_wagner_l2
from nbutils.attacks.ddn import ddn
from nbutils.attacks.gradient import pgd
from nbutils.attacks.objective import lead
from nbutils.detectors import views
from nbutils.detectors.consistency import GradCamConsistency, emphasised
from nbutils.detectors.gcd import GCD, RULES
from nbutils.detectors.mahalanobis import Mahalanobis
from nbutils.detectors.networks import Network
from nbutils.detectors.squeezing import SQUEEZERS, Squeezing
from nbutils.detectors.tws import Search, Tws
from nbutils.models.building import build
from nbutils.rectifiers import gcd
from nbutils.saliency.grad_cam import grad_cam
from nbutils.saliency.learned import SaliencyModel
from nbutils.saliency.maps import between_0_and_1

H = 1e-6  # of a finite difference, in float64
EVER = -torch.inf  # a threshold that no score comes under: nothing leaves the batch
SIDE = 8


def drawn(*shape, seed=0, low=0.0, high=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=dtype)


def slope_of(function, x):
    """The gradient of each image's own value."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def differences(function, x, places):
    """The derivative (n,p) of each image's value by values at these places, without autograd."""
    found = []
    for place in places:
        step = torch.zeros_like(x).flatten(1)
        step[:, place] = H
        step = step.view_as(x)
        with torch.no_grad():
            found.append((function(x + step) - function(x - step)) / (2 * H))
    return torch.stack(found, 1)


def agrees(function, x, every=7, rtol=1e-4, atol=1e-7):
    """Whether autograd says of a function what its differences say, and not that it is flat."""
    places = range(0, x[0].numel(), every)
    found, want = slope_of(function, x).flatten(1)[:, ::every], differences(function, x, places)
    return torch.allclose(found, want, rtol=rtol, atol=atol) and want.abs().max() > 100 * atol


def first_value(x):
    return x[:, 0, 0, 0]


def smooth_score(seed=5, scale=1.0):
    """A little smooth detector of the image, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh(), nn.Linear(6, 1))
    body = body.double().eval().requires_grad_(False)

    def score(x):
        return scale * body(x)[:, 0]

    return score


# The joint criterion


def by_hand(form, z, u, y, targeted, weight):
    """Loss and margin of one image: its logits (k,), its score over the threshold, its label."""
    allowed = [c for c in range(len(z)) if (c == y) == targeted]
    others = [c for c in range(len(z)) if (c == y) != targeted]
    if form == "sum":
        entropy = np.log(sum(np.exp(z[c] - z[y]) for c in range(len(z))))
        loss = (-entropy if targeted else entropy) - weight * np.log(1 + np.exp(u))
        ahead = max(z[c] for c in allowed) - max(z[c] for c in others)
        hinges = max(0.0, -ahead) + max(0.0, weight * u)
        return loss, -hinges if hinges > 0 else min(ahead, -weight * u)
    last = max(z) + u if form == "additive" else (u + 1) * max(z)
    whole = sum(np.exp(c) for c in z) + np.exp(last)
    loss = np.log(sum(np.exp(z[c]) for c in allowed) / whole)
    return loss, max(z[c] for c in allowed) - max([z[c] for c in others] + [last])


@pytest.fixture
def planted():
    """Logits of five classes, many of them all negative, images whose first value is the score, and
    labels of which each class is one; some scores are the threshold .5 itself.
    """
    z = 3 * torch.randn(300, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[::4] -= 6
    x, y = drawn(300, 1, 2, 2, low=-1, high=2, seed=1), torch.arange(300) % 5
    x[::10, 0, 0, 0] = 0.5
    return z, x, y


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_margin_are_their_formulas_image_by_image(form, targeted, planted):
    z, x, y = planted
    for weight in (1.0, 0.3) if form == "sum" else (1.0,):
        followed = joint(first_value, 0.5, weight=weight, form=form)
        loss, margin = (f(z, x, y, targeted) for f in (followed.loss, followed.margin))
        assert loss.shape == margin.shape == (300,)
        for i in range(300):
            u = float(x[i, 0, 0, 0]) - 0.5
            want = by_hand(form, z[i].tolist(), u, int(y[i]), targeted, weight)
            assert float(loss[i]) == pytest.approx(want[0], rel=1e-9, abs=1e-9)
            assert float(margin[i]) == pytest.approx(want[1], rel=1e-9, abs=1e-9)
    assert len({round(float(value), 9) for value in loss}) == 300


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_success_is_misread_and_a_score_that_does_not_exceed_the_threshold(form, targeted, planted):
    z, x, y = planted
    followed = joint(first_value, 0.5, form=form)
    found, margin = followed.success(z, x, y, targeted), followed.margin(z, x, y, targeted)
    at_it = 0
    for i in range(300):
        label, score = int(np.argmax(z[i].numpy())), float(x[i, 0, 0, 0])
        misread = label == int(y[i]) if targeted else label != int(y[i])
        assert bool(found[i]) == (misread and score <= 0.5)
        at_it += misread and score == 0.5
        if form != "printed" and score != 0.5:
            assert bool(margin[i] > 0) == bool(found[i])
    assert at_it > 3 and 5 < found.sum() < 200
    if form == "printed":  # where no logit is positive, a seen image looks better than an unseen
        negative = z.amax(1) < 0
        assert not torch.equal(margin[negative] > 0, found[negative])
        off = x[:, 0, 0, 0] != 0.5
        assert torch.equal(margin[~negative & off] > 0, found[~negative & off])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradients_of_loss_and_margin_are_their_differences(form, targeted, net, images):
    score = smooth_score(scale=5.0)
    threshold = score(images).median().item() + 0.01
    y = torch.where(torch.arange(12) % 2 == 0, net(images).argmax(1), torch.arange(12) % 4)
    for weight in (1.0, 0.3) if form == "sum" else (1.0,):
        followed = joint(score, threshold, weight=weight, form=form)
        for function in (followed.loss, followed.margin):

            def value(x, function=function):
                return function(net(x), x, y, targeted)

            assert agrees(value, images, every=23)


def test_both_orders_ask_for_one_wrong_answer_to_the_picture_and_its_reverse(net, images):
    y = torch.arange(12) % 4
    followed, other = both_orders(net), net(images.flip(1))
    logits = net(images)
    for targeted in (False, True):
        for i in range(12):
            here, there = int(logits[i].argmax()), int(other[i].argmax())
            wanted = here == y[i] if targeted else here != y[i]
            found = followed.success(logits, images, y, targeted)[i]
            assert bool(found) == bool(wanted and here == there)
        leads = [lead(z, images, y, targeted) for z in (logits, other)]
        assert torch.equal(followed.margin(logits, images, y, targeted), torch.minimum(*leads))


def test_a_form_that_is_unknown_gets_a_sentence():
    with pytest.raises(InputError, match="form 'product' is unknown"):
        joint(first_value, 0.0, form="product")


# Least perturbations of a linear classifier with a linear detector


class Planes(nn.Module):
    """Four classes of 48 values, logits W x + b that are equal at .5 and steep: a smooth loss then
    has its optimum where the margin has it.
    """

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(48, 4).double().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        self.out.weight.copy_(4 * torch.randn(4, 48, generator=generator, dtype=torch.float64))
        self.out.bias.copy_(30 - 0.5 * self.out.weight.sum(1))
        self.eval()

    def forward(self, x):
        return self.out(x.flatten(1))


def nearest(x, a, c, s, t):
    """The distance of x to the points z with a z >= c and s z <= t: the projection on neither
    border, on one, or on both.
    """
    tried = [x]
    for rows, right in (([a], [c]), ([s], [t]), ([a, s], [c, t])):
        rows, right = np.stack(rows), np.array(right)
        tried.append(x + rows.T @ np.linalg.solve(rows @ rows.T, right - rows @ x))
    return min(np.linalg.norm(z - x) for z in tried if a @ z >= c - 1e-9 and s @ z <= t + 1e-9)


@pytest.fixture
def guarded_planes(interior):
    """Model, images of all classes, labels, a linear score and its threshold, and the least
    distances.
    """
    model, kinds = Planes(), torch.arange(16) % 4
    middle = 0.4 * nn.functional.normalize(model.out.weight, dim=1)[kinds].view(16, 3, 4, 4)
    x = torch.cat([interior, interior.flip(0)]) + middle
    s = 4 * torch.randn(48, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def score(images):
        return images.flatten(1) @ s

    y = model(x).argmax(1)
    assert torch.equal(y, kinds)
    threshold = score(x).sort().values[2].item() - 4.0  # two of them are hardly seen
    w, b = model.out.weight.numpy(), model.out.bias.numpy()
    least = torch.full((16, 4), torch.inf, dtype=torch.float64)
    for i, m in enumerate(y.tolist()):
        for j in {0, 1, 2, 3} - {m}:  # a border with the own class: others may still lead there
            image = x[i].flatten().numpy()
            least[i, j] = nearest(image, w[j] - w[m], b[m] - b[j], s.numpy(), threshold)
    return model, x, y, score, threshold, least


LEAST = {
    "carlini_wagner_l2": (
        carlini_wagner_l2,
        {"search_steps": 6, "steps": 400, "lr": 0.01, "const": 0.1},
    ),
    "ddn": (ddn, {"steps": 1000, "levels": 0}),
    "to_border": (to_border, {"steps": 50}),
}


@pytest.mark.parametrize(
    ("name", "form", "of_class", "of_all"),
    [
        ("carlini_wagner_l2", "sum", 1.02, 1.2),
        ("carlini_wagner_l2", "additive", 1.02, 1.2),
        ("ddn", "additive", 1.1, 1.1),
        ("to_border", "additive", 1.2, 1.3),
        ("to_border", "sum", 1.2, 1.3),
    ],
)
def test_the_nearest_unseen_and_misread_point_of_a_linear_pair(
    name, form, of_class, of_all, guarded_planes
):
    """Of the class that is reached; the nearest of all classes need not be the one that leads on
    the way, which C&W follows.
    """
    model, x, y, score, threshold, least = guarded_planes
    assert 0.2 < least.min() and least.amin(1).max() < 1
    attack, knobs = LEAST[name]
    x_adv = attack(model, x, y, objective=joint(score, threshold, form=form), **knobs)
    reached = model(x_adv).argmax(1)
    assert (reached != y).all() and (score(x_adv) <= threshold).all()
    size = (x_adv - x).flatten(1).norm(dim=1)
    ratio = size / least.gather(1, reached[:, None])[:, 0]
    assert ratio.min() > 1 - 1e-6 and ratio.max() <= of_class, ratio
    ratio = size / least.amin(1)
    assert ratio.max() <= of_all, ratio
    assert x_adv.min() > 0 and x_adv.max() < 1  # so that no box was in the way


def test_targets_are_reached_unseen_also_class_0(guarded_planes):
    model, x, y, score, threshold, _ = guarded_planes
    for target in (torch.zeros_like(y), (y + 1) % 4):
        followed = joint(score, threshold, form="additive")
        x_adv = to_border(model, x, y, target=target, objective=followed)
        assert torch.equal(model(x_adv).argmax(1), target) and (score(x_adv) <= threshold).all()


def test_to_border_stops_at_the_first_success_and_gives_the_last_where_there_is_none(
    guarded_planes,
):
    model, x, y, score, threshold, _ = guarded_planes
    silent = joint(score, 1e9, form="additive")
    assert torch.equal(to_border(model, x, (y + 1) % 4, objective=silent), x)
    followed = joint(score, threshold, form="additive")
    found = [to_border(model, x, y, objective=followed, steps=steps) for steps in range(1, 9)]
    won = [followed.success(model(z), z, y, False) for z in found]
    assert 0 < won[0].sum() < 16 and won[-1].all()
    for before, after, done in zip(found, found[1:], won, strict=False):
        stayed = (before == after).flatten(1).all(1)
        assert torch.equal(stayed, done)


def test_to_border_goes_a_little_further_than_the_border(guarded_planes):
    """Of an image that is misread already, and seen: straight down the linear score."""
    model, x, y, score, threshold, _ = guarded_planes
    over = score(x) - threshold
    followed, wrong = joint(score, threshold, form="additive"), (y + 1) % 4
    made = to_border(model, x, wrong, objective=followed, steps=1, overshoot=0.1)
    assert torch.allclose(score(made) - threshold, -0.1 * over, atol=1e-3)


# The papers' attacks, step by step


class Turned(Network):
    """A network that sees the image's negative, by one layer: what it sees has the opposite sign
    of what moves it.
    """

    def __init__(self, classifier):
        super().__init__(classifier, view=negative)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double().requires_grad_(False)
        weight = drawn(48, seed=11, low=-1)
        weight[::5] = 0
        self.net[1].weight[0], self.net[1].weight[1] = 0, weight
        self.net[1].bias.zero_()


def negative(classifier, x):
    return 0.5 - x


def classifier_slope(model, x, y, targeted):
    """The gradient of the cross-entropy (of minus it) of a linear softmax model, by numpy."""
    w, b = model.out.weight.numpy(), model.out.bias.numpy()
    z = w @ x.ravel() + b
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    slope = (p - np.eye(4)[y]) @ w
    return (-slope if targeted else slope).reshape(x.shape)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("accumulate", [True, False])
def test_alternating_steps_are_those_by_hand(accumulate, targeted):
    model = Planes()
    detector, x = Turned(model), drawn(40, 3, 4, 4, seed=4, low=-0.2, high=1.2).clamp(0, 1)
    y = (model(x).argmax(1) + (torch.arange(40) % 2)) % 4  # half of them are misread already
    threshold, step = detector.score(x).median().item(), 0.1
    weight = detector.net[1].weight[1].numpy().reshape(3, 4, 4)
    followed = joint(detector.score, threshold, seen=partial(as_printed, detector))
    labels = {"target": y} if targeted else {}
    ways, moves = set(), 0
    for rounds in (1, 2):
        knobs = {"step": step, "rounds": rounds, "accumulate": accumulate}
        x_adv = alternating(model, x, y, objective=followed, **labels, **knobs)
        for i in range(40):
            start = x[i].numpy()
            now, label = start, int(y[i])
            for turn in range(rounds):
                z = model.out.weight.numpy() @ now.ravel() + model.out.bias.numpy()
                fooled = (int(z.argmax()) == label) == targeted
                if not fooled:
                    base = now if accumulate else start
                    slope = classifier_slope(model, now, label, targeted)
                    now = np.clip(base + step * np.sign(slope), 0, 1)
                seen = (weight * (0.5 - now)).sum() > threshold
                if seen:
                    base = now if accumulate else start
                    now = np.clip(base - step * np.sign(weight), 0, 1)
                ways.add((turn, fooled, bool(seen)))
                moves += fooled and not seen
            assert np.allclose(x_adv[i].numpy(), now, atol=1e-12)
    assert len(ways) >= 7 and moves > 5  # each gate is open for some and shut for others


def test_what_a_detector_sees_is_derived_and_not_the_image():
    detector, x = Turned(Planes()), drawn(3, 3, 4, 4)
    weight = detector.net[1].weight[1].view(1, 3, 4, 4).expand(3, -1, -1, -1)
    assert torch.allclose(as_printed(detector, x), weight)
    assert torch.allclose(slope_of(detector.score, x), -weight)
    net = build("digits_net", (6, SIDE, SIDE), 2, seed=1)
    half, images = Network(build("digits_net", (3, SIDE, SIDE), 4), view=two), drawn(2, 3, 8, 8)
    half.net, images = net, images.float()
    seen = torch.cat([images, 2 * images], 1)
    assert torch.allclose(
        as_printed(half, images), slope_of(lambda z: half.score(images, z), seen)[:, :3]
    )


def two(classifier, x):
    return torch.cat([x, 2 * x], 1)


def grey(classifier, x):
    return x.mean(1, keepdim=True)


def test_of_a_map_of_one_channel_each_channel_gets_the_gradient():
    detector = Network(Planes(), view=grey)
    detector.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    found = as_printed(detector, drawn(3, 3, 4, 4))
    want = (detector.net[1].weight[1] - detector.net[1].weight[0]).view(1, 1, 4, 4)
    assert torch.allclose(found, want.expand(3, 3, 4, 4))


def down(score, x):
    return -slope_of(score, x).sign()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_one_step_of_the_mix_goes_with_the_heavier_sign_and_stands_where_equal_ones_disagree(
    sigma, targeted, net, images
):
    score, x = smooth_score(), 0.3 + 0.4 * images
    y = (net(x).argmax(1) + 1) % 4 if targeted else net(x).argmax(1)
    followed, knobs = joint(score, EVER), {"eps": 0.2, "step": 0.01, "steps": 1, "sigma": sigma}
    labels = {"target": y} if targeted else {}
    moved = mixed(net, x, y, objective=followed, **labels, **knobs) - x

    def entropy(z):
        loss = -net(z).log_softmax(1).gather(1, y[:, None])[:, 0]
        return -loss if targeted else loss

    up, opposed = slope_of(entropy, x).sign(), slope_of(entropy, x).sign() != down(score, x)
    assert 0.3 < opposed.double().mean() < 0.7
    want = 0.01 * torch.where(
        opposed, (1 - 2 * sigma) * up, up
    )  # up + down weighed: (1 - sigma) - sigma where they are opposed, one step where they agree
    assert torch.allclose(moved, want, atol=1e-12)
    if sigma == 0.5:
        assert (moved[opposed].abs() < 1e-15).all() and moved[~opposed].abs().min() > 0.009


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.7])
def test_the_mix_stays_in_its_ball_and_keeps_the_lowest_misread_iterate(sigma, net, images):
    score, y = smooth_score(), net(images).argmax(1)
    followed, eps, step = joint(score, EVER), 0.05, 0.02
    knobs = {"eps": eps, "step": step, "steps": 8, "sigma": sigma}
    x_adv = mixed(net, images, y, objective=followed, **knobs)
    assert (x_adv - images).abs().max() <= eps + 1e-12
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    for i in range(12):
        now = images[i : i + 1]
        path = [now]
        for _ in range(8):

            def entropy(z, i=i):
                return -net(z).log_softmax(1)[:, y[i]]

            move = (1 - sigma) * slope_of(entropy, now).sign() + sigma * down(score, now)
            now = (now + step * move).clamp(0, 1)
            now = (images[i] + (now - images[i]).clamp(-eps, eps)).clamp(0, 1)
            path.append(now)
        assert torch.allclose(x_adv[i : i + 1], best_of(path, net, score, y[i]), atol=1e-10)


def best_of(path, net, score, label, target=None):
    """Of one image's iterates the misread one of the lowest score, else the last."""
    wrong = [
        z
        for z in path
        if (net(z).argmax() == target if target is not None else net(z).argmax() != label)
    ]
    return min(wrong, key=score) if wrong else path[-1]


# The referee's attack


def naive(net, image, label, target, score, steps, knobs):
    """Selective PGD of one image by its description: the iterates."""
    eps, step, norm, moves = (knobs[k] for k in ("eps", "step", "norm", "moves"))
    aim = label if target is None else target

    def margin(z):
        return lead(net(z), z, aim[None], target is not None)

    now, path = image, []
    for _ in range(steps + 1):
        path.append(now)
        read = net(now).argmax()
        fooled = read != label if target is None else read == target
        up, downwards = slope_of(margin, now), -slope_of(score, now)
        follow = fooled and margin(now) >= knobs.get("ahead", 0.0)
        wanted, other = (downwards, up) if follow else (up, downwards)
        if knobs.get("orthogonal"):
            wanted, other = wanted / wanted.norm(), other / other.norm()
            wanted = wanted - (wanted * other).sum() * other
        move = wanted.sign() if moves == "sign" else wanted / wanted.norm()
        delta = (now + step * move).clamp(0, 1) - image
        if norm == "linf":
            delta = delta.clamp(-eps, eps)
        elif delta.norm() > eps:
            delta = delta * eps / delta.norm()
        now = (image + delta).clamp(0, 1)
    return path


WAYS = {
    "signs": {"eps": 0.03, "step": 0.01, "norm": "linf", "moves": "sign"},
    "along": {"eps": 0.03, "step": 0.1, "norm": "linf", "moves": "l2"},
    "ball": {"eps": 0.3, "step": 0.1, "norm": "l2", "moves": "l2"},
}


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("more", [{}, {"orthogonal": True}, {"ahead": 0.05}])
@pytest.mark.parametrize("way", WAYS)
def test_selective_pgd_is_its_description_image_by_image(way, more, targeted, net, images):
    """And what it returns is the misread iterate of the lowest score, else the last one."""
    score, knobs, y = smooth_score(), WAYS[way] | more, net(images).argmax(1)
    target = (y + 1) % 4 if targeted else None
    x_adv = selective_pgd(
        net, images, y, target=target, objective=joint(score, EVER), steps=6, **knobs
    )
    size = (x_adv - images).flatten(1)
    size = size.abs().amax(1) if knobs["norm"] == "linf" else size.norm(dim=1)
    assert size.max() <= knobs["eps"] + 1e-12 and x_adv.min() >= 0 and x_adv.max() <= 1
    not_the_last, never = 0, 0
    for i in range(12):
        aim = None if target is None else target[i]
        path = naive(net, images[i : i + 1], y[i], aim, score, 6, knobs)
        want = best_of(path, net, score, y[i], aim)
        assert torch.allclose(x_adv[i : i + 1], want, atol=1e-9)
        not_the_last += want is not path[-1]
        never += bool(net(path[-1]).argmax() == y[i])
    assert not_the_last + never > 0


def test_images_leave_at_the_first_iterate_that_the_threshold_allows(net, images):
    score, knobs, y = smooth_score(), WAYS["signs"], net(images).argmax(1)
    threshold = score(images).quantile(0.3).item()
    followed = joint(score, threshold)
    x_adv = selective_pgd(net, images, y, objective=followed, steps=8, **knobs)
    early = 0
    for i in range(12):
        path = naive(net, images[i : i + 1], y[i], None, score, 8, knobs)
        won = [k for k, z in enumerate(path) if net(z).argmax() != y[i] and score(z) <= threshold]
        if won:
            path = path[: won[0] + 1]
            early += won[0] < 8
        want = best_of(path, net, score, y[i])
        assert torch.allclose(x_adv[i : i + 1], want, atol=1e-9)
    assert early > 0
    wrong = (y + 1) % 4
    at_it = joint(score, score(images[0:1]).item())  # a score that is the threshold is allowed
    x_adv = selective_pgd(net, images[:1], wrong[:1], objective=at_it, steps=3, **knobs)
    assert torch.equal(x_adv, images[:1])


@pytest.mark.parametrize("fooled", [False, True])
def test_an_orthogonal_step_leaves_the_other_value_alone(fooled, net, images):
    score, x = smooth_score(), 0.3 + 0.4 * images
    y = (net(x).argmax(1) + fooled) % 4

    def margin(z):
        return lead(net(z), z, y, False)

    knobs = {"eps": 1.0, "step": 1e-4, "steps": 1, "norm": "l2", "moves": "l2"}
    gone = {}
    for orthogonal in (False, True):
        best = joint(score, EVER)
        made = selective_pgd(net, x, y, objective=best, orthogonal=orthogonal, **knobs)
        gone[orthogonal] = made - x
    for kind in (gone[True], gone[False]):
        assert torch.allclose(kind.flatten(1).norm(dim=1), torch.full((12,), 1e-4).double())
    other, own = (margin, score) if fooled else (score, margin)
    along = (gone[True] * slope_of(other, x)).flatten(1).sum(1)
    plain = (gone[False] * slope_of(other, x)).flatten(1).sum(1)
    assert along.abs().max() < 1e-12 < 1e-7 < plain.abs().max()
    gain = (gone[True] * slope_of(own, x)).flatten(1).sum(1)
    assert (gain < 0).all() if fooled else (gain > 0).all()


@pytest.mark.parametrize("orthogonal", [False, True])
def test_where_the_score_is_flat_the_classifier_is_followed_on(orthogonal, net, images):
    x = 0.3 + 0.4 * images
    wrong = (net(x).argmax(1) + 1) % 4
    flat = checks.Planted(net, drawn(3, 8, 8, low=-1), masked=True)
    knobs = {"eps": 0.1, "step": 0.05, "steps": 1, "norm": "linf", "moves": "sign"}
    made = selective_pgd(
        net, x, wrong, objective=joint(flat.score, EVER), orthogonal=orthogonal, **knobs
    )

    def margin(z):
        return lead(net(z), z, wrong, False)

    moved = (made != x).flatten(1).any(1)  # the others' rounded score was the lowest at the image
    assert moved.any()
    want = x + 0.05 * slope_of(margin, x).sign()
    assert torch.allclose(made[moved], want[moved])


def test_a_longer_attack_never_has_a_higher_lowest_score(net, images):
    score, y = smooth_score(), (net(images).argmax(1) + 1) % 4  # misread from the start
    for knobs in WAYS.values():
        lowest = [score(images)]
        for steps in (1, 2, 4, 8):
            made = selective_pgd(net, images, y, objective=joint(score, EVER), steps=steps, **knobs)
            assert (net(made).argmax(1) != y).all()
            lowest.append(score(made))
        assert all((b <= a).all() for a, b in pairwise(lowest))
        assert (lowest[-1] < lowest[0]).all()


def test_a_random_start_is_in_the_ball_by_seed_and_number(net, images):
    y, followed = (net(images).argmax(1) + 1) % 4, joint(smooth_score(), EVER)  # misread there
    knobs = {"eps": 0.05, "step": 1e-9, "steps": 1, "random_start": True}
    a, b, other = (
        selective_pgd(net, images, y, objective=followed, seed=seed, **knobs) for seed in (3, 3, 4)
    )
    assert torch.equal(a, b) and not torch.equal(a, other)
    assert 0.04 < (a - images).abs().max() <= 0.05 + 1e-9 and a.min() >= 0 and a.max() <= 1


KNOWING = {
    "alternating": {"step": 0.02, "rounds": 3},
    "mixed": {"eps": 0.05, "step": 0.02, "steps": 4, "sigma": 0.4},
    "selective_pgd": {"eps": 0.05, "step": 0.02, "steps": 4, "random_start": True},
    "to_border": {"steps": 5},
}


def followed_by(name, score, threshold):
    """The objective that an attack of KNOWING takes."""
    form = "additive" if name == "to_border" else "sum"
    return joint(score, threshold, form=form, seen=partial(slope_of, score))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", KNOWING)
def test_an_image_does_not_depend_on_its_batch(name, targeted, net, images):
    """Nor on what the others are to be read as: class 0 is a target as any other."""
    score, y, index = smooth_score(), net(images).argmax(1), torch.arange(12) + 100
    y = torch.where(torch.arange(12) < 4, (y + 1) % 4, y)
    target = torch.arange(12) % 4
    attack = partial(
        ADAPTIVE[name], net, objective=followed_by(name, score, score(images).median().item())
    )
    orthogonal = [{}, {"orthogonal": True}] if name == "selective_pgd" else [{}]
    for knobs in (KNOWING[name] | more for more in orthogonal):
        aim = {"target": target} if targeted else {}
        whole = attack(images, y, index=index, seed=3, **aim, **knobs)
        for size in (1, 5):
            for rows in torch.arange(12).split(size):
                aim = {"target": target[rows]} if targeted else {}
                alone = attack(images[rows], y[rows], index=index[rows], seed=3, **aim, **knobs)
                assert torch.allclose(alone, whole[rows], atol=1e-9)
        assert not torch.equal(whole, images) and not whole.requires_grad


@pytest.mark.parametrize("name", KNOWING)
def test_nothing_handed_in_is_changed_also_after_an_exception(name, net, images):
    x, y, score = images.clone(), net(images).argmax(1), smooth_score()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    flags = [p.requires_grad for p in net.parameters()]
    objective = followed_by(name, score, score(images).median().item())

    def boom(*_):
        raise RuntimeError("boom")

    ADAPTIVE[name](net, x, y, objective=objective, **KNOWING[name])
    handle = net.register_forward_hook(boom)
    with pytest.raises(RuntimeError, match="boom"):
        ADAPTIVE[name](net, x, y, objective=objective, **KNOWING[name])
    handle.remove()
    assert torch.equal(x, images) and not x.requires_grad and x.grad is None
    assert torch.is_grad_enabled() and not net.training
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "objective", "wrong", "sentence"),
    [
        ("selective_pgd", None, {}, "follows a detector's score"),
        ("selective_pgd", joint(first_value, 0.0), {"norm": "l2"}, "choose sign or l2 steps"),
        ("selective_pgd", joint(first_value, 0.0), {"moves": "none"}, "choose sign or l2 steps"),
        ("selective_pgd", joint(first_value, 0.0), {"steps": 0}, "steps must be a whole number"),
        ("mixed", None, {}, "The mix follows a detector's score"),
        ("alternating", joint(first_value, 0.0), {}, "needs joint"),
        ("to_border", joint(first_value, 0.0), {"overshoot": -1.0}, "overshoot must be finite"),
    ],
)
def test_wrong_knobs_get_a_sentence(name, objective, wrong, sentence, net, images):
    with pytest.raises(InputError, match=sentence):
        ADAPTIVE[name](
            net, images, net(images).argmax(1), objective=objective, **(KNOWING[name] | wrong)
        )


def test_every_game_is_made_of_attacks_and_knobs_that_there_are():
    of_game = {"attack", "form", "weight", "in_deviations", "targeted"}
    for dataset in ("digits", "cifar10", "cats_dogs"):
        for game in games(dataset, 192, steps=5, search_steps=5).values():
            assert game["keep"] in ("score", "l2") and game["attacks"]
            for entry in game["attacks"]:
                known = inspect.signature(ADAPTIVE[entry["attack"]].__wrapped__).parameters
                assert set(entry) - of_game <= set(known)
                assert entry.get("form", "sum") in (*FORMS, "both_orders")


# Surrogates


@pytest.fixture
def relus():
    """A small classifier of ReLUs, four classes, float32."""
    return build("digits_net", (3, SIDE, SIDE), 4, mean=[0.5], std=[0.2], seed=3)


@pytest.fixture
def x32():
    return drawn(12, 3, SIDE, SIDE, seed=1).float()


def network(classifier, view, x, seed=4):
    """A detector on this view, its network of random weights that knows the view's scale."""
    made = Network(classifier, view=view)
    seen = made.view_all(x)
    moments = {"mean": seen.mean((0, 2, 3)).tolist(), "std": seen.std((0, 2, 3)).tolist()}
    made.net = build("digits_net", tuple(seen.shape[1:]), 2, seed=seed, **moments)
    return made


def softened(model, sharpness):
    """A copy in float64 whose ReLUs are softplus modules."""
    model = copy.deepcopy(model).double()
    for part in [*model.modules()]:
        for name, child in part.named_children():
            if isinstance(child, nn.ReLU):
                setattr(part, name, nn.Softplus(sharpness))
    return model


def chained(detector, map_of, x):
    """The gradient by hand: what the network says of the true map's values, times the differences
    of the softened map.
    """
    with torch.no_grad():
        seen = detector.view(x)
    seen = seen.detach().requires_grad_()
    weights = torch.autograd.grad(detector.score(x, seen).sum(), seen)[0].double()
    channels = x.shape[1]
    image, weights = weights[:, :-channels], weights[:, -channels:]

    def value(z):
        return (map_of(z) * weights).flatten(1).sum(1)

    found = differences(value, x.double(), range(0, x[0].numel(), 11))
    return found + (image.flatten(1)[:, ::11] if image.shape[1] else 0)


def map_of_class(model, labels, of="logit"):
    """The gradient map of the label, in float64."""

    def found(z):
        with torch.enable_grad():
            z = z.clone().requires_grad_()
            logits = model(z)
            if of == "softmax":
                logits = logits.softmax(1)
            if of == "cross_entropy":
                logits = -logits.log_softmax(1)
            return torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), z)[0]

    return found


MAPS = {
    "jacobian": views.jacobian,
    "scaled": partial(views.jacobian, scaled=True),
    "image_and_jacobian": views.image_and_jacobian,
    "sensitivity": views.sensitivity,
    "sensitivity_log": partial(views.sensitivity, reading="log"),
    "first_layer_jacobian": partial(views.layer, depth=0.0, with_jacobian=True),
    "softmax": partial(views.jacobian, of="softmax"),
}


@pytest.mark.parametrize("name", MAPS)
def test_on_gradient_maps_the_value_is_the_detectors_and_there_is_a_gradient(name, relus, x32):
    detector = network(relus, MAPS[name], x32)
    score, own = surrogate(detector), detector.score(x32).detach()
    assert is_exact(detector) and own.std() > 1e-3
    assert torch.allclose(score(x32), own, atol=1e-5)
    asked = x32.clone().requires_grad_()
    value = score(asked)
    assert value.requires_grad and torch.allclose(value, own, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(score(asked), own, atol=1e-5)
    slope = slope_of(score, x32)
    assert torch.isfinite(slope).all() and (slope.flatten(1).abs().amax(1) > 1e-6).all()
    flat = zero_gradients(detector.score, x32)
    assert flat.all() == (name in ("jacobian", "scaled"))
    assert not zero_gradients(score, x32).any()
    if not flat.all():  # its own gradient knows a part of it alone
        apart = slope - slope_of(detector.score, x32)
        assert apart.norm() > 1e-3 * slope.norm()


@pytest.mark.parametrize("sharpness", [20.0, 1.0])
@pytest.mark.parametrize("view", [views.jacobian, views.image_and_jacobian])
def test_the_gradient_is_that_of_the_softened_map_of_the_class_that_is_found(
    view, sharpness, relus, x32
):
    detector, labels = network(relus, view, x32), relus(x32).argmax(1)
    soft = softened(relus, sharpness)
    if sharpness == 1:  # so soft that it finds other classes, which must not matter
        assert (soft(x32.double()).argmax(1) != labels).any()
    want = chained(detector, map_of_class(soft, labels), x32)
    found = slope_of(surrogate(detector, sharpness=sharpness), x32).flatten(1)[:, ::11].double()
    assert (found - want).norm() < 1e-2 * want.norm()


@pytest.mark.parametrize("of", ["softmax", "cross_entropy"])
def test_so_is_that_of_a_map_of_probabilities(of, relus, x32):
    """The copy that finds the classifier's class leaves the probabilities as they are."""
    detector, labels = network(relus, partial(views.jacobian, of=of), x32), relus(x32).argmax(1)
    soft = softened(relus, 20.0)
    assert torch.equal(soft(x32.double()).argmax(1), labels)
    want = chained(detector, map_of_class(soft, labels, of), x32)
    found = slope_of(surrogate(detector), x32).flatten(1)[:, ::11].double()
    assert (found - want).norm() < 1e-2 * want.norm()


def test_a_labelled_classifier_finds_the_labels_and_keeps_the_logits_derivative(relus, x32):
    labels = (relus(x32).argmax(1) + torch.arange(12)) % 4
    made = Labelled(relus, labels)
    assert not made.training and torch.equal(made(x32).argmax(1), labels)
    others = torch.ones(12, 4, dtype=torch.bool).scatter(1, labels[:, None], False)
    assert torch.equal(made(x32)[others], relus(x32)[others])
    alike = relus(x32).argmax(1) == labels
    assert alike.sum() == 3 and torch.equal(made(x32)[alike], relus(x32)[alike])

    def chosen(model):
        return partial(label_of, model, labels)

    assert torch.allclose(slope_of(chosen(made), x32), slope_of(chosen(relus), x32), atol=1e-6)


def label_of(model, labels, x):
    return model(x).gather(1, labels[:, None])[:, 0]


def test_views_that_can_be_derived_are(relus, x32):
    for view in (views.image, views.high_pass, partial(views.layer, depth=1.0)):
        detector = network(relus, view, x32)
        score = surrogate(detector)
        assert torch.allclose(score(x32), detector.score(x32))
        assert torch.allclose(slope_of(score, x32), slope_of(detector.score, x32))
        assert not zero_gradients(score, x32).any()


@pytest.mark.parametrize("view", [views.saliency_map, views.salient_pixels])
def test_the_learned_map_is_derived_through_its_network(view, net, images):
    """The class that opens its gate is held, as it does not change in a neighbourhood."""
    through = SaliencyModel(net, images[:1]).requires_grad_(False).eval()
    detector = Network(net, view=view, needs="saliency", through=through)
    seen = detector.view_all(images)
    detector.net = build("digits_net", tuple(seen.shape[1:]), 2, mean=[0.4], std=[0.1], seed=5)
    detector.net.double()
    score = surrogate(detector)
    assert torch.equal(score(images), detector.score(images))
    assert agrees(score, images, every=13, rtol=1e-3)
    held = seen.detach()  # of SPD, the part that the map itself has in it

    def map_held(z):
        with torch.no_grad():
            mask = through(images)
        return detector.score(z, mask * z if view is views.salient_pixels else held + 0 * z[:, :1])

    assert not torch.allclose(slope_of(score, images), slope_of(map_held, images), rtol=0.1)


@pytest.mark.parametrize("squeezer", ["3-bit", "2*2"])
def test_a_squeezer_counts_as_the_identity_on_the_way_back(squeezer, net, images):
    detector = Squeezing(net, squeezers=(squeezer,))
    score = surrogate(detector)
    assert torch.allclose(score(images).float(), detector.score(images), atol=1e-6)
    x, squeezed = images.clone().requires_grad_(), SQUEEZERS[squeezer](images).requires_grad_()
    far = (net(squeezed).softmax(1) - net(x).softmax(1)).abs().sum(1)
    want = sum(torch.autograd.grad(far.sum(), (x, squeezed)))
    assert torch.allclose(slope_of(score, images), want, atol=1e-9)
    assert want.abs().max() > 1e-4


def test_of_several_squeezers_the_one_that_moves_most_is_followed(net, images):
    detector = Squeezing(net, squeezers=("1-bit", "2*2"))
    score = surrogate(detector)
    each = [surrogate(Squeezing(net, squeezers=(one,))) for one in detector.squeezers]
    assert torch.allclose(score(images), torch.maximum(*(one(images) for one in each)))
    first = (each[0](images) > each[1](images))[:, None, None, None]
    assert 0 < first.sum() < 12
    want = torch.where(first, *(slope_of(one, images) for one in each))
    assert torch.allclose(slope_of(score, images), want)
    usual = Squeezing(net)  # the joint set for small colour pictures
    assert torch.allclose(surrogate(usual)(images).float(), usual.score(images), atol=1e-6)


def test_paper_003s_emphasised_image_is_derived_with_its_map_and_with_it_held(net, images):
    mean = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(1, 3, 1, 1)
    detector = GradCamConsistency(net, mean=mean, theta=0.3, transform="colour_reversing")
    through, held = (surrogate(detector, through_map=way) for way in (True, False))
    for score in (through, held):
        assert torch.allclose(score(images).float(), detector.score(images), atol=1e-6)
        value = score(images.clone().requires_grad_()).detach()
        assert torch.allclose(value.float(), detector.score(images), atol=1e-6)
    maps = between_0_and_1(grad_cam(net, images))

    def by_hand(z):
        changed = emphasised(z, maps, mean, theta=0.3, transform="colour_reversing")
        return (net(changed).softmax(1) - net(z).softmax(1)).abs().sum(1)

    assert torch.allclose(slope_of(held, images), slope_of(by_hand, images), atol=1e-9)
    apart = slope_of(through, images) - slope_of(held, images)
    assert apart.norm() > 0.01 * slope_of(held, images).norm()
    plain = surrogate(GradCamConsistency(net, mean=mean, theta=0.0, transform="zero_mean"))
    assert agrees(plain, images, every=13)


@pytest.mark.parametrize("layer", ["body.0", "body.1"])
def test_of_a_smooth_classifier_the_map_of_paper_003_has_its_own_derivative(layer, net, images):
    """However small the map's values are, of which those under 0 are cut."""
    smooth, x = softened(net, 20.0), 0.2 + 0.4 * images
    mean = torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64)
    detector = GradCamConsistency(smooth, mean=mean, theta=0.3, emphasis="grey", layer=layer)
    cut = grad_cam(smooth, x, layer=layer)
    assert (cut == 0).any() and cut.max() < 0.01
    x = x[cut.flatten(1).amax(1) > 1e-4]
    assert len(x) >= 10 and torch.isfinite(slope_of(surrogate(detector), x)).all()
    assert agrees(surrogate(detector), x, every=29, rtol=1e-3)


@pytest.fixture
def guarded_pair(relus, x32):
    """A GCD of two networks of random weights, which are each sometimes the surer."""
    halves = tuple(network(relus, view, x32) for view in (views.image, views.sensitivity))
    for half in halves:
        half.net.requires_grad_(False)
        half.net.body.fc2.bias[1] -= half.score(x32).median()
    made = GCD(relus, pixels="id", sensitivity="insen", halves=halves)
    assert 0 < made.by_pixels(x32).sum() < 12
    return made


@pytest.mark.parametrize("rule", RULES)
def test_gcds_surrogate_is_its_score_with_the_gradient_of_the_half_that_decides(
    rule, guarded_pair, x32
):
    guarded_pair.rule = rule
    score = surrogate(guarded_pair)
    assert torch.allclose(score(x32), guarded_pair.score(x32), atol=1e-5)
    halves = [surrogate(half) for half in guarded_pair.halves]
    slopes = [slope_of(half, x32) for half in halves]
    values = [half(x32).detach().requires_grad_() for half in halves]
    shares = torch.autograd.grad(RULES[rule](*values).sum(), values)
    want = sum(a[:, None, None, None] * b for a, b in zip(shares, slopes, strict=True))
    assert torch.allclose(slope_of(score, x32), want, atol=1e-6)
    assert all(share.abs().sum() > 0 for share in shares)


def test_mahalanobis_distances_are_derived_also_of_images_that_are_moved_first(net, images):
    clean = drawn(60, 3, 8, 8, seed=8)
    detector = Mahalanobis(net)
    detector.learn(clean, torch.arange(60) % 4)
    layers = len(detector.layers)
    detector.weight = torch.linspace(1, 2, layers, dtype=torch.float64)
    detector.bias = torch.zeros((), dtype=torch.float64)
    for magnitude in (0.0, 0.002):
        detector.magnitude = magnitude
        score = surrogate(detector)
        assert torch.equal(score(images), detector.score(images))
        assert agrees(score, images, every=29, rtol=1e-3)
    slopes = []
    for magnitude in (0.0, 0.002):
        detector.magnitude = magnitude
        slopes.append(slope_of(surrogate(detector), images))
    assert not torch.allclose(*slopes, rtol=1e-3)


def test_twss_surrogate_compares_lead_and_noise_with_clean_images(net, images):
    clean = drawn(40, 3, 8, 8, seed=8)
    detector = Tws(net, search=Search(sigma=0.05))
    with pytest.raises(InputError, match="hand over `calibrate`"):
        surrogate(detector)
    assert not is_exact(detector)
    score = surrogate(detector, calibrate=clean)
    alone = Tws(net, criteria=("noise",), search=detector.search)

    def signs(x):
        top = net(x).sort(1).values
        lead_of = (top[:, -1] - top[:, -2]).detach()
        return torch.stack([lead_of, alone.view(x)[:, 0].to(x)], 1)

    known = signs(clean).numpy()
    middle = np.median(known, 0)
    spread = np.quantile(known, 0.75, 0) - np.quantile(known, 0.25, 0)
    assert len(clean) % 2 == 0  # torch's median is the lower middle one
    lower = np.sort(known, 0)[len(clean) // 2 - 1]
    want = ((signs(images).numpy() - lower) / spread).max(1)
    assert np.allclose(score(images).detach().numpy(), want, rtol=1e-6) and (lower <= middle).all()
    assert agrees(score, images, every=29, rtol=1e-3)


def test_what_has_no_surrogate_gets_a_sentence(net):
    class Own(GradCamConsistency.__mro__[1]):
        pass

    with pytest.raises(InputError, match="No gradient is known for Own"):
        surrogate(Own(net))(drawn(1, 3, 8, 8))
    with pytest.raises(InputError, match="printed for networks"):
        as_printed(Squeezing(net), drawn(1, 3, 8, 8))
    deep = network(
        build("digits_net", (3, SIDE, SIDE), 4),
        partial(views.layer, depth=1.0),
        drawn(4, 3, SIDE, SIDE).float(),
    )
    with pytest.raises(InputError, match="it needs its size"):
        as_printed(deep, drawn(1, 3, SIDE, SIDE).float())


def all_relus(x):
    """Each way to write a ReLU."""
    f = nn.functional
    return [
        nn.ReLU()(x),
        nn.ReLU(inplace=True)(x.clone()),
        f.relu(x),
        f.relu_(x.clone()),
        torch.relu(x),
        torch.relu_(x.clone()),
        x.relu(),
        x.clone().relu_(),
    ]


def test_while_smooth_each_relu_is_a_softplus_and_afterwards_none_is():
    x = drawn(5, 3, low=-1)
    with Smooth(3.0):
        inside = all_relus(x)
    assert all(torch.allclose(z, softplus(x, 3.0)) for z in inside)
    with pytest.raises(RuntimeError, match="boom"):
        with Smooth():
            raise RuntimeError("boom")
    assert all(torch.equal(z, x.clamp_min(0)) for z in all_relus(x))


def test_a_relu_that_is_written_over_its_input_is_smooth_too():
    """As a brought network may have it: `relu_(z)`, and z is used."""
    x = drawn(5, 3, low=-1)
    made = [x.clone() for _ in range(4)]
    with Smooth(3.0):
        nn.functional.relu_(made[0])
        nn.functional.relu(made[1], inplace=True)
        torch.relu_(made[2])
        made[3].relu_()
    assert all(torch.allclose(z, softplus(x, 3.0)) for z in made)


def test_a_score_without_a_gradient_is_named_and_one_that_has_it_is_not(net, images):
    pattern = drawn(3, 8, 8, low=-1)
    for masked in (True, False):
        planted = checks.Planted(net, pattern, masked=masked)
        assert zero_gradients(planted.score, images).all() == masked
        assert zero_gradients(planted.score, images).any() == masked

    def broken(x):  # infinite for the first, constant for the second
        value = x.flatten(1).sum(1) * torch.tensor([torch.inf, 0.0, *[1.0] * 10])
        return value

    assert zero_gradients(broken, images).tolist() == [True, True] + [False] * 10
    assert zero_gradients(detached, images).all()
    assert not images.requires_grad and images.grad is None


def detached(x):
    return x.detach().flatten(1).sum(1)


# Checks


HOLDS = [
    (checks.unbounded_succeeds, [(1.0,), (0.985,)], [(0.97,), (0.0,)], "must"),
    (
        checks.more_is_not_weaker,
        [([0.1, 0.5, 0.5, 0.49],), ([0.3],)],
        [([0.1, 0.5, 0.4, 0.9],), ([0.5, 0.3],)],
        "finds less",
    ),
    (
        checks.knowing_is_not_weaker,
        [(0.5, 0.4), (0.5, 0.5), (0.49, 0.5)],
        [(0.4, 0.5), (0.0, 1.0)],
        "masked",
    ),
    (checks.gradient_is_there, [(0.0,), (0.49,)], [(0.5,), (1.0,)], "no gradient at"),
    (checks.noise_does_not_break, [(0.0,), (0.2,)], [(0.21,), (1.0,)], "mere noise"),
]


@pytest.mark.parametrize(("check", "fine", "weak", "sentence"), HOLDS)
def test_each_check_raises_where_it_must_and_not_where_it_must_not(check, fine, weak, sentence):
    for given in fine:
        check(*given, "pgd")
        assert checks.holds(check, *given, "pgd") == ""
    for given in weak:
        with pytest.raises(checks.Weak, match=sentence):
            check(*given, "pgd")
        found = checks.holds(check, *given, "pgd")
        assert sentence in found and "pgd" in found


def test_a_planted_linear_detector_falls_to_who_knows_it_alone(net):
    """Its pattern is in what plain PGD adds, so that it sees nearly all of it."""
    x = drawn(60, 3, 8, 8, seed=12, low=0.2, high=0.8)
    y, knobs = net(x).argmax(1), {"eps": 0.1, "step": 0.02, "steps": 30}
    plain = pgd(net, x, y, random_start=False, **knobs)
    planted = checks.Planted(net, (plain - x).mean(0))
    threshold = planted.calibrate(x, 0.05)
    assert planted.score(x).std() > 0 and abs(float((planted.score(x) > threshold).sum()) - 3) < 1
    found = {}
    knowing = selective_pgd(net, x, y, objective=joint(planted.score, threshold), **knobs)
    for name, x_adv in (("plain", plain), ("knowing", knowing)):
        fooled = net(x_adv).argmax(1) != y
        passes = fooled & (planted.score(x_adv) <= threshold)
        found[name] = float(passes.sum() / fooled.sum())
        assert fooled.double().mean() > 0.9
    assert found["knowing"] >= 0.95 and found["plain"] <= 0.2, found
    checks.knowing_is_not_weaker(found["knowing"], found["plain"], "planted")


def test_the_planted_masked_detector_is_named(net, images):
    pattern = drawn(3, 8, 8, low=-1)
    said = {}
    for masked in (True, False):
        planted = checks.Planted(net, pattern, masked=masked)
        share = float(zero_gradients(planted.score, images).double().mean())
        said[masked] = checks.holds(checks.gradient_is_there, share, "planted")
    assert "at 100% of the images" in said[True] and said[False] == ""
    plain, masked = (checks.Planted(net, pattern, masked=m).score(images) for m in (False, True))
    assert (plain - masked).abs().max() <= 0.025 + 1e-9 and not torch.equal(plain, masked)
    assert torch.allclose(plain, (images * pattern).flatten(1).sum(1) / pattern.norm())


# The whole defence


@pytest.fixture
def defence(relus, guarded_pair, x32):
    """A pipeline, its parts, and which of the images it flags."""
    reader = build("digits_net", (3, SIDE, SIDE), 4, mean=[0.5], std=[0.2], seed=9)
    threshold = guarded_pair.score(x32).median().item()
    made = Pipeline(
        relus,
        reader,
        guarded_pair,
        surrogate(guarded_pair),
        threshold,
        alpha=0.3,
        draws=3,
        seed=7,
    )
    return made, reader, made.flags(x32)


def rectified(defence, x, flagged):
    """The flagged images by the rectifier itself, draw by draw."""
    rows = flagged.nonzero().flatten()
    return [
        gcd.rectify(x[rows], index=rows, seed=7 + draw, through=defence.held[0], alpha=0.3)
        for draw in range(3)
    ]


def test_silent_images_are_read_as_ever_and_flagged_ones_by_the_mean_over_draws(
    defence, relus, guarded_pair, x32
):
    made, reader, flagged = defence
    assert torch.equal(flagged, guarded_pair.score(x32) > made.threshold)
    assert flagged.sum() == 6  # the median itself is not flagged
    logits = made(x32)
    assert torch.equal(logits[~flagged], relus(x32)[~flagged])
    parts = rectified(made, x32, flagged)
    want = torch.stack([reader(part) for part in parts]).mean(0)
    assert torch.allclose(logits[flagged], want, atol=1e-6)
    assert not torch.allclose(reader(parts[0]), reader(parts[1]))
    assert not torch.allclose(want, relus(x32)[flagged], atol=1e-2)


def test_where_nothing_is_flagged_the_defence_is_the_classifier(defence, relus, x32):
    made, _, _ = defence
    made.threshold = torch.inf
    assert torch.equal(made(x32), relus(x32))
    made.threshold = -torch.inf
    assert made.flags(x32).all() and not torch.equal(made(x32), relus(x32))


def test_a_flagged_image_has_the_readers_gradient_where_a_draw_left_it(defence, relus, x32):
    """A value that every draw replaces has none; also where noise happens to be what was there, as
    on a black ground.
    """
    made, reader, _ = defence
    x32 = torch.where(x32 < 0.4, 0.0, x32)
    flagged = made.flags(x32)
    assert 0 < flagged.sum() < 12
    rows = flagged.nonzero().flatten()
    mask = gcd.above_range(gcd.detector_gradient(made.held[0], x32[rows]), 0.3)
    want, replaced, unseen = torch.zeros_like(x32[rows]), [], 0
    for draw, part in enumerate(rectified(made, x32, flagged)):
        gone = mask & (gcd.draws(x32[rows].shape, rows, 7 + draw)[0] < gcd.REPLACED)
        gone = gone.expand_as(part)
        want += torch.where(gone, 0.0, slope_of(partial(weighed, reader), part)) / 3
        unseen += (gone & (part == x32[rows])).sum()
        replaced.append(gone)
    found = slope_of(partial(weighed, made), x32)
    assert torch.allclose(found[rows], want, atol=1e-6)
    always = torch.stack(replaced).all(0)
    assert always.any() and (found[rows][always] == 0).all() and unseen > 0
    plain = slope_of(partial(weighed, relus), x32)
    assert torch.allclose(found[~flagged], plain[~flagged], atol=1e-6)


def weighed(model, x):
    """A value of the logits in which all of them count."""
    return model(x) @ torch.tensor([1.0, -2.0, 3.0, 0.5])


def test_the_defence_is_read_without_a_graph_as_with_one(defence, x32):
    made, _, _ = defence
    with torch.no_grad():
        alone = made(x32)
    assert torch.equal(alone, made(x32).detach()) and not alone.requires_grad
    y = alone.argmax(1)
    followed = joint(made.held[1], torch.inf)
    x_adv = selective_pgd(made, x32, y, objective=followed, eps=0.1, step=0.02, steps=5)
    assert (x_adv - x32).abs().max() <= 0.1 + 1e-6


def test_the_defence_holds_no_other_network_than_classifier_and_reader(defence, relus):
    made, reader, _ = defence
    assert not made.training
    assert {id(p) for p in made.parameters()} == {
        id(p) for part in (relus, reader) for p in part.parameters()
    }
