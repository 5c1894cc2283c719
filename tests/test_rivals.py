"""Mahalanobis distances and TWS: against scikit-learn, the authors' formulas and closed forms; what
they cost; the same for an image alone and in company.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from torch import nn
from torch.nn.functional import relu

from nbutils import InputError
from nbutils.attacks import cost
from nbutils.attacks.cost import Counted
from nbutils.detectors import mahalanobis
from nbutils.detectors.base import scores
from nbutils.detectors.building import build as build_detector
from nbutils.detectors.mahalanobis import (
    MAGNITUDES,
    ClassGaussians,
    Mahalanobis,
    UnsupervisedMahalanobis,
    class_gaussians,
)
from nbutils.detectors.tws import COLOUR, WANTED, Search, Tws, steps_to_leave
from nbutils.evaluation.leaks import batch_composition
from nbutils.models import ARCHITECTURES
from nbutils.models.building import build as build_network
from nbutils.models.taps import pooled, stages
from nbutils.steps import classifier, detector, evaluation
from nbutils.steps.rivals import QUICK_CAP, search_of
from tests.conftest import NearestMean, configure

# -- distances --------------------------------------------------------------------------------


def planted(n=3000, classes=3, seed=0):
    """Features (n,4) of classes about means of their own, with one covariance; their labels."""
    rng = np.random.default_rng(seed)
    root = np.array([[1, 0, 0, 0], [0.5, 2, 0, 0], [0, 0, 0.1, 0], [1, 1, 0, 0.5]])
    means = 3 * rng.standard_normal((classes, 4))
    y = rng.integers(classes, size=n)
    x = means[y] + rng.standard_normal((n, 4)) @ root.T
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(means), root @ root.T


def test_distances_are_scikit_learns_on_planted_gaussians():
    x, y, means, covariance = planted()
    found = class_gaussians(x, y)
    assert torch.allclose(found.means, means, atol=0.2)
    assert np.allclose(np.linalg.inv(found.precision.numpy()), covariance, atol=0.3)
    own = torch.stack([x[y == kind].mean(0) for kind in range(3)])
    model = EmpiricalCovariance().fit((x - own[y]).numpy())
    new = 4 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    want = np.min([model.mahalanobis((new - mean).numpy()) for mean in own], 0) / 2
    assert np.allclose(found(new).numpy(), want, rtol=1e-6)
    # of all images of the classes the distance is chi-square with 4 degrees of freedom, halved
    to_own = torch.from_numpy(model.mahalanobis((x - own[y]).numpy()))
    assert to_own.mean().item() == pytest.approx(4, abs=0.01)


def test_classes_that_are_not_there_and_features_that_say_nothing():
    x, y, _, _ = planted()
    few = class_gaussians(x[y != 1], 7 * y[y != 1])
    assert few.means.shape == (2, 4)
    # a constant and a repeated feature: the covariance has no inverse, the pseudo-inverse is taken
    more = torch.cat([x, torch.full((len(x), 1), 0.3).double(), x[:, :1]], 1)
    one, other = class_gaussians(x, y), class_gaussians(more, y)
    assert torch.allclose(one(x), other(more), rtol=1e-4)


def authors(model, layers, statistics, x, magnitude):
    """Lee et al.'s score of each layer (lib_generation.py), one layer at a time: (n,l)."""
    out = []
    for layer, (means, precision) in zip(layers, statistics, strict=True):

        def score(f, means=means, precision=precision):
            apart = f[:, None] - means
            return -0.5 * torch.einsum("ncd,de,nce->nc", apart, precision, apart)

        z = x.clone().requires_grad_()
        gaussian = score(pooled(model, z, [layer])[0])
        (-gaussian.amax(1)).mean().backward()
        moved = z.detach() - magnitude * z.grad.sign()
        out.append(score(pooled(model, moved, [layer])[0]).amax(1).detach())
    return torch.stack(out, 1)


