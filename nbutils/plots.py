"""Figures: `ax` in, `ax` out.

One colour in the series for each attack and detector that is drawn, safe for colour-blind readers
(Okabe, Ito).
"""

import io
import re
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from nbutils import InputError
from nbutils.evaluation.intervals import wilson

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
    "id_high_pass": (BLUE, "--"),
    "spectral": (BLUE, ":"),
    "insen": (GREEN, "--"),
    "insen_log": (GREEN, "-."),
    "insen_pattern": (GREEN, ":"),
    "insen_norm": (ORANGE, "--"),
    "gcd": (BLACK, "-"),
    "gcd_cured": (BLACK, "--"),
    "max_softmax": (SKY, "-"),
    "margin": (SKY, "--"),
    "entropy": (SKY, ":"),
    "gradient_norm": (ORANGE, "-"),
    "input_sensitivity": (ORANGE, "-."),
    "dist_z": (ORANGE, ":"),
    "noise": (BLACK, ":"),
}


STRANGER = ("#AAAAAA", "-")


LABELS = {
    "noise_sign": "sign noise",
    "noise_gaussian": "Gaussian noise",
    "swapped": "another image's perturbation",
}


SHORT = {  # attacks, where a figure has little room
    "fgsm": "FGSM",
    "bim": "BIM",
    "mim": "MIM",
    "pgd": "PGD",
    "ddn": "DDN",
    "iterative_l2": "iterative l2",
    "deepfool": "DeepFool",
    "jsma": "JSMA",
    "carlini_wagner_l2": "C&W",
}


def short(name: str) -> str:
    """An attack's name as a figure with little room has it."""
    return SHORT.get(name, name)


def colour(name: str) -> str:
    """The colour of an attack or detector; grey for others."""
    return STYLES.get(name, STRANGER)[0]


def line(name: str) -> dict[str, str]:
    """Colour and line style of an attack or detector, which no other in the same figure has."""
    chosen, style = STYLES.get(name, STRANGER)
    return {"color": chosen, "ls": style}


def plain(text: str) -> str:
    """A text as matplotlib has to get it to draw it letter by letter: a class of the user's may
    hold dollar signs, and what stands between two of them would be read as mathematics.

    The functions here that draw images do so with their titles and labels.
    """
    return text.replace("$", r"\$")


def fitted(text: str, inches: float, size: float, *, lines: int = 2) -> str:
    """A text whose lines are no wider than `inches` at a font of `size` points, so that the titles
    of neighbours do not run into one another.

    Lines that are too wide are wrapped between words, or after a hyphen or a low line, into `lines`
    at most; what does not fit is cut after a whole word and leaves an ellipsis. One word that is
    itself too wide is cut.
    """
    points = 72 * inches - 0.4 * size  # and a gap
    parts = [_wrapped(line, points, size, lines) for line in text.split("\n")]
    return "\n".join(row for rows in parts for row in rows)


def _wrapped(line: str, points: float, size: float, lines: int) -> list[str]:
    rows = [""]
    for piece in re.split(r"(?<=\s)(?!…)|(?<=\w[_/-])(?=\w)", line):
        if rows[-1] and _width((rows[-1] + piece).rstrip(), size) > points:
            rows.append("")
        rows[-1] += piece
    rows, more = [row.rstrip() for row in rows[:lines]], len(rows) > lines
    if more:
        last = rows[-1]
        while " " in last and _width(last + " …", size) > points:
            last = last.rsplit(" ", 1)[0]
        rows[-1] = last + " …"
    for i, row in enumerate(rows):
        if _width(row, size) > points:
            row = row.removesuffix(" …")
            while len(row) > 1 and _width(row + "…", size) > points:
                row = row[:-1]
            rows[i] = row + "…"
    return rows


