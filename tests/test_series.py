"""The series as its users run it: papermill, nbval, JupyterLab, and the README's own commands. Minutes, not seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbformat
import pytest
import requests

from nbutils import runner, session
from tests.conftest import ROOT, python, without_timings

pytestmark = pytest.mark.series
BIN = Path(sys.executable).parent
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
    for name, line in zip(session.NOTEBOOKS, lines, strict=False):
        assert re.match(rf"{name} +[\d.]+ s   \S.* [\d.e-]+$", line), line
        assert (out / FOLDER / "notebooks" / f"{name}.ipynb").exists() and (out / FOLDER / "results" / f"{name}.json").exists()
        assert list((out / FOLDER / "figures").glob(f"{name}-*.png"))
    assert "Executed notebooks, figures and results lie in" in lines[-1]


def test_a_second_run_remakes_nothing_and_says_the_same(series):
    out, _ = series
    metas = {p: p.stat().st_mtime_ns for p in out.rglob("meta.json")}
    before = {p.name: without_timings(p) for p in (out / FOLDER / "results").glob("*.json")}
    assert runner.run({**PARAMETERS, "OUT": str(out)}, "00 04", say=lambda line: None) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("meta.json")} == metas
    assert {p.name: without_timings(p) for p in (out / FOLDER / "results").glob("*.json")} == before


@pytest.mark.parametrize("name", session.NOTEBOOKS)
def test_each_notebook_alone_in_an_empty_folder_gives_the_same_results(series, tmp_path, name):
    assert runner.run({**PARAMETERS, "OUT": str(tmp_path)}, name, say=lambda line: None) == 0
    assert without_timings(tmp_path / FOLDER / "results" / f"{name}.json") == without_timings(series[0] / FOLDER / "results" / f"{name}.json")


def test_nbval_on_every_notebook_and_it_compares_something(series, tmp_path):
    """With the artifacts of the series; and a changed stored output in a compared cell must fail."""
    for path in runner.notebooks():
        shutil.copy(path, tmp_path / path.name)
    spoiled = tmp_path / "spoiled.ipynb"
    notebook = nbformat.read(tmp_path / "00_start_here.ipynb", 4)
    checked = next(c for c in notebook.cells if "nbval-check-output" in c.metadata.get("tags", []))
    checked.outputs[0]["data"]["text/plain"] = "['nothing']"
    nbformat.write(notebook, spoiled)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "NBUTILS_PROGRESS": "0",
           "NBUTILS_TEST_PARAMETERS": json.dumps({**PARAMETERS, "OUT": str(series[0])})}
    command = [sys.executable, "-m", "pytest", "-p", "nbval_parameters", "--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider",
               "--rootdir", str(tmp_path), "-c", os.devnull]
    done = subprocess.run([*command, *map(str, sorted(tmp_path.glob("0*.ipynb")))], env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    done = subprocess.run([*command, str(spoiled)], env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-2000:]


@pytest.mark.parametrize("where", ["root", "notebooks", "elsewhere"])
def test_papermill_from_anywhere(tmp_path, where):
    cwd = {"root": ROOT, "notebooks": ROOT / "notebooks", "elsewhere": tmp_path}[where]
    source = os.path.relpath(ROOT / "notebooks" / "04_image_and_jacobian.ipynb", cwd)
    command = [BIN / "papermill", source, tmp_path / "out.ipynb", "-p", "DATASET", "digits_rgb", "-p", "SEED", "3", "-p", "PRESET", "smoke",
               "-p", "OUT", tmp_path / "made", "-y", "ATTACKS: [fgsm]", "--no-progress-bar"]
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "made" / "digits_rgb-smoke-s3" / "results" / "04_image_and_jacobian.json").exists()


@pytest.mark.parametrize(("name", "value", "sentence"), [("DATASET", "mnits", "DATASET 'mnits' is unknown"), ("EPS", "8", "EPS is no parameter")])
def test_bad_input_under_papermill_ends_with_the_sentence(tmp_path, name, value, sentence):
    command = [BIN / "papermill", ROOT / "notebooks" / "04_image_and_jacobian.ipynb", tmp_path / "out.ipynb", "-p", name, value]
    command += ["-p", "OUT", tmp_path]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert sentence in done.stderr.strip().splitlines()[-1], done.stderr[-500:]
    assert not list(tmp_path.rglob("meta.json"))


def test_papermill_explains_every_parameter():
    done = subprocess.run([str(BIN / "papermill"), "--help-notebook", str(ROOT / "notebooks" / "02_attacks.ipynb")], capture_output=True, text=True,
                          timeout=120, check=False)
    for name in session.COMMON + session.NOTEBOOKS["02_attacks"]:
        assert re.search(rf"{name}: \S.*\n? +.*\S", done.stdout), name


def test_runner_reports_a_failed_notebook_and_keeps_it(tmp_path):
    lines = []
    assert runner.run({**PARAMETERS, "OUT": str(tmp_path), "MODEL": "no.such:model"}, "00", say=lines.append) == 1
    assert "InputError: MODEL 'no.such:model' cannot be brought in" in lines[0] and "00_start_here-failed.ipynb" in lines[0]
    assert not (tmp_path / f"{FOLDER}-no_such_model" / "notebooks" / "00_start_here.ipynb").exists()


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
    command = ("run", "--preset", "smoke", "--threads", "1", "--device", "cpu", "--notebooks", "01", "--out", tmp_path)
    killed = python(*command, code=KILLER)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / FOLDER / "notebooks" / "01_classifiers.ipynb").exists()
    done = python(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    nbformat.read(tmp_path / FOLDER / "notebooks" / "01_classifiers.ipynb", 4)
    result = Path(FOLDER) / "results" / "01_classifiers.json"
    assert without_timings(tmp_path / result) == without_timings(series[0] / result)


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^make (\w+)", readme, re.M))
    assert {"run", "test", "lab"} <= targets
    for target in targets:
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert dry.returncode == 0, dry.stderr
    for line in re.findall(r"^\.venv/bin/(python -m nbutils .*)$", readme, re.M):
        done = subprocess.run([sys.executable, *line.split()[1:4], "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, line


def test_lab_wants_its_token_and_runs_notebook_00(tmp_path):
    import websocket

    token, port = uuid.uuid4().hex, 18000 + os.getpid() % 2000
    command = [str(BIN / "jupyter"), "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--notebook-dir=."]
    command += [f"--IdentityProvider.token={token}", *(["--allow-root"] if os.geteuid() == 0 else [])]
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base, head = f"http://127.0.0.1:{port}", {"Authorization": f"token {token}"}
    try:
        for _ in range(100):
            try:
                assert requests.get(f"{base}/api/contents", timeout=5).status_code == 403
                break
            except requests.ConnectionError:
                time.sleep(0.5)
        assert requests.get(f"{base}/api/contents", headers=head, timeout=5).status_code == 200
        body = {"path": "notebooks/00_start_here.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}}
        kernel = requests.post(f"{base}/api/sessions", headers=head, json=body, timeout=60).json()["kernel"]["id"]
        address = f"ws://127.0.0.1:{port}/api/kernels/{kernel}/channels"
        socket = websocket.create_connection(address, header=[f"Authorization: token {token}"], timeout=120)
        notebook = requests.get(f"{base}/api/contents/notebooks/00_start_here.ipynb", headers=head, timeout=5).json()["content"]
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                source = cell["source"]
                if "parameters" in cell["metadata"].get("tags", []):
                    source += f"\nPRESET, OUT, THREADS = 'smoke', {str(tmp_path / 'out')!r}, 1"
                assert _execute(socket, source) == "ok", source
        assert (tmp_path / "out" / FOLDER / "results" / "00_start_here.json").exists()
    finally:
        server.terminate()
        server.wait(30)


def _execute(socket, source):
    number = uuid.uuid4().hex
    header = {"msg_id": number, "username": "", "session": number, "msg_type": "execute_request", "version": "5.3"}
    content = {"code": source, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    socket.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}))
    while True:
        message = json.loads(socket.recv())
        if message.get("channel") == "shell" and message["parent_header"].get("msg_id") == number:
            return message["content"]["status"]
