"""A detector of the reader's own, from a notebook's cell, beside those of the series."""

import linecache
import sys
import types
from functools import partial

import pytest
import torch

from nbutils import InputError, steps
from nbutils.detectors import DETECTORS, gcd, groups
from nbutils.detectors.base import Detector
from nbutils.detectors.mahalanobis import Mahalanobis
from nbutils.detectors.networks import Network
from nbutils.detectors.scalars import Scalar
from nbutils.series import provenance
from nbutils.steps import joining
from tests.conftest import configure

MIRRORED = "def mirrored(model, x):\n    return torch.cat([x, x.flip(3)], 1)\n"


@pytest.fixture
def cell(monkeypatch):
    """Runs source as a notebook's cell does: in a module without a file, known to linecache."""
    notebook = types.ModuleType("a_notebook")
    notebook.torch = torch
    monkeypatch.setitem(sys.modules, "a_notebook", notebook)

    def typed(source):
        name = f"<cell {len(linecache.cache)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec"), notebook.__dict__)
        return notebook

    return typed


@pytest.fixture(autouse=True)
def left_as_found():
    """What joined leaves again."""
    lists = [groups.TRAINED, groups.FITTED, groups.LEARNED]
    dicts = [DETECTORS, groups.COMBINED]
    before, found = [list(group) for group in lists], [dict(known) for known in dicts]
    yield
    for group, was in zip(lists, before, strict=True):
        group[:] = was
    for known, was in zip(dicts, found, strict=True):
        known.clear()
        known.update(was)
    joining.JOINED.clear()


def test_a_detector_from_a_cell_is_fitted_kept_and_made_again_when_the_cell_changes(
    tmp_path, cell, caplog
):
    run = configure(tmp_path, ATTACKS=["fgsm"])
    steps.join(run, "mine", partial(Network, view=cell(MIRRORED).mirrored))
    _, first = steps.detector(run, "mine", "fgsm")
    found = steps.evaluation(run, "mine", "fgsm", "fgsm").record["all"]["auroc"]
    assert found > 0.8 and "mine" in groups.TRAINED and "mine" in groups.FITTED
    place = tmp_path / "digits-smoke-s0" / "detector" / "mine-fgsm-train-0" / "meta.json"
    made = place.stat().st_mtime_ns
    steps.join(run, "mine", partial(Network, view=cell(MIRRORED).mirrored))  # the cell, run again
    assert steps.detector(run, "mine", "fgsm")[1] == first and groups.TRAINED.count("mine") == 1
    assert place.stat().st_mtime_ns == made
    upright = cell(MIRRORED.replace("flip(3)", "flip(2)")).mirrored
    steps.join(run, "mine", partial(Network, view=upright))
    again, _ = steps.detector(run, "mine", "fgsm")
    assert place.stat().st_mtime_ns > made
    x = run.data.test[:2].pixels()
    assert torch.equal(again.view(x)[:, 1:], x.flip(2))
    scores = steps.evaluation(run, "mine", "fgsm", "fgsm").tensors["clean"]
    pictures = steps.adversarial(run, "fgsm").x
    assert torch.allclose(scores.flatten()[:8], again.score(pictures[:8]), atol=1e-5)
    result = run.record(key=("a", 1.0), tables={})
    told = result["code"]["steps"]["nbutils.steps.detector.make_detector"][1]
    assert told and not any("mine" in entry for entry in told)
    del DETECTORS["mine"]  # as where the published result is read
    assert provenance.older(result) == []


def test_one_that_needs_no_fit_joins_by_its_score(tmp_path, cell):
    run = configure(tmp_path)
    bright = cell("def bright(model, x):\n    return x.mean((1, 2, 3))\n").bright
    steps.join(run, "bright", partial(Scalar, function=bright))
    made, record = steps.detector(run, "bright")
    x = run.data.test[:3].pixels()
    assert torch.allclose(made.score(x), x.mean((1, 2, 3))) and record == {}
    assert "bright" not in groups.TRAINED


SUM = "def both(pixels, sensitivity):\n    return pixels + sensitivity\n"


def test_a_rule_of_gcd_from_a_cell_joins_and_a_changed_one_is_asked_anew(
    tmp_path, cell, monkeypatch
):
    run = configure(tmp_path, ATTACKS=["fgsm"])
    entry = partial(gcd.GCD, pixels="id", sensitivity="insen", rule="own")
    for factor in (1, 2):
        rule = cell(SUM.replace("return", f"return {factor} *")).both
        monkeypatch.setitem(gcd.RULES, "own", rule)
        steps.join(run, "gcd_own", entry)
        found = steps.evaluation(run, "gcd_own", "fgsm", "fgsm").tensors["clean"][0]
        halves = [steps.detector(run, name, "fgsm")[0] for name in ("id", "insen")]
        x = steps.adversarial(run, "fgsm").x
        expected = factor * halves[0].score(x) + halves[1].score(x)
        assert torch.allclose(found, expected, atol=1e-3), factor
    assert "gcd_own" in groups.TRAINED and groups.COMBINED["gcd_own"] == ("id", "insen")


class Own(Detector):
    trained = True


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("id", "mirrored", "has a detector 'id' already"),
        ("My one", "mirrored", "becomes part of file names"),
        ("mine", lambda: None, "must be a partial of a Detector"),
        ("mine", partial(Own), "fitted in a way of its own"),
        ("mine", partial(Mahalanobis), "fitted in a way of its own"),
        ("mine", partial(Network, view=lambda model, x: x), "write it with def"),
        ("mine", "def flat(model, x):\n    return x.flatten(1)\n", r"\(n,channels,h,w\)"),
        ("mine", "def flat(model, x):\n    return x / 0\n", "NaN or infinite"),
        ("mine", "def flat(model, x):\n    return None\n", "it is NoneType"),
    ],
)
def test_what_cannot_join_is_a_sentence_and_leaves_no_trace(tmp_path, cell, name, entry, said):
    run = configure(tmp_path)
    if entry == "mirrored":
        entry = partial(Network, view=cell(MIRRORED).mirrored)
    elif isinstance(entry, str):
        entry = partial(Network, view=cell(entry).flat)
    before = list(DETECTORS), list(groups.TRAINED)
    with pytest.raises(InputError, match=said):
        steps.join(run, name, entry)
    assert (list(DETECTORS), list(groups.TRAINED)) == before and not joining.JOINED
