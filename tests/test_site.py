"""The site of executed notebooks: its links, its words for figures, its formulas, and in a browser
what a reader does with it.
"""

import importlib.util
import json
import re
import shlex
import subprocess
import time
from importlib.resources import files
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from docutils.utils.math import MathError

from nbutils import InputError
from nbutils.__main__ import main
from nbutils.series import runner, site
from tests import browser
from tests.conftest import ROOT

FIRST, SECOND = "mnist-quick-s3", "my own run"
TOLD = 'A "planted" figure, of <nothing> & more.'


def copied(folder, *numbers):
    """A folder of a run, with stored notebooks as its executed ones."""
    (folder / "notebooks").mkdir(parents=True)
    for path in runner.notebooks(" ".join(numbers)):
        (folder / "notebooks" / path.name).write_bytes(path.read_bytes())
    return folder


def figures(notebook):
    return [
        output
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def formulas(path):
    """Those of a notebook, as they are written."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    return re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", "\n".join(texts), re.DOTALL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: the one has notebooks 00 and 02, the other 00; of the figures of the second the
    first alone is told in words, and it has a formula that is wider than a page.
    """
    folder = tmp_path_factory.mktemp("runs")
    found = [copied(folder / FIRST, "00", "02"), copied(folder / SECOND, "00")]
    path = found[1] / "notebooks" / "00_start_here.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first, *others = figures(notebook)
    first["metadata"] = {"image/png": {"alt": TOLD}}
    for one in others:
        one["metadata"] = {}
    wide = " + ".join(f"a_{{{i}}}" for i in range(80))
    notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": f"$${wide}$$"})
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def built(runs, tmp_path_factory):
    """The folder of a site of both runs."""
    out = tmp_path_factory.mktemp("out")
    started = time.perf_counter()
    first = site.build([str(run) for run in runs], str(out), "00 02")
    assert time.perf_counter() - started < 60
    assert first == out / "site" / "index.html"
    return first.parent


@pytest.fixture(scope="module")
def pages(built):
    """The pages by their places."""
    return {
        str(path.relative_to(built)): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(built.rglob("*.html"))
        if "_static" not in path.parts
    }


A, B = f"runs/{FIRST}", "runs/my-own-run"


def links(page):
    """What the article of a page leads to."""
    return {a.get_text(): a["href"] for a in page.select("article a.reference[href]")}


def test_each_run_has_its_chapter_and_the_results_their_pages(pages):
    made = set(pages)
    assert {"index.html", "search.html", f"{A}/00_start_here.html"} <= made
    assert {f"{A}/02_attacks.html", f"{A}/index.html", f"{B}/index.html"} <= made
    assert f"{B}/02_attacks.html" not in made and f"{A}/01_classifiers.html" not in made
    assert {"results/verdicts.html", "results/scoreboard.html"} <= made
    assert {"results/bench/README.html", "results/bench/attacks.html"} <= made
    titles = [pages[f"{place}/index.html"].h1.get_text() for place in (A, B)]
    assert [title.rstrip("#") for title in titles] == ["mnist, preset quick, seed 3", SECOND]
    beside = pages["index.html"].select("nav.bd-links")[0].get_text()
    for words in ("Notebooks", "mnist, preset quick, seed 3", SECOND, "Results", "Which claims"):
        assert words in beside
    assert len(pages["results/verdicts.html"].select("article td")) > 100


def test_every_link_leads_to_something_that_is_there(built, pages):
    followed = 0
    for name, page in pages.items():
        for tag in page.select("[href], [src]"):
            target, _, mark = (tag.get("href") or tag["src"]).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            place = (built / name).parent / unquote(target.partition("?")[0])
            place = place.resolve() if target else built / name
            assert place.is_file(), (name, target)
            assert place.is_relative_to(built), (name, target)
            if mark and tag.name == "a" and place.suffix == ".html":
                other = pages[str(place.relative_to(built))]
                assert mark in {one["id"] for one in other.select("[id]")}, (name, mark)
            followed += 1
    assert followed > 500


def test_nothing_is_loaded_from_elsewhere(built, pages):
    for name, page in pages.items():
        loading = page.select("script[src], img[src], iframe, link[href], [srcset], source, base")
        assert len(loading) > 5
        for tag in loading:
            assert not re.match(r"(https?:)?//", tag.get("src") or tag.get("href")), (name, tag)
        inside = " ".join(tag.get_text() for tag in page.select("script, style"))
        assert "//cdn" not in inside and "@import" not in inside, name
        assert "mathjax@" not in str(page) and "require.min.js" not in str(page), name
    sheets = list(built.rglob("*.css"))
    assert len(sheets) > 3
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"""(@import\s+|url\(\s*)(url\()?["']?(https?:)?//""", text), sheet


