"""GCD's rectifier (paper 004): which pixels are suspect, what replaces them, the classifier that is
tuned on them, and the labels that are recovered.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbutils import InputError, steps
from nbutils.detectors.gcd import GCD
from nbutils.models import training
from nbutils.rectifiers import RECTIFIERS, gcd
from nbutils.steps import recovery, rectifier
from nbutils.steps import recovery_tables as rt
from nbutils.steps.adversarial import adversarial
from nbutils.steps.detector import fitted
from tests.conftest import configure

ATTACKS = ["004.fgsm", "004.ddn"]


class Half:
    """A half of GCD that is a scalar product with `weight`, of `times` the image."""

    net = torch.nn.Identity()

    def __init__(self, weight, times=1.0, offset=0.0):
        self.weight, self.times, self.offset = weight, times, offset

    def view(self, x):
        return self.times * x

    def view_all(self, x):
        return self.view(x).detach()

    def score(self, x, viewed=None):
        seen = self.view(x) if viewed is None else viewed
        return (seen * self.weight).flatten(1).sum(1) + self.offset


def planted(offset):
    """GCD whose half on the pixels has the larger logit where `offset` is large."""
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(3, 4, 4, generator=generator) for _ in range(2)]
    halves = Half(weights[0], offset=offset), Half(weights[1], times=2.0)
    return GCD(torch.nn.Identity(), pixels="id", sensitivity="insen", halves=halves), weights


def images(n=6, channels=3, size=4):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_the_gradient_is_that_of_the_half_that_decides():
    x = images()
    for offset, half, factor in ((1e4, 0, 1.0), (0.0, None, None), (-1e4, 0, 1.0)):
        detector, weights = planted(offset)
        found = gcd.detector_gradient(detector, x)
        assert found.shape == (6, 1, 4, 4) and not found.requires_grad
        if half is not None:
            want = factor * weights[half].abs().amax(0, keepdim=True)
            assert torch.allclose(found, want.expand_as(found))
    detector, weights = planted(0.0)
    detector.halves[0].weight = torch.zeros(3, 4, 4)  # the other half decides
    to_map = gcd.detector_gradient(detector, x)
    assert torch.allclose(to_map, weights[1].abs().amax(0, keepdim=True).expand_as(to_map))
    to_image = gcd.detector_gradient(detector, x, to_image=True)
    assert torch.allclose(to_image, 2 * to_map)  # the view doubles the image


def test_the_gradient_of_real_halves_is_their_difference_quotient(smoke):
    detector, _ = fitted(smoke, "gcd", "004.fgsm")
    x = adversarial(smoke, "004.fgsm").x_adv[:3]
    found, by_pixels = gcd.detector_gradient(detector, x), detector.by_pixels(x)
    pixels, sensitivity = detector.halves
    for row in range(len(x)):
        half = pixels if by_pixels[row] else sensitivity
        seen = half.view_all(x[row : row + 1])
        place = np.unravel_index(found[row].argmax().item(), found[row].shape)
        move = torch.zeros_like(seen)
        step = 1e-2 * seen.abs().max()
        move[(0, 0, *place[1:])] = step
        up, down = (half.score(seen, seen + sign * move) for sign in (1, -1))
        assert ((up - down).abs() / (2 * step)).item() == pytest.approx(
            found[row].max().item(), rel=0.05
        )


def test_a_detector_that_is_not_fitted_or_none_is_refused():
    x = images(2, 1, 12)
    with pytest.raises(InputError, match="fitted GCD"):
        gcd.rectify(x)
    with pytest.raises(InputError, match="not fitted"):
        gcd.rectify(x, through=GCD(torch.nn.Identity(), pixels="id", sensitivity="insen"))
    gradient = torch.rand(2, 1, 12, 12)
    with pytest.raises(InputError, match="alpha must lie"):
        gcd.rectify(x, gradient=gradient, alpha=1.2)
    with pytest.raises(InputError, match="range, share"):
        gcd.rectify(x, gradient=gradient, reading="rate")


def test_the_mask_follows_either_reading_of_alpha():
    gradient = torch.tensor([[[[0.0, 1.0], [2.0, 10.0]]], [[[5.0, 5.0], [5.0, 5.0]]]])
    assert gcd.above_range(gradient, 0.15)[0].flatten().tolist() == [False, False, True, True]
    assert gcd.above_range(gradient, 0.2)[0].flatten().tolist() == [False, False, False, True]
    assert not gcd.above_range(gradient, 0.5)[1].any()  # all alike: nobody is suspect
    assert gcd.largest_share(gradient, 0.5)[0].flatten().tolist() == [False, False, True, True]
    assert gcd.largest_share(gradient, 0.25)[1].flatten().tolist() == [True, False, False, False]
    many = torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    areas = {}
    for name, reading in gcd.READINGS.items():
        areas[name] = [reading(many, a).double().mean().item() for a in (0.1, 0.5, 0.9)]
    assert areas["range"] == sorted(areas["range"], reverse=True)  # a large alpha marks few
    assert areas["share"] == pytest.approx([8 / 81, 40 / 81, 73 / 81])  # or exactly so many


def test_a_random_mask_is_as_large_image_by_image():
    gradient = torch.rand(7, 1, 10, 10, generator=torch.Generator().manual_seed(2)) ** 3
    mask, index = gcd.above_range(gradient, 0.3), torch.arange(7) + 40
    random = gcd.as_large(mask, index, 5)
    assert torch.equal(random.sum((1, 2, 3)), mask.sum((1, 2, 3))) and not random.equal(mask)
    order = torch.tensor([6, 2, 0])
    assert torch.equal(gcd.as_large(mask[order], index[order], 5), random[order])
    assert not torch.equal(gcd.as_large(mask, index, 6), random)
    overlap = (random & mask).sum() / mask.sum()
    assert overlap < 2 * mask.double().mean()  # chosen without a look at the gradient


def test_suspect_pixels_are_replaced_by_draws_like_their_image():
    x = 0.25 + 0.1 * torch.rand(3, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 1, 60, 60, dtype=torch.bool)
    mask[:, :, 10:] = True
    before = x.clone()
    out = gcd.replaced(x, mask, gcd.draws(x.shape, torch.tensor([4, 5, 6]), 1))
    assert torch.equal(x, before) and torch.equal(out[:, :, :10], x[:, :, :10])
    moved = (out != x).any(1, keepdim=True)
    assert moved[mask].double().mean().item() == pytest.approx(0.5, abs=0.02)
    for one, image, where in zip(out, x, moved[:, 0], strict=True):
        drawn = one[:, where]
        assert drawn.mean().item() == pytest.approx(image.mean().item(), abs=0.002)
        assert drawn.std().item() == pytest.approx(image.std().item(), rel=0.05)
        assert not torch.equal(drawn[0], drawn[1])  # each channel for itself
    again = gcd.replaced(x[1:], mask[1:], gcd.draws(x[1:].shape, torch.tensor([5, 6]), 1))
    assert torch.equal(again, out[1:])
    other = gcd.draws(x.shape, torch.tensor([4, 5, 6]), 2)
    assert not torch.equal(gcd.replaced(x, mask, other), out)
    small = mask[:1, :, 5:14, :9]
    spread = gcd.replaced(1.0 * small, small, gcd.draws(small.shape, torch.tensor([0]), 0))
    assert spread.min() >= 0 and spread.max() <= 1


def test_every_entry_of_gcds_kind_marks_what_it_says():
    x, gradient = (
        images(4, 3, 8),
        torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(4)),
    )
    given = {"index": torch.arange(4), "seed": 2, "alpha": 0.6, "gradient": gradient}
    knobs = {n: dict(e.keywords) for n, e in RECTIFIERS.items() if e.func is gcd.rectify}
    assert knobs == {
        "gcd": {"reading": "range"},
        "gcd_share": {"reading": "share"},
        "gcd_random": {"reading": "range", "guided": False},
        "gcd_share_random": {"reading": "share", "guided": False},
        "gcd_to_image": {"reading": "range", "to_image": True},
    }
    for name in knobs:
        mask = gcd.masked(x, **given, **knobs[name])
        guided = gcd.READINGS[knobs[name]["reading"]](gradient, 0.6)
        assert torch.equal(mask.sum((1, 2, 3)), guided.sum((1, 2, 3)))
        assert torch.equal(mask, guided) == ("random" not in name)
        assert torch.equal(
            RECTIFIERS[name](x, **given),
            gcd.replaced(x, mask, gcd.draws(x.shape, given["index"], given["seed"])),
        )


def test_the_papers_alpha_is_that_of_the_pictures_and_the_aim(smoke):
    assert rectifier.alpha_of(smoke, "004.ddn") == 0.55
    assert rectifier.alpha_of(smoke, "004.ddn_targeted") == 0.6
    assert rectifier.alpha_of(smoke, "004.fgsm+004.ddn_targeted") == 0.55


def test_the_classifier_is_tuned_on_masked_pictures_with_their_true_labels(tmp_path, monkeypatch):
    run, seen = configure(tmp_path, CHANGES={"mask_draws": 2}), {}
    base = steps.classifier(run)
    kept = {name: value.clone() for name, value in base.model.state_dict().items()}

    def noted(model, x, y, how, **given):
        seen.update(x=x, y=y, how=how, groups=given["groups"])
        return exact(model, x, y, how, **given)

    exact = training.fit
    monkeypatch.setattr(training, "fit", noted)
    pairs = adversarial(run, "004.ddn", "train")
    made = rectifier.tuned(run, "004.ddn")
    n = len(pairs.x)
    assert len(seen["x"]) == 4 * n and seen["how"].epochs == rectifier.EPOCHS
    assert torch.equal(seen["y"], pairs.y.repeat(4)) and torch.equal(
        seen["groups"], pairs.index.repeat(4)
    )
    assert not torch.equal(pairs.y, pairs.prediction_adv)
    detector = rectifier.guide_of(run, "gcd", "gcd", "004.ddn", 0)[0]
    mask = gcd.above_range(gcd.detector_gradient(detector, pairs.x_adv), 0.55)
    for draw in range(2):  # the clean ones first, then the attacked ones, and again
        attacked = seen["x"][(2 * draw + 1) * n :][:n]
        changed = (attacked != pairs.x_adv).any(1, keepdim=True)
        assert changed.any() and not (changed & ~mask).any()
    assert not torch.equal(seen["x"][: 2 * n], seen["x"][2 * n :])
    for name, value in base.model.state_dict().items():
        assert torch.equal(value, kept[name])  # the classifier itself stays
    assert not torch.equal(next(made.model.parameters()), next(base.model.parameters()))
    assert not made.model.training and not any(p.requires_grad for p in made.model.parameters())
    plain = rectifier.tuned(run, "004.ddn", "none")
    assert (
        torch.equal(seen["x"][n : 2 * n], pairs.x_adv) and plain.artifact.path != made.artifact.path
    )


def test_recovered_labels_are_those_that_a_reader_gives(smoke):
    pairs, model = recovery.attacked(smoke, "004.ddn"), steps.classifier(smoke).model
    n = smoke.preset["rectified_test"]
    assert len(pairs.x) == n < len(adversarial(smoke, "004.ddn").x)
    none = recovery.recovery(smoke, "none", "base", "004.ddn")
    assert torch.equal(none.labels, pairs.prediction_adv[None])
    assert torch.equal(none.clean, pairs.prediction[None]) and none.area.isnan().all()
    second = recovery.recovery(smoke, "none", "runner_up", "004.ddn")
    with torch.no_grad():
        order = model(pairs.x_adv).argsort(1, descending=True)
    assert torch.equal(second.labels[0], order[:, 1])
    made = recovery.recovery(smoke, "gcd", "tuned", "004.ddn", fitted_on="004.fgsm")
    detector = rectifier.guide_of(smoke, "gcd", "gcd", "004.fgsm", 0)[0]
    tuned = rectifier.tuned(smoke, "004.fgsm").model
    seed = rectifier.draw_seed(0, 0, 0)
    x = gcd.rectify(pairs.x_adv, index=pairs.index, seed=seed, through=detector, alpha=0.55)
    with torch.no_grad():
        assert torch.equal(made.labels[0], tuned(x).argmax(1))
    mask = gcd.above_range(gcd.detector_gradient(detector, pairs.x_adv), 0.55)
    assert torch.equal(made.area, mask.float().mean((1, 2, 3)))
    assert torch.equal(made.right, (made.labels[0] == pairs.y).double())
    shown = recovery.picture(smoke, "gcd", "004.ddn", torch.tensor([2, 5]))
    own = rectifier.guide_of(smoke, "gcd", "gcd", "004.ddn", 0)[0]
    want = gcd.rectify(pairs.x_adv, index=pairs.index, seed=seed, through=own, alpha=0.55)
    assert torch.equal(shown, want[[2, 5]])
    with pytest.raises(InputError, match="Reader 'me'"):
        recovery.recovery(smoke, "none", "me", "004.ddn")
    with pytest.raises(InputError, match="Rectifier 'blur'"):
        recovery.recovery(smoke, "blur", "base", "004.ddn")


def test_a_network_that_is_attacked_itself_reads_its_own_attacks(smoke):
    own = rectifier.tuned(smoke, "004.fgsm")
    pairs = recovery.attacked(smoke, "004.fgsm", own)
    theirs = recovery.attacked(smoke, "004.fgsm")
    assert len(pairs.x) == len(theirs.x) and torch.equal(pairs.x, theirs.x)
    assert not torch.equal(pairs.x_adv, theirs.x_adv)
    with torch.no_grad():
        assert torch.equal(pairs.prediction_adv, own.model(pairs.x_adv).argmax(1))
    found = recovery.recovery(smoke, "none", "tuned", "004.fgsm", tuned_as="gcd", itself=True)
    assert torch.equal(found.labels[0], pairs.prediction_adv)


def test_removed_pixels_are_those_of_each_order(smoke):
    pairs, model = recovery.attacked(smoke, "004.ddn"), steps.classifier(smoke).model
    found = recovery.removal(smoke, "004.ddn").tensors
    for order in recovery.ORDERS:
        assert torch.equal(found[f"{order}.0.attacked"], pairs.prediction_adv)
        assert torch.equal(found[f"{order}.0.clean"], pairs.prediction)
    detector, _ = recovery.fitted_guide(smoke, "gcd", "004.ddn", 0)
    gradient = gcd.detector_gradient(detector, pairs.x_adv)
    scores = {
        "detector": gradient,
        "reversed": -gradient,
        "another_image": gradient.roll(1, 0),
        "perturbation": (pairs.x_adv - pairs.x).abs(),
    }
    for order, score in scores.items():
        cut = score.flatten(1).topk(round(0.1 * 28 * 28), 1).values[:, -1, None, None, None]
        blanked = torch.where(score >= cut, 0.0, pairs.x_adv)
        with torch.no_grad():
            labels = model(blanked).argmax(1)
        same = (labels == found[f"{order}.0.1.attacked"]).double().mean()
        assert same >= 0.9, order  # ties at the cut are settled otherwise
    with pytest.raises(InputError, match="is no GCD"):
        recovery.fitted_guide(smoke, "id", "004.ddn", 0)


def recovered(right, clean=None, area=None):
    """Labels of which `right` (draws,n) are true, beside the truth 0."""
    labels = 1 - torch.tensor(right, dtype=torch.long)
    clean = labels * 0 if clean is None else 1 - torch.tensor(clean, dtype=torch.long)
    n = labels.shape[1]
    area = torch.full((n,), 0.25) if area is None else area
    fooled = torch.arange(n) > 0
    return recovery.Recovered(torch.zeros(n, dtype=torch.long), labels, clean, area, fooled, None)


@pytest.fixture
def planted_labels(smoke, monkeypatch):
    """Recoveries by (rectifier, reader, attack, repetition, itself); all others are all wrong."""
    known = {}

    def found(run, rectifier, reader, attack, *, repetition=0, itself=False, **given):
        key = rectifier, reader, attack, repetition, itself
        asked.append((key, given))
        return known.get(key, recovered([[0, 0, 0, 0]]))

    asked = []
    monkeypatch.setattr(rt, "recovery", found)
    return SimpleNamespace(known=known, asked=asked)


def test_the_table_of_defences(smoke, planted_labels):
    known = planted_labels.known
    known["none", "base", "004.ddn", 0, False] = recovered([[1, 0, 0, 0]], [[1, 1, 1, 0]])
    known["gcd", "tuned", "004.ddn", 0, False] = recovered([[1, 1, 1, 0], [0, 1, 1, 0]])
    known["none", "pgd", "004.ddn", 0, True] = recovered([[0, 0, 0, 1]])
    table = rt.recovered(smoke, ["004.ddn"], ["none", "gcd", "pgd_net"], itself=["pgd_net"])
    assert list(table.columns) == list(rt.RECOVERED)
    rows = {(r["method"], r["attacked"]): r for r in table.to_dict("records")}
    assert rows["none", "the classifier"]["accuracy"] == 0.25
    assert rows["gcd", "the classifier"]["accuracy"] == pytest.approx(5 / 8)
    assert rows["gcd", "the classifier"]["accuracy_fooled"] == pytest.approx(4 / 6)
    assert rows["gcd", "the classifier"]["area"] == 0.25
    assert rows["pgd_net", "itself"]["accuracy"] == 0.25
    assert rows["pgd_net", "the classifier"]["accuracy"] == 0
    assert rows["none", "nobody"]["accuracy"] == 0.75 and rows["gcd", "nobody"]["accuracy"] == 1
    beside = rt.table5(smoke, table, ["004.ddn"])
    assert set(beside["method"]) == {"base", "gcd", "pgd_adversarial_training"}
    printed = beside.set_index(["attack", "method"])
    ours = printed.loc[("ddn", "gcd")]
    assert ours["paper"] == 0.9 and ours["here"] == pytest.approx(5 / 8)
    assert printed.loc[("clean", "base"), "paper"] == 0.92


def test_leads_and_contributions_are_paired(smoke, planted_labels):
    known = planted_labels.known
    known["gcd", "tuned", "004.ddn", 0, False] = recovered([[1, 1, 1, 0]])
    known["median", "base", "004.ddn", 0, False] = recovered([[0, 1, 1, 1]])
    lead = rt.leads(smoke, ["004.ddn"], rivals=["gcd", "median", "noise"])
    assert lead["rival"].tolist() == ["median", "noise"]
    assert lead["difference"].tolist() == [0, 0.75]
    assert lead["low"][0] < 0 < lead["high"][0]
    known["gcd", "tuned", "004.ddn", 1, False] = recovered([[1, 1, 1, 1]])
    known["gcd_random", "tuned", "004.ddn", 0, False] = recovered([[1, 1, 0, 0]])
    found = rt.contributions(smoke, ["004.ddn", "004.fgsm"], seeds=2)
    row = found[(found["attack"] == "004.ddn") & (found["rival"] == "random mask, tuned")].iloc[0]
    assert row["difference"] == pytest.approx((0.25 + 1) / 2) and row["seeds"] == 2
    mixed = [given for key, given in planted_labels.asked if "fitted_on" in given]
    assert {given["fitted_on"] for given in mixed} == {"004.ddn+004.fgsm"}
    table = rt.factors(smoke, ["004.ddn"], seeds=2).set_index(["mask", "tuned"])
    assert table.loc[("guided", True), "accuracy"] == pytest.approx(7 / 8)
    assert table.loc[("random", True), "accuracy"] == pytest.approx(1 / 4)
    assert table.loc[("none", False), "accuracy"] == 0 and len(table) == 6


def test_the_best_rate_is_sought_between_the_ends(smoke, monkeypatch):
    levels = {
        0.1: [1, 0, 0, 0],
        0.3: [1, 1, 0, 0],
        0.5: [1, 1, 1, 0],
        0.7: [0] * 4,
        0.9: [1, 1, 0, 0],
    }

    def found(run, rectifier, reader, attack, *, alpha, **given):
        right = levels[alpha] if "random" not in rectifier else [1, 0, 0, 0]
        return recovered([right], area=torch.full((4,), alpha))

    monkeypatch.setattr(rt, "recovery", found)
    table = rt.optimum(smoke, ["004.ddn"], seeds=2)
    row = table[(table["mask"] == "guided") & (table["reader"] == "tuned")].iloc[0]
    assert row["best"] == 0.5 and row["area"] == 0.5 and row["difference"] == 0.25
    assert row["over_random"] == 0.5
    rates = rt.rates(smoke, ["004.ddn"], seeds=1)
    assert len(rates) == 2 * 2 * 2 * len(rt.ALPHAS)
    drawn = rates[(rates["mask"] == "guided") & (rates["reader"] == "base")]
    assert drawn["accuracy"].tolist() == 2 * [0.25, 0.5, 0.75, 0, 0.5]


def test_the_pipeline_rectifies_what_is_flagged_and_nothing_else(
    smoke, planted_labels, monkeypatch
):
    scores = {
        "clean": torch.tensor([[0.0, 0.96, 0.97, 0.0]]),
        "adversarial": torch.tensor([[9.0, 9.0, 0.0, 0.0]]),
        "calibrate": torch.linspace(0, 1, 101)[None],
    }
    asked = []

    def evaluation(run, name, fit, test, fits):
        asked.append((name, fit, test))
        return SimpleNamespace(tensors=scores)

    monkeypatch.setattr(rt, "evaluation", evaluation)
    known = planted_labels.known
    known["none", "base", "004.ddn", 0, False] = recovered([[0, 0, 0, 1]], [[1, 1, 1, 1]])
    known["gcd", "tuned", "004.ddn", 0, False] = recovered([[1, 0, 1, 0]], [[0, 0, 0, 0]])
    row = rt.pipeline(smoke, ["004.ddn"], fpr=0.05).iloc[0]
    assert row["flagged_clean"] == 0.5 and row["flagged_attacked"] == 0.5
    assert row["accuracy_attacked"] == 0.5  # one recovered, one that was never lost
    assert row["accuracy_clean"] == 0.5 and row["base_clean"] == 1 and row["base_attacked"] == 0.25
    both = rt.pipeline(smoke, ["004.ddn", "004.fgsm"])
    assert both["fitted_on"].tolist() == 2 * ["the attack", "all attacks"]
    assert ("gcd", "004.ddn+004.fgsm", "004.fgsm") in asked


def test_removed_leads_count_who_was_fooled(smoke, monkeypatch):
    pairs = SimpleNamespace(
        prediction=torch.tensor([0, 0, 0]), prediction_adv=torch.tensor([1, 1, 0])
    )
    labels = {
        f"{order}.{share:g}.{side}": torch.tensor([1, 1, 0])
        for order in recovery.ORDERS
        for share in recovery.SHARES
        for side in ("attacked", "clean")
    }
    labels["detector.0.05.attacked"] = torch.tensor([0, 1, 1])
    monkeypatch.setattr(rt, "attacked", lambda run, attack: pairs)
    monkeypatch.setattr(rt, "removal", lambda *a, **k: SimpleNamespace(tensors=labels))
    table = rt.removed(smoke, ["004.ddn"], seeds=2)
    own = table[(table["order"] == "detector") & (table["images"] == "attacked")]
    assert own["misread"].tolist() == [1.0, 0.5, 1.0] and set(own["n"]) == {2}
    lead = rt.removed_leads(smoke, ["004.ddn"], seeds=2).set_index(["removed_percent", "rival"])
    assert lead.loc[(5, "random"), "difference"] == 0.5
    assert lead.loc[(10, "random"), "difference"] == 0
    beside = rt.table1(smoke, table, ["004.ddn"])
    assert beside.set_index("removed_percent")["paper"].to_dict() == {0: 1.0, 5: 0.656, 10: 0.785}
    pairs.prediction_adv = pairs.prediction
    assert rt.removed(smoke, ["004.ddn"]).empty and rt.removed_leads(smoke, ["004.ddn"]).empty


def test_an_interval_of_several_seeds_is_wider_than_one_of_as_many_images():
    generator = torch.Generator().manual_seed(0)
    same = (torch.rand(200, generator=generator) < 0.5).double()
    one = rt._mean(same[None], 0, "accuracy")
    apart = torch.stack([same * 0, same * 0 + 1, same * 0, same * 0 + 1])
    several = rt._mean(apart, 0, "accuracy")
    assert one["high"] - one["low"] == pytest.approx(0.138, abs=0.003)
    assert several["accuracy"] == 0.5 and several["high"] - several["low"] > 0.5
    shift = rt._difference(torch.stack([same, same]) - same, 0)
    assert shift["low"] == shift["high"] == 0


def test_the_guide_is_the_cured_one_where_a_half_collapsed(smoke, monkeypatch):
    ends = {"004.fgsm": False, "004.ddn": True}
    monkeypatch.setattr(
        rt, "detector", lambda run, name, attack: (None, {"collapsed": ends[attack]})
    )
    assert rt.guide_for(smoke, ["004.fgsm"]) == "gcd"
    assert rt.guide_for(smoke, ["004.fgsm", "004.ddn"]) == "gcd_cured"


def test_what_an_attack_on_a_robust_network_needs_is_told_beside_the_classifier(smoke, monkeypatch):
    flat = torch.zeros(3, 1, 2, 2)
    moved = {"robust": torch.tensor([2.0, 4.0, 9.0]), None: torch.tensor([1.0, 2.0, 9.0])}

    def attacked(run, attack, of=None):
        x_adv = flat.clone()
        x_adv[:, 0, 0, 0] = moved[of]
        prediction = torch.zeros(3, dtype=torch.long)
        return SimpleNamespace(
            x=flat, x_adv=x_adv, prediction=prediction, prediction_adv=torch.tensor([1, 1, 0])
        )

    monkeypatch.setattr(rt, "attacked", attacked)
    monkeypatch.setattr(rt, "robust", lambda run, kind: {"pgd": "robust"}[kind])
    row = rt.needed(smoke, ["004.ddn"], ["pgd_net"]).iloc[0]
    assert row["l2"] == 3 and row["l2_classifier"] == 1.5  # of those that were fooled
    assert row["fooled"] == pytest.approx(2 / 3) and row["n"] == 3
