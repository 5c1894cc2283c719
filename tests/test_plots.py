"""Figures show what they are given."""

from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from nbutils import plots
from nbutils.attacks.settings import SETTINGS
from nbutils.detectors.groups import CONFIDENCE, LEARNED, SCALARS
from nbutils.evaluation.metrics import auroc

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def test_gallery_shows_each_image_once_under_its_title():
    images = torch.rand(3, 3, 5, 5)
    figure = plots.gallery({"clean": images, "grey": images[:2, :1]}, ["a", "b", "c"])
    shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(shown) == 5 and shown[3].shape == (5, 5)
    assert np.allclose(shown[1], images[1].permute(1, 2, 0))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    assert figure.axes[3].get_ylabel() == "grey"
    assert figure.get_size_inches()[0] <= 8


def test_perturbations_stand_in_order_and_name_their_scale():
    x = torch.full((2, 1, 4, 4), 0.4)
    figure = plots.perturbations(x, x + 0.1)
    labels = [figure.axes[i].get_ylabel() for i in (0, 2, 4)]
    assert labels == ["clean", "adversarial", "perturbation\nx 5"]
    assert np.allclose(figure.axes[4].images[0].get_array(), 1.0)
    assert plots.perturbations(x, x).axes[4].images[0].get_array().mean() == 0.5


