"""The picture with knobs: what it shows, and where its knobs are shown."""

import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import ipywidgets
import pytest
import torch
from matplotlib.figure import Figure

from nbutils import explore, steps
from nbutils.detectors.base import Detector
from nbutils.series import runner
from tests.test_lecture_00 import Slope, grey

FGSM = {"attack": "fgsm", "eps": 0.2}
PGD = {"attack": "pgd", "eps": 0.2, "step": 0.02, "steps": 5}


class Mean(Detector):
    """Scores an image by its mean."""

    def score(self, x, viewed=None):
        return x.flatten(1).mean(1)


def guard(threshold, **more):
    groups = {"clean": torch.linspace(0, 0.4, 20), "fgsm": torch.linspace(0.4, 1, 20)}
    return explore.Guard(Mean(Slope()), groups, threshold, **more)


def mover(value=0.4, **guards):
    """One grey image under FGSM and PGD of up to 51/255; classes part at a mean of one half."""
    guards = guards or {"low": guard(0.45), "high": guard(0.55)}
    settings = {"fgsm": FGSM, "pgd": PGD}
    parts = (grey(value), torch.tensor([7]), 0, ["dark", "light"], settings, guards, 51.0)
    return explore.Explorer(Slope(), *parts)


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    found = []
    monkeypatch.setattr("IPython.display.display", found.append)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return found


def test_a_look_is_what_classifier_and_detector_say():
    seen = explore.look(Slope(), grey(0.4), grey(0.55), guard(0.5))
    assert [label for label, _ in (seen.reading, seen.reading_adv)] == [0, 1]
    both = torch.cat([grey(0.4), grey(0.55)])
    sure = Slope()(both).softmax(1).amax(1).tolist()
    assert [seen.reading[1], seen.reading_adv[1]] == pytest.approx(sure)
    assert (seen.score, seen.score_adv) == pytest.approx((0.4, 0.55))
    assert seen.changed and seen.flagged
    # the gradient of the predicted class's logit, 20 (mean - .5), at each of 16 values
    assert torch.allclose(seen.saliency, torch.full((1, 1, 4, 4), 20 / 16))
    below = explore.look(Slope(), grey(0.4), grey(0.45), guard(0.5))
    assert torch.allclose(below.saliency, torch.full((1, 1, 4, 4), -20 / 16))  # of "dark"
    assert not below.changed and not below.flagged


def test_the_attack_has_the_size_that_was_asked_for():
    one = mover()
    assert torch.allclose(one.attacked("fgsm", 25.5), grey(0.5))
    for attack in ("fgsm", "pgd"):
        assert torch.equal(one.attacked(attack, 0), one.x)
        change = one.attacked(attack, 10) - one.x
        assert 0 < change.abs().max() <= 10 / 255 + 1e-6
    whole, half = (one.attacked("pgd", size) for size in (51, 25.5))
    # from the same start in shares of eps: the step keeps its share too
    assert torch.allclose((half - one.x) * 2, whole - one.x, atol=1e-5)
    assert one.settings["pgd"] == PGD


def test_the_same_seed_gives_the_same_picture_and_nothing_is_changed():
    one = mover()
    before = one.x.clone()
    first, again = (explore.as_png(one.picture("pgd", 7, "low")[0]) for _ in range(2))
    assert first == again
    assert not torch.equal(one.attacked("pgd", 7), replace(one, seed=1).attacked("pgd", 7))
    other = replace(one, index=torch.tensor([8]))
    assert not torch.equal(one.attacked("pgd", 7), other.attacked("pgd", 7))
    assert torch.equal(one.x, before) and not one.model.training
    assert one.model.steepness.grad is None


def test_the_picture_says_what_was_seen():
    figure, said = mover().picture("fgsm", 30, "low")
    *images, below = figure.axes
    titles = [ax.get_title() for ax in images]
    assert titles[0].startswith("clean\nread as dark") and titles[1].startswith("adversarial")
    assert "read as light" in titles[1] and titles[2] == "perturbation\nx 4"
    assert titles[3] == "saliency map\nasked for light"
    drawn = [ax.images[0].get_array() for ax in images]
    assert drawn[0].mean() == pytest.approx(0.4) and drawn[1].mean() == pytest.approx(
        0.4 + 30 / 255
    )
    assert drawn[2].mean() == pytest.approx(0.5 + 4 * 30 / 255)
    places = [line.get_xdata()[0] for line in below.lines]
    assert places == pytest.approx([0.45, 0.4, 0.4 + 30 / 255])
    assert below.get_title().endswith("flagged") and "not flagged" not in below.get_title()
    assert "read as light in place of dark" in said and "and flags it" in said
    assert "30/255" in said and "30/255" in figure.get_suptitle()

    still, said = mover().picture("fgsm", 0, "low")
    assert [ax.get_title() for ax in still.axes][2] == "perturbation\nnothing"
    assert "still read as dark" in said and "does not flag" in said
    assert still.axes[-1].get_title().endswith("not flagged")
    # one can take the place of the other without a jump
    assert (figure.get_size_inches() == still.get_size_inches()).all()
    for a, b in zip(figure.axes, still.axes, strict=True):
        assert a.get_position().bounds == b.get_position().bounds


