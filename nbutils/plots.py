"""Figures: `ax` in, `ax` out.

One colour in the series for each attack and detector that is drawn, safe for colour-blind readers
(Okabe, Ito).
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Seven colours that readers of any eyesight tell apart (Okabe, Ito), black and greys; then styles.
ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
RED, PINK, BLACK, GREY = "#D55E00", "#CC79A7", "#000000", "#777777"
STYLES = {
    "clean": (BLACK, "-"),
    "adversarial": (RED, "-"),
    "swapped": (SKY, "-"),
    "noise_sign": (GREY, "-"),
    "noise_gaussian": ("#CCCCCC", "-"),
    "read rightly": (BLUE, "-"),
    "misread": (ORANGE, "-"),
    # attacks; the variants of one share its colour
    "fgsm": (ORANGE, "-"),
    "bim": (SKY, "-"),
    "mim": (BLUE, "-"),
    "pgd": (GREEN, "-"),
    "pgd_l2": (GREEN, "--"),
    "iterative_l2": (PINK, "-"),
    "carlini_wagner_l2": (RED, "-"),
    "deepfool": (BLACK, "-"),
    "deepfool_000": (BLACK, "--"),
    "ddn": (PINK, "--"),
    "jsma": (ORANGE, "--"),
    "jsma_000": (ORANGE, ":"),
    # detectors; what stands in for one has its colour
    "id": (BLUE, "-"),
    "jsd": (RED, "-"),
    "jsd_shuffled": (RED, ":"),
    "jsd_random": (RED, "-."),
    "jacobian": (RED, "--"),
    "smd": (GREEN, "-"),
    "spd": (PINK, "-"),
    "spd_shuffled": (PINK, "--"),
    "spd_constant": (PINK, ":"),
    "spd_random": (PINK, "-."),
    "max_softmax": (SKY, "-"),
    "margin": (SKY, "--"),
    "entropy": (SKY, ":"),
    "gradient_norm": (ORANGE, "-"),
    "noise": (BLACK, ":"),
}
STRANGER = ("#AAAAAA", "-")

LABELS = {
    "noise_sign": "sign noise",
    "noise_gaussian": "Gaussian noise",
    "swapped": "another image's perturbation",
}


def colour(name: str) -> str:
    """The colour of an attack or detector; grey for others."""
    return STYLES.get(name, STRANGER)[0]


def line(name: str) -> dict[str, str]:
    """Colour and line style of an attack or detector, which no other in the same figure has."""
    chosen, style = STYLES.get(name, STRANGER)
    return {"color": chosen, "ls": style}


def gallery(
    rows: dict[str, torch.Tensor], titles: Sequence[str] = (), *, size: float = 0.95
) -> Figure:
    """A grid of images: one row a label, (n,c,h,w) in [0,1] each; signed maps must have been
    brought to [0,1] before.
    """
    n = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows), n, figsize=(min(8, 1.1 + size * n), size * len(rows) + 0.35), squeeze=False
    )
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_frame_on(False)
        for ax, image in zip(line, images, strict=False):
            picture(ax, image)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=8)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    return figure


def picture(ax: Axes, image: torch.Tensor) -> Axes:
    """One image (c,h,w) in [0,1], grey or colour."""
    ax.imshow(
        image.detach().cpu().permute(1, 2, 0).squeeze(-1).clamp(0, 1).numpy(),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    return ax


def perturbations(
    x: torch.Tensor, x_adv: torch.Tensor, titles: Sequence[str] = (), *, k: float | None = None
) -> Figure:
    """Clean images, adversarial images, and what was added, scaled by `k` around middle grey; k is
    chosen so that the largest change shows.
    """
    delta = x_adv - x
    k = k or max(1.0, float(f"{0.5 / delta.abs().max().clamp_min(1e-6).item():.1g}"))
    return gallery(
        {"clean": x, "adversarial": x_adv, f"perturbation\nx {k:g}": (0.5 + k * delta).clamp(0, 1)},
        titles,
    )


def signed(maps: torch.Tensor) -> torch.Tensor:
    """Signed maps (n,c,h,w) to pictures: 0 is middle grey, each scaled by its own largest size."""
    return 0.5 + 0.5 * maps / maps.abs().flatten(1).amax(1).clamp_min(1e-12)[:, None, None, None]


def _array(scores: torch.Tensor | Sequence[float]) -> np.ndarray:
    return (
        (scores.numpy(force=True) if isinstance(scores, torch.Tensor) else np.asarray(scores))
        .astype(float)
        .ravel()
    )


def histogram(
    ax: Axes,
    groups: dict[str, torch.Tensor],
    *,
    threshold: float | None = None,
    label: str = "detector score",
) -> Axes:
    """Scores of several groups of images over common bins."""
    values = {name: _array(scores) for name, scores in groups.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), 30)
    for name, scores in values.items():
        ax.hist(
            scores,
            edges,
            histtype="stepfilled",
            alpha=0.45,
            color=colour(name),
            label=f"{name} (n = {len(scores)})",
        )
    if threshold is not None:
        ax.axvline(threshold, color="black", lw=1, ls="--")
    ax.set(xlabel=label, ylabel="images")
    ax.legend(fontsize=8)
    return ax


def roc(ax: Axes, curves: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Axes:
    """True against false positive rate of several detectors, each given as (clean scores,
    adversarial scores).
    """
    for name, (clean, adversarial) in curves.items():
        clean, adversarial = _array(clean), _array(adversarial)
        cuts = np.r_[np.inf, np.unique(np.r_[clean, adversarial])[::-1], -np.inf]
        ax.plot(
            [(clean > c).mean() for c in cuts],
            [(adversarial > c).mean() for c in cuts],
            **line(name),
            label=name,
        )
    ax.plot([0, 1], [0, 1], color="#BBBBBB", lw=0.8, ls=":")
    ax.set(
        xlabel="false positive rate (clean images flagged)",
        ylabel="true positive rate",
        xlim=(-0.01, 1),
        ylim=(0, 1.01),
    )
    ax.legend(fontsize=8)
    return ax


def matrix(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    low: float = 0.5,
    size: int = 9,
) -> Axes:
    """A matrix of numbers in [low, 1] with the numbers written in it; rows: trained on, columns:
    tested on.
    """
    ax.imshow(values, cmap="cividis", vmin=low, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        ax.text(
            j,
            i,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=size,
            color="black" if value > (1 + low) / 2 else "white",
        )
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel="tested on", ylabel="trained on")
    ax.set_title(title, fontsize=min(12, size + 3))
    ax.tick_params(labelsize=min(10, size + 1))
    return ax


def bars(
    ax: Axes, places: Sequence[str], heights: dict[str, Sequence[tuple[float, float, float]]]
) -> Axes:
    """Grouped bars: for each name one (value, low, high) a place, drawn with its interval."""
    width = 0.85 / len(heights)
    for i, (name, values) in enumerate(heights.items()):
        v, low, high = np.array(values, float).T
        x = np.arange(len(places)) + (i - (len(heights) - 1) / 2) * width
        errors = np.clip([v - low, high - v], 0, None)
        ax.bar(
            x,
            v,
            width,
            yerr=errors,
            color=colour(name),
            error_kw={"lw": 0.8, "ecolor": "#444444"},
            label=LABELS.get(name, name),
        )
    ax.set_xticks(range(len(places)), places)
    return ax


def curve(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    name: str,
    bounds: Sequence[Sequence[float]] | None = None,
    **style: object,
) -> Axes:
    """A line with markers and, where `bounds` gives (low, high) a point, its interval as a band."""
    style = {**line(name), "label": name, "marker": "o", "ms": 3, **style}
    ax.plot(x, y, **style)
    if bounds is not None:
        ax.fill_between(
            x,
            [b[0] for b in bounds],
            [b[1] for b in bounds],
            color=style["color"],
            alpha=0.15,
            lw=0,
        )
    return ax
