"""The notebooks that solve the exercises, as files; `test_series` runs them."""

import ast
import json
import re

import pytest

from nbutils.series import runner
from tests.conftest import ROOT

LECTURES = runner.notebooks()
PATHS = runner.solutions()


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sources(path, kind):
    return ["".join(c["source"]) for c in load(path)["cells"] if c["cell_type"] == kind]


def parameters(path):
    """Names, types and defaults of the cell tagged `parameters`."""
    (cell,) = [c for c in load(path)["cells"] if "parameters" in c["metadata"].get("tags", [])]
    found = ast.parse("".join(cell["source"])).body
    return {n.target.id: (ast.unparse(n.annotation), ast.literal_eval(n.value)) for n in found}


def test_each_lecture_has_solutions_and_says_where():
    solved = [path.name for path in PATHS]
    assert solved == [path.name for path in LECTURES]
    known = sorted(path.name for path in (ROOT / "notebooks" / "solutions").iterdir())
    assert known == [path.name for path in PATHS]
    for lecture in LECTURES:
        (exercises,) = [s for s in sources(lecture, "markdown") if "## Exercises" in s]
        assert f"(solutions/{lecture.name})" in exercises.split("**References.**")[0], lecture.name
    assert "notebooks/solutions" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
class TestSolutions:
    def test_the_parameters_are_the_lectures(self, path):
        assert parameters(path) == parameters(path.parent.parent / path.name)
        started = f'run = session.start("{path.stem}", globals())'
        assert any(started in source for source in sources(path, "code"))

    def test_each_exercise_has_its_heading_and_code_behind_it(self, path):
        cells, asked = load(path)["cells"], []
        for cell in cells:
            text = "".join(cell["source"])
            heading = re.match(r"## Exercise (\d) \((\w+)\): ", text)
            if cell["cell_type"] == "markdown" and heading:
                assert re.search(r"^The task is to ", text, re.M), heading[0]
                asked.append([*heading.groups(), 0])
            elif cell["cell_type"] == "code" and asked:
                asked[-1][-1] += 1
        assert [part[:2] for part in asked] == [["1", "easy"], ["2", "medium"], ["3", "hard"]]
        assert all(count >= 2 for *_, count in asked)
        assert "assert " in "".join(cells[-2]["source"]), "the last cell of code asserts"

    def test_it_leaves_the_lectures_results_and_figures_alone(self, path):
        code = "\n".join(sources(path, "code"))
        assert "run.record(" not in code
        saved = re.findall(r"\.save\((?:[^()]|\([^()]*\))*\)", code)
        assert all('"solution-' in call for call in saved), saved
        for pattern in ("sys.path", "!pip", "%pip", "filterwarnings", "papermill", "open("):
            assert pattern not in code, pattern

    def test_outputs_are_stored_and_small(self, path):
        notebook, text = load(path), path.read_text(encoding="utf-8")
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in cells)
        outputs = [out for cell in cells for out in cell["outputs"]]
        assert len(outputs) >= 6 and not any(out["output_type"] == "error" for out in outputs)
        assert not any(out.get("name") == "stderr" for out in outputs)
        assert "widgets" not in notebook["metadata"]
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", text)
        assert path.stat().st_size < 300_000

    def test_prose_links_and_types_no_results(self, path):
        words = "\n".join(sources(path, "markdown"))
        assert words.startswith(f"# {path.stem[:2]} · Solutions")
        links = re.findall(r"\]\(([^)#]+)\)", words)
        assert f"../{path.name}" in links
        for target in links:
            assert target.startswith("http") or (path.parent / target).exists(), target
        assert not re.search(r"\b0?\.\d{2,}\b", words)
