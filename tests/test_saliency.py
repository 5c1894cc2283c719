"""Saliency: maps by hand and against another library; the learned model judged on clean images,
beside masks that say nothing.
"""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from nbutils import InputError, steps
from nbutils.attacks.cost import Counted
from nbutils.detectors.base import scores
from nbutils.detectors.building import build as build_detector
from nbutils.detectors.networks import Recipe
from nbutils.models.building import build as build_network
from nbutils.models.taps import scales
from nbutils.models.training import Training
from nbutils.saliency import MAPS
from nbutils.saliency.fitting import SaliencyTraining, fit
from nbutils.saliency.grad_cam import grad_cam
from nbutils.saliency.gradients import gradient, gradient_map
from nbutils.saliency.learned import SaliencyModel
from nbutils.saliency.losses import loss_000, loss_hinge
from nbutils.saliency.maps import in_batches, normalised, quality, uninformed
from nbutils.saliency.masks import masked
from tests.conftest import configure


class TwoLayers(nn.Module):
    """z = W relu(V x), 4 pixels, 2 hidden units, 3 classes."""

    def __init__(self):
        super().__init__()
        self.v = torch.tensor([[1.0, -2.0, 0.0, 3.0], [-1.0, -1.0, -1.0, -1.0]]).double()
        self.w = torch.tensor([[2.0, 5.0], [-1.0, 7.0], [0.5, 0.0]]).double()

    def forward(self, x):
        return torch.relu(x.flatten(1) @ self.v.T) @ self.w.T


