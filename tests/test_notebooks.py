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
    return json.loads(path.read_text(encoding="utf-8"))


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
            assert parameters.checked(node.target.id, value) == value
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
        kinds = {kind for out in outputs for kind in out.get("data", {})}
        assert not any("widget" in kind for kind in kinds), kinds
        assert path.stat().st_size < 500_000
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", path.read_text(encoding="utf-8"))

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
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert all(parameters.checked(k, v) == v for k, v in given.items()), file.name
        preset = presets.PRESETS[given["DATASET"]][given["PRESET"]]
        session._changed(preset, given.get("CHANGES", {}))


def test_published_results_are_from_the_series_as_it_stands():
    published = ROOT / "data" / "results"
    for folder in sorted(published.glob("*-s*")):
        results = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*.json")}
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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert f"notebooks/{path.name}" in readme
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert target.startswith("http") or (ROOT / target).exists(), target
    assert len(papers.index()) == 43


README = ROOT / "README.md"
CW = ("fgsm", "carlini_wagner_l2")


def table(folder, notebook, name):
    path = ROOT / "data" / "results" / folder / f"{notebook}.json"
    return json.loads(path.read_text(encoding="utf-8"))["tables"][name]


def test_the_readmes_findings_are_the_published_numbers():
    """Each number of the nine findings, from the tables that it was read from."""
    findings = README.read_text(encoding="utf-8").split("## Nine findings")[1].split("## Run it")[0]
    said = [" ".join(part.split()) for part in re.split(r"^\d\. ", findings, flags=re.M)[1:]]
    assert len(said) == 9

    photographs = table("imagenet_subset-quick-s0-3edc645c", "04_image_and_jacobian", "controls")
    found = {(row["detector"], row["attack"]): row for row in photographs}
    assert all(round(row["auroc"], 2) == 0.99 or row["auroc"] > 0.99 for row in photographs)
    assert all(abs(found["jsd", a]["flagged_noise_sign"] - 0.95) < 0.006 for a in CW)
    assert [found["id", a]["flagged_noise_sign"] for a in CW] == [0.99, 0.93]
    assert "AUROC of .99" in said[0] and "flags .95" in said[0] and ".93 to .99" in said[0]

    for name, own, constant in (
        ("mnist", ".98", ".99"),
        ("cifar10", ".84", ".85"),
        ("cats_dogs", ".69", ".72"),
    ):
        rows = table(f"{name}-quick-s0", "05_model_based_saliency", "replaced")
        for detector, number in (("spd", own), ("spd_constant", constant)):
            values = [row["auroc"] for row in rows if row["detector"] == detector]
            mean = sum(values) / len(values)
            assert f"{mean:.2f}"[1:] == number and number in said[1], (name, detector, mean)

    rows = table("cifar10-quick-s0", "04_image_and_jacobian", "readings")
    values = [row["auroc"] for row in rows if row["attack"] == "carlini_wagner_l2"]
    rows = table("cifar10-quick-s0", "04_image_and_jacobian", "scalars_and_stand_ins")
    (noise,) = [r["auroc"] for r in rows if (r["detector"], r["attack"]) == ("noise", CW[1])]
    assert len(values) == 20 and f"{max(values):.2f} {noise:.2f}" == "0.68 0.75"
    assert "twenty reaches an AUROC of .68" in said[2] and "reaches .75" in said[2]

    rows = [
        row
        for mark in ("5de05ed9", "e4c62208", "dc7912b7", "53311374")
        for row in table(f"imagenet_subset-quick-s0-{mark}", "06_gradcam_consistency", "adds")
    ]
    rows = [row for row in rows if row["grad_cam minus"] == "without"]
    above = sum(row["interval"][0] > 0 for row in rows)
    below = sum(row["interval"][1] < 0 for row in rows)
    assert (above, len(rows), below) == (4, 120, 22)
    assert "in 4 of 120 settings" in said[3] and "falls in 22" in said[3]
    rows = table("imagenet_subset-quick-s0-dc7912b7", "06_gradcam_consistency", "versus")
    own = [row for row in rows if row["method"] in ("colour_reversing 0.1", "zero_mean 0.1")]
    behind = [row["minus joint squeezing"] for row in own if row["ospa"] == 95]
    assert [round(value, 2) for value in behind] == [-0.4, -0.4] and "detects .40 more" in said[3]

    cells = table("cifar10-quick-s0", "07_gcd_detector", "cells")
    wide = {(row["detector"], row["tested_on"]): row["auroc"] for row in cells}
    border = ("004.deepfool", "004.ddn", "004.ddn_targeted")
    assert {round(wide["margin", attack], 2) for attack in border} == {0.99}
    sensitive = [round(wide["insen", attack], 2) for attack in border]
    assert (min(sensitive), max(sensitive)) == (0.88, 0.95) and ".88 to .95" in said[5]
    pushed = table("cifar10-quick-s0", "07_gcd_detector", "border")
    found = [r for r in pushed if (r["detector"], r["setting"]) == ("insen", "confidence 50")]
    assert f"{found[0]['auroc']:.2f}" == "0.01" and ".01 for Carlini-Wagner with" in said[5]

    for name, guided, tuned in (("mnist", "+0.000", "0.41"), ("cifar10", "-0.017", "0.19")):
        rows = table(f"{name}-quick-s0", "09_gcd_rectifier", "contributions")
        for rival, number, form in (
            ("random mask, tuned", guided, "+.3f"),
            ("guided mask", tuned, ".2f"),
        ):
            own = [r for r in rows if r["defence"] == "guided mask, tuned" and r["rival"] == rival]
            mean = sum(row["difference"] for row in own) / len(own)
            assert f"{mean:{form}}" == number, (name, rival, mean)
    assert "adds .000 (MNIST) and -.017 (CIFAR-10)" in said[6] and "adds .41 and .19" in said[6]
    untargeted = ("004.deepfool", "004.carlini_wagner_l2_quick", "004.ddn")
    spans = {}
    for name in ("mnist", "cifar10"):
        for row in table(f"{name}-quick-s0", "09_gcd_rectifier", "recovered"):
            if row["attack"] in untargeted and row["attacked"] == "the classifier":
                spans.setdefault((name, row["method"]), []).append(round(row["accuracy"], 2))
    ends = {place: (min(values), max(values)) for place, values in spans.items()}
    assert ends["mnist", "runner_up"] == (0.99, 0.99) and ends["mnist", "gcd"] == (0.98, 0.98)
    assert ends["cifar10", "runner_up"] == (0.67, 0.77) and "and .67 to .77" in said[6]
    assert ends["cifar10", "gcd"] == (0.6, 0.68) and "(GCD .98, and .60 to .68)" in said[6]

    rows = table("mnist-quick-s0", "08_white_box", "ledger")
    wide = {(row["detector"], row["game"]): row for row in rows}
    passed = {name: wide[name, "linf"]["success_5"] for name, _ in wide}
    assert [wide[name, "plain"]["success_5"] for name in ("id", "jsd", "gcd")] == [0, 0, 0]
    trained = {name: passed[name] for name in passed if name not in ("squeezing", "tws")}
    trained.pop("mahalanobis")  # a regression, and no network
    assert min(trained, key=trained.get) == "gcd" and max(trained, key=trained.get) == "smd"
    ends = [f"{trained[name]:.2f}" for name in ("gcd", "smd")]
    assert ends == ["0.54", "0.92"] and ".54 (GCD) to .92 (SMD)" in said[7]
    bare = [r for r in table("mnist-quick-s0", "08_white_box", "against_eps") if r["n"] == 100]
    bare = [r for r in bare if (r["detector"], r["game"]) == ("none", "linf")]
    assert [round(r["success_5"], 2) for r in bare if 38 < r["eps_255"] < 39] == [0.95]
    printed = [row["success_5"] for row in rows if row["game"] == "alternating"]
    assert (min(printed), max(printed)) == (0.08, 0.17) and ".08 to .17" in said[7]
    squeezed = wide["squeezing", "carlini_wagner_l2"]
    assert f"{passed['squeezing']:.2f} {squeezed['success_5']:.2f}" == "0.05 0.67"
    assert f"{squeezed['l2_ratio']:.1f}" == "2.3" and "are 2.3 times" in said[7]
    rows = table("cifar10-quick-s0", "08_white_box", "ledger")
    boxed = [row for row in rows if row["game"] == "linf"]
    assert len(boxed) == 14 and all(row["success_5"] == 1 and row["n"] == 50 for row in boxed)
    assert "(50 pictures, 8/255) every picture passes each of 14 detectors" in said[7]

    rows = table("cifar10-quick-s0", "08_white_box", "every_attack")
    caught = sorted(
        ((r["caught_5"], r) for r in rows if r["family"] == "every attack"), key=lambda one: -one[0]
    )
    best = [row for share, row in caught if share == caught[0][0]]
    assert len(caught) == 14 and {row["n"] for _, row in caught} == {300}
    assert {f"{r['caught_5']:.2f} {r['low']:.2f} {r['high']:.2f}" for r in best} == {
        "0.05 0.03 0.08"
    }
    assert {round(row["mean_5"], 2) for row in best} == {0.64}
    assert "the best of 14 detectors catches .05 (.03 to .08)" in said[8] and "says .64" in said[8]
    rows = table("mnist-quick-s0", "08_white_box", "every_attack")
    caught = {r["detector"]: r["caught_5"] for r in rows if r["family"] == "every attack"}
    rows = table("mnist-quick-s0", "08_white_box", "beside_noise")
    noise = {r["detector"]: r["flagged_noise"] for r in rows}
    numbers = [values[name] for name in ("gcd", "squeezing") for values in (caught, noise)]
    assert max(caught, key=caught.get) == "gcd" and {r["n"] for r in rows} == {600}
    assert [f"{number:.2f}" for number in numbers] == ["0.99", "0.99", "0.94", "0.06"]
    assert "GCD catches .99, and flags .99" in said[8] and "catches .94, flags .06" in said[8]
