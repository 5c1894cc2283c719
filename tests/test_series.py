"""The series as a whole, through the runner and nbval."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from nbutils import InputError
from nbutils.series import publish, runner, session
from nbutils.series.parameters import NOTEBOOKS, SAYS
from tests.conftest import ROOT, python, without_timings

PARAMETERS = {"PRESET": "smoke", "THREADS": 1, "DEVICE": "cpu"}
FOLDER = "digits-smoke-s0"


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """The whole series in one folder, in order, through the runner."""
    out, lines = tmp_path_factory.mktemp("series"), []
    code = runner.run({**PARAMETERS, "OUT": str(out)}, say=lines.append)
    assert code == 0, lines
    return out, lines


def test_runner_says_a_line_a_notebook_and_where_things_lie(series):
    out, lines = series
    for name, line in zip(NOTEBOOKS, lines, strict=False):
        assert re.match(rf"{name} +[\d.]+ s   \S.* [\d.e-]+$", line), line
        assert (out / FOLDER / "notebooks" / f"{name}.ipynb").exists()
        assert (out / FOLDER / "results" / f"{name}.json").exists()
        assert list((out / FOLDER / "figures").glob(f"{name}-*.png"))
    assert "Executed notebooks, figures and results lie in" in lines[-1]


def test_a_second_run_remakes_nothing_and_says_the_same(series):
    out, _ = series
    metas = {p: p.stat().st_mtime_ns for p in out.rglob("meta.json")}
    before = {p.name: without_timings(p) for p in (out / FOLDER / "results").glob("*.json")}
    assert runner.run({**PARAMETERS, "OUT": str(out)}, "00 04", say=lambda line: None) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("meta.json")} == metas
    assert {p.name: without_timings(p) for p in (out / FOLDER / "results").glob("*.json")} == before


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_notebook_alone_in_an_empty_folder_gives_the_same_results(series, tmp_path, name):
    assert runner.run({**PARAMETERS, "OUT": str(tmp_path)}, name, say=lambda line: None) == 0
    result = Path(FOLDER) / "results" / f"{name}.json"
    assert without_timings(tmp_path / result) == without_timings(series[0] / result)


def test_nbval_on_every_notebook_and_it_compares_something(series, tmp_path):
    """With the artifacts of the series; a changed stored output in a compared cell must fail."""
    for path in runner.notebooks():
        shutil.copy(path, tmp_path / path.name)
    spoiled = tmp_path / "spoiled.ipynb"
    notebook = nbformat.read(tmp_path / "00_start_here.ipynb", 4)
    checked = next(c for c in notebook.cells if "nbval-check-output" in c.metadata.get("tags", []))
    checked.outputs[0]["data"]["text/plain"] = "['nothing']"
    nbformat.write(notebook, spoiled)
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "NBUTILS_PROGRESS": "0",
        "NBUTILS_TEST_PARAMETERS": json.dumps({**PARAMETERS, "OUT": str(series[0])}),
    }
    alone = f"-q -p no:cacheprovider --rootdir {tmp_path} -c {os.devnull}"
    options = f"-m pytest -p nbval_parameters --nbval-lax --nbval-current-env {alone}"
    command = [sys.executable, *options.split()]
    kept = {"env": env, "capture_output": True, "text": True, "timeout": 700, "check": False}
    notebooks = map(str, sorted(tmp_path.glob("[01]*.ipynb")))
    done = subprocess.run([*command, *notebooks], **kept)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    done = subprocess.run([*command, str(spoiled)], **kept)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-2000:]


def test_runner_reports_a_failed_notebook_and_keeps_it(tmp_path):
    lines = []
    wrong = {**PARAMETERS, "OUT": str(tmp_path), "MODEL": "no.such:model"}
    assert runner.run(wrong, "00", say=lines.append) == 1
    assert "InputError: MODEL 'no.such:model' cannot be brought in" in lines[0]
    assert "00_start_here-failed.ipynb" in lines[0]
    assert not list(tmp_path.rglob("00_start_here.ipynb"))
    assert list(tmp_path.rglob("00_start_here-failed.ipynb"))


KILLER = """
import os, signal, sys
real = os.replace
def killer(*a):
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = killer
from nbutils.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_while_a_notebook_is_saved(series, tmp_path):
    words = "run --preset smoke --threads 1 --device cpu --notebooks 01 --out"
    command = (*words.split(), tmp_path)
    killed = python(*command, code=KILLER)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / FOLDER / "notebooks" / "01_classifiers.ipynb").exists()
    done = python(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    nbformat.read(tmp_path / FOLDER / "notebooks" / "01_classifiers.ipynb", 4)
    result = Path(FOLDER) / "results" / "01_classifiers.json"
    assert without_timings(tmp_path / result) == without_timings(series[0] / result)


def test_render_stores_outputs_with_the_hash_of_their_sources_and_publish_copies(
    series, tmp_path, monkeypatch
):
    path = tmp_path / "77_small.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell("# small"),
        nbformat.v4.new_code_cell("import sys\nprint('noise', file=sys.stderr)\n6 * 7"),
    ]
    solved = tmp_path / "solutions" / path.name
    solved.parent.mkdir()
    for place in (path, solved):
        nbformat.write(nbformat.v4.new_notebook(cells=cells), place)
    monkeypatch.setattr(runner, "notebooks", lambda chosen="": [path])
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(runner, "run_folder", lambda parameters: series[0] / FOLDER)
    lines = []
    assert runner.render(say=lines.append) == 0
    assert re.match("77_small .* kB", lines[0]) and re.match("    solutions .* kB", lines[1])
    for place in (path, solved):
        stored = json.loads(place.read_text(encoding="utf-8"))
        (output,) = stored["cells"][1]["outputs"]
        assert output["data"]["text/plain"] in (["42"], "42")
        assert stored["metadata"]["nbutils"]["sources"] == runner.sources_hash(stored)
    published = {p.name for p in (tmp_path / "published" / FOLDER).glob("*.json")}
    assert published == {f"{name}.json" for name in NOTEBOOKS}


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_a_disk_that_takes_no_notebook_is_a_sentence(number, tmp_path, monkeypatch):
    """While an executed notebook, a rendered one or a table over seeds is saved."""
    refusal = OSError(number, os.strerror(number))
    said = "disk quota" if number == errno.EDQUOT else "No space is left"

    def refuses(*a, **k):
        raise refusal

    lines = []
    with monkeypatch.context() as patch:
        patch.setattr("papermill.execute_notebook", refuses)
        assert runner.run({"OUT": str(tmp_path)}, "00 01", say=lines.append) == 1
    assert all(said in line and "00_start_here" in line for line in lines[:1]), lines
    assert len(lines) == 3 and said in lines[1] and not list(tmp_path.rglob("*.ipynb"))

    path = tmp_path / "77_small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    runs = [{"OUT": str(tmp_path), "SEED": seed} for seed in (0, 1)]
    for seed in (0, 1):
        result = tmp_path / f"digits-quick-s{seed}" / "results" / "77_small.json"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text('{"key": {"name": "a", "value": 1}, "tables": {}}', encoding="utf-8")
    monkeypatch.setattr(runner, "notebooks", lambda chosen="": [path])
    monkeypatch.setattr("nbclient.NotebookClient.execute", lambda self: None)
    monkeypatch.setattr(os, "fsync", refuses)
    before = path.read_bytes()
    for write in (runner.render, lambda: runner.over_seeds(runs)):
        with pytest.raises(InputError, match=said):
            write()
    assert path.read_bytes() == before