def test_signed_maps_have_grey_zero_and_their_own_scale():
    maps = torch.tensor([[-2.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    want = torch.tensor([[0.0, 0.5, 0.75, 0.5], [0.5] * 4])
    assert torch.allclose(plots.signed(maps).flatten(1), want)


def test_histogram_counts_every_image(ax):
    plots.histogram(ax, {"clean": torch.randn(40), "fgsm": torch.randn(3, 10)}, threshold=0.0)
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["clean (n = 40)", "fgsm (n = 30)"]


def test_roc_has_the_area_of_auroc(ax):
    clean = np.random.default_rng(0).normal(0, 1, 50).round(1)
    adversarial = np.random.default_rng(1).normal(1, 1, 60).round(1)
    plots.roc(ax, {"id": (torch.from_numpy(clean), torch.from_numpy(adversarial))})
    x, y = ax.lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(auroc(clean, adversarial))


def test_matrix_writes_rows_as_trained_on(ax):
    plots.matrix(ax, np.array([[0.5, 0.75], [1.0, 0.6]]), ["a", "b"], ["c", "d"])
    assert [t.get_text() for t in ax.texts] == ["0.50", "0.75", "1.00", "0.60"]
    assert ax.get_ylabel() == "trained on"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_curve_draws_its_interval(ax):
    plots.curve(ax, [1, 2], [0.5, 0.6], "fgsm", [(0.4, 0.6), (0.5, 0.7)])
    assert ax.lines[0].get_color() == plots.colour("fgsm") and len(ax.collections) == 1


def test_bars_have_their_heights_and_intervals(ax):
    heights = {
        "adversarial": [(0.9, 0.8, 0.95), (0.5, 0.4, 0.6)],
        "clean": [(0.0, 0.0, 0.1), (1.0, 0.9, 1.0)],
    }
    plots.bars(ax, ["id", "jsd"], heights)
    assert [round(p.get_height(), 3) for p in ax.patches] == [0.9, 0.5, 0.0, 1.0]
    first = ax.containers[1].errorbar if hasattr(ax.containers[1], "errorbar") else ax.containers[0]
    segments = first.lines[2][0].get_segments()
    assert segments[0][:, 1] == pytest.approx([0.8, 0.95])


def test_every_attack_and_detector_has_a_line_of_its_own():
    """As many colours as are safe, then line styles; what is drawn in one figure is told apart."""
    drawn = ("id", "jsd", "jacobian", "jsd_shuffled", "jsd_random", *LEARNED)
    of_004 = ("id", "id_high_pass", "spectral", "jsd", "insen", "insen_log", "insen_pattern")
    of_004 += ("insen_norm", "gcd", "gcd_cured", *CONFIDENCE)
    for names in (SETTINGS, drawn, SCALARS, of_004):
        lines = [tuple(plots.line(name).values()) for name in names]
        assert len(set(lines)) == len(lines)
        assert tuple(plots.line("stranger").values()) not in lines
    safe = {plots.colour(name) for name in plots.STYLES}
    assert len(safe) <= 9  # Okabe and Ito's, black, two greys


MONEY = ["5$ & 10$$", "20$^{"]
LONG = [
    "T-shirt or top",
    "a wing of an African grey parrot",
    "Donaudampfschifffahrtskapitän",
    "hand-held_computer",
    "English springer",
    "2",
]


def pictures_with(names):
    """Every figure of pictures, with these names as its titles and labels."""
    n = len(names)
    x, both = torch.rand(n, 1, 6, 6), [f"{a}\n-> {b}" for a in names for b in names[:1]]
    read = [f"read as {name}\n(99.8%)" for name in names]
    yield plots.gallery({name: x for name in names}, both, title=names[0])
    yield plots.perturbations(x, x.flip(0), names, title=names[0])
    yield plots.captioned({name: x for name in names[:2]}, [read] * 2, title=names[0])
    yield plots.album(x, read, columns=4, title=names[0])
    yield plots.attacked(x, x.flip(0), ["ddn"] * n, names, "another of the classes")
    yield plots.map_gallery(x, {name: x for name in names}, read, caption=names[0])


def drawn(figure):
    """The texts of a figure in their places, a title each for every column of images."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        if ax.get_title():
            yield ax.title, ax.title.get_window_extent(renderer)


def test_a_users_classes_are_drawn_letter_by_letter():
    """A folder may be called anything, and dollar signs are no mathematics."""
    for figure in pictures_with(MONEY):
        figure.canvas.draw()
        texts = [text for text in figure.findobj(matplotlib.text.Text) if "$" in text.get_text()]
        assert texts
        for text in texts:
            shown, kind = text._preprocess_math(text.get_text())
            assert kind is False and "\\" not in shown
        said = " ".join(text._preprocess_math(text.get_text())[0] for text in texts)
        assert "5$ &" in said and "20$^{" in said
    assert plots.plain(r"a\$b $") == r"a\\$b \$"


@pytest.mark.parametrize("names", [LONG, LONG * 2, [*MONEY, *LONG]])
def test_titles_side_by_side_do_not_run_into_one_another(names):
    for figure in pictures_with(names[:8]):
        rows = {}
        for title, box in drawn(figure):
            rows.setdefault(title.axes.get_subplotspec().rowspan.start, []).append(box)
        for boxes in rows.values():
            boxes.sort(key=lambda box: box.x0)
            for left, right in pairwise(boxes):
                assert left.x1 < right.x0


def test_the_title_above_all_stands_above_those_of_the_columns():
    for names in (LONG, ["1", "2"]):
        x = torch.rand(len(names), 1, 6, 6)
        figure = plots.gallery({"image": x}, [f"{a}\nread as {a}" for a in names], title="all")
        highest = max(box.y1 for _, box in drawn(figure))
        assert figure._suptitle.get_window_extent().y0 > highest


def test_classes_with_the_same_first_words_keep_a_row_each():
    names = ["hand made red pot of clay", "hand made red pot of tin", "a"]
    figure = plots.gallery({name: torch.rand(2, 1, 6, 6) for name in names})
    labels = [ax.get_ylabel().replace("\n", " ") for ax in figure.axes[::2]]
    assert labels == names


def test_a_name_is_wrapped_or_cut_between_words():
    wide = (plots._width("T-shirt or", 9) + 7) / 72
    assert plots.fitted("T-shirt or top", wide, 9) == "T-shirt or\ntop"
    assert plots.fitted("T-shirt or top", wide, 9, lines=1) == "T-shirt …"
    assert plots.fitted("T-shirt or top\n(99%)", 9, 9) == "T-shirt or top\n(99%)"
    narrow = (plots._width("hand-held_", 9) + 7) / 72
    assert plots.fitted("hand-held_computer", narrow, 9) == "hand-held_\ncomputer"
    for text in (*LONG, *MONEY, "", "   ", "- - -", "a_b-c/d"):
        for lines in (1, 2, 3):
            found = plots.fitted(text, 0.6, 9, lines=lines).split("\n")
            assert len(found) <= lines
            assert all(plots._width(line, 9) <= 0.6 * 72 for line in found)


def test_sensitivities_are_shares_of_each_group_over_common_bins():
    _, ax = plt.subplots()
    groups = {"clean": np.array([-3.0, -2.0, -1.0]), "DDN": np.array([0.0]), "PGD": np.array([])}
    plots.sensitivity_histograms(groups, ax, bins=6)
    bars = [(bar.get_x(), bar.get_height()) for bar in ax.containers[0] if bar.get_height()]
    assert bars == [(x, pytest.approx(1 / 3)) for x in (-3, -2, -1)]
    one, none = [shape.get_xy() for shape in ax.patches if hasattr(shape, "get_closed")]
    assert one[:, 1].max() == 1 and one[one[:, 1] > 0, 0].tolist() == [-0.5, 0]  # on their bins
    assert not none[:, 1].any()
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == ["clean (n = 3)", "DDN (n = 1)", "PGD (empty: none)"]


def test_a_setting_is_short_in_a_figure():
    names = ["004.pgd_targeted", "004.carlini_wagner_l2_quick", "004.fgsm", "ddn"]
    assert [plots.setting(name) for name in names] == ["PGD T", "C&W", "FGSM", "DDN"]


def test_outcomes_are_squares_with_the_controls_sign():
    rows = [
        {"claim": "a", "run": "one", "verdict": "holds", "control": "survives"},
        {"claim": "b", "run": "one", "verdict": "does not", "control": "does not survive"},
        {
            "claim": "b",
            "run": "two",
            "verdict": "outside the paper's scope: holds",
            "control": "not run",
        },
    ]
    ax = plots.outcomes(plt.subplots()[1], pd.DataFrame(rows))
    found = {
        (round(p.get_x() + 0.5), round(p.get_y() + 0.5)): matplotlib.colors.to_hex(
            p.get_facecolor()
        )
        for p in ax.patches
    }
    want = {(0, 0): "holds", (0, 1): "does not", (1, 1): "outside the paper's scope"}
    assert found == {
        place: matplotlib.colors.to_hex(plots.OUTCOMES[name]) for place, name in want.items()
    }
    signs = {tuple(map(round, text.get_position())): text.get_text() for text in ax.texts}
    assert signs == {(0, 0): "+", (0, 1): "x", (1, 1): ""}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]


def test_a_matrix_leaves_blank_what_was_not_measured():
    ax = plots.matrix(plt.subplots()[1], np.array([[0.5, np.nan]]), ["a"], ["b", "c"])
    assert [text.get_text() for text in ax.texts] == ["0.50", ""]


def test_a_figure_of_curves_is_told_by_its_title_axes_and_legend(ax):
    plots.curve(ax, [1, 2], [0.5, 0.6], "fgsm")
    plots.curve(ax, [1, 2], [0.5, 0.6], "id")
    ax.set(xlabel="eps in\n1/255", ylabel=r"AUROC of $\theta$")
    ax.legend()
    told = "x: eps in 1/255. y: AUROC of theta. Legend: fgsm; id."
    assert plots.described(ax.figure) == f"Figure. {told}"
    ax.set_title("One panel")
    assert plots.described(ax.figure) == f"Figure: One panel. {told}"
    ax.figure.suptitle("Is it found?")
    assert plots.described(ax.figure) == f"Figure: Is it found? Panels: One panel. {told}"


def test_a_figure_of_pictures_is_told_by_its_rows_and_captions():
    x = torch.rand(3, 1, 4, 4)
    figure = plots.perturbations(x, x + 0.1, ["9", *MONEY], title="FGSM, 3 of 150 images")
    assert plots.described(figure) == (
        "Figure: FGSM, 3 of 150 images. 9 pictures. Rows: clean; adversarial; perturbation x 5. "
        "Captions: 9; 5$ & 10$$; 20$^{."
    )
    empty = torch.zeros(1, 1, 4, 4)
    figure = plots.map_gallery(x[:1], {"logit": empty}, caption="A map and its image")
    assert plots.described(figure) == (
        "Figure: A map and its image. 2 pictures. Rows: image; logit. "
        "Colours: share of the map's largest value. Written in it: empty."
    )


def test_a_figure_of_categories_names_its_places_and_no_number(ax):
    plots.bars(ax, ["id\n(n = 9)", "jsd"], {"fgsm": [(0.5, 0.4, 0.6)] * 2})
    ax.set_yscale("log")
    ax.text(0, 0.5, "0.50")
    ax.text(0, 0.5, "nothing here")
    told = "Along x: id (n = 9); jsd. Written in it: nothing here."
    assert plots.described(ax.figure) == f"Figure. {told}"
    table = pd.DataFrame(np.full((2, 2), 0.7), ["fgsm", "pgd"], ["bim", "ddn"])
    figure = plots.matrices(
        {"id": table, "jsd": table, "smd": table}, across=2, title="Each on each"
    )
    assert plots.described(figure) == (
        "Figure: Each on each. Panels: id; jsd; smd. x: tested on. Along x: BIM; DDN. "
        "y: trained on. Along y: FGSM; PGD."
    )


def test_a_long_list_ends_with_how_many_more_there_are():
    names = [f"attack {i}" for i in range(11)]
    figure, axes = plt.subplots(1, 2, layout="constrained")
    plots.marks(axes[0], names, {"id": range(11)})
    figure.legend(["one of id"], loc="outside upper center")
    told = plots.described(figure)
    assert told.startswith(f"Figure. Along x: {'; '.join(names[:8])}; 3 more. Legend: one of id")
    told = plots.described(figure, most=2)
    assert "Along x: attack 0; attack 1; 9 more." in told


def test_a_notebook_keeps_with_each_figure_what_it_shows():
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        plots.in_small_files()
        _, ax = plt.subplots()
        ax.plot([1, 2], [1, 2])
        ax.set_title("A rise")
        data, metadata = shell.display_formatter.format(ax.figure)
    finally:
        InteractiveShell.clear_instance()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"] == {"alt": "Figure: A rise."}
