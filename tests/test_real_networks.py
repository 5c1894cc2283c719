"""Published networks and a user's own on real pictures, through the parameters that a notebook
takes; skipped where the files are not there.
"""

import os
from pathlib import Path

import pytest
import torch

from nbutils import steps
from nbutils.models.contract import predict
from tests.conftest import ROOT, configure

DATA = Path(os.environ.get("NBUTILS_DATA", ROOT / "data"))
WEIGHTS = DATA / "weights"
RESNET, SQUEEZENET = "resnet20_cifar10.safetensors", "squeezenet1_1.safetensors"
MOBILENET = "mobilenet_v2_int8.npz"
ON_CIFAR = {"DATASET": "cifar10", "MODEL": "resnet20"}
IMAGENETTE = {"DATASET": "imagenet_subset"}
SAMPLE = {**IMAGENETTE, "SOURCE": "imagenet_sample"}
OWN = {"MODEL": "mobilenet_v2_dequantised:build"}
CASES = {  # parameters, file, accuracy, within, n
    "resnet20": (ON_CIFAR, RESNET, 0.9173, 0.0005, 10_000),
    "resnet20-file": (
        {**ON_CIFAR, "WEIGHTS": str(WEIGHTS / RESNET)},
        RESNET,
        0.9173,
        0.0005,
        10_000,
    ),
    "squeezenet-imagenette": (IMAGENETTE, SQUEEZENET, 0.96, 0.01, 500),
    "squeezenet-sample": (SAMPLE, SQUEEZENET, 0.61, 0.01, 1000),
    "own-imagenette": ({**IMAGENETTE, **OWN}, MOBILENET, 0.974, 0.01, 500),
    "own-sample": ({**SAMPLE, **OWN}, MOBILENET, 0.886, 0.01, 1000),
}


@pytest.mark.parametrize(
    ("parameters", "file", "accuracy", "within", "n"), CASES.values(), ids=CASES
)
def test_accuracy_is_the_published_one(
    parameters, file, accuracy, within, n, tmp_path, monkeypatch
):
    if not (WEIGHTS / file).exists():
        pytest.skip(f"weights/{file} is not under the data root")
    monkeypatch.setenv("NBUTILS_DATA", str(DATA))
    monkeypatch.syspath_prepend(str(DATA / "models"))
    run = configure(tmp_path, "01_classifiers", PRESET="quick", **parameters)
    base, data = steps.classifier(run), run.data
    assert base.record["n"] == len(data.test) and len(data.calibrate) + len(data.test) == n
    right = (
        base.test_logits.argmax(1) == data.test.y
    )  # of the official test part, with what is held back
    held = predict(base.model, data.calibrate.x).argmax(1) == data.calibrate.y
    share = torch.cat([right, held]).double().mean().item()
    assert share == pytest.approx(accuracy, abs=within)
