"""`python -m nbutils run | make | render | publish | verdicts`: the series of notebooks, or single
steps without Jupyter.
"""

import argparse
import sys

from nbutils import InputError

MADE = ("classifier", "adversarial", "saliency", "detector", "evaluation", "all")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m nbutils", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dataset", default="digits")
    common.add_argument("--preset", default="quick")
    common.add_argument(
        "--out",
        default="runs",
        help="folder of artifacts and results; relative paths start here (inside a checkout at "
        "its root)",
    )
    common.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    common.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    common.add_argument(
        "--data-root",
        default="",
        help="folder of the data sets (default: $NBUTILS_DATA, else data/)",
    )
    common.add_argument("--model", default="", help="an architecture, or package.module:factory")
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
    running.add_argument("--seed", type=int, nargs="+", default=[0])
    running.add_argument("--notebooks", default="", help='numbers, such as "02 04" (default: all)')
    making = commands.add_parser(
        "make", parents=[common], help="make a step without Jupyter; notebooks load what it made"
    )
    making.add_argument("step", choices=(*MADE, "density"))
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--attack", nargs="+", default=["fgsm", "bim", "pgd", "pgd_l2"])
    making.add_argument("--detector", nargs="+", default=["id", "jsd"])
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
        help="the classifier, saliency model and density that the run trained, not the results",
    )
    publishing.add_argument("--seed", type=int, default=0)
    judging = commands.add_parser(
        "verdicts", help="all verdicts from the published tables, without running anything"
    )
    judging.add_argument("--write", action="store_true", help="write the page in data/results")
    args = parser.parse_args(arguments)
    try:
        return globals()[f"_{args.command}"](args)
    except InputError as error:
        print(f"nbutils: {error}", file=sys.stderr)
        return 2


def _parameters(args: argparse.Namespace, seed: int) -> dict:
    named = {
        "DATASET": args.dataset,
        "PRESET": args.preset,
        "SEED": seed,
        "DEVICE": args.device,
        "THREADS": args.threads,
        "DATA_ROOT": args.data_root,
        "OUT": args.out,
        "MODEL": args.model,
    }
    if args.parameter:
        import yaml

        named |= {name: yaml.safe_load(value) for name, value in args.parameter}
    return named


def _run(args: argparse.Namespace) -> int:
    from nbutils.series import runner

    failed = max(runner.run(_parameters(args, seed), args.notebooks) for seed in args.seed)
    if len(args.seed) > 1:
        runner.over_seeds([_parameters(args, seed) for seed in args.seed], args.notebooks)
    return failed


def _render(args: argparse.Namespace) -> int:
    from nbutils.series import runner

    return runner.render()


def _publish(args: argparse.Namespace) -> int:
    from nbutils.series.parameters import run_folder
    from nbutils.series.publish import publish

    folder = publish(run_folder(_parameters(args, args.seed)), pretrained=args.pretrained)
    print(f"Published in {folder}.")
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


def _make(args: argparse.Namespace) -> int:
    from nbutils import steps
    from nbutils.detectors.groups import LEARNED
    from nbutils.series import session
    from nbutils.series.parameters import DEFAULTS

    given = {**DEFAULTS, **_parameters(args, args.seed)}
    asked = {"ATTACKS": args.attack, "DETECTORS": args.detector}
    run = session.configure("04_image_and_jacobian", given | asked)
    if args.step == "density":  # it knows nothing of the classifier
        record = steps.density(run).record
        bits = f"{record['bits_test']:.3f} (n {record['n_test']}), "
        bits += f"on training images {record['bits_train']:.3f} (n {record['n_train']})"
        print(f"density: bits per dimension {bits}\nKept in {run.folder}.")
        return 0
    record = steps.classifier(run).record
    accuracy = f"accuracy {record['accuracy']:.4f}, n {record['n']}"
    print(f"classifier {record['architecture']}: {accuracy}")
    upto = MADE.index(args.step)
    for attack in args.attack if upto >= 1 else []:
        for split in ("train", "test"):
            record = steps.adversarial(run, attack, split).record
            told = f"success {record['success_rate']:.3f}, n {record['n']}"
            print(f"adversarial {attack} on {split}: {told}, {record['seconds']:.1f} s")
    if args.step == "saliency" or (upto > 2 and set(args.detector) & set(LEARNED)):
        record = steps.learned_saliency(run).record
        told = ", ".join(
            f"{name} {record[name]:.3f}" for name in ("area", "preserved", "destroyed")
        )
        print(f"saliency: {told}, n {record['n']}")
    for name in args.detector if upto >= 3 else []:
        for attack in args.attack:
            for repetition in range(run.preset["detector_seeds"]):
                _, record = steps.detector(run, name, attack, repetition)
                auroc = record.get("train_auroc", float("nan"))
                print(f"detector {name} on {attack}, fit {repetition}: train AUROC {auroc:.3f}")
    for name in args.detector if upto >= 4 else []:
        for fit_attack in args.attack:
            for attack in args.attack:
                record = steps.evaluation(run, name, fit_attack, attack).record
                told = f"trained on {fit_attack}, tested on {attack}"
                print(f"evaluation {name}, {told}: AUROC {record['all']['auroc']:.3f}")
    print(f"Kept in {run.folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
