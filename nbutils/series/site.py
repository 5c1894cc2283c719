"""Executed notebooks, and the pages of published results, as a web site that opens from a folder.

Needs sphinx with myst-nb and sphinx-book-theme (notebooks/site/requirements.txt).
"""

import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from nbutils import InputError
from nbutils.resources import checkout, from_here
from nbutils.series import runner
from nbutils.series.parameters import run_folder
from nbutils.series.publish import shown
from nbutils.store.files import speaking

NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme")
RESULTS = "data/results"
SHIPPED = (".png", ".jpg", ".svg", ".csv")  # what a page may show or hand out beside pages
PART = re.compile(
    r"(?P<code>```.*?```|``.*?``|`[^`\n]*`)"
    r"|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]+)\)",
    re.DOTALL,
)  # of a text in markdown: code, which stays as it is, or a link


@dataclass(frozen=True)
class Chapter:
    """Executed notebooks that stand together.

    Attributes:
        says: a sentence under the title.
        place: its folder in the site.
        home: the folder of the project that the links in its notebooks start from.
        notebooks: the files, in order.
    """

    title: str
    says: str
    place: str
    home: str
    notebooks: Sequence[Path]

    def pages(self) -> dict[str, str]:
        """Where each notebook stands in the site, by its place in the project."""
        return {f"{self.home}/{one.name}": f"{self.place}/{one.name}" for one in self.notebooks}


def build(runs: Sequence[str], out: str, chosen: str = "") -> Path:
    """Make the site in `out`/site, in place of an older one.

    Args:
        runs: folders of runs, whose executed notebooks become a chapter each; none: the outputs
            that are stored with the notebooks.
        chosen: some notebooks by their numbers, "02 04".
    Returns:
        its first page.
    Raises:
        InputError: a run has no executed notebooks, two have one name, sphinx is missing or warns,
            or `out`/site is something else.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"The site needs {' and '.join(missing)}: run `make site`, or install what "
            "notebooks/site/requirements.txt names."
        )
    series = runner.notebooks(chosen)
    chapters = [_of_run(word, series) for word in runs] or [_stored(series)]
    places = [chapter.place for chapter in chapters]
    for place in places:
        if places.count(place) > 1:
            name = posixpath.basename(place)
            raise InputError(f"Two of the runs are called {name}: a site has one of each name.")
    target = from_here(out) / "site"
    if target.exists() and not (target / "searchindex.js").exists():
        raise InputError(
            f"{shown(target)} is no site that was made here: move it or choose another OUT."
        )
    with tempfile.TemporaryDirectory(prefix="nbutils-site-") as folder, speaking(target):
        sources, made = Path(folder) / "sources", Path(folder) / "site"
        _lay_out(sources, chapters, _solutions(series))
        _sphinx(sources, made, depth=1 if len(runs) > 1 else 2)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        shutil.move(made, target)
    return target / "index.html"


def _of_run(word: str, series: Sequence[Path]) -> Chapter:
    folder = from_here(word)
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {word!r}: RUNS names folders of runs, such as "
            f"{shown(run_folder({}))}."
        )
    executed = [folder / "notebooks" / path.name for path in series]
    executed = [path for path in executed if path.is_file()]
    if not executed:
        raise InputError(
            f"{word!r} holds no executed notebooks: run them first, or name the folder of a run."
        )
    place = "runs/" + re.sub(r"[^\w.+-]+", "-", folder.name)
    says = f"The executed notebooks of the run `{folder.name}`."
    return Chapter(titled(folder.name), says, place, "notebooks", executed)


def _stored(series: Sequence[Path]) -> Chapter:
    name = run_folder({}).name
    says = "The notebooks with the outputs that are stored with them."
    return Chapter(titled(name), says, f"runs/{name}", "notebooks", series)


def _solutions(series: Sequence[Path]) -> list[Chapter]:
    """A last chapter, where there are solutions of these notebooks' exercises."""
    there = [path.parent / "solutions" / path.name for path in series]
    there = [path for path in there if path.is_file()]
    says = "The exercises of each notebook with solutions that run."
    return [Chapter("Solutions", says, "solutions", "notebooks/solutions", there)] if there else []


def titled(name: str) -> str:
    """A run's folder as a heading: "mnist-quick-s0" is "mnist, preset quick, seed 0"."""
    found = re.fullmatch(r"(\w+)-(\w+)-s(\d+)(?:-(\w+))?", name)
    if not found:
        return name
    dataset, preset, seed, mark = found.groups()
    return f"{dataset}, preset {preset}, seed {seed}" + (f" ({mark})" if mark else "")