def test_seeds_given_twice_are_no_seeds_more(tmp_path):
    runs = [{**PARAMETERS, "OUT": str(tmp_path), "SEED": seed} for seed in (0, 1, 0)]
    with pytest.raises(InputError, match="SEED 0 is given 2 times"):
        runner.over_seeds(runs, "02", say=lambda line: None)


def test_seeds_are_put_together_with_means_and_intervals(series, tmp_path):
    out, lines = tmp_path, []
    for seed in (0, 1):
        shutil.copytree(series[0] / FOLDER / "results", out / f"digits-smoke-s{seed}" / "results")
    changed = out / "digits-smoke-s1" / "results" / "02_attacks.json"
    content = json.loads(changed.read_text(encoding="utf-8"))
    first = content["tables"]["sizes"][0]
    before = first["success"]
    content["key"]["value"], first["success"] = 0.5, before - 0.1
    changed.write_text(json.dumps(content), encoding="utf-8")
    runs = [{**PARAMETERS, "OUT": str(out), "SEED": seed} for seed in (0, 1)]
    target = runner.over_seeds(runs, "02", say=lines.append)
    found = json.loads((target / "02_attacks.json").read_text(encoding="utf-8"))
    row = found["tables"]["sizes"][0]
    assert target.parent.name == "digits-smoke-s0+1"
    assert row["seeds"] == 2 and row["setting"] == first["setting"]
    assert row["success"] == pytest.approx(before - 0.05)
    half = 12.7062 * 0.1 / 2**0.5 / 2**0.5  # Student's t with one degree of freedom
    interval = [before - 0.05 - half, before - 0.05 + half]
    assert row["success_interval"] == pytest.approx(interval, abs=1e-4)
    assert "success_interval" not in found["tables"]["sizes"][1]
    assert re.search(r"02_attacks +fgsm success .* over 2 seeds", lines[0])


def test_what_a_notebook_says_of_its_pictures_is_repeated_once(tmp_path, monkeypatch, capsys):
    log = logging.getLogger("nbutils")
    monkeypatch.setattr(log, "handlers", [])
    session._heard()
    session._heard()
    told = "Of train, 12 .png are read, and 2 .heic are not."
    log.warning(told)
    said = capsys.readouterr().err
    assert said == f"{SAYS}{told}\n"
    assert not pd.get_option("display.html.use_mathjax")  # or classes named $x$ become formulas

    def executed(source, target, parameters):
        text = [said, "progress 50 %\n"]
        stream = {"output_type": "stream", "name": "stderr", "text": text}
        target.parent.mkdir(parents=True, exist_ok=True)
        cells = [{"cell_type": "code", "outputs": [stream]}, {"cell_type": "markdown"}]
        target.write_text(json.dumps({"cells": cells}), encoding="utf-8")
        return ""

    monkeypatch.setattr(runner, "_execute", executed)
    lines = []
    runner.run({"OUT": str(tmp_path)}, "00 01", say=lines.append)
    assert [line.strip() for line in lines].count(told) == 1
    assert not any("progress" in line for line in lines)


@pytest.mark.parametrize("path", runner.solutions(), ids=lambda p: p.stem)
def test_solutions_run_on_what_the_lecture_kept_and_leave_its_results(series, tmp_path, path):
    kept = series[0] / FOLDER
    of_lecture = [kept / "results" / f"{path.stem}.json", *kept.glob(f"figures/{path.stem}-*.png")]
    before = {p: p.read_bytes() for p in of_lecture if "-solution-" not in p.name}
    error = runner._execute(path, tmp_path / path.name, {**PARAMETERS, "OUT": str(series[0])})
    assert not error, error
    assert {p: p.read_bytes() for p in before} == before and len(before) > 1
