"""What comes with the project beside its code: the papers' tables, names of classes, pretrained
networks; and what the machine lets this process have.
"""

import os
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


def usable_cpus(system: Path = Path("/")) -> int:
    """How many CPUs this process may keep busy, which can be fewer than there are.

    The least of: the CPUs that it is bound to (taskset, a batch system), the share that its cgroup
    is given (a container; rounded down), and OMP_NUM_THREADS, where the user has set it.

    Args:
        system: the root of the file system, under which proc and sys lie.
    """
    try:
        most = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        most = os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number a level
    if asked.isdecimal() and int(asked):
        most = min(most, int(asked))
    return max(1, int(min([most, *_cgroup_shares(system)])))


def _cgroup_shares(system: Path) -> list[float]:
    """CPUs that the cgroups of this process are limited to, its own and those around it; of a
    container also the one at the root, which may be all of them that is mounted there.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux, or hidden
        return []
    shares = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        second = not controllers  # version 2 has one hierarchy for all controllers
        if not second and "cpu" not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup"
        if not second:  # "cpu" is a link where it is mounted with others, "cpu,cpuacct"
            root /= "cpu" if (root / "cpu").exists() else controllers
        place = root / group.strip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(root):
                break
            share = _share(folder, second)
            if share is not None:
                shares.append(share)
    return shares


def _share(folder: Path, second: bool) -> float | None:
    """The CPUs of one cgroup, of version 2 or 1; None: it sets no limit."""
    names = ("cpu.max",) if second else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        words = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):  # none there, or "max"
        return None
    return quota / period if quota > 0 and period > 0 else None
