"""Runs the series of notebooks headless, and renders the outputs that are stored with them.

Needs Jupyter.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nbutils import InputError
from nbutils.resources import checkout
from nbutils.series.parameters import PARAMETERS, SAYS, run_folder, seeds_of, unknown
from nbutils.series.publish import publish, shown
from nbutils.store.files import atomically, speaking


def _folder() -> Path:
    """The folder of the notebooks.

    Raises:
        InputError: the module was installed without them.
    """
    if checkout() is None:
        raise InputError(
            "The notebooks are not installed with the module: run them from a checkout of the "
            "project."
        )
    return checkout() / "notebooks"


def notebooks(chosen: str = "") -> list[Path]:
    """The notebooks in order; `chosen` names some by their numbers, "02 04"."""
    every = sorted(_folder().glob("[0-9][0-9]_*.ipynb"))
    wanted = chosen.replace(",", " ").split()
    missing = [w for w in wanted if not any(p.stem.startswith(w) for p in every)]
    if missing:
        raise InputError(
            f"There is no notebook {missing[0]!r}: the series is "
            f"{', '.join(p.stem for p in every)}."
        )
    return [p for p in every if not wanted or any(p.stem.startswith(w) for w in wanted)]


def solutions(chosen: str = "") -> list[Path]:
    """The notebooks that solve the exercises, one a lecture, in order; `chosen` as of `notebooks`.
    A lecture that has none yet is left out.
    """
    beside = [path.parent / "solutions" / path.name for path in notebooks(chosen)]
    return [path for path in beside if path.is_file()]


def parameter_names(path: Path) -> set[str]:
    """The names in the cell tagged `parameters`."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return {
                line.split(":")[0].strip()
                for line in "".join(cell["source"]).splitlines()
                if ":" in line and not line.startswith("#")
            }
    return set()


def run(parameters: dict, chosen: str = "", *, say=print) -> int:
    """Execute notebooks one after another with papermill; a line each: name, seconds, key number.

    Args:
        parameters: for those notebooks that have them; a name that none of them has is refused.
    Returns:
        0, or 1 when a notebook failed (its last error line is shown, the others still run).
    """
    paths = notebooks(chosen)
    names = {path: parameter_names(path) for path in paths}
    for name in parameters:
        if not any(name in known for known in names.values()):
            known = [one for one in PARAMETERS if any(one in own for own in names.values())]
            raise unknown(name, known, ", ".join(p.stem for p in paths))
    out, failed, told = run_folder(parameters), 0, set()
    for path in paths:
        started = time.perf_counter()
        error = _execute(
            path,
            out / "notebooks" / path.name,
            {k: v for k, v in parameters.items() if k in names[path]},
        )
        seconds = time.perf_counter() - started
        failed += bool(error)
        say(
            f"{path.stem:<28}{seconds:7.1f} s   "
            f"{error or _key(out / 'results' / f'{path.stem}.json')}"
        )
        for line in _said(out / "notebooks" / path.name):
            if line not in told:
                say(f"    {line}")
                told.add(line)
    say(
        "Executed notebooks, figures and results lie in "
        f"{shown(out)}/{{notebooks,figures,results}}."
    )
    return 1 if failed else 0


def over_seeds(runs: list[dict], chosen: str = "", *, say=print) -> Path:
    """Put the results of runs that differ by seed together: every number of every table as mean and
    95 % interval over seeds (Student's t).

    Returns:
        the folder `<dataset>-<preset>-s0+1+2/results` beside the runs', with a JSON a notebook.
    """
    folders = [run_folder(parameters) for parameters in runs]
    seeds = "+".join(map(str, seeds_of([parameters["SEED"] for parameters in runs])))
    target = (
        folders[0].with_name(folders[0].name.replace(f"-s{runs[0]['SEED']}", f"-s{seeds}"))
        / "results"
    )
    for path in notebooks(chosen):
        files = [folder / "results" / f"{path.stem}.json" for folder in folders]
        if not all(file.exists() for file in files):
            continue
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        names = [
            name for name in results[0]["tables"] if name != "verdicts"
        ]  # `verdicts` judges anew
        tables = {
            name: _mean_rows([result["tables"].get(name, []) for result in results])
            for name in names
        }
        if "verdicts" in results[0]["tables"]:
            tables["verdicts"] = _verdicts_over_seeds(path.stem[:2], results)
        key = _mean_rows([[result["key"]] for result in results])[0]
        content = {"notebook": path.stem, "seeds": seeds, "key": key, "tables": tables}
        atomically(target / f"{path.stem}.json", (json.dumps(content, indent=1) + "\n").encode())
        low, high = key.get("value_interval", [float("nan")] * 2)
        say(
            f"{path.stem:<28}{key['name']} {key['value']:.3g} [{low:.3g}, {high:.3g}] over "
            f"{len(runs)} seeds"
        )
    say(f"Means and intervals over seeds lie in {shown(target)}.")
    return target


def _verdicts_over_seeds(number: str, results: list[dict]) -> list[dict]:
    """The claims that a notebook argues, judged on the tables of all seeds."""
    from nbutils.claims.evidence import Published
    from nbutils.claims.judging import of_notebook

    runs = [
        Published(one["parameters"]["DATASET"], one["parameters"]["SEED"], {number: one["tables"]})
        for one in results
    ]
    return of_notebook(number, runs)