@pytest.fixture
def trained():
    """A small network that tells apart where a bright square lies, and such images."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (400,), generator=generator)
    x = 0.2 * torch.rand(400, 1, 16, 16, generator=generator)
    for image, place in zip(x, y.tolist(), strict=True):
        row, column = 2 + 7 * (place // 2), 2 + 7 * (place % 2)
        image[:, row : row + 5, column : column + 5] += 0.7
    model = build_network("digits_net", (1, 16, 16), 4, mean=[0.3], std=[0.3], seed=1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    assert (model(x).argmax(1) == y).float().mean() > 0.95
    return model, x, y


@pytest.fixture
def mapped(trained):
    model, x, _ = trained
    made = SaliencyModel(model, x[:1])
    fit(made, x, SaliencyTraining(8, gate_epochs=5))
    return made


def test_gradients_by_hand():
    x = torch.tensor([0.5, 0.25, 0.1, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    model = TwoLayers()
    # Vx = (3, -1.85): the second unit is off, so dz_c/dx = W[c, 0] * V[0]
    z = torch.tensor([6.0, -3.0, 1.5], dtype=torch.float64)
    p, slope = z.softmax(0), torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)

    def found(*label, **knobs):
        return gradient(model, x, *label, **knobs).flatten()

    for c in range(3):
        label = torch.tensor([c])
        assert torch.allclose(found(label), slope[c] * model.v[0])
        softmax = p[c] * (slope[c] - (p * slope).sum())
        assert torch.allclose(found(label, of="softmax"), softmax * model.v[0])
        assert torch.allclose(found(label, of="cross_entropy"), -softmax / p[c] * model.v[0])
    assert torch.equal(found(), found(torch.tensor([0])))  # the predicted class
    with pytest.raises(InputError, match="of='probability' is unknown"):
        found(of="probability")


def test_of_a_linear_model_the_map_is_its_weights(linear, interior):
    w = linear.w.detach().view(1, 3, 4, 4)
    found = gradient_map(linear, interior, torch.zeros(8, dtype=torch.long))
    assert torch.allclose(found, w.abs().amax(1, keepdim=True).expand(8, 1, 4, 4))


def test_grad_cam_is_captums(net, images):
    from captum.attr import LayerGradCam

    labels = torch.arange(12) % 4
    for name, layer in (("body.1", net.body[1]), ("body.3", net.body[3])):
        other = LayerGradCam(net, layer).attribute(images, target=labels, relu_attributions=True)
        want = interpolate(other, (8, 8), mode="bilinear")
        ours = grad_cam(net, images, labels, layer=name)
        assert ours.shape == (12, 1, 8, 8) and ours.max() > 0
        assert torch.allclose(ours, want, atol=1e-5)
    last = grad_cam(net, images, labels, layer="body.3")
    assert torch.equal(grad_cam(net, images, labels), last)


@pytest.mark.parametrize("kind", [*MAPS, "learned"])
def test_maps_in_batches_are_the_maps_and_nothing_is_touched(trained, mapped, kind):
    model, x, _ = trained
    mapped, model, x = mapped.double(), model.double(), x.double()
    function = mapped.map_of if kind == "learned" else MAPS[kind]
    before, state = x.clone(), [p.clone() for p in model.parameters()]
    whole = function(model, x[:20])
    assert whole.shape == (20, 1, 16, 16) and whole.min() >= 0
    assert torch.allclose(in_batches(function, model, x[:20], batch=7), whole)
    labels = (model(x[:20]).argmax(1) + 1) % 4
    others = function(model, x[:20], labels)
    assert torch.allclose(in_batches(function, model, x[:20], labels, batch=7), others)
    assert torch.equal(x, before) and not x.requires_grad and not model.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), state, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_no_hook_stays_behind(trained, mapped):
    model, x, _ = trained
    no_such_class = torch.tensor([0, 99])
    for broken in (
        lambda: grad_cam(model, x[:2], no_such_class),
        lambda: scales(model, x[:, :, :3, :3]),
        lambda: mapped(torch.rand(1, 1, 3, 3)),
        lambda: mapped(x[:2], no_such_class),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            broken()
        assert all(not m._forward_hooks for m in model.modules())
    with pytest.raises(InputError, match="no layer whose output is a picture"):
        scales(TwoLayers().eval(), x[:1, :, :2, :2].double())
    with pytest.raises(InputError, match="the classifier that it was made for"):
        mapped.map_of(TwoLayers().eval(), x[:1])


def test_normalised():
    maps = torch.stack([torch.zeros(1, 2, 2), torch.tensor([[[0.0, 2.0], [4.0, 1.0]]])])
    black, other = normalised(maps)
    assert torch.equal(other[0], torch.tensor([[0.0, 0.5], [1.0, 0.25]])) and not black.any()


def test_scales_are_the_last_layers_of_each_size(trained):
    model, x, _ = trained
    found = [(name, tuple(shape[1:])) for name, shape, _ in scales(model, x[:1])]
    assert found == [("body.relu1", (16, 8, 8)), ("body.relu2", (32, 4, 4))]


class Reused(nn.Module):
    """One pool and one relu, used again and again, the relu behind a dense layer too; in-place;
    ends in a pool within a container.
    """

    def __init__(self):
        super().__init__()
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.c = nn.Sequential(nn.Conv2d(8, 5, 3, padding=1), nn.MaxPool2d(2), nn.Dropout2d())
        self.d, self.e = nn.Linear(20, 9), nn.Linear(9, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.b(self.pool(self.relu(self.a(x))))))
        return self.e(self.relu(self.d(self.c(x).flatten(1))))


def test_modules_that_are_used_again_and_containers_that_end_in_a_pool():
    model, x = Reused().eval(), torch.rand(4, 1, 16, 16)
    made = SaliencyModel(model, x[:1]).eval()
    assert made(x).shape == (4, 1, 16, 16)
    found = scales(model, x, every=True)
    names = [name for name, _, module in found if isinstance(module, nn.Conv2d)]
    assert names[-1] == "c.0"
    assert torch.equal(grad_cam(model, x), grad_cam(model, x, layer="c.0"))
    fit(made, x, SaliencyTraining(1, gate_epochs=1))
    assert all(p.grad is None for p in model.parameters())  # though they ask for gradients
    with pytest.raises(InputError, match="train mode"):
        scales(model.train(), x)
    only_a_pool = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)).eval()
    with pytest.raises(InputError, match="no layer for Grad-CAM"):
        grad_cam(only_a_pool, x)


@pytest.mark.parametrize(
    "shape, resolution",
    [((3, 32, 32), 32), ((1, 28, 28), 28), ((3, 112, 112), 28), ((3, 45, 60), 60)],
)
def test_maps_have_the_images_size_whatever_it_is(shape, resolution):
    model = build_network("cifar_net", shape, 3, width=0.125)
    made, x = SaliencyModel(model, torch.rand(1, *shape)).eval(), torch.rand(2, *shape)
    found = made(x)
    assert found.shape == (2, 1, *shape[1:]) and 0 <= found.min() and found.max() <= 1
    assert max(t.shape[3] for t in made.features(x)[0]) == resolution


def test_losses_by_hand():
    shown, hidden = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, -1.0]])
    mask, label, yes = torch.full((1, 1, 2, 2), 0.25), torch.tensor([0]), torch.tensor([True])
    p, q = (z.softmax(1)[0, 0] for z in (shown, hidden))
    found = loss_000(shown, hidden, mask, label, yes, area=3, destroyer=5, power=0.3)
    assert found.item() == pytest.approx((0.75 - p.log() + 5 * q**0.3).item())
    area = 8 * (0.25 + 5e-4) ** 0.3
    real = loss_hinge(shown, hidden, mask, label, yes)  # margins 2 and -1
    assert real.item() == pytest.approx(area + 0.3 * 0 + 4, rel=1e-6)
    false = loss_hinge(shown, hidden, mask, label, ~yes)
    assert false.item() == pytest.approx(area + 0.3 * 3 + 2, rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_shows_and_takes_away(channels):
    x = torch.rand(64, channels, 12, 12)
    ones = torch.ones(64, 1, 12, 12)

    def parted(mask):
        return masked(x, mask, torch.Generator().manual_seed(0))

    shown, hidden = parted(ones)
    ground, image = parted(0 * ones)
    assert torch.equal(shown, image) and torch.equal(hidden, ground)
    assert (shown - x).abs().mean() < 0.02 and (ground - x).abs().mean() > 0.1
    half = torch.zeros_like(ones)
    half[:, :, :6] = 1
    shown, _ = parted(half)
    assert torch.equal(shown[:, :, :6], image[:, :, :6])
    assert torch.equal(shown[:, :, 6:], ground[:, :, 6:])


def test_stand_ins_have_the_maps_area():
    maps = torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    made, area = uninformed(maps), maps.mean((1, 2, 3))
    for name, mask in made.items():
        assert mask.shape == maps.shape
        want = area.roll(1) if name == "other" else area
        assert torch.allclose(mask.mean((1, 2, 3)), want, atol=0.01), name
    values, own = (part[0].flatten().sort().values for part in (made["shuffled"], maps))
    assert torch.equal(values, own)


def test_the_learned_map_finds_what_decides(trained, mapped):
    """The class is one bright square in four places: the map covers it and little else, and its
    loss nears that of a mask made for each image.
    """
    model, x, y = trained
    maps = mapped(x[:100])
    inside = torch.zeros(100, 16, 16, dtype=torch.bool)
    for square, place in zip(inside, y[:100].tolist(), strict=True):
        row, column = 2 + 7 * (place // 2), 2 + 7 * (place % 2)
        square[row : row + 5, column : column + 5] = True
    assert maps[:, 0][inside].mean() > 2 * maps[:, 0][~inside].mean()
    labels, yes = model(x[:100]).argmax(1), torch.ones(100, dtype=torch.bool)

    def loss(mask):
        both = torch.cat(masked(x[:100], mask, torch.Generator().manual_seed(5)))
        shown, hidden = model(both).chunk(2)
        return loss_000(shown, hidden, mask, labels, yes).mean()

    free = maps.detach().clamp(0.02, 0.98).logit().requires_grad_()
    optimizer = torch.optim.Adam([free], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(free.sigmoid()).backward()
        optimizer.step()
    best = loss(free.sigmoid()).item()
    constant = min(loss(torch.full_like(free, v)).item() for v in (0.0, 0.1, 0.3, 0.5, 0.7, 1.0))
    assert best < loss(maps).item() < best + 0.5 * (constant - best)


def test_a_learned_model_repeats_itself_and_asks_the_classifier_once(trained):
    model, x, _ = trained
    made = [SaliencyModel(model, x[:1], seed=3) for _ in range(2)]
    records = [fit(m, x[:100], SaliencyTraining(2, gate_epochs=1), seed=3) for m in made]
    assert records[0] == records[1] and torch.equal(made[0](x[:5]), made[1](x[:5]))
    counted = Counted(model)
    spd = build_detector("spd", counted, SaliencyModel(counted, x[:1]).eval())
    spd.fit(x[:20], x[20:40], torch.arange(20), Recipe("digits_net", Training(1)))
    counted.forwards = 0
    scores(spd, x[:30])
    assert counted.forwards == 30
    with pytest.raises(InputError, match="loss='other' is unknown"):
        fit(made[0], x, SaliencyTraining(1, loss="other"))


def better_than_nothing(model, x, maps):
    """By how much a map's preserved and destroyed shares beat those of a centred disc and of
    another image's map.
    """
    own, nothing = quality(model, x, maps), uninformed(maps)
    others = [quality(model, x, nothing[name]) for name in ("centred", "other")]
    kept = min(own["preserved"] - other["preserved"] for other in others)
    return kept, min(other["destroyed"] - own["destroyed"] for other in others)


def test_on_digits_it_beats_masks_that_say_nothing_and_differs_between_classes(tmp_path):
    run = configure(tmp_path, "03_saliency", PRESET="quick")
    model, x = steps.classifier(run).model, run.data.test.pixels()
    maps = steps.maps(run, "learned", x)
    kept, destroyed = better_than_nothing(model, x, maps)
    assert kept > 0.1 and destroyed > 0.1
    record = steps.learned_saliency(run).record
    assert record["preserved"] > 0.85 and record["destroyed"] < 0.2
    assert 0.1 < record["area"] < 0.35
    other = steps.maps(run, "learned", x, (model(x).argmax(1) + 1) % 10)
    assert (other - maps).abs().mean() > 0.05
    one_grey = torch.full_like(maps, maps.mean())
    own_grey = maps.mean((2, 3), keepdim=True).expand_as(maps)
    for constant in (one_grey, own_grey, maps[:1].expand_as(maps)):
        kept, destroyed = better_than_nothing(model, x, constant)
        assert not (kept > 0.1 and destroyed > 0.1)
    with pytest.raises(InputError, match="Saliency 'guided' is unknown"):
        steps.maps(run, "guided", x)
