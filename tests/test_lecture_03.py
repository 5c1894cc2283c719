"""What notebook 03 rests on: distances of maps, the tables made of them, the selector swap, what 32
bits lose, and the pictures of maps.
"""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from nbutils import plots, steps
from nbutils.evaluation import map_distances, underflow
from nbutils.evaluation.distances import distances, mann_whitney
from nbutils.steps.tables import SELECTOR_PARTS, selector_maps, selector_swap

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def maps():
    """Maps of nine images, clean and under two attacks, of which `still` moves none."""
    generator = torch.Generator().manual_seed(0)
    clean, pushed = torch.rand(2, 9, 1, 4, 4, generator=generator)
    return {"clean": clean, "still": clean.clone(), "pushed_000": pushed}


CLASSES = torch.tensor([0, 1, 2] * 3)


def test_moved_is_the_root_of_the_mean_squared_difference():
    clean = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).view(1, 1, 2, 2)
    attacked = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).view(1, 1, 2, 2)
    assert map_distances.moved(clean, attacked).item() == 0.5
    assert map_distances.moved(clean, 4 * clean).item() == 1.5
    assert map_distances.moved(clean, 4 * clean, scaled=True).item() == 0
    assert clean.max() == 1  # the inputs stay as they are


def test_natural_compares_each_map_with_two_others_and_never_with_itself():
    maps = 2.0 ** torch.arange(8)[:, None, None, None].expand(8, 1, 2, 2)
    found, same = map_distances.natural(maps, torch.zeros(8), seed=1)
    assert (found > 0).all() and same.all()
    total = torch.zeros(8)
    for one in range(8):  # differences of powers of two name their pair
        for two in range(one):
            count = (found == 2.0**one - 2.0**two).sum()
            total[one] += count
            total[two] += count
    assert (total == 2).all()
    assert torch.equal(found, map_distances.natural(maps, torch.zeros(8), seed=1)[0])
    assert not map_distances.natural(maps, torch.arange(8))[1].any()


def test_table1_measures_attacks_by_the_distance_of_two_images(maps):
    fooled = {"still": torch.zeros(9, dtype=bool), "pushed_000": torch.arange(9) < 6}
    before = maps["clean"].clone()
    rows = {row["attack"]: row for row in map_distances.table1(maps, CLASSES, fooled, seed=3)}
    apart, same = map_distances.natural(maps["clean"], CLASSES, seed=3)
    still, pushed = rows["still"], rows["pushed"]
    assert rows["different_images"]["here"] == pytest.approx(apart.mean().item())
    assert rows["different_images, other class"]["n"] == int((~same).sum())
    assert still["here"] == still["effect"] == still["success"] == 0
    assert "effect_fooled" not in still and pushed["n_fooled"] == 6
    moved = distances(maps["clean"], maps["pushed_000"])
    assert pushed["effect"] == mann_whitney(moved, apart)["effect"]
    assert pushed["effect_fooled"] == mann_whitney(moved[:6], apart)["effect"]
    assert pushed["norm"] == pytest.approx(4 * pushed["here"])
    assert pushed["effect_interval"][0] < pushed["effect"] < pushed["effect_interval"][1]
    assert torch.equal(maps["clean"], before)


def test_table5_has_each_pair_of_attacks_once(maps):
    labels = {"clean": CLASSES, "still": CLASSES, "pushed_000": torch.zeros(9, dtype=int)}
    (row,) = map_distances.table5(maps, labels)
    assert (row["attack_a"], row["attack_b"]) == ("still", "pushed")
    assert row["here"] == distances(maps["still"], maps["pushed_000"]).mean().item()
    assert row["same label"] == pytest.approx(1 / 3)
    assert map_distances.table5({"clean": maps["clean"]}, labels) == []


def test_effects_tell_a_larger_map_from_another_one(maps):
    kinds = {"learned": {"clean": maps["clean"], "louder": 100 * maps["clean"]}}
    (row,) = map_distances.effects(kinds, CLASSES)
    assert (row["map"], row["attack"], row["n"]) == ("learned", "louder", 9)
    assert row["raw"] == 1 and row["scaled"] == 0
    assert row["raw_interval"][0] < 1


def test_sizes_count_empty_maps():
    maps = torch.zeros(3, 1, 2, 2)
    maps[0, 0, 0, 0], maps[1] = 4, 2
    (row,) = map_distances.sizes_of_maps({"grad_cam": {"clean": maps}})
    assert row["largest"] == 2 and row["empty"] == pytest.approx(1 / 3) and row["n"] == 3
    half = map_distances.half_area(maps)
    assert half[:2].tolist() == [0.25, 0.5] and half[2].isnan()


def test_perturbation_ranks_of_a_perturbation_that_follows_the_map(maps):
    own = {"bim": 0.1 * maps["still"], "flat": torch.ones(9, 1, 4, 4)}
    jacobians = {"clean": maps["clean"], "bim": maps["clean"], "flat": maps["clean"]}
    follows, flat = map_distances.perturbation_ranks(jacobians, own)
    assert follows["clean Jacobian"] == follows["attacked Jacobian"] == pytest.approx(1)
    assert abs(follows["control"]) < 0.5 and follows["interval"][0] > 0
    assert np.isnan(flat["attacked Jacobian"]) and np.isnan(flat["interval"][0])