def test_every_figure_says_what_it_shows(pages):
    shown = [img for page in pages.values() for img in page.select("img")]
    assert len(shown) > 15
    assert all(img["alt"].strip() for img in shown)
    first, *others = [img["alt"] for img in pages[f"{B}/00_start_here.html"].select("article img")]
    assert first == TOLD
    headings = [h.get_text().rstrip("#") for h in pages[f"{B}/00_start_here.html"].select("h2")]
    assert others and {one.partition(": ")[0] for one in others} == {"Figure in 00 · Start here"}
    assert {one.partition(": ")[2] for one in others} <= set(headings)
    # it is told where the picture stands, not in every place that shows the same one
    assert pages[f"{A}/00_start_here.html"].select("article img")[0]["alt"] != TOLD


def test_formulas_are_drawn_by_the_browser_alone(pages):
    page = pages[f"{A}/00_start_here.html"]
    written = formulas(ROOT / "notebooks" / "00_start_here.ipynb")
    blocks = sum(one.startswith("$$") for one in written)
    assert len(page.select("div.formula math[display=block]")) == blocks > 0
    assert len(page.select("span.formula math")) == len(written) - blocks > 0
    for code in page.select("pre, code"):
        code.decompose()
    text = page.article.get_text()
    assert "ε" in text and "varepsilon" not in text and "$" not in text


def test_links_of_notebooks_stay_in_their_run(pages):
    here = links(pages[f"{A}/02_attacks.html"])
    assert here["README"] == "../../index.html"
    assert "01 · Classifiers" not in here  # the site has none: plain text
    assert "01 · Classifiers" in pages[f"{A}/02_attacks.html"].article.get_text()
    assert links(pages[f"{B}/00_start_here.html"])["README"] == "../../index.html"


def test_the_readme_leads_to_the_first_run_that_has_the_notebook(pages):
    here = links(pages["index.html"])
    assert here["00 start here"] == f"{A}/00_start_here.html"
    assert here["02 attacks"] == f"{A}/02_attacks.html"
    assert "05 model-based saliency" not in here
    assert here["data/results/verdicts.md"] == "results/verdicts.html"
    assert here["data/results/bench"] == "results/bench/README.html"
    assert pages["index.html"].select("article img")[0]["src"].startswith("_images/")
    downloads = pages["results/scoreboard.html"].select("a.download")
    assert downloads and downloads[0]["href"].endswith("scoreboard.csv")


PAGES = {
    "README.md": "index.md",
    "notebooks/00_a.ipynb": "runs/x/00_a.ipynb",
    "notebooks/01_b.ipynb": "runs/x/01_b.ipynb",
    "data/results/verdicts.md": "results/verdicts.md",
}


@pytest.mark.parametrize(
    ("home", "text", "wanted"),
    [
        ("README.md", "[a](notebooks/00_a.ipynb)", "[a](runs/x/00_a.ipynb)"),
        (
            "notebooks/00_a.ipynb",
            "[r](../README.md) [b](01_b.ipynb)",
            "[r](../../index.md) [b](01_b.ipynb)",
        ),
        ("notebooks/00_a.ipynb", "[b](01_b.ipynb#The-idea)", "[b](01_b.ipynb)"),
        (
            "data/results/verdicts.md",
            "[b](../../notebooks/01_b.ipynb)",
            "[b](../runs/x/01_b.ipynb)",
        ),
        ("README.md", "see [two\nlines](LICENSE).", "see two\nlines."),
        ("README.md", "![a picture](none.png)", "a picture"),
        ("README.md", "[c](09_c.ipynb), [`e`](nbutils/x.py)", "c, `e`"),
        ("README.md", "[w](https://a.b/c) [h](#here)", "[w](https://a.b/c) [h](#here)"),
        ("README.md", "`f[a](b)` and\n```\nf[a](b)\n```\n", "`f[a](b)` and\n```\nf[a](b)\n```\n"),
    ],
)
def test_a_link_leads_into_the_site_or_is_plain_text(home, text, wanted):
    assert site.linked(text, home, PAGES) == (wanted, set())


def test_a_picture_comes_with_the_page_that_shows_it():
    picture = "data/results/bench/attacks.png"
    found = site.linked("![p](bench/attacks.png)", "data/results/verdicts.md", PAGES)
    assert found == (f"![p](../{picture})", {picture})


