"""Faults planted on purpose: each is caught by the check that is named for it, and the healthy case
beside it passes.
"""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, linear

from nbutils import InputError
from nbutils.attacks.carlini_wagner import carlini_wagner_l2
from nbutils.attacks.gradient import bim, fgsm
from nbutils.data.images import Images, to_levels
from nbutils.detectors.base import Detector, scores
from nbutils.detectors.building import bank_for
from nbutils.detectors.building import build as build_detector
from nbutils.detectors.groups import LEARNED, MAHALANOBIS, ON_CLEAN, TRAINED
from nbutils.detectors.networks import Recipe
from nbutils.evaluation import controls, leaks
from nbutils.evaluation.metrics import auroc
from nbutils.models.building import build as build_network
from nbutils.models.training import Training
from nbutils.saliency.learned import SaliencyModel
from nbutils.series import runner
from nbutils.store import artifacts, files
from tests.conftest import ROOT
from tests.test_detectors import pairs


@pytest.fixture
def guarded():
    return build_network("digits_net", (1, 12, 12), 3, seed=2)


class Scored(Detector):
    """A detector that is any function of the image."""

    def __init__(self, classifier, function):
        super().__init__(classifier)
        self.function = function

    def score(self, x, viewed=None):
        return self.function(x)


def brightness(x):
    return x.flatten(1).mean(1)


def test_identity_attack(guarded):
    x = torch.rand(5, 1, 12, 12)
    y = guarded(x).argmax(1)
    leaks.attack_moves(x, fgsm(guarded, x, y, eps=0.1), 0.1)
    with pytest.raises(leaks.Leak, match="unchanged"):
        leaks.attack_moves(x, x.clone(), 0.1)
    with pytest.raises(leaks.Leak, match="left its budget"):
        leaks.attack_moves(x, fgsm(guarded, x, y, eps=0.2), 0.1)
    with pytest.raises(leaks.Leak, match="left its budget"):
        leaks.attack_moves(x, x * float("nan"), 0.1)
    with pytest.raises(InputError, match="NaN"):
        scores(Scored(guarded, lambda x: x.flatten(1).sum(1) * float("nan")), x)
    with pytest.raises(InputError, match="no rank"):
        auroc(np.zeros(3), np.full(3, np.nan))


def test_flipped_detector_sign(guarded):
    x, x_adv, index = pairs()
    detector = build_detector("id", guarded)
    detector.fit(x, x_adv, index, Recipe("digits_net", Training(12)))
    assert leaks.score_sign(detector, x, x_adv) > 0.9
    with pytest.raises(leaks.Leak, match="sign is flipped"):
        leaks.score_sign(Scored(guarded, lambda x: -detector.score(x)), x, x_adv)


def test_twins_across_the_split():
    x = (255 * torch.rand(20, 1, 4, 4)).to(torch.uint8)
    number = torch.arange(20)
    leaks.sources_disjoint(number[:10], number[10:], x[:10], x[10:])
    with pytest.raises(leaks.Leak, match="both sides"):
        leaks.sources_disjoint(number[:11], number[10:])
    with pytest.raises(leaks.Leak, match="byte for byte"):
        leaks.sources_disjoint(number[:10], number[10:], x[:10], torch.cat([x[10:], x[:1]]))


def fractions(x):
    return (255 * x - (255 * x).round()).abs().flatten(1).mean(1)


def judged(detector, clean, adversarial):
    return leaks.storage_format(detector, clean, adversarial, torch.arange(len(clean)))


def test_who_reads_the_storage_format_is_named_also_beside_an_honest_signal(guarded):
    clean = (
        255 * torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    ).round() / 255
    y = guarded(clean).argmax(1)
    attacked = fgsm(guarded, clean, y, eps=20.3 / 255)
    sure = build_detector("max_softmax", guarded)
    readers = {
        "alone": fractions,
        "beside doubt": lambda x: fractions(x) + 0.05 * sure.score(x).float(),
        "as a count": lambda x: (fractions(x) > 0.01).float() + 0.05 * sure.score(x).float(),
        "turned": lambda x: 0.05 * sure.score(x).float() - fractions(x),
    }
    for function in readers.values():
        with pytest.raises(leaks.Leak, match="storage format"):
            judged(Scored(guarded, function), clean, attacked)
    trained = build_detector("id", guarded)
    trained.fit(clean, attacked, torch.arange(60), Recipe("digits_net", Training(12)))
    for honest in (sure, trained, Scored(guarded, brightness)):
        assert judged(honest, clean, attacked)["fractions"] == pytest.approx(0.5, abs=0.1)


