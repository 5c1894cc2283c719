"""One page of result for a classifier and its pictures: a pure function of the tables of notebook
11. It says what may be said, and what may not, each with the number that decides it.

All shares of detectors are at 5 % false positives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nbutils.evaluation.classifying import told_accuracy, weak
from nbutils.evaluation.intervals import wilson
from nbutils.series.session import Session
from nbutils.store.files import atomically

Row = Mapping[str, object]
Tables = Mapping[str, Sequence[Row]]

FPR = 0.05
HALF = 0.5  # of what fools the bare classifier, or of the attacked pictures that are flagged
METHODS = {"none": "nothing done", "runner_up": "second class", "gcd": "GCD's rectifier"}
BOARD = (
    "detector",
    "worst",
    "low",
    "high",
    "on",
    "unseen",
    "unseen_fit",
    "unseen_on",
    "unseen_less",
    "tpr_at_fpr_5",
    "noise",
    "tells",
    "as_often",
    "noisy",
    "scalars",
    "unaware",
    "passes",
    "passes_low",
    "passes_high",
    "bare",
    "zero",
    "collapsed",
)


def as_often(row: Row) -> bool:
    """Whether a detector flags noise of an attack's size as often as the attack: the share of noisy
    pictures is not below the interval of the share of attacked ones.

    Args:
        row: of `tables.controlled`.
    """
    n = row["n"]
    low, _ = wilson(round(row["flagged_adversarial"] * n), n)
    return row["flagged_noise_sign"] >= low


def tells(cell: Row, control: Row) -> bool:
    """Whether a detector tells an attack from clean pictures, and from noise of its size, of which
    it flags less than half as much.

    Args:
        cell: a row of `tables.CELL`. control: of `tables.controlled`, of the same attack.
    """
    noise = as_often(control) or _noisy(control)
    return not cell["collapsed"] and cell["low"] > 0.5 and not noise


def board(tables: Tables) -> list[dict]:
    """A row a detector, columns of BOARD, the one with the best worst attack first.

    Args:
        tables: `cells` (rows of `tables.CELL`, every detector fitted on every attack and tested on
            every attack), `controls`, `beside_scalars`, `knowing`.
    Returns:
        `worst` with its interval and the attack `on`, among the attacks that the detector was
        fitted on itself; `unseen`, the least AUROC where it was fitted on another one, and whether
        that is less than fitted on the tested one, beyond both intervals (`unseen_less`); the least
        `tpr_at_fpr_5` and the most `noise` flagged; the attacks that it `tells` from noise, those
        on which noise is flagged `as_often`, those on which it is flagged at least half as often
        (`noisy`), and those on which an untrained scalar does as well, each with that scalar; what
        passes who does not know it (`unaware`) and who does (`passes`, with its interval), what
        fools the `bare` classifier, and the share without a gradient (`zero`). What was not
        measured is None.
    """
    rows = []
    for name in dict.fromkeys(cell["detector"] for cell in tables["cells"]):
        cells = [cell for cell in tables["cells"] if cell["detector"] == name]
        own = {cell["tested_on"]: cell for cell in cells if cell["fitted_on"] == cell["tested_on"]}
        others = [cell for cell in cells if cell["fitted_on"] != cell["tested_on"]]
        worst = min(own.values(), key=_auroc)
        unseen = min(others, key=_auroc, default=None)
        controls = {row["attack"]: row for row in tables["controls"] if row["detector"] == name}
        level = {
            row["attack"]: row["scalar"]
            for row in tables["beside_scalars"]
            if row["detector"] == name and row["low"] <= 0
        }
        games = {row["game"]: row for row in tables["knowing"] if row["detector"] == name}
        bare = next((row for row in tables["knowing"] if row["detector"] == "none"), {})
        strong = games.get("linf", {})
        values = {
            "detector": name,
            "worst": worst["auroc"],
            "low": worst["low"],
            "high": worst["high"],
            "on": worst["tested_on"],
            "unseen": unseen["auroc"] if unseen else None,
            "unseen_fit": unseen["fitted_on"] if unseen else None,
            "unseen_on": unseen["tested_on"] if unseen else None,
            "unseen_less": bool(unseen) and unseen["high"] < own[unseen["tested_on"]]["low"],
            "tpr_at_fpr_5": min(cell["tpr_at_fpr_5"] for cell in own.values()),
            "noise": max((row["flagged_noise_sign"] for row in controls.values()), default=None),
            "tells": [a for a, row in controls.items() if tells(own[a], row)],
            "as_often": [a for a, row in controls.items() if as_often(row)],
            "noisy": [a for a, row in controls.items() if _noisy(row)],
            "scalars": level,
            "unaware": games.get("plain", {}).get("success_5"),
            "passes": strong.get("success_5"),
            "passes_low": strong.get("low"),
            "passes_high": strong.get("high"),
            "bare": bare.get("fooled"),
            "zero": strong.get("zero"),
            "collapsed": [attack for attack, cell in own.items() if cell["collapsed"]],
        }
        rows.append({column: values[column] for column in BOARD})
    return sorted(rows, key=lambda row: (-row["worst"], row["detector"]))


def _noisy(row: Row) -> bool:
    at_least_half = row["flagged_noise_sign"] >= HALF * row["flagged_adversarial"]
    return at_least_half and not as_often(row)


def _passed(row: Row) -> bool:
    """Whether an attack that knows a detector may pass with half of what fools the classifier."""
    return row["passes_high"] >= HALF * row["bare"]


def _auroc(cell: Row) -> float:
    return cell["auroc"]


def short_names(tables: Tables) -> dict[str, str]:
    """The attacks' names as a reader wants them, from the column `name` of `attacks`; as they are
    where two would have one name.
    """
    short = {row["setting"]: row["name"] for row in tables["attacks"]}
    several = {one for one in short.values() if list(short.values()).count(one) > 1}
    return {setting: setting if one in several else one for setting, one in short.items()}


def may_say(tables: Tables) -> list[str]:
    """What these tables show, a sentence each."""
    about, said = tables["about"][0], []
    for row in tables["accuracy"][:1]:
        if not weak(row, about["classes"]):
            said.append(told_accuracy(row, about["classes"]))
    names = short_names(tables)
    for row in tables["attacks"]:
        said.append(
            f"{names[row['setting']]} changes the answer on {row['success']:.0%} of {row['n']} "
            f"pictures, and noise of the same size on {row['changed_by_noise']:.0%}."
        )
    for row in board(tables):
        if row["tells"]:
            said.append(
                f"Fitted on the attack itself, `{row['detector']}` tells "
                f"{_listed(row['tells'], names)} from clean pictures and from noise of the same "
                "size, while the attacker does not know it."
            )
        if row["passes"] is not None and HALF <= row["bare"] and not _passed(row):
            said.append(
                f"One attack that knows `{row['detector']}`, PGD in {about['steps']} steps within "
                f"{about['eps_255']:.0f}/255, passes with {row['passes']:.0%} of the pictures "
                f"({row['passes_low']:.0%} to {row['passes_high']:.0%}), less than half of what "
                f"fools the bare classifier ({row['bare']:.0%})."
            )
    for row in tables["leads"]:
        if row["rival"] == "runner_up" and row["low"] > 0:
            said.append(
                f"Under {names[row['attack']]} the rectifier recovers {row['difference']:.2f} more "
                "labels than the second class does."
            )
    return said


def may_not_say(tables: Tables) -> list[str]:
    """What these tables speak against, or leave open: of each detector what holds of it, then a
    sentence each.
    """
    about, names, said = tables["about"][0], short_names(tables), []
    for row in tables["accuracy"][:1]:
        if weak(row, about["classes"]):
            said.append(told_accuracy(row, about["classes"]))
    for row in board(tables):
        against = _against(row, names)
        if against:
            said.append(f"`{row['detector']}`: {' '.join(against)}")
    rivals = [row for row in tables["leads"] if row["rival"] == "runner_up"]
    level = [row["attack"] for row in rivals if row["low"] <= 0]
    if level:
        two = ", which with two classes is simply the other one" if about["classes"] == 2 else ""
        said.append(
            f"The rectifier is not shown to be worth its training under {_listed(level, names)}, "
            "because it does not recover more labels, beyond the interval, than the second "
            f"class{two}."
        )
    said += [row["says"] for row in tables["missing"] if row["says"]]
    n = min(row["n"] for row in tables["attacks"])
    said.append(
        f"Two shares that lie closer together than about {1.4 / n**0.5:.2f} are not told apart, "
        f"because each is of {n} pictures."
    )
    said.append(
        "Another split, another training or another fit may give other numbers, for all of this "
        f"is one fit of seed {about['seed']}."
    )
    return list(dict.fromkeys(said))


def _against(row: Row, names: Mapping[str, str]) -> list[str]:
    """What speaks against one detector of the `board`, a sentence each."""
    said = []
    if row["collapsed"]:
        said.append(
            f"On {_listed(row['collapsed'], names)} its training ended in one answer for every "
            "picture, which says nothing."
        )
    often = [attack for attack in row["as_often"] if attack not in row["collapsed"]]
    if often:
        said.append(
            f"Whether it sees an attack in {_listed(often, names)} is open, because it flags noise "
            "of the same size as often."
        )
    noisy = [attack for attack in row["noisy"] if attack not in row["collapsed"]]
    if noisy:
        said.append(
            f"Beside {_listed(noisy, names)} it flags noise of the same size more than half as "
            "often."
        )
    if row["scalars"]:
        scalars = [f"{names.get(a, a)} ({scalar})" for a, scalar in row["scalars"].items()]
        said.append(
            f"It is not shown to be worth its training on {', '.join(scalars)}, because it is not "
            "ahead, beyond the interval, of the number in brackets, which nobody trained."
        )
    if row["unseen_less"]:
        fit, test = (names.get(row[key], row[key]) for key in ("unseen_fit", "unseen_on"))
        said.append(
            f"It loses on attacks that it was not fitted on, for fitted on {fit} and tested on "
            f"{test} its AUROC is {row['unseen']:.2f}."
        )
    if row["passes"] is not None and row["bare"] < HALF:
        said.append(
            "How it stands against somebody who knows it is open, because the attack fools the "
            f"bare classifier on {row['bare']:.0%} of the pictures alone."
        )
    elif row["passes"] is not None and _passed(row):
        said.append(
            f"It is no protection against somebody who knows it, because {row['passes']:.0%} of "
            f"such pictures pass, where {row['bare']:.0%} fool the bare classifier."
        )
    if row["zero"]:
        said.append(
            "An attack that fails on it shows nothing, because its score has no gradient on "
            f"{row['zero']:.0%} of the pictures."
        )
    return said


def page(tables: Tables) -> str:
    """The page as Markdown.

    Args:
        tables: rows of the tables that notebook 11 records: `about` (one row), `accuracy`,
            `attacks` (of `tables.reached`, with `name` and `changed_by_noise`), `cells`,
            `controls`, `beside_scalars`, `knowing`, `recovered`, `leads`, `missing`.
    """
    about, names = tables["about"][0], short_names(tables)
    origin = "brought" if about["brought"] else "of this project"
    lines = [
        f"# `{about['model']}` on {about['pictures']}",
        "",
        f"A model of {about['weights']:,} weights ({origin}), {about['classes']} classes, pictures "
        f"of {about['shape']}. {about['train']} pictures to fit on, {about['calibrate']} for "
        f"thresholds, {about['test']} to test on. Preset {about['preset']}, seed {about['seed']}. "
        "Brackets hold 95 % intervals, and detectors flag at most 5 % of the clean pictures that "
        "their thresholds come from.",
        "",
        "## What may be said",
        "",
        *[f"- {sentence}" for sentence in may_say(tables)],
        "",
        "## What may not be said",
        "",
        *[f"- {sentence}" for sentence in may_not_say(tables)],
        "",
        "## The attacks",
        "",
        *_table(
            ("attack", "changes", "noise changes", "accuracy left", "L2", "L-infinity", "n"),
            [
                (
                    names[row["setting"]],
                    _with(row["success"], *row["interval"]),
                    _told(row["changed_by_noise"]),
                    _told(row["accuracy"]),
                    _told(row["l2"]),
                    f"{row['linf']:.3f}",
                    str(row["n"]),
                )
                for row in tables["attacks"]
            ],
        ),
        "",
    ]
    lines += ["## The detectors, by their worst attack", ""]
    heads = ("detector", "worst AUROC", "on", "fitted on another", "least flagged")
    heads += ("most noise flagged", "passes who does not know it")
    heads += ("passes who knows it",)
    rows = [
        (
            f"`{row['detector']}`",
            _with(row["worst"], row["low"], row["high"]),
            names.get(row["on"], row["on"]),
            _told(row["unseen"]),
            _told(row["tpr_at_fpr_5"]),
            _told(row["noise"]),
            _told(row["unaware"]),
            _with(row["passes"], row["passes_low"], row["passes_high"]),
        )
        for row in board(tables)
    ]
    if rows:
        lines += _table(heads, rows)
        lines += [
            "",
            f"Who knows a detector may change each value by {about['eps_255']:.0f}/255, in "
            f"{about['steps']} steps.",
        ]
    else:
        lines.append("n/a: no detector was fitted.")
    lines += ["", "## The rectifier", ""]
    methods = list(dict.fromkeys(row["method"] for row in tables["recovered"]))
    groups = list(dict.fromkeys(row["attack"] for row in tables["recovered"]))
    found = {(row["attack"], row["method"]): row for row in tables["recovered"]}
    heads = ("labels read rightly", *(METHODS.get(method, method) for method in methods))
    rows = []
    for group in groups:
        cells = [found.get((group, method)) for method in methods]
        told = [_with(c["accuracy"], c["low"], c["high"]) if c else "" for c in cells]
        rows.append((names.get(group, group), *told))
    lines += _table(heads, rows) if rows else ["n/a: nothing was rectified."]
    return "\n".join(lines) + "\n"


def keep(run: Session, text: str) -> Path:
    """Write the page beside the notebook's results, whole or not at all; returns where."""
    path = run.shown / "results" / f"{run.notebook}.md"
    atomically(path, text.encode())
    return path


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _listed(attacks: Sequence[str], names: Mapping[str, str]) -> str:
    return ", ".join(names.get(attack, attack) for attack in attacks)


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _with(value: float | None, low: float, high: float) -> str:
    return "" if value is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"
