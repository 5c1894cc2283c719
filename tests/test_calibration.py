"""Thresholds: from images that the classifier was not trained on, with the FPR that they really
give.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nbutils import InputError, steps
from nbutils.data.splits import load
from nbutils.detectors.base import scores, threshold_at
from nbutils.evaluation import leaks
from nbutils.evaluation.intervals import wilson
from nbutils.models.building import build
from nbutils.models.contract import check_trained, predict
from nbutils.steps import tables
from tests.conftest import ROOT, configure

DATA = Path(os.environ.get("NBUTILS_DATA", ROOT / "data"))


class Untrained(torch.nn.Module):
    """A user's own model with random weights."""

    def __init__(self):
        super().__init__()
        self.net = build("digits_net", (1, 28, 28), 10, seed=7)
        self.eval()

    def forward(self, x):
        return self.net(x)


def test_a_classifier_trained_here_holds_images_of_its_own_training_part_back():
    held, taken = (load("digits", held_back_from=part, calibrate=100) for part in ("train", "test"))
    whole = set(load("digits", calibrate=0).train.index.tolist())
    assert set(held.calibrate.index.tolist()) < whole and len(held.train) == len(whole) - 100
    assert not set(taken.calibrate.index.tolist()) & whole and len(taken.train) == len(whole)
    assert len(taken.calibrate) == 100 and len(taken.test) == len(held.test) - 100
    for data in (held, taken):
        parts = [set(part.index.tolist()) for part in (data.train, data.calibrate, data.test)]
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_of_few_test_images_a_third_is_held_back_at_most():
    data = load("digits", held_back_from="test", calibrate=10_000)
    assert len(data.calibrate) == 449 // 3 and len(data.test) == 449 - 449 // 3


@pytest.mark.parametrize(
    ("parameters", "brought"),
    [
        ({}, False),
        ({"MODEL": "cifar_net"}, False),
        ({"MODEL": "tests.conftest:NearestMean"}, True),
        ({"DATASET": "cifar10", "MODEL": "resnet20"}, True),
        ({"DATASET": "cifar10", "MODEL": "resnet20", "WEIGHTS": "none"}, False),
        ({"DATASET": "imagenet_subset"}, True),
    ],
)
def test_who_trained_the_classifier(tmp_path, parameters, brought):
    assert configure(tmp_path, **parameters).brought == brought


def test_an_own_model_is_calibrated_on_test_images_that_are_not_tested(tmp_path):
    run = configure(tmp_path, MODEL="tests.conftest:NearestMean")
    whole = load("digits", calibrate=0)
    held = set(run.data.calibrate.index.tolist())
    assert held and held <= set(whole.test.index.tolist())
    assert not held & set(run.data.test.index.tolist())
    cell = tables.cross(run, ["margin"], ["fgsm"]).iloc[0]
    assert cell["detector"] == "margin" and 0 <= cell["fpr_measured_5"] <= 1


def test_a_classifier_that_knows_its_calibration_images_is_seen():
    fair, known = torch.arange(1000) % 10 > 0, torch.arange(1000) % 500 > 0  # .9 and .998
    leaks.calibration_held_out(fair, torch.arange(800) % 10 > 0)
    leaks.calibration_held_out(fair[:30], torch.arange(800) % 9 > 0)  # few images differ by chance
    with pytest.raises(leaks.Leak, match=r"reads 0\.998 of 1000 calibration images"):
        leaks.calibration_held_out(known, fair)


