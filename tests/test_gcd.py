"""GCD (paper 004): the rule on planted probabilities, its rivals, the halves that it shares; the
spectral detector; and whether a detector is more than confidence.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from nbutils import steps
from nbutils.detectors import DETECTORS, gcd, views
from nbutils.detectors.base import scores, scores_of
from nbutils.detectors.building import build as build_detector
from nbutils.detectors.groups import COMBINED, CONFIDENCE
from nbutils.detectors.networks import Recipe
from nbutils.detectors.spectral import magnitudes
from nbutils.evaluation import confidence
from nbutils.models.training import Training, held_back
from nbutils.steps import tables, viewing
from nbutils.steps.run import Memory
from tests.conftest import configure
from tests.test_detectors import classifier_of, pairs

SHORT = Recipe("digits_net", Training(1))


@pytest.fixture
def guarded():
    return classifier_of(1)


def logit(p):
    return torch.tensor(p, dtype=torch.float64).logit()


def binary_entropy(p):
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


ORG = [0.9, 0.4, 0.51, 0.02, 0.5, 0.7]
IS = [0.6, 0.95, 0.2, 0.03, 0.5, 0.1]


def test_the_entropy_rule_on_planted_probabilities():
    """Paper 004, eq 10 and 11, number by number; at equal entropies the input sensitivity's."""
    want = [o if binary_entropy(o) < binary_entropy(s) else s for o, s in zip(ORG, IS, strict=True)]
    assert want == [0.9, 0.95, 0.2, 0.02, 0.5, 0.1]
    found = gcd.entropy(logit(ORG), logit(IS)).sigmoid()
    assert found.tolist() == pytest.approx(want)
    two = torch.tensor([2.0])
    assert gcd.entropy(two, -two) == -2 and gcd.entropy(-two, two) == 2


def test_halves_that_are_both_sure_are_told_apart_where_p_is_1():
    """Both p are 1 in float32, and their entropies 0: the logits still say which is surer."""
    sure, surer = torch.tensor([30.0, -30.0]), torch.tensor([-60.0, 60.0])
    assert sure.sigmoid()[0] == 1 == surer.sigmoid()[1]
    assert torch.equal(gcd.entropy(sure, surer), surer)
    assert torch.equal(gcd.entropy(surer, sure), surer)


def test_the_rivals_of_the_rule_on_planted_probabilities():
    o, s = logit(ORG), logit(IS)
    assert gcd.mean(o, s).sigmoid().tolist() == pytest.approx(
        [(a + b) / 2 for a, b in zip(ORG, IS, strict=True)]
    )
    assert gcd.maximum(o, s).sigmoid().tolist() == pytest.approx([*map(max, ORG, IS)])
    far = torch.tensor([200.0, -200.0, 200.0])
    apart = gcd.mean(far, torch.tensor([100.0, -100.0, -200.0]))
    assert torch.isfinite(apart).all() and apart[0] > 90 and apart[1] < -90 and apart[2] == 0


class Planted(nn.Module):
    """A half's network whose logits are (0, a pixel of what it looks at)."""

    def __init__(self, place):
        super().__init__()
        self.place = place
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))

    def forward(self, x):
        value = 20 * (x.flatten(1)[:, self.place] - 0.5)
        return torch.stack([torch.zeros_like(value), value], 1)


