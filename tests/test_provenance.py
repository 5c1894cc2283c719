"""Results say what code made them, and whether that code still stands."""

import json
import os
import subprocess
import sys
import tomllib

from nbutils import steps
from nbutils.resources import checkout
from nbutils.series import provenance
from nbutils.series.publish import PUBLISHED
from tests.conftest import ROOT, configure


def test_a_result_records_its_code_and_is_older_when_a_step_is_edited(tmp_path, monkeypatch):
    run = configure(tmp_path, "01_classifiers")
    steps.adversarial(run, "fgsm")
    result = run.record(key=("a", 1.0), tables={})
    made = result["code"]["steps"]
    assert set(made) == {
        f"nbutils.steps.{step}.make_{step}" for step in ("classifier", "adversarial")
    }
    assert "nbutils.attacks.ATTACKS[fgsm]" in made["nbutils.steps.adversarial.make_adversarial"][1]
    assert (
        "nbutils.models.ARCHITECTURES[digits_net]"
        in made["nbutils.steps.classifier.make_classifier"][1]
    )
    assert provenance.older(result) == []
    assert provenance.older({**result, "code": {**result["code"], "cells": "others"}}) == ["cells"]
    made["nbutils.steps.adversarial.make_adversarial"][0] = "another"
    assert provenance.older(result) == ["nbutils.steps.adversarial.make_adversarial"]
    assert provenance.older({"notebook": "01_classifiers"}) == ["unknown"]


def test_of_the_published_results_those_of_digits_are_by_the_present_code():
    """Prints which published results an older code made; the rendered ones must be none of them."""
    found = {}
    for path in sorted(PUBLISHED.glob("*-s*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if "notebook" in result:
            found[f"{path.parent.name}/{path.stem}"] = provenance.older(result)
    for name, why in found.items():
        print(f"{name}: {'by the present code' if not why else 'older: ' + ', '.join(why)}")
    assert len(found) > 20
    stale = [name for name, why in found.items() if why and name.startswith("digits-quick-s0/")]
    assert not stale, f"run `make render`: {stale}"


def test_every_room_is_installed():
    """The list of packages is written by hand, since the project's data is one of them."""
    found = {path.parent.name for path in (ROOT / "nbutils").glob("*/__init__.py")}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["packages"]
    rooms = {name.partition(".")[2] for name in listed}
    assert rooms == {"", "_data", *found}


def test_the_module_installs_without_its_project(tmp_path):
    """`pip install .` into an empty place: data comes along, runs land in the caller's folder."""
    place, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
    done = subprocess.run(
        [*pip, str(ROOT)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    env = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    make = ["-m", "nbutils", "make", "evaluation", "--dataset", "digits", "--preset", "smoke"]
    code = (
        "from nbutils import resources\n"
        "from nbutils.data.folders import ilsvrc\n"
        "from nbutils.evaluation import papers\n"
        "assert resources.checkout() is None and len(ilsvrc()) == 1000\n"
        "print(resources.__file__, len(papers.index()))"
    )
    for arguments, said in (
        (["-c", code], f"{place / 'nbutils' / 'resources.py'} 43"),
        ([*make, "--attack", "fgsm", "--detector", "id"], "evaluation id, trained on fgsm"),
    ):
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command,
            cwd=empty,
            env=env,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0 and said in done.stdout, done.stderr
    assert (empty / "runs" / "digits-smoke-s0" / "classifier").is_dir()
    assert checkout() == ROOT