def test_a_run_is_titled_by_its_folder():
    assert site.titled("digits_rgb-paper-s12") == "digits_rgb, preset paper, seed 12"
    assert site.titled("folder-quick-s0-99c50fc6") == "folder, preset quick, seed 0 (99c50fc6)"
    assert site.titled("mine") == "mine"


def test_solutions_are_a_last_chapter_where_there_are_some(tmp_path, monkeypatch):
    series = [tmp_path / "00_a.ipynb", tmp_path / "01_b.ipynb"]
    assert site._solutions(series) == []
    (tmp_path / "solutions").mkdir()
    solution = tmp_path / "solutions" / "01_b.ipynb"
    cell = {"cell_type": "markdown", "metadata": {}, "source": ["# S\n", "[b](../01_b.ipynb)"]}
    for path in (solution, *series):
        path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    (last,) = site._solutions(series)
    assert last.notebooks == [solution] and last.title == "Solutions"
    chapter = site.Chapter("t", "says", "runs/t", "notebooks", series)
    site._lay_out(tmp_path / "sources", [chapter], [last])
    first = (tmp_path / "sources" / "index.md").read_text(encoding="utf-8")
    assert first.endswith(":caption: Exercises\n\nsolutions/index\n```\n")
    made = (tmp_path / "sources" / "solutions" / "01_b.ipynb").read_text(encoding="utf-8")
    assert json.loads(made)["cells"][0]["source"] == "# S\n[b](../runs/t/01_b.ipynb)"


# formulas


@pytest.fixture(scope="module")
def conf():
    spec = importlib.util.spec_from_file_location("conf", ROOT / "notebooks" / "site" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_formula_of_the_notebooks_can_be_drawn(conf):
    paths = (ROOT / "notebooks").rglob("[0-9][0-9]_*.ipynb")
    found = {formula for path in paths for formula in formulas(path)}
    assert len(found) > 100
    for formula in sorted(found):
        drawn = conf.mathml(formula.strip("$"), formula.startswith("$$"))
        assert drawn.startswith("<math") and "\\" not in drawn, formula


def seen(drawn):
    return re.sub(r"<[^>]+>|\s", "", drawn)


def test_brackets_that_do_not_say_their_side_grow_on_both(conf):
    drawn = conf.mathml(r"\Big\lvert a \Big\rvert \big( b \big) \textbf{and} \bigl[ c \bigr]")
    assert seen(drawn) == "|a|(b)𝐚𝐧𝐝[c]"
    sizes = re.findall(r'<mo[^>]*minsize="([\d.]+em)"', drawn)
    assert sizes == ["1.623em"] * 2 + ["1.2em"] * 4


def test_digits_side_by_side_are_read_as_latex_does(conf):
    half = "<mfrac>    <mn>1</mn>    <mn>2</mn>  </mfrac>  <mi>P</mi>"
    assert half in conf.mathml(r"\frac12 P") and half in conf.mathml(r"\frac{1}{2} P")
    assert "<mn>2</mn>  </msup>  <mn>3</mn>" in conf.mathml("x^23")
    assert "<mn>23</mn>  </msup>" in conf.mathml("x^{23}")


def test_bars_are_as_high_as_letters_unless_they_are_left_and_right(conf):
    drawn = conf.mathml(r"2\lVert w\rVert_2 \lvert a\rvert")
    kinds = [("prefix", "‖"), ("postfix", "‖"), ("prefix", "|"), ("postfix", "|")]
    assert re.findall(r'<mo form="(\w+)" stretchy="false">(.)</mo>', drawn) == kinds
    assert "<mo>|</mo>" in conf.mathml(r"\left|\frac{a}{b}\right|")
    assert '<mo class="overline">‾</mo>' in conf.mathml(r"\overline{a + b}")  # drawn by site.css


def test_an_unknown_command_is_no_formula(conf):
    with pytest.raises(MathError, match="nosuch"):
        conf.mathml(r"\nosuch x")


# what is refused


def test_a_warning_of_sphinx_is_a_sentence_and_the_old_site_stays(tmp_path):
    run = copied(tmp_path / "mnist-quick-s0", "00")
    old = tmp_path / "site"
    old.mkdir()
    (old / "searchindex.js").write_text("", encoding="utf-8")
    path = run / "notebooks" / "00_start_here.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"] = notebook["cells"][:1]
    notebook["cells"][0]["source"] = "# A\n\n$\\nosuch x$"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(InputError, match=r"sphinx says: runs/mnist.*nosuch") as refused:
        site.build([str(run)], str(tmp_path), "00")
    assert "\n" not in str(refused.value)
    assert [one.name for one in old.iterdir()] == ["searchindex.js"]


