"""Single notebooks as their users run them: papermill from anywhere, wrong parameters, JupyterLab,
the README's own commands.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import requests

from nbutils.series.parameters import COMMON, NOTEBOOKS
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
FOLDER = "digits-smoke-s0"


def papermill(notebook, target, *more, **parameters):
    """The command that runs a notebook into `target`."""
    words = [word for name, value in parameters.items() for word in ("-p", name, value)]
    return [str(word) for word in (BIN / "papermill", notebook, target, *words, *more)]


def finished(command, cwd=ROOT, timeout=120):
    """What a command said and how it ended."""
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def test_papermill_from_root_from_notebooks_and_from_elsewhere(tmp_path):
    running, places = {}, (ROOT, ROOT / "notebooks", tmp_path)
    for where, cwd in zip(("root", "notebooks", "elsewhere"), places, strict=True):
        command = papermill(
            os.path.relpath(ROOT / "notebooks" / "04_image_and_jacobian.ipynb", cwd),
            tmp_path / f"{where}.ipynb",
            *("-y", "ATTACKS: [fgsm]", "--no-progress-bar"),
            DATASET="digits_rgb",
            SEED=3,
            PRESET="smoke",
            THREADS=1,
            OUT=tmp_path / where,
        )
        running[where] = subprocess.Popen(
            command, cwd=cwd, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
    for where, process in running.items():
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, (where, error[-2000:])
        results = tmp_path / where / "digits_rgb-smoke-s3" / "results"
        assert (results / "04_image_and_jacobian.json").exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("DATASET", "mnits", "DATASET 'mnits' is unknown"), ("EPS", "8", "EPS is no parameter")],
)
def test_bad_input_under_papermill_ends_with_the_sentence(tmp_path, name, value, sentence):
    notebook = ROOT / "notebooks" / "04_image_and_jacobian.ipynb"
    command = papermill(notebook, tmp_path / "out.ipynb", **{name: value}, OUT=tmp_path)
    done = finished(command, cwd=tmp_path)
    assert done.returncode != 0
    assert sentence in done.stderr.strip().splitlines()[-1], done.stderr[-500:]
    assert not list(tmp_path.rglob("meta.json"))


def test_notebook_02_through_cleverhans_with_its_cw(tmp_path):
    command = papermill(
        ROOT / "notebooks" / "02_attacks.ipynb",
        tmp_path / "out.ipynb",
        *("-y", "ATTACKS: [fgsm, bim, pgd, carlini_wagner_l2]", "--no-progress-bar"),
        PRESET="smoke",
        THREADS=1,
        BACKEND="cleverhans",
        OUT=tmp_path,
    )
    done = finished(command, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(
        (tmp_path / FOLDER / "results" / "02_attacks.json").read_text(encoding="utf-8")
    )
    assert result["backend"] == "cleverhans"
    row = {r["setting"]: r for r in result["tables"]["sizes"]}
    # few iterations: failed images come back unchanged
    assert row["carlini_wagner_l2"]["success"] > 0.1
    assert 0 < row["carlini_wagner_l2"]["l2"] < row["pgd"]["l2"]


def test_papermill_explains_every_parameter():
    notebook = str(ROOT / "notebooks" / "02_attacks.ipynb")
    done = finished([str(BIN / "papermill"), "--help-notebook", notebook])
    for name in COMMON + NOTEBOOKS["02_attacks"]:
        assert re.search(rf"{name}: \S.*\n? +.*\S", done.stdout), name


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)", readme, re.M))
    assert {"run", "test", "lab"} <= targets
    for target in targets:
        dry = finished(["make", "-n", target])
        assert dry.returncode == 0, dry.stderr
    for line in re.findall(r"^\.venv/bin/(python -m nbutils .*)$", readme, re.M):
        done = finished([sys.executable, *line.split()[1:4], "--help"])
        assert done.returncode == 0, line


AWKWARD = ["my runs", "it's", 'a "b" c', "x;y", "*", "a & b"]


@pytest.mark.parametrize("value", AWKWARD)
def test_make_hands_every_variable_over_as_one_word(value):
    names = ("DATASET", "PRESET", "SEED", "NOTEBOOKS", "OUT", "DEVICE")
    given = [f"{name}={value}" for name in names]
    dry = finished(["make", "--no-print-directory", "-n", "run", *given])
    words = shlex.split(dry.stdout.splitlines()[-1])
    handed = dict(zip(words[4::2], words[5::2], strict=True))
    assert handed == {f"--{name.lower()}": value for name in names}
    dry = finished(["make", "--no-print-directory", "-n", "bench", *given[4:]])
    words = shlex.split(dry.stdout.splitlines()[-1])
    assert words[2:] == ["--out", value, "--device", value]


def test_make_refuses_a_variable_that_its_goal_does_not_use():
    for goal, given in (
        ("run", "EPS_255=1"),
        ("run", "seed=1"),
        ("bench", "DATASET=mnist"),
        ("render", "SEED=1"),
    ):
        dry = finished(["make", "--no-print-directory", "-n", goal, given])
        assert dry.returncode == 2 and not dry.stdout
        assert f"{given.split('=')[0]} is no variable of make {goal}" in dry.stderr
    assert finished(["make", "-n", "run", "SEED=0 1", "OUT=x"]).returncode == 0


def test_lab_wants_its_token_and_runs_notebook_00(tmp_path):
    import websocket

    token, port = uuid.uuid4().hex, 18000 + os.getpid() % 2000
    dry = finished(["make", "--no-print-directory", "-n", "lab", f"BIN={BIN}"])
    lab = dry.stdout.splitlines()[-1]
    command = [*shlex.split(lab), f"--port={port}", f"--IdentityProvider.token={token}"]
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=ROOT, env=env, **quiet)
    base, head = f"http://127.0.0.1:{port}", {"Authorization": f"token {token}"}
    try:
        for _ in range(100):
            try:
                assert requests.get(f"{base}/api/contents", timeout=5).status_code == 403
                break
            except requests.ConnectionError:
                time.sleep(0.5)
        assert requests.get(f"{base}/api/contents", headers=head, timeout=5).status_code == 200
        body = {
            "path": "notebooks/00_start_here.ipynb",
            "name": "",
            "type": "notebook",
            "kernel": {"name": "python3"},
        }
        opened = requests.post(f"{base}/api/sessions", headers=head, json=body, timeout=60).json()
        socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}/api/kernels/{opened['kernel']['id']}/channels",
            header=[f"Authorization: token {token}"],
            timeout=120,
        )
        place = f"{base}/api/contents/notebooks/00_start_here.ipynb"
        notebook = requests.get(place, headers=head, timeout=5).json()["content"]
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
    message = {
        "header": {
            "msg_id": number,
            "username": "",
            "session": number,
            "msg_type": "execute_request",
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": {
            "code": source,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
        },
        "channel": "shell",
    }
    socket.send(json.dumps(message))
    while True:
        frame = socket.recv()
        if isinstance(frame, bytes):  # a widget's picture, which comes beside the answers
            continue
        answer = json.loads(frame)
        if answer.get("channel") == "shell" and answer["parent_header"].get("msg_id") == number:
            return answer["content"]["status"]