def test_the_evaluation_step_asks_it(smoke, monkeypatch, tmp_path):
    """Calibration images that the classifier reads all, test images that it does not."""
    run = configure(tmp_path)
    base, held = steps.classifier(run), run.data
    wrong = predict(base.model, held.test.x).argmax(1) != held.test.y
    rows = torch.cat([wrong.nonzero()[:, 0], (~wrong).nonzero()[: 2 * int(wrong.sum()), 0]])
    assert len(rows) > 30
    fitted = base.artifact.tensors["test_logits"]
    fitted.copy_(fitted[rows.repeat(len(fitted) // len(rows) + 1)[: len(fitted)]])
    data = run.data.__class__(
        held.name, held.classes, held.train, held.train[:300], held.test, held.positions
    )
    y = held.test.y[rows.repeat(len(held.test) // len(rows) + 1)[: len(held.test)]]
    images = held.test.__class__(held.test.x, y, held.test.index)
    changed = data.__class__(held.name, held.classes, held.train, held.train[:300], images)
    run.__dict__["data"] = changed
    with pytest.raises(leaks.Leak, match="calibration images"):
        steps.evaluation(run, "margin", "", "fgsm")


@pytest.mark.parametrize(("share", "fpr"), [(0.05, 0.05), (0.01, 0.01)])
def test_nominal_and_measured_fpr_of_a_published_network_agree(tmp_path, monkeypatch, share, fpr):
    """ResNet-20 on CIFAR-10, 1,000 calibration and 1,000 test images."""
    if not (DATA / "weights" / "resnet20_cifar10.safetensors").exists():
        pytest.skip("weights/resnet20_cifar10.safetensors is not under the data root")
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    changes = {"calibrate": 1000, "test": 1000}
    run = configure(tmp_path, DATASET="cifar10", MODEL="resnet20", CHANGES=changes)
    assert len(run.data.calibrate) == len(run.data.test) == 1000
    found, _ = steps.detector(run, "max_softmax")
    held, tested = (scores(found, part.pixels()) for part in (run.data.calibrate, run.data.test))
    flagged = int((tested > threshold_at(held, fpr)).sum())
    low, high = wilson(flagged, 1000)
    calibrated = wilson(round(fpr * 1000), 1000)  # the threshold's own uncertainty
    assert low <= calibrated[1] and high >= calibrated[0], (flagged, low, high)
    right = [
        predict(steps.classifier(run).model, part.x).argmax(1) == part.y
        for part in (run.data.calibrate, run.data.test)
    ]
    leaks.calibration_held_out(*right)
    if fpr == 0.05:  # the README's fifth finding
        memory = scores(found, run.data.train[:1000].pixels())
        rates = [(tested > threshold_at(part, fpr)).double().mean() for part in (held, memory)]
        assert rates == pytest.approx([0.058, 0.136], abs=0.01)
    known = predict(steps.classifier(run).model, run.data.train.x[:1000]).argmax(1)
    with pytest.raises(leaks.Leak):  # what the thresholds came from before
        leaks.calibration_held_out(known == run.data.train.y[:1000], right[1])


def test_random_weights_get_a_sentence_before_anything_is_measured(tmp_path):
    run = configure(tmp_path, MODEL=f"{__name__}:Untrained")
    with pytest.raises(
        InputError, match=r"no better than chance \(10.0%\): it has no trained weights"
    ):
        steps.classifier(run)
    assert not list(tmp_path.rglob("meta.json"))


def test_what_is_better_than_chance_is_trained():
    y = torch.arange(200) % 4
    logits = torch.nn.functional.one_hot(y, 4).float()
    check_trained(logits, y)
    half = torch.where((torch.arange(200) % 2 == 0)[:, None], logits, logits.roll(1, 1))
    check_trained(half, y)
    with pytest.raises(InputError, match="no trained weights"):
        check_trained(logits.roll(1, 1), y)
    check_trained(logits[:20].roll(1, 1), y[:20])  # too few to tell


def test_the_environment_line_names_the_pictures_that_are_shown(tmp_path):
    run = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    assert "digits_rgb, preset smoke" in repr(run)


def test_consistency_takes_its_thresholds_from_calibration_images(tmp_path):
    run = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    found = steps.consistency(
        run, "fgsm", {"darker": {"maps": "grad_cam", "theta": 0.0, "transform": "darker"}}
    )
    t, model, mean = found.tensors, steps.classifier(run).model, found.tensors["mean"]
    x = run.data.calibrate.pixels()
    before, after = (model(z).softmax(1) for z in (x, x - mean.mean()))
    assert torch.allclose(t["calibrate_far"][0], (after - before).abs().sum(1), atol=1e-5)
    assert np.array_equal(t["calibrate_before"], before.argmax(1))
    assert not set(run.data.calibrate.index.tolist()) & set(t["index"].tolist())
