"""Tables of lecture 07: planted cases whose numbers are known, and one small run of all of them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from nbutils import InputError
from nbutils.attacks import ATTACKS, cost
from nbutils.attacks.settings import settings_for
from nbutils.detectors.base import Detector
from nbutils.detectors.groups import SCALARS
from nbutils.evaluation import metrics, toy
from nbutils.evaluation.intervals import auroc_interval
from nbutils.evaluation.tables import CELL, DIFFERENCE, KEYS, frame
from nbutils.saliency.gradients import dist_z, input_sensitivity
from nbutils.steps import detection_tables as dt
from nbutils.steps import tables
from nbutils.steps.adversarial import adversarial, setting_of
from tests.conftest import configure

EARLY, PGD = ATTACKS["pgd_early_stopped"], ATTACKS["pgd"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("targeted", [True, False])
def test_pgd_stops_at_each_images_first_success(net, images, norm, random_start, targeted):
    y = net(images).argmax(1)
    labels = (y + 1) % 4
    size = {"linf": (0.03, 0.01), "l2": (0.3, 0.1)}[norm]
    knobs = {"eps": size[0], "step": size[1], "norm": norm, "random_start": random_start}
    given = {"seed": 3, "index": torch.arange(12) + 40, "target": labels if targeted else None}
    iterates = [PGD(net, images, y, steps=t, **knobs, **given) for t in range(6)]
    won = torch.stack(
        [(net(x).argmax(1) == labels) if targeted else (net(x).argmax(1) != y) for x in iterates]
    )
    first = [int(hits.nonzero()[0, 0]) if hits.any() else 5 for hits in won.T]
    assert 0 < sum(hits.any() for hits in won[:5].T) < 12  # some succeed early, some never do
    assert len(set(first)) > 1
    found = EARLY(net, images, y, steps=5, **knobs, **given)
    for i, t in enumerate(first):
        assert torch.allclose(found[i], iterates[t][i], atol=1e-12), (i, t)


def test_images_that_pgd_has_fooled_leave_the_batch(linear, interior):
    y = linear(interior).argmax(1)
    counted = cost.Counted(linear)
    EARLY(counted, interior, y, eps=1.0, step=1.0, steps=30, random_start=False)
    assert counted.backwards == 2 * len(interior)  # the image, the first step; all succeed in one
    assert torch.equal(EARLY(linear, interior, y, eps=0.0, step=0.0, steps=3), interior)


def test_settings_of_004_are_quick_where_they_say_so():
    for dataset in ("digits", "cifar10", "cats_dogs"):
        found = settings_for(dataset)
        quick = found["004.carlini_wagner_l2_quick"]
        assert quick == found["carlini_wagner_l2"]
        assert found["004.carlini_wagner_l2_quick_targeted"] == quick | {"targeted": True}
        assert quick["search_steps"] * quick["steps"] < found["004.carlini_wagner_l2"]["steps"]
        stopped, whole = found["004.pgd_early_stopped"], found["004.pgd"]
        assert stopped == whole | {"attack": "pgd_early_stopped"}
    assert {"scalar", "supervision", "targeted", "setting", "eps_255"} <= KEYS


def test_names_of_paper_004(smoke):
    names = ["004.fgsm", "fgsm", "004.pgd_early_stopped", "004.pgd_targeted", "jsma", "fgsm+bim"]
    names += ["004.carlini_wagner_l2_quick_targeted", "004.carlini_wagner_l2_targeted", "004.ddn"]
    assert dt.of_paper_004(smoke, names) == {
        "004.fgsm": ("fgsm", False),
        "004.pgd_targeted": ("pgd", True),
        "004.carlini_wagner_l2_quick_targeted": ("carlini_wagner_l2", True),
        "004.ddn": ("ddn", False),
    }


def cells(*rows):
    """Rows of CELL from (detector, fitted_on, tested_on, auroc)."""
    made = [
        {"detector": d, "fitted_on": f, "tested_on": t, "auroc": a, "low": a, "high": a}
        | {"n": 40, "fits": 2}
        for d, f, t, a in rows
    ]
    return frame(made, CELL)


def test_table_2_stands_beside_the_papers(smoke):
    f, p = "004.fgsm", "004.pgd_targeted"
    rows = [("id", f, f, 0.9), ("id", f, p, 0.1), ("insen", p, p, 0.7), ("gcd", f, f, 0.8)]
    rows += [("gcd_mean", f, f, 0.2), ("mahalanobis", p, p, 0.6), ("id", "jsma", "jsma", 0.3)]
    found = dt.table2(smoke, cells(*rows), [f, p, "jsma"])
    assert list(found.columns) == list(dt.TABLE2)
    auc = found[found["statistic"] == "auc"].set_index(["attack", "targeted", "detector"])
    assert auc["here"].to_dict() == {
        ("fgsm", False, "det_org"): 0.9,
        ("fgsm", False, "gcd"): 0.8,
        ("pgd", True, "det_is"): 0.7,
        ("pgd", True, "mds"): 0.6,
    }
    assert list(auc["paper"]) == [1.0, 1.0, 0.72, 0.9]  # of MNIST
    base = found[found["detector"] == "none"].set_index(["attack", "targeted"])
    assert list(base["paper"]) == [0.65, 0.0]
    under = tables.accuracy_under(adversarial(smoke, p))
    row = base.loc[("pgd", True)]
    assert row["here"] == under and row["low"] < under < row["high"] and row["n"] == 40
    assert dt.table2(smoke, cells(), ["jsma"]).empty


def planted_table(here, paper):
    """`table2` of two attacks from aurocs (attack, detector) -> value."""
    return pd.DataFrame(
        [
            {"attack": a, "targeted": False, "detector": d, "statistic": "auc"}
            | {"paper": paper[a, d], "here": value}
            for (a, d), value in here.items()
        ]
        + [{"attack": "fgsm", "targeted": False, "detector": "none", "statistic": "base_accuracy"}]
    )


def test_wins_count_ties_and_whole_attacks_only():
    a, b, c = "fgsm", "pgd", "ddn"
    here = {(a, "gcd"): 0.995, (a, "tws"): 1.0, (a, "mds"): 0.9949}
    here |= {(b, "gcd"): 0.5, (b, "tws"): 0.2, (b, "mds"): 0.4}
    here |= {(c, "gcd"): 0.1, (c, "tws"): 0.9}  # Mahalanobis was not measured there
    paper = {key: 1.0 if key[1] == "mds" else 0.99 for key in here}
    found = dt.wins(planted_table(here, paper)).set_index("detector")
    assert list(found.index) == ["tws", "mds", "gcd"]  # as the paper orders them
    assert found["here"].to_dict() == {"tws": 1, "mds": 0, "gcd": 2}
    assert found["paper"].to_dict() == {"tws": 0, "mds": 2, "gcd": 0}
    assert (found["n_attacks"] == 2).all()


def test_differences_leave_out_a_scalar_that_the_classifier_lacks(smoke, monkeypatch):
    pairs = [("noise", "margin"), ("dist_z", "margin")]
    both = dt.differences(smoke, pairs, ["004.fgsm", "004.deepfool"])
    assert list(both["difference"].unique()) == ["noise - margin", "dist_z - margin"]
    assert list(both.columns) == list(DIFFERENCE) and len(both) == 4
    assert (both["fitted_on"] == both["tested_on"]).all()
    one = tables.cross(smoke, ["noise", "margin"], ["004.deepfool"]).set_index("detector")["auroc"]
    row = both[(both["difference"] == "noise - margin") & (both["tested_on"] == "004.deepfool")]
    assert row["auroc"].item() == pytest.approx(one["noise"] - one["margin"])
    monkeypatch.setattr(tables, "confidence_scalars", lambda run: ["margin"])
    assert set(dt.differences(smoke, pairs, ["004.fgsm"])["difference"]) == {"noise - margin"}
    assert dt.differences(smoke, pairs[1:], ["004.fgsm"]).empty


class TwoClasses(nn.Module):
    """Logits (2 s, 0) of the sum s of an image less .5: Dist_z is 2 |s - .5| over the weights' l2
    distance, and all measures of doubt fall with it.
    """

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 2)
        self.last.weight = nn.Parameter(torch.tensor([[2.0], [0.0]]), requires_grad=False)
        self.last.bias = nn.Parameter(torch.tensor([-1.0, 0.0]), requires_grad=False)
        self.eval()

    def forward(self, x):
        return self.last(x.flatten(1).sum(1, keepdim=True))


def attacked(x, x_adv, prediction, prediction_adv, **more):
    """What of an adversarial set the tables read."""
    return SimpleNamespace(
        x=x, x_adv=x_adv, prediction=prediction, prediction_adv=prediction_adv, **more
    )


def values(*numbers):
    """Images (n,1,1,1) of one value each."""
    return torch.tensor(numbers).view(-1, 1, 1, 1)


def test_sensitivity_falls_with_the_distance_where_there_are_two_classes(monkeypatch):
    model = TwoClasses()
    monkeypatch.setattr(dt, "classifier", lambda run: SimpleNamespace(model=model))
    monkeypatch.setattr(tables, "confidence_scalars", lambda run: ["dist_z"])
    x = values(0.1, 0.2, 0.3, 0.95)
    x_adv = values(0.6, 0.95, 0.2, 0.4)  # the third is not fooled
    before, after = model(x).argmax(1), model(x_adv).argmax(1)
    sets = {
        "won": attacked(x, x_adv, before, after),
        "lost": attacked(x, x, before, before),
        "two": attacked(x[:2], x_adv[:2], before[:2], after[:2]),
    }
    found = dt.distance(SimpleNamespace(seed=0), sets)
    assert list(found.columns) == list(dt.DISTANCE)
    assert list(found["images"].unique()) == ["toy", "clean", "won"]  # the others fooled too few
    assert list(found["scalar"].unique()) == list(dt.OF_DISTANCE)
    ours = found[found["images"] != "toy"].set_index(["images", "scalar"])
    assert ours["rank"].to_numpy() == pytest.approx(-1.0)
    assert ours["n"].to_dict() == {
        (i, s): n for (i, n) in (("clean", 4), ("won", 3)) for s in dt.OF_DISTANCE
    }
    toys = found[found["images"] == "toy"]
    assert (toys["rank"] < -0.9).all() and (toys["n"] == 300).all()
    assert ((toys["low"] < toys["rank"]) & (toys["rank"] < toys["high"])).all()
    monkeypatch.setattr(tables, "confidence_scalars", lambda run: ["margin"])
    assert set(dt.distance(SimpleNamespace(seed=0), sets)["images"]) == {"toy"}


def test_rank_correlation_and_its_interval():
    a = torch.arange(50.0)
    rank, (low, high) = dt._ranked(a, a.flip(0), 0)
    assert rank == pytest.approx(-1) and low == pytest.approx(-1) and high == pytest.approx(-1)
    noise = torch.from_numpy(np.random.default_rng(0).permutation(50).astype(float))
    rank, (low, high) = dt._ranked(a, noise, 0)
    assert low < rank < high and low < 0 < high and 0.3 < high - low < 0.8


class Brightness(Detector):
    """Says how bright an image is."""

    def score(self, x, viewed=None):
        return x.flatten(1).sum(1)


class Sum(nn.Module):
    """Class 1 from a sum of .5 on, by a margin of twice |s - .5|."""

    def forward(self, x):
        s = 2 * x.flatten(1).sum(1) - 1
        return torch.stack([-s / 2, s / 2], 1)


@pytest.fixture
def planted(monkeypatch):
    """A run on four dark images of one value, attacked by hand."""
    x = values(0.1, 0.2, 0.3, 0.4)
    x_of = {
        ("004.carlini_wagner_l2_quick", 0.0): values(0.55, 0.6, 0.7, 0.8),
        ("004.carlini_wagner_l2_quick", 5.0): values(0.9, 0.2, 0.3, 1.0),  # fails on two
        ("004.deepfool", 0.02): values(0.55, 0.55, 0.55, 0.3),  # the last is moved and not fooled
        ("004.ddn", 0.0): values(0.6, 0.6, 0.6, 0.6),
        ("004.pgd_early_stopped", 0.0): values(0.7, 0.8, 0.9, 0.6),
        ("004.pgd", 0.0): values(1.0, 1.0, 1.0, 1.0),
    }
    asked = []

    def made(run, name, **knobs):
        asked.append((name, knobs))
        usual = 0.02 if name == "004.deepfool" else 0.0
        x_adv = x_of.get((name, knobs.get("confidence", knobs.get("overshoot", usual))), x)
        before = torch.zeros(4, dtype=torch.long)
        return attacked(x, x_adv, before, Sum()(x_adv).argmax(1), setting={"steps": 40})

    fits = []

    def fitted(run, name, attack, i):
        fits.append((name, attack, i))
        artifact = SimpleNamespace(record={"collapsed": int(i == 1)})
        return Brightness(Sum()), artifact if name == "id" else None

    monkeypatch.setattr(dt, "adversarial", made)
    monkeypatch.setattr(dt, "fitted", fitted)
    monkeypatch.setattr(dt, "classifier", lambda run: SimpleNamespace(model=Sum()))
    # the least sure of ten that are read rightly is .45; the last two are misread, one less surely
    levels = [25, 30, 40, 50, 60, 70, 75, 80, 85, 115, 130, 10]
    pixels = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    y = torch.tensor([0] * 11 + [1])
    test = SimpleNamespace(x=pixels, y=y, pixels=lambda: pixels.float() / 255)
    data = SimpleNamespace(test=Sliced(test))
    return SimpleNamespace(seed=0, data=data, asked=asked, fits=fits)


class Sliced:
    def __init__(self, images):
        self.images = images

    def __getitem__(self, rows):
        assert rows.stop == dt.MOST
        return self.images


def test_the_border_counts_fooled_images_against_their_own_clean_versions(planted):
    found = dt.border(planted, ["margin", "id"], "004.ddn", fits=2)
    assert list(found.columns) == list(dt.BORDER)
    assert planted.fits == [("margin", "004.ddn", 0), ("id", "004.ddn", 0), ("id", "004.ddn", 1)]
    each = found.set_index(["attack", "setting", "detector"])
    one = each.xs("margin", level="detector")
    cw = one.loc[("carlini_wagner_l2", "confidence 0")]
    assert (cw["n"], cw["success"], cw["auroc"], cw["on_border"]) == (4, 1.0, 1.0, True)
    assert cw["l2"] == pytest.approx((0.45 + 0.4 + 0.4 + 0.4) / 4)
    sure = one.loc[("carlini_wagner_l2", "confidence 5")]
    assert (sure["n"], sure["success"], sure["beyond"]) == (2, 0.5, 5.0)
    assert sure["l2"] == pytest.approx(0.7) and not sure["on_border"]
    # the other confidences changed nothing: no row
    assert set(one.loc["carlini_wagner_l2"].index) == {"confidence 0", "confidence 5"}
    deepfool = one.loc[("deepfool", "overshoot 0.02")]
    assert (deepfool["n"], deepfool["success"], deepfool["beyond"]) == (3, 0.75, 0.0)
    assert deepfool["l2"] == pytest.approx(0.35)
    pushed = one.loc["ddn"]
    assert list(pushed.index) == [f"pushed x {factor}" for factor in (1, 1.2, 1.5, 2)]
    assert pushed["beyond"].to_numpy() == pytest.approx([0, 0.2, 0.5, 1.0])
    assert list(pushed["on_border"]) == [True, False, False, False]
    sizes = np.array([0.35, 0.42, 0.525])  # and twice as far is cut off by the box
    assert pushed["l2"].to_numpy()[:3] == pytest.approx(sizes)
    assert pushed["l2"].iloc[3] == pytest.approx(np.mean([0.9, 0.8, 0.6, 0.4]))
    pgd = one.loc["pgd"]
    assert list(pgd.index) == ["stopped at first success", "40 steps"]
    assert list(pgd["beyond"]) == [0.0, 40.0] and list(pgd["on_border"]) == [True, False]
    low, high = auroc_interval(1.0, 4, 4)
    assert (cw["low"], cw["high"]) == pytest.approx((low, high))
    ours = each.xs("id", level="detector")
    assert set(ours["fits"]) == {2} and set(ours["collapsed"]) == {1}
    assert set(one["fits"]) == {1} and set(one["collapsed"]) == {0}


def test_what_lies_at_the_border_is_the_sets_that_the_notebook_has(planted):
    dt.border(planted, ["margin"], "004.ddn")
    knobs = {}
    for name, given in planted.asked:
        knobs.setdefault(name, []).append(given)
    assert [k.get("confidence") for k in knobs["004.carlini_wagner_l2_quick"]] == [
        None,
        1.0,
        2.0,
        5.0,
        10.0,
        20.0,
        50.0,
    ]
    assert [k.get("overshoot") for k in knobs["004.deepfool"]] == [None, 0.2, 0.5, 1.0]
    assert all(
        not given
        for name in ("004.ddn", "004.pgd", "004.pgd_early_stopped")
        for given in knobs[name]
    )


def test_clean_images_at_the_border_stand_beside_the_sure_ones(planted):
    found = dt.border(planted, ["margin"], "004.ddn")
    clean = found[found["attack"] == "clean"].set_index("setting")
    least, misread = clean.loc["least sure"], clean.loc["misread"]
    assert (least["n"], misread["n"]) == (1, 2)
    assert least["auroc"] == 1.0  # .45 is the brightest of those that are read rightly
    assert misread["auroc"] == 0.5  # one is brighter than all others, one darker
    assert (misread["low"], misread["high"]) == pytest.approx(auroc_interval(0.5, 9, 2))
    assert (clean[["success", "l2", "beyond"]] == 0).all(axis=None)


def test_paired_aurocs_are_those_of_the_one_evaluation():
    rng = np.random.default_rng(0)
    clean, moved = (torch.from_numpy(rng.standard_normal((2, 30)) + k) for k in (0, 1))
    every = torch.ones(30, dtype=torch.bool)
    whole = metrics.evaluate(clean, moved, every, clean, decision=None, seed=4)["all"]
    found = dt._paired(clean, moved, 4)
    assert found["auroc"] == whole["auroc"]
    assert [found["low"], found["high"]] == whole["auroc_interval"]


def test_each_size_has_detectors_of_its_own(smoke):
    found = dt.by_eps(smoke, ["margin", "noise"], ["004.fgsm", "004.pgd"], (0.5, 1))
    assert list(found.columns) == list(dt.EPS)
    eps = setting_of(smoke, "004.fgsm")["eps"]
    assert found["eps_255"].unique() == pytest.approx([255 * eps / 2, 255 * eps])
    known = tables.cross(smoke, ["margin"], ["004.pgd"]).iloc[0]
    mine = found[(found["attack"] == "004.pgd") & (found["detector"] == "margin")].iloc[1]
    assert (
        mine[["auroc", "low", "high", "success"]] == known[["auroc", "low", "high", "success"]]
    ).all()
    half = adversarial(smoke, "004.pgd", eps=eps / 2)
    assert (half.x_adv - half.x).abs().max() <= eps / 2 + 1e-6
    weaker = found[found["eps_255"] < 255 * eps * 0.9]
    assert weaker["success"].max() < found["success"].max()
    with pytest.raises(InputError, match=r"004.deepfool has no eps"):
        dt.by_eps(smoke, ["margin"], ["004.deepfool"])
    assert dt.by_eps(smoke, [], []).empty


def test_by_eps_fits_at_the_size_it_tests(smoke, monkeypatch):
    asked = []

    def cross(run, detectors, fitted_on, tested_on=None, *, own=False, fits=None):
        asked.append((fitted_on, tested_on, own, fits))
        return frame([], CELL)

    monkeypatch.setattr(tables, "cross", cross)
    dt.by_eps(smoke, ["id"], ["004.fgsm"], (0.5, 1), fits=2)
    eps = setting_of(smoke, "004.fgsm")["eps"]
    sizes = [{"004.fgsm": ("004.fgsm", changed)} for changed in ({"eps": eps / 2}, {})]
    assert asked == [(size, None, True, 2) for size in sizes]


def evaluated(scores, asked):
    """A stand-in for `evaluation`: scores (detector, tested on) -> clean and adversarial ones."""

    def evaluation(run, name, fit, test, *, fits=None):
        asked.append((name, fit, test, fits))
        clean, adversarial = (torch.tensor([s]) for s in scores[name, test])
        one = metrics.auroc(clean[0].numpy(), adversarial[0].numpy())
        record = {"all": {"auroc": one, "auroc_interval": [0.1, 0.9], "n": 4}}
        record |= {"n": 4, "collapsed": int(name == "gcd")}
        return SimpleNamespace(record=record, tensors={"clean": clean, "adversarial": adversarial})

    return evaluation


FLAT, SEEN, HALF = ([0.0] * 4, [0.0] * 4), ([0.0] * 4, [1.0] * 4), ([0.0, 2.0] * 2, [1.0] * 4)


def test_supervision_fits_on_the_attack_on_the_other_kind_or_on_none(smoke, monkeypatch):
    asked = []
    names = [*dt.ON_THE_ATTACK, *dt.ON_NO_ATTACK]
    attacks = ["004.pgd", "004.fgsm", "004.ddn", "004.deepfool"]
    scores = {(name, attack): FLAT for name in names for attack in attacks}
    monkeypatch.setattr(dt, "evaluation", evaluated(scores, asked))
    found = dt.supervision(smoke, attacks, fits=3)
    assert list(found.columns) == list(dt.SUPERVISION)
    own = found[found["supervision"] == "the attack"]
    assert (own["fitted_on"] == own["tested_on"]).all() and len(own) == 12
    other = found[found["supervision"] == "another attack"].drop_duplicates("tested_on")
    assert other.set_index("tested_on")["fitted_on"].to_dict() == {
        "004.pgd": "004.ddn",
        "004.fgsm": "004.ddn",
        "004.ddn": "004.pgd",
        "004.deepfool": "004.pgd",
    }
    none = found[found["supervision"] == "none"]
    assert set(none["detector"]) == set(dt.ON_NO_ATTACK) and set(none["fitted_on"]) == {""}
    assert {row[:3] for row in asked} == {
        (row.detector, row.fitted_on or row.tested_on, row.tested_on) for row in found.itertuples()
    }
    assert {row[3] for row in asked} == {3}
    assert set(found.loc[found["collapsed"] == 1, "detector"]) == {"gcd"}
    # where one kind is missing, the printed attack of that kind stands for it
    alone = dt.supervision(smoke, ["004.ddn"])
    monkeypatch.undo()
    assert set(alone.loc[alone["supervision"] == "another attack", "fitted_on"]) == {"004.fgsm"}


def test_detectors_stand_beside_the_best_scalar_of_each_attack(monkeypatch):
    scores = {(name, attack): FLAT for name in SCALARS for attack in ("a", "b")}
    scores |= {("noise", "a"): SEEN, ("margin", "b"): HALF, ("max_softmax", "b"): SEEN}
    scores |= {("id", "a"): SEEN, ("id", "b"): HALF, ("gcd", "a"): FLAT, ("gcd", "b"): SEEN}
    asked = []
    monkeypatch.setattr(dt, "evaluation", evaluated(scores, asked))
    found = dt.against_scalars(SimpleNamespace(seed=0), ["id", "gcd"], ["a", "b"], fits=2)
    assert list(found.columns) == list(dt.BESIDE_SCALARS)
    assert found["scalar"].tolist() == ["noise", "noise", "max_softmax", "max_softmax"]
    assert found["difference"].tolist() == [0.0, -0.5, -0.5, 0.0]
    assert ((found["low"] <= found["difference"]) & (found["difference"] <= found["high"])).all()
    assert found["collapsed"].tolist() == [0, 1, 0, 1]
    assert ("gcd", "b", "b", 2) in asked


def test_the_toy_net_reads_its_points_and_touches_no_randomness():
    x, y = toy.toy_points(0)
    assert x.shape == (300, 1, 1, 2) and x.min() >= 0 and x.max() <= 1
    torch.manual_seed(7)
    before = torch.get_rng_state()
    net = toy.toy_net(0)
    assert torch.equal(torch.get_rng_state(), before) and not net.training
    assert (net(x).argmax(1) == y).double().mean() > 0.97
    again, other = toy.toy_net(0), toy.toy_net(1)
    assert torch.equal(net(x), again(x)) and not torch.equal(net(x), other(x))


class Slope(nn.Module):
    """Two classes whose border is where the first value is .3; the second value does nothing."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 2)
        self.last.weight = nn.Parameter(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
        self.last.bias = nn.Parameter(torch.tensor([0.0, -1.2]))
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.last(x.flatten(1))


def test_the_field_has_the_first_value_along_its_columns():
    found = toy.field(Slope(), size=10)
    middles = (np.arange(10) + 0.5) / 10
    away, p = np.abs(middles - 0.3), 1 / (1 + np.exp(-4 * np.abs(middles - 0.3)))
    assert found["dist_z"] == pytest.approx(np.tile(away, (10, 1)), abs=1e-6)
    assert found["input_sensitivity"] == pytest.approx(np.tile(4 * (1 - p), (10, 1)), abs=1e-6)
    assert (found["prediction"] == (middles > 0.3)).all()
    net = toy.toy_net(0)
    point = torch.tensor([0.35, 0.85]).view(1, 1, 1, 2)  # of column 3, row 8
    cell = toy.field(net, size=10)
    assert cell["input_sensitivity"][8, 3] == pytest.approx(input_sensitivity(net, point).norm())
    assert cell["dist_z"][8, 3] == pytest.approx(dist_z(net, point).item())


FAST = ["insen", "margin"]


@pytest.mark.parametrize(
    "changes", [{"DATASET": "digits_rgb"}, {"MODEL": "tests.conftest:NearestMean"}]
)
def test_every_table_runs_on_colour_and_without_a_last_dense_layer(tmp_path, changes):
    run = configure(tmp_path, **changes)
    attacks = ["004.fgsm", "004.deepfool"]
    sets = {name: adversarial(run, name) for name in attacks}
    found = dt.border(run, FAST, "004.deepfool")
    assert found["auroc"].between(0, 1).all() and (found["n"] > 0).all()
    assert set(found["detector"]) == set(FAST)
    margin = found[found["detector"] == "margin"].set_index(["attack", "setting"])["auroc"]
    assert margin["deepfool", "overshoot 0.02"] > margin["deepfool", "overshoot 1"] + 0.1
    assert margin["ddn", "pushed x 1"] > margin["ddn", "pushed x 2"] + 0.1
    assert margin["pgd", "stopped at first success"] > margin["pgd", "40 steps"] + 0.1
    images = set(dt.distance(run, sets)["images"])
    assert images == ({"toy"} if "MODEL" in changes else {"toy", "clean", *attacks})
    pairs = [("margin", "dist_z"), ("margin", "noise")]
    assert len(dt.differences(run, pairs, attacks)) == (2 if "MODEL" in changes else 4)
    known = tables.cross(run, ["insen"], attacks, own=True)
    two = dt.table2(run, known, attacks)
    assert two["paper"].notna().all() and len(two) == 4
    assert (dt.wins(two)[["paper", "here"]] == 2).all(axis=None)
    assert len(dt.against_scalars(run, ["insen"], attacks)) == 2


def test_an_attack_that_fools_nothing_has_no_row(smoke, monkeypatch):
    made = dt.adversarial

    def nothing(run, name, **knobs):
        found = made(run, "004.ddn")
        more = {"setting": {"steps": 40}}
        return attacked(found.x, found.x, found.prediction, found.prediction, **more)

    monkeypatch.setattr(dt, "adversarial", nothing)
    found = dt.border(smoke, ["margin"], "004.ddn")
    assert set(found["attack"]) == {"clean"}
    assert set(dt.distance(smoke, {"004.ddn": nothing(smoke, "004.ddn")})["images"]) == {
        "toy",
        "clean",
    }
