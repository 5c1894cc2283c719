"""The corridor end to end at smoke size: same seed same bytes, killed runs go on, edits remake what
depends on them and nothing else.
"""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from nbutils import InputError, __main__, steps
from nbutils.attacks import ATTACKS
from nbutils.attacks.settings import settings_for
from nbutils.data import presets
from nbutils.data.images import Dataset, Images
from nbutils.detectors import DETECTORS, views
from nbutils.detectors.base import Detector, scores, threshold_at
from nbutils.detectors.consistency import OTHER_MAPS, jet
from nbutils.evaluation import leaks
from nbutils.models.contract import predict
from nbutils.saliency.grad_cam import grad_cam
from nbutils.saliency.maps import between_0_and_1
from nbutils.steps.controls import make_controls
from nbutils.steps.detector import fitted
from nbutils.steps.run import Memory
from tests.conftest import ROOT, NearestMean, configure, python

MAKE = (
    "make",
    "evaluation",
    "--preset",
    "smoke",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--attack",
    "fgsm",
    "pgd",
    "--detector",
    "id",
)


def contents(out):
    """Every artifact's tensors as bytes and its record without seconds, by step and name."""
    found = {}
    for meta in sorted(out.rglob("meta.json")):
        record = json.loads(meta.read_text(encoding="utf-8"))["record"]
        record = {k: v for k, v in record.items() if k != "seconds"}
        found["/".join(meta.parts[-3:-1])] = (
            meta.with_name("tensors.safetensors").read_bytes(),
            json.dumps(record, sort_keys=True),
        )
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An undisturbed run in a process of its own, and what it said."""
    out = tmp_path_factory.mktemp("reference")
    done = python(*MAKE, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_corridor(smoke):
    base = steps.classifier(smoke)
    assert base.record["accuracy"] > 0.8 and not any(
        p.requires_grad for p in base.model.parameters()
    )
    pairs = steps.adversarial(smoke, "bim")
    assert (
        pairs.record["success_rate"] > 0.3 and len(pairs.x) == 40 and pairs.x.dtype == torch.float32
    )
    assert torch.equal(pairs.success, pairs.prediction_adv != pairs.prediction)
    assert torch.equal(predict(base.model, pairs.x_adv).argmax(1), pairs.prediction_adv)
    assert (pairs.record["forwards_per_image"], pairs.record["backwards_per_image"]) == (10, 10)
    evaluation = steps.evaluation(smoke, "jsd", "bim", "fgsm")
    assert evaluation.tensors["clean"].shape == (1, 40) and evaluation.record["all"]["n"] == 40
    assert not set(pairs.index.tolist()) & set(
        steps.adversarial(smoke, "bim", "train").index.tolist()
    )
    scalar = steps.evaluation(smoke, "noise", "", "fgsm").record["all"]
    assert scalar["auroc"] > 0.9 and "at_decision" not in scalar
    controls = steps.controls(smoke, "id", "fgsm")
    assert {
        "auroc_8bit",
        "auroc_jpeg",
        "flagged_jpeg",
        "auroc_noise_sign",
        "flagged_clean_wrong",
        "auroc_within_class",
    } <= set(controls)


def test_settings_and_knobs(smoke):
    small = steps.adversarial(smoke, "bim", eps=0.03)
    assert (
        small.setting["step"] == pytest.approx(0.003)
        and (small.x_adv - small.x).abs().max() <= 0.03 + 1e-6
    )
    assert steps.adversarial(smoke, "pgd").setting["steps"] == smoke.preset["pgd_steps"]
    theirs = steps.adversarial(smoke, "fgsm", backend="cleverhans")
    assert torch.allclose(theirs.x_adv, steps.adversarial(smoke, "fgsm").x_adv, atol=1e-6)
    with pytest.raises(InputError, match="Attack 'nonsense' is unknown"):
        steps.adversarial(smoke, "nonsense")
    with pytest.raises(InputError, match="split 'validation' is unknown"):
        steps.adversarial(smoke, "fgsm", "validation")


def test_mixtures_of_attacks(smoke):
    fgsm, bim = (steps.adversarial(smoke, name, "train") for name in ("fgsm", "bim"))
    one, every = (steps.adversarial(smoke, name, "train") for name in ("fgsm+bim", "fgsm&bim"))
    n = len(fgsm.x)
    drawn = [(one.x_adv == s.x_adv).flatten(1).all(1) for s in (fgsm, bim)]
    assert (
        torch.equal(one.index, fgsm.index)
        and torch.equal(one.x, fgsm.x)
        and (drawn[0] | drawn[1]).all()
    )
    assert (
        0 < drawn[0].sum() < n
        and abs(drawn[0].sum() - drawn[1].sum()) <= 1 + (drawn[0] & drawn[1]).sum()
    )
    assert (
        torch.equal(every.x_adv, torch.cat([fgsm.x_adv, bim.x_adv]))
        and every.index.tolist() == 2 * fgsm.index.tolist()
    )
    assert (
        steps.evaluation(smoke, "id", "fgsm&bim", "fgsm+bim", fits=1).record["n"]
        == smoke.preset["attacked_test"]
    )
    assert 0 <= steps.controls(smoke, "id", "fgsm+bim")["auroc"] <= 1
    with pytest.raises(InputError, match=r"test on 'fgsm\+bim'"):
        steps.evaluation(smoke, "id", "fgsm", "fgsm&bim")
    for strange in ("fgsm+bim&mim", "fgsm&fgsm"):
        with pytest.raises(InputError, match="each attack once"):
            steps.adversarial(smoke, strange)
    with pytest.raises(InputError, match="Attack 'fgms' is unknown"):
        steps.adversarial(smoke, "fgsm+fgms")


def test_variants_of_a_detector_are_kept_apart(smoke):
    variants = (None, {"width": 2.0, "optimizer": "sgd"})
    plain, wide = (fitted(smoke, "id", "fgsm", variant=v)[1] for v in variants)
    assert plain.content != wide.content and plain.path != wide.path
    assert fitted(smoke, "id", "fgsm")[1].content == plain.content
    for strange in ({"architecture": "nope"}, {"depth": 3}):
        with pytest.raises(InputError, match=r"variant .* is unknown"):
            steps.detector(smoke, "id", "fgsm", variant=strange)
    with pytest.raises(InputError, match="optimizer 'adamant' is unknown"):
        steps.detector(smoke, "id", "fgsm", variant={"optimizer": "adamant"})


def test_out_of_memory_halves_the_batch(smoke, tmp_path, monkeypatch):
    run, batches, real = configure(tmp_path), [], ATTACKS["fgsm"]

    def hungry(model, x, *rest, **knobs):
        batches.append(len(x))
        if len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, x, *rest, **knobs)

    monkeypatch.setitem(ATTACKS, "fgsm", hungry)
    got = steps.adversarial(run, "fgsm")
    assert batches[:4] == [40, 20, 10, 10] and got.record["halved"] == 2
    assert torch.allclose(got.x_adv, steps.adversarial(smoke, "fgsm").x_adv, atol=1e-6)


class Own(torch.nn.Module):
    """A user's own model of the digits, with the fault that a test asks for."""

    fault = ""

    def __init__(self):
        super().__init__()
        self.net = NearestMean()

    def forward(self, x):
        logits = self.net(x)
        faults = {
            "softmax": logits.softmax(1),
            "nan": logits * float("nan"),
            "classes": logits[:, :9],
        }
        return faults.get(self.fault, logits)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("softmax", "probabilities, not logits"),
        ("nan", "NaN"),
        ("classes", r"\(4, 9\) for 4 images"),
    ],
)
def test_own_models_with_faults_are_refused_before_any_work(tmp_path, fault, sentence, monkeypatch):
    monkeypatch.setattr(Own, "fault", fault)
    run = configure(tmp_path, MODEL=f"{__name__}:Own")
    with pytest.raises(InputError, match=sentence):
        steps.adversarial(run, "fgsm")
    assert not list(tmp_path.rglob("meta.json"))


