"""One page of result for a classifier and its pictures: a pure function of the tables of notebook
11. It says what may be said, and what may not, each with the number that decides it, and what its
words mean, for a reader who has seen nothing else.

All shares of detectors are at 5 % false positives; shares stand in percent, AUROCs as decimals.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nbutils.evaluation.classifying import weak
from nbutils.evaluation.intervals import wilson
from nbutils.series.session import Session, plain
from nbutils.store.files import atomically

Row = Mapping[str, object]
Tables = Mapping[str, Sequence[Row]]

FPR = 0.05
HALF = 0.5  # of what fools the bare classifier, or of the attacked pictures that are flagged
KINDS = {
    "attacks": "attacks and detectors",
    "knowing": "who knows a detector",
    "recovered": "rectifier",
}  # of tables whose rows are shares of n pictures
METHODS = {"none": "nothing done", "runner_up": "second class", "gcd": "GCD's rectifier"}
# What the detectors of notebook 11 look at, and the numbers that nobody trained.
DETECTORS = {
    "id": "a network on the picture",
    "id_high_pass": "a network on the picture less the mean of each pixel's neighbourhood",
    "jsd": "a network on the picture and the gradient of its predicted class's logit",
    "insen": "a network on the input sensitivity, which is the gradient of the predicted class's "
    "cross-entropy",
    "insen_log": "a network on the logarithm of the input sensitivity",
    "beside_median": "notebook 11's example of a detector of one's own, a network on the picture "
    "and what a median over 3 x 3 pixels takes away of it",
}
SCALARS = {
    "max_softmax": "how far the largest probability is from one",
    "margin": "how close the two largest logits are",
    "entropy": "the entropy of the probabilities",
    "gradient_norm": "the length of the cross-entropy's gradient, as a logarithm",
    "noise": "an estimate of the noise in the picture (Immerkaer, 1996)",
}
SMOKE = {
    "smoke": (
        "**The preset `smoke` shows that everything runs. No number on this page is to be quoted: "
        "run it again with `--preset quick`.**",
        "",
    )
}  # by preset, what stands above everything else
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
    "flags",
    "clean",
    "clean_low",
    "noise",
    "tells",
    "as_often",
    "noisy",
    "silent",
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


def silent(cell: Row, control: Row) -> bool:
    """Whether a detector flags no more attacked pictures than clean ones: the share of these that
    it flags, or may flag, is not below the interval of the share of attacked ones.

    Args:
        cell: a row of `tables.CELL`. control: of `tables.controlled`, of the same attack.
    """
    n = control["n"]
    low, _ = wilson(round(control["flagged_adversarial"] * n), n)
    return low <= max(FPR, cell["fpr_measured_5"])


def tells(cell: Row, control: Row) -> bool:
    """Whether a detector tells an attack from clean pictures, by its AUROC and at its threshold,
    and from noise of its size, of which it flags less than half as much.

    Args:
        cell: a row of `tables.CELL`. control: of `tables.controlled`, of the same attack.
    """
    noise = as_often(control) or _noisy(control)
    seen = cell["low"] > 0.5 and not silent(cell, control)
    return not cell["collapsed"] and seen and not noise


def board(tables: Tables) -> list[dict]:
    """A row a detector, columns of BOARD, the one with the best worst attack first.

    Args:
        tables: `cells` (rows of `tables.CELL`, every detector fitted on every attack and tested on
            every attack), `controls`, `beside_scalars`, `knowing`.
    Returns:
        `worst` with its interval and the attack `on`, among the attacks that the detector was
        fitted on itself; `unseen`, the least AUROC where it was fitted on another one, and whether
        that is less than fitted on the tested one, beyond both intervals (`unseen_less`); the least
        `tpr_at_fpr_5`, and that of each attack (`flags`); the most `clean` test pictures that are
        flagged at the threshold, with the lower end of its interval, and the most `noise`; the
        attacks that it `tells` from noise, those on which noise is flagged `as_often`, those on
        which it is flagged at least half as often (`noisy`), those on which it flags no more than
        of clean pictures (`silent`), and those on which an untrained scalar does as well,
        each with that scalar; what passes who does not know it (`unaware`) and who does (`passes`,
        with its interval), what fools the `bare` classifier, and the share without a gradient
        (`zero`). What was not measured is None.
    """
    rows = []
    for name in dict.fromkeys(cell["detector"] for cell in tables["cells"]):
        cells = [cell for cell in tables["cells"] if cell["detector"] == name]
        own = {cell["tested_on"]: cell for cell in cells if cell["fitted_on"] == cell["tested_on"]}
        others = [cell for cell in cells if cell["fitted_on"] != cell["tested_on"]]
        worst, most = min(own.values(), key=_auroc), max(own.values(), key=_clean)
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
            "flags": {attack: cell["tpr_at_fpr_5"] for attack, cell in own.items()},
            "clean": most["fpr_measured_5"],
            "clean_low": wilson(round(most["fpr_measured_5"] * most["n"]), most["n"])[0],
            "noise": max((row["flagged_noise_sign"] for row in controls.values()), default=None),
            "tells": [a for a, row in controls.items() if tells(own[a], row)],
            "as_often": [a for a, row in controls.items() if as_often(row)],
            "noisy": [a for a, row in controls.items() if _noisy(row)],
            "silent": [a for a, row in controls.items() if silent(own[a], row)],
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


def _clean(cell: Row) -> float:
    return cell["fpr_measured_5"]


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
        low, high = row["interval"]
        said.append(
            f"The classifier reads {row['accuracy']:.1%} of {row['n']} test pictures rightly "
            f"(95 % interval {low:.1%} to {high:.1%}), where guessing would read "
            f"{1 / about['classes']:.1%}."
        )
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
                f"size, while the attacker does not know it. It flags {_flagged(row, names)}."
            )
        if row["passes"] is not None and HALF <= row["bare"] and not _passed(row):
            said.append(
                f"One attack that knows `{row['detector']}`, PGD in {about['steps']} steps within "
                f"{about['eps_255']:.0f}/255, passes with {row['passes']:.0%} of the pictures "
                f"({row['passes_low']:.0%} to {row['passes_high']:.0%}), less than half of what "
                f"fools the bare classifier ({row['bare']:.0%})."
            )
    behind = {attack for attacks in _behind(tables).values() for attack in attacks}
    for row in tables["leads"]:
        if row["rival"] == "runner_up" and row["attack"] not in behind:
            said.append(
                f"Under {names[row['attack']]} the rectifier reads {row['difference']:.0%} of the "
                "pictures more rightly than the second class does."
            )
    return said


def may_not_say(tables: Tables) -> list[str]:
    """What these tables speak against, or leave open: of each detector what holds of it, then a
    sentence each.
    """
    about, names, said = tables["about"][0], short_names(tables), []
    for row in tables["accuracy"][:1]:
        if weak(row, about["classes"]):
            said.append(
                "What is found here means little for a good classifier, because this one is weak: "
                f"its accuracy may be as low as {row['interval'][0]:.1%}, where guessing would "
                f"read {1 / about['classes']:.1%}."
            )
    weakly = [row["setting"] for row in tables["attacks"] if row["success"] < HALF]
    if weakly:
        said.append(
            f"What a detector or the rectifier makes of {_listed(weakly, names)} says little of "
            "attacks that succeed, because on this model these change the answer on less than half "
            "of the pictures."
        )
    for row in board(tables):
        against = _against(row, names)
        if against:
            said.append(f"`{row['detector']}`: {' '.join(against)}")
    two = ", which with two classes is simply the other one" if about["classes"] == 2 else ""
    rivals = {"runner_up": f"the second class{two}", "none": "the classifier alone"}
    for rival, attacks in _behind(tables).items():
        if attacks:
            said.append(
                "The rectifier is not shown to be worth its training under "
                f"{_listed(attacks, names)}, because it does not recover more labels, beyond the "
                f"interval, than {rivals[rival]}."
            )
    if tables["cells"] and FPR * about["calibrate"] < 1:
        said.append(
            f"No share of flagged pictures is sure to be at 5 % false positives, because of the "
            f"{about['calibrate']} pictures that thresholds come from 5 % is less than one."
        )
    said += [row["says"] for row in tables["missing"] if row["says"]]
    counts = {kind: [row["n"] for row in tables[kind]] for kind in KINDS}
    apart = [
        f"{140 / min(ns) ** 0.5:.0f} points ({KINDS[kind]}, n = {min(ns)})"
        for kind, ns in counts.items()
        if ns
    ]
    said.append(
        "Two shares in percent are not told apart where they are closer than about "
        f"{', '.join(apart)}."
    )
    said.append(
        "Another split, another training or another fit may give other numbers, for all of this "
        f"is one fit of seed {about['seed']}."
    )
    return list(dict.fromkeys(said))


def _behind(tables: Tables) -> dict[str, list[str]]:
    """By rival (the second class, doing nothing) the attacks under which the rectifier does not
    recover more labels, beyond the interval.
    """
    return {
        rival: [row["attack"] for row in tables["leads"] if row["rival"] == rival and not _led(row)]
        for rival in ("runner_up", "none")
    }


def _led(row: Row) -> bool:
    return row["low"] > 0


def _against(row: Row, names: Mapping[str, str]) -> list[str]:
    """What speaks against one detector of the `board`, a sentence each."""
    said = []
    if row["collapsed"]:
        said.append(
            f"On {_listed(row['collapsed'], names)} its training ended in one answer for every "
            "picture, which says nothing."
        )
    if row["clean_low"] > FPR:
        said.append(
            f"It flags up to {row['clean']:.0%} of clean test pictures, more than the 5 % that its "
            "threshold allows, so what it flags of attacked ones is too much as well."
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
    silent_on = [attack for attack in row["silent"] if attack not in row["collapsed"] + often]
    if silent_on:
        said.append(
            f"At its threshold it is not shown to flag more of {_listed(silent_on, names)} than of "
            "clean pictures."
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


def _flagged(row: Row, names: Mapping[str, str]) -> str:
    """ "88% of FGSM's pictures, 60% of DDN's", of the attacks that a detector tells."""
    first, *others = row["tells"]
    told = [f"{row['flags'][first]:.0%} of {names.get(first, first)}'s pictures"]
    return ", ".join(
        told + [f"{row['flags'][attack]:.0%} of {names.get(attack, attack)}'s" for attack in others]
    )


def page(tables: Tables) -> str:
    """The page as Markdown, of the numbers as the JSON beside it holds them: the same from either.

    Args:
        tables: rows of the tables that notebook 11 records: `about` (one row, as of
            `own_tables.about`), `accuracy`,
            `attacks` (of `tables.reached`, with `name` and `changed_by_noise`), `cells`,
            `controls`, `beside_scalars`, `knowing`, `recovered`, `leads`, `missing`.
    """
    tables = plain(tables)
    about, names = tables["about"][0], short_names(tables)
    origin = "trained elsewhere" if about["brought"] else "trained by this project"
    lines = [
        f"# `{about['model']}` on {about['pictures']}",
        "",
        *SMOKE.get(about["preset"], ()),
        f"A model of {about['weights']:,} weights, {origin}. Pictures of {about['shape']} in "
        f"{about['classes']} classes ({about['names']}): {about['train']} to fit on, "
        f"{about['calibrate']} for thresholds, {about['test']} to test on. Preset "
        f"{about['preset']}, seed {about['seed']}. Brackets hold 95 % intervals. What the words "
        "mean, and how this was made, stands at the end.",
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
                    _shares(row["success"], *row["interval"]),
                    _share(row["changed_by_noise"]),
                    _share(row["accuracy"]),
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
    heads += ("most clean flagged", "most noise flagged", "passes who does not know it")
    heads += ("passes who knows it",)
    rows = [
        (
            f"`{row['detector']}`",
            _with(row["worst"], row["low"], row["high"]),
            names.get(row["on"], row["on"]),
            _told(row["unseen"]),
            _share(row["tpr_at_fpr_5"]),
            _share(row["clean"]),
            _share(row["noise"]),
            _share(row["unaware"]),
            _shares(row["passes"], row["passes_low"], row["passes_high"]),
        )
        for row in board(tables)
    ]
    if rows:
        lines += _table(heads, rows)
        lines += [
            "",
            f"All but the last two columns: {min(c['n'] for c in tables['cells'])} attacked "
            "pictures and as many clean ones. The last two: PGD that may change each value by "
            f"{about['eps_255']:.0f}/255, in {about['steps']} steps, on "
            f"{min(row['n'] for row in tables['knowing'])} pictures; it fools the bare classifier "
            f"on {_share(tables['knowing'][0]['fooled'])} of them.",
        ]
    else:
        lines.append("n/a: no detector was fitted.")
    lines += ["", "## The rectifier", ""]
    methods = list(dict.fromkeys(row["method"] for row in tables["recovered"]))
    groups = list(dict.fromkeys(row["attack"] for row in tables["recovered"]))
    found = {(row["attack"], row["method"]): row for row in tables["recovered"]}
    heads = ("labels read rightly", *(METHODS.get(method, method) for method in methods), "n")
    rows = []
    for group in groups:
        cells = [found.get((group, method)) for method in methods]
        told = [_shares(c["accuracy"], c["low"], c["high"]) if c else "" for c in cells]
        n = min(c["n"] for c in cells if c)
        rows.append((names.get(group, group), *told, str(n)))
    lines += _table(heads, rows) if rows else ["n/a: nothing was rectified."]
    lines += ["", *_words(tables), "", *_made(tables)]
    return "\n".join(lines) + "\n"


def _words(tables: Tables) -> list[str]:
    """What the page's words mean, as far as they stand on it."""
    names = dict.fromkeys(cell["detector"] for cell in tables["cells"])
    scalars = dict.fromkeys(row["scalar"] for row in tables["beside_scalars"])
    said = [
        "`changes`: the classifier answers otherwise than on the clean picture. A picture that it "
        "misread is attacked too, so with few classes a changed answer may be the right one, and "
        "counts under `accuracy left`.",
        "`L2` and `L-infinity`: the mean size of the change, of values from 0 to 1.",
        "`noise`: the clean picture with random noise of the same size as its attack.",
    ]
    if names:
        said += [
            "`worst AUROC`: on the attack on which the detector, fitted on that attack itself, "
            "does worst. `fitted on another`: its least AUROC on an attack that it was not fitted "
            "on.",
            "`flagged`: scored above a threshold that at most 5 % of the held-back clean pictures "
            "reach. `least`, `most`: over the attacks. `passes`: misread by the classifier and not "
            "flagged.",
        ]
    said += [f"`{name}`: {DETECTORS[name]}." for name in names if name in DETECTORS]
    others = [f"`{name}`" for name in names if name not in DETECTORS]
    if others:
        said.append(f"{', '.join(others)}: see the notebook that made this page.")
    said += [f"`{name}`, untrained: {SCALARS[name]}." for name in scalars if name in SCALARS]
    if tables["recovered"]:
        said.append(
            "`second class`: the label with the second largest logit. `GCD's rectifier`: a copy of "
            "the classifier, tuned to read pictures whose suspicious pixels are noise."
        )
    return ["## What the words mean", "", *[f"- {sentence}" for sentence in said]]


def _made(tables: Tables) -> list[str]:
    """How to come by these numbers again."""
    about = tables["about"][0]
    said = [
        f"Command: `{about['command']}`, with `nbutils` {about['version']}, torch {about['torch']} "
        f"on {about['device']}.",
        f"Attacks: {about['settings']}. The detectors were fitted on {about['attacked_train']} "
        "training pictures and what an attack made of them.",
        "All tables behind this page stand beside it, in the JSON file of the same name, with the "
        "preset and a hash of the code.",
    ]
    if about["weights_file"]:
        said.insert(1, f"Weights: `{about['weights_file']}`, SHA-256 `{about['weights_sha256']}`.")
    elif about["brought"]:
        said.insert(1, f"Weights: those that `{about['model']}` loads by itself.")
    return ["## How this was made", "", *[f"- {sentence}" for sentence in said]]


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


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _with(value: float | None, low: float, high: float) -> str:
    return "" if value is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _shares(value: float | None, low: float, high: float) -> str:
    return "" if value is None else f"{value:.0%} [{low:.0%}, {high:.0%}]"
