"""The corridor end to end at smoke size: same seed same bytes, killed runs go on, edits remake what depends on them and nothing else."""

import json
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from nbutils import InputError, __main__, attacks, data, detectors, models, pipeline, presets, saliency
from nbutils.detectors import inconsistency
from tests.conftest import ROOT, configure, python

MAKE = ("make", "evaluation", "--preset", "smoke", "--threads", "1", "--device", "cpu", "--attack", "fgsm", "pgd", "--detector", "id")


def contents(out):
    """Every artifact's tensors as bytes and its record, by step and name; records without seconds."""
    found = {}
    for meta in sorted(out.rglob("meta.json")):
        record = json.loads(meta.read_text())["record"]
        record = {k: v for k, v in record.items() if k != "seconds"}
        found["/".join(meta.parts[-3:-1])] = (meta.with_name("tensors.safetensors").read_bytes(), json.dumps(record, sort_keys=True))
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An undisturbed run in a process of its own, and what it said."""
    out = tmp_path_factory.mktemp("reference")
    done = python(*MAKE, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_corridor(smoke):
    base = pipeline.classifier(smoke)
    assert base.record["accuracy"] > 0.8 and not any(p.requires_grad for p in base.model.parameters())
    pairs = pipeline.adversarial(smoke, "bim")
    assert pairs.record["success_rate"] > 0.3 and len(pairs.x) == 40 and pairs.x.dtype == torch.float32
    assert torch.equal(pairs.success, pairs.prediction_adv != pairs.prediction)
    assert torch.equal(models.predict(base.model, pairs.x_adv).argmax(1), pairs.prediction_adv)
    assert (pairs.record["forwards_per_image"], pairs.record["backwards_per_image"]) == (10, 10)
    evaluation = pipeline.evaluation(smoke, "jsd", "bim", "fgsm")
    assert evaluation.tensors["clean"].shape == (1, 40) and evaluation.record["all"]["n"] == 40
    assert not set(pairs.index.tolist()) & set(pipeline.adversarial(smoke, "bim", "train").index.tolist())
    scalar = pipeline.evaluation(smoke, "noise", "", "fgsm").record["all"]
    assert scalar["auroc"] > 0.9 and "at_decision" not in scalar
    controls = pipeline.controls(smoke, "id", "fgsm")
    assert {"auroc_8bit", "auroc_jpeg", "flagged_jpeg", "auroc_noise_sign", "flagged_clean_wrong", "auroc_within_class"} <= set(controls)


def test_settings_and_knobs(smoke):
    small = pipeline.adversarial(smoke, "bim", eps=0.03)
    assert small.setting["step"] == pytest.approx(0.003) and (small.x_adv - small.x).abs().max() <= 0.03 + 1e-6
    assert pipeline.adversarial(smoke, "pgd").setting["steps"] == smoke.preset["pgd_steps"]
    theirs = pipeline.adversarial(smoke, "fgsm", backend="cleverhans")
    assert torch.allclose(theirs.x_adv, pipeline.adversarial(smoke, "fgsm").x_adv, atol=1e-6)
    with pytest.raises(InputError, match="Attack 'nonsense' is unknown"):
        pipeline.adversarial(smoke, "nonsense")
    with pytest.raises(InputError, match="split 'validation' is unknown"):
        pipeline.adversarial(smoke, "fgsm", "validation")


def test_mixtures_of_attacks(smoke):
    fgsm, bim = (pipeline.adversarial(smoke, name, "train") for name in ("fgsm", "bim"))
    one, every = (pipeline.adversarial(smoke, name, "train") for name in ("fgsm+bim", "fgsm&bim"))
    n = len(fgsm.x)
    drawn = [(one.x_adv == s.x_adv).flatten(1).all(1) for s in (fgsm, bim)]
    assert torch.equal(one.index, fgsm.index) and torch.equal(one.x, fgsm.x) and (drawn[0] | drawn[1]).all()
    assert 0 < drawn[0].sum() < n and abs(drawn[0].sum() - drawn[1].sum()) <= 1 + (drawn[0] & drawn[1]).sum()
    assert torch.equal(every.x_adv, torch.cat([fgsm.x_adv, bim.x_adv])) and every.index.tolist() == 2 * fgsm.index.tolist()
    assert pipeline.evaluation(smoke, "id", "fgsm&bim", "fgsm+bim", fits=1).record["n"] == smoke.preset["attacked_test"]
    assert 0 <= pipeline.controls(smoke, "id", "fgsm+bim")["auroc"] <= 1
    with pytest.raises(InputError, match=r"test on 'fgsm\+bim'"):
        pipeline.evaluation(smoke, "id", "fgsm", "fgsm&bim")
    for strange in ("fgsm+bim&mim", "fgsm&fgsm"):
        with pytest.raises(InputError, match="each attack once"):
            pipeline.adversarial(smoke, strange)
    with pytest.raises(InputError, match="Attack 'fgms' is unknown"):
        pipeline.adversarial(smoke, "fgsm+fgms")


def test_variants_of_a_detector_are_kept_apart(smoke):
    plain, wide = (pipeline.detector(smoke, "id", "fgsm", variant=v)[1]["hash"] for v in (None, {"width": 2.0, "optimizer": "sgd"}))
    assert plain != wide and pipeline.detector(smoke, "id", "fgsm")[1]["hash"] == plain
    for strange in ({"architecture": "nope"}, {"depth": 3}):
        with pytest.raises(InputError, match=r"variant .* is unknown"):
            pipeline.detector(smoke, "id", "fgsm", variant=strange)
    with pytest.raises(InputError, match="optimizer 'adamant' is unknown"):
        pipeline.detector(smoke, "id", "fgsm", variant={"optimizer": "adamant"})


def test_out_of_memory_halves_the_batch(smoke, tmp_path, monkeypatch):
    run, batches, real = configure(tmp_path), [], attacks.ATTACKS["fgsm"]

    def hungry(model, x, *rest, **knobs):
        batches.append(len(x))
        if len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, x, *rest, **knobs)

    monkeypatch.setitem(attacks.ATTACKS, "fgsm", hungry)
    got = pipeline.adversarial(run, "fgsm")
    assert batches[:4] == [40, 20, 10, 10] and got.record["halved"] == 2
    assert torch.allclose(got.x_adv, pipeline.adversarial(smoke, "fgsm").x_adv, atol=1e-6)


class Own(torch.nn.Module):
    """A user's own model of the digits, with the fault that a test asks for."""

    fault = ""

    def __init__(self):
        super().__init__()
        self.net = models.build("digits_net", (1, 28, 28), 9 if self.fault == "classes" else 10, seed=7)

    def forward(self, x):
        logits = self.net(x)
        return {"softmax": logits.softmax(1), "nan": logits * float("nan")}.get(self.fault, logits)