def test_own_model_is_attacked_and_kept_apart(smoke, tmp_path):
    run = configure(tmp_path, MODEL=f"{__name__}:Own")
    assert steps.adversarial(run, "fgsm").record["n"] == 40 and run.folder.name != smoke.folder.name
    first = steps.classifier(run).artifact
    assert first.tensors.keys() == {"identity", "test_logits"}
    real = Own.forward
    try:
        Own.forward = lambda self, x: 2 * real(self, x)  # the same weights, another function
        again = steps.classifier(configure(tmp_path, MODEL=f"{__name__}:Own")).artifact
    finally:
        Own.forward = real
    assert again.content != first.content


def test_weights_stand_in_for_training(smoke, tmp_path):
    kept = steps.classifier(smoke).artifact
    state = {k: v for k, v in kept.tensors.items() if k != "test_logits"}
    torch.save(state, tmp_path / "weights.pt")
    run = configure(tmp_path, WEIGHTS=str(tmp_path / "weights.pt"))
    base, x = steps.classifier(run), run.data.test.pixels()
    assert torch.equal(predict(base.model, x), predict(steps.classifier(smoke).model, x))
    assert base.record["n"] == len(run.data.test) and kept.content != base.artifact.content
    with pytest.raises(InputError, match="is no file"):
        steps.classifier(configure(tmp_path / "other", WEIGHTS="nowhere.pt"))


