"""Our attacks beside foolbox, torchattacks, adversarial-robustness-toolbox, cleverhans and
adversarial-library, in one process, run in pairs.

The model is as a user has it after training: its parameters ask for gradients.
`make bench` (or `python tests/benchmarks/attacks.py --nets cifar_net --attacks pgd,ddn`). Five
rounds in which each library runs once, one after the other; a ratio is that of two runs of one
round, `per_pass` the same for as many passes. A peer whose first run takes more than a minute is
"not timed, > 60 s". Results: OUT/bench/attacks.{json,md,png}.
"""

import argparse
import copy
import json
import resource
import signal
import sys
import time
import types
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from nbutils import attacks
from nbutils.attacks import cleverhans, cost
from nbutils.attacks.cost import Counted
from nbutils.attacks.jsma import best_pairs
from nbutils.models import training
from nbutils.models.building import build
from nbutils.models.contract import predict
from nbutils.models.published import torchvision
from nbutils.models.training import Training
from nbutils.series.parameters import DEFAULTS
from nbutils.series.session import configure
from nbutils.steps import classifier

LIMIT = 60  # seconds of one run
PAIRS = 5
EPS, STEP, EPS_L2, STEP_L2 = 8 / 255, 2 / 255, 0.5, 0.1
ATTACKS = {
    "fgsm": {"eps": EPS},
    "bim": {"eps": EPS, "step": STEP, "steps": 10},
    "mim": {"eps": EPS, "step": STEP, "steps": 10},
    "pgd": {"eps": EPS, "step": STEP, "steps": 10},
    "iterative_l2": {"eps": EPS_L2, "step": STEP_L2, "steps": 10, "surface": "ball"},
    # the notebooks' own setting
    "carlini_wagner_l2": {
        "search_steps": 3,
        "steps": 60,
        "lr": 0.1,
        "const": 1.0,
        "warm_start": True,
    },
    "deepfool": {"steps": 50},
    "ddn": {"steps": 20},
    "jsma": {"gamma": 0.02},
}
SIZES = {"cifar_net": 128, "vgg11": 32}
FEW = 4  # images of JSMA


def networks_of(run, names):
    """Paper 000's CIFAR net with its committed weights, and a VGG11 of 32 x 32, fitted for a minute
    where it was not yet.
    """
    for name in names:
        if name == "cifar_net":
            model = classifier(run).model.requires_grad_()
            yield name, model.to(memory_format=torch.contiguous_format)
            continue
        images, kept = run.data.train[:10_000], Path(run.folder) / "bench-vgg11.pt"
        normalised = {"mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}
        model = build("vgg11", run.data.shape, 10, **normalised).to(run.device)
        if kept.exists():
            model.load_state_dict(torch.load(kept, weights_only=True))
        else:
            how = Training(epochs=2)
            training.fit(model, images.x, images.y, how, groups=images.index, seed=0)
            torch.save(model.state_dict(), kept)
        yield name, model.eval().to(memory_format=torch.contiguous_format)


# -- the peers: name -> attack -> a call with (x, y, target) ---------------------------------------


def through_foolbox(model, device):
    import foolbox
    from foolbox import attacks as fa

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)

    def run(attack, eps=None):
        def call(x, y, _):
            return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=eps)[1]

        return call

    steps = {"abs_stepsize": STEP, "steps": 10, "random_start": False}
    l2_steps = {"abs_stepsize": STEP_L2, "steps": 10, "random_start": False}
    search = {"binary_search_steps": 3, "steps": 60, "stepsize": 0.1, "initial_const": 1.0}
    return {
        "fgsm": run(fa.LinfFastGradientAttack(), EPS),
        "bim": run(fa.LinfBasicIterativeAttack(**steps), EPS),
        "mim": run(fa.LinfMomentumIterativeFastGradientMethod(**steps), EPS),
        "pgd": run(fa.LinfProjectedGradientDescentAttack(abs_stepsize=STEP, steps=10), EPS),
        "iterative_l2": run(fa.L2BasicIterativeAttack(**l2_steps), EPS_L2),
        "carlini_wagner_l2": run(fa.L2CarliniWagnerAttack(**search)),
        "deepfool": run(fa.L2DeepFoolAttack(steps=50)),
        "ddn": run(fa.DDNAttack(steps=20)),
    }


