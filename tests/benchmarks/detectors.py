"""What Mahalanobis distances and TWS cost beside the bare passes that they need.

`make bench` (or `python tests/benchmarks/detectors.py --nets digits_net,cifar_net,vgg11`). Neither
method's code can be installed: both are repositories for one model and one image at a time, so
they are compared with the passes themselves. Each pair of runs takes turns; medians. The bare
passes are the same forward and backward passes on the same batches, or up to the same layers, with
nothing else. Results: OUT/bench/detectors.{json,md}.
"""

from dataclasses import replace

import pages
import torch

from nbutils.attacks import cost
from nbutils.attacks.cost import Counted
from nbutils.detectors.mahalanobis import MAGNITUDES, Mahalanobis
from nbutils.detectors.tws import SEARCHES, Tws
from nbutils.models.building import build
from nbutils.models.taps import pooled, stages
from nbutils.series.parameters import DEFAULTS
from nbutils.series.session import configure
from nbutils.steps import classifier
from nbutils.steps.rivals import QUICK_CAP

# network -> data set, images in a batch
NETS = {"digits_net": ("digits", 150), "cifar_net": ("cifar10", 64), "vgg11": ("cifar10", 32)}


class Noted(Counted):
    """Notes of each pass how many images it had, and whether a gradient was asked for."""

    def __init__(self, model):
        super().__init__(model)
        self.seen = []

    def forward(self, x):
        self.seen.append([len(x), x.requires_grad and torch.is_grad_enabled()])
        return super().forward(x)


def replay(model, x, seen):
    """The same passes, with nothing else."""
    for n, gradient in seen:
        part = x[:n].detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = model(part)
            if gradient:
                torch.autograd.grad(logits, part, torch.ones_like(logits))


def tws(model, x, search, repeats):
    made = Tws(model, search=search)
    record = made.fit(x)
    made.classifier = noted = Noted(model)
    made.view(x)
    used = noted.forwards, noted.backwards
    made.classifier = alone = Noted(model)
    for one in x.split(1):
        made.view(one)
    made.classifier = model
    needed = alone.forwards, alone.backwards
    # the last pass of each search asks for no gradient
    seen, backwards = noted.seen, noted.backwards
    took, bare = cost.seconds(lambda: made.view(x), lambda: replay(model, x, seen), repeats=repeats)
    extra = sum(n for n, gradient in seen if gradient) - backwards
    each = cost.bare_seconds(model, x)
    return {
        "seconds": took,
        "bare": bare - extra * each[1],
        "floor": needed[0] * each[0] + needed[1] * each[1],
        "forwards": used[0] / len(x),
        "backwards": used[1] / len(x),
        "pass_excess": cost.pass_excess(used, needed),
        "median": record["median_targeted"],
    }


def bare_distances(model, x, layers, magnitudes):
    """The passes of `distances`, with nothing else."""
    z = x.detach().requires_grad_(any(magnitudes))
    with torch.set_grad_enabled(any(magnitudes)):
        features = [f.sum() for f in pooled(model, z, layers)]
    for i, total in enumerate(features if any(magnitudes) else ()):
        torch.autograd.grad(total, z, retain_graph=i + 1 < len(features))
    with torch.no_grad():
        for k in magnitudes:
            for i in range(len(layers) if k else 0):
                pooled(model, x, layers[i : i + 1])


def mahalanobis(model, x, y, magnitudes, repeats):
    made = Mahalanobis(model)
    made.learn(x, y)
    layers = stages(model, x[:1])

    def ours():
        with torch.no_grad():
            made.distances(x, magnitudes)

    took, bare = cost.seconds(
        ours, lambda: bare_distances(model, x, layers, magnitudes), repeats=repeats
    )
    each, taps = cost.bare_seconds(model, x), len(layers)
    moved = sum(k > 0 for k in magnitudes)
    authors = taps * len(x) * ((1 + len(magnitudes)) * each[0] + len(magnitudes) * each[1])
    return {"seconds": took, "bare": bare, "floor": authors, "taps": taps, "moved": moved}


def rows_of(net, model, x, y, search, repeats):
    rows = {"tws": tws(model, x, search, repeats)}
    for name, magnitudes in (("unmoved", (0.0,)), ("moved", (0.001,)), ("grid", MAGNITUDES)):
        rows[f"mahalanobis, {name}"] = mahalanobis(model, x, y, magnitudes, repeats)
    for name, row in rows.items():
        found = {"net": net, "detector": name, "n": len(x), **row}
        found["overhead"] = row["seconds"] / row["bare"]
        found["over_whole_passes"] = row["seconds"] / row["floor"]
        yield {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}


HEAD = (
    "net",
    "detector",
    "n",
    "seconds",
    "overhead",
    "over_whole_passes",
    "forwards",
    "backwards",
    "pass_excess",
    "median",
)


def main():
    parser = pages.options(__doc__, repeats=5)
    parser.add_argument("--nets", default=",".join(NETS))
    chosen = parser.parse_args()
    here = {"OUT": chosen.out, "DEVICE": chosen.device, "THREADS": chosen.threads}
    rows = []
    for net in chosen.nets.split(","):
        dataset, n = NETS[net]
        run = configure("02_attacks", {**DEFAULTS, "DATASET": dataset, "PRESET": "quick", **here})
        if net == run.preset["classifier"]:
            model = classifier(run).model
        else:  # its speed is that of any weights, and step sizes suit it
            model = build(net, run.data.shape, 10, mean=[0.47], std=[0.25]).to(run.device)
        images = run.data.test[:n]
        search = replace(SEARCHES[dataset], cap_untargeted=QUICK_CAP)
        for row in rows_of(net, model, images.pixels(), images.y, search, chosen.repeats):
            pages.shown(rows, row, HEAD)
    pages.write(chosen.out, "detectors", rows, HEAD, run.device)


if __name__ == "__main__":
    main()
