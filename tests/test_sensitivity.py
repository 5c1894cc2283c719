"""Paper 004's input sensitivity and Dist_z: closed forms, finite differences, what 32 bits lose,
and what the detectors look at.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbutils import InputError
from nbutils.attacks.cost import Counted
from nbutils.detectors import scalars, views
from nbutils.evaluation import underflow
from nbutils.models.building import build as build_network
from nbutils.models.normalised import Restricted
from nbutils.saliency.gradients import (
    dist_z,
    gradient,
    input_sensitivity,
    sensitivity_factors,
)


class Softmax(nn.Module):
    """A linear softmax model: logits W x + b of 9 pixels, 4 classes."""

    def __init__(self, scale=1.0, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.out = nn.Linear(9, 4)
        self.out.weight.data = scale * torch.randn(4, 9, generator=generator)
        self.out.bias.data = torch.randn(4, generator=generator)
        self.double().eval().requires_grad_(False)

    def forward(self, x):
        return self.out(x.flatten(1))


class Float32Alone(nn.Module):
    """A user's own model whose weights are no parameters: it cannot be asked in float64."""

    def __init__(self, model):
        super().__init__()
        self.weight, self.bias = model.out.weight.float(), model.out.bias.float()
        self.eval()

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


class Rounds(Float32Alone):
    """Another, that takes any image and answers in float32."""

    def forward(self, x):
        return super().forward(x.float())


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(40, 1, 3, 3, generator=generator, dtype=torch.float64)


def by_equation_6(model, image):
    """The map of one image, class by class, by eq 6: each other class p weighs C_p = w_p - w_m with
    1 / sum_q exp(a_q - a_p), that is its probability.
    """
    a, w = model(image[None])[0], model.out.weight
    m = int(a.argmax())
    others = [p for p in range(len(a)) if p != m]
    return sum((w[p] - w[m]) / (a - a[p]).exp().sum() for p in others)


@pytest.mark.parametrize("scale", [1.0, 30.0])  # unsure, and sure up to p = 1 in float32
def test_of_a_linear_softmax_it_is_equation_6(x, scale):
    model = Softmax(scale)
    found = input_sensitivity(model, x)
    assert found.shape == x.shape and found.dtype == torch.float64
    for image, its in zip(x, found, strict=True):
        want = by_equation_6(model, image).view_as(its)
        assert torch.allclose(its, want, rtol=1e-9, atol=0)
    size = scalars.input_sensitivity(model, x)
    assert torch.allclose(size.log(), scalars.gradient_norm(model, x), rtol=1e-9)


def test_a_term_of_equation_6_falls_as_dist_z_grows(x):
    """Two classes alone: ||G|| = ||w_m - w_n|| / (1 + exp(Dist_z ||w_m - w_n||))."""
    model = Softmax()
    model.out = nn.Linear(9, 2).double().requires_grad_(False)
    gap = (model.out.weight[0] - model.out.weight[1]).norm()
    far = dist_z(model, x)
    want = gap / (1 + (far * gap).exp())
    assert torch.allclose(scalars.input_sensitivity(model, x), want, rtol=1e-9)
    assert torch.equal(far.argsort(), want.argsort(descending=True))


def test_it_is_what_finite_differences_say(net, images):
    """Of the cross-entropy of the predicted class, and of any label, in float64."""
    for labels in (None, torch.arange(12) % 4):
        chosen = net(images).argmax(1) if labels is None else labels
        found = input_sensitivity(net, images, labels).flatten(1)
        h, m = 1e-6, images[0].numel()
        for place in range(0, m, 17):
            step = torch.zeros(m, dtype=torch.float64)
            step[place] = h
            step = step.view_as(images[0])
            up, down = (
                cross_entropy(net(images + sign * step), chosen, reduction="none")
                for sign in (1, -1)
            )
            assert torch.allclose(found[:, place], (up - down) / (2 * h), rtol=1e-4, atol=1e-8)


def test_all_classes_cost_one_forward_and_one_backward_pass(images):
    counted = Counted(build_network("digits_net", (3, 8, 8), 10, seed=1))
    input_sensitivity(counted, images.float())
    assert (counted.forwards, counted.backwards) == (12, 12)


