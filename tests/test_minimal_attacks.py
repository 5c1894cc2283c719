"""C&W, DeepFool, DDN, JSMA, MIM, iterative l2: against closed forms, brute force, and what an
attack must never do.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from nbutils import InputError
from nbutils.attacks import ATTACKS, cost
from nbutils.attacks.carlini_wagner import carlini_wagner_l2
from nbutils.attacks.cost import Counted
from nbutils.attacks.ddn import ddn
from nbutils.attacks.deepfool import deepfool
from nbutils.attacks.gradient import bim, iterative_l2, mim
from nbutils.attacks.jsma import _hardly_dominated, _two_largest, best_pairs, jsma
from nbutils.models.building import build
from nbutils.models.normalised import Normalised
from tests.conftest import Linear

KNOBS = {
    "fgsm": {"eps": 0.1},
    "bim": {"eps": 0.1, "step": 0.02, "steps": 4},
    "mim": {"eps": 0.1, "step": 0.02, "steps": 4},
    "pgd": {"eps": 0.1, "step": 0.02, "steps": 4},
    "iterative_l2": {"eps": 1.0, "step": 0.2, "steps": 4},
    "carlini_wagner_l2": {"search_steps": 3, "steps": 15, "lr": 0.05, "const": 0.1},
    "deepfool": {"steps": 20},
    "jsma": {"gamma": 0.3},
    "ddn": {"steps": 15},
}
MINIMAL = {
    "deepfool": ({"steps": 50}, 1.02),
    "carlini_wagner_l2": ({"search_steps": 9, "steps": 1000}, 1.05),
    "ddn": ({"steps": 1000, "levels": 0}, 1.05),
}


@pytest.mark.parametrize("name", MINIMAL)
def test_minimal_attacks_reach_the_closed_form_optimum_on_a_linear_model(name, linear, interior):
    knobs, factor = MINIMAL[name]
    y = linear(interior).argmax(1)
    optimum = linear(interior)[:, 0].abs() / linear.w.norm()
    x_adv = ATTACKS[name](linear, interior, y, **knobs)
    ratio = (x_adv - interior).flatten(1).norm(dim=1) / optimum
    assert (linear(x_adv).argmax(1) != y).all(), ratio
    assert ratio.min() > 1 - 1e-9 and ratio.max() <= factor + 1e-6, ratio


@pytest.mark.parametrize("name", KNOBS)
def test_batches_of_any_size_give_the_same(name, net, images):
    y, index = net(images).argmax(1), torch.arange(12) + 100
    attack = ATTACKS[name]
    whole = attack(net, images, y, index=index, seed=3, **KNOBS[name])
    for size in (1, 5):
        batches = zip(images.split(size), y.split(size), index.split(size), strict=True)
        parts = [attack(net, *part, index=i, seed=3, **KNOBS[name]) for *part, i in batches]
        assert torch.allclose(torch.cat(parts), whole, atol=1e-9)
    assert whole.min() >= 0 and whole.max() <= 1 and not whole.requires_grad


@pytest.mark.parametrize("name", KNOBS)
def test_nothing_handed_in_is_changed_also_after_an_exception(name, net, images):
    x, y = images.clone(), net(images).argmax(1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    flags = [p.requires_grad for p in net.parameters()]

    def boom(*_):
        raise RuntimeError("boom")

    ATTACKS[name](net, x, y, **KNOBS[name])
    handle = net.register_forward_hook(boom)
    with pytest.raises(RuntimeError, match="boom"):
        ATTACKS[name](net, x, y, **KNOBS[name])
    handle.remove()
    assert torch.equal(x, images) and not x.requires_grad and x.grad is None
    assert torch.is_grad_enabled() and not net.training
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", ["pgd", "carlini_wagner_l2", "ddn", "jsma"])
def test_targets_are_reached(name, net, images):
    y = net(images).argmax(1)
    target = (y + 1) % 4
    knobs = {
        "pgd": {"eps": 0.5, "step": 0.1, "steps": 30},
        "carlini_wagner_l2": {"search_steps": 5, "steps": 100, "lr": 0.05, "const": 0.1},
        "ddn": {"steps": 100},
        "jsma": {"gamma": 1.0},
    }[name]
    x_adv = ATTACKS[name](net, images, y, target=target, **knobs)
    assert (net(x_adv).argmax(1) == target).float().mean() >= 0.9
    assert (net(images).argmax(1) != target).all()


def test_the_winner_of_a_search_does_not_depend_on_the_batch_and_c_is_searched_image_by_image(
    net, images
):
    """An image with tiny logits beside one with large ones: a search shared by the batch would give
    one of them the other's constant.
    """
    y = net(images).argmax(1)
    x_adv = carlini_wagner_l2(net, images, y, search_steps=9, steps=200, lr=0.01)
    deep = deepfool(net, images, y)
    assert (net(x_adv).argmax(1) != y).all() and (net(deep).argmax(1) != y).all()
    size, reference = ((z - images).flatten(1).norm(dim=1) for z in (x_adv, deep))
    assert (size <= 1.05 * reference).all()


def test_the_abort_costs_nothing_in_short_rounds_and_saves_passes_in_long_ones(net, images):
    y = net(images).argmax(1)
    short = {"search_steps": 3, "steps": 60, "lr": 0.1, "const": 1.0}  # the notebooks'
    made = [carlini_wagner_l2(net, images, y, **short, abort=abort) for abort in (True, False)]
    assert torch.equal(*made)
    long = {"search_steps": 3, "steps": 500, "lr": 0.1, "const": 1.0}
    kept, used = {}, {}
    for abort in (True, False):
        kept[abort] = (carlini_wagner_l2(net, images, y, **long, abort=abort) - images).flatten(1)
        used[abort] = cost.passes(carlini_wagner_l2, net, images, y, **long, abort=abort)[0]
    assert used[True] < 0.8 * used[False]
    assert (kept[True].norm(dim=1) <= 1.005 * kept[False].norm(dim=1)).all()


def test_a_warm_start_leads_further_in_short_searches(net, images):
    y = net(images).argmax(1)
    short = {"search_steps": 3, "steps": 30, "lr": 0.02, "const": 1.0}
    cold, warm = (
        carlini_wagner_l2(net, images, y, **short, warm_start=warm) for warm in (False, True)
    )
    assert (net(warm).argmax(1) != y).all() and (net(cold).argmax(1) != y).all()
    sizes = [(made - images).flatten(1).norm(dim=1) for made in (cold, warm)]
    assert sizes[1].mean() < 0.99 * sizes[0].mean()


def test_confidence_is_the_lead_and_failures_come_back_unchanged(net, images):
    y = net(images).argmax(1)
    far = carlini_wagner_l2(net, images, y, search_steps=6, steps=60, lr=0.05, confidence=0.5)
    logits = net(far)
    lead = logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]
    assert (lead >= 0.5).all()
    failed = carlini_wagner_l2(net, images, y, search_steps=1, steps=2, const=0.0)
    assert torch.equal(failed, images)


def test_ddn_stays_on_the_levels_of_a_stored_picture(net, images):
    x = (images * 255).round() / 255
    x_adv = ddn(net, x, net(x).argmax(1), steps=30)
    assert torch.allclose((x_adv * 255).round() / 255, x_adv, atol=1e-12)
    assert not torch.equal(x_adv, x)


def test_mim_is_bim_without_momentum_and_the_sphere_is_a_sphere(net, images):
    y = net(images).argmax(1)
    same = {"eps": 0.1, "step": 0.03, "steps": 5}
    assert torch.equal(mim(net, images, y, decay=0.0, **same), bim(net, images, y, **same))
    assert not torch.equal(mim(net, images, y, **same), bim(net, images, y, **same))
    inner = 0.5 + 0.02 * (images - 0.5)
    for surface, exact in (("sphere", True), ("ball", False)):
        x_adv = iterative_l2(net, inner, y, eps=0.5, step=0.05, steps=3, surface=surface)
        size = (x_adv - inner).flatten(1).norm(dim=1)
        assert size.max() <= 0.5 + 1e-9 and (size.min() > 0.5 - 1e-9) == exact


def brute_force(a, b, free):
    best, pair = 0.0, None
    for p, q in itertools.combinations([i for i in range(len(a)) if free[i]], 2):
        up, down = a[p] + a[q], b[p] + b[q]
        if up > 0 and down < 0 and -(up * down) > best:
            best, pair = -(up * down), (p, q)
    return best, pair


def test_pairs_equal_brute_force_on_ten_thousand_cases_with_ties(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    for case in range(100):
        # every other time through the skyline
        monkeypatch.setattr("nbutils.attacks.jsma.FEW", 0 if case % 2 else 512)
        m = int(torch.randint(2, 12, (), generator=rng))
        a, b = (torch.randint(-4, 5, (100, m), generator=rng).double() for _ in range(2))
        if case % 3 == 0:
            b = -a
        free = torch.rand(100, m, generator=rng) > 0.2
        pairs, valid = best_pairs(a, b, free) if case % 6 else _two_largest(a, free)
        for i in range(100):
            best, pair = brute_force(a[i].tolist(), b[i].tolist(), free[i].tolist())
            assert bool(valid[i]) == (pair is not None)
            if pair:
                p, q = pairs[i].tolist()
                assert p != q and free[i, p] and free[i, q]
                assert -(a[i, p] + a[i, q]) * (b[i, p] + b[i, q]) == best


def test_deepfool_does_not_stall_where_a_float_cannot_take_the_step():
    """A border at which the lead is a square: each step halves the way, and the last ones round to
    nothing.
    """

    class Flattening(torch.nn.Module):
        def forward(self, z):
            way = z.flatten(1).sum(1) - 8.5
            return torch.stack([way * way.abs(), torch.zeros_like(way)], 1)

    x = 0.6 + torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 10
    y, model = torch.zeros(3, dtype=torch.long), Flattening().eval()
    assert (model(deepfool(model, x, y)).argmax(1) == 1).all()


def test_the_skyline_is_small_and_keeps_the_best_pair_of_a_photograph():
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 3000, generator=rng).unbind()
    few = _hardly_dominated(a, b)
    up, down = a[:, None] + a, b[:, None] + b
    table = torch.where((up > 0) & (down < 0), -(up * down), -1.0).fill_diagonal_(-1)
    p, q = divmod(table.argmax().item(), 3000)
    assert len(few) < 100 and {p, q} <= set(few.tolist())
    pairs, _ = best_pairs(a[None], b[None], torch.ones(1, 3000, dtype=torch.bool))
    assert set(pairs[0].tolist()) == {p, q}


@pytest.mark.parametrize("theta", [1.0, -1.0])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_jsma_changes_as_few_values_as_any_set_must_on_a_linear_model(theta, outputs):
    line = Linear(m=12, seed=4)

    def model(z):  # both logits move, or the target's has no slope
        return line(z)[:, :1] * torch.tensor([[1.0, -1.0]])

    model.training = False
    rng = torch.Generator().manual_seed(5)
    x = 0.3 + 0.4 * torch.rand(20, 3, 2, 2, generator=rng, dtype=torch.float64)
    y = model(x).argmax(1)
    x_adv = jsma(model, x, y, theta=theta, gamma=1.0, outputs=outputs)
    changed = (x_adv != x).flatten(1).sum(1)
    flat, reached = x.flatten(1), model(x_adv).argmax(1) != y
    limit = 1.0 if theta > 0 else 0.0

    def wins(i, chosen):
        moved = flat[i].clone()
        moved[list(chosen)] = limit
        return model(moved.view(1, 3, 2, 2)).argmax(1) != y[i]

    def some_win(i, k):
        return any(wins(i, chosen) for chosen in itertools.combinations(range(12), k))

    for i in range(20):
        need = next((k for k in range(0, 13, 2) if some_win(i, k)), None)
        assert bool(reached[i]) == (need is not None)
        # greedy pairs: the largest slope first, not the largest way to the limit
        assert need is None or need <= changed[i] <= need + 2


def test_jsma_draws_targets_by_seed_and_index_and_spends_no_more_than_gamma(net, images):
    y = net(images).argmax(1)
    a, b = (jsma(net, images, y, seed=seed, gamma=0.1) for seed in (0, 0))
    assert torch.equal(a, b) and not torch.equal(a, jsma(net, images, y, seed=1, gamma=0.1))
    assert ((a != images).flatten(1).sum(1) <= 0.1 * 192).all()


def test_finished_images_leave_the_batch(net, images):
    y = net(images).argmax(1)
    one_by_one = 0
    for i in range(12):
        counted = Counted(net)
        deepfool(counted, images[i : i + 1], y[i : i + 1])
        one_by_one += counted.forwards + counted.backwards
    counted = Counted(net)
    deepfool(counted, images, y)
    assert counted.forwards + counted.backwards <= 1.3 * one_by_one


@pytest.mark.parametrize("name", KNOBS)
@pytest.mark.parametrize(
    "case", ["zero gradient", "wrong already", "corners", "two classes", "no budget"]
)
def test_hard_cases_have_defined_results(name, case, net, images):
    x, model, knobs = images, net, dict(KNOBS[name])
    if case == "corners":
        x = images.round()
    if case == "zero gradient":
        flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        model = Normalised(flat, [0.0] * 3, [1.0] * 3).double().eval()
        nn.init.zeros_(model.body[1].weight)
    if case == "two classes":
        model = build("digits_net", (3, 8, 8), 2, seed=2).double()
    y = model(x).argmax(1)
    if case == "wrong already":
        y = (y + 1) % 4
    if case == "no budget":
        knobs |= {"eps": 0.0} if "eps" in knobs else {"gamma": 0.0} if name == "jsma" else {}
    x_adv = ATTACKS[name](model, x, y, **knobs)
    assert x_adv.shape == x.shape and torch.isfinite(x_adv).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    nothing_to_spend = case == "no budget" and ("eps" in knobs or name == "jsma")
    nothing_to_do = case == "wrong already" and name in ("deepfool", "ddn")
    if nothing_to_spend or nothing_to_do:
        assert torch.equal(x_adv, x)


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("deepfool", {"target": torch.zeros(12).long()}, "DeepFool has no targeted form"),
        ("deepfool", {"candidates": 1}, "candidates must be a whole number"),
        ("carlini_wagner_l2", {"steps": 0}, "steps must be a whole number"),
        ("ddn", {"levels": 1}, "levels must be 0"),
        ("jsma", {"outputs": "softmax"}, "jsma needs outputs"),
        ("jsma", {"theta": 0.0}, "theta other than 0"),
        (
            "iterative_l2",
            {"eps": 1.0, "step": 0.1, "surface": "cube"},
            "surface 'cube' with norm 'l2' is unknown",
        ),
        ("mim", {"eps": 0.1, "step": 0.1, "decay": -1.0}, "decay must be finite and not negative"),
    ],
)
def test_wrong_knobs_get_a_sentence(name, wrong, sentence, net, images):
    with pytest.raises(InputError, match=sentence):
        ATTACKS[name](net, images, net(images).argmax(1), **wrong)


@settings(max_examples=25, deadline=None)
@given(
    name=some.sampled_from(sorted(KNOBS)),
    classes=some.integers(2, 6),
    channels=some.sampled_from([1, 3]),
    side=some.integers(3, 9),
    double=some.booleans(),
    n=some.integers(1, 4),
    seed=some.integers(0, 2**16),
)
def test_random_nets_shapes_and_types(name, classes, channels, side, double, n, seed):
    rng = torch.Generator().manual_seed(seed)
    model = build("digits_net", (channels, side, side), classes, seed=seed)
    x = torch.rand(n, channels, side, side, generator=rng)
    if double:
        model, x = model.double(), x.double()
    y = model(x).argmax(1)
    x_adv = ATTACKS[name](model, x, y, seed=seed, **KNOBS[name])
    assert x_adv.dtype == x.dtype and x_adv.shape == x.shape
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    if "eps" in KNOBS[name]:
        delta = (x_adv - x).flatten(1)
        size = delta.norm(dim=1) if name == "iterative_l2" else delta.abs().amax(1)
        assert size.max() <= KNOBS[name]["eps"] + 1e-6
