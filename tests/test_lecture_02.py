"""What notebook 02 tells: JSMA's pair rule, the tables of attacks, and its figures."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nbutils import plots, steps
from nbutils.attacks.jsma import best_pairs
from nbutils.attacks.jsma_reference import best_pair_reference
from nbutils.evaluation import distances, papers
from nbutils.steps import tables
from tests.conftest import configure

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def few(smoke):
    return {name: steps.adversarial(smoke, name) for name in ("fgsm", "deepfool", "jsma")}


@pytest.fixture(scope="module")
def of_02(tmp_path_factory):
    given = {"EPS_255": 32.0, "STEPS": 3, "BACKEND": "nbutils"}
    return configure(tmp_path_factory.mktemp("of_02"), notebook="02_attacks", **given)


@pytest.mark.parametrize("seed", range(10))
def test_the_fast_pairs_are_those_of_the_reference(seed):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 40, 2 + 15 * seed, generator=rng, dtype=torch.float64)
    a = a - (seed % 3)  # with few values that raise the target, or none
    free = torch.rand(a.shape, generator=rng) > 0.3
    pairs, found = best_pairs(a, b, free)
    for one, pair, there in zip(zip(a, b, free, strict=True), pairs, found, strict=True):
        reference = best_pair_reference(*one)
        assert bool(there) == (reference is not None)
        if reference:
            assert tuple(sorted(pair.tolist())) == reference


def test_the_reference_takes_the_best_pair_by_hand_and_none_where_there_is_none():
    a, b = torch.tensor([3.0, 1.0, 2.0, -1.0]), torch.tensor([-1.0, -2.0, -2.0, -9.0])
    everything = torch.ones(4, dtype=torch.bool)
    assert best_pair_reference(a, b, everything) == (0, 3)  # 2 * 10, before 5 * 3
    assert best_pair_reference(a, b, torch.tensor([True, True, True, False])) == (0, 2)
    assert best_pair_reference(a, b, torch.tensor([True, False, False, False])) is None
    assert best_pair_reference(-a.abs(), b, everything) is None
    assert best_pair_reference(a, b.abs(), everything) is None


def test_the_parameters_change_the_settings_that_have_such_knobs(of_02):
    assert tables.knobs(of_02, "fgsm") == {"eps": 32 / 255, "steps": None, "backend": "nbutils"}
    assert tables.knobs(of_02, "bim") == {"eps": 32 / 255, "steps": 3, "backend": "nbutils"}
    assert tables.knobs(of_02, "pgd_l2") == {"eps": None, "steps": 3, "backend": "nbutils"}
    assert tables.knobs(of_02, "jsma") == {"eps": None, "steps": None, "backend": "nbutils"}
    within = [name for name in ("fgsm", "pgd", "pgd_l2", "ddn") if tables.within_linf(of_02, name)]
    assert within == ["fgsm", "pgd"]


def test_success_is_that_of_the_set_and_a_sweep_is_of_successes(of_02):
    made = steps.adversarial(of_02, "fgsm", eps=0.1)
    share = tables.success(of_02, "fgsm", eps=0.1)
    assert share == made.success.float().mean().item() == pytest.approx(made.record["success_rate"])
    swept = tables.sweep(of_02, ["fgsm"], [{"eps": 0.1}, {"eps": 0.0}])
    assert swept == {"fgsm": [share, 0.0]}
    assert tables.sweep(of_02, [], [{"eps": 0.1}]) == {}


def test_the_nearest_is_the_first_of_several():
    assert tables.nearest([0.0, 0.25, 0.75], 0.5) == 1
    assert tables.nearest([0.0, 0.2, 0.2], 0.5) == 1
    assert tables.nearest([1.0], 0.5) == 0


def test_what_is_reached_counts_changed_predictions_and_all_images(few):
    rows = {row["setting"]: row for row in tables.reached(few)}
    for name, made in few.items():
        row = rows[name]
        changed = (made.prediction_adv != made.prediction).float().mean().item()
        assert row["success"] == pytest.approx(changed) and row["n"] == len(made.x)
        assert row["interval"][0] <= row["success"] <= row["interval"][1]
        assert row["l2"] == distances.sizes(made.x, made.x_adv)["l2"].mean().item()


def test_rows_stand_beside_the_papers_under_its_names(few):
    sizes, accuracies = tables.beside_000(tables.reached(few), {"accuracy": 0.98, "n": 200})
    # its DeepFool makes two steps, so the whole one has no row
    assert {row["setting"] for row in sizes} == {"fgsm", "jsma"} and len(sizes) == 6
    assert [row["attack"] for row in accuracies] == ["clean", "fgsm", "jsma"]
    assert accuracies[0]["here"] == 98.0
    beside = papers.compare("000.table4", accuracies, dataset="mnist")
    assert beside["paper"].notna().all()


def test_costs_are_of_the_record_and_excess_of_those_whose_images_leave(smoke, few):
    model = steps.classifier(smoke).model
    rows = {row["setting"]: row for row in tables.costs(smoke, model, few)}
    assert rows["fgsm"]["forwards"] == rows["fgsm"]["backwards"] == 1
    assert all(row["overhead"] > 0 and row["seconds"] > 0 for row in rows.values())
    assert all(row["excess"] is None for row in rows.values())  # not asked at smoke size
    assert 0.9 < tables._excess(model, few["deepfool"], 12) < 1.2


def test_what_is_kept_has_no_margin_where_nothing_was_changed(smoke, few):
    model = steps.classifier(smoke).model
    idle = steps.adversarial(smoke, "fgsm", eps=0.0)
    assert not len(tables.leads(model, idle))
    row, other = tables.kept(model, {"idle": idle, "deepfool": few["deepfool"]})
    assert row["changed by attack"] == row["changed by noise"] == 0
    assert row["median margin"] is None
    ahead = tables.leads(model, few["deepfool"])
    assert (ahead >= 0).all() and other["median margin"] == float(np.median(ahead))


def test_the_library_makes_the_same_images(smoke):
    (row,) = tables.beside_cleverhans(smoke, ["fgsm"])
    assert row["share equal to 1e-6"] > 0.99
    assert row["success here"] == pytest.approx(row["success cleverhans"], abs=0.05)


def test_attacked_images_are_marked_and_a_perturbation_that_is_none_is_said_to_be():
    x = torch.full((2, 1, 4, 4), 0.4)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = 0.9
    figure = plots.attacked(x, x_adv, ["fgsm", "pgd_l2"], ["7", "3"], "3")
    axes = np.array(figure.axes).reshape(3, 2)
    assert [ax.get_title() for ax in axes[1]] == ["✓ read as 7", "✗ still 3"]
    assert [ax.get_xlabel() for ax in axes[2]] == ["k = 1", "no change"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["clean", "adversarial", "perturbation\nx k"]
    assert axes[2, 0].images[0].get_array()[0, 0] == pytest.approx(1.0)
    assert figure.get_size_inches()[0] <= 8


def test_dodged_points_keep_their_values_and_stand_side_by_side():
    ax = plots.dodged(plt.subplots()[1], [1, 2], {"bim": [0.5, 1.0], "mim": [0.5, 1.0]}, 100)
    first, second = (container.lines[0].get_xydata() for container in ax.containers)
    assert first[:, 1].tolist() == second[:, 1].tolist() == [0.5, 1.0]
    assert (second[:, 0] - first[:, 0] > 0.1).all()
    many = {str(i): [0.5] for i in range(9)}
    assert len(plots.dodged(plt.subplots()[1], [1], many, 10).containers) == 6
    assert "no such attack" in plots.dodged(plt.subplots()[1], [1], {}, 10).texts[0].get_text()


def test_quartiles_say_where_a_group_is_empty():
    groups = {"fgsm": np.array([1.0, 2.0, 3.0]), "ddn": np.array([])}
    ax = plots.quartiles(plt.subplots()[1], groups)
    assert ax.lines[0].get_xdata().tolist() == [1.5, 2.5] and ax.lines[1].get_xdata()[0] == 2.0
    assert [text.get_text() for text in ax.texts] == ["empty: no success"]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["fgsm (n = 3)", "ddn (n = 0)"]