def test_make_prints_what_it_made(tmp_path, capsys):
    assert (
        __main__.main(
            ["make", "adversarial", "--preset", "smoke", "--attack", "fgsm", "--out", str(tmp_path)]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        "classifier digits_net: accuracy" in out
        and "adversarial fgsm on test: success" in out
        and "Kept in" in out
    )


def test_same_seed_same_bytes_other_seed_others(reference, tmp_path):
    again = python(*MAKE, "--out", tmp_path)
    assert contents(tmp_path) == contents(reference[0])
    shown = [re.sub(r", [\d.]+ s|Kept in .*", "", out) for out in (again.stdout, reference[1])]
    assert shown[0] == shown[1]
    other = python(*MAKE, "--out", tmp_path, "--seed", 1)
    assert other.returncode == 0 and other.stdout != again.stdout


KILLER = """
import importlib, os, signal, sys
from nbutils.models import training
from nbutils.__main__ import main
training.CHECKPOINT_SECONDS = 0
place = importlib.import_module({module!r})
count, real = 0, getattr(place, {name!r})
def killer(*a, **k):
    global count
    count += 1
    if count == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)
setattr(place, {name!r}, killer)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("what", "module", "name", "nth"),
    [
        ("in the middle of an epoch", "nbutils.models.training", "cross_entropy", 12),
        ("in the middle of an attack's chunks", "nbutils.steps.adversarial", "attack_rows", 2),
        ("in the middle of a detector's fit", "nbutils.models.training", "_epoch", 6),
        ("between write and rename", "os", "replace", 9),
        ("between tensors and meta", "nbutils.store.artifacts", "write_json", 3),
    ],
)
def test_killed_and_run_again_ends_with_the_same_bytes(
    reference, tmp_path, what, module, name, nth
):
    killed = python(*MAKE, "--out", tmp_path, code=KILLER.format(module=module, name=name, nth=nth))
    assert killed.returncode == -9, (what, killed.stderr)
    before = contents(tmp_path)
    done = python(*MAKE, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(reference[0])
    assert before.items() <= contents(tmp_path).items()


def test_two_runs_at_once_do_not_harm_each_other(reference, tmp_path):
    command = [sys.executable, "-m", "nbutils", *MAKE, "--out", str(tmp_path)]
    both = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    for process in both:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0 and not error, error
    assert contents(tmp_path) == contents(reference[0])


def times(out):
    return {"/".join(p.parts[-3:-1]): p.stat().st_mtime_ns for p in out.rglob("meta.json")}


def test_a_flipped_byte_is_reported_and_that_artifact_alone_remade(reference, tmp_path):
    shutil.copytree(reference[0], tmp_path / "out")
    target = next((tmp_path / "out").rglob("adversarial/pgd-train/tensors.safetensors"))
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    before, done = times(tmp_path / "out"), python(*MAKE, "--out", tmp_path / "out")
    after = times(tmp_path / "out")
    assert "adversarial/pgd-train: it is damaged" in done.stderr and done.stderr.count("\n") == 1
    assert {name for name in after if after[name] != before[name]} == {"adversarial/pgd-train"}
    assert contents(tmp_path / "out") == contents(reference[0])


def copied(tmp_path, reference):
    """The package and what it made, copied, to be edited; and where to run it."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nbutils", tmp_path / "nbutils", ignore=ignored)
    shutil.copytree(reference, tmp_path / "out")
    return {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")
    time.sleep(0.01)


def test_editing_an_attack_remakes_what_depends_on_it_and_nothing_else(reference, tmp_path):
    here, out = copied(tmp_path, reference[0]), tmp_path / "out"
    source = tmp_path / "nbutils" / "attacks" / "gradient.py"
    edit(source, '"""Fast gradient sign method', '"""The fast gradient sign method')
    before = times(out)
    assert python(*MAKE, "--out", out, **here).returncode == 0
    assert times(out) == before  # words are not code
    edit(source, "return (x + eps * direction", "return (x + 0.9 * eps * direction")
    done = python(*MAKE, "--out", out, **here)
    after = times(out)
    changed = {name for name in after if after[name] != before[name]}
    assert changed and all("fgsm" in name for name in changed), (changed, done.stderr)
    made = {"adversarial/fgsm-train", "adversarial/fgsm-test", "detector/id-fgsm-train-0"}
    assert made <= changed
    kept = {"classifier/digits_net", "adversarial/pgd-train", "detector/id-pgd-train-0"}
    assert kept | {"evaluation/id-pgd-on-pgd-test-x1"} <= set(after) - changed


def test_an_entry_or_a_package_more_leaves_everything_valid(reference, tmp_path):
    here, out = copied(tmp_path, reference[0]), tmp_path / "out"
    package = tmp_path / "nbutils"
    for room, old, new in (
        ("models", '"digits_net": ', '"dummy": architectures.digits_net,\n    "digits_net": '),
        ("attacks", '"fgsm": ', '"dummy": gradient.fgsm,\n    "fgsm": '),
        ("detectors", '"id": ', '"dummy": partial(Network, view=views.image),\n    "id": '),
    ):
        edit(package / room / "__init__.py", f"    {old}", f"    {new}")
    (package / "dummy").mkdir()
    (package / "dummy" / "__init__.py").write_text('"""A room more."""\n', encoding="utf-8")
    before, done = times(out), python(*MAKE, "--out", out, **here)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert times(out) == before


EVERY_STEP = """
import sys
import torch
from nbutils import steps
from nbutils.series import session
from nbutils.series.parameters import DEFAULTS
from nbutils.steps import end_to_end, recovery, white_box, worst_case
changes = {"dropouts": [0.3, 0.7], "epochs": 2, "saliency_epochs": 1, "detector_epochs": 1}
small = {"PRESET": "smoke", "THREADS": 1, "DEVICE": "cpu", "OUT": sys.argv[1], "CHANGES": changes}
run = session.configure("01_classifiers", DEFAULTS | small)
steps.learned_saliency(run)
steps.evaluation(run, "id", "fgsm", "fgsm+bim")
for name in ("gcd", "mahalanobis_unmoved", "tws_noise", "pixel_defend"):
    steps.detector(run, name, "fgsm")
steps.controls(run, "id", "fgsm")
steps.consistency(run, "fgsm", {"grey": {"squeeze": "1-bit"}})
for kind in ("pgd", "ddn"):
    steps.robust(run, kind)
recovery.recovery(run, "gcd", "tuned", "fgsm")
recovery.removal(run, "fgsm")
white_box.white_box(run, "id", "alternating", "fgsm", hardened=1)
end_to_end.end_to_end(run, "fgsm", "gcd")
worst_case.on_noise(run, "id", "fgsm")

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        x, y = run.data.train.pixels().flatten(1), run.data.train.y
        self.register_buffer("means", torch.stack([x[y == c].mean(0) for c in range(10)]))

    def forward(self, x):
        return -((x.flatten(1)[:, None] - self.means) ** 2).sum(2)

own = {"MODEL": "__main__:Own"}
steps.classifier(session.configure("01_classifiers", DEFAULTS | small | own))
"""
MAKERS = {
    "make_identity": "identity/",
    "make_classifier": "classifier/",
    "make_candidate": "candidate/",
    "make_adversarial": "adversarial/",
    "make_mixture": "adversarial/fgsm+bim",
    "make_saliency": "saliency/learned",
    "make_detector": ("detector/id-", "detector/insen-"),
    "make_combined": "detector/gcd-",
    "make_mahalanobis": "detector/mahalanobis",
    "make_tws": "detector/tws",
    "make_density": "density/",
    "make_evaluation": "evaluation/",
    "make_controls": "controls/",
    "make_consistency": "consistency/",
    "make_robust": "robust/",
    "make_tuned": "rectifier/",
    "make_recovery": "recovery/",
    "make_removal": "removal/",
    "make_refitted": "refitted/",
    "make_white_box": "white_box/",
    "make_end_to_end": "end_to_end/",
    "make_on_noise": "on_noise/",
}


@pytest.fixture(scope="module")
def every_step(tmp_path_factory):
    out = tmp_path_factory.mktemp("every_step")
    done = python(out, code=EVERY_STEP)
    assert done.returncode == 0, done.stderr
    return out


def test_makers_are_all_that_there_are():
    found = {
        name
        for path in (ROOT / "nbutils" / "steps").glob("*.py")
        for name in re.findall(r"^def (make_\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    assert found == set(MAKERS)


@pytest.mark.parametrize("maker", MAKERS)
def test_editing_a_line_of_a_steps_own_function_remakes_that_step_and_says_so(
    every_step, tmp_path, maker
):
    """A line that changes no bit: the step is made again, and what hangs on its content stays."""
    here, out = copied(tmp_path, every_step), tmp_path / "out"
    for path in (tmp_path / "nbutils" / "steps").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == maker:
                lines = path.read_text(encoding="utf-8").split("\n")
                lines.insert(node.body[1].lineno - 1, "    edited = True  # noqa: F841")
                path.write_text("\n".join(lines), encoding="utf-8")
    before, done = times(out), python(out, code=EVERY_STEP, **here)
    assert done.returncode == 0, done.stderr
    after = times(out)
    changed = {name for name in after if after[name] != before[name]}
    own = {
        name
        for name in after
        if name.startswith(MAKERS[maker]) and ("+" in name) >= (maker == "make_mixture")
    }
    own -= {name for name in own if "+" in name and maker == "make_adversarial"}
    assert changed == own and own, (changed, done.stderr)
    for name in own:
        assert f"{name}: code differs (the source of a step was edited)" in done.stderr


def test_float32_attacks_agree_across_chunk_sizes(smoke, tmp_path):
    run = configure(tmp_path)
    run.preset["chunk"] = 7
    a, b = steps.adversarial(run, "pgd_l2"), steps.adversarial(smoke, "pgd_l2")
    assert torch.equal(a.success, b.success)
    size = [np.asarray((s.x_adv - s.x).flatten(1).norm(dim=1)) for s in (a, b)]
    assert np.abs(size[0] - size[1]).max() < 1e-3


def test_the_papers_recipe_chooses_dropout_by_validation_and_refits_on_all(tmp_path):
    run = configure(tmp_path)
    run.preset |= {"epochs": 2, "dropouts": [0.3, 0.7], "refit": True}
    record = steps.classifier(run).record
    scores = {k: v["validation_accuracy"] for k, v in record["tried"].items()}
    assert set(scores) == {"0.3", "0.7"} and scores[str(record["dropout"])] == max(scores.values())
    assert record["epochs"] == record["epoch"] == record["tried"][str(record["dropout"])]["epoch"]
    assert sorted(p.name for p in (run.folder / "candidate").iterdir() if p.is_dir()) == [
        "digits_net-dropout0.3",
        "digits_net-dropout0.7",
    ]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "cats_dogs"])
def test_paper_presets_take_a_few_steps(dataset, tmp_path, monkeypatch):
    """The code of the `paper` presets on eight images: the papers' networks at full size, their
    recipe, attack and detector.
    """
    shape, classes = {
        "mnist": ((1, 28, 28), 10),
        "cifar10": ((3, 32, 32), 10),
        "cats_dogs": ((3, 112, 112), 2),
    }[dataset]
    run = configure(tmp_path, DATASET=dataset, PRESET="paper")
    rng = torch.Generator().manual_seed(0)
    n = 24
    images = Images(
        torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=rng),
        torch.arange(n) % classes,
        torch.arange(n),
    )
    run.__dict__["data"] = Dataset(
        dataset, [str(i) for i in range(classes)], images[:16], images[16:18], images[18:]
    )
    run.preset |= {
        "epochs": 1,
        "dropouts": run.preset["dropouts"][:2],
        "attacked_train": 4,
        "attacked_test": 3,
        "detector_epochs": 1,
        "detector_seeds": 1,
        "pgd_steps": 2,
    }
    monkeypatch.setattr(
        "nbutils.models.training._constant", lambda *a: False
    )  # one epoch on sixteen images of noise says the same of all
    assert (
        steps.classifier(run).record["architecture"]
        == presets.PRESETS[dataset]["paper"]["classifier"]
    )
    assert steps.evaluation(run, "jsd", "pgd", "pgd").record["n"] == 3


