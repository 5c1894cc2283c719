"""What comes with the project beside its code: the papers' tables, names of classes, pretrained
networks.
"""

from importlib.resources import files
from pathlib import Path

ROOT = (
    Path(__file__).resolve().parent.parent
)  # of a checkout; of an installed package it is no project


def checkout() -> Path | None:
    """The folder of the project, where the module is run from a checkout."""
    return ROOT if (ROOT / "pyproject.toml").is_file() and (ROOT / "notebooks").is_dir() else None


def resource(name: str) -> Path:
    """A file or folder of the project's data/ ("papers/000.json"), in a checkout or as it was
    installed.
    """
    return (checkout() / "data" if checkout() else Path(str(files("nbutils"))) / "_data") / name


def from_here(path: str | Path) -> Path:
    """A path as its user means it: a relative one starts at the current folder, inside a checkout
    at its root.

    So a notebook opened in notebooks/ and `make run` find the same artifacts.
    """
    here, root = Path.cwd(), checkout()
    start = root if root and here.is_relative_to(root) else here
    return (start / Path(path).expanduser()).resolve()