def test_the_largest_change_is_over_the_channels():
    x = torch.zeros(1, 3, 2, 2)
    x_adv = x.clone()
    x_adv[0, 1, 0, 0], x_adv[0, 2, 0, 0] = 0.2, -0.5
    assert map_distances.largest_change(x, x_adv).flatten().tolist() == [0.5, 0, 0, 0]


def test_columns_and_names_are_those_of_the_paper():
    assert map_distances.column_of_000("digits_rgb") == "mnist"
    assert map_distances.column_of_000("cifar10") == "cifar10"
    assert map_distances.column_of_000("folder") == "cats_dogs"
    assert map_distances.printed_name("jsma_000") == "jsma"


def test_a_sure_classifiers_softmax_is_lost_in_32_bits_and_its_logit_is_not():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():  # 1 - p is e^-25: rounded to zero in 32 bits, not in 64
        model[1].weight.copy_(torch.tensor([[25.0, 0, 0, 0], [0, 0, 0, 0]]))
        model[1].bias.zero_()
    x, labels = torch.ones(5, 1, 2, 2), torch.zeros(5, dtype=int)
    rows = underflow.underflow(model, {"clean": x}, {"clean": labels})
    lost = {row["derivative of"]: row for row in rows}
    assert lost["softmax"]["maps all zero"] == lost["softmax"]["maps off by a tenth"] == 1
    assert lost["logit"]["maps all zero"] == lost["logit"]["maps off by a tenth"] == 0
    assert lost["cross_entropy"]["n"] == 5
    assert model[1].weight.dtype == torch.float32


def test_the_selector_swap_changes_one_thing_at_a_time(smoke):
    pairs = steps.adversarial(smoke, "fgsm")
    rows = pairs.success.nonzero()[:, 0]
    found = selector_maps(smoke, "logit_gradient", pairs, rows)
    assert list(found) == ["clean", *SELECTOR_PARTS]
    wanted = steps.maps(smoke, "logit_gradient", pairs.x[rows], pairs.prediction_adv[rows])
    assert torch.equal(found["label"], wanted)
    frame = selector_swap(smoke, ["logit_gradient"], {"fgsm": pairs})
    assert list(frame.columns) == ["map", "attack", *SELECTOR_PARTS, "n"]
    for part in SELECTOR_PARTS:
        moved = distances(found["clean"], found[part]).mean().item()
        assert frame[part].item() == pytest.approx(moved)
    assert frame["n"].item() == len(rows)


def test_an_attack_that_fooled_nobody_has_no_swap(smoke):
    pairs = steps.adversarial(smoke, "fgsm")
    none = type(pairs)(**{**vars(pairs), "success": torch.zeros_like(pairs.success)})
    frame = selector_swap(smoke, ["logit_gradient"], {"fgsm": none})
    assert frame.empty and "both" in frame.columns


def test_a_gallery_says_how_each_map_is_scaled_and_which_is_empty():
    maps = torch.zeros(3, 1, 4, 4)
    maps[0, 0, 0, 0], maps[1, 0, 0, 0] = 2.0, 1e-5
    figure = plots.map_gallery(torch.rand(3, 1, 4, 4), {"grad_cam": maps}, ["a", "b", "c"])
    axes = figure.axes[3:6]
    assert [ax.get_xlabel() for ax in axes] == ["2.00", "1.0e-05", ""]
    assert axes[1].images[0].get_array().max() == 1
    assert [t.get_text() for t in axes[2].texts] == ["empty"] and not axes[0].texts
    assert figure.axes[-1].get_ylabel() == "share of the map's largest value"
    assert figure.get_size_inches()[0] <= 8
    same = plots.map_gallery(torch.rand(3, 1, 4, 4), {"learned": maps}, each=False)
    assert same.axes[3].images[0].get_array().max() == 2 and not same.axes[3].get_xlabel()


def test_marks_are_joined_by_no_line():
    ax = plots.marks(plt.subplots()[1], ["a", "b"], {"id": [1, 2], "jsd": [3, float("nan")]})
    drawn = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_linestyle() for line in drawn] == ["None", "None"]
    assert drawn[0].get_xdata()[0] < drawn[1].get_xdata()[0]
    assert drawn[1].get_color() == plots.colour("jsd")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]


def test_a_distance_is_written_under_what_it_adds_up():
    one, other = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    other[0, 0, 0] = 1
    figure = plots.map_distance(one, {"another image": other})
    assert "distance 0.50" in [ax.get_title() for ax in figure.axes]


def test_the_rank_statistic_shows_every_distance():
    ax = plots.rank_statistic(
        plt.subplots()[1], torch.rand(7), torch.rand(5), 0.25, ["images", "fgsm"]
    )
    assert sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == ".") == 12
    assert ax.get_title() == "effect 0.25"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["images\nn = 7", "fgsm\nn = 5"]


def test_a_small_png_is_the_same_picture_in_fewer_bytes():
    from PIL import Image

    figure, ax = plt.subplots(figsize=(3, 3))
    ax.imshow(np.random.default_rng(0).random((28, 28)), cmap="gray")
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=figure.dpi, bbox_inches="tight")
    small = plots.small_png(figure)
    assert len(small) < 0.6 * len(whole.getvalue())
    a, b = (Image.open(file).convert("L") for file in (whole, io.BytesIO(small)))
    assert a.size == b.size
    assert np.abs(np.asarray(a, float) - np.asarray(b, float)).max() <= 8
    assert plots.in_small_files() is None  # outside a notebook