def test_minimal_attacks_go_through_the_corridor_with_their_controls(tmp_path):
    run = configure(tmp_path)
    run.preset |= {"attacked_train": 24, "attacked_test": 16, "detector_epochs": 1}
    for name in ("deepfool", "ddn", "jsma", "mim", "iterative_l2", "carlini_wagner_l2"):
        made = steps.adversarial(run, name)
        assert made.record["success_rate"] > 0.3 and made.record["forwards_per_image"] > 1, name
    found = steps.controls(run, "id", "deepfool")
    assert 0 <= found["auroc"] <= 1 and found["n"] == 16


def test_layers_are_read_where_the_detector_is_a_network_for_pictures(tmp_path):
    run = configure(
        tmp_path,
        DATASET="digits_rgb",
        CHANGES={
            "detector": "squeezenet1_1",
            "detector_epochs": 1,
            "attacked_train": 20,
            "train": 100,
        },
    )
    for name, convolutions in (
        ("id", 26),
        ("first_layer", 4),
        ("metzen_late", 4),
    ):  # SqueezeNet's, and those of Metzen's branch
        found, _ = steps.detector(run, name, "fgsm")
        assert (
            sum(isinstance(module, torch.nn.Conv2d) for module in found.net.modules())
            == convolutions
        ), name
        assert scores(found, run.data.test[:2].pixels()).isfinite().all()