def _mean_rows(tables: list[list[dict]]) -> list[dict]:
    """The tables' rows over seeds: each number as its mean, with an interval where seeds differ.

    Rows are matched by the columns that name them (`evaluation.tables.KEYS`), never by what they
    found, and by their order where those repeat. A number that some seeds lack says how many it is
    the mean of.
    """
    from nbutils.evaluation.tables import KEYS

    matched: dict[tuple, list[dict]] = {}
    for table in tables:
        seen: dict[str, int] = {}
        for row in table:
            words = json.dumps({k: v for k, v in row.items() if k in KEYS}, sort_keys=True)
            seen[words] = seen.get(words, 0) + 1
            matched.setdefault((words, seen[words]), []).append(row)
    return [_mean_row(rows, KEYS) for rows in matched.values()]


def _mean_row(rows: list[dict], keys: set[str]) -> dict:
    merged: dict = {"seeds": len(rows)}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        if name in keys or (name == "name" and not values):
            merged[name] = rows[0].get(name)
        elif values:
            merged[name] = sum(values) / len(values)
            if len(values) < len(rows):
                merged[f"{name}_seeds"] = len(values)
            if len(set(values)) > 1:
                import numpy as np
                from scipy.stats import t

                half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
                merged[f"{name}_interval"] = [merged[name] - half, merged[name] + half]
    return {name: value for name, value in merged.items() if value is not None}


def _execute(source: Path, target: Path, parameters: dict) -> str:
    """Run one notebook into `target`, which appears whole or not at all; returns the error's last
    line, or nothing.
    """
    os.environ["NBUTILS_PROGRESS"] = "0"
    try:
        with speaking(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            return _executed(source, target, parameters)
    except InputError as error:
        return f"InputError: {error}"
    except OSError as error:  # no place for the kernel's own files, say
        return f"{shown(target)} was not made: {error}."


def _executed(source: Path, target: Path, parameters: dict) -> str:
    import papermill

    part = target.with_name(f".{target.stem}.{os.getpid()}.ipynb")
    for attempt in (1, 2):
        try:
            with _kernels() as config:
                papermill.execute_notebook(
                    source,
                    part,
                    parameters=parameters,
                    kernel_name="python3",
                    progress_bar=False,
                    cwd=str(Path.cwd()),  # the user's: MODEL, WEIGHTS and OUT start there
                    config=config,
                )
            os.replace(part, target)
            return ""
        except papermill.PapermillExecutionError as error:
            kept = target.with_name(f"{target.stem}-failed.ipynb")
            os.replace(part, kept)
            return f"{error.ename}: {error.evalue} (see {shown(kept)})"
        except RuntimeError as error:  # the kernel did not start: two of them can race for a port
            if attempt == 2:
                return f"the kernel died: {error}"
        finally:
            with suppress(OSError):  # the first refusal is the one to tell
                part.unlink(missing_ok=True)
    return ""


@contextmanager
def _kernels() -> Iterator[object]:
    """Kernels talk over files in place of TCP ports: no two of them can race for a port, and nobody
    listens on the network. The files lie in a folder of their own, which goes with them.

    Where a notebook in JupyterLab runs the series, the kernels do not inherit its session: nobody
    sits before them who could move a widget (`nbutils.explore.movable`).
    """
    from traitlets.config import Config

    session = os.environ.pop("JPY_SESSION_NAME", None)
    try:
        with tempfile.TemporaryDirectory(prefix="nbutils-", ignore_cleanup_errors=True) as folder:
            yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
    finally:
        if session is not None:
            os.environ["JPY_SESSION_NAME"] = session


def _said(path: Path) -> list[str]:
    """What an executed notebook said of its pictures, its model, its artifacts (`SAYS`)."""
    if not path.exists():
        return []
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    lines = "\n".join(texts).splitlines()
    return [line.removeprefix(SAYS) for line in lines if line.startswith(SAYS)]


def _key(path: Path) -> str:
    if not path.exists():
        return ""
    key = json.loads(path.read_text(encoding="utf-8"))["key"]
    return (
        f"{key['name']} {'not a number' if key['value'] is None else format(key['value'], '.3g')}"
    )


def sources_hash(notebook: dict) -> str:
    """A hash of the code cells; stored with the outputs, so that a test sees when the two part."""
    return hashlib.sha256(
        "\0".join(
            "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"
        ).encode()
    ).hexdigest()


def render(*, say=print) -> int:
    """The only author of stored outputs: every notebook in order, each with its solutions behind
    it, clean kernel, its own parameters; publishes the results JSON beside.
    """
    os.environ["NBUTILS_PROGRESS"] = "0"
    solved = {path.name: path for path in solutions()}
    for lecture in notebooks():
        for path in filter(None, (lecture, solved.get(lecture.name))):
            started = time.perf_counter()
            _rendered(path)
            name = path.stem if path == lecture else f"    {path.parent.name}"
            say(
                f"{name:<28}{time.perf_counter() - started:7.1f} s   "
                f"{path.stat().st_size // 1000} kB"
            )
    publish(run_folder({}))
    return 0


def _rendered(path: Path) -> None:
    """Execute a notebook as it stands and store its outputs in it, with the hash of its sources."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    place = {"metadata": {"path": str(checkout())}}
    with _kernels() as config:
        NotebookClient(
            notebook, timeout=1800, kernel_name="python3", config=config, resources=place
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "nbutils": {"sources": sources_hash(json.loads(nbformat.writes(notebook)))},
    }
    atomically(path, (nbformat.writes(notebook) + "\n").encode())