def _lay_out(sources: Path, chapters: Sequence[Chapter], last: Sequence[Chapter]) -> None:
    """Write what sphinx reads: the README as the first page, the chapters, the results.

    Args:
        last: chapters that stand behind the results.
    """
    folder = checkout() / RESULTS / "bench"
    tables = [f"{RESULTS}/bench/{path.name}" for path in sorted(folder.glob("[a-z]*.md"))]
    results = [f"{RESULTS}/{name}.md" for name in ("verdicts", "scoreboard", "bench/README")]
    pages = {page: page.removeprefix("data/") for page in results + tables}
    pages["README.md"] = "index.md"
    for chapter in [*last, *reversed(chapters)]:  # of several runs a page outside finds the first
        pages |= chapter.pages()
    for chapter in [*chapters, *last]:
        own = pages | chapter.pages()
        for path in chapter.notebooks:
            _notebook(path, f"{chapter.home}/{path.name}", own, sources)
        names = [path.name for path in chapter.notebooks]
        text = f"# {chapter.title}\n\n{chapter.says}\n{_contents(names)}"
        _write(sources / chapter.place / "index.md", text)
    tops = _contents([f"{chapter.place}/index" for chapter in chapters], "Notebooks")
    tops += _contents([pages[page] for page in results], "Results")
    tops += _contents([f"{chapter.place}/index" for chapter in last], "Exercises")
    _page("README.md", pages, sources, tops)
    for page in results[:-1] + tables:
        _page(page, pages, sources)
    _page(results[-1], pages, sources, _contents([Path(page).name for page in tables]))


def _contents(names: Sequence[str], caption: str = "") -> str:
    """A table of contents for sphinx; with a caption it stands beside the pages alone."""
    if not names:
        return ""
    options = f":hidden:\n:caption: {caption}\n" if caption else ":maxdepth: 1\n"
    return "\n```{toctree}\n" + options + "\n" + "\n".join(names) + "\n```\n"


def _page(home: str, pages: Mapping[str, str], sources: Path, contents: str = "") -> None:
    """One page in markdown of the project, and the contents of what stands below it."""
    text = (checkout() / home).read_text(encoding="utf-8")
    text, files = linked(text, home, pages)
    _ship(files, sources)
    if not text.startswith("# "):  # a bare table
        text = f"# Benchmark of {Path(home).stem.replace('_', ' ')}\n\n{text}"
    _write(sources / pages[home], text + contents)


def _notebook(path: Path, home: str, pages: Mapping[str, str], sources: Path) -> None:
    """One notebook, its links led into the site, and in words what its figures show."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{shown(path)} is damaged: run this notebook again.") from error
    title, heading = "", path.stem
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"], files = linked("".join(cell["source"]), home, pages)
            _ship(files, sources)
            heading = [heading, *re.findall(r"^#+ +(.+)$", cell["source"], re.MULTILINE)][-1]
            title = title or heading
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                text = "".join(data["text/markdown"])
                data["text/markdown"], files = linked(text, home, pages)
                _ship(files, sources)
        told = _figures(cell, f"Figure in {title}: {heading}")
        if told:
            cell["metadata"]["mystnb"] = {"image": {"alt": told}}
    _write(sources / pages[home], json.dumps(content))


def _figures(cell: Mapping, otherwise: str) -> str:
    """What the figures of a cell show, as `plots.described` told it when the notebook ran; nothing
    where it has none.
    """
    told = [
        output.get("metadata", {}).get(kind, {}).get("alt") or otherwise
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
        if kind.startswith("image/")
    ]
    return " ".join(dict.fromkeys(told))


def linked(text: str, home: str, pages: Mapping[str, str]) -> tuple[str, set[str]]:
    """A text in markdown whose links lead to where things stand in the site.

    Links to what the site lacks become plain text; those to other sites, and what stands in code,
    stay as they are.

    Args:
        home: the file of the project that the text is from.
        pages: where pages stand in the site, by their places in the project; `home` among them.
    Returns:
        the text, and the files of the project (pictures, tables) that must come with it.
    """
    files: set[str] = set()
    start = posixpath.dirname(pages[home])

    def led(found: re.Match) -> str:
        if found["code"] or re.match(r"[a-z]+:|#", found["target"]):
            return found[0]
        path = found["target"].partition("#")[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
        if place.endswith(SHIPPED) and (checkout() / place).is_file():
            files.add(place)
        elif place not in pages:
            return found["text"]
        target = posixpath.relpath(pages.get(place, place), start or ".")
        return f"{found['image']}[{found['text']}]({target})"

    return PART.sub(led, text), files


def _ship(files: Iterable[str], sources: Path) -> None:
    for name in files:
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout() / name, sources / name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _sphinx(sources: Path, made: Path, depth: int) -> None:
    """Run sphinx on the sources; a warning is a failure.

    Args:
        depth: how many levels of the contents stand open beside every page.
    """
    options = ("-b", "html", "-q", "-E", "-N", "-W", "-c", str(checkout() / "notebooks" / "site"))
    options += ("-d", str(made.with_name("doctrees")))
    options += ("-D", f"html_theme_options.show_navbar_depth={depth}")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(sources), str(made)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = done.stderr.replace(f"{sources}{os.sep}", "").strip().splitlines() or ["nothing"]
        more = f" (and {len(lines) - 1} lines more)" if len(lines) > 1 else ""
        raise InputError(f"The site was not made, for sphinx says: {lines[0]}{more}")
