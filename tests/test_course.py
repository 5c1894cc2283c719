"""What a course needs of the lectures: cards, a route through them, error sentences, a glossary."""

import ast
import json
import re

import pytest

from nbutils.series import runner
from tests.conftest import ROOT

PATHS = {path.stem[:2]: path for path in runner.notebooks()}
AHEAD = {  # by lecture: what its card asks to know before, and the word under which 00 explains it
    "01": {"training, validation and test images": "training, validation and test images"},
    "02": {"gradient": "gradient", "cross-entropy": "cross-entropy", "norm": "norm"},
    "03": {"attack": "adversarial example", "size is measured": "l0, l2, l-infinity"},
    "04": {"AUROC": "AUROC", "false positive rate": "TPR, FPR, TNR"},
    "05": {"ID": "ID", "JSD": "JSD", "learned map": "learned map"},
    "06": {"attacks": "adversarial example", "Grad-CAM": "Grad-CAM"},
    "07": {"JSD": "JSD", "trivial scalars": "trivial scalar", "leak controls": "leak control"},
    "08": {"attacks": "adversarial example", "detectors": "detector"},
    "09": {"attacks": "adversarial example", "GCD": "GCD"},
    "10": {"AUROC": "AUROC", "control": "leak control"},
    "11": {},
}


def markdown(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def section(path, heading):
    """The text under a heading, down to the next one."""
    text = "\n".join(markdown(path))
    assert f"\n{heading}\n" in f"\n{text}\n", heading
    return re.split(r"^#+ ", text.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(text):
    """The rows of the first table in a text, without its head, as lists of cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("number", PATHS)
def test_a_card_says_what_to_know_before_and_how_long_it_takes(number):
    card = markdown(PATHS[number])[1]
    assert re.search(r"^\| (to )?know before \| .{10,} \|$", card, re.M)
    assert re.search(r"\b\d+ minutes to read\b", card)
    assert re.search(r"\b\d+ (s|minutes) to run on digits\b", card)
    text = "\n".join(markdown(PATHS[number]))
    assert text.index("**You will**") < text.index("**You have**")


def test_the_route_is_of_90_minutes_and_its_sections_are_there():
    route = rows(section(PATHS["00"], "## A route of 90 minutes through the series"))
    assert sum(int(minutes) for minutes, _, _ in route) == 90
    assert len(route) >= 5
    for _, notebook, sections in route:
        (name,) = re.findall(r"\]\((.+)\)", notebook)
        text = "\n".join(markdown(ROOT / "notebooks" / name))
        headings = re.findall(r"^#+ (.+)$", text, re.M)
        assert not set(sections.split(" · ")) - set(headings), name
        places = [headings.index(one) for one in sections.split(" · ")]
        assert places == sorted(places), name


def sentences():
    """Every text in the module's source, with … where a value is put in."""
    for path in (ROOT / "nbutils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                yield "".join(part if isinstance(part, str) else "…" for part in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value.replace("{}", "…")


def test_each_error_sentence_is_one_of_the_modules():
    asked = rows(section(PATHS["00"], "## When it says no"))
    known = "\n".join(sentences())
    assert len(asked) >= 10
    for quoted, meaning in asked:
        sentence = re.fullmatch("`(.+)`", quoted)[1]
        fixed = [re.escape(part) for part in sentence.strip("… ").split("…")]
        assert sum(map(len, fixed)) > 20, sentence
        # what is left open is short, or ends the sentence
        assert re.search("[^\n]{0,40}".join(fixed), known), sentence
        assert len(meaning) > 40


def test_the_glossary_has_what_later_lectures_take_as_known():
    words = [row[0] for row in rows(section(PATHS["00"], "## Glossary"))]
    assert len(set(words)) == len(words)
    for number, terms in AHEAD.items():
        (asked,) = re.findall(r"know before \| (.+) \|", markdown(PATHS[number])[1])
        for term, word in terms.items():
            assert term in asked, (number, term)
            assert word in words, (number, word)
    later = set(PATHS) - {"00"}
    assert not set(AHEAD) - later