def test_who_sees_all_noise_and_lives_on_the_attacks_is_not_accused(guarded):
    flat = torch.linspace(0.2, 0.8, 60).mul(255).round().div(255).view(-1, 1, 1, 1)
    clean = flat.expand(60, 1, 12, 12).clone()
    attacked = fgsm(guarded, clean, guarded(clean).argmax(1), eps=20.3 / 255)
    found = judged(build_detector("noise", guarded), clean, attacked)
    assert found["fractions"] > 0.9 and found["raw"] == pytest.approx(found["rounded"], abs=0.02)


@pytest.mark.parametrize("dark", [False, True])  # on black ground half of it is cut away
def test_an_honest_detector_of_less_than_half_a_level_is_not_accused(guarded, dark):
    drawn = torch.Generator().manual_seed(3)
    clean = (255 * torch.rand(60, 1, 12, 12, generator=drawn)).round() / 255
    if dark:
        clean[:, :, :8] = 0
    pattern = torch.randn(1, 1, 6, 12, generator=drawn).sign()
    pattern = torch.stack([pattern, -pattern], 3).flatten(2, 3)  # as many up as down, everywhere
    attacked = (clean + 0.45 / 255 * pattern).clamp(0, 1)
    filtered = (clean * pattern).flatten(1).sum(1)

    def matched(x):  # as one that knows the image would see it
        return (x * pattern).flatten(1).sum(1) - filtered

    found = judged(Scored(guarded, matched), clean, attacked)
    assert found["rounded"] == 0.5  # as a rule for naming readers this would be a false alarm
    assert found["fractions"] == pytest.approx(0.5, abs=0.1)


def test_attacks_that_end_on_levels_have_no_fractions(guarded):
    clean = (
        255 * torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    ).round() / 255
    attacked = to_levels(fgsm(guarded, clean, guarded(clean).argmax(1), eps=20.3 / 255))
    carried = leaks.with_fractions(clean, attacked, torch.arange(20))
    assert torch.equal(carried, to_levels(clean))
    assert judged(Scored(guarded, fractions), clean, attacked)["fractions"] == 0.5
    some = leaks.with_fractions(clean[3:5], attacked[3:5] + 0.001, torch.arange(3, 5))
    both = leaks.with_fractions(clean, attacked + 0.001, torch.arange(20))
    assert torch.equal(some, both[3:5]) and both.min() >= 0 and both.max() <= 1


def test_a_detector_that_says_the_same_of_everything_is_named(guarded):
    x, x_adv, index = pairs()
    for constant in (0.0, 3.5):
        detector = Scored(guarded, lambda x, c=constant: torch.full((len(x),), c))
        test = Images((255 * x).byte(), torch.zeros(len(x), dtype=torch.long), index)
        with pytest.raises(leaks.Leak, match="same score"):
            controls.measured(detector, x, x_adv, index, test, x)
        assert controls.measured(detector, x, x_adv, index, test, x, collapsed=True)["auroc"] == 0.5
    leaks.says_something(np.array([0.0, 0.0]), np.array([0.0, 1e-6]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_past_as_jpeg_on_one_side(channels):
    through_jpeg = controls.through_jpeg
    smooth = interpolate(torch.rand(60, channels, 4, 4), 24, mode="bilinear")
    photographs = through_jpeg(smooth)
    fresh = (photographs + 2 / 255 * torch.randn_like(photographs)).clamp(0, 1)

    def roughness(x):
        return (x[..., 2:] - 2 * x[..., 1:-1] + x[..., :-2]).abs().flatten(1).mean(1)

    def told_apart(score, *sides):
        return auroc(*(score(side).numpy() for side in sides))

    raw = told_apart(roughness, photographs, fresh)
    stored = told_apart(roughness, through_jpeg(photographs), through_jpeg(fresh))
    assert raw > 0.9 and stored < raw - 0.2
    bright = (photographs + 0.2).clamp(0, 1)
    back = through_jpeg(bright)
    assert back.shape == bright.shape and back.dtype == bright.dtype
    assert (back - bright).abs().mean() < 2 / 255
    assert told_apart(brightness, through_jpeg(photographs), back) > 0.9


def test_train_mode_batch_normalisation_with_pure_batches(guarded):
    x, x_adv, _ = pairs()
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 1)
    )
    detector = Scored(guarded, lambda x: net(x)[:, 0])
    net.eval()
    leaks.batch_composition(detector, x, x_adv)
    net.train()
    outlier = x_adv.clone()
    outlier[0] *= 1e4
    for adversarial in (x_adv, outlier):
        with pytest.raises(leaks.Leak, match="depend on the batch"):
            leaks.batch_composition(detector, x, adversarial)


