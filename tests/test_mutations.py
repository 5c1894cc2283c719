"""Faults planted on purpose: each is caught by the check that is named for it, and the healthy case beside it passes."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from nbutils import InputError, artifacts, attacks, checks, detectors, models, runner, saliency
from tests.conftest import ROOT
from tests.test_detectors import pairs


@pytest.fixture
def guarded():
    return models.build("digits_net", (1, 12, 12), 3, seed=2)


class Scored(detectors.Detector):
    """A detector that is any function of the image."""

    def __init__(self, classifier, function):
        super().__init__(classifier)
        self.score = function


def test_identity_attack(guarded):
    x = torch.rand(5, 1, 12, 12)
    y = guarded(x).argmax(1)
    checks.attack_moves(x, attacks.fgsm(guarded, x, y, eps=0.1), 0.1)
    with pytest.raises(checks.Leak, match="unchanged"):
        checks.attack_moves(x, x.clone(), 0.1)
    with pytest.raises(checks.Leak, match="left its budget"):
        checks.attack_moves(x, attacks.fgsm(guarded, x, y, eps=0.2), 0.1)
    with pytest.raises(checks.Leak, match="left its budget"):
        checks.attack_moves(x, x * float("nan"), 0.1)
    with pytest.raises(InputError, match="NaN"):
        detectors.scores(Scored(guarded, lambda x: x.flatten(1).sum(1) * float("nan")), x)
    with pytest.raises(InputError, match="no rank"):
        checks.auroc(np.zeros(3), np.full(3, np.nan))


def test_flipped_detector_sign(guarded):
    x, x_adv, index = pairs()
    detector = detectors.build("id", guarded)
    detector.fit(x, x_adv, index, architecture="digits_net", epochs=12)
    assert checks.score_sign(detector, x, x_adv) > 0.9
    with pytest.raises(checks.Leak, match="sign is flipped"):
        checks.score_sign(Scored(guarded, lambda x: -detector.score(x)), x, x_adv)


def test_twins_across_the_split():
    x = (255 * torch.rand(20, 1, 4, 4)).to(torch.uint8)
    number = torch.arange(20)
    checks.sources_disjoint(number[:10], number[10:], x[:10], x[10:])
    with pytest.raises(checks.Leak, match="both sides"):
        checks.sources_disjoint(number[:11], number[10:])
    with pytest.raises(checks.Leak, match="byte for byte"):
        checks.sources_disjoint(number[:10], number[10:], x[:10], torch.cat([x[10:], x[:1]]))


def test_eight_bit_residue_on_one_side(guarded):
    clean = (255 * torch.rand(60, 1, 12, 12)).round() / 255
    residue = (clean + 0.3 / 255 * torch.rand_like(clean)).clamp(0, 1)
    reader = Scored(guarded, lambda x: ((255 * x) - (255 * x).round()).abs().flatten(1).mean(1))
    with pytest.raises(checks.Leak, match="storage format"):
        checks.eight_bit(reader, clean, residue)
    honest = Scored(guarded, lambda x: x.flatten(1).mean(1))
    assert checks.eight_bit(honest, clean, (clean + 0.2).clamp(0, 1))["rounded"] > 0.9


@pytest.mark.parametrize("channels", [1, 3])
def test_a_past_as_jpeg_on_one_side(guarded, channels):
    photographs = checks.through_jpeg(torch.nn.functional.interpolate(torch.rand(60, channels, 4, 4), 24, mode="bilinear"))
    fresh = (photographs + 2 / 255 * torch.randn_like(photographs)).clamp(0, 1)
    rough = Scored(guarded, lambda x: (x[..., 2:] - 2 * x[..., 1:-1] + x[..., :-2]).abs().flatten(1).mean(1))
    same = [checks.auroc(*(rough.score(side(part)).numpy() for part in (photographs, fresh))) for side in (lambda x: x, checks.through_jpeg)]
    assert same[0] > 0.9 and same[1] < same[0] - 0.2
    bright = (photographs + 0.2).clamp(0, 1)
    back = checks.through_jpeg(bright)
    assert back.shape == bright.shape and back.dtype == bright.dtype and (back - bright).abs().mean() < 2 / 255
    assert checks.auroc(*(checks.through_jpeg(part).flatten(1).mean(1).numpy() for part in (photographs, bright))) > 0.9


def test_train_mode_batch_normalisation_with_pure_batches(guarded):
    x, x_adv, _ = pairs()
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 1))
    detector = Scored(guarded, lambda x: net(x)[:, 0])
    net.eval()
    checks.batch_composition(detector, x, x_adv)
    net.train()
    outlier = x_adv.clone()
    outlier[0] *= 1e4
    for adversarial in (x_adv, outlier):
        with pytest.raises(checks.Leak, match="depend on the batch"):
            checks.batch_composition(detector, x, adversarial)


def test_a_score_at_a_kink_is_no_leak_and_a_leak_is_one_at_any_precision(guarded):
    """What the last bits of a sum do where the score jumps, and a jump of the same size that is not theirs."""
    clean, adversarial = torch.rand(2, 20, 1, 12, 12)
    rounding = lambda x: x.flatten(1).sum(1) * (1 + len(x) * torch.finfo(x.dtype).eps)  # noqa: E731  the larger the batch, the larger
    kink = clean[3].double().sum() * (1 + 30 * torch.finfo(torch.float32).eps)  # between what batches of 20 and of 40 make of one image

    def at_the_kink(x):
        return x.flatten(1).mean(1) + (rounding(x).double() > kink)

    found = [detectors.scores(Scored(guarded, at_the_kink), batch) for batch in (clean, torch.cat([clean, adversarial]))]
    assert (found[0][3] - found[1][3]).abs() > 0.9
    checks.batch_composition(Scored(guarded, at_the_kink), clean, adversarial)
    with pytest.raises(checks.Leak, match="depend on the batch"):
        checks.batch_composition(Scored(guarded, lambda x: at_the_kink(x) + 0.01 * (len(x) == 20)), clean, adversarial)
    fixed = torch.nn.functional.linear
    weights = torch.rand(1, 144)  # of a model of one's own that knows float32 alone
    with pytest.raises(checks.Leak, match="depend on the batch"):
        checks.batch_composition(Scored(guarded, lambda x: fixed(x.flatten(1), weights)[:, 0] + (len(x) == 20)), clean, adversarial)


@pytest.mark.parametrize("name", [
    "id", "jsd", "jacobian", "jacobian_softmax_float64", "jsd_random", "first_layer_jacobian", "smd", "max_softmax", "noise",
])
def test_a_detector_in_float64_scores_as_it_does(guarded, name):
    x, x_adv, index = pairs()
    through = detectors.others(name, guarded, x, x_adv) if name in detectors.STAND_INS else saliency.SaliencyModel(guarded, x[:1])
    detector = detectors.build(name, guarded, through if name in (*detectors.STAND_INS, *detectors.LEARNED) else None)
    if name in detectors.TRAINED:
        detector.fit(x, x_adv, index, architecture="digits_net", epochs=1)
    exact = checks._in_float64(detector)
    assert torch.allclose(detectors.scores(detector, x), detectors.scores(exact, x.double()), atol=1e-4)
    assert exact.look(x.double()) is None or exact.look(x.double()).dtype == torch.float64
    assert next(guarded.parameters()).dtype == torch.float32 and detectors.scores(detector, x).dtype == torch.float32


def test_a_path_that_leaves_a_trace(guarded):
    x = torch.rand(10, 1, 12, 12)
    y = guarded(x).argmax(1)
    detector = Scored(guarded, lambda x: x.flatten(1).sum(1))
    checks.null_attack(detector, lambda x: attacks.bim(guarded, x, y, eps=0.0, step=0.01, steps=3), x)
    with pytest.raises(checks.Leak, match="leaves a trace"):
        checks.null_attack(detector, lambda x: (x * 255).round() / 255, x)


def test_noise_as_good_as_the_attack_is_measured(guarded):
    x, x_adv, index = pairs()
    for kind in checks.NOISES:
        noisy = checks.matched_noise(x, x_adv, index, kind)
        rms = lambda a: (a - x).flatten(1).norm(dim=1)  # noqa: E731
        assert torch.allclose(rms(noisy), rms(x_adv), rtol=0.02) and noisy.min() >= 0 and noisy.max() <= 1
        assert torch.equal(noisy[3:5], checks.matched_noise(x[3:5], x_adv[3:5], index[3:5], kind))
    assert checks.random_noise_harmless(guarded, x, x, index, guarded(x).argmax(1))["attack"] == 0


def test_swapped_perturbations_keep_the_structure_and_lose_the_place():
    x = torch.full((3, 1, 2, 2), 0.5)
    x_adv = x + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1)
    assert torch.allclose(checks.swapped(x, x_adv)[:, 0, 0, 0], torch.tensor([0.8, 0.6, 0.7]))


def test_within_class_sees_through_a_label_reader():
    label, label_adv = np.array([0] * 50 + [1] * 50), np.array([1] * 90 + [0] * 10)
    by_label = checks.within_class(label.astype(float), label_adv.astype(float), label, label_adv)
    assert by_label == pytest.approx(0.5) and checks.auroc(label, label_adv) > 0.6
    assert checks.within_class(np.zeros(3), np.ones(3), np.zeros(3), np.ones(3)) is None


def test_outputs_that_are_not_from_these_sources():
    for path in runner.notebooks():
        notebook = json.loads(path.read_text())
        stored = notebook["metadata"]["nbutils"]["sources"]
        assert runner.sources_hash(notebook) == stored, f"{path.name}: run `make render`"
        edited = copy.deepcopy(notebook)
        next(c for c in edited["cells"] if c["cell_type"] == "code")["source"].append("\npass")
        assert runner.sources_hash(edited) != stored
    assert (ROOT / "notebooks").exists()


def test_an_unlocked_writer(tmp_path, monkeypatch):
    from contextlib import nullcontext
    from types import SimpleNamespace

    make = lambda folder: ({"x": torch.ones(1)}, {})  # noqa: E731
    artifacts.load_or_make(tmp_path / "a", make, arguments={})
    monkeypatch.setattr(artifacts, "FileLock", lambda *a, **k: nullcontext(SimpleNamespace(is_locked=False)))
    with pytest.raises(RuntimeError, match="not locked"):
        artifacts.load_or_make(tmp_path / "a", make, arguments={})
