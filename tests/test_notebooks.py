"""The notebooks as files: anatomy, parameters, stored outputs, links."""

import ast
import json
import re

import pytest

from nbutils.data import presets
from nbutils.evaluation import papers
from nbutils.series import parameters, runner, session
from tests.conftest import ROOT

PATHS = runner.notebooks()


def load(path):
    return json.loads(path.read_text())


def code(path):
    return [c for c in load(path)["cells"] if c["cell_type"] == "code"]


def tagged(path, tag):
    return [c for c in code(path) if tag in c["metadata"].get("tags", [])]


def text(cells):
    return "\n".join("".join(c["source"]) for c in cells)


def test_the_series_is_the_one_that_session_knows():
    assert [p.stem for p in PATHS] == list(parameters.NOTEBOOKS)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
class TestNotebook:
    def test_parameters_are_literal_typed_commented_and_declared(self, path):
        (cell,) = tagged(path, "parameters")
        lines = [line for line in "".join(cell["source"]).splitlines() if line]
        tree = ast.parse("\n".join(lines)).body
        assert sum(node.end_lineno - node.lineno + 1 for node in tree) == len(lines)
        names = []
        for node in tree:
            line = lines[node.end_lineno - 1]
            assert isinstance(node, ast.AnnAssign) and re.search(r"  # .{5,}", line), line
            value, kind = ast.literal_eval(node.value), ast.unparse(node.annotation)
            declared = parameters.PARAMETERS[node.target.id][0]
            assert kind == getattr(declared, "__name__", str(declared)), line
            assert session._typed(node.target.id, value) == value
            names.append(node.target.id)
        assert names == parameters.COMMON + parameters.NOTEBOOKS[path.stem]
        values = {node.target.id: ast.literal_eval(node.value) for node in tree}
        defaults = {name: value for name, value in values.items() if name in parameters.DEFAULTS}
        assert defaults == parameters.DEFAULTS
        assert runner.parameter_names(path) == set(names)

    def test_no_tricks(self, path):
        notebook, source = load(path), text(code(path))
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"
        assert "widgets" not in notebook["metadata"]
        for pattern in ("sys.path", "!pip", "%pip", "filterwarnings", "tqdm.notebook", "open("):
            assert pattern not in source, pattern

    def test_outputs_are_stored_and_small(self, path):
        cells = code(path)
        assert all(c["execution_count"] for c in cells)
        assert sum(bool(c["outputs"]) for c in cells) >= 6
        outputs = [out for c in cells for out in c["outputs"]]
        assert not any(out["output_type"] == "error" for out in outputs)
        assert not any(out.get("name") == "stderr" for out in outputs)
        assert path.stat().st_size < 500_000
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", path.read_text())

    def test_shape(self, path):
        words = text([c for c in load(path)["cells"] if c["cell_type"] == "markdown"])
        assert words.startswith(f"# {path.stem[:2]} · ")
        for part in (
            "**You will**",
            "**You have**",
            "## Exercises",
            "**References.**",
            "What would break this",
            "[README](../README.md)",
        ):
            assert part in words, part
        (results,) = tagged(path, "results")
        assert "run.record(" in text([results]) and "assert " in text([results])
        assert tagged(path, "nbval-check-output")

    def test_links_resolve(self, path):
        words = text([c for c in load(path)["cells"] if c["cell_type"] == "markdown"])
        for target in re.findall(r"\]\(([^)#]+)\)", words):
            assert target.startswith("http") or (path.parent / target).exists(), target

    def test_prose_types_no_results(self, path):
        words = text([c for c in load(path)["cells"] if c["cell_type"] == "markdown"])
        wanted = "a number in prose comes from a variable or a table"
        assert not re.search(r"\b0?\.\d{2,}\b", words), wanted


def test_parameter_files_name_known_parameters():
    import yaml

    files = sorted((ROOT / "notebooks" / "params").glob("*.yaml"))
    assert files
    for file in files:
        given = yaml.safe_load(file.read_text())
        assert all(session._typed(k, v) == v for k, v in given.items()), file.name
        preset = presets.PRESETS[given["DATASET"]][given["PRESET"]]
        session._changed(preset, given.get("CHANGES", {}))


def test_published_results_are_from_the_series_as_it_stands():
    published = ROOT / "data" / "results"
    for folder in sorted(published.glob("*-s*")):
        results = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
        assert set(results) <= set(parameters.NOTEBOOKS)
        for name, result in results.items():
            assert result["notebook"] == name
            assert folder.name.startswith(result["parameters"]["DATASET"])
    whole = {p.stem for p in (published / "digits-quick-s0").glob("*.json")}
    assert whole == set(parameters.NOTEBOOKS)


def test_every_preset_has_every_field():
    for dataset, sizes in presets.PRESETS.items():
        for name, preset in sizes.items():
            assert set(preset) == set(presets.FIELDS), (dataset, name)


def test_readme_names_every_notebook_and_its_links_resolve():
    readme = (ROOT / "README.md").read_text()
    for path in PATHS:
        assert f"notebooks/{path.name}" in readme
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert target.startswith("http") or (ROOT / target).exists(), target
    assert len(papers.index()) == 43


def test_the_readmes_verdicts_are_the_published_ones():
    readme = (ROOT / "README.md").read_text()
    tables = re.findall(r"\| claim \| (.*?) \|\n\|[-|]+\n((?:\|.*\n)+)", readme)
    assert tables
    for heads, lines in tables:
        found = {
            line.split(" | ")[0].strip("| "): line.strip(" |").split(" | ")[1:]
            for line in lines.splitlines()
        }
        for i, head in enumerate(heads.split(" | ")):
            # the name of a data set, or a link to a folder of results
            folder = ROOT / (re.findall(r"\((.*)\)", head) or [f"data/results/{head}-quick-s0"])[0]
            results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
            published = {
                f"{v['claim']}: {v['says']}": v["verdict"]
                for r in results
                for v in r["tables"].get("verdicts", [])
            }
            told = {claim: says[i] for claim, says in found.items() if says[i] != "-"}
            assert published and told == published, head