def test_an_empty_map_and_a_collapsed_detector_are_told():
    class Flat(Slope):
        def forward(self, x):
            return super().forward(x) * 0

    figure, _ = replace(mover(), model=Flat()).picture("fgsm", 5, "low")
    assert figure.axes[3].get_title() == "saliency map\nempty"
    figure, _ = mover(fell=guard(0.5, collapsed=True)).picture("fgsm", 5, "fell")
    assert "collapsed" in figure.axes[-1].get_title()


def test_the_first_sizes_are_those_of_a_search_by_hand():
    found = mover(low=guard(0.45), high=guard(0.55), far=guard(2.0), all=guard(0.3)).first()
    first = dict(zip(found["what"], found["first_255"], strict=True))
    # .4 + k/255 is above .5 from k = 26, above .45 from 13, above .55 from 39
    assert (first["reading"], first["low"], first["high"], first["all"]) == (26, 13, 39, 0)
    assert first["far"] != first["far"]
    assert found.set_index("what")["at_largest"].to_dict() == {
        "reading": True,
        "low": True,
        "high": True,
        "far": False,
        "all": True,
    }
    said = explore.told_first(found).splitlines()
    assert said[0] == "The smallest size of FGSM that changes the reading is 26/255."
    assert said[1] == "- low first flags it at 13/255, before the reading changes."
    assert said[2] == "- high first flags it at 39/255, after the reading changes."
    assert said[3] == "- far never flags the picture."
    assert said[4] == "- all flags the picture even when it is clean."


def test_what_is_flagged_on_the_way_and_not_at_the_end_is_told():
    class Near(Mean):
        def score(self, x, viewed=None):
            return -(super().score(x) - 0.45).abs()

    near = explore.Guard(Near(Slope()), guard(0).groups, -0.02)
    said = explore.told_first(mover(near=near).first())
    assert "before the reading changes, and not at the largest size" in said
    said = explore.told_first(mover(0.1, near=near, low=guard(0.2)).first())
    assert said.startswith("No size of FGSM on the slider changes the reading.")
    assert "- low first flags it at 26/255." in said
    exact = explore.told_first(mover(same=guard(0.5)).first())
    assert "just when the reading changes" in exact


def test_a_run_gives_thresholds_of_calibration_images(smoke):
    x, index = steps.adversarial(smoke, "fgsm").x[:1], steps.adversarial(smoke, "fgsm").index[:1]
    made = explore.explorer(smoke, x, index)
    assert list(made.guards) == list(explore.GUARDS) and list(made.settings) == list(explore.MOVED)
    assert made.most == 51 and made.step == 1
    assert {setting["eps"] for setting in made.settings.values()} == {0.2}
    for one in made.guards.values():
        assert len(one.groups["clean"]) == len(smoke.data.calibrate)
        assert (one.groups["clean"] > one.threshold).double().mean() <= explore.FPR
    whole = made.attacked("fgsm", 51)
    assert torch.equal(whole, steps.adversarial(smoke, "fgsm").x_adv[:1])
    # with room for a busy machine: it takes a tenth of a second
    made.picture("pgd", 20, "jsd")
    started = time.perf_counter()
    explore.as_png(made.picture("pgd", 21, "jsd")[0])
    assert time.perf_counter() - started < 1


def test_where_nobody_can_move_it_the_picture_stands_alone(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # its import would raise
    figure = mover().show(guard="low")
    assert shown == [figure] and isinstance(figure, Figure)
    assert "26/255" in figure.get_suptitle()


def test_where_somebody_can_every_knob_moves_picture_and_words(shown, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "00_start_here.ipynb")
    figure = mover().show(guard="low")
    assert isinstance(figure, Figure) and len(shown) == 1
    knobs, picture, words = shown[0].children
    size, attack, who = knobs.children
    assert isinstance(picture, ipywidgets.Image) and bytes(picture.value).startswith(b"\x89PNG")
    seen = {bytes(picture.value)}
    assert "26/255" in words.value and "in place of dark" in words.value
    size.value = 3
    assert "size 3/255" in words.value and "still read as dark" in words.value
    seen.add(bytes(picture.value))
    attack.value = "pgd"
    assert "Under PGD" in words.value
    seen.add(bytes(picture.value))
    who.value = "high"
    assert "high gives it" in words.value
    seen.add(bytes(picture.value))
    assert len(seen) == 4


def test_a_class_of_the_users_is_written_as_it_is_called(shown, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "x")
    replace(mover(), classes=["<b>$a$", "c"]).show(guard="low")
    words = shown[0].children[-1].value
    assert "&lt;b&gt;$a$" in words and words.startswith(
        "<pre>"
    )  # in which no formula is looked for


def test_knobs_are_shown_by_front_ends_that_have_somebody_before_them(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not explore.movable()
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert explore.movable()
    with runner._kernels():  # a notebook that runs the series: those kernels are not its own
        assert not explore.movable()
    assert explore.movable()
    monkeypatch.delenv("JPY_SESSION_NAME")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "google.colab", sys)
        assert explore.movable()

    for names, moved in (({"__vsc_ipynb_file__": "a.ipynb"}, True), ({}, False)):
        shell = SimpleNamespace(user_ns=names)
        monkeypatch.setattr("IPython.get_ipython", lambda shell=shell: shell)
        assert explore.movable() == moved
