"""Published networks and a user's own on real pictures, through the parameters that a notebook takes; skipped where the files are not there."""

import os
from pathlib import Path

import pytest

from nbutils import pipeline
from tests.conftest import ROOT, configure

DATA = Path(os.environ.get("NBUTILS_DATA", ROOT / "data"))
WEIGHTS = DATA / "weights"
MOBILENET = {"MODEL": "mobilenet_v2_dequantised:build", "DATASET": "imagenet_subset"}


@pytest.mark.parametrize(("parameters", "file", "accuracy", "within", "n"), [
    ({"DATASET": "cifar10", "MODEL": "resnet20"}, "resnet20_cifar10.safetensors", 0.9173, 0.0005, 10_000),
    ({"DATASET": "cifar10", "MODEL": "resnet20", "WEIGHTS": str(WEIGHTS / "resnet20_cifar10.safetensors")}, "resnet20_cifar10.safetensors",
     0.9173, 0.0005, 10_000),
    ({"DATASET": "imagenet_subset"}, "squeezenet1_1.safetensors", 0.96, 0.01, 500),
    ({"DATASET": "imagenet_subset", "SOURCE": "imagenet_sample"}, "squeezenet1_1.safetensors", 0.61, 0.01, 1000),
    (MOBILENET, "mobilenet_v2_int8.npz", 0.974, 0.01, 500),
    ({**MOBILENET, "SOURCE": "imagenet_sample"}, "mobilenet_v2_int8.npz", 0.886, 0.01, 1000),
], ids=["resnet20", "resnet20-file", "squeezenet-imagenette", "squeezenet-sample", "own-imagenette", "own-sample"])
def test_accuracy_is_the_published_one(parameters, file, accuracy, within, n, tmp_path, monkeypatch):
    if not (WEIGHTS / file).exists():
        pytest.skip(f"weights/{file} is not under the data root")
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    monkeypatch.syspath_prepend(str(DATA / "models"))
    record = pipeline.classifier(configure(tmp_path, "01_classifiers", PRESET="quick", **parameters)).record
    assert record["n"] == n and record["accuracy"] == pytest.approx(accuracy, abs=within)
