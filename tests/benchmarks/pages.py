"""What the benchmarks of detectors, rectifiers and white-box attacks begin and end with."""

import argparse
import json
from pathlib import Path

import torch


def options(description, repeats):
    """The options that they share; `repeats`: how often a pair takes turns."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", default="runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def shown(rows, row, head):
    """Keep a row, and print it as the page will have it."""
    rows.append(row)
    print(table([row], head).splitlines()[-1], flush=True)


def table(rows, head):
    """Rows as a table of Markdown with these columns."""

    def line(cells):
        return (
            "| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |"
        )

    lines = [line(row.get(name, "") for name in head) for row in rows]
    return "\n".join([line(head), "|" + "---|" * len(head), *lines]) + "\n"


def write(out, name, rows, head, device):
    """Rows as OUT/bench/<name>.json, with what they were measured on, and as a page."""
    folder = Path(out) / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    record = {"torch": torch.__version__, "device": str(device), "rows": rows}
    record["threads"] = torch.get_num_threads()
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (folder / f"{name}.md").write_text(table(rows, head), encoding="utf-8")
    print(f"{folder}/{name}.json and .md")