def _width(text: str, size: float) -> float:
    """The width of a line in points."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def _beside(labels: Iterable[str], size: float) -> float:
    """The width in inches of the labels of rows."""
    return (
        max((_width(line, size) for label in labels for line in label.split("\n")), default=0) / 72
    )


def gallery(
    rows: dict[str, torch.Tensor],
    titles: Sequence[str] = (),
    *,
    size: float = 0.95,
    title: str = "",
) -> Figure:
    """A grid of images: one row a label, (n,c,h,w) in [0,1] each; signed maps must have been
    brought to [0,1] before.

    Args:
        titles: of the columns. title: above them all.
    """
    n = max(len(images) for images in rows.values())
    width, height = min(8, 1.1 + size * n), size * len(rows) + 0.35
    figure, axes = plt.subplots(len(rows), n, figsize=(width, height), squeeze=False)
    inside = figure.subplotpars
    column = width * (inside.right - inside.left) / n
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_frame_on(False)
        for ax, image in zip(line, images, strict=False):
            picture(ax, image)
        beside = plain(fitted(label, 1.3, 9, lines=3))
        line[0].set_ylabel(beside, rotation=0, ha="right", va="center", fontsize=9)
    said = [fitted(text, column, 8) for text in titles]
    for ax, text in zip(axes[0], said, strict=False):
        ax.set_title(plain(text), fontsize=8)
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    if title:
        above = 6 + 8 * 1.2 * max((text.count("\n") + 1 for text in said), default=0)
        place = inside.top + (above + 4) / 72 / height
        figure.suptitle(plain(title), y=place, va="bottom", fontsize=11)
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
    x: torch.Tensor,
    x_adv: torch.Tensor,
    titles: Sequence[str] = (),
    *,
    k: float | None = None,
    title: str = "",
) -> Figure:
    """Clean images, adversarial images, and what was added, scaled by `k` around middle grey; k is
    chosen so that the largest change shows.
    """
    delta = x_adv - x
    k = k or max(1.0, float(f"{0.5 / delta.abs().max().clamp_min(1e-6).item():.1g}"))
    return gallery(
        {"clean": x, "adversarial": x_adv, f"perturbation\nx {k:g}": (0.5 + k * delta).clamp(0, 1)},
        titles,
        title=title,
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
            histtype="step" if name == "clean" else "stepfilled",  # seen through the others
            alpha=1 if name == "clean" else 0.45,
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
    tested on. What is not-a-number is left blank.
    """
    ax.imshow(values, cmap="cividis", vmin=low, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        ax.text(
            j,
            i,
            "" if np.isnan(value) else f"{value:.2f}",
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


def shortened(name: str, most: int = 24) -> str:
    """A name cut after a whole word, with an ellipsis; one long word stays whole."""
    words = name.replace("_", " ").split()
    kept = words[:1]
    for word in words[1:]:
        if len(" ".join([*kept, word])) > most - 2:
            break
        kept.append(word)
    if len(" ".join(words)) <= most:
        kept = words
    return " ".join(kept) + (" …" if len(kept) < len(words) else "")


def captioned(
    rows: dict[str, torch.Tensor],
    captions: Sequence[Sequence[str]],
    *,
    title: str = "",
    size: float = 1.7,
) -> Figure:
    """Large images, each under a caption of its own: one row a label, (n,c,h,w) in [0,1] each."""
    n = max((len(images) for images in rows.values()), default=1)
    height = (size + 0.5) * len(rows) + (0.4 if title else 0)
    width = min(8, max(5, 1.1 + size * n))
    figure, axes = plt.subplots(
        len(rows), n, figsize=(width, height), squeeze=False, layout="constrained"
    )
    column = (width - _beside(rows, 10)) / n
    for line, (label, images), texts in zip(axes, rows.items(), captions, strict=True):
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_frame_on(False)
        for ax, image, text in zip(line, images, texts, strict=False):
            picture(ax, image)
            ax.set_title(plain(fitted(text, column, 9)), fontsize=9)
        line[0].set_ylabel(plain(label), rotation=0, ha="right", va="center", fontsize=10)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    return figure


def magnified(delta: torch.Tensor) -> tuple[torch.Tensor, float]:
    """A perturbation (n,c,h,w) times k on middle grey, as a picture, and k: the largest change
    shows.
    """
    k = max(1.0, float(f"{0.5 / delta.abs().max().clamp_min(1e-6).item():.1g}"))
    return (0.5 + k * delta).clamp(0, 1), k


def album(
    images: torch.Tensor, captions: Sequence[str], *, columns: int = 4, title: str = ""
) -> Figure:
    """Images (n,c,h,w) in [0,1] in rows of `columns`, each under its caption."""
    starts = range(0, len(images), columns)
    rows = {" " * i: images[start : start + columns] for i, start in enumerate(starts)}
    texts = [captions[start : start + columns] for start in starts]
    return captioned(rows, texts, title=title)


def attacked(
    x: torch.Tensor, x_adv: torch.Tensor, names: Sequence[str], read: Sequence[str], label: str
) -> Figure:
    """One image under several attacks, a column each: clean, adversarial, perturbation.

    A column's title says what the adversarial image is read as, and its frame whether that is
    another label. Each perturbation is scaled by a k of its own, printed under it, around middle
    grey.

    Args:
        x, x_adv: (n,c,h,w), the image under each of the n attacks `names`.
        read: the names of the labels that the adversarial images are read as.
        label: the name of the label that the clean image is read as.
    """
    n = len(names)
    width = min(8, 0.9 + 1.25 * n)
    figure, axes = plt.subplots(3, n, figsize=(width, 4.5), squeeze=False, layout="constrained")
    column = (width - 0.5) / n
    for three, name, clean, adversarial, now in zip(axes.T, names, x, x_adv, read, strict=True):
        delta = adversarial - clean
        largest = delta.abs().max().item()
        k = float(f"{0.5 / largest:.2g}") if largest else 0.0
        for ax, image in zip(three, (clean, adversarial, 0.5 + k * delta), strict=True):
            picture(ax, image)
            ax.set(xticks=[], yticks=[])
        fooled = now != label
        said = fitted(f"✓ read as {now}" if fooled else f"✗ still {label}", column, 9, lines=3)
        three[0].set_title(fitted(name.replace("_l2", "\nl2"), column, 9), fontsize=9)
        three[1].set_title(plain(said), fontsize=9, color=RED if fooled else BLUE)
        for side in three[1].spines.values():
            side.set(color=RED if fooled else BLUE, linewidth=2.5)
        three[2].set_xlabel(f"k = {k:g}" if largest else "no change", fontsize=9)
    for ax, row in zip(axes[:, 0], ("clean", "adversarial", "perturbation\nx k"), strict=True):
        ax.set_ylabel(row, fontsize=9)
    return figure


def dodged(
    ax: Axes, places: Sequence[str], shares: dict[str, Sequence[float]], n: int, *, most: int = 6
) -> Axes:
    """Shares of n images at several places, with Wilson's intervals: the points of one place stand
    side by side, so that none hides another. There are no lines: they would be shifted curves.

    Args:
        shares: for each name one share a place; the first `most` names are drawn.
    """
    drawn = list(shares.items())[:most]
    marks = dict(zip(["fgsm", "bim", "mim", "pgd"], "os^D", strict=True))
    for i, (name, values) in enumerate(drawn):
        bounds = np.array([wilson(round(v * n), n) for v in values])
        x = np.arange(len(places)) + 0.16 * (i - (len(drawn) - 1) / 2)
        errors = np.clip([values - bounds[:, 0], bounds[:, 1] - values], 0, None)
        mark = marks.get(name, "v*Ph"[i % 4])
        style = {"color": colour(name), "ls": "none", "marker": mark, "ms": 5}
        ax.errorbar(x, values, yerr=errors, label=name, **style)
    if not drawn:
        ax.text(0.5, 0.5, "no such attack in this run", ha="center", transform=ax.transAxes)
    ax.set_xticks(range(len(places)), places)
    for edge in range(len(places) + 1):
        ax.axvline(edge - 0.5, color="#DDDDDD", lw=0.8, zorder=0)
    ax.set(xlim=(-0.5, len(places) - 0.5), ylim=(-0.03, 1.05))
    return ax


def quartiles(ax: Axes, groups: dict[str, np.ndarray], *, smallest: float = 1e-7) -> Axes:
    """Median and quartiles of groups of positive values on a logarithmic axis, a row each, the
    first on top; a group without values is said to be empty.
    """
    for place, (name, values) in enumerate(groups.items()):
        if len(values):
            low, middle, high = np.quantile(np.clip(values, smallest, None), [0.25, 0.5, 0.75])
            ax.plot([low, high], [place, place], color=colour(name), lw=4)
            ax.plot(middle, place, "o", color="white", mec="black", ms=6)
        else:
            where = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 9}
            ax.text(0.02, place, "empty: no success", **where)
    labels = [f"{name} (n = {len(values)})" for name, values in groups.items()]
    ax.set_yticks(range(len(groups)), labels, fontsize=9)
    ax.set(xscale="log", ylim=(len(groups) - 0.5, -0.5))
    ax.grid(axis="x", color="#DDDDDD")
    return ax


def map_gallery(
    images: torch.Tensor,
    maps: dict[str, torch.Tensor],
    titles: Sequence[str] = (),
    *,
    caption: str = "",
    each: bool = True,
) -> Figure:
    """Images (n,c,h,w) above their maps, one row of maps (n,1,h,w) a label, with a colour bar.

    Args:
        each: show every map on a scale from 0 to its own largest value, which is written under it;
            otherwise all maps on one scale from 0 to 1. A map that is zero everywhere is said to be
            empty.
        caption: the title above all.
    """
    n, rows = len(images), 1 + len(maps)
    high, width = 0.92 + 0.17 * each, min(8, 1.7 + 0.92 * n)
    figure, axes = plt.subplots(
        rows, n, figsize=(width, high * rows + 0.9), squeeze=False, layout="constrained"
    )
    column = (width - 1 - _beside(maps, 9)) / n  # the colour bar has an inch
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_frame_on(False)
    for ax, image in zip(axes[0], images, strict=True):
        picture(ax, image)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(plain(fitted(title, column, 9)), fontsize=9)
    axes[0, 0].set_ylabel("image", rotation=0, ha="right", va="center", fontsize=9)
    for line, (label, found) in zip(axes[1:], maps.items(), strict=True):
        line[0].set_ylabel(plain(label), rotation=0, ha="right", va="center", fontsize=9)
        for ax, one in zip(line, found, strict=True):
            drawn = saliency_map(ax, one, each=each)
    bar = figure.colorbar(drawn, ax=axes[1:].ravel().tolist(), fraction=0.04, pad=0.02)
    bar.set_label("share of the map's largest value" if each else "value of the map", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if caption:
        figure.suptitle(plain(caption), fontsize=10)
    return figure


def saliency_map(ax: Axes, map_: torch.Tensor, *, each: bool = True) -> AxesImage:
    """One map (1,h,w), >= 0, dark to bright; what is drawn on `ax`, for a colour bar.

    Args:
        each: on a scale from 0 to the map's largest value, which is written under it; otherwise
            from 0 to 1. A map that is zero everywhere is said to be empty.
    """
    values = map_.detach().double().cpu()[0].numpy()
    largest = values.max()
    drawn = ax.imshow(
        values / largest if each and largest > 0 else values,
        cmap=plt.get_cmap("cividis", 20),  # steps of a twentieth, which also keep files small
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    if largest == 0:
        ax.text(0.5, 0.5, "empty", transform=ax.transAxes, ha="center", va="center", fontsize=9)
        ax.texts[-1].set_color("white")
    elif each:
        ax.set_xlabel(f"{largest:.1e}" if largest < 0.01 else f"{largest:.2f}", fontsize=8)
        ax.xaxis.labelpad = 1
    return drawn


def marks(
    ax: Axes,
    places: Sequence[str],
    heights: dict[str, Sequence[float]],
    colours: Sequence[str] = (),
) -> Axes:
    """Values over places that have no order: a dot each, side by side, joined by no line.

    Args:
        heights: for each name one value a place; not-a-number is left out.
        colours: one a name; without them those of the names.
    """
    where = np.arange(len(places))
    colours = colours or [colour(name) for name in heights]
    for i, ((name, values), shade) in enumerate(zip(heights.items(), colours, strict=True)):
        shift = 0.14 * (i - (len(heights) - 1) / 2)
        values = np.asarray(values, float)
        ax.plot(where + shift, values, ls="", marker="o", ms=6, color=shade, label=name)
    for edge in where[1:] - 0.5:
        ax.axvline(edge, color="#DDDDDD", lw=0.8, zorder=0)
    ax.set_xticks(where, places)
    return ax


def map_distance(
    one: torch.Tensor, others: dict[str, torch.Tensor], *, name: str = "map"
) -> Figure:
    """What a distance of maps adds up: beside the first map (1,h,w) each other one and, under it,
    the square of what parts them at every pixel, with the root of their mean written out.
    """
    figure, axes = plt.subplots(
        2, 1 + len(others), figsize=(2.1 * (1 + len(others)), 3.9), layout="constrained"
    )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_frame_on(False)
    saliency_map(axes[0, 0], one, each=False)
    axes[0, 0].set_title(name, fontsize=9)
    for ax, below, (label, other) in zip(axes[0, 1:], axes[1, 1:], others.items(), strict=True):
        saliency_map(ax, other, each=False)
        ax.set_title(label, fontsize=9)
        square = (one - other).double().square()
        drawn = saliency_map(below, square, each=False)
        below.set_title(f"distance {square.mean().sqrt().item():.2f}", fontsize=9)
    axes[1, 0].text(1, 0.5, "squared\ndifference", ha="right", va="center", fontsize=9)
    bar = figure.colorbar(drawn, ax=axes.ravel().tolist(), fraction=0.04, pad=0.02)
    bar.set_label("value of map, or squared difference", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def rank_statistic(
    ax: Axes, base: torch.Tensor, moved: torch.Tensor, effect: float, names: Sequence[str]
) -> Axes:
    """Two groups of distances, a dot each, with their medians; the title says `effect`, the share
    of pairs in which the second group's is the larger (`distances.mann_whitney`).
    """
    rng = np.random.default_rng(0)
    for place, values, shade in ((0, base, BLACK), (1, moved, RED)):
        values = _array(values)
        spread = place + rng.uniform(-0.22, 0.22, len(values))
        ax.plot(spread, values, ls="", marker=".", ms=5, alpha=0.6, color=shade)
        ax.plot([place - 0.28, place + 0.28], [np.median(values)] * 2, color=shade, lw=2)
    counts = [f"{name}\nn = {len(v)}" for name, v in zip(names, (base, moved), strict=True)]
    ax.set_xticks([0, 1], counts)
    ax.set_xlim(-0.5, 1.5)
    ax.set_title(f"effect {effect:.2f}", fontsize=10)
    return ax


def small_png(figure: Figure, colours: int = 256) -> bytes:
    """A figure as a PNG of a palette: what is on the screen at a third of the size."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches="tight", facecolor="white")
    picture = Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


def in_small_files() -> None:
    """From here on a notebook stores its figures by `small_png`, since a notebook with many
    pictures of maps becomes too large to be kept in git. Each output also keeps, as `alt`, what the
    figure shows in words (`described`). Outside a notebook it does nothing.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None:
        plt.switch_backend(plt.get_backend())  # the backend sets its own form when it first starts
        shell.display_formatter.formatters["image/png"].for_type(Figure, _told_png)


def _told_png(figure: Figure) -> tuple[bytes, dict[str, str]]:
    return small_png(figure), {"alt": described(figure)}


def described(figure: Figure, most: int = 8) -> str:
    """What a figure shows, for readers who do not see it: its title, those of its panels or
    pictures, what stands along the axes, the legend, and other words that are written in it.

    Args:
        most: so many titles, places or names of a kind are told, then how many more there are.
    """
    drawn = [ax for ax in figure.axes if ax.get_visible() and ax.get_label() != "<colorbar>"]
    pictures = [ax for ax in drawn if ax.images and not len(ax.get_xticks())]
    panels = [ax for ax in drawn if ax.axison and ax not in pictures and ax.has_data()]
    titles = [ax.get_title(where) for ax in panels for where in ("left", "center", "right")]
    title = _words(figure.get_suptitle())
    if not title and len(panels) == 1:
        title, titles = _words(" ".join(titles)), []
    told = [f"Figure: {title}" if title else "Figure"]
    told += _list("Panels", titles, most)
    if pictures:
        told.append(f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}")
        told += _list("Rows", [ax.get_ylabel() for ax in pictures], most)
        told += _list("Captions", [ax.get_title() for ax in pictures], most)
    for name in ("x", "y"):
        axes = [getattr(ax, f"{name}axis") for ax in panels]
        places = [text.get_text() for axis in axes for text in axis.get_majorticklabels()]
        told += _list(name, [axis.label.get_text() for axis in axes], most)
        told += _list(f"Along {name}", filter(_is_name, places), most)
    legends = [*figure.legends, *(ax.get_legend() for ax in panels if ax.get_legend())]
    told += _list("Legend", [text.get_text() for one in legends for text in one.texts], most)
    bars = [ax.get_ylabel() or ax.get_xlabel() for ax in figure.axes if ax not in drawn]
    told += _list("Colours", bars, most)
    notes = [*figure.texts, *(text for ax in drawn for text in ax.texts)]
    notes = [text.get_text() for text in notes if _words(text.get_text()) != title]
    told += _list("Written in it", filter(_is_name, notes), most)
    return " ".join(part if part[-1] in ".?!" else f"{part}." for part in told)


def _words(text: str) -> str:
    """A text of a figure without its breaks of lines and the signs of mathematics."""
    money = "\0"
    signs = text.replace(r"\$", money).replace("$", "").replace("\\", "").replace(money, "$")
    return " ".join(signs.split())


def _list(kind: str, texts: Iterable[str], most: int) -> list[str]:
    """One part of a description, each text once; none where all are empty."""
    found = [one for one in dict.fromkeys(_words(text) for text in texts) if one]
    more = [f"{len(found) - most} more"] if len(found) > most else []
    return [f"{kind}: {'; '.join(found[:most] + more)}"] if found else []


def _is_name(text: str) -> bool:
    """Whether a text beside an axis or in a panel is no number."""
    number = re.fullmatch(r"[\d.,+\-−]+(e[+\-−]?\d+)?", text)
    return bool(re.search(r"[^\W\d_]", text)) and not number and "mathdefault" not in text


def matrices(panels: dict[str, pd.DataFrame], *, across: int, title: str) -> Figure:
    """Several matrices of numbers in [.5, 1] in one figure, `across` in a row.

    Args:
        panels: by title; rows are what a detector was trained on, columns what it was tested on.
    """
    down = max(1, -(-len(panels) // across))
    size = min(3.0, 7.6 / across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(size * across + 0.4, size * down),
        squeeze=False,
        layout="constrained",
    )
    for i, (ax, (name, values)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
        names = [[short(str(one)) for one in side] for side in (values.index, values)]
        matrix(ax, values.to_numpy(float), *names, title=name, size=8)
        ax.set_title(name, fontsize=9)
        if i % across:
            ax.set(ylabel="", yticklabels=[])
        if i < len(panels) - across:
            ax.set_xlabel("")
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure


def forest(
    ax: Axes, places: Sequence[str], groups: dict[str, Sequence[tuple[float, float, float]]]
) -> Axes:
    """Values with their intervals, a line a place, at most six groups side by side; a line marks 0.

    Args:
        groups: for each name one (value, low, high) a place.
    """
    marks = ("o", "s", "^", "D", "v", "x")
    colours = (BLACK, RED, SKY, GREEN, ORANGE, PINK)
    for i, (name, values) in enumerate(groups.items()):
        v, low, high = np.array(values, float).T
        y = np.arange(len(places)) + (i - (len(groups) - 1) / 2) * 0.8 / len(groups)
        errors = np.clip([v - low, high - v], 0, None)
        style = {"color": colours[i], "marker": marks[i], "ls": "", "ms": 4, "elinewidth": 1}
        ax.errorbar(v, y, xerr=errors, label=name, **style)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_yticks(range(len(places)), [short(place) for place in places])
    ax.invert_yaxis()
    ax.tick_params(labelsize=9)
    return ax


def dots(
    ax: Axes,
    places: Sequence[str],
    groups: dict[str, Sequence[tuple[float, float, float]]],
    *,
    few: Sequence[str] = (),
    counts: dict[str, int] | None = None,
) -> Axes:
    """For each name one (value, low, high) a place, as a dot with its interval, side by side;
    places are categories, so no line joins them.

    Args:
        few: groups of few images, drawn hollow and thin. counts: images a group, for the legend.
    """
    step = 0.8 / max(1, len(groups))
    for i, (name, values) in enumerate(groups.items()):
        v, low, high = np.array(values, float).reshape(-1, 3).T
        at, chosen = np.arange(len(v)) + (i - (len(groups) - 1) / 2) * step, colour(name)
        label = LABELS.get(name, name) + (f" (n = {counts[name]})" if counts else "")
        _, style = STYLES.get(name, STRANGER)
        ax.errorbar(
            at,
            v,
            np.clip([v - low, high - v], 0, None),
            fmt="s" if style != "-" else "o",
            ms=5,
            color=chosen,
            mfc="white" if name in few else chosen,
            elinewidth=0.6 if name in few else 1.4,
            label=label,
        )
    for place in range(1, len(places)):
        ax.axvline(place - 0.5, color="#DDDDDD", lw=0.8, zorder=0)
    ax.set_xticks(range(len(places)), places)
    ax.set_xlim(-0.5, len(places) - 0.5)
    return ax


def views_under_attack(
    x: torch.Tensor,
    x_adv: torch.Tensor,
    views: dict[str, tuple[torch.Tensor, torch.Tensor]],
    *,
    title: str = "",
    k: float | None = None,
) -> Figure:
    """Clean and adversarial images and the perturbation x k, then of each view the clean image's
    and the adversarial one's; a picture that is black all over is said to be empty.
    """
    delta = x_adv - x
    k = k or max(1.0, float(f"{0.5 / delta.abs().max().clamp_min(1e-6).item():.1g}"))
    rows = {
        "clean": x,
        "adversarial": x_adv,
        f"perturbation\nx {k:g}": (0.5 + k * delta).clamp(0, 1),
    }
    for name, (clean, adversarial) in views.items():
        rows[f"{name},\nclean"], rows[f"{name},\nadversarial"] = clean, adversarial
    figure = gallery(rows, size=0.75)
    for ax in figure.axes:
        if ax.images and not np.any(ax.images[0].get_array()):
            ax.text(
                0.5,
                0.5,
                "empty",
                transform=ax.transAxes,
                color="white",
                fontsize=9,
                ha="center",
                va="center",
            )
    figure.suptitle(title, fontsize=11, y=0.98)
    return figure


TRANSFORMS = {
    "none": BLACK,
    "colour_reversing": RED,
    "zero_mean": BLUE,
    "zero_mean_image": SKY,
    "zero_mean_brightness": GREEN,
    "zero_mean_undone": PINK,
}  # paper 003's transformations, each in a colour of its own


MOST_CURVES = 6  # on one axis


def detection_against_ospa(
    ax: Axes, table: pd.DataFrame, by: Sequence[str], *, bounds: str = "", marker: str = "o"
) -> Axes:
    """Detection against the share of clean images kept, a curve for each value of `by`.

    Args:
        table: columns `ospa`, `detection`, and those of `by`: "transform" gives the colour, a
            "theta" of 0 a dashed line. No legend is drawn: that of several panels is one.
        bounds: a column of intervals (low, high), drawn as bars.
    Raises:
        InputError: more than six curves.
    """
    groups = list(table.groupby(list(by), sort=False))
    if len(groups) > MOST_CURVES:
        raise InputError(f"{len(groups)} curves do not fit on one axis: choose {MOST_CURVES}.")
    for key, rows in groups:
        named = dict(zip(by, key, strict=True))
        words = [str(named["transform"])]
        if "theta" in named:
            words.append(f"theta {named['theta']}")
        style = {
            "color": TRANSFORMS.get(named["transform"], STRANGER[0]),
            "ls": "--" if named.get("theta") == 0 else "-",
            "lw": 1.2 if named.get("theta") == 0 else 1.8,
        }
        curve(ax, rows["ospa"], rows["detection"], ", ".join(words), marker=marker, **style)
        if bounds:
            low, high = np.array(rows[bounds].tolist(), float).T
            reach = np.clip([rows["detection"] - low, high - rows["detection"]], 0, None)
            faint = {"color": style["color"], "alpha": 0.3, "ls": "none", "lw": 1}
            ax.errorbar(rows["ospa"], rows["detection"], yerr=reach, **faint)
    ax.set(xlim=(0.2, 1.01), ylim=(-0.02, 1.04), ylabel="share of successful attacks detected")
    if not groups:
        ax.text(0.6, 0.5, "no attack succeeded", ha="center", fontsize=9)
    return ax


def say_empty(axes: Sequence[Axes], maps: torch.Tensor) -> Sequence[Axes]:
    """Write "empty" on the pictures of those maps (n,1,h,w) that have one value everywhere."""
    for ax, one in zip(axes, maps, strict=False):
        if one.amax() == one.amin():
            middle = {"ha": "center", "va": "center", "transform": ax.transAxes}
            ax.text(0.5, 0.5, "empty", color="white", fontsize=9, **middle)
    return axes


def ospa_panels(
    table: pd.DataFrame,
    by: Sequence[str],
    titles: dict[str, str],
    *,
    label: str,
    bounds: str = "",
    marker: str = "o",
) -> Figure:
    """`detection_against_ospa` of each attack in a panel of its own, with one legend below.

    Args:
        table: with a column `attack`.
        titles: of each attack that is drawn.
        label: of the axis of OSPA.
    """
    size = (3.8 * len(titles), 3.4)
    figure, axes = plt.subplots(
        1, len(titles), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (attack, title) in zip(axes[0], titles.items(), strict=True):
        rows = table[table["attack"] == attack]
        detection_against_ospa(ax, rows, by, bounds=bounds, marker=marker)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(label)
        ax.label_outer()
    named = {}
    for ax in axes[0]:
        handles, names = ax.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    if named:
        place = {"loc": "outside lower center", "ncols": 3, "fontsize": 8}
        figure.legend(named.values(), named.keys(), **place)
    return figure


def sensitivity_histograms(groups: dict[str, np.ndarray], ax: Axes, *, bins: int = 40) -> Axes:
    """Logarithms of the input sensitivity of several groups of images over common bins, as shares
    of each group: the first group filled, the others in outline (paper 004, figures 3 and 4).

    Args:
        groups: for each name decimal logarithms (n,); a group without images is said to be empty.
    Raises:
        InputError: more groups than one axis can show.
    """
    if len(groups) > MOST_CURVES:
        raise InputError(f"{len(groups)} curves do not fit on one axis: choose {MOST_CURVES}.")
    shades = (GREY, RED, SKY, GREEN, ORANGE, PINK)
    styles = ("-", "-", "--", "-.", "-", "--")
    values = {name: _array(group) for name, group in groups.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
    for i, (name, group) in enumerate(values.items()):
        told = f"{name} (n = {len(group)})" if len(group) else f"{name} (empty: none)"
        look = {"histtype": "step", "ls": styles[i], "lw": 1.6} if i else {"alpha": 0.45}
        share = np.full(len(group), 1 / max(1, len(group)))
        ax.hist(group, edges, weights=share, color=shades[i], label=told, **look)
    ax.set(xlabel="log10 of the input sensitivity", ylabel="share of images")
    ax.legend(fontsize=8)
    return ax


def setting(name: str) -> str:
    """A setting's name as a figure with little room has it: "004.pgd_targeted" is "PGD T"."""
    attack = name.rpartition(".")[2].removesuffix("_targeted").removesuffix("_quick")
    return short(attack) + (" T" if name.endswith("_targeted") else "")


OUTCOMES = {  # of a claim, best first, with their colours
    "holds": GREEN,
    "in part": SKY,
    "undecided": "#dddddd",
    "does not": RED,
    "outside the paper's scope": "#f4f4f4",
    "not testable here": "white",
}
CONTROLS = {"survives": "+", "does not survive": "x", "not run": ""}


def outcomes(ax: Axes, verdicts: pd.DataFrame) -> Axes:
    """A square for each claim (row) and run (column) in the colour of its outcome, and in it what
    its control says: + it survives, x it does not, nothing: not run.

    Args:
        verdicts: rows with `claim`, `run`, `verdict` (of OUTCOMES, perhaps with more words after a
            colon) and `control` (of CONTROLS).
    """
    claims, runs = (list(dict.fromkeys(verdicts[key])) for key in ("claim", "run"))
    for row in verdicts.itertuples():
        at = runs.index(row.run), claims.index(row.claim)
        outcome = row.verdict.partition(":")[0]
        place = (at[0] - 0.5, at[1] - 0.5)
        ax.add_patch(Rectangle(place, 1, 1, facecolor=OUTCOMES[outcome], edgecolor="white"))
        ax.text(*at, CONTROLS[row.control], ha="center", va="center", fontsize=9)
    for outcome, fill in OUTCOMES.items():
        ax.plot([], [], "s", color=fill, markeredgecolor=GREY, label=outcome)
    ax.set(xlim=(-0.5, len(runs) - 0.5), ylim=(len(claims) - 0.5, -0.5))
    ax.set_xticks(range(len(runs)), runs, rotation=30, ha="right", fontsize=8)
    ax.set_yticks(range(len(claims)), claims, fontsize=8)
    return ax
