"""Parameters: every wrong one gets one sentence before any work; results are written whole."""

import ast
import importlib
import json
import os
import platform
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nbutils import InputError, __main__, steps
from nbutils.resources import from_here, usable_cpus
from nbutils.series import parameters, session
from nbutils.series.parameters import NOTEBOOKS, run_folder
from nbutils.steps import tables
from tests.conftest import ROOT, SMOKE, configure, python

WRONG = [
    ({"DATASET": "imagenet"}, "DATASET 'imagenet' is unknown: choose one of digits"),
    ({"PRESET": "fast"}, "PRESET 'fast' is unknown for digits: choose one of smoke"),
    ({"MODEL": "resnet9"}, "MODEL 'resnet9' is unknown"),
    ({"ATTACKS": ["fgsm", "fsgm"]}, "ATTACKS holds 'fsgm', which is unknown: choose among fgsm"),
    ({"ATTACKS": []}, "ATTACKS must name at least one, each once"),
    ({"ATTACKS": ["fgsm", "fgsm"]}, "ATTACKS must name at least one, each once"),
    ({"ATTACKS": [["fgsm"]]}, "ATTACKS must name at least one"),
    ({"DETECTORS": ["margin"]}, "DETECTORS holds 'margin', which is unknown: choose among id"),
    ({"SEED": 2**31}, "SEED must be under"),
    ({"SEED": np.int64(3)}, "SEED must be int"),
    ({"OUT": Path("runs")}, "OUT must be str"),
    ({"THREADS": 10**10}, "THREADS must be under"),
    (
        {"READINGS": ["logits"]},
        "READINGS holds 'logits', which is unknown: choose among logit, logit_scaled, softmax,",
    ),
    ({"DETECTORS": ["ID"]}, "DETECTORS holds 'ID', which is unknown: choose among id"),
    ({"DEVICE": "gpu"}, "DEVICE 'gpu' is unknown: choose auto, cpu, cuda"),
    ({"DEVICE": "cuda:99"}, "DEVICE 'cuda:99' is not there"),
    ({"EPS": 8}, "EPS is no parameter of 04_image_and_jacobian: did you mean EPS_255"),
    ({"dataset": "digits"}, "dataset is no parameter .* did you mean DATASET"),
    ({"COLOUR": "red"}, "COLOUR is no parameter .* it has DATASET"),
    ({"SEED": -1}, "SEED must be 0 or more, but is -1"),
    ({"SEED": 1.5}, "SEED must be int"),
    ({"SEED": "1"}, "SEED must be int"),
    ({"SEED": True}, "SEED must be int"),
    ({"THREADS": -2}, "THREADS must be 0 or more"),
    ({"EPS_255": -8.0}, "EPS_255 must be 0 or more, but is -8"),
    ({"EPS_255": "8"}, "EPS_255 must be float"),
    ({"EPS_255": float("nan")}, "EPS_255 must be finite"),
    ({"FPR": 1.5}, "FPR must lie between 0 and 1"),
    ({"OUT": "LICENSE"}, "OUT 'LICENSE' cannot be made a folder"),
    ({"OUT": 3}, "OUT must be str"),
    (
        {"SOURCE": "imagenette"},
        "SOURCE and CLASSES choose pictures of imagenet_subset; DATASET is digits",
    ),
    ({"CLASSES": ["tench"]}, "SOURCE and CLASSES choose pictures"),
    ({"RETRAIN": 1}, "RETRAIN must be bool"),
    ({"CHANGES": [1]}, "CHANGES must be dict"),
    (
        {"CHANGES": {"attacked": 5}},
        "CHANGES holds 'attacked', which is no field of a preset: choose among classifier",
    ),
    (
        {"CHANGES": {"attacked_test": "5"}},
        "CHANGES must give attacked_test a value like 40, not '5'",
    ),
    ({"CHANGES": {"attacked_test": 1}}, "CHANGES must give attacked_test at least 2: notebooks"),
    ({"CHANGES": {"attacked_test": -5}}, "CHANGES must give attacked_test a value like 40, not -5"),
    *[
        ({"CHANGES": {name: value}}, f"CHANGES must give {name} a value like")
        for name, value in (
            ("epochs", 0),
            ("detector_epochs", 0),
            ("dropouts", []),
            ("dropouts", ["a"]),
            ("dropouts", [2.0]),
            ("width", float("nan")),
            ("chunk", 0),
            ("detector_seeds", 0),
            ("train", 1),
            ("attacked_train", 1),
            ("calibrate", 0),
            ("refit", 1),
        )
    ],
    (
        {"CHANGES": {"detector": "smd9"}},
        "CHANGES names the detector 'smd9', which is unknown: choose one of digits_net",
    ),
    ({"WEIGHTS": "nowhere.pt"}, "WEIGHTS 'nowhere.pt' is no file"),
    (
        {"WEIGHTS": "torchvision"},
        "WEIGHTS 'torchvision' needs a MODEL that torchvision publishes: squeezenet1_1",
    ),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_wrong_parameters_get_one_sentence_before_any_work(wrong, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("nbutils.steps.run.load", lambda *a, **k: pytest.fail("work began"))
    with pytest.raises(InputError, match=sentence) as caught:
        session.start("04_image_and_jacobian", {**SMOKE, "OUT": str(tmp_path), **wrong})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*"))


def test_a_relative_out_starts_here_and_inside_the_checkout_at_its_root(tmp_path, monkeypatch):
    elsewhere = tmp_path.resolve()
    for here, start in ((elsewhere, elsewhere), (ROOT, ROOT), (ROOT / "notebooks", ROOT)):
        monkeypatch.chdir(here)
        assert from_here("runs") == start / "runs"
        assert run_folder({"OUT": "runs"}) == start / "runs" / "digits-quick-s0"
        assert from_here(elsewhere / "own") == elsewhere / "own"  # an absolute one is left alone
    monkeypatch.chdir(elsewhere)
    assert configure("runs").folder == elsewhere / "runs" / "digits-smoke-s0"
    assert (elsewhere / "runs" / "digits-smoke-s0").is_dir()


def test_a_changed_preset_has_a_folder_of_its_own_and_the_committed_networks(tmp_path):
    step = importlib.import_module("nbutils.steps.classifier")  # the name is the step's function
    changes = {"attacked_test": 7, "detector_width": 1}
    plain = configure(tmp_path, DATASET="mnist", PRESET="quick", CHANGES={})
    changed = configure(tmp_path, DATASET="mnist", PRESET="quick", CHANGES=changes)
    assert changed.preset == {**plain.preset, **changes} and changed.folder != plain.folder
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "committed", lambda folder, arguments: asked.append(folder))
        for run in (plain, changed):
            step.committed_network(run, "classifier", {})
    assert asked[0] == asked[1]


def test_a_notebook_that_needs_colour_inks_grey_images_and_reports_where_it_was_asked(tmp_path):
    grey = configure(tmp_path, "04_image_and_jacobian")
    colour = configure(tmp_path, "06_gradcam_consistency", ATTACKS=["fgsm"])
    assert grey.data.name == "digits"
    assert colour.data.name == "digits_rgb" and colour.data.shape[0] == 3
    assert colour.folder.name == "digits_rgb-smoke-s0" and colour.shown == grey.shown == grey.folder
    colour.record(key=("a", 1.0), tables={})
    assert (grey.folder / "results" / "06_gradcam_consistency.json").exists()


def test_backend_and_steps_belong_to_notebook_02(tmp_path):
    asked = {"BACKEND": "cleverhans", "ATTACKS": ["carlini_wagner_l2"], "STEPS": 3}
    good = {**SMOKE, "OUT": str(tmp_path), **asked}
    assert session.start("02_attacks", good).parameters["STEPS"] == 3
    for wrong, sentence in (
        ({"BACKEND": "foolbox"}, "BACKEND must be"),
        ({"STEPS": -1}, "STEPS must be 0 or more"),
        ({"ATTACKS": ["deepfool"]}, "ATTACKS holds 'deepfool'"),
    ):
        with pytest.raises(InputError, match=sentence):
            session.start("02_attacks", {**good, **wrong})
    with pytest.raises(InputError, match="'99_more' is unknown"):
        session.start("99_more", {})


def test_a_notebooks_other_names_do_not_disturb(tmp_path):
    others = {"In": [], "Out": {}, "_i": "", "torch": torch, "session": session}
    run = session.start("01_classifiers", {**SMOKE, "OUT": str(tmp_path), **others})
    assert run.seed == 0 and "digits, preset smoke, seed 0" in repr(run)


def names_of_cells(notebook):
    """Every name that a notebook's code cells make, its parameters apart."""
    content = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored - set(parameters.PARAMETERS)


@pytest.mark.parametrize("notebook", parameters.NOTEBOOKS)
def test_run_all_twice_in_one_kernel(notebook, tmp_path):
    """As the second time finds the names that the first one's cells made, whatever they hold."""
    space = {**SMOKE, "OUT": str(tmp_path), "ATTACKS": ["fgsm"]}
    space = {k: v for k, v in space.items() if k in parameters.COMMON + NOTEBOOKS[notebook]}
    first = session.start(notebook, space)
    for value in (1, "title", [1], ("a",), {}, None):
        again = {**dict.fromkeys(names_of_cells(notebook), value), **space, "run": first, "SEED": 1}
        assert session.start(notebook, again).seed == 1
    for name in ("EPS", "SEEDS", "DATA"):  # a cell that the reader has put in between
        with pytest.raises(InputError, match=f"{name} is no parameter of {notebook}"):
            session.start(notebook, {**space, "run": first, name: 8})


@pytest.mark.parametrize("name", ["titles", "n", "rows", "colours"])
def test_a_name_of_the_readers_own_that_resembles_no_parameter_is_let_be(name, tmp_path):
    given = {**SMOKE, "OUT": str(tmp_path), name: [1, 2]}
    assert session.start("01_classifiers", given).seed == 0
    for wrong in ("seed", "Dataset", "datset"):
        with pytest.raises(InputError, match=f"{wrong} is no parameter .* did you mean"):
            session.start("01_classifiers", {**given, wrong: 1})


def test_record_is_json_with_six_digits_and_no_nan(tmp_path):
    run = configure(tmp_path, "01_classifiers")
    tables = {"t": [{"x": float("nan"), "y": (1, 2.0)}]}
    result = run.record(key=("a", torch.tensor(1 / 3)), tables=tables)
    assert result["key"]["value"] == 0.333333
    assert result["tables"]["t"] == [{"x": None, "y": [1, 2.0]}]
    assert (
        json.loads((run.folder / "results" / "01_classifiers.json").read_text(encoding="utf-8"))
        == result
    )


def test_command_line_speaks_one_sentence(capsys):
    smoke = ["--preset", "smoke", "--out", "/proc/nothing"]
    assert __main__.main(["make", "all", *smoke, "--attack", "nonsense"]) == 2
    assert "ATTACKS holds 'nonsense'" in capsys.readouterr().err
    assert __main__.main(["make", "classifier", *smoke]) == 2
    assert "cannot be made a folder" in capsys.readouterr().err
    assert __main__.main(["run", "--notebooks", "77"]) == 2
    assert "no notebook '77'" in capsys.readouterr().err
    assert __main__.main(["run", "--notebooks", "01", "-p", "NONSENSE", "1"]) == 2
    assert "NONSENSE is no parameter of 01_classifiers" in capsys.readouterr().err


SMALL = ["--preset", "smoke", "--device", "cpu", "--threads", "1"]
REFUSED = [
    ("make adversarial -p NONSENSE 1", "NONSENSE is no parameter of make adversarial: it has DAT"),
    ("make adversarial -p EPS 1", "EPS is no parameter of make adversarial: did you mean EPS_255?"),
    ("make adversarial -p seed 1", "seed is no parameter .* did you mean SEED?"),
    ("make adversarial -p FPR .1", "FPR is no parameter of make adversarial"),
    ("make evaluation -p READINGS [logit]", "READINGS is no parameter of make evaluation"),
    ("make adversarial --detector id", "DETECTORS is no parameter of make adversarial"),
    ("make classifier --attack fgsm", "ATTACKS is no parameter of make classifier"),
    ("make classifier -p EPS_255 1", "EPS_255 is no parameter of make classifier"),
    ("make adversarial --attack ddn -p EPS_255 1", "EPS_255 would change nothing: no attack among"),
    ("make adversarial --attack fgsm -p STEPS 5", "STEPS would change nothing: no attack among fg"),
    ("make adversarial -p EPS_255 abc", "EPS_255 must be float"),
    ("make adversarial -p EPS_255 -3", "EPS_255 must be 0 or more, but is -3.0"),
    ("make adversarial -p EPS_255 nan", "EPS_255 must be finite"),
    ("make adversarial -p EPS_255 1 -p EPS_255 2", "EPS_255 is given twice, as 1.0 and as 2.0"),
    ("make adversarial --attack fgsm -p ATTACKS [ddn]", "ATTACKS is given twice"),
    ("make adversarial -p ATTACKS fgsm", "ATTACKS must be list"),
    ("make adversarial -p ATTACKS [", "ATTACKS must be list"),
    ("make adversarial -p RETRAIN 1", "RETRAIN must be bool"),
    ("make classifier --model mine:make -p RETRAIN true", "RETRAIN trains an architecture of ours"),
    ("make classifier --dataset digits -p DATASET mnist", "DATASET is given twice"),
    ("make classifier --dataset digits --dataset mnist", "DATASET is given twice"),
    ("make classifier --seed 1.5", "SEED must be int .0 or more., but is '1.5'"),
    ("run --seed 0 0 1", "SEED 0 is given 2 times: a mean over seeds counts each once"),
    ("run --seed 0,1,0", "SEED 0 is given 2 times"),
    ("run --seed 0 1 -p SEED 3", "SEED is given twice"),
    ("run --seed 0 --seed 1", "SEED is given twice"),
    ("run --seed 0 abc", "SEED must be int .0 or more., but is 'abc'"),
    ("run --dataset mnits", "DATASET 'mnits' is unknown: choose one of digits"),
    ("run --notebooks 00 -p EPS_255 1", "EPS_255 is no parameter of 00_start_here"),
    ("run --notebooks 02 -p STEPS true", "STEPS must be int .0 or more., but is 'true'"),
    ("run --notebooks 06 -p ATTACKS [pgd]", "ATTACKS must begin with an FGSM"),
    ("publish -p EPS_255 1", "EPS_255 is no parameter of publish"),
    ("publish --seed -1", "SEED must be 0 or more, but is -1"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_a_command_would_ignore_or_misread_gets_one_sentence_before_any_work(
    words, sentence, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("nbutils.steps.run.load", lambda *a, **k: pytest.fail("work began"))
    monkeypatch.setattr("nbutils.series.runner._execute", lambda *a: pytest.fail("work began"))
    assert __main__.main([*words.split(), "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert re.match(f"nbutils: {sentence}", said.err) and said.err.count("\n") == 1, said
    assert not said.out and not list(tmp_path.rglob("*"))


def made(capsys, out, words):
    """What `make adversarial` said about the attack on test images."""
    command = ["make", "adversarial", *words.split(), *SMALL, "--out", str(out)]
    assert __main__.main(command) == 0
    said = capsys.readouterr().out
    return float(re.search(r"on test: success ([\d.]+)", said)[1])


def test_make_does_with_eps_steps_and_backend_what_notebook_02_does(tmp_path, capsys):
    largest = made(capsys, tmp_path, "--attack fgsm")
    assert made(capsys, tmp_path, "--attack fgsm -p EPS_255 1") < 0.1 < largest - 0.5
    made(capsys, tmp_path, "-p ATTACKS [pgd] -p STEPS 2 -p EPS_255 1e1")
    made(capsys, tmp_path, "--attack fgsm -p BACKEND cleverhans")
    made(capsys, tmp_path, "--attack carlini_wagner_l2 -p BACKEND cleverhans -p STEPS 3")
    kept = {path.name for path in tmp_path.glob("*/adversarial/*-test*") if path.is_dir()}
    for given in (
        {"ATTACKS": ["fgsm"], "EPS_255": 1.0},
        {"ATTACKS": ["pgd"], "STEPS": 2, "EPS_255": 10.0},
        {"ATTACKS": ["fgsm"], "BACKEND": "cleverhans"},
        {"ATTACKS": ["carlini_wagner_l2"], "BACKEND": "cleverhans", "STEPS": 3},
    ):
        usual = {**SMOKE, "OUT": str(tmp_path), "EPS_255": 0.0, "STEPS": 0, "BACKEND": "nbutils"}
        run = session.start("02_attacks", {**usual, **given})
        (name,) = given["ATTACKS"]
        steps.adversarial(run, name, **tables.knobs(run, name))
    now = {path.name for path in tmp_path.glob("*/adversarial/*-test*") if path.is_dir()}
    assert now == kept and len(kept) == 5  # the notebook found what `make` had made


def test_a_budget_reaches_every_l_infinity_attack_of_notebook_04(tmp_path):
    run = configure(tmp_path, ATTACKS=["fgsm", "pgd", "ddn"], EPS_255=8.0)
    sized = tables.sized(run, ["fgsm", "pgd", "ddn"], 8.0)
    assert sized["pgd"] == ("pgd", {"eps": 8 / 255}) and sized["fgsm"][1] == {"eps": 8 / 255}
    assert sized["ddn"] == ("ddn", {})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SEED", "010", 10),  # of YAML 1.1 it is eight
        ("SEED", "1:30", "1:30"),  # and this ninety
        ("EPS_255", "1e-1", 0.1),  # and this text
        ("EPS_255", "8", 8.0),
        ("DATASET", "123", "123"),
        ("OUT", "null", "null"),
        ("RETRAIN", "TRUE", True),
        ("ATTACKS", "[fgsm, 002.fgsm_1]", ["fgsm", "002.fgsm_1"]),
        ("CHANGES", "{attacked_test: 7}", {"attacked_test": 7}),
        ("NONSENSE", "1", "1"),
    ],
)
def test_the_command_line_reads_values_as_they_are_meant(name, text, value):
    found = parameters.read(name, text)
    assert found == value and type(found) is type(value)


def test_several_seeds_may_stand_in_one_word(monkeypatch):
    ran = []
    monkeypatch.setattr("nbutils.series.runner.run", lambda p, chosen: ran.append(p["SEED"]) or 0)
    monkeypatch.setattr("nbutils.series.runner.over_seeds", lambda runs, chosen: None)
    for words in (["--seed", "0 1"], ["--seed", "0", "1"], ["--seed", "0, 1"], ["-p", "SEED", "3"]):
        assert __main__.main(["run", *words]) == 0
    assert ran == [0, 1, 0, 1, 0, 1, 3]


FAULTS = """
import resource, sys, torch
from nbutils.series import session
from nbutils.series.parameters import DEFAULTS
given = {"PRESET": "smoke", "THREADS": 1, "DEVICE": "cpu", "OUT": sys.argv[1]}
session.configure("01_classifiers", {**DEFAULTS, **given})
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(8):
    if i == 3:  # it has found its place
        before = faults()
    torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the memory of another C library is not ours to set"
)
def test_memory_of_a_freed_tensor_is_used_again(tmp_path):
    done = python(tmp_path, code=FAULTS)
    assert int(done.stdout) < 1000, done.stderr  # 64 MiB are 16,384 pages


def test_a_long_sentence_is_broken_between_words():
    words = ["attacked"] * 40
    text = session.wrapped("two", *words)
    text += "\n" + session.wrapped("  indented " + " ".join(words) + "\nshort")
    lines = text.split("\n")
    assert max(map(len, lines)) <= 100
    assert text.split() == ["two", *words, "indented", *words, "short"]
    assert "short" in lines and sum(line.startswith("  ") for line in lines) == 4


CPUS = """
import os, sys
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cpus[: int(sys.argv[2])])  # as taskset does
import torch
from nbutils.series import session
session.configure("01_classifiers", {"PRESET": "smoke", "DEVICE": "cpu", "OUT": sys.argv[1]})
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize("omp", ["1", "", "nonsense", "0", "1,4"])
def test_a_process_that_is_bound_to_one_cpu_takes_one_thread(omp, tmp_path):
    done = python(tmp_path, 1, code=CPUS, OMP_NUM_THREADS=omp)
    assert done.stdout.split() == ["1"], done.stderr


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("group", "files", "omp", "cpus"),
    [
        ("0::/", {}, "", 8),
        ("0::/", {}, "3", 3),
        ("0::/", {}, "16", 8),
        ("0::/", {}, "2,1", 2),
        ("0::/", {"cpu.max": "200000 100000"}, "", 2),
        ("0::/", {"cpu.max": "200000 100000"}, "1", 1),
        ("0::/", {"cpu.max": "max 100000"}, "", 8),
        ("0::/", {"cpu.max": "50000 100000"}, "", 1),
        ("0::/a/b", {"a/cpu.max": "350000 100000", "a/b/cpu.max": "max 100000"}, "", 3),
        ("0::/host/name", {"cpu.max": "400000 100000"}, "", 4),  # a container's own root
        ("3:cpuset:/\n4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "200000"}, "", 8),
        (
            "3:cpuset:/\n4:cpu,cpuacct:/x",
            {"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            "",
            2,
        ),
        (
            "4:cpuacct,cpu:/x",
            {
                "cpuacct,cpu/cpu.cfs_quota_us": "500000",
                "cpuacct,cpu/cpu.cfs_period_us": "100000",
            },
            "",
            5,
        ),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "", 8),
    ],
)
def test_usable_cpus_are_those_of_affinity_cgroup_and_variable(
    group, files, omp, cpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    written(tmp_path / "proc/self/cgroup", group + "\n")
    for name, text in files.items():
        written(tmp_path / "sys/fs/cgroup" / name, text)
    assert usable_cpus(tmp_path) == cpus


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_locale_without_letters_of_others_makes_and_says_the_same(tmp_path):
    """Folder, class and result with accents, where Python takes text for ASCII unless told."""
    from PIL import Image

    for part, n in (("train", 12), ("test", 6)):
        for shade, name in enumerate(("Äpfel", "Birnen é")):
            folder = tmp_path / "Übung" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                colour = (200 * shade + i, 40 + 5 * i, 9 * i + (part == "test"))
                Image.new("RGB", (32, 32), colour).save(folder / f"ß{i}.png")
    changes = ["-p", "CHANGES", "{attacked_train: 4, attacked_test: 2, calibrate: 2}"]
    given = ["--dataset", "folder", "--data-root", tmp_path / "Übung", *SMALL, *changes]
    done = python("make", "classifier", *given, "--out", tmp_path / "öut", **C_LOCALE)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    assert list((tmp_path / "öut").glob("*/classifier/*/meta.json"))
    done = python("verdicts", **C_LOCALE)
    assert done.returncode == 0, done.stderr
    done = python("run", "--notebooks", "01", *given, "--out", tmp_path / "öut", **C_LOCALE)
    assert done.returncode == 2 and "set LC_ALL=C.UTF-8" in done.stderr, done.stderr


def test_what_cannot_be_printed_is_escaped_and_nothing_fails():
    code = (
        "from nbutils import __main__\n"
        "__main__._verdicts = lambda args: print(chr(233)) or 0\n"
        "__main__.main(['verdicts'])"
    )
    done = python(code=code, **C_LOCALE)
    assert done.stdout == "\\xe9\n", done.stderr


def test_the_rivals_of_07_are_those_that_see_no_attack(tmp_path):
    run = session.configure("07_gcd_detector", {"OUT": str(tmp_path), "DETECTORS": ["tws_noise"]})
    assert run.parameters["DETECTORS"] == ["tws_noise"]
    for name in ("id", "mahalanobis", "nonsense"):
        with pytest.raises(InputError, match="choose among pixel_defend"):
            session.configure("07_gcd_detector", {"OUT": str(tmp_path), "DETECTORS": [name]})