@pytest.mark.parametrize("kind", [Float32Alone, Rounds])
def test_a_model_that_knows_float32_alone_loses_no_image(x, kind):
    """The doubt and the direction are kept apart until they are float64."""
    exact = Softmax(60.0)
    single = kind(exact)
    want, found = input_sensitivity(exact, x.float().double()), input_sensitivity(single, x.float())
    doubt = sensitivity_factors(single, x.float())[0]
    assert doubt.min() < -100  # under what float32 can hold of p
    assert found.dtype == torch.float64 and torch.allclose(found, want, rtol=2e-2, atol=0)
    naive = gradient(single, x.float(), of="cross_entropy")
    assert not torch.allclose(naive.double(), want, rtol=0.1, atol=0)


def test_in_32_bits_the_plain_map_loses_what_the_sum_keeps(x):
    sure, unsure = Softmax(30.0).float(), Softmax(1.0).float()
    few, none = (underflow.sensitivity_in_32_bits(model, x.float()) for model in (sure, unsure))
    assert few["p rounds to 1"] > 0.3 and few["error, largest"] > 0.3
    assert few["maps off by a tenth"] > 0.3 > few["maps all zero"]
    assert few["error by factors, largest"] < 1e-2 and none["error by factors, largest"] < 1e-5
    assert none["p rounds to 1"] == none["maps off by a tenth"] == none["values lost"] == 0
    gone = underflow.sensitivity_in_32_bits(Softmax(400.0).float(), x.float())
    assert gone["maps all zero"] > 0 and gone["values lost"] > 0
    rows = underflow.sensitivity_lost(unsure, {"clean": x, "attacked": x + 0.2})
    assert [row["images"] for row in rows] == ["clean", "attacked"]
    assert rows[0]["auroc exact"] is None
    assert rows[1]["auroc exact"] == pytest.approx(rows[1]["auroc in 32 bits"])


def test_a_step_of_dist_z_reaches_the_border_and_no_shorter_one_does(x):
    """Images are the last layer's input here: along w_n - w_m of the nearest class by Dist_z."""
    model = Softmax()
    a, w, b = model(x), model.out.weight, model.out.bias
    found = dist_z(model, x)
    for image, its, logits in zip(x.flatten(1), found, a, strict=True):
        m = int(logits.argmax())
        away = {
            n: float(((w[m] - w[n]) @ image + b[m] - b[n]).abs() / (w[m] - w[n]).norm())
            for n in range(4)
            if n != m
        }
        n = min(away, key=away.get)
        assert float(its) == pytest.approx(away[n])
        unit = (w[n] - w[m]) / (w[n] - w[m]).norm()
        at, short = (model.out(image + share * its * unit) for share in (1.0, 0.99))
        assert at[m] == pytest.approx(float(at[n])) and int(short.argmax()) == m
    assert torch.equal(scalars.dist_z(model, x), -found)


def test_dist_z_reads_the_last_dense_layer_also_of_some_classes_of_a_network():
    net, x = build_network("digits_net", (1, 12, 12), 6, seed=2), torch.rand(5, 1, 12, 12)
    body, some = net.body, [4, 0, 3]
    z = body.relu3(body.fc1(body.relu2(body.conv2(body.relu1(body.conv1(x)))).flatten(1)))
    w, b = body.fc2.weight[some].double(), body.fc2.bias[some].double()
    a = z.double() @ w.T + b
    m = a.argmax(1)
    gaps = (a.amax(1, keepdim=True) - a) / (w[m][:, None] - w).norm(dim=2)
    want = gaps.nan_to_num(torch.inf).amin(1)
    restricted = Restricted(net, some).eval()
    assert torch.allclose(dist_z(restricted, x), want, rtol=1e-4)
    assert not torch.allclose(dist_z(net, x), want, rtol=1e-2)
    assert not any(part._forward_pre_hooks for part in net.modules())