def test_gcd_scores_by_the_rule_and_says_which_half_it_followed(guarded):
    detector = build_detector("gcd", guarded)
    pixels, sensitivity = detector.halves
    pixels.net, sensitivity.net = Planted(0), Planted(1)
    sensitivity.looks_at = lambda _, x: x  # both look at the image here
    x = torch.rand(50, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    o, s = ((20 * (x.flatten(1)[:, i] - 0.5)) for i in (0, 1))
    assert torch.allclose(detector.score(x), torch.where(o.abs() > s.abs(), o, s))
    assert torch.equal(detector.by_pixels(x), o.abs() > s.abs())
    assert 5 < detector.by_pixels(x).sum() < 45
    assert torch.equal(detector.decide(x), detector.score(x) > 0)
    assert torch.allclose(detector.score(detector.view(x), detector.view(x)), detector.score(x))


@pytest.mark.parametrize("name", ["gcd", "gcd_stacked"])
def test_gcd_is_its_halves_as_they_are_fitted_alone(guarded, name):
    detector, (x, x_adv, index) = build_detector(name, guarded), pairs()
    record = detector.fit(x, x_adv, index, SHORT, seed=4)
    alone = [build_detector(half, guarded) for half in COMBINED[name]]
    records = [half.fit(x, x_adv, index, SHORT, seed=4) for half in alone]
    for mine, half in zip(detector.halves, alone, strict=True):
        assert torch.equal(scores(mine, x), scores(half, x))
    assert record["collapses"] == sum(one["collapses"] for one in records)
    assert record["collapsed"] == any(one["collapsed"] for one in records)
    again = build_detector(name, guarded).load(detector.state(), (1, 12, 12), SHORT)
    assert torch.equal(scores(again, x_adv), scores(detector, x_adv))


def test_the_stacked_rule_is_fitted_on_what_no_half_was_trained_on(guarded):
    """Halves that know their training rows by heart, one of them nothing else: on its training rows
    it looks perfect, and the stacked rule must not believe it.
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(400, 1, 12, 12, generator=generator)
    x_adv, index = torch.rand(400, 1, 12, 12, generator=generator), torch.arange(400)
    held = held_back(torch.cat([index, index]), Training.validate, 9)
    assert len(held) == 80 and torch.equal(held[:40] + 400, held[40:])
    y = torch.arange(800) >= 400
    by_heart, honest = torch.randn(800, generator=generator), torch.randn(800, generator=generator)
    train = torch.ones(800, dtype=torch.bool).index_fill(0, held, False)
    by_heart[train] += 8 * y[train]
    honest += 2 * y
    key = torch.cat([x, x_adv]).flatten(1)[:, 0]

    class Table(nn.Module):
        def __init__(self, values):
            super().__init__()
            self.values = values
            self.register_buffer("mean", torch.zeros(1, 1, 1, 1))

        def forward(self, images):
            row = (images.flatten(1)[:, :1] == key).float().argmax(1)
            return torch.stack([torch.zeros(len(row)), self.values[row]], 1)

    detector = build_detector("gcd_stacked", guarded)
    for half, values in zip(detector.halves, (by_heart, honest), strict=True):
        half.net, half.looks_at = Table(values), lambda _, images: images
    fine = {"collapses": 0, "collapsed": False}
    record = detector.combine(x, x_adv, index, [fine, fine], seed=9)
    assert record["stacked_on"] == 40 and not record["collapsed"]
    assert detector.weights[1] > 3 * detector.weights[0].abs()
    want = detector.weights[0] * by_heart + detector.weights[1] * honest + detector.weights[2]
    assert torch.allclose(detector.score(torch.cat([x, x_adv])), want, atol=1e-4)
    again = {"collapses": 1, "collapsed": False}  # from another seed: other rows were held back
    assert detector.combine(x, x_adv, index, [fine, again], seed=9)["stacked_on"] == 0
    assert detector.weights.tolist() == [1, 1, 0]
    gone = {"collapses": 3, "collapsed": True}  # says the same of every row, seen or not
    record = detector.combine(x, x_adv, index, [gone, fine], seed=9)
    assert record["stacked_on"] == 40 and record["collapsed"] and record["collapses"] == 3


def test_a_step_makes_gcd_of_halves_that_it_keeps(smoke):
    found, record = steps.detector(smoke, "gcd", "fgsm")
    halves = [steps.detector(smoke, name, "fgsm")[0] for name in ("id", "insen")]
    assert found.halves[0] is halves[0] and found.halves[1] is halves[1]
    places = {place for place in smoke.timings if place.startswith("detector/")}
    assert {f"detector/{n}-fgsm-train-0" for n in ("id", "insen", "gcd")} <= places
    assert {"collapses", "collapsed"} <= set(record)
    rules = ("gcd", "gcd_mean", "gcd_maximum")
    kept = {rule: steps.evaluation(smoke, rule, "fgsm", "fgsm").tensors for rule in rules}
    alone = [steps.evaluation(smoke, n, "fgsm", "fgsm").tensors for n in ("id", "insen")]
    for side in ("clean", "adversarial", "calibrate"):
        o, s = (one[side] for one in alone)
        assert torch.allclose(kept["gcd"][side], gcd.entropy(o, s), atol=1e-5)
        assert torch.allclose(kept["gcd_mean"][side], gcd.mean(o, s), atol=1e-5)
        assert torch.allclose(kept["gcd_maximum"][side], gcd.maximum(o, s), atol=1e-5)
    again = configure(smoke.folder.parent)
    assert torch.equal(
        scores(steps.detector(again, "gcd", "fgsm")[0], found_images(smoke)),
        scores(found, found_images(smoke)),
    )


def found_images(run):
    return run.data.test[:20].pixels()


def test_gcds_of_two_attacks_are_two(smoke):
    """Their own tensors are a threshold alone; what their halves are must be part of what they
    are, or the scores of one would pass for those of the other.
    """
    kept = {}
    for attack in ("fgsm", "pgd"):
        kept[attack] = steps.evaluation(smoke, "gcd", attack, "fgsm").tensors["clean"]
        alone = [
            steps.evaluation(smoke, name, attack, "fgsm").tensors["clean"]
            for name in COMBINED["gcd"]
        ]
        assert torch.allclose(kept[attack], gcd.entropy(*alone), atol=1e-5)
    assert not torch.equal(kept["fgsm"], kept["pgd"])


def test_the_spectral_detector_is_a_logistic_regression_on_magnitudes(guarded):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, x_adv, index), (z, z_adv, _) = pairs(), pairs(seed=1)
    detector = build_detector("spectral", guarded)
    record = detector.fit(x, x_adv, index)
    assert record == {"collapsed": False, "collapses": 0}
    want = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced"))

    def features(images):
        return np.abs(np.fft.rfft2(images.numpy().astype(np.float64))).reshape(len(images), -1)

    want.fit(features(torch.cat([x, x_adv])), np.repeat([0, 1], [len(x), len(x_adv)]))
    assert np.allclose(magnitudes(None, z).flatten(1), features(z), atol=1e-3)
    got = scores(detector, torch.cat([z, z_adv]))
    assert np.allclose(got, want.decision_function(features(torch.cat([z, z_adv]))), atol=0.02)
    shifted = torch.roll(z_adv, (3, 5), (2, 3))  # sizes do not say where
    assert torch.allclose(scores(detector, shifted), scores(detector, z_adv), atol=1e-3)
    noise = torch.rand(80, 1, 12, 12)
    dull = build_detector("spectral", guarded).fit(noise, noise.clone(), index)
    assert dull == {"collapsed": True, "collapses": 1}


def planted(function, n=400, seed=0):
    """Scores (1,n) of clean and attacked images whose margins overlap, and of a trace that the
    attack leaves beside.
    """
    rng = np.random.default_rng(seed)
    margin = (-rng.gamma(4.0, 2.0, n), -rng.gamma(3.0, 2.0, n))
    trace = (rng.normal(0, 1, n), rng.normal(3, 1, n))
    noise = (rng.normal(0, 1, n), rng.normal(0, 1, n))
    return tuple(
        torch.tensor(function(m, t, e))[None] for m, t, e in zip(margin, trace, noise, strict=True)
    )


PLANTED = {
    "the margin itself, bent": (lambda m, t, e: np.exp(m / 3), confidence.CONFIDENCE),
    "the margin, learned badly": (lambda m, t, e: m + 0.7 * e, confidence.CONFIDENCE),
    "the margin, cut off": (lambda m, t, e: np.maximum(m, -9.0), confidence.CONFIDENCE),
    "a trace": (lambda m, t, e: t, confidence.MORE),
    "a trace and the margin": (lambda m, t, e: m / 3 + t, confidence.MORE),
    "noise": (lambda m, t, e: e, confidence.NO_MORE),
    "the margin reversed": (lambda m, t, e: -m, confidence.NO_MORE),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_confidence_detector_is_told_as_one(kind):
    function, want = PLANTED[kind]
    scalars = {
        "margin": planted(lambda m, t, e: m),
        "entropy": planted(lambda m, t, e: np.exp(m / 5) + 0.02 * e),
        "weak": planted(lambda m, t, e: 0.1 * m - e),  # to beat this one alone is not enough
    }
    cell = {"detector": kind, "fitted_on": "a", "tested_on": "a"}
    rows = confidence.beside(planted(function), scalars)
    rows = pd.DataFrame([{**cell, **row} for row in rows], columns=list(confidence.BESIDE))
    found = confidence.told(rows)
    assert list(found.columns) == list(confidence.TOLD) and len(found) == 1
    assert found["answer"][0] == want
    if kind == "the margin itself, bent":
        assert found["nearest_scalar"][0] == "margin" and found["rank"][0] == pytest.approx(1)
        assert rows["difference"][0] == 0 == rows["low"][0] == rows["high"][0]


def test_few_images_leave_it_open():
    few = [planted(f, n=40) for f in (lambda m, t, e: t + 4 * e, lambda m, t, e: m)]
    rows = pd.DataFrame(confidence.beside(few[0], {"margin": few[1]}))
    rows[["detector", "fitted_on", "tested_on"]] = "a"
    assert confidence.told(rows)["answer"][0] == confidence.OPEN


def test_the_corridor_tells_a_detector_beside_the_scalars(smoke):
    found = tables.beside_confidence(smoke, ["id", "margin"], ["fgsm"], own=True)
    assert list(found.columns) == list(confidence.BESIDE)
    assert list(found["scalar"]) == [*CONFIDENCE] * 2
    cells = tables.cross(smoke, ["id", *CONFIDENCE], ["fgsm"]).set_index("detector")["auroc"]
    for row in found[found["detector"] == "id"].to_dict("records"):
        assert row["auroc"] == pytest.approx(cells["id"])
        assert row["auroc_scalar"] == pytest.approx(cells[row["scalar"]])
    answers = confidence.told(found).set_index("detector")["answer"]
    assert answers["margin"] == confidence.CONFIDENCE


def test_every_gcd_names_halves_that_are_detectors():
    assert len(COMBINED) == 8 and all(set(halves) < set(DETECTORS) for halves in COMBINED.values())


def test_what_detectors_look_at_is_computed_once_for_all_of_them(guarded, monkeypatch):
    x, x_adv, index = pairs(24)
    asked, exact = [], views.sensitivity_factors

    def counted(classifier, x, **knobs):
        asked.append(len(x))
        return exact(classifier, x, **knobs)

    def fitted(name, seed):
        made = DETECTORS[name](guarded)
        made.fit(x, x_adv, index, SHORT, seed=seed)
        return made

    raw = [fitted("insen", 0), fitted("insen", 1)]
    log, pixels = fitted("insen_log", 0), fitted("id", 0)
    rules = [DETECTORS[f"gcd{rule}"](guarded, halves=(pixels, raw[0])) for rule in ("", "_mean")]
    monkeypatch.setattr(views, "sensitivity_factors", counted)
    memory, alone = Memory(), []
    for fits in (raw, rules[:1], rules[1:], [log]):
        alone.append(scores_of(fits, x))
    asked.clear()
    for fits, want in zip((raw, rules[:1], rules[1:], [log]), alone, strict=True):
        assert torch.equal(viewing.scores_of(memory, fits, x), want)
        # the fits and the rules share one view; another reading is another one
        assert len(asked) == (2 if fits == [log] else 1)
    viewing.scores_of(memory, raw, x.flip(0))
    assert len(asked) == 3  # and so are other images
    bank = viewing.viewed(memory, DETECTORS["spd"](guarded), x)
    assert bank is None  # what looks through a model of its own is not shared