@pytest.mark.parametrize(("fault", "sentence"), [("softmax", "probabilities, not logits"), ("nan", "NaN"), ("classes", r"\(4, 9\) for 4 images")])
def test_own_models_with_faults_are_refused_before_any_work(tmp_path, fault, sentence, monkeypatch):
    monkeypatch.setattr(Own, "fault", fault)
    run = configure(tmp_path, MODEL=f"{__name__}:Own")
    with pytest.raises(InputError, match=sentence):
        pipeline.adversarial(run, "fgsm")
    assert not list(tmp_path.rglob("meta.json"))


def test_own_model_is_attacked_and_kept_apart(smoke, tmp_path):
    run = configure(tmp_path, MODEL=f"{__name__}:Own")
    assert pipeline.adversarial(run, "fgsm").record["n"] == 40 and run.folder.name != smoke.folder.name
    first = pipeline.classifier(run).artifact
    assert first.tensors.keys() == {"test_logits"}
    real = Own.forward
    try:
        Own.forward = lambda self, x: real(self, 1 - x)  # the same weights, another function
        again = pipeline.classifier(configure(tmp_path, MODEL=f"{__name__}:Own")).artifact
    finally:
        Own.forward = real
    assert again.hash != first.hash


def test_weights_stand_in_for_training(smoke, tmp_path):
    kept = pipeline.classifier(smoke).artifact
    state = {k: v for k, v in kept.tensors.items() if k != "test_logits"}
    torch.save(state, tmp_path / "weights.pt")
    run = configure(tmp_path, WEIGHTS=str(tmp_path / "weights.pt"))
    assert pipeline.classifier(run).record["accuracy"] == kept.record["accuracy"]
    with pytest.raises(InputError, match="is no file"):
        pipeline.classifier(configure(tmp_path / "other", WEIGHTS="nowhere.pt"))


