"""Single notebooks as their users run them: papermill from anywhere, wrong parameters, JupyterLab, the README's own commands."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import requests

from nbutils import session
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
FOLDER = "digits-smoke-s0"


def test_papermill_from_root_from_notebooks_and_from_elsewhere(tmp_path):
    running = {}
    for where, cwd in {"root": ROOT, "notebooks": ROOT / "notebooks", "elsewhere": tmp_path}.items():
        source = os.path.relpath(ROOT / "notebooks" / "04_image_and_jacobian.ipynb", cwd)
        command = [BIN / "papermill", source, tmp_path / f"{where}.ipynb", "-p", "DATASET", "digits_rgb", "-p", "SEED", "3", "-p", "PRESET", "smoke",
                   "-p", "THREADS", "1", "-p", "OUT", tmp_path / where, "-y", "ATTACKS: [fgsm]", "--no-progress-bar"]
        running[where] = subprocess.Popen(list(map(str, command)), cwd=cwd, stderr=subprocess.PIPE, text=True)
    for where, process in running.items():
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, (where, error[-2000:])
        assert (tmp_path / where / "digits_rgb-smoke-s3" / "results" / "04_image_and_jacobian.json").exists()


@pytest.mark.parametrize(("name", "value", "sentence"), [("DATASET", "mnits", "DATASET 'mnits' is unknown"), ("EPS", "8", "EPS is no parameter")])
def test_bad_input_under_papermill_ends_with_the_sentence(tmp_path, name, value, sentence):
    command = [BIN / "papermill", ROOT / "notebooks" / "04_image_and_jacobian.ipynb", tmp_path / "out.ipynb", "-p", name, value]
    command += ["-p", "OUT", tmp_path]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert sentence in done.stderr.strip().splitlines()[-1], done.stderr[-500:]
    assert not list(tmp_path.rglob("meta.json"))


def test_notebook_02_through_cleverhans_with_its_cw(tmp_path):
    command = [BIN / "papermill", ROOT / "notebooks" / "02_attacks.ipynb", tmp_path / "out.ipynb", "-p", "PRESET", "smoke", "-p", "THREADS", "1",
               "-p", "BACKEND", "cleverhans", "-y", "ATTACKS: [fgsm, bim, pgd, carlini_wagner_l2]", "-p", "OUT", tmp_path, "--no-progress-bar"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / FOLDER / "results" / "02_attacks.json").read_text())
    assert result["backend"] == "cleverhans"
    row = {r["setting"]: r for r in result["tables"]["sizes"]}
    assert row["carlini_wagner_l2"]["success"] > 0.1  # few iterations: failed images come back unchanged
    assert 0 < row["carlini_wagner_l2"]["l2"] < row["pgd"]["l2"]


def test_papermill_explains_every_parameter():
    done = subprocess.run([str(BIN / "papermill"), "--help-notebook", str(ROOT / "notebooks" / "02_attacks.ipynb")], capture_output=True, text=True,
                          timeout=120, check=False)
    for name in session.COMMON + session.NOTEBOOKS["02_attacks"]:
        assert re.search(rf"{name}: \S.*\n? +.*\S", done.stdout), name


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
