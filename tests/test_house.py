"""The house: rooms that use those before them and none behind, and say in `__init__` what they
hold.
"""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ROOMS = [
    "resources",
    "store",
    "data",
    "models",
    "attacks",
    "saliency",
    "density",
    "detectors",
    "rectifiers",
    "adaptive",
    "evaluation",
    "claims",
    "steps",
    "series",
]
FILES = sorted((ROOT / "nbutils").rglob("*.py"))


def imported(path):
    """The rooms that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nbutils"):
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            yield from (name for name in names if name in [*ROOMS, "plots"])


def test_the_rooms_are_these():
    found = {path.parent.name for path in (ROOT / "nbutils").glob("*/__init__.py")}
    assert found == set(ROOMS) - {"resources"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT / "nbutils")))
def test_a_room_uses_those_before_it(path):
    place = path.relative_to(ROOT / "nbutils").parts[0].removesuffix(".py")
    if place not in ROOMS:  # plots, the command line, the package itself
        return
    for room in imported(path):
        assert room != "plots" and ROOMS.index(room) <= ROOMS.index(place), (path.name, room)


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "resources"])
def test_a_room_says_what_it_holds_and_nothing_else(room):
    tree = ast.parse((ROOT / "nbutils" / room / "__init__.py").read_text(encoding="utf-8"))
    assert len(ast.get_docstring(tree)) > 40
    for node in tree.body[1:]:
        assert isinstance(node, ast.Import | ast.ImportFrom | ast.Assign), ast.unparse(node)


def test_every_module_says_what_it_is_for_and_only_the_command_line_prints():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        printing = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        ]
        assert not printing or path.name == "__main__.py", path


def test_the_import_has_no_side_effect_and_leaves_jupyter_alone():
    """A cluster node has torch, numpy, scipy, scikit-learn, matplotlib, pandas and nothing more."""
    code = (
        "import sys, time, torch, pandas\n"
        "started = time.perf_counter()\n"
        "import nbutils, nbutils.__main__, nbutils.steps, nbutils.series.session\n"
        "took = time.perf_counter() - started\n"
        "strange = {'papermill', 'jupyterlab', 'cleverhans', 'captum', 'cv2', 'torchvision', "
        "'nbformat'}\n"
        "assert not strange & set(sys.modules), strange & set(sys.modules)\n"
        "assert took < 2, took\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr


def without_encoding(tree):
    """The calls that read or write text in whatever the machine's locale is."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        own = isinstance(node.func, ast.Name)
        name = node.func.id if own else getattr(node.func, "attr", "")
        text = name in ("read_text", "write_text") or "text" in given
        if name in ("open", "NamedTemporaryFile") and (own or name != "open"):
            mode = given.get("mode", node.args[1] if len(node.args) > 1 else ast.Constant("r"))
            letters = [n.value for n in ast.walk(mode) if isinstance(n, ast.Constant)]
            text = not all("b" in word for word in letters if isinstance(word, str))
        if text and "encoding" not in given:
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


@pytest.mark.parametrize("folder", ["nbutils", "tests"])
def test_every_text_is_read_and_written_as_utf_8(folder):
    found = {
        str(path.relative_to(ROOT)): list(without_encoding(ast.parse(path.read_bytes())))
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert not {path: calls for path, calls in found.items() if calls}
    for planted in ("p.read_text()", "open(p)", "open(p, 'w')", "run(c, text=True)"):
        assert list(without_encoding(ast.parse(planted))), planted
    assert not list(without_encoding(ast.parse("open(p, 'ab' if more else 'wb')")))
