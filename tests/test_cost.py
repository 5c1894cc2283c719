"""What attacks cost: passes that are counted, against passes that are needed; their settings as the
papers state them.
"""

import time

import pytest
import torch

from nbutils import InputError
from nbutils.attacks import ATTACKS, cost
from nbutils.attacks.carlini_wagner import carlini_wagner_l2
from nbutils.attacks.settings import settings_for
from nbutils.data import DATASETS
from nbutils.models.contract import predict
from nbutils.steps import adversarial, classifier
from tests.conftest import configure

BUDGET = {
    "fgsm": {"eps": 0.1},
    "bim": {"eps": 0.1, "step": 0.02, "steps": 4},
    "mim": {"eps": 0.1, "step": 0.02, "steps": 4},
    "pgd": {"eps": 0.1, "step": 0.02, "steps": 4},
    "iterative_l2": {"eps": 0.1, "step": 0.02, "steps": 4},
    "ddn": {"steps": 4},
}


@pytest.mark.parametrize("name", BUDGET)
def test_gradient_attacks_use_the_passes_of_their_steps_and_no_more(name, net, images):
    y, steps = net(images).argmax(1), BUDGET[name].get("steps", 1)
    attack, needed = ATTACKS[name], (12 * steps, 12 * steps)
    assert cost.passes(attack, net, images, y, **BUDGET[name]) == needed
    assert cost.passes(attack, net, images, y, batch=5, **BUDGET[name]) == needed


def test_carlini_wagner_uses_at_most_its_rounds_and_no_gradient_that_nothing_follows(net, images):
    y, knobs = net(images).argmax(1), {"search_steps": 2, "steps": 5, "abort": False}
    assert cost.passes(carlini_wagner_l2, net, images, y, **knobs) == (12 * 10, 12 * 8)


@pytest.mark.parametrize(
    ("name", "most", "knobs"),
    [
        ("deepfool", 1.05, {}),
        ("jsma", 1.10, {"gamma": 0.2, "outputs": "logits"}),
        ("jsma", 1.10, {"gamma": 0.2, "outputs": "probabilities"}),
    ],
)
def test_finished_images_cost_little(smoke, name, most, knobs):
    base = classifier(smoke)
    x = smoke.data.test[:96].pixels()
    y = predict(base.model, x).argmax(1)
    attack = ATTACKS[name]
    used, needed = (cost.passes(attack, base.model, x, y, batch=n, **knobs) for n in (0, 1))
    assert 0.97 < cost.pass_excess(used, needed) <= most, (used, needed)


def test_targets_and_numbers_follow_their_images_through_smaller_batches(net, images):
    seen = []

    def spy(model, x, y, *, target, index):
        seen.append((len(x), y.tolist(), target.tolist(), index.tolist()))
        return model(x)

    y, target, index = torch.tensor([[0, 1, 2], [1, 2, 3], [7, 8, 9]])
    cost.passes(spy, net, images[:3], y, batch=2, target=target, index=index)
    assert seen == [(2, [0, 1], [1, 2], [7, 8]), (1, [2], [3], [9])]


def test_overhead_and_bare_seconds(net, images):
    assert cost.overhead(6.0, (2, 1), (1.0, 2.0)) == 1.5
    forward, backward = cost.bare_seconds(net, images.repeat(40, 1, 1, 1), repeats=3)
    assert 0 < forward < 0.01 and 0 < backward < 0.01
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_setting_is_one_that_its_attack_takes(dataset, net, images):
    y = net(images[:2]).argmax(1)
    found = settings_for(dataset)
    assert {"000.jsma", "002.iterative_l2_1", "004.ddn_targeted"} <= set(found)
    for name, setting in found.items():
        knobs = {k: v for k, v in setting.items() if k not in ("attack", "targeted")}
        knobs |= {k: 2 for k in ("steps", "search_steps") if k in knobs}
        target = (y + 1) % 4 if setting.get("targeted") else None
        x_adv = ATTACKS[setting["attack"]](net, images[:2], y, target=target, **knobs)
        assert x_adv.shape == (2, 3, 8, 8), name


def test_settings_are_the_papers():
    grey, colour, photograph = (settings_for(name) for name in ("mnist", "cifar10", "cats_dogs"))
    assert (grey["000.fgsm"]["eps"], photograph["000.fgsm"]["eps"]) == (0.2, 0.025)
    assert (grey["000.jsma"]["gamma"], photograph["000.jsma"]["gamma"]) == (0.05, 0.025)
    assert grey["000.deepfool"]["steps"] == 2
    assert colour["002.fgsm_3"]["eps"] == pytest.approx(3 / 255)
    assert grey["002.fgsm_3"]["eps"] == pytest.approx(0.3)
    assert colour["002.iterative_l2_2"]["eps"] == pytest.approx(40 / 255)
    assert photograph["002.iterative_l2_wide_2"]["eps"] == pytest.approx(280 / 255)
    assert (colour["004.pgd"]["step"], colour["004.pgd"]["steps"]) == (pytest.approx(2 / 255), 40)


def test_a_papers_setting_and_a_target_go_through_the_corridor(tmp_path):
    run = configure(tmp_path, notebook="02_attacks", ATTACKS=["004.ddn_targeted"])
    run.preset |= {"attacked_test": 12}
    made = adversarial(run, "004.ddn_targeted")
    assert made.setting["steps"] == 100  # a paper's, not the preset's
    assert (made.target != made.prediction).all() and made.success.any()
    assert torch.equal(made.success, made.prediction_adv == made.target)
    short = adversarial(run, "jsma")
    assert short.setting["gamma"] * 784 // 2 == run.preset["jsma_pairs"]
    sentence = r"ATTACKS holds '004.nothing', which is unknown: choose among fgsm, .*jsma_000\.$"
    with pytest.raises(InputError, match=sentence):
        configure(tmp_path, notebook="02_attacks", ATTACKS=["004.nothing"])


def test_seconds_runs_in_turns_and_leaves_the_first_out():
    order, slow = [], iter([0.2, 0.0, 0.0, 0.0])

    def first():
        order.append("a")
        time.sleep(next(slow))

    found = cost.seconds(first, lambda: order.append("b"), repeats=3)
    assert order == ["a", "b"] * 4 and len(found) == 2 and max(found) < 0.1
