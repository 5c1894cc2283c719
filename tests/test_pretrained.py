"""Committed classifiers and saliency models: small, with the record of how they were made, as good as it says; used for their arguments only."""

import json
import os
from pathlib import Path

import pytest

from nbutils import InputError, artifacts, models, pipeline, presets, runner
from tests.conftest import ROOT, configure
from tests.test_saliency import better_than_nothing

COMMITTED = sorted(path.parent for path in (ROOT / "data" / "pretrained").glob("*/classifier/meta.json"))
LEAST = {"mnist": 0.985, "cifar10": 0.75, "cats_dogs": 0.72}
DATA = Path(os.environ.get("NBUTILS_DATA", ROOT / "data"))
WHERE = {"mnist": "MNIST", "cifar10": "cifar-10-batches-py", "cats_dogs": "cats_dogs"}


def test_they_are_small_and_say_how_they_were_made():
    assert {path.parent.name for path in COMMITTED} == {f"{name}-quick-s0" for name in LEAST}
    sizes = [path.stat().st_size for path in (ROOT / "data" / "pretrained").rglob("tensors.safetensors")]
    assert max(sizes) <= 3_000_000 and sum(sizes) <= 20_000_000
    for path in COMMITTED:
        dataset = path.parent.name.split("-")[0]
        meta = artifacts.read_json(path / "meta.json")
        fields = ("width", "dropouts", "refit", "epochs")
        assert {f: meta["arguments"][f] for f in fields} == {f: presets.PRESETS[dataset]["quick"][f] for f in fields}
        assert len(meta["code"]) == 64 and len(meta["record"]["train_loss"]) == meta["record"]["epochs"] and meta["versions"]["torch"]
        assert meta["record"]["accuracy"] >= LEAST[dataset]


@pytest.mark.parametrize("dataset", LEAST)
def test_their_accuracy_is_the_recorded_one_and_the_pipeline_takes_them(dataset, tmp_path):
    if not (DATA / WHERE[dataset]).is_dir():
        pytest.skip(f"{WHERE[dataset]} is not under the data root")
    run = configure(tmp_path, DATASET=dataset, PRESET="quick", DATA_ROOT=str(DATA))
    run.parameters["DATA_ROOT"] = ""  # the folder's mark is for other pictures; these are the ones it was trained on
    os.environ.setdefault("NBUTILS_DATA", str(DATA))
    made = pipeline.classifier(run)
    assert "made_by" in made.record, "the committed classifier was not taken: its arguments are not those of the preset"
    right = models.predict(made.model, run.data.test.x).argmax(1) == run.data.test.y
    assert right.float().mean().item() == pytest.approx(made.record["accuracy"], abs=0.001) and made.record["accuracy"] >= LEAST[dataset]


def test_used_for_equal_arguments_only_and_not_with_retrain(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(runner, "PRETRAINED", tmp_path / "pretrained")
    first = configure(tmp_path / "a")
    trained = pipeline.classifier(first)
    assert "made_by" not in trained.record
    kept = runner.publish(first.folder, pretrained=True) / "classifier"
    assert kept == tmp_path / "pretrained" / "digits-smoke-s0" / "classifier"
    taken = pipeline.classifier(configure(tmp_path / "b"))
    assert taken.record["made_by"]["code"] == json.loads((kept / "meta.json").read_text())["code"]
    assert taken.record["accuracy"] == trained.record["accuracy"] and taken.record["train_loss"] == trained.record["train_loss"]
    assert artifacts.key_of(taken.model.state_dict()) == artifacts.key_of(trained.model.state_dict())
    assert "made_by" not in pipeline.classifier(configure(tmp_path / "b", RETRAIN=True)).record
    assert "made_by" not in pipeline.classifier(configure(tmp_path / "b", SEED=1)).record
    data = (kept / "tensors.safetensors").read_bytes()
    (kept / "tensors.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="digits-smoke-s0/classifier is damaged"):
        pipeline.classifier(configure(tmp_path / "c"))
    with pytest.raises(InputError, match="holds no single classifier"):
        runner.publish(tmp_path / "nothing", pretrained=True)


def test_a_saliency_model_is_committed_for_its_classifier(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(runner, "PRETRAINED", tmp_path / "pretrained")
    first = configure(tmp_path / "a")
    trained = pipeline.learned_saliency(first)
    assert "made_by" not in trained.record and trained.record["n"] == len(first.data.test)
    runner.publish(first.folder, pretrained=True)
    second = configure(tmp_path / "b")
    taken = pipeline.learned_saliency(second)
    assert "made_by" in taken.record and artifacts.key_of(taken.model.state_dict()) == artifacts.key_of(trained.model.state_dict())
    with pytest.raises(InputError, match="holds no single classifier"):
        runner.publish(second.folder, pretrained=True)
    assert "made_by" not in pipeline.learned_saliency(configure(tmp_path / "b", SEED=1)).record
    third = configure(tmp_path / "c")
    next(pipeline.classifier(third).model.parameters()).data.mul_(1.01)  # another classifier under the same arguments
    assert "made_by" not in pipeline.learned_saliency(third).record


@pytest.mark.parametrize("dataset", LEAST)
def test_the_committed_saliency_model_beats_masks_that_say_nothing(dataset, tmp_path, monkeypatch):
    if not (DATA / WHERE[dataset]).is_dir():
        pytest.skip(f"{WHERE[dataset]} is not under the data root")
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    run = configure(tmp_path, "03_saliency", DATASET=dataset, PRESET="quick", ATTACKS=["fgsm"])
    made = pipeline.learned_saliency(run)
    assert "made_by" in made.record, "the committed saliency model was not taken: its arguments are not those of the preset"
    model, x = pipeline.classifier(run).model, run.data.test[:500].pixels()
    maps = pipeline.maps(run, "learned", x)
    kept, destroyed = better_than_nothing(model, x, maps)
    assert dataset == "cats_dogs" or (kept > 0.1 and destroyed > 0.1)
    other = pipeline.maps(run, "learned", x, (models.predict(model, x).argmax(1) + 1) % len(run.data.classes))
    assert (other - maps).abs().mean() > 0.02