def test_inconsistency_asks_about_both_versions_of_each_image(tmp_path):
    run = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    kinds = ("grad_cam", "swapped", "shuffled", "random", "uniform")
    grid = {
        "nothing": {"maps": "grad_cam", "theta": 0.0},
        "stored": {"squeeze": "8-bit"},
        **{
            t: {"maps": "grad_cam", "theta": 0.0, "transform": t}
            for t in ("colour_reversing", "zero_mean")
        },
        **{kind: {"maps": kind, "theta": 0.4} for kind in kinds},
    }
    found = steps.consistency(run, "carlini_wagner_l2", grid)
    t, names, pairs, model = (
        found.tensors,
        found.record["names"],
        steps.adversarial(run, "carlini_wagner_l2"),
        steps.classifier(run).model,
    )
    stored = (pairs.x_adv * 255).round() / 255
    assert (
        names == list(grid)
        and not torch.equal(stored, pairs.x_adv)
        and torch.equal(t["mean"], model.mean)
        and t["mean"].min() > 0.1
    )
    for side, x, other in (("clean", pairs.x, stored), ("adversarial", stored, pairs.x)):
        before = model(x).softmax(1)
        assert torch.equal(t[f"{side}_before"], before.argmax(1))
        for quiet in ("nothing", "stored"):  # nothing tells the two sides by how they are stored
            assert t[f"{side}_far"][names.index(quiet)].max() < 1e-5 and torch.equal(
                t[f"{side}_label"][names.index(quiet)], before.argmax(1)
            )
        cams = {
            kind: between_0_and_1(grad_cam(model, x, label))
            for kind, label in (("grad_cam", before.argmax(1)), ("swapped", model(other).argmax(1)))
        }
        cams |= {kind: stand_in(cams["grad_cam"], 0) for kind, stand_in in OTHER_MAPS.items()}
        modified = {"colour_reversing": x.flip(1), "zero_mean": x - model.mean}
        modified |= {kind: (x + 0.4 * jet(cam)).clamp(0, 1) for kind, cam in cams.items()}
        for name, z in modified.items():
            after = model(z).softmax(1)
            assert torch.allclose(
                t[f"{side}_far"][names.index(name)], (after - before).abs().sum(1), atol=1e-4
            ), name
    assert torch.equal(t["success"], t["adversarial_before"] != t["clean_before"])
    again, turned = (
        steps.consistency(run, "carlini_wagner_l2", g) for g in (grid, dict(reversed(grid.items())))
    )
    assert (
        again.content == found.content
        and turned.path != found.path
        and torch.equal(turned.tensors["clean_far"].flip(0), t["clean_far"])
    )