def test_distances_are_the_authors_at_every_magnitude(net, images):
    y = torch.arange(12) % 4
    made = Mahalanobis(net)
    made.learn(images, y)
    statistics = [(layer.means, layer.precision) for layer in made.gaussians]
    assert len(made.layers) == 2
    before = images.clone()
    found = made.distances(images, MAGNITUDES)
    for k, distances in zip(MAGNITUDES, found, strict=True):
        want = -authors(net, made.layers, statistics, images, k)
        assert torch.allclose(distances, want, rtol=1e-6), k
    # what is moved comes nearer to its class
    assert (found[1] < found[0]).double().mean() > 0.9
    assert torch.equal(images, before) and not images.requires_grad
    assert not any(module._forward_hooks for module in net.modules())


def test_a_score_is_derived_to_the_image_also_where_it_is_moved(net, images):
    made = Mahalanobis(net)
    made.learn(images, torch.arange(12) % 4)
    made.weight, made.bias = torch.ones(2).double(), torch.zeros(()).double()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()
    for magnitude in (0.0, 0.001):
        made.magnitude = magnitude
        z = images.clone().requires_grad_()
        slope = torch.autograd.grad(made.score(z).sum(), z)[0]
        step = 1e-7
        ahead, behind = (made.score(images + s * step * direction) for s in (1, -1))
        want = (ahead - behind) / (2 * step)
        got = (slope * direction).flatten(1).sum(1)
        assert torch.allclose(got, want, rtol=1e-2, atol=1e-3 * want.abs().max().item())


def test_one_forward_pass_serves_all_layers_and_none_goes_further_than_it_must():
    model, x = build_network("cifar_net", (3, 32, 32), 10), torch.rand(6, 3, 32, 32)
    made, calls = Mahalanobis(model), {}
    made.learn(x, torch.arange(6) % 2)
    for name, module in model.body.named_modules():
        module.register_forward_hook(
            lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1})
        )
    made.distances(x, MAGNITUDES)
    moved = len(MAGNITUDES) - 1
    assert len(made.layers) == 5
    assert calls["conv1_1"] == 1 + 5 * moved  # once for all, and once a layer and magnitude
    assert calls["conv2_1"] == 1 + 4 * moved  # but not where the first layer suffices
    assert calls["fc1"] == 1 + moved
    assert "out" not in calls  # the logits are nobody's layer