@pytest.mark.parametrize(
    "head",
    [
        [nn.Conv2d(1, 3, 4), nn.Flatten()],
        [nn.Flatten(), nn.Linear(16, 3), nn.Tanh()],
    ],
)
def test_dist_z_of_a_network_without_a_last_dense_layer_gets_a_sentence(head):
    model = nn.Sequential(*head).eval()
    with pytest.raises(InputError, match="do not come from one"):
        dist_z(model, torch.rand(2, 1, 4, 4))
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_dist_z_of_classes_with_equal_weights_is_that_to_the_others(x):
    model = Softmax()
    model.out.weight[3], model.out.bias[3] = model.out.weight[0], model.out.bias[0] - 1e-3
    found = dist_z(model, x)
    assert torch.isfinite(found).all() and (found > 0).all()


def test_each_reading_of_det_is_by_hand(x):
    model = Softmax(3.0)
    exact = input_sensitivity(model, x)
    size = exact.flatten(1).norm(dim=1)[:, None, None, None]

    def look(**knobs):
        found = views.sensitivity(model, x, **knobs)
        assert found.dtype == torch.float32 and found.shape == x.shape
        return found.double()

    assert torch.allclose(look(), exact, rtol=1e-6)
    assert torch.allclose(look(reading="pattern"), exact / size, rtol=1e-5)
    assert torch.allclose(look(reading="norm"), size.expand_as(x), rtol=1e-6)
    largest = exact.abs().amax((1, 2, 3), keepdim=True)
    want = exact.abs().maximum(largest * 1e-3).log10()
    assert torch.allclose(look(reading="log"), want, atol=1e-5)
    with pytest.raises(InputError, match="reading='size' is unknown"):
        views.sensitivity(model, x, reading="size")


def test_log_and_pattern_tell_what_a_float32_cannot_hold(x):
    """p = 1 - exp(-300) and less: the raw map is 0 in float32, and these two are not."""
    model = Softmax(200.0)
    x = x[sensitivity_factors(model, x)[0] < -150]
    assert len(x) >= 2 and not views.sensitivity(model, x).any()
    pattern, logarithm = (views.sensitivity(model, x, reading=r) for r in ("pattern", "log"))
    assert torch.allclose(pattern.flatten(1).norm(dim=1), torch.ones(len(x)))
    assert torch.isfinite(logarithm).all() and logarithm.flatten(1).amax(1).std() > 1


def test_a_dead_image_has_a_map_of_zeros_and_a_finite_logarithm():
    dead = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(9, 3)).eval()
    x = -torch.ones(2, 1, 3, 3)
    for reading in ("raw", "log", "pattern", "norm"):
        found = views.sensitivity(dead, x, reading=reading)
        assert torch.isfinite(found).all() and found.any() == (reading == "log")


@pytest.mark.parametrize("double", [True, False])
def test_what_is_derived_again_is_the_derivative(net, images, double):
    """A white-box attack on DET_IS goes through the map: against finite differences."""
    smooth = copy.deepcopy(net)
    smooth.body[3] = nn.Softplus()
    x = images[:3].clone().requires_grad_()

    def size(z, graph=False):
        found = input_sensitivity(smooth, z, double=double, create_graph=graph)
        return found.flatten(1).norm(dim=1)

    slope = torch.autograd.grad(size(x, graph=True).sum(), x)[0]
    assert not size(x).requires_grad
    step = torch.zeros_like(images[:3])
    step[:, 1, 2, 3] = 1e-6
    difference = (size(images[:3] + step) - size(images[:3] - step)) / 2e-6
    assert torch.allclose(slope[:, 1, 2, 3], difference, rtol=1e-4, atol=1e-7)


def test_the_high_pass_takes_a_shade_away_and_keeps_a_checkerboard():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(2, 3, 8, 8)
    ramp = torch.linspace(0, 1, 8).expand(2, 3, 8, 8)
    found = views.high_pass(None, 0.3 + 0.1 * board)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert torch.allclose(found[inside], 0.1 * board[inside] * 8 / 9, atol=1e-6)
    assert views.high_pass(None, torch.full((2, 3, 8, 8), 0.7)).abs().max() < 1e-6
    assert views.high_pass(None, ramp)[inside].abs().max() < 1e-6