@pytest.mark.parametrize(
    ("modification", "sentence"),
    [
        (
            {"maps": "gradcam", "theta": 0.1},
            "has the maps 'gradcam', which is unknown: choose one of logit_gradient",
        ),
        ({"squeeze": "9-bit"}, "has the squeeze '9-bit'"),
        ({"maps": "random", "theta": 0.1, "transform": "color"}, "has the transform 'color'"),
        ({"maps": "random", "theta": 0.1, "emphasis": "jet"}, "has the emphasis 'jet'"),
        ({"theta": 0.1}, "must hold squeeze, or maps and theta"),
        ({"maps": "random"}, "must hold squeeze, or maps and theta"),
        ({"squeeze": "1-bit", "size": 3}, "must hold squeeze"),
    ],
)
def test_a_modification_that_is_not_there_gets_a_sentence(smoke, tmp_path, modification, sentence):
    run = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    with pytest.raises(InputError, match=f"Modification 'mine' {sentence}"):
        steps.consistency(run, "fgsm", {"mine": modification})
    assert not list(tmp_path.rglob("meta.json"))
    with pytest.raises(InputError, match="holds each test image several times"):
        steps.consistency(run, "fgsm&bim", {})
    with pytest.raises(InputError, match="digits is grey, and modification 'mine' needs colour"):
        steps.consistency(smoke, "fgsm", {"mine": {"maps": "grad_cam", "theta": 0.1}})