def through_torchattacks(model, device):
    import torchattacks as ta

    def jsma(x, y, target):
        attack = ta.JSMA(model, theta=1.0, gamma=ATTACKS["jsma"]["gamma"])
        attack.set_mode_targeted_by_label(quiet=True)
        return attack(x, target)

    def run(kind, **knobs):
        return lambda x, y, _: kind(model, **knobs)(x, y)

    return {
        "fgsm": run(ta.FGSM, eps=EPS),
        "bim": run(ta.BIM, eps=EPS, alpha=STEP, steps=10),
        "mim": run(ta.MIFGSM, eps=EPS, alpha=STEP, steps=10),
        "pgd": run(ta.PGD, eps=EPS, alpha=STEP, steps=10),
        "iterative_l2": run(ta.PGDL2, eps=EPS_L2, alpha=STEP_L2, steps=10, random_start=False),
        "carlini_wagner_l2": run(ta.CW, c=1, steps=180, lr=0.1),
        "deepfool": run(ta.DeepFool, steps=50),
        "jsma": jsma,
    }


def through_art(model, device):
    import logging

    from art.attacks import evasion as ae
    from art.estimators.classification import PyTorchClassifier

    logging.getLogger("art").setLevel(logging.ERROR)

    def wrap(x):
        form = {"clip_values": (0, 1), "device_type": x.device.type}
        return PyTorchClassifier(model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, **form)

    def run(kind, targeted=False, batch=128, **knobs):
        def call(x, y, target):
            labels = torch.nn.functional.one_hot(target if targeted else y, 10).float()
            attack = kind(wrap(x), batch_size=batch, **knobs)
            return torch.from_numpy(attack.generate(x.cpu().numpy(), labels.cpu().numpy())).to(x)

        return call

    quiet = {"verbose": False}
    steps = {"eps": EPS, "eps_step": STEP, "max_iter": 10, **quiet}
    l2_steps = {"norm": 2, "eps": EPS_L2, "eps_step": STEP_L2, "max_iter": 10, **quiet}
    search = {"binary_search_steps": 3, "max_iter": 60, "learning_rate": 0.1, "initial_const": 1.0}
    borders = {"max_iter": 50, "epsilon": 0.02, "nb_grads": 10, **quiet}
    pairs = {"theta": 1.0, "gamma": ATTACKS["jsma"]["gamma"], **quiet}
    return {
        "fgsm": run(ae.FastGradientMethod, eps=EPS),
        "bim": run(ae.BasicIterativeMethod, **steps),
        "mim": run(ae.MomentumIterativeMethod, **steps),
        "pgd": run(ae.ProjectedGradientDescent, num_random_init=1, **steps),
        "iterative_l2": run(ae.ProjectedGradientDescent, **l2_steps),
        "carlini_wagner_l2": run(ae.CarliniL2Method, **search, **quiet),
        "deepfool": run(ae.DeepFool, **borders),
        "jsma": run(ae.SaliencyMapMethod, targeted=True, batch=4, **pairs),
    }


def through_cleverhans(model, device):
    def run(name, **knobs):
        attack = cleverhans.through_cleverhans(name)
        return lambda x, y, _: attack(model, x, y, **knobs)

    search = {"binary_search_steps": 3, "max_iterations": 60, "lr": 0.1, "initial_const": 1.0}
    return {
        "fgsm": run("fgsm", eps=EPS),
        "bim": run("bim", eps=EPS, step=STEP, steps=10),
        "pgd": run("pgd", eps=EPS, step=STEP, steps=10),
        "iterative_l2": run("bim", eps=EPS_L2, step=STEP_L2, steps=10, norm="l2"),
        "carlini_wagner_l2": run("carlini_wagner_l2", **search),
    }


def through_adversarial_library(model, device):
    # its plotting server, which no attack needs
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    from adv_lib import attacks as al

    def run(attack, **knobs):
        return lambda x, y, _: attack(model, x, y, **knobs)

    search = {"binary_search_steps": 3, "max_iterations": 60, "initial_const": 1.0}
    return {
        "pgd": lambda x, y, _: al.pgd_linf(model, x, y, EPS, steps=10, absolute_step_size=STEP),
        "carlini_wagner_l2": run(al.carlini_wagner_l2, learning_rate=0.1, **search),
        "deepfool": run(al.df, steps=50),
        "ddn": run(al.ddn, steps=20),
    }


