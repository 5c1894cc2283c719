"""`python -m nbutils run | make | render | publish | verdicts | scoreboard | site`: the series of
notebooks, single steps without Jupyter, pages of what is published, or all of it as a web site.
"""

import argparse
import sys

from nbutils import InputError
from nbutils.series import parameters
from nbutils.series.parameters import MADE

# The options that are parameters of the series, by the parameter's name.
OPTIONS = {
    "DATASET": ("--dataset", {}),
    "PRESET": ("--preset", {}),
    "OUT": (
        "--out",
        {
            "help": "folder of artifacts and results; relative paths start here (inside a checkout "
            "at its root)"
        },
    ),
    "DEVICE": ("--device", {"help": "auto, cpu, cuda or cuda:N"}),
    "THREADS": ("--threads", {"help": "CPU threads (0: all that may be used)"}),
    "DATA_ROOT": (
        "--data-root",
        {"help": "folder of the data sets (default: $NBUTILS_DATA, else data/)"},
    ),
    "MODEL": ("--model", {"help": "an architecture, or package.module:factory"}),
    "SEED": ("--seed", {}),
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m nbutils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    for name, (option, told) in OPTIONS.items():
        if name != "SEED":
            common.add_argument(option, action="append", dest=name, **told)
    common.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="any parameter by its name",
    )
    running = commands.add_parser("run", parents=[common], help="run notebooks headless")
    running.add_argument(
        "--seed", nargs="+", action="append", dest="SEED", help="one, or several: 0 1 2"
    )
    running.add_argument("--notebooks", default="", help='numbers, such as "02 04" (default: all)')
    making = commands.add_parser(
        "make", parents=[common], help="make a step without Jupyter; notebooks load what it made"
    )
    making.add_argument("step", choices=list(MADE))
    making.add_argument("--seed", action="append", dest="SEED")
    making.add_argument("--attack", nargs="+", action="append", dest="ATTACKS")
    making.add_argument("--detector", nargs="+", action="append", dest="DETECTORS")
    commands.add_parser(
        "render", help="run the series on its own parameters and store the outputs in notebooks/"
    )
    publishing = commands.add_parser(
        "publish",
        parents=[common],
        help="copy a run's results to data/results, or its networks to data/pretrained",
    )
    publishing.add_argument(
        "--pretrained",
        action="store_true",
        help="the networks that the run trained (robust ones among them), not the results",
    )
    publishing.add_argument("--seed", action="append", dest="SEED")
    judging = commands.add_parser(
        "verdicts", help="all verdicts from the published tables, without running anything"
    )
    judging.add_argument("--write", action="store_true", help="write the page in data/results")
    ranking = commands.add_parser(
        "scoreboard", help="all detectors from the published tables, without running anything"
    )
    ranking.add_argument("--write", action="store_true", help="write page and CSV in data/results")
    showing = commands.add_parser(
        "site", help="executed notebooks and the results' pages as a web site in OUT/site"
    )
    showing.add_argument(
        "--runs",
        nargs="*",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="of runs, a chapter each (default: the outputs that are stored in notebooks/)",
    )
    option, told = OPTIONS["OUT"]
    showing.add_argument(option, default=parameters.DEFAULTS["OUT"], **told)
    args = parser.parse_args(arguments)
    _printable()
    try:
        return globals()[f"_{args.command}"](args)
    except InputError as error:
        print(f"nbutils: {error}", file=sys.stderr)
        return 2


def _printable() -> None:
    """What the terminal's alphabet lacks is printed as an escape: no run ends for a letter."""
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(errors="backslashreplace")


def _given(args: argparse.Namespace) -> list[tuple[str, object]]:
    """The parameters that stand on the command line, as options and after -p, read."""
    found: list[tuple[str, object]] = []
    for name in (*OPTIONS, "ATTACKS", "DETECTORS"):
        for words in getattr(args, name, None) or []:
            found.append((name, words if isinstance(words, list) else parameters.read(name, words)))
    return found + [(name, parameters.read(name, text)) for name, text in args.parameter]


def _run(args: argparse.Namespace) -> int:
    from nbutils.series import runner, session

    paths = runner.notebooks(args.notebooks)
    names = {path: runner.parameter_names(path) for path in paths}
    known = [name for name in parameters.PARAMETERS if any(name in one for one in names.values())]
    # several seeds are one value of --seed: `make run SEED="0 1 2"` hands them over in one word
    several = [" ".join(words).replace(",", " ").split() for words in args.SEED or []]
    args.SEED = [words[0] if words else "" for words in several]
    given = parameters.given(_given(args), known, ", ".join(path.stem for path in paths))
    seeds = [given.get("SEED", parameters.DEFAULTS["SEED"])]
    if several:
        seeds = parameters.seeds_of([parameters.read("SEED", word) for word in several[0]])
    for name, value in given.items():
        if any("\ud800" <= letter <= "\udfff" for letter in str(value)):
            raise InputError(
                f"{name} has letters that this locale does not know, so no notebook can be told "
                "of it: set LC_ALL=C.UTF-8."
            )
    for path in paths:  # what a kernel would refuse is refused before the first one starts
        own = {name: value for name, value in given.items() if name in names[path]}
        session.checked_together(path.stem, own)
    runs = [{**parameters.DEFAULTS, **given, "SEED": seed} for seed in seeds]
    failed = max(runner.run(one, args.notebooks) for one in runs)
    if len(runs) > 1:
        runner.over_seeds(runs, args.notebooks)
    return failed