def test_a_detectors_reading_and_start_are_part_of_what_it_is(smoke, monkeypatch):
    first = fitted(smoke, "jsd_scaled", "fgsm")[1]
    assert first.code != fitted(smoke, "jsd", "fgsm")[1].code
    changed = partial(views.image_and_jacobian, of="softmax", scaled=True, double=False)
    entry = partial(DETECTORS["jsd_scaled"].func, view=changed)
    monkeypatch.setitem(DETECTORS, "jsd_scaled", entry)
    again = fitted(configure(smoke.folder.parent), "jsd_scaled", "fgsm")[1]
    assert again.code != first.code
    monkeypatch.undo()
    fitted(configure(smoke.folder.parent), "jsd_scaled", "fgsm")  # as it was, for the other tests


# -- faults planted in the steps: each is seen


class Planted(Detector):
    """A detector whose score is a function of classifier and images."""

    def __init__(self, classifier, function):
        super().__init__(classifier)
        self.function = function

    def score(self, x, viewed=None):
        return self.function(self.classifier, x)


def brightness(classifier, x):
    return x.flatten(1).mean(1)


def doubt(classifier, x):
    return 1 - classifier(x).softmax(1).amax(1)


def controlled(run, pairs, found, **changed):
    """`make_controls` on these pairs."""
    inputs = {"data": run.data, "base": steps.classifier(run), "found": found, "pairs": pairs}
    inputs["memory"] = Memory()
    settings = {"detector": "planted", "trained": True, "setting": pairs.setting}
    more = {"fpr": 0.05, "seed": 0, "collapsed": False} | changed
    return make_controls(None, **inputs, **settings, **more)[1]


def test_the_controls_step_raises_where_a_source_stands_on_both_sides(smoke):
    pairs, found = (
        steps.adversarial(smoke, "fgsm"),
        Planted(steps.classifier(smoke).model, brightness),
    )
    assert controlled(smoke, pairs, found)["n"] == len(pairs.x)
    twins = replace(pairs, index=smoke.data.train.index[: len(pairs.x)])
    with pytest.raises(leaks.Leak, match="both sides of the split"):
        controlled(smoke, twins, found)


def test_the_controls_step_raises_where_the_attacks_path_leaves_a_trace(smoke, monkeypatch):
    pairs, found = (
        steps.adversarial(smoke, "fgsm"),
        Planted(steps.classifier(smoke).model, brightness),
    )

    def traced(model, x, y, **knobs):
        return (x * 0.999).clamp(0, 1)

    monkeypatch.setitem(ATTACKS, "fgsm", traced)
    with pytest.raises(leaks.Leak, match="leaves a trace"):
        controlled(smoke, pairs, found)


def test_the_controls_step_raises_where_an_attack_left_its_budget(smoke):
    pairs, found = (
        steps.adversarial(smoke, "fgsm"),
        Planted(steps.classifier(smoke).model, brightness),
    )
    setting = pairs.setting | {"eps": pairs.setting["eps"] / 2}
    beyond = replace(pairs, record=pairs.record | {"setting": setting})
    with pytest.raises(leaks.Leak, match="left its budget"):
        controlled(smoke, beyond, found)


def test_the_controls_step_looks_at_the_path_of_carlini_wagner(smoke):
    run = smoke
    pairs = replace(
        steps.adversarial(run, "fgsm"),
        record=steps.adversarial(run, "fgsm").record | {"setting": {"attack": "carlini_wagner_l2"}},
    )
    model = steps.classifier(run).model
    assert controlled(run, pairs, Planted(model, doubt))["auroc_tanh"] == pytest.approx(
        0.5, abs=0.1
    )

    def untouched(classifier, x):
        return ((x > 0) & (x < 1e-5)).flatten(1).double().mean(1)

    with pytest.raises(leaks.Leak, match="tanh"):
        controlled(run, pairs, Planted(model, untouched))