PEERS = {
    "foolbox": through_foolbox,
    "torchattacks": through_torchattacks,
    "ART": through_art,
    "cleverhans": through_cleverhans,
    "adversarial-library": through_adversarial_library,
}


# -- measuring -------------------------------------------------------------------------------------


class Shared(Counted):
    """Counted also where a library copies the model."""

    def __deepcopy__(self, memo):
        return self


class TooSlowError(Exception):
    """A run went on for more than LIMIT seconds."""


def timed(call, *arguments, limit=LIMIT):
    def stop(*_):
        raise TooSlowError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        if arguments[0].is_cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = call(*arguments)
        if arguments[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started, result.detach()
    finally:
        signal.alarm(0)


def quality(model, x, y, x_adv, target=None):
    """Success, medians over all images (failures count as infinite), success after rounding to 8
    bits, median lead of the wrong label.
    """

    def wins(read):
        return (read != y) if target is None else (read == target)

    logits = predict(model, x_adv)
    stored = predict(model, (x_adv * 255).round() / 255).argmax(1)
    won, delta = wins(logits.argmax(1)), (x_adv - x).flatten(1)
    lead = logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]

    def middle(sizes):
        return torch.where(won, sizes, torch.inf).sort().values[len(won) // 2].item()

    return {
        "success": won.float().mean().item(),
        "success_8bit": wins(stored).float().mean().item(),
        "l0": middle((delta != 0).float().mean(1)),
        "l2": middle(delta.norm(dim=1)),
        "linf": middle(delta.abs().amax(1)),
        "margin": lead[won].median().item() if won.any() else None,
    }


def rows_of(net, model, x, y, name, peers):
    """A row for ours, one for ours with channels-last, one a peer, of this attack on this net."""
    knobs, target = ATTACKS[name], None
    if name == "jsma":
        x, y = x[:FEW], y[:FEW]
        target = (y + 1) % 10
    attack = attacks.ATTACKS[name]
    shipped = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def ours(x, y, target, model=model):
        return attack(model, x, y, target=target, **knobs)

    # the others' passes do not depend on what other images do
    alone = 1 if name in ("deepfool", "jsma") else 0
    bare = cost.bare_seconds(model, x)
    needed = cost.passes(attack, model, x, y, batch=alone, target=target, **knobs)

    def row(library, seconds, used, x_adv, ratios):
        quartiles = np.quantile(ratios, [0.25, 0.5, 0.75]).round(3).tolist() if ratios else None
        return {
            "net": net,
            "attack": name,
            "library": library,
            "n": len(x),
            "seconds": round(seconds, 4),
            "forwards": used[0] / len(x),
            "backwards": used[1] / len(x),
            "pass_excess": round(cost.pass_excess(used, needed), 4),
            "overhead": round(cost.overhead(seconds, needed, bare), 3),
            "ours_over_theirs": quartiles,
            "per_pass": round(quartiles[1] * sum(used) / sum(ours_used), 3) if ratios else None,
            **quality(model, x, y, x_adv, target),
        }

    calls = {"ours": (model, ours)}
    if not x.is_cuda:
        calls["ours, channels-last"] = (shipped, lambda x, y, target: ours(x, y, target, shipped))
    calls |= {library: (model, peer[name]) for library, peer in peers.items() if name in peer}
    made = {}
    for library, (_, call) in calls.items():  # the first run of each is not counted
        with suppress(TooSlowError):
            made[library] = timed(call, x, y, target)[1]

    def one_round():
        return {library: timed(calls[library][1], x, y, target, limit=0)[0] for library in made}

    rounds = [one_round() for _ in range(PAIRS)]
    for library in calls:
        if library not in made:
            which = {"net": net, "attack": name, "library": library, "n": len(x)}
            yield which | {"seconds": None, "note": f"not timed, > {LIMIT} s"}
            continue
        if library in PEERS:
            counted = Shared(model)
            PEERS[library](counted, x.device)[name](x, y, target)
            used = counted.forwards, counted.backwards
        else:
            used = ours_used = cost.passes(attack, calls[library][0], x, y, target=target, **knobs)
        ratios = []
        if library != "ours" and "ours" in made:
            ratios = [seconds["ours"] / seconds[library] for seconds in rounds]
        taken = median(seconds[library] for seconds in rounds)
        yield row(library, taken, used, made[library], ratios)


def photograph():
    """The pair search of one JSMA step on 224x224x3 beside the step's gradients, by the logits of a
    SqueezeNet 1.1 (random weights).
    """

    def peak():  # GiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    model = build("squeezenet1_1", (3, 224, 224), 10).requires_grad_(False)
    found = []
    for seed in range(PAIRS):
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(1, 3, 224, 224, generator=generator).requires_grad_()
        before, started = peak(), time.perf_counter()
        with torch.enable_grad():
            logits = model(x)
            a = torch.autograd.grad(logits[:, 0].sum(), x, retain_graph=True)[0].flatten(1)
            b = torch.autograd.grad(logits.sum(), x)[0].flatten(1) - a
        middle = time.perf_counter()
        best_pairs(a, b, x.detach().flatten(1) < 1)
        ended = time.perf_counter()
        found.append(((ended - started) / (middle - started), peak() - before))
    return {
        "step_over_gradients": median(ratio for ratio, _ in found),
        "grown_GiB": max(grown for _, grown in found),
        "peak_GiB": peak(),
    }


# -- the report ------------------------------------------------------------------------------------

COST = (
    "seconds",
    "forwards",
    "backwards",
    "pass_excess",
    "overhead",
    "ours_over_theirs",
    "per_pass",
)
QUALITY = ("success", "success_8bit", "l0", "l2", "linf", "margin")
HEAD = ("net", "attack", "library", "n", *COST, *QUALITY)


def table(rows):
    def cell(value):
        if isinstance(value, list):
            return f"{value[1]:.2f} ({value[0]:.2f}-{value[2]:.2f})"
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    def line(cells):
        return "| " + " | ".join(cells) + " |"

    told = [{**row, "seconds": row.get("note", row["seconds"])} for row in rows]
    lines = [line(cell(row.get(name)) for name in HEAD) for row in told]
    return "\n".join([line(HEAD), "|" + "---|" * len(HEAD), *lines]) + "\n"


def figure(rows, file):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    nets, names = list(dict.fromkeys(row["net"] for row in rows)), list(ATTACKS)
    shape = {"figsize": (6 * len(nets), 4.2), "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(1, len(nets), layout="constrained", **shape)
    for axis, net in zip(axes[0], nets, strict=True):
        for library in ("ours, channels-last", *PEERS):
            its = [row for row in rows if (row["net"], row["library"]) == (net, library)]
            its = [row for row in its if row.get("ours_over_theirs")]
            places = [names.index(row["attack"]) for row in its]
            slower = [1 / row["ours_over_theirs"][1] for row in its]
            axis.plot(places, slower, "o", label=library)
        axis.axhline(1, color="black", lw=1)
        axis.set(yscale="log", title=f"{net}: above the line slower than ours")
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes[0, 0].set_ylabel("seconds / ours")
    axes[0, -1].legend(fontsize=8)
    figure.savefig(file, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default=",".join(SIZES))
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--out", default="runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    chosen = parser.parse_args()
    torchvision()  # repaired before a peer imports it
    here = {"OUT": chosen.out, "DEVICE": chosen.device, "THREADS": chosen.threads}
    run = configure("02_attacks", {**DEFAULTS, "DATASET": "cifar10", "PRESET": "quick", **here})
    torch.manual_seed(0)
    rows, folder, step = [], Path(chosen.out) / "bench", photograph()
    print("one JSMA step at 224x224x3:", step, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    for net, model in networks_of(run, chosen.nets.split(",")):
        images = run.data.test[:1000]
        right = predict(model, images.x).argmax(1) == images.y
        images = images[right.nonzero()[: SIZES[net], 0]]
        peers = {}
        for library, make in PEERS.items():
            try:
                peers[library] = make(model, run.device)
            except ImportError as error:
                print(f"{library} is not here: {error}")
        for name in chosen.attacks.split(","):
            for row in rows_of(net, model, images.pixels(), images.y, name, peers):
                rows.append(row)
                print(table([row]).splitlines()[-1], flush=True)
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(run.device),
        "jsma_224": step,
        "rows": rows,
    }
    (folder / "attacks.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (folder / "attacks.md").write_text(table(rows), encoding="utf-8")
    figure(rows, folder / "attacks.png")
    print(f"{folder}/attacks.json, .md and .png")


if __name__ == "__main__":
    main()
