"""What notebook 11 says of a model: the faults that are refused, what makes no sense, the page."""

import copy
import hashlib
import json
import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nbutils import InputError, steps
from nbutils.__main__ import main
from nbutils.attacks.settings import SETTINGS
from nbutils.data.splits import load
from nbutils.models import refusals
from nbutils.models.contract import predict
from nbutils.models.normalised import Normalised
from nbutils.series import report, runner, session
from nbutils.steps import own_tables
from nbutils.steps.white_box import white_box
from tests.conftest import SMOKE, NearestMean, configure

DIGITS = load("digits", calibrate=0)
SENTENCES = {
    "a softmax at its end": "returns probabilities, not logits: remove its softmax",
    "made for values from 0 to 255": "when their values run from 0 to 255",
    "normalised outside": "when their values are normalised as ImageNet's",
    "left in train mode": r"is in train mode: call model.eval\(\) first",
    "depends on the batch": "answers an image differently in other company",
    "dropout that stays on": "answers the same images differently twice",
    "detached from the image": "logits carry no gradient to the image",
    "rounds the image": "no gradient at all for 32 of 32 test images",
    "not a number": "returns NaN or infinite logits",
    "too many outputs": r"returns \(4, 20\) for 4 images of 10 classes",
    "classes in another order": "outputs stand in another order",
    "untrained": "no better than chance|the same label",
}


@pytest.fixture(scope="module")
def good(smoke):
    return steps.classifier(smoke).model, smoke.data.test.pixels(), smoke.data.test.y


# -- what is asked of a model ----------------------------------------------------------------------


def test_every_fault_has_its_own_sentence_and_a_good_model_none(good):
    model, x, y = good
    before = copy.deepcopy(model.state_dict())
    for fault in refusals.SPOILED:
        assert refusals.spoiled(model, fault) is not model and not model.training, fault
    assert refusals.arrive(model, x, y, 10) == ""
    rows = refusals.refusals(model, x, y, 10)
    assert [row["fault"] for row in rows] == list(refusals.SPOILED) == list(SENTENCES)
    assert all(row["refused"] for row in rows) and len({row["says"] for row in rows}) == len(rows)
    for row in rows:
        with pytest.raises(InputError, match=SENTENCES[row["fault"]]):
            refusals.arrive(refusals.spoiled(model, row["fault"]), x, y, 10)
    assert not model.training and refusals.arrive(model, x, y, 10) == ""
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("fault", [name for name in SENTENCES if name != "left in train mode"])
def test_what_is_shown_is_what_a_users_model_is_told_on_arrival(fault, good, tmp_path, monkeypatch):
    module = sys.modules[__name__]
    made = refusals.spoiled(good[0], fault)
    monkeypatch.setattr(module, "factory", lambda: made, raising=False)
    run = configure(tmp_path, MODEL=f"{__name__}:factory")
    with pytest.raises(InputError, match=SENTENCES[fault]):
        steps.classifier(run)


def test_a_fault_that_does_no_harm_is_let_in_and_an_unknown_one_is_named(good):
    model, x, y = good
    with pytest.raises(InputError, match="Fault 'rust' is unknown: choose one of a softmax"):
        refusals.spoiled(model, "rust")
    untouched = refusals.Spoiled(model).eval()
    assert (
        torch.equal(untouched(x[:3]), model(x[:3])) and refusals.arrive(untouched, x, y, 10) == ""
    )


def test_normalising_inside_cures_what_was_normalised_outside(good):
    model, x, y = good
    outside = refusals.spoiled(model, "normalised outside")
    cured = Normalised(outside, [refusals.MEAN], [refusals.STD])
    assert torch.allclose(cured(x[:9]), model(x[:9]), atol=1e-4)
    assert refusals.arrive(cured.eval(), x, y, 10) == ""


MEAN, STD = [0.45], [0.225]


def dense():
    """A dense layer that reads normalised digits by their distance to the classes' means."""
    means, layer = NearestMean().means, nn.Linear(784, 10)
    weight, bias = 2 * means, -means.square().sum(1)  # of pictures in [0,1]
    with torch.no_grad():
        layer.weight.copy_(weight * STD[0])
        layer.bias.copy_(bias + weight.sum(1) * MEAN[0])
    return layer