def test_misread_clean_images_are_a_group_of_their_own(smoke):
    """A detector that flags what the classifier misreads flags all of one group and none of the
    other.
    """
    base, test = steps.classifier(smoke), smoke.data.test
    wrong = predict(base.model, test.x).argmax(1) != test.y
    assert 0 < wrong.sum() < len(wrong)
    misread = {image.numpy().tobytes() for image in test[wrong.nonzero()[:, 0]].pixels()}

    def knows(classifier, x):
        return torch.tensor([float(image.numpy().tobytes() in misread) for image in x])

    record = controlled(smoke, steps.adversarial(smoke, "fgsm"), Planted(base.model, knows))
    assert record["flagged_clean_wrong"] == 1 and record["flagged_clean_right"] == 0
    assert record["n_clean_wrong"] == int(wrong.sum())


def test_thresholds_come_from_the_calibration_images(smoke):
    evaluated = steps.evaluation(smoke, "id", "fgsm", "fgsm")
    found = steps.detector(smoke, "id", "fgsm")[0]
    calibrate = scores(found, smoke.data.calibrate.pixels())
    assert torch.equal(evaluated.tensors["calibrate"][0], calibrate)
    flagged = evaluated.tensors["adversarial"] > threshold_at(calibrate, 0.05)
    assert evaluated.record["all"]["at_fpr_5"]["tpr"] == pytest.approx(
        flagged.double().mean().item()
    )
    pairs = steps.adversarial(smoke, "fgsm")
    assert torch.equal(evaluated.tensors["clean"][0], scores(found, pairs.x))
    assert not set(smoke.data.calibrate.index.tolist()) & set(pairs.index.tolist())


def test_attacks_are_given_the_classifiers_own_answer(smoke, tmp_path, monkeypatch):
    run, seen, real = configure(tmp_path), [], ATTACKS["fgsm"]

    def spy(model, x, y, **knobs):
        seen.append(y)
        return real(model, x, y, **knobs)

    monkeypatch.setitem(ATTACKS, "fgsm", spy)
    run.preset["attacked_test"] = 0  # all test images, misread ones among them
    pairs = steps.adversarial(run, "fgsm")
    own = predict(steps.classifier(run).model, pairs.x).argmax(1)
    assert torch.equal(torch.cat(seen), own) and torch.equal(pairs.prediction, own)
    assert not torch.equal(own, pairs.y)


def test_the_fits_of_a_detector_have_seeds_of_their_own(smoke):
    first, second = (fitted(smoke, "id", "fgsm", i)[1] for i in (0, 1))
    assert first.content != second.content
    assert not torch.equal(
        first.tensors["net.body.conv1.weight"], second.tensors["net.body.conv1.weight"]
    )


def test_paper_000s_carlini_wagner_searches_three_rounds(smoke):
    for dataset in ("mnist", "cifar10", "cats_dogs"):
        setting = settings_for(dataset)["000.carlini_wagner_l2"]
        assert (setting["search_steps"], setting["steps"]) == (3, 1000)


BROUGHT = """
import os, torch
from tests.conftest import NearestMean

class Net(torch.nn.Module):
    def __init__(self, t):
        super().__init__()
        self.net, self.t = NearestMean(), t

    def forward(self, x):
        return self.net(x) * self.t

def make():
    return Net(1.0).eval()

def warm():
    return Net(float(os.environ["TEMPERATURE"])).eval()
"""


def test_a_brought_model_is_known_by_its_file_its_state_and_its_logits(tmp_path, monkeypatch):
    """A plain float of the factory's, and a line of forward: neither is in the state dict."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found, out = [], tmp_path / "out"
    edits = ("", ""), ("Net(1.0)", "Net(9.0)"), ("* self.t", "* self.t + 0 * x.sum()")
    for i, (old, new) in enumerate(edits):
        source = BROUGHT.replace(old, new) if old else BROUGHT
        (tmp_path / f"brought{i}.py").write_text(source, encoding="utf-8")
        monkeypatch.setitem(sys.modules, "brought", importlib.import_module(f"brought{i}"))
        found.append(steps.classifier(configure(out, MODEL="brought:make")).artifact)
    assert len({one.content for one in found}) == 3
    again = steps.classifier(configure(out, MODEL="brought:make")).artifact
    assert again.content == found[-1].content and again.seconds == found[-1].seconds


def test_a_brought_model_that_answers_otherwise_is_measured_anew(tmp_path, monkeypatch):
    """A plain float that the factory reads from elsewhere: file and state are the same."""
    (tmp_path / "warm.py").write_text(BROUGHT, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    contents = []
    for temperature in ("1", "1000"):
        monkeypatch.setenv("TEMPERATURE", temperature)
        run = configure(tmp_path / "out", MODEL="warm:warm")
        contents.append(steps.classifier(run).artifact.content)
    assert contents[0] != contents[1]