class Plain(nn.Module):
    """A user's own: functions in place of modules, one activation for two layers, two classes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, 2), nn.Linear(6, 2)
        self.act = nn.ReLU(inplace=True)
        self.eval()

    def forward(self, x):
        x = self.act(self.b(self.act(self.a(x))))
        return self.c(relu(x).mean((2, 3)))


STAGES = {
    "vgg11": ["relu1_1", "relu2_1", "relu3_2", "relu4_2", "relu5_2"],
    "cifar_net": ["relu1_2", "relu2_2", "relu3_2", "pool3", "drop"],
    "resnet20": ["layer1", "layer2", "layer3"],
    "digits_net": ["relu1", "relu2", "relu3"],
    "mnist_net": ["relu1", "relu2", "relu4", "relu5", "relu6"],
}


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_of_a_network(name):
    model = build_network(name, (3, 32, 32), 10)
    assert [
        layer.removeprefix("body.") for layer, _ in stages(model, torch.rand(1, 3, 32, 32))
    ] == (STAGES[name])


def test_any_model_has_layers():
    x = torch.rand(2, 3, 12, 12)
    plain = Plain()
    assert stages(plain, x) == [("a", 1), ("act", 2)]
    first, second = pooled(plain, x, [("a", 1), ("act", 2)])
    assert first.shape == (2, 4) and torch.allclose(plain.c(second), plain(x))
    shared = nn.Sequential(nn.Flatten(), nn.Linear(432, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh())
    model = nn.Sequential(shared, nn.Linear(9, 2)).eval()
    assert [name for name, _ in stages(model, x)] == ["0.2", "0"]
    assert stages(NearestMean(), torch.rand(1, 1, 28, 28)) == [("", 1)]
    with pytest.raises(InputError, match="train mode"):
        stages(Plain().train(), x)
    for architecture in ("zhang_net", "assira_net", "metzen_branch"):
        assert architecture in ARCHITECTURES
        model = build_network(architecture, (3, 32, 32), 2)
        assert 3 <= len(stages(model, torch.rand(1, 3, 32, 32))) <= 5


def test_no_hook_stays_behind_when_the_model_fails():
    plain = Plain()
    with pytest.raises(RuntimeError):
        pooled(plain, torch.rand(2, 1, 12, 12), [("act", 2)])
    assert not any(module._forward_hooks for module in plain.modules())


def with_grids(*grids, n=60, misread=None, seed=0, noisy=False):
    """A detector fitted on planted distances (m,n,l), of images that are read by their brightness;
    the record.
    """

    class Bright(nn.Module):
        def forward(self, x):
            mean = x.flatten(1).mean(1)
            return torch.stack([mean, 1 - mean], 1)

    clean = torch.full((n, 1, 4, 4), 0.8)
    attacked = clean.clone()
    attacked[: n if misread is None else misread] = 0.2
    made = Mahalanobis(
        Bright().eval(), layers=[("", 1)], magnitudes=[0.0, 0.1, 0.2][: len(grids[0])]
    )
    made.gaussians = nn.ModuleList(
        [ClassGaussians(torch.zeros(1, 2).double(), torch.eye(2).double())]
    )
    more = {"noisy": clean} if noisy else {}
    record = made.fit(clean, attacked, torch.arange(n), measured=list(grids), seed=seed, **more)
    return made, record


def test_the_magnitude_is_the_one_that_tells_held_back_sources():
    generator = torch.Generator().manual_seed(0)
    clean, attacked = (torch.randn(3, 60, 2, generator=generator).double() for _ in range(2))
    attacked[1] += 4
    made, record = with_grids(clean, attacked)
    assert record["magnitude"] == made.magnitude == 0.1
    assert record["held_auroc"][1] > 0.95 > 0.8 > record["held_auroc"][0]
    made, record = with_grids(clean[:1], attacked[:1])
    assert record["magnitude"] == 0.0 and record["held_auroc"] == []


def test_sources_are_held_back_with_all_that_was_made_of_them(monkeypatch):
    """Each source has a number of its own in its distances; were its other image among those that
    are fitted, a regression on the numbers would know the side.
    """
    seen = []

    real = mahalanobis.logistic

    def noted(distances, y):
        seen.append((distances[:, 0], y))
        return real(distances, y)

    number = torch.arange(60).double()[None, :, None].repeat(2, 1, 2)
    monkeypatch.setattr(mahalanobis, "logistic", noted)
    with_grids(number, number + 0.0)
    fitted, y = seen[0]
    both = [set(fitted[y == side]) for side in (0, 1)]
    assert both[0] == both[1] and len(both[0]) == 48 and len(seen[-1][1]) == 120


def test_images_that_fooled_nobody_do_not_count_and_noise_does():
    generator = torch.Generator().manual_seed(1)
    clean, attacked, noise = (torch.randn(1, 60, 2, generator=generator).double() for _ in range(3))
    attacked += torch.tensor([5.0, 2.5])  # both distances grow under attack,
    noise[..., 0] += 5  # the first alone under noise
    counts = ("n_clean", "n_adversarial", "n_noisy")
    made, record = with_grids(clean, attacked, misread=20)
    assert [record[name] for name in counts] == [60, 20, 0]
    assert (made.combined(noise[0]) > 0).double().mean() > 0.6
    made, record = with_grids(clean, attacked, noise, noisy=True)
    assert [record[name] for name in counts] == [60, 60, 60]
    assert (made.combined(noise[0]) > 0).double().mean() < 0.3
    assert with_grids(clean, attacked, misread=0)[1]["n_adversarial"] == 60  # or nothing is left


def test_both_sides_weigh_alike_however_few_are_attacked():
    generator = torch.Generator().manual_seed(2)
    clean, attacked = (torch.randn(1, 400, 2, generator=generator).double() for _ in range(2))
    attacked += 1
    made, record = with_grids(clean, attacked, n=400, misread=40)
    assert record["n_adversarial"] == 40
    flagged = [(made.combined(part[0]) > 0).double().mean().item() for part in (clean, attacked)]
    assert 0.65 < flagged[1] < 0.95 and abs(flagged[1] - (1 - flagged[0])) < 0.12


@pytest.mark.parametrize(("reading", "want"), [("sum", 2.0), ("max", 3.0)])
def test_without_a_regression_each_layer_counts_by_its_spread(net, images, reading, want):
    made = UnsupervisedMahalanobis(net, reading=reading)
    record = made.fit(images, torch.arange(12) % 4)
    found = made.distances(images)[0]
    three_up_one_down = found.mean(0) + found.std(0) * torch.tensor([3.0, -1.0])
    assert made.combined(three_up_one_down[None]).item() == pytest.approx(want)
    assert record["n"] == 12 and made.magnitude == 0
    with pytest.raises(InputError, match="reading 'mean' is unknown: choose sum or max"):
        UnsupervisedMahalanobis(net, reading="mean")


# -- steps to another label -------------------------------------------------------------------


class Line(nn.Module):
    """Logits (s . x, 0) less their value on the grey image: s of the same size in all values."""

    def __init__(self, size=1e4, m=48):
        super().__init__()
        self.s = nn.Parameter(torch.full((m,), size / m**0.5, dtype=torch.float64))
        self.eval()

    def forward(self, x):
        z = (x - 0.5).flatten(1) @ self.s
        return torch.stack([z, torch.zeros_like(z)], 1)


def at(*leads, model):
    """Images (n,3,4,4) whose first logit leads by this much."""
    z = torch.tensor(leads, dtype=torch.float64)
    return (0.5 + z[:, None] * model.s.detach() / model.s.detach().square().sum()).view(-1, 3, 4, 4)


def counted(model, x, rate, *, radius=1.0, cap=200.0, aim=None):
    n = len(x)
    label = model(x).argmax(1)
    knobs = (torch.full((n,), v, dtype=torch.float64) for v in (rate, radius, cap))
    return steps_to_leave(model, x, label, 1 - label if aim is None else aim, *knobs).tolist()


def test_steps_on_a_linear_model_in_closed_form():
    """Towards the other class of two, where the first is sure, a step takes rate ||s||^2 off the
    lead.
    """
    model = Line()
    rate = 30 / model.s.square().sum().item()
    found = counted(model, at(1000.0, 95.0, 20.0, -70.0, model=model), rate)
    assert found == pytest.approx([1000 / 30, 95 / 30, 20 / 30, 70 / 30], abs=2e-3)
    # away from the own class, at a lead l a step takes 1 / (1 + e^l) of that: here step by step
    lead, steps = 2.0, []
    while lead > 0:
        steps.append(lead)
        lead -= 0.5 / (1 + np.exp(lead))
    want = len(steps) - 1 + steps[-1] / (steps[-1] - lead)
    x, own = at(2.0, model=model), torch.tensor([0])
    away = counted(model, x, -0.5 / model.s.square().sum().item(), aim=own)
    assert away == pytest.approx([want], abs=1e-9) and len(steps) > 5


def test_what_does_not_leave_counts_the_cap_and_its_lead():
    model = Line()
    rate = 30 / model.s.square().sum().item()
    far = at(1000.0, 400.0, model=model)
    assert counted(model, far, rate, cap=10.0)[0] == pytest.approx(10 + 700 / 701)
    # in a ball that is too small: lead less radius times the sum of all |s|
    radius = 0.01
    left = 1000 - radius * model.s.abs().sum().item()
    assert left > 0
    found = counted(model, far, rate, radius=radius)
    assert found[0] == pytest.approx(200 + left / (1 + left)) and found[1] == pytest.approx(
        400 / 30, abs=0.01
    )


def test_no_search_leaves_the_box_or_its_ball(net, images):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return net(x)

    search = Search(targeted=50.0, untargeted=50.0, radius=0.05, cap=8, cap_untargeted=8)
    search = replace(search, radius_untargeted=2.0)
    Tws(Spy().eval(), criteria=("targeted",), search=search).view(images)
    assert all(0 <= x.min() and x.max() <= 1 for x in seen)
    whole = [x for x in seen if len(x) == 12]
    assert max((x - images).abs().max() for x in whole).item() == pytest.approx(0.05)
    seen.clear()
    Tws(Spy().eval(), criteria=("untargeted",), search=search).view(images)
    assert all(0 <= x.min() and x.max() <= 1 for x in seen)
    assert any((x == 1).any() for x in seen[1:])


def test_an_image_at_a_border_counts_no_step():
    assert counted(Line(), at(0.0, model=Line()), 1.0) == [0.0]


SHORT = replace(COLOUR, targeted=0.02, untargeted=0.2, cap=60, cap_untargeted=80)


def test_an_image_is_judged_the_same_alone_and_in_company(net, images):
    made = Tws(net, search=SHORT)
    together = made.view(images)
    assert 0.1 < (together[:, 1] < 60).double().mean() and len(together.unique()) > 30
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([made.view(images[i : i + 1]) for i in range(12)])
    for other in (alone, made.view(images[order])[order.argsort()], made.view(images)):
        assert torch.allclose(together, other, rtol=1e-9)
    made.fit(images, tune=False)
    moved = (
        images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)
    batch_composition(made, images, moved)
    assert torch.is_grad_enabled() and all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        assert torch.allclose(made.view(images), together)


def test_finished_images_leave_and_others_take_their_place(smoke):
    base = classifier(smoke)
    x = smoke.data.test[:48].pixels()
    sizes, counts = [], {}

    class Noted(Counted):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    for batch in (48, 1):
        model = Noted(base.model)
        made = Tws(model, search=replace(Search(), cap=60, cap_untargeted=60, untargeted=8.0))
        sizes.clear()
        found = torch.cat([made.view(part) for part in x.split(batch)])
        counts[batch] = (model.forwards, model.backwards)
        if batch == 48:
            seen = list(sizes)
    # alone: the image, it with noise, and of each search its steps, with one more forward pass
    steps = torch.where(found[:, 1:] >= 60, 60, found[:, 1:].ceil())
    assert counts[1] == (2 * 48 + int((steps + 1).sum()), int(steps.sum()))
    assert 30 < steps.mean() < 58 and steps.min() < 15
    assert cost.pass_excess(counts[48], counts[1]) < 1.05
    # two searches an image, never more than 48 at once; who is done makes room for who waits
    waiting, running, want = [*steps.T.flip(0).flatten().tolist()], [], []
    while waiting or running:
        room = 48 - len(running)
        running, waiting = running + waiting[:room], waiting[room:]
        want.append(len(running))
        running = [left - 1 for left in running if left > 0]
    again = iter(seen[2:])  # where most are done at once the others are read once more
    assert all(size in again for size in want) and len(seen) - 2 <= len(want) + 6


def test_the_label_that_is_aimed_at_is_another_and_the_images_own():
    made = Tws(Plain(), search=COLOUR)
    x = torch.rand(4000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.arange(4000) % 10
    aim = made._aim(x, label, 10)
    assert (aim != label).all() and 0 <= aim.min() and aim.max() == 9
    shares = torch.bincount((aim - label) % 10, minlength=10)[1:] / 4000
    assert (shares - 1 / 9).abs().max() < 0.025
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(made._aim(x[order], label[order], 10), aim[order])
    assert torch.equal(made._aim(x.double(), label, 10), aim)
    other = Tws(Plain(), search=replace(COLOUR, seed=1))._aim(x, label, 10)
    assert 0.05 < (other == aim).float().mean() < 0.2
    assert torch.equal(made._aim(x, label % 2, 2), 1 - label % 2)


def test_noise_moves_what_a_sure_classifier_says_too():
    class Sure(nn.Module):
        def forward(self, x):
            mean = x.flatten(1).mean(1)
            return torch.stack([40 + 10 * mean, torch.zeros_like(mean)], 1)

    made = Tws(Sure().eval(), criteria=("noise",))
    x = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 1, 6, 6)
    p = [torch.softmax(Sure()(images).double(), 1) for images in (x, x + noise_of(made, x))]
    want = (2 * (p[0][:, 1] - p[1][:, 1]).abs()).log()
    assert torch.allclose(made.view(x)[:, 0], want) and want[0] > want[1] + 5
    assert want[1].exp() < 1e-17


def noise_of(made, x):
    drawn = np.random.default_rng([made.search.seed, 13]).standard_normal(x.shape[1:])
    return made.search.sigma * torch.from_numpy(drawn).to(x)


def test_ranks_by_hand():
    made = Tws(Plain(), criteria=("noise", "targeted"))
    made.reference = torch.tensor([[-8.0, 10.0], [-4.0, 10.0], [-2.0, 40.0]]).double()
    ranks = made.ranks(
        torch.tensor([[-6.0, 25.0], [-4.0, 10.0], [-2.0, 201.0], [9.0, 0.0]]).double()
    )
    assert ranks[:, 0].tolist() == pytest.approx([0.375, 0.5, 0.75, 1.0])
    assert ranks[:, 1].tolist() == pytest.approx([0.625, 0.5, 1.0, 0.0])
    score = made.score(None, torch.tensor([[-4.0, 30.0], [-4.0, 35.0], [-6.0, 30.0]]).double())
    assert score[1] > score[0] > score[2]  # the largest first; of equal ones the other decides
    assert score.tolist() == pytest.approx([2 / 3, 0.7083, 2 / 3], abs=1e-3)
    with pytest.raises(InputError, match="not fitted yet"):
        Tws(Plain()).score(torch.rand(2, 3, 12, 12))
    with pytest.raises(
        InputError, match="Criterion 'jpeg' is unknown: choose among noise, targeted"
    ):
        Tws(Plain(), criteria=("jpeg",))
    with pytest.raises(InputError, match="there are none"):
        Tws(Plain()).fit(torch.rand(0, 3, 12, 12))


@pytest.mark.parametrize("start", [1e-5, 0.005, 5.0])
def test_step_sizes_suit_the_clean_images(smoke, start):
    base = classifier(smoke)
    x = smoke.data.calibrate[:64].pixels()
    made = Tws(base.model, criteria=("targeted",), search=Search(targeted=start))
    record = made.fit(x)
    low, high = WANTED
    assert low <= record["median_targeted"] <= high
    again = Tws(base.model, criteria=("targeted",), search=made.search)
    assert again.fit(x)["search"] == record["search"]  # what suits stays


# -- in the corridor --------------------------------------------------------------------------


def kept(run, name):
    """The artifacts of a detector."""
    return sorted(path.parent.name for path in run.folder.glob(f"detector/{name}*/meta.json"))


@pytest.mark.parametrize("name", ["tws", "mahalanobis", "mahalanobis_sum"])
def test_a_rival_is_fitted_kept_and_measured(smoke, name):
    made, record = detector(smoke, name, "fgsm")
    if name != "tws":
        assert len(record["layers"]) == 3
    else:
        assert record["n"] == 100 and made.search.cap_untargeted == QUICK_CAP
        assert search_of(smoke).sigma == 0.1 and made.search.seed == smoke.seed
    found = evaluation(smoke, name, "fgsm", "fgsm").record
    assert 0 <= found["all"]["auroc"] <= 1 and found["collapsed"] == 0
    assert found["all"]["auroc"] > 0.8 or name == "tws"
    artifacts = kept(smoke, name)
    detector(smoke, name, "bim")
    later = kept(smoke, name)
    if name == "mahalanobis":
        assert len(later) == len(artifacts) + 1
    else:  # no attack is seen
        assert later == artifacts and "fgsm" not in " ".join(later)
    x = smoke.data.test[:20].pixels()
    again, _ = detector(configure(smoke.folder.parent), name, "fgsm")
    assert torch.equal(scores(made, x), scores(again, x))
    with pytest.raises(InputError, match="is no network"):
        detector(smoke, name, "fgsm", variant={"epochs": 3})


@pytest.mark.parametrize("name", ["tws", "mahalanobis", "mahalanobis_max"])
def test_a_users_own_model_of_two_classes_in_colour(name):
    x = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    made = build_detector(name, Plain())
    if name == "mahalanobis":
        made.fit(x, (x + 0.2).clamp(0, 1), torch.arange(40))
    else:
        made.fit(x)
    score = scores(made, x)
    assert score.shape == (40,) and len(score.unique()) > 30
