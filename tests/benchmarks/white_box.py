"""What a step of an attack on a detector costs beside its floor: one forward pass and one input
gradient of classifier and detector together.

`make bench` (or `python tests/benchmarks/white_box.py --datasets digits,mnist,cifar10`), on clean
test images and detectors of the run fitted on FGSM. No image is let go, so that both sides take as
many steps on as many images; each pair takes turns; medians. Results:
OUT/bench/white_box.{json,md}.
"""

from functools import partial

import pages
import torch

from nbutils import steps
from nbutils.adaptive import ADAPTIVE
from nbutils.adaptive.objectives import joint
from nbutils.adaptive.surrogates import surrogate
from nbutils.attacks import cost
from nbutils.models.contract import predict
from nbutils.series.parameters import DEFAULTS
from nbutils.series.session import configure

HEAD = ("dataset", "detector", "attack", "n", "a_step", "floor", "ratio")
DETECTORS = ("id", "jsd", "smd", "insen")


def bare(model, score, x, steps_taken):
    """As many forward passes and input gradients of both, and nothing else."""
    for _ in range(steps_taken):
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            total = model(z).sum() + score(z).sum()
        torch.autograd.grad(total, z)


def rows_of(dataset, run, n, taken, repeats):
    model, x = steps.classifier(run).model, run.data.test[:n].pixels()
    y = predict(model, x).argmax(1)
    for name in DETECTORS:
        detector, _ = steps.detector(run, name, "fgsm")
        score = surrogate(detector)
        objective = joint(score, -1e9)  # which no image reaches
        sized = {"eps": 0.1, "step": 0.01, "steps": taken, "objective": objective}
        for attack, knobs in (
            ("selective_pgd", sized),
            ("pgd", {**sized, "random_start": False}),
            ("ddn", {"steps": taken, "levels": 0, "objective": objective}),
        ):
            ours = partial(ADAPTIVE[attack], model, x, y, **knobs)
            took, floor = cost.seconds(ours, partial(bare, model, score, x, taken), repeats=repeats)
            found = {"dataset": dataset, "detector": name, "attack": attack, "n": n}
            found |= {"a_step": took / taken, "floor": floor / taken, "ratio": took / floor}
            yield {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}


def main(arguments=None):
    parser = pages.options(__doc__, repeats=5)
    parser.add_argument("--datasets", default="digits,mnist,cifar10")
    parser.add_argument("--n", type=int, default=50, help="images in a batch")
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args(arguments)
    here = {"OUT": chosen.out, "DEVICE": chosen.device, "THREADS": chosen.threads}
    rows = []
    for dataset in chosen.datasets.split(","):
        run = configure("02_attacks", {**DEFAULTS, "DATASET": dataset, "PRESET": "quick", **here})
        for row in rows_of(dataset, run, chosen.n, chosen.steps, chosen.repeats):
            pages.shown(rows, row, HEAD)
    pages.write(chosen.out, "white_box", rows, HEAD, run.device)


if __name__ == "__main__":
    main()
