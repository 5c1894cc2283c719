"""Lectures in JupyterLab, as a reader has them: `make lab`, Run All Cells, a slider that is moved.

Needs Chromium (`tests.browser`), and is skipped without it.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from nbutils import explore
from tests import browser
from tests.conftest import ROOT

pytestmark = browser.needed
TOKEN = "of-the-test"
SMOKE = {"PRESET": "smoke", "THREADS": 1, "DEVICE": "cpu"}
SETTINGS = {  # every cell is drawn, also where it is scrolled out of sight; nothing pops up
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


def command():
    """The command line of the Makefile's `lab`, by this Python's Jupyter."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    words = shlex.split(re.search(r"^lab:.*\n\t.*/(jupyter .*)$", makefile, re.M)[1])
    return [str(Path(sys.executable).with_name(words[0])), *words[1:]]


def copied(name, folder):
    """A notebook as it stands in a fresh clone, but of the size `smoke`, and run by nobody yet."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = [
                re.sub(r"^(\w+)(: \w+) = [^#]*(.*)", rf"\1\2 = {SMOKE[found[1]]!r}  \3", line)
                if (found := re.match(r"(\w+):", line)) and found[1] in SMOKE
                else line
                for line in "".join(cell["source"]).splitlines(keepends=True)
            ]
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab's address: it serves copies of two lectures, and writes beside them only."""
    folder, own = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    for name in ("00_start_here", "04_image_and_jacobian"):
        copied(name, folder)
    for name, content in SETTINGS.items():
        file = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    kinds = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    places = {f"JUPYTER_{kind}": str(own / kind) for kind in kinds}
    places |= {
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
    }
    rest = {"JUPYTER_TOKEN": TOKEN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **places, **rest, "COVERAGE_PROCESS_START": ""}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (own / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command(), f"--port={port}", "--ServerApp.port_retries=0"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until(lambda: asked(address, "status"), 60, "JupyterLab answers")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)


def asked(address, what):
    """What the server says of itself; nothing while it is not there."""
    try:
        with urllib.request.urlopen(f"{address}/api/{what}?token={TOKEN}", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return []


def until(happens, seconds, what):
    """Wait till something happens, and return the seconds that it took."""
    started = time.perf_counter()
    while not happens():
        assert time.perf_counter() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.perf_counter() - started


@pytest.fixture(scope="module")
def driver(lab):
    with browser.chromium(width=1400) as driver:
        yield driver


def find(driver, selector):
    return driver.find_elements("css selector", selector)


def texts(driver, selector):
    """The texts of elements, wherever they are on the page."""
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )


def choose(driver, menu, item):
    """An item of a menu of JupyterLab, clicked."""
    for kind, label in (("lm-MenuBar-itemLabel", menu), ("lm-Menu-itemLabel", item)):
        path = f"//div[contains(@class, '{kind}') and normalize-space(.) = '{label}']"
        until(lambda path=path: driver.find_elements("xpath", path), 10, f"{label} in the menu")
        driver.find_element("xpath", path).click()


def run_all(driver, lab, name):
    """Open a lecture, choose Run > Run All Cells, and wait till all have run."""
    driver.get(f"{lab}/lab/tree/{name}.ipynb?token={TOKEN}&reset")
    idle = ".jp-Notebook-ExecutionIndicator[data-status='idle']"

    def ready():
        """A cell that is run before the page has its kernel would be asked for one in a dialog."""
        kernels = [one["kernel"] for one in asked(lab, "sessions") if one["name"].startswith(name)]
        connected = [k for k in kernels if k["connections"] and k["execution_state"] == "idle"]
        named = "Python 3 (ipykernel)" in texts(driver, ".jp-Toolbar-kernelName")
        return connected and named and find(driver, idle)

    until(ready, 60, "the kernel is ready")
    choose(driver, "Run", "Run All Cells")

    def done():
        prompts = texts(driver, ".jp-CodeCell .jp-InputPrompt")
        return all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts)

    until(lambda: done() or find(driver, ERROR), 240, "every cell has run")
    until(lambda: find(driver, idle), 30, "the kernel is idle")


ERROR = "[data-mime-type='application/vnd.jupyter.error']"
STDERR = "[data-mime-type='application/vnd.jupyter.stderr']"


def too_wide(driver):
    """The code cells that a reader has to scroll sideways, by what they begin with."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.jp-CodeCell .cm-scroller')]"
        ".filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent.slice(0, 60))"
    )


def assert_good(driver, name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert texts(driver, ERROR) == []
    assert texts(driver, STDERR) == []
    prompts = texts(driver, ".jp-CodeCell .jp-InputPrompt")
    assert prompts == [f"[{i + 1}]:" for i in range(len(cells))]
    assert len(find(driver, ".jp-CodeCell .cm-scroller")) == len(cells)
    wide = too_wide(driver)
    assert not wide, wide


@pytest.fixture(scope="module")
def start_here(driver, lab):
    run_all(driver, lab, "00_start_here")
    return driver


def test_every_cell_of_00_runs_and_is_seen_whole(start_here):
    assert_good(start_here, "00_start_here")


PICTURE = ".jp-CodeCell img.widget-image"
WORDS = ".jp-CodeCell .widget-html pre"


def drawn(driver):
    """The pixels that the picture shows; "" while it is loading."""
    return driver.execute_script(
        "const image = document.querySelector(arguments[0]);"
        "if (!image.complete) return '';"
        "const canvas = document.createElement('canvas');"
        "[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];"
        "canvas.getContext('2d').drawImage(image, 0, 0);"
        "return canvas.toDataURL()",
        PICTURE,
    )


def test_the_slider_moves_the_picture(start_here):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    until(lambda: find(start_here, PICTURE), 10, "the widgets are there")
    (handle,) = find(start_here, ".jp-CodeCell .noUi-handle")
    start_here.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    attack, guard = map(Select, find(start_here, ".jp-CodeCell .widget-dropdown select"))
    first = round(explore.SIZES / 2)
    assert f"size {first}/255" in texts(start_here, WORDS)[0]
    assert [option.text for option in guard.options] == list(explore.GUARDS)

    for move, said in (
        (lambda: handle.send_keys(Keys.ARROW_LEFT), f"Under FGSM of size {first - 1}/255"),
        (lambda: attack.select_by_value("PGD"), f"Under PGD of size {first - 1}/255"),
        (lambda: guard.select_by_value("noise"), "noise gives it the score"),
        # many places one after another: they do not queue
        (lambda: handle.send_keys(Keys.ARROW_LEFT * (first - 1)), "Under PGD of size 0/255"),
    ):
        before = drawn(start_here)
        move()
        seconds = until(lambda said=said: said in texts(start_here, WORDS)[0], 10, said)
        seconds += until(lambda before=before: drawn(start_here) not in ("", before), 10, said)
        assert seconds < 2, said
    assert "still read as" in texts(start_here, WORDS)[0]


def test_every_cell_of_04_runs_and_is_seen_whole(driver, lab):
    run_all(driver, lab, "04_image_and_jacobian")
    assert_good(driver, "04_image_and_jacobian")