@pytest.fixture
def no_sphinx(monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("sphinx was run")

    monkeypatch.setattr(site, "_sphinx", never)


def refused(runs, out):
    with pytest.raises(InputError) as error:
        site.build([str(run) for run in runs], str(out), "00")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    return str(error.value)


@pytest.mark.usefixtures("no_sphinx")
def test_what_cannot_become_a_site_is_refused_in_a_sentence(tmp_path, monkeypatch):
    run = copied(tmp_path / "a" / "mnist-quick-s0", "00")
    same = copied(tmp_path / "b" / "mnist-quick-s0", "00")
    assert refused([tmp_path / "none"], tmp_path).startswith("There is no folder '")
    assert "holds no executed notebooks" in refused([run, tmp_path], tmp_path)
    assert "Two of the runs are called mnist-quick-s0" in refused([run, same], tmp_path)
    (run / "notebooks" / "00_start_here.ipynb").write_text('{"cells": [', encoding="utf-8")
    assert "00_start_here.ipynb is damaged" in refused([run], tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "letters.txt").write_text("keep me", encoding="utf-8")
    assert "is no site that was made here" in refused([same], tmp_path)
    assert (tmp_path / "site" / "letters.txt").exists()
    monkeypatch.setattr(site, "find_spec", {"sphinx": True}.get)
    assert refused([same], tmp_path / "c").startswith("The site needs myst_nb and sphinx_book")


@pytest.mark.usefixtures("no_sphinx")
def test_a_notebook_that_failed_is_no_executed_one(tmp_path):
    run = copied(tmp_path / "mnist-quick-s0", "00")
    path = run / "notebooks" / "00_start_here.ipynb"
    path.rename(path.with_name("00_start_here-failed.ipynb"))
    assert "holds no executed notebooks" in refused([run], tmp_path)


def test_the_command_hands_runs_over_and_says_where_the_site_lies(tmp_path, monkeypatch, capsys):
    asked = []

    def build(runs, out):
        asked.append((runs, out))
        return tmp_path / "site" / "index.html"

    monkeypatch.setattr(site, "build", build)
    (tmp_path / "two words").mkdir()
    spaced = str(tmp_path / "two words")
    assert main(["site", "--runs", "a b", spaced, "--out", "o"]) == 0
    assert f"open {tmp_path / 'site' / 'index.html'}" in capsys.readouterr().out
    assert main(["site", "--runs", ""]) == 0
    assert main(["site"]) == 0
    assert asked == [(["a", "b", spaced], "o"), ([], "runs"), ([], "runs")]


def test_the_command_ends_with_the_sentence(tmp_path, capsys):
    assert main(["site", "--runs", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("nbutils: There is no folder")


def test_make_site_has_its_variables_and_no_others():
    def dry(*words):
        command = ["make", "--no-print-directory", "-n", *words]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
        )

    *_, install, make = dry("site", "RUNS=a b's", "OUT=x y").stdout.splitlines()
    assert shlex.split(make)[1:] == ["-m", "nbutils", "site", "--runs", "a b's", "--out", "x y"]
    assert install.endswith("-c requirements.txt -r notebooks/site/requirements.txt")
    assert "SEED is no variable of make site" in dry("site", "SEED=1").stderr
    assert "RUNS is no variable of make run" in dry("run", "RUNS=a").stderr


# in a browser


@pytest.fixture(scope="module")
def window():
    with browser.chromium() as driver:
        driver.set_script_timeout(180)
        yield driver


def faults(driver):
    """What the browser complained of since it was last asked."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def broken(driver):
    """The images of the page that show nothing."""
    return driver.execute_async_script(
        "const done = arguments[0], images = [...document.images];"
        "Promise.all(images.map(one => one.decode().catch(() => 0))).then(() =>"
        "  done(images.filter(one => !one.naturalWidth).map(one => one.src)));"
    )


def opened(driver, built, page):
    driver.get((built / page).as_uri())
    assert not faults(driver)


def switched(driver, theme):
    """The page in this theme, chosen in the menu as a reader does."""
    from selenium.webdriver.common.by import By

    driver.find_element(By.CSS_SELECTOR, ".theme-switch-button").click()
    driver.find_element(By.CSS_SELECTOR, f".theme-change-button[data-mode={theme}]").click()
    assert driver.execute_script("return document.documentElement.dataset.theme") == theme
    time.sleep(0.5)  # colours fade


@browser.needed
def test_a_reader_follows_every_link_of_the_first_page(window, built):
    opened(window, built, "index.html")
    found = window.execute_script("return [...document.links].map(one => one.href)")
    found = sorted({link.partition("#")[0] for link in found if link.startswith("file:")})
    assert len(found) >= 8
    pictures = 0
    for link in found:
        window.get(link)
        assert not broken(window) and not faults(window), link
        pictures += window.execute_script("return document.images.length")
        assert window.execute_script("return document.querySelector('h1').innerText"), link
        arrows = "return [...document.querySelectorAll('nav summary')].map(one => one.ariaLabel)"
        assert all(window.execute_script(arrows)), link
    assert pictures > 10


@browser.needed
def test_a_reader_searches_and_finds_a_page(window, built):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    opened(window, built, f"{B}/00_start_here.html")
    window.find_element(By.CSS_SELECTOR, ".search-button-field").click()
    field = window.find_element(By.CSS_SELECTOR, "#pst-search-dialog input")
    field.send_keys("perturbation\n")
    wait = WebDriverWait(window, 20)
    results = wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "ul.search li a"))
    wait.until(lambda d: "found" in d.find_element(By.ID, "search-results").text)
    found = [one.get_attribute("href").partition("?")[0].partition("#")[0] for one in results]
    assert (built / A / "02_attacks.html").as_uri() in found
    results[0].click()
    wait.until(lambda d: "search.html" not in d.current_url)
    assert not faults(window)
    assert "perturbation" in window.find_element(By.TAG_NAME, "body").text.lower()


@browser.needed
def test_the_switch_makes_page_and_code_dark_and_light_again(window, built):
    opened(window, built, f"{A}/00_start_here.html")
    colours = (
        "return [document.body, document.querySelector('.cell_input pre'),"
        " document.querySelector('.cell_input .highlight')].map(one => {"
        "  const style = getComputedStyle(one); return [style.color, style.backgroundColor] })"
    )

    def brightness(colour):
        return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3

    for theme, is_dark in (("dark", True), ("light", False)):
        switched(window, theme)
        page, code, behind = window.execute_script(colours)
        assert (brightness(page[1]) < 60) == is_dark and (brightness(page[0]) > 160) == is_dark
        assert (brightness(behind[1]) < 80) == is_dark and (brightness(code[0]) > 160) == is_dark


WIDER = (
    "return [...document.querySelectorAll(arguments[0])]"
    ".filter(one => one.scrollWidth > one.clientWidth).length"
)


@browser.needed
@pytest.mark.parametrize("width", [1400, 800, 500])
def test_what_is_wide_scrolls_in_its_box_and_not_the_page(built, width):
    found = {
        f"{A}/02_attacks.html": (".cell_output .output", 1 if width < 800 else 0),
        f"{B}/00_start_here.html": ("div.formula", 1),
        "results/scoreboard.html": (".pst-scrollable-table-container", 3),
        "results/verdicts.html": (".pst-scrollable-table-container", 3),
        "index.html": (".pst-scrollable-table-container", 0),
    }
    with browser.chromium(width) as driver:
        for page, (box, least) in found.items():
            opened(driver, built, page)
            assert not driver.execute_script(WIDER, "html"), page
            assert driver.execute_script(WIDER, box) >= least, page


@browser.needed
def test_lines_of_code_and_rows_of_tables_are_seen_whole(window, built):
    opened(window, built, f"{A}/02_attacks.html")
    assert not window.execute_script(WIDER, ".cell_input pre")
    heights = "return [...document.querySelectorAll(arguments[0])].map(one => one.offsetHeight)"
    card, *others = window.execute_script(heights, "article thead")
    assert card == 0 and others and all(others)  # the card has no heading, other tables have
    opened(window, built, "results/scoreboard.html")
    assert max(window.execute_script(heights, "article tbody tr")) < 60


# What axe finds worst; the theme leaves nothing of that kind that would have to be listed here.
WORST = ("serious", "critical")


@browser.needed
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_reader_is_shut_out(window, built, theme):
    axe = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    for page in (f"{A}/00_start_here.html", "index.html", "results/bench/README.html"):
        opened(window, built, page)
        switched(window, theme)
        window.execute_script(axe)
        found = window.execute_async_script(
            "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(done)"
        )
        assert found["testEngine"]["name"] == "axe-core" and len(found["passes"]) > 10
        worst = {one["id"]: one["nodes"] for one in found["violations"] if one["impact"] in WORST}
        assert not worst, (page, {name: nodes[0]["html"] for name, nodes in worst.items()})