def test_make_prints_what_it_made(tmp_path, capsys):
    assert __main__.main(["make", "adversarial", "--preset", "smoke", "--attack", "fgsm", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "classifier digits_net: accuracy" in out and "adversarial fgsm on test: success" in out and "Kept in" in out


def test_same_seed_same_bytes_other_seed_others(reference, tmp_path):
    again = python(*MAKE, "--out", tmp_path)
    assert contents(tmp_path) == contents(reference[0])
    shown = lambda text: re.sub(r", [\d.]+ s|Kept in .*", "", text)  # noqa: E731
    assert shown(again.stdout) == shown(reference[1])
    other = python(*MAKE, "--out", tmp_path, "--seed", 1)
    assert other.returncode == 0 and other.stdout != again.stdout


KILLER = """
import os, signal, sys
import nbutils.train, nbutils.pipeline, nbutils.artifacts
nbutils.train.CHECKPOINT_SECONDS = 0
count, real = 0, {target}
def killer(*a, **k):
    global count
    count += 1
    if count == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)
{target} = killer
from nbutils.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("what", "target", "nth"),
    [
        ("in the middle of an epoch", "nbutils.train.cross_entropy", 12),
        ("in the middle of an attack's chunks", "nbutils.pipeline._attack_rows", 2),
        ("in the middle of a detector's fit", "nbutils.train._epoch", 6),
        ("between write and rename", "os.replace", 9),
        ("between tensors and meta", "nbutils.artifacts.write_json", 3),
    ],
)
def test_killed_and_run_again_ends_with_the_same_bytes(reference, tmp_path, what, target, nth):
    killed = python(*MAKE, "--out", tmp_path, code=KILLER.format(target=target, nth=nth))
    assert killed.returncode == -9, (what, killed.stderr)
    before = contents(tmp_path)
    done = python(*MAKE, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(reference[0])
    assert before.items() <= contents(tmp_path).items()


def test_two_runs_at_once_do_not_harm_each_other(reference, tmp_path):
    command = [sys.executable, "-m", "nbutils", *MAKE, "--out", str(tmp_path)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
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


def test_editing_an_attack_remakes_what_depends_on_it_and_nothing_else(reference, tmp_path):
    shutil.copytree(ROOT / "nbutils", tmp_path / "nbutils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(reference[0], tmp_path / "out")
    here = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
    source = tmp_path / "nbutils" / "attacks" / "__init__.py"
    text = source.read_text()
    source.write_text(text.replace('    """Fast gradient sign method', '    """The fast gradient sign method').replace("# 000: paper", "# paper"))
    before = times(tmp_path / "out")
    assert python(*MAKE, "--out", tmp_path / "out", **here).returncode == 0
    assert times(tmp_path / "out") == before  # words are not code
    line = "return (x + sign * eps * _direction(gradient, norm)).clamp(0, 1)"
    assert line in text
    source.write_text(text.replace(line, line.replace("eps *", "0.9 * eps *")))
    time.sleep(0.01)
    done = python(*MAKE, "--out", tmp_path / "out", **here)
    after = times(tmp_path / "out")
    changed = {name for name in after if after[name] != before[name]}
    assert changed and all("fgsm" in name for name in changed), (changed, done.stderr)
    assert {"adversarial/fgsm-train", "adversarial/fgsm-test", "detector/id-fgsm-train-0"} <= changed
    unchanged = set(after) - changed
    assert {"classifier/digits_net", "adversarial/pgd-train", "detector/id-pgd-train-0", "evaluation/id-pgd-on-pgd-test-x1"} <= unchanged


def test_float32_attacks_agree_across_chunk_sizes(smoke, tmp_path):
    run = configure(tmp_path)
    run.preset["chunk"] = 7
    a, b = pipeline.adversarial(run, "pgd_l2"), pipeline.adversarial(smoke, "pgd_l2")
    assert torch.equal(a.success, b.success)
    size = [np.asarray((s.x_adv - s.x).flatten(1).norm(dim=1)) for s in (a, b)]
    assert np.abs(size[0] - size[1]).max() < 1e-3


def test_the_papers_recipe_chooses_dropout_by_validation_and_refits_on_all(tmp_path):
    run = configure(tmp_path)
    run.preset |= {"epochs": 2, "dropouts": [0.3, 0.7], "refit": True}
    record = pipeline.classifier(run).record
    scores = {k: v["validation_accuracy"] for k, v in record["tried"].items()}
    assert set(scores) == {"0.3", "0.7"} and scores[str(record["dropout"])] == max(scores.values())
    assert record["epochs"] == record["epoch"] == record["tried"][str(record["dropout"])]["epoch"]
    assert sorted(p.name for p in (run.folder / "candidate").iterdir() if p.is_dir()) == ["digits_net-dropout0.3", "digits_net-dropout0.7"]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "cats_dogs"])
def test_paper_presets_take_a_few_steps(dataset, tmp_path, monkeypatch):
    """The code of the `paper` presets on eight images: the papers' networks at full size, their recipe, attack and detector."""
    shape, classes = {"mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10), "cats_dogs": ((3, 112, 112), 2)}[dataset]
    run = configure(tmp_path, DATASET=dataset, PRESET="paper")
    rng = torch.Generator().manual_seed(0)
    n = 24
    images = data.Images(torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=rng), torch.arange(n) % classes, torch.arange(n))
    run.__dict__["data"] = data.Dataset(dataset, [str(i) for i in range(classes)], images[:16], images[16:18], images[18:])
    run.preset |= {"epochs": 1, "dropouts": run.preset["dropouts"][:2], "attacked_train": 4, "attacked_test": 3, "detector_epochs": 1,
                   "detector_seeds": 1, "pgd_steps": 2}
    monkeypatch.setattr("nbutils.train._constant", lambda *a: False)  # one epoch on sixteen images of noise says the same of all
    assert pipeline.classifier(run).record["architecture"] == presets.PRESETS[dataset]["paper"]["classifier"]
    assert pipeline.evaluation(run, "jsd", "pgd", "pgd").record["n"] == 3


def test_minimal_attacks_go_through_the_corridor_with_their_controls(tmp_path):
    run = configure(tmp_path)
    run.preset |= {"attacked_train": 24, "attacked_test": 16, "detector_epochs": 1}
    for name in ("deepfool", "ddn", "jsma", "mim", "iterative_l2", "carlini_wagner_l2"):
        made = pipeline.adversarial(run, name)
        assert made.record["success_rate"] > 0.3 and made.record["forwards_per_image"] > 1, name
    found = pipeline.controls(run, "id", "deepfool")
    assert 0 <= found["auroc"] <= 1 and found["n"] == 16


def test_layers_are_read_where_the_detector_is_a_network_for_pictures(tmp_path):
    run = configure(tmp_path, DATASET="digits_rgb", CHANGES={"detector": "squeezenet1_1", "detector_epochs": 1, "attacked_train": 20, "train": 100})
    for name, convolutions in (("id", 26), ("first_layer", 4), ("metzen_late", 4)):  # SqueezeNet's, and those of Metzen's branch
        found, _ = pipeline.detector(run, name, "fgsm")
        assert sum(isinstance(module, torch.nn.Conv2d) for module in found.net.modules()) == convolutions, name
        assert detectors.scores(found, run.data.test[:2].pixels()).isfinite().all()


def test_inconsistency_asks_about_both_versions_of_each_image(tmp_path):
    run = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    kinds = ("grad_cam", "swapped", "shuffled", "random", "uniform")
    grid = {"nothing": {"maps": "grad_cam", "theta": 0.0}, "stored": {"squeeze": "8-bit"}, **{
        t: {"maps": "grad_cam", "theta": 0.0, "transform": t} for t in ("colour_reversing", "zero_mean")}, **{
        kind: {"maps": kind, "theta": 0.4} for kind in kinds}}
    found = pipeline.inconsistency(run, "carlini_wagner_l2", grid)
    t, names, pairs, model = found.tensors, found.record["names"], pipeline.adversarial(run, "carlini_wagner_l2"), pipeline.classifier(run).model
    stored = (pairs.x_adv * 255).round() / 255
    assert names == list(grid) and not torch.equal(stored, pairs.x_adv) and torch.equal(t["mean"], model.mean) and t["mean"].min() > 0.1
    for side, x, other in (("clean", pairs.x, stored), ("adversarial", stored, pairs.x)):
        before = model(x).softmax(1)
        assert torch.equal(t[f"{side}_before"], before.argmax(1))
        for quiet in ("nothing", "stored"):  # nothing tells the two sides by how they are stored
            assert t[f"{side}_far"][names.index(quiet)].max() < 1e-5 and torch.equal(t[f"{side}_label"][names.index(quiet)], before.argmax(1))
        cams = {kind: inconsistency.between_0_and_1(saliency.grad_cam(model, x, label))
                for kind, label in (("grad_cam", before.argmax(1)), ("swapped", model(other).argmax(1)))}
        cams |= {kind: stand_in(cams["grad_cam"], 0) for kind, stand_in in inconsistency.STAND_INS.items()}
        modified = {"colour_reversing": x.flip(1), "zero_mean": x - model.mean}
        modified |= {kind: (x + 0.4 * inconsistency.jet(cam)).clamp(0, 1) for kind, cam in cams.items()}
        for name, z in modified.items():
            after = model(z).softmax(1)
            assert torch.allclose(t[f"{side}_far"][names.index(name)], (after - before).abs().sum(1), atol=1e-4), name
    assert torch.equal(t["success"], t["adversarial_before"] != t["clean_before"])
    again, turned = (pipeline.inconsistency(run, "carlini_wagner_l2", g) for g in (grid, dict(reversed(grid.items()))))
    assert again.hash == found.hash and turned.path != found.path and torch.equal(turned.tensors["clean_far"].flip(0), t["clean_far"])


@pytest.mark.parametrize(("modification", "sentence"), [
    ({"maps": "gradcam", "theta": 0.1}, "has the maps 'gradcam', which is unknown: choose one of logit_gradient"),
    ({"squeeze": "9-bit"}, "has the squeeze '9-bit'"), ({"maps": "random", "theta": 0.1, "transform": "color"}, "has the transform 'color'"),
    ({"maps": "random", "theta": 0.1, "emphasis": "jet"}, "has the emphasis 'jet'"), ({"theta": 0.1}, "must hold squeeze, or maps and theta"),
    ({"maps": "random"}, "must hold squeeze, or maps and theta"), ({"squeeze": "1-bit", "size": 3}, "must hold squeeze"),
])
def test_a_modification_that_is_not_there_gets_a_sentence(smoke, tmp_path, modification, sentence):
    run = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    with pytest.raises(InputError, match=f"Modification 'mine' {sentence}"):
        pipeline.inconsistency(run, "fgsm", {"mine": modification})
    assert not list(tmp_path.rglob("meta.json"))
    with pytest.raises(InputError, match="holds each test image several times"):
        pipeline.inconsistency(run, "fgsm&bim", {})
    with pytest.raises(InputError, match="digits is grey, and modification 'mine' needs colour"):
        pipeline.inconsistency(smoke, "fgsm", {"mine": {"maps": "grad_cam", "theta": 0.1}})


def test_a_detectors_reading_and_start_are_part_of_what_it_is(smoke, monkeypatch):
    from functools import partial

    pipeline.adversarial(smoke, "fgsm", "train")
    asked = []
    monkeypatch.setattr(pipeline, "_step", lambda run, step, name, make, **what: asked.append(what["arguments"]) or 1 / 0)
    for name in ("jsd", "jsd_scaled"):
        with pytest.raises(ZeroDivisionError):
            pipeline.detector(smoke, name, "fgsm")
    monkeypatch.setitem(detectors.TRAINED, "jsd_scaled", partial(detectors.TRAINED["jsd_scaled"].func, scaled=False))
    with pytest.raises(ZeroDivisionError):
        pipeline.detector(smoke, "jsd_scaled", "fgsm")
    assert "features" not in asked[0] and asked[1]["features"]["scaled"] and not asked[2]["features"]["scaled"]
