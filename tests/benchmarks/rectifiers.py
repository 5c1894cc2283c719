"""What purification costs at one column of the network a pixel, beside one forward pass of the
whole image a pixel, and what total variation minimisation costs.

`make bench` (or `python tests/benchmarks/rectifiers.py --datasets mnist,cifar10`), on clean test
images and the data set's own density. The walk runs from end to end. The whole forward passes are
timed one by one, and the median is multiplied by the number of pixels, without the choice of
levels: in float64, in which the walk computes, and in float32, in which nobody would get the same
levels from a window. Each pair takes turns; medians. Results: OUT/bench/rectifiers.{json,md}.
"""

import copy
from functools import partial

import pages

from nbutils import steps
from nbutils.attacks import cost
from nbutils.rectifiers import RECTIFIERS
from nbutils.rectifiers.pixel_defend import Column, Whole, walk
from nbutils.series.parameters import DEFAULTS
from nbutils.series.session import configure

HEAD = (
    "dataset",
    "rectifier",
    "n",
    "an_image",
    "whole_float64",
    "whole_float32",
    "ratio",
    "ratio_float32",
    "same_levels",
)


def purification(density, x, repeats, compared):
    """Seconds an image: of the walk, and of as many whole forward passes as there are pixels."""
    double, pixels = copy.deepcopy(density).double(), x.shape[2] * x.shape[3]
    took, *passes = cost.seconds(
        partial(RECTIFIERS["pixel_defend"], x, through=density),
        partial(Whole(double, 2 * x.double() - 1).at, 0, 0),
        partial(Whole(density, 2 * x - 1).at, 0, 0),
        repeats=repeats,
    )
    whole, single = (each * pixels for each in passes)
    levels = (x[:, :, -compared:, -compared:] * 255).round().long()
    same = (walk(double, levels, 16, Column) == walk(double, levels, 16, Whole)).all().item()
    found = {"an_image": took, "whole_float64": whole, "whole_float32": single}
    found = {name: value / len(x) for name, value in found.items()}
    ratios = {"ratio": whole / took, "ratio_float32": single / took}
    return found | ratios | {"same_levels": same}


def rows_of(dataset, density, x, repeats, compared):
    rows = {"pixel_defend": purification(density, x, repeats, compared)}
    for name in ("total_variation", "median"):
        took = cost.seconds(partial(RECTIFIERS[name], x), repeats=repeats)[0]
        rows[name] = {"an_image": took / len(x)}
    for name, row in rows.items():
        found = {"dataset": dataset, "rectifier": name, "n": len(x), **row}
        yield {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}


def main(arguments=None):
    parser = pages.options(__doc__, repeats=3)
    parser.add_argument("--datasets", default="digits,mnist,cifar10")
    parser.add_argument("--n", type=int, default=32, help="images in a batch")
    parser.add_argument("--compared", type=int, default=10, help="side of what both ways walk")
    chosen = parser.parse_args(arguments)
    here = {"OUT": chosen.out, "DEVICE": chosen.device, "THREADS": chosen.threads}
    rows = []
    for dataset in chosen.datasets.split(","):
        run = configure("02_attacks", {**DEFAULTS, "DATASET": dataset, "PRESET": "quick", **here})
        x = run.data.test[: chosen.n].pixels()
        density = steps.density(run).model
        for row in rows_of(dataset, density, x, chosen.repeats, chosen.compared):
            pages.shown(rows, row, HEAD)
    pages.write(chosen.out, "rectifiers", rows, HEAD, run.device)


if __name__ == "__main__":
    main()