def test_a_score_at_a_kink_is_no_leak_and_a_leak_is_one_at_any_precision(guarded):
    """What the last bits of a sum do where the score jumps, and a jump of the same size that is not
    theirs.
    """
    clean, adversarial = torch.rand(2, 20, 1, 12, 12)
    # between what batches of 20 and of 40 make of one image
    kink = clean[3].double().sum() * (1 + 30 * torch.finfo(torch.float32).eps)

    def rounding(x):  # the larger the batch, the larger
        return x.flatten(1).sum(1) * (1 + len(x) * torch.finfo(x.dtype).eps)

    def at_the_kink(x):
        return brightness(x) + (rounding(x).double() > kink)

    def by_batch(x):
        return at_the_kink(x) + 0.01 * (len(x) == 20)

    weights = torch.rand(1, 144)  # of a model of one's own that knows float32 alone

    def by_batch_in_float32(x):
        return linear(x.flatten(1), weights)[:, 0] + (len(x) == 20)

    detector = Scored(guarded, at_the_kink)
    alone, mixed = (scores(detector, batch) for batch in (clean, torch.cat([clean, adversarial])))
    assert (alone[3] - mixed[3]).abs() > 0.9
    leaks.batch_composition(detector, clean, adversarial)
    for leaking in (by_batch, by_batch_in_float32):
        with pytest.raises(leaks.Leak, match="depend on the batch"):
            leaks.batch_composition(Scored(guarded, leaking), clean, adversarial)


def test_a_tie_in_the_picture_is_no_leak(guarded):
    """Where a flat patch ties the values of a max-pooling, its derivative may be any of theirs, in
    float64 too: which one it is hangs on the batch, and says nothing of the attack.
    """
    clean, adversarial = torch.rand(2, 20, 1, 12, 12)
    clean[3, 0, 0, :2] = 1.0

    def tied(x):
        return brightness(x) + 0.1 * (x[:, 0, 0, 0] == x[:, 0, 0, 1]) * (len(x) != 20)

    detector = Scored(guarded, tied)
    mixed = scores(detector, torch.cat([clean, adversarial]))
    assert (scores(detector, clean) - mixed[:20]).abs()[3] > 0.05
    leaks.batch_composition(detector, clean, adversarial)
    untied = leaks._untied(clean)
    assert untied.min() >= 0 and untied.max() <= 1 and (untied - clean).abs().max() <= 1e-4

    def everywhere(x):
        return brightness(x) + 0.1 * (len(x) != 20)

    with pytest.raises(leaks.Leak, match="depend on the batch"):
        leaks.batch_composition(Scored(guarded, everywhere), clean, adversarial)


def test_two_pictures_do_not_accuse_a_detector_of_reading_the_format(guarded):
    """Their AUROC is 0, a half or 1 by luck."""
    clean = (255 * torch.rand(2, 1, 12, 12)).round() / 255
    attacked = (clean + 20.3 / 255).clamp(0, 1)
    found = judged(Scored(guarded, fractions), clean, attacked)
    assert found["fractions"] == 1 and abs(found["raw"] - found["rounded"]) > 0.02


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "jsd",
        "jacobian",
        "jacobian_softmax_float64",
        "jsd_random",
        "first_layer_jacobian",
        "smd",
        "max_softmax",
        "noise",
        "id_high_pass",
        "spectral",
        "insen",
        "insen_log",
        "insen_pattern",
        "gcd",
        "gcd_cured_stacked",
        "dist_z",
        "mahalanobis",
        "mahalanobis_max",
        "tws",
    ],
)
def test_a_detector_in_float64_scores_as_it_does(guarded, name):
    x, x_adv, index = pairs()
    through = bank_for(name, guarded, x, x_adv)
    if name in LEARNED:
        through = SaliencyModel(guarded, x[:1])
    detector = build_detector(name, guarded, through)
    if name in TRAINED:
        recipe = [Recipe("digits_net", Training(1))] if name not in MAHALANOBIS else []
        detector.fit(x, x_adv, index, *recipe)
    if name in ON_CLEAN:
        detector.fit(x, **({"tune": False} if name == "tws" else {}))
    exact = leaks.in_float64(detector)
    assert torch.allclose(scores(detector, x), scores(exact, x.double()), atol=1e-4)
    viewed = exact.view(x.double())
    assert viewed is None or viewed.dtype == torch.float64
    assert next(guarded.parameters()).dtype == torch.float32
    assert scores(detector, x).dtype == torch.float32