class LikeTorchvision(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.avgpool = nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(28)
        self.classifier = dense()
        nn.init.ones_(self.features.weight)
        nn.init.zeros_(self.features.bias)

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class LikeTimm(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_classes, self.default_cfg = 10, {"mean": MEAN, "std": STD}
        self.body, self.head = nn.Conv2d(1, 1, 1), dense()
        nn.init.ones_(self.body.weight)
        nn.init.zeros_(self.body.bias)

    def forward_features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.forward_features(x).flatten(1))


def wrapped_torchvision():
    return Normalised(nn.Sequential(LikeTorchvision()), MEAN, STD)


def wrapped_timm():
    body = LikeTimm()
    return Normalised(body, body.default_cfg["mean"], body.default_cfg["std"])


def bare_timm():
    return LikeTimm()


@pytest.mark.parametrize("made", ["wrapped_torchvision", "wrapped_timm"])
def test_models_of_torchvisions_and_timms_kind_come_in_when_they_normalise(made, tmp_path):
    base = steps.classifier(configure(tmp_path, MODEL=f"{__name__}:{made}"))
    assert base.record["accuracy"] > 0.8
    with pytest.raises(InputError, match="model must scale or normalise them itself"):
        steps.classifier(configure(tmp_path / "bare", MODEL=f"{__name__}:bare_timm"))


def random_body():
    body = LikeTorchvision()
    nn.init.normal_(body.classifier.weight, generator=torch.Generator().manual_seed(0))
    return Normalised(body, MEAN, STD)


def test_weights_of_the_body_alone_are_loaded_into_what_normalises(tmp_path):
    torch.save(LikeTorchvision().state_dict(), tmp_path / "mine.pt")
    name = f"{__name__}:random_body"
    with pytest.raises(InputError, match=r"The model (reads|gives)"):
        steps.classifier(configure(tmp_path / "a", MODEL=name))
    run = configure(tmp_path / "b", MODEL=name, WEIGHTS=str(tmp_path / "mine.pt"))
    assert steps.classifier(run).record["accuracy"] > 0.8


# -- what makes sense, and how good it is ----------------------------------------------------------


def nearest_mean():
    return NearestMean()


def drawn(folder, train=16, test=12):
    """Discs and squares in random ink on random paper."""
    for part, n in (("train", train), ("test", test)):
        for label, name in enumerate(("disc", "square")):
            for i in range(n):
                place = folder / part / name
                place.mkdir(parents=True, exist_ok=True)
                rng = np.random.default_rng([label, i, part == "test"])
                y, x = np.mgrid[:32, :32] - rng.uniform(14, 18, 2)[:, None, None]
                size = rng.uniform(7, 10)
                inside = np.hypot(y, x) < size if label == 0 else np.maximum(abs(y), abs(x)) < size
                colours = rng.uniform(0, 90, 3), rng.uniform(150, 250, 3)
                image = np.where(inside[..., None], colours[1], colours[0])
                image = (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(image).save(place / f"{i}.png")
    return folder


class Corners(nn.Module):
    """A square fills its corners: the ink at its corners less that at the corners of the picture,
    and a dense layer.
    """

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 5, 2, 2), nn.Linear(4 * 32 * 32, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


TWO = {}


def two_classes():
    return TWO["model"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of two classes, and a small network of the user's that knows them."""
    folder = drawn(tmp_path_factory.mktemp("pictures"))
    data = load("folder", root=folder, calibrate=0)
    torch.manual_seed(0)
    body = Corners()
    model = Normalised(body, [0.5] * 3, [0.25] * 3)
    optimizer = torch.optim.Adam(body.parameters(), 2e-3)
    x, y = data.train.pixels(), data.train.y
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return folder, body.eval()


def test_what_a_model_and_a_folder_do_not_give_is_said(tmp_path, smoke):
    assert set(own_tables.missing(smoke).values()) == {""}
    run = configure(tmp_path, MODEL=f"{__name__}:nearest_mean")
    found = own_tables.missing(run)
    assert found["detectors"] == found["logit_gradient"] == ""
    assert "has no layer whose output is a picture" in found["grad_cam"]
    assert "holds no parameters" in found["rectifier"]


def test_accuracies_are_those_of_the_test_and_the_held_back_pictures(smoke):
    table = own_tables.accuracy(smoke).set_index("split")
    model, parts = steps.classifier(smoke).model, {"test": smoke.data.test}
    parts["calibration"] = smoke.data.calibrate
    for name, images in parts.items():
        right = (predict(model, images.x).argmax(1) == images.y).float().mean().item()
        assert table.loc[name, "accuracy"] == pytest.approx(right)
        assert table.loc[name, "n"] == len(images)
        assert own_tables.read_rightly(model, images) == pytest.approx(right)


def test_who_knows_a_detector_is_told_beside_who_does_not(smoke):
    table = own_tables.knowing(smoke, ["id"], "004.fgsm")
    assert list(zip(table["detector"], table["game"], strict=True)) == [
        ("none", "plain"),
        ("id", "plain"),
        ("id", "linf"),
    ]
    bare, plain, strong = table.to_dict("records")
    played = white_box(smoke, "id", "linf", "004.fgsm")
    assert strong["success_5"] == played.won(0.05).double().mean().item()
    assert strong["low"] <= strong["success_5"] <= strong["high"] and strong["n"] == len(played.x)
    assert plain["success_5"] <= plain["fooled"] == bare["fooled"] == bare["success_5"]
    assert own_tables.collapsed(smoke, ["id", "margin"], "004.fgsm") == []


# -- the page --------------------------------------------------------------------------------------

ATTACKS = ("004.pgd", "004.ddn")


def tables(**changes):
    """The tables of one detector that sees its own attacks, and no noise; `changes` of rows."""
    cells, controls, beside = [], [], []
    for fit in ATTACKS:
        for test in ATTACKS:
            cell = {"detector": "mine", "fitted_on": fit, "tested_on": test, "auroc": 0.97}
            cell |= {"low": 0.95, "high": 0.99, "tpr_at_fpr_5": 0.9, "n": 100, "collapsed": 0}
            cell["fpr_measured_5"] = 0.07
            cells.append(cell | (changes.get("cells", {}) if fit == test else {}))
            if fit != test:
                cells[-1] |= changes.get("crossed", {})
        control = {"detector": "mine", "attack": fit, "flagged_adversarial": 0.9, "n": 100}
        controls.append(control | {"flagged_noise_sign": 0.05} | changes.get("controls", {}))
        beaten = {"detector": "mine", "attack": fit, "scalar": "margin", "low": 0.1}
        beside.append(beaten | changes.get("beside", {}))
    game = {"fooled": 0.9, "success_5": 0.02, "low": 0.0, "high": 0.1, "zero": 0.0, "n": 50}
    knowing = [{**game, "detector": "none", "game": "plain", "success_5": 0.9}]
    knowing[0] |= changes.get("bare", {})
    knowing += [{**game, "detector": "mine", "game": name} for name in ("plain", "linf")]
    knowing[-1] |= changes.get("knowing", {})
    about = {"model": "mine:make", "weights": 1000, "brought": True, "pictures": "folder"}
    about |= {"shape": "3x64x64", "classes": 10, "preset": "quick", "seed": 3, "train": 90}
    about |= {"calibrate": 20, "test": 100, "eps_255": 8.0, "steps": 20, "names": "cat, dog"}
    about |= {"attacked_train": 60, "settings": "`004.pgd` is pgd, eps 8/255", "device": "cpu"}
    about |= {"weights_file": "mine.pt", "weights_sha256": "abc123", "command": "python -m nbutils"}
    about |= {"version": "0.1.0", "torch": "2.0"}
    recovered = [
        {"attack": "004.ddn", "method": m, "accuracy": a, "low": a - 0.1, "high": a + 0.05, "n": 80}
        for m, a in (("none", 0.1), ("runner_up", 0.6), ("gcd", 0.8))
    ]
    lead = {"attack": "004.ddn", "rival": "runner_up", "difference": 0.2, "low": 0.1}
    idle = {"attack": "004.ddn", "rival": "none", "difference": 0.7, "low": 0.6}
    size = {"success": 0.9, "interval": [0.8, 0.95], "accuracy": 0.1, "l2": 1.0, "linf": 0.03}
    return {
        "about": [about | changes.get("about", {})],
        "accuracy": [
            {"split": "test", "accuracy": 0.9, "interval": [0.83, 0.95], "n": 100}
            | changes.get("accuracy", {})
        ],
        "attacks": [
            {"setting": a, "name": a[4:].upper(), **size, "changed_by_noise": 0.01, "n": 100}
            | changes.get("attacks", {})
            for a in ATTACKS
        ],
        "cells": cells,
        "controls": controls,
        "beside_scalars": beside,
        "knowing": knowing,
        "recovered": recovered,
        "leads": [lead | changes.get("leads", {}), idle | changes.get("idle", {})],
        "missing": [{"part": "grad_cam", "says": changes.get("missing", "")}],
    }


def said(**changes):
    found = tables(**changes)
    return " ".join(report.may_say(found)), " ".join(report.may_not_say(found))


def test_what_holds_stands_among_what_may_be_said_and_nothing_against_it():
    may, not_ = said()
    assert "`mine` tells PGD, DDN from clean pictures and from noise" in may
    assert "passes with 2% of the pictures (0% to 10%), less than half" in may
    assert "It flags 90% of PGD's pictures, 90% of DDN's." in may
    assert "reads 90.0% of 100 test pictures rightly (95 % interval 83.0% to 95.0%)" in may
    assert "noise of the same size on 1%" in may and "weak" not in not_
    assert "reads 20% of the pictures more rightly than the second class" in may
    assert "`mine`" not in not_ and "The rectifier" not in not_
    assert "one fit of seed 3" in not_
    # of the fewest pictures in each kind of table: 140 / sqrt(100), 140 / sqrt(50), 140 / sqrt(80)
    apart = "14 points (attacks and detectors, n = 100), 20 points (who knows a detector, n = 50)"
    assert f"closer than about {apart}, 16 points (rectifier, n = 80)." in not_


@pytest.mark.parametrize(
    ("changes", "against", "gone"),
    [
        (
            {"controls": {"flagged_noise_sign": 0.88}},
            "sees an attack in PGD, DDN is open, because it flags noise of the same size as often",
            "`mine` tells",
        ),
        (
            {"controls": {"flagged_noise_sign": 0.6}},
            "Beside PGD, DDN it flags noise of the same size more than half as often",
            "`mine` tells",
        ),
        (
            {"controls": {"flagged_adversarial": 0.08, "flagged_noise_sign": 0.0}},
            "not shown to flag more of PGD, DDN than of clean pictures",
            "`mine` tells",
        ),
        (
            {"controls": {"flagged_adversarial": 0.2}, "cells": {"fpr_measured_5": 0.15}},
            "not shown to flag more of PGD, DDN than of clean pictures",
            "`mine` tells",
        ),
        (
            {"cells": {"fpr_measured_5": 0.15}},
            "It flags up to 15% of clean test pictures, more than the 5 % that its threshold",
            None,
        ),
        (
            {"about": {"calibrate": 19}},
            "of the 19 pictures that thresholds come from 5 % is less than one",
            None,
        ),
        (
            {"cells": {"auroc": 0.5, "low": 0.5, "collapsed": 1}},
            "On PGD, DDN its training ended in one answer",
            "`mine` tells",
        ),
        (
            {"beside": {"low": -0.01}},
            "not shown to be worth its training on PGD (margin), DDN (margin)",
            None,
        ),
        (
            {"crossed": {"auroc": 0.6, "high": 0.7}},
            "fitted on PGD and tested on DDN its AUROC is 0.60",
            None,
        ),
        (
            {"knowing": {"success_5": 0.9, "high": 0.96}},
            "no protection against somebody who knows it, because 90% of such pictures pass",
            "One attack that knows",
        ),
        (
            {"bare": {"fooled": 0.2}},
            "is open, because the attack fools the bare classifier on 20%",
            "One attack that knows",
        ),
        ({"knowing": {"zero": 0.3}}, "its score has no gradient on 30% of the pictures", None),
        ({"leads": {"low": -0.1}}, "not shown to be worth its training under DDN", "reads 20% of"),
        (
            {"idle": {"low": 0.0}},
            "under DDN, because it does not recover more labels, beyond the interval, than the "
            "classifier alone",
            "reads 20% of",
        ),
        (
            {"attacks": {"success": 0.05}},
            "makes of PGD, DDN says little of attacks that succeed",
            None,
        ),
        (
            {"leads": {"low": -0.1}, "about": {"classes": 2}},
            "the second class, which with two classes is simply the other one",
            None,
        ),
        (
            {"accuracy": {"accuracy": 0.2, "interval": [0.13, 0.29]}},
            "this one is weak: its accuracy may be as low as 13.0%, where guessing",
            None,
        ),
        ({"missing": "It has no layer for Grad-CAM."}, "It has no layer for Grad-CAM.", None),
    ],
)
def test_what_speaks_against_a_detector_is_said_and_what_it_overturns_is_not(
    changes, against, gone
):
    may, not_ = said(**changes)
    assert against in not_
    assert against not in said()[1]
    if gone:
        assert gone in said()[0]
        assert gone not in may


def test_a_small_loss_elsewhere_is_not_told_from_none():
    assert "loses on attacks" not in said(crossed={"auroc": 0.9, "high": 0.96})[1]


def test_the_board_is_ranked_by_the_worst_attack_and_a_page_is_a_function_of_its_tables():
    found = tables()
    worse = [{**cell, "detector": "worse", "auroc": 0.7, "low": 0.6} for cell in found["cells"]]
    found["cells"] = worse + found["cells"]
    board = report.board(found)
    assert [row["detector"] for row in board] == ["mine", "worse"]
    assert set(board[0]) == set(report.BOARD) and board[1]["passes"] is None
    page = report.page(found)
    assert page == report.page(json.loads(json.dumps(found)))
    assert page.startswith("# `mine:make` on folder\n") and "| `mine` | 0.97 [0.95, 0.99] |" in page
    assert "| DDN | 10% [0%, 15%] | 60% [50%, 65%] | 80% [70%, 85%] | 80 |" in page
    assert page.index("| `mine`") < page.index("| `worse`") and "nan" not in page


def test_a_share_is_the_same_in_a_sentence_and_in_its_table_and_from_the_kept_numbers():
    found = tables()
    found["attacks"][0] |= {"success": 0.975, "changed_by_noise": 0.02500000037}  # as of float32
    page = report.page(found)
    assert "PGD changes the answer on 98% of 100 pictures" in page
    assert "| PGD | 98% [80%, 95%] | 2% |" in page
    assert "noise of the same size on 2%" in page
    assert page == report.page(json.loads(json.dumps(session.plain(found))))


def test_a_page_explains_its_words_and_says_how_it_was_made():
    found = tables(about={"command": "python -m nbutils run --seed 3"})
    found["cells"] += [{**found["cells"][0], "detector": "insen"}]
    page = report.page(found)
    assert "- `insen`: a network on the input sensitivity" in page and "`jsd`:" not in page
    assert "- `margin`, untrained: how close the two largest logits are." in page
    assert "- `mine`: see the notebook that made this page." in page
    assert "`python -m nbutils run --seed 3`, with `nbutils` 0.1.0, torch 2.0 on cpu" in page
    assert "`mine.pt`, SHA-256 `abc123`" in page and "`004.pgd` is pgd, eps 8/255" in page
    assert "| 90% | 7% | 5% |" in page  # least flagged, most clean and most noise flagged
    assert "trained elsewhere" in page and "brought" not in page
    assert "those that `mine:make` loads by itself" in report.page(
        tables(about={"weights_file": ""})
    )
    ours = {"weights_file": "", "brought": False}
    assert "Weights:" not in report.page(tables(about=ours))


def test_a_page_of_the_preset_smoke_says_that_it_is_not_to_be_quoted():
    assert "No number on this page is to be quoted" in report.page(
        tables(about={"preset": "smoke"})
    )
    assert "quoted" not in report.page(tables())


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_what_is_measured_from_0_to_1_is_told_in_255ths(setting):
    told = own_tables._in_words(SETTINGS[setting])
    assert told.startswith(SETTINGS[setting]["attack"])
    assert all(name in told for name in SETTINGS[setting] if name != "attack")


def test_the_command_of_a_page_makes_the_same_run(monkeypatch):
    seen = {}
    monkeypatch.setattr(runner, "run", lambda parameters, chosen: seen.update(parameters) or 0)
    monkeypatch.setattr(session, "checked_together", lambda *_: None)  # asks for the file
    given = {"DATASET": "folder", "PRESET": "smoke", "SEED": 0, "DATA_ROOT": "/a/my pictures"}
    given |= {"MODEL": "mine:make", "WEIGHTS": "/b/mine.pt", "OUT": "/c", "DEVICE": "cpu"}
    given |= {"THREADS": 1, "ATTACKS": ["004.pgd"], "CHANGES": {"attacked_test": 30}, "SOURCE": ""}
    command = own_tables._command(given)
    words = shlex.split(command)
    assert words[:6] == ["python", "-m", "nbutils", "run", "--notebooks", "11"]
    assert main(words[3:]) == 0
    same = {"DATA_ROOT": "my pictures", "WEIGHTS": "mine.pt"}
    wanted = {k: v for k, v in (given | same).items() if v != "" and k not in ("OUT", "DEVICE")}
    assert {name: seen[name] for name in wanted} == wanted and "/a" not in command


def test_without_detectors_the_page_says_so():
    found = tables()
    found |= {"cells": [], "controls": [], "beside_scalars": [], "leads": []}
    found["knowing"] = found["knowing"][:1]
    page = report.page(found)
    assert "n/a: no detector was fitted." in page and "nothing done" in page


def test_attacks_of_one_name_keep_their_own():
    found = tables()
    assert report.short_names(found) == {"004.pgd": "PGD", "004.ddn": "DDN"}
    found["attacks"].append({**found["attacks"][0], "setting": "pgd"})
    assert report.short_names(found)["004.pgd"] == "004.pgd"


# -- the notebook on a user's own ------------------------------------------------------------------

MINE = """
import torch
from nbutils.models.normalised import Normalised
from tests.test_lecture_11 import Corners

def make():
    return Normalised(Corners(), [0.5] * 3, [0.25] * 3)
"""


@pytest.mark.parametrize("train", [True, False])
def test_a_model_and_pictures_of_the_users_own_give_a_page(train, shapes, tmp_path, monkeypatch):
    folder, body = shapes
    if not train:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "test").symlink_to(folder / "test")
        folder = tmp_path / "pictures"
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    torch.save(body.state_dict(), tmp_path / "mine.pt")
    monkeypatch.chdir(tmp_path)
    parameters = {**SMOKE, "DATASET": "folder", "DATA_ROOT": str(folder), "MODEL": "mine:make"}
    parameters |= {"WEIGHTS": str(tmp_path / "mine.pt"), "OUT": str(tmp_path / "out")}
    parameters |= {"ATTACKS": ["004.fgsm", "004.ddn"], "DETECTORS": ["id_high_pass"]}
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{runner.checkout()}")
    lines = []
    assert runner.run(parameters, "11", say=lines.append) == 0, lines
    (page,) = tmp_path.glob("out/*/results/11_your_own_model.md")
    text = page.read_text(encoding="utf-8")
    (result,) = tmp_path.glob("out/*/results/11_your_own_model.json")
    found = json.loads(result.read_text(encoding="utf-8"))["tables"]
    assert (
        text.startswith(f"# `mine:make` on {folder.name}\n") and "2 classes (disc, square)" in text
    )
    assert text == report.page(found)
    digest = hashlib.sha256((tmp_path / "mine.pt").read_bytes()).hexdigest()
    assert f"`mine.pt`, SHA-256 `{digest}`" in text and "eps 4/255" in text
    assert str(tmp_path) not in text
    detectors = {row["detector"] for row in found["cells"]}
    assert detectors == ({"id_high_pass", "beside_median"} if train else set())
    assert ("no detector was fitted" in text) == (not train)
    # sixteen pictures tell no accuracy from another one
    hidden = {"untrained", "normalised outside", "made for values from 0 to 255"}
    hidden.add("classes in another order")
    assert {row["fault"] for row in found["refusals"] if not row["refused"]} <= hidden
