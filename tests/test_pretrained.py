"""Committed classifiers, saliency models and densities: small, with the record of how they were
made, as good as it says; used for their arguments only.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from nbutils import InputError, steps
from nbutils.attacks import ATTACKS
from nbutils.attacks.settings import settings_for
from nbutils.data import presets
from nbutils.models.contract import predict
from nbutils.series import publish, session
from nbutils.store.files import read_json
from nbutils.store.fingerprints import key_of
from tests.conftest import ROOT, configure
from tests.test_saliency import better_than_nothing

PRETRAINED = ROOT / "data" / "pretrained"
COMMITTED = sorted(path.parent for path in PRETRAINED.glob("*/classifier/meta.json"))
LEAST = {"mnist": 0.985, "cifar10": 0.75, "cats_dogs": 0.72}
DATA = Path(os.environ.get("NBUTILS_DATA", ROOT / "data"))
WHERE = {"mnist": "MNIST", "cifar10": "cifar-10-batches-py", "cats_dogs": "cats_dogs"}
# Bits per dimension of clean test images, at most: half a bit more than what was reached.
BITS = {"digits": 3.05, "digits_rgb": 3.92, "mnist": 1.65, "cifar10": 4.3}
NOT_TAKEN = "was not taken: its arguments are not those of the preset"


def committed_in(folder, monkeypatch):
    """Networks are published to, and looked for in, `folder`/pretrained."""
    monkeypatch.setattr(session, "resource", lambda name: folder / name)
    monkeypatch.setattr(publish, "PRETRAINED", folder / "pretrained")


def test_they_are_small_and_say_how_they_were_made():
    assert {path.parent.name for path in COMMITTED} == {f"{name}-quick-s0" for name in LEAST}
    sizes = [path.stat().st_size for path in PRETRAINED.rglob("tensors.safetensors")]
    assert max(sizes) <= 3_000_000 and sum(sizes) <= 25_000_000
    for path in COMMITTED:
        dataset = path.parent.name.split("-")[0]
        meta, preset = read_json(path / "meta.json"), presets.PRESETS[dataset]["quick"]
        for field in ("width", "dropouts", "refit", "epochs"):
            assert meta["arguments"][field] == preset[field], field
        assert len(meta["code"]) == 64 and meta["versions"]["torch"]
        assert len(meta["record"]["train_loss"]) == meta["record"]["epochs"]
        assert meta["record"]["accuracy"] >= LEAST[dataset]


@pytest.mark.parametrize("dataset", LEAST)
def test_their_accuracy_is_the_recorded_one_and_the_steps_take_them(dataset, tmp_path, monkeypatch):
    if not (DATA / WHERE[dataset]).is_dir():
        pytest.skip(f"{WHERE[dataset]} is not under the data root")
    # not DATA_ROOT, which marks a folder of other pictures than those it was trained on
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    run = configure(tmp_path, DATASET=dataset, PRESET="quick")
    made = steps.classifier(run)
    assert "made_by" in made.record, f"the committed classifier {NOT_TAKEN}"
    right = predict(made.model, run.data.test.x).argmax(1) == run.data.test.y
    assert right.float().mean().item() == pytest.approx(made.record["accuracy"], abs=0.001)
    assert made.record["accuracy"] >= LEAST[dataset]


def test_used_for_equal_arguments_only_and_not_with_retrain(tmp_path, monkeypatch):
    committed_in(tmp_path, monkeypatch)
    first = configure(tmp_path / "a")
    trained = steps.classifier(first)
    assert "made_by" not in trained.record
    kept = publish.publish(first.folder, pretrained=True) / "classifier"
    assert kept == tmp_path / "pretrained" / "digits-smoke-s0" / "classifier"
    taken = steps.classifier(configure(tmp_path / "b"))
    assert (
        taken.record["made_by"]["code"]
        == json.loads((kept / "meta.json").read_text(encoding="utf-8"))["code"]
    )
    for name in ("accuracy", "train_loss"):
        assert taken.record[name] == trained.record[name]
    assert key_of(taken.model.state_dict()) == key_of(trained.model.state_dict())
    assert "made_by" not in steps.classifier(configure(tmp_path / "b", RETRAIN=True)).record
    assert "made_by" not in steps.classifier(configure(tmp_path / "b", SEED=1)).record
    data = (kept / "tensors.safetensors").read_bytes()
    (kept / "tensors.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="digits-smoke-s0/classifier is damaged"):
        steps.classifier(configure(tmp_path / "c"))
    with pytest.raises(InputError, match="holds no single classifier"):
        publish.publish(tmp_path / "nothing", pretrained=True)


def test_a_saliency_model_is_committed_for_its_classifier(tmp_path, monkeypatch):
    committed_in(tmp_path, monkeypatch)
    first = configure(tmp_path / "a")
    trained = steps.learned_saliency(first)
    assert "made_by" not in trained.record and trained.record["n"] == len(first.data.test)
    publish.publish(first.folder, pretrained=True)
    second = configure(tmp_path / "b")
    taken = steps.learned_saliency(second)
    assert "made_by" in taken.record
    assert key_of(taken.model.state_dict()) == key_of(trained.model.state_dict())
    with pytest.raises(InputError, match="holds no single classifier, saliency model or density"):
        publish.publish(second.folder, pretrained=True)
    assert "made_by" not in steps.learned_saliency(configure(tmp_path / "b", SEED=1)).record
    third = configure(tmp_path / "c")
    # another classifier under the same arguments
    next(steps.classifier(third).model.parameters()).data.mul_(1.01)
    assert "made_by" not in steps.learned_saliency(third).record


@pytest.mark.parametrize("dataset", LEAST)
def test_the_committed_saliency_model_beats_masks_that_say_nothing(dataset, tmp_path, monkeypatch):
    if not (DATA / WHERE[dataset]).is_dir():
        pytest.skip(f"{WHERE[dataset]} is not under the data root")
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    run = configure(tmp_path, "03_saliency", DATASET=dataset, PRESET="quick", ATTACKS=["fgsm"])
    made = steps.learned_saliency(run)
    assert "made_by" in made.record, f"the committed saliency model {NOT_TAKEN}"
    model, x = steps.classifier(run).model, run.data.test[:500].pixels()
    maps = steps.maps(run, "learned", x)
    kept, destroyed = better_than_nothing(model, x, maps)
    assert dataset == "cats_dogs" or (kept > 0.1 and destroyed > 0.1)
    another_class = (predict(model, x).argmax(1) + 1) % len(run.data.classes)
    other = steps.maps(run, "learned", x, another_class)
    assert (other - maps).abs().mean() > 0.02


def test_a_density_is_committed_for_its_images(tmp_path, monkeypatch):
    committed_in(tmp_path, monkeypatch)
    first = configure(tmp_path / "a")
    trained = steps.density(first)
    assert "made_by" not in trained.record
    publish.publish(first.folder, pretrained=True)
    taken = steps.density(configure(tmp_path / "b"))
    assert "made_by" in taken.record and torch.equal(taken.reference, trained.reference)
    assert key_of(taken.model.state_dict()) == key_of(trained.model.state_dict())
    assert "made_by" not in steps.density(configure(tmp_path / "c", RETRAIN=True)).record
    # other images, or another size of it
    assert "made_by" not in steps.density(configure(tmp_path / "d", SEED=1)).record
    larger = configure(tmp_path / "e", CHANGES={"density_filters": 9})
    assert "made_by" not in steps.density(larger).record


@pytest.mark.parametrize("dataset", BITS)
def test_the_committed_density_needs_the_bits_that_it_says(dataset, tmp_path, monkeypatch):
    if dataset in WHERE and not (DATA / WHERE[dataset]).is_dir():
        pytest.skip(f"{WHERE[dataset]} is not under the data root")
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    made = steps.density(run := configure(tmp_path, DATASET=dataset, PRESET="quick"))
    assert "made_by" in made.record, f"the committed density {NOT_TAKEN}"
    x = run.data.test[:200].pixels()
    bits, kept = made.model.bits(x), made.test[:200]
    assert torch.allclose(bits, kept, atol=1e-3) and made.record["bits_test"] < BITS[dataset]
    assert made.record["ks"] < 0.1  # it does not know its training images by heart
    noise = 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    more = made.model.bits((x + noise).clamp(0, 1)) - bits
    assert (more > 0).float().mean() > 0.95


# Of robust networks: accuracy on clean test images, and under PGD, at least.
ROBUST = {("mnist", "pgd"): (0.97, 0.8), ("mnist", "ddn"): (0.97, 0.5)}
ROBUST |= {("cifar10", "pgd"): (0.3, 0.2), ("cifar10", "ddn"): (0.5, 0.08)}


@pytest.mark.parametrize(("dataset", "kind"), ROBUST)
def test_the_committed_robust_networks_are_as_good_as_they_say(
    dataset, kind, tmp_path, monkeypatch
):
    if not (DATA / WHERE[dataset]).is_dir():
        pytest.skip(f"{WHERE[dataset]} is not under the data root")
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    run = configure(tmp_path, DATASET=dataset, PRESET="quick")
    made = steps.robust(run, kind)
    assert "made_by" in made.record, f"the committed robust network {NOT_TAKEN}"
    few = run.data.test[:500]
    right = (predict(made.model, few.x).argmax(1) == few.y).double().mean().item()
    assert right == pytest.approx(made.record["accuracy"], abs=0.06)
    clean, under = ROBUST[dataset, kind]
    assert made.record["accuracy"] > clean and made.record["accuracy_pgd"] > under
    assert made.record["accuracy_pgd"] > made.record["plain_pgd"] + 0.05
    eps, part = settings_for(dataset)["004.pgd"]["eps"], few[:40]
    knobs = {"eps": eps, "step": eps / 4, "steps": 20, "index": part.index}
    x_adv = ATTACKS["pgd"](made.model, part.pixels(), part.y, **knobs)
    held = (predict(made.model, x_adv).argmax(1) == part.y).double().mean().item()
    assert held == pytest.approx(made.record["accuracy_pgd"], abs=0.2)


def test_a_robust_network_is_committed_for_its_classifier(tmp_path, monkeypatch):
    committed_in(tmp_path, monkeypatch)
    first = configure(tmp_path / "a")
    trained = {kind: steps.robust(first, kind) for kind in ("pgd", "ddn")}
    publish.publish(first.folder, pretrained=True)
    for kind, made in trained.items():
        assert (tmp_path / "pretrained" / first.folder.name / f"robust-{kind}").is_dir()
        taken = steps.robust(configure(tmp_path / "b"), kind)
        assert "made_by" in taken.record and "made_by" not in made.record
        assert key_of(taken.model.state_dict()) == key_of(made.model.state_dict())
    assert "made_by" not in steps.robust(configure(tmp_path / "c", RETRAIN=True), "pgd").record
    other = configure(tmp_path / "d", CHANGES={"robust_steps": 2})
    assert "made_by" not in steps.robust(other, "pgd").record