def _render(args: argparse.Namespace) -> int:
    from nbutils.series import runner

    return runner.render()


def _publish(args: argparse.Namespace) -> int:
    from nbutils.series.publish import publish

    given = parameters.given(_given(args), parameters.OF_FOLDER, "publish")
    folder = publish(parameters.run_folder(given), pretrained=args.pretrained)
    print(f"Published in {folder}.")
    return 0


def _site(args: argparse.Namespace) -> int:
    from nbutils.resources import from_here
    from nbutils.series import publish, site

    # several runs may be one value: `make site RUNS="runs/a runs/b"` hands them over in one word
    given = [[word] if from_here(word).is_dir() else word.split() for word in args.runs if word]
    first = site.build([run for words in given for run in words], args.out)
    print(f"The site is made: open {publish.shown(first)} in a browser.")
    return 0


def _scoreboard(args: argparse.Namespace) -> int:
    from nbutils.series import scoreboard
    from nbutils.series.publish import PUBLISHED
    from nbutils.store.files import atomically

    if args.write:
        written = {scoreboard.PAGE: scoreboard.page(), scoreboard.CELLS: scoreboard.table()}
        for name, text in written.items():
            atomically(PUBLISHED / name, text.encode())
            print(f"Written: {PUBLISHED / name}.")
        return 0
    print(scoreboard.page())
    return 0


def _verdicts(args: argparse.Namespace) -> int:
    from nbutils.series import verdicts
    from nbutils.series.publish import PUBLISHED
    from nbutils.store.files import atomically

    if args.write:
        atomically(PUBLISHED / verdicts.PAGE, verdicts.page().encode())
        print(f"Written: {PUBLISHED / verdicts.PAGE}.")
        return 0
    for name, rows in verdicts.verdicts().items():
        print(f"\n{name}")
        for row in rows:
            counts = f"{row['shown']}:{row['opposite']}:{row['open']} cells"
            both = f"{row['verdict']:<28}{row['control']:<18}"
            print(f"  {row['claim']:<20}{both}{counts:<16}n {row['n']:<6}seeds {row['seeds']}")
    return 0


def _changed(knobs: dict) -> dict:
    """The knobs that are not as everywhere: these alone stand in the names of artifacts."""
    return {knob: value for knob, value in knobs.items() if value not in (None, "nbutils")}


def _make(args: argparse.Namespace) -> int:
    given = parameters.given(_given(args), MADE[args.step], f"make {args.step}")
    asked = {
        "ATTACKS": ["fgsm", "bim", "pgd", "pgd_l2"],
        "DETECTORS": ["id", "jsd"],
        "EPS_255": 0.0,
        "STEPS": 0,
        "BACKEND": "nbutils",
    } | given
    from nbutils import steps
    from nbutils.detectors.groups import LEARNED
    from nbutils.series import session
    from nbutils.steps.robust import KINDS
    from nbutils.steps.tables import knobs

    run = session.configure("04_image_and_jacobian", asked)
    if args.step == "density":  # it knows nothing of the classifier
        record = steps.density(run).record
        bits = f"{record['bits_test']:.3f} (n {record['n_test']}), "
        bits += f"on training images {record['bits_train']:.3f} (n {record['n_train']})"
        print(f"density: bits per dimension {bits}\nKept in {run.folder}.")
        return 0
    attacks, detectors = asked["ATTACKS"], asked["DETECTORS"]
    # what EPS_255, STEPS and BACKEND do in notebook 02, they do to every set that is made here
    changed = {attack: _changed(knobs(run, attack)) for attack in attacks}
    record = steps.classifier(run).record
    accuracy = f"accuracy {record['accuracy']:.4f}, n {record['n']}"
    print(f"classifier {record['architecture']}: {accuracy}")
    if args.step == "robust":
        for kind in KINDS:
            record = steps.robust(run, kind).record
            under = f"under PGD {record['accuracy_pgd']:.4f} (n {record['n_pgd']})"
            print(f"robust {kind}: accuracy {record['accuracy']:.4f}, {under}")
        print(f"Kept in {run.folder}.")
        return 0
    upto = list(MADE).index(args.step)
    for attack in attacks if upto >= 1 else []:
        for split in ("train", "test"):
            record = steps.adversarial(run, attack, split, **changed[attack]).record
            told = f"success {record['success_rate']:.3f}, n {record['n']}"
            print(f"adversarial {attack} on {split}: {told}, {record['seconds']:.1f} s")
    if args.step == "saliency" or (upto > 2 and set(detectors) & set(LEARNED)):
        record = steps.learned_saliency(run).record
        told = ", ".join(
            f"{name} {record[name]:.3f}" for name in ("area", "preserved", "destroyed")
        )
        print(f"saliency: {told}, n {record['n']}")
    for name in detectors if upto >= 3 else []:
        for attack in attacks:
            for repetition in range(run.preset["detector_seeds"]):
                _, record = steps.detector(run, name, attack, repetition, **changed[attack])
                auroc = record.get("train_auroc", float("nan"))
                print(f"detector {name} on {attack}, fit {repetition}: train AUROC {auroc:.3f}")
    for name in detectors if upto >= 4 else []:
        for fit_attack in attacks:
            for attack in attacks:
                own = {"fit_knobs": changed[fit_attack], **changed[attack]}
                record = steps.evaluation(run, name, fit_attack, attack, **own).record
                told = f"trained on {fit_attack}, tested on {attack}"
                print(f"evaluation {name}, {told}: AUROC {record['all']['auroc']:.3f}")
    print(f"Kept in {run.folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