def test_a_path_that_leaves_a_trace(guarded):
    x = torch.rand(10, 1, 12, 12)
    y = guarded(x).argmax(1)
    detector = Scored(guarded, lambda x: x.flatten(1).sum(1))
    leaks.null_attack(detector, lambda x: bim(guarded, x, y, eps=0.0, step=0.01, steps=3), x)
    with pytest.raises(leaks.Leak, match="leaves a trace"):
        leaks.null_attack(detector, lambda x: (x * 255).round() / 255, x)


def test_the_trace_of_carlini_and_wagners_tanh(guarded):
    """Few of the values that were 0 or 1 still are when they come back: who counts them knows the
    attack by its path, whatever it has done.
    """
    shade = torch.linspace(0.2, 0.8, 60).view(-1, 1, 1, 1)
    drawn = torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    clean = (shade + 1.5 * (drawn - 0.5)).clamp(0, 1)  # many values are 0 or 1

    def neither_0_nor_1(x):
        return ((x > 0) & (x < 1)).float().flatten(1).mean(1)

    y = guarded(clean).argmax(1)
    attacked = carlini_wagner_l2(guarded, clean, y, search_steps=3, steps=60, lr=0.1, const=1.0)
    assert auroc(neither_0_nor_1(clean).numpy(), neither_0_nor_1(attacked).numpy()) > 0.9
    with pytest.raises(leaks.Leak, match=r"tanh alone have an AUROC of 1\.00"):
        leaks.null_tanh(Scored(guarded, neither_0_nor_1), clean)
    for honest in (Scored(guarded, brightness), build_detector("max_softmax", guarded)):
        assert leaks.null_tanh(honest, clean) == pytest.approx(0.5, abs=0.01)
    fitted = build_detector("id", guarded)
    fitted.fit(*pairs(), Recipe("digits_net", Training(12)))
    assert leaks.null_tanh(fitted, clean) == pytest.approx(0.5, abs=0.01)


def test_noise_as_good_as_the_attack_is_measured(guarded):
    x, x_adv, index = pairs()

    def size(images):
        return (images - x).flatten(1).norm(dim=1)

    for kind in controls.NOISES:
        noisy = controls.matched_noise(x, x_adv, index, kind)
        assert torch.allclose(size(noisy), size(x_adv), rtol=0.02)
        assert noisy.min() >= 0 and noisy.max() <= 1
        some = controls.matched_noise(x[3:5], x_adv[3:5], index[3:5], kind)
        assert torch.equal(noisy[3:5], some)
    nothing = controls.random_noise_harmless(guarded, x, x, index, guarded(x).argmax(1))
    assert nothing["attack"] == 0


def test_swapped_perturbations_keep_the_structure_and_lose_the_place():
    x = torch.full((3, 1, 2, 2), 0.5)
    x_adv = x + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1)
    found = controls.swapped(x, x_adv)[:, 0, 0, 0]
    assert torch.allclose(found, torch.tensor([0.8, 0.6, 0.7]))


def test_within_class_sees_through_a_label_reader():
    label, label_adv = np.array([0] * 50 + [1] * 50), np.array([1] * 90 + [0] * 10)
    by_label = (label.astype(float), label_adv.astype(float))
    assert controls.within_class(*by_label, label, label_adv) == pytest.approx(0.5)
    assert auroc(label, label_adv) > 0.6
    assert controls.within_class(np.zeros(3), np.ones(3), np.zeros(3), np.ones(3)) is None


def test_outputs_that_are_not_from_these_sources():
    for path in [*runner.notebooks(), *runner.solutions()]:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        stored = notebook["metadata"]["nbutils"]["sources"]
        assert runner.sources_hash(notebook) == stored, (
            f"{path.parent.name}/{path.name}: run `make render`"
        )
        edited = copy.deepcopy(notebook)
        code = next(cell for cell in edited["cells"] if cell["cell_type"] == "code")
        code["source"].append("\npass")
        assert runner.sources_hash(edited) != stored
    assert (ROOT / "notebooks").exists()


def make_ones(parts):
    return {"x": torch.ones(1)}, {}


def test_an_unlocked_writer(tmp_path, monkeypatch):
    from contextlib import nullcontext
    from types import SimpleNamespace

    artifacts.load_or_make(tmp_path / "a", make_ones)
    unlocked = nullcontext(SimpleNamespace(is_locked=False))
    monkeypatch.setattr(files, "FileLock", lambda *a, **k: unlocked)
    with pytest.raises(RuntimeError, match="not locked"):
        artifacts.load_or_make(tmp_path / "a", make_ones)
