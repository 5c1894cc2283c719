"""Small things that many tests need: a run at smoke size, a little network, the linear model with a
known nearest adversarial point.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nbutils.data.splits import load
from nbutils.models.normalised import Normalised
from nbutils.series import session
from nbutils.series.parameters import DEFAULTS

ROOT = Path(__file__).resolve().parent.parent
SMOKE = {"PRESET": "smoke", "THREADS": 1, "DEVICE": "cpu"}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """One smoke run on digits, made once for the whole session; tests only read it."""
    return configure(tmp_path_factory.mktemp("smoke"))


def configure(out, notebook="04_image_and_jacobian", **changes):
    return session.configure(notebook, {**DEFAULTS, **SMOKE, "OUT": str(out), **changes})


@pytest.fixture
def net():
    """A small convolutional network in float64, four classes, 3x8x8 images."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(6, 6, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 4),
    )
    return Normalised(body, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]).double().eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(12, 3, 8, 8, generator=generator, dtype=torch.float64)


class Linear(nn.Module):
    """Two classes, logits (w.x + b, 0): from x the border is |w.x + b| / ||w|| away, along w."""

    def __init__(self, m=48, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(m, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(-0.5 * self.w.detach().sum() + 0.3)
        self.eval()

    def forward(self, x):
        z = x.flatten(1) @ self.w + self.b
        return torch.stack([z, torch.zeros_like(z)], 1)


@pytest.fixture
def linear():
    return Linear()


@pytest.fixture
def interior():
    """Images far from 0 and 1, so that no clipping interferes."""
    generator = torch.Generator().manual_seed(2)
    return 0.5 + 0.02 * torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)


def python(*arguments, cwd=ROOT, code=None, **environment):
    """Run this Python in a process of its own; `code` replaces `-m nbutils`."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "nbutils"]), *map(str, arguments)]
    own = {"NBUTILS_PROGRESS": "0", "OMP_NUM_THREADS": "1", "COVERAGE_PROCESS_START": ""}
    env = {**os.environ, **own, **environment}
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def without_timings(path):
    """A results JSON as text, seconds left out."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    content.pop("timings")
    return json.dumps(content, sort_keys=True)


class NearestMean(nn.Module):
    """A user's own model of the grey digits: minus the squared distance to each class's mean."""

    def __init__(self):
        super().__init__()
        digits = load("digits", calibrate=0)
        x, y = digits.train.pixels().flatten(1), digits.train.y
        self.register_buffer("means", torch.stack([x[y == c].mean(0) for c in range(10)]))
        self.eval()

    def forward(self, x):
        return -((x.flatten(1)[:, None] - self.means) ** 2).sum(2)
