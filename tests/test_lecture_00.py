"""What notebooks 00 and 01 say: the choice of the opening picture, the readings of its tables."""

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import nn

from nbutils import InputError, plots
from nbutils.evaluation import classifying, leaks, opening
from nbutils.evaluation.intervals import wilson
from nbutils.models import contract

matplotlib.use("Agg")


class Slope(nn.Module):
    """Two classes, the border at a mean of one half; sure where the image is far from it."""

    def __init__(self, steepness=20.0):
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(steepness))
        self.eval()

    def forward(self, x):
        z = self.steepness * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-z, z], 1)


def grey(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


def test_the_smallest_change_of_a_sure_and_right_reading_is_chosen():
    x, x_adv = grey(0.49, 0.3, 0.2, 0.1), grey(0.51, 0.52, 0.52, 0.2)
    zeros = torch.zeros(4, dtype=torch.int64)
    # the first is not sure and the last is not fooled, so it is the second
    assert opening.smallest(Slope(), x, x_adv, zeros) == 1
    # the second is misread, so it is the third
    assert opening.smallest(Slope(), x, x_adv, torch.tensor([0, 1, 0, 0])) == 2
    assert opening.smallest(Slope(), x[:1], x_adv[:1], zeros[:1]) == 0
    assert opening.smallest(Slope(), x, x, zeros) == 0


def test_a_change_is_carried_on_until_the_wrong_reading_is_sure():
    x, x_adv = grey(0.3), grey(0.52)
    forged = opening.carried_on(Slope(), x, x_adv)
    probability = Slope()(forged).softmax(1)[0, 1].item()
    assert opening.SURE <= probability < opening.SURE + 0.02
    assert torch.equal((forged * 255).round() / 255, forged)
    assert torch.equal(x, grey(0.3)) and torch.equal(x_adv, grey(0.52))
    # a slope too flat to be sure: as sure as the clean reading; nobody fooled: the image itself
    assert opening.carried_on(Slope(1.0), x, x_adv).mean() == pytest.approx(0.7, abs=0.02)
    assert torch.allclose(opening.carried_on(Slope(), x, x), x, atol=1 / 255)


def test_readings_and_noise_of_a_known_model():
    x, forged = grey(0.3), grey(0.6)
    found = opening.readings(Slope(), {"clean": x, "noisy": x, "adversarial": forged}, ["a", "b"])
    assert list(found["read_as"]) == ["a", "a", "b"]
    assert found["rms"].iloc[2] == pytest.approx(0.3, abs=1e-6)
    assert found["largest"].iloc[0] == 0
    noise = opening.noise_changes(Slope(), x, grey(0.35), draws=40)
    assert noise["changed"] == 0 and noise["interval"] == list(wilson(0, 40))
    assert "read as b" in opening.told(found, noise)
    nobody = opening.readings(Slope(), {"clean": x, "noisy": x, "adversarial": x}, ["a", "b"])
    assert "fooled nobody" in opening.told(nobody, noise)


def test_maps_of_a_linear_model_follow_the_class_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).eval()
    with torch.no_grad():  # the mean grey decides nothing
        model[1].weight -= model[1].weight.mean(1, keepdim=True)
    x, x_adv = torch.rand(20, 1, 4, 4), torch.rand(20, 1, 4, 4)
    fooled = int((model(x).argmax(1) != model(x_adv).argmax(1)).sum())
    found = opening.map_correlations(model, x, x_adv, torch.arange(20)).set_index("map")
    assert fooled > 3 and (found["n"] == fooled).all()
    # its gradient is the row of the class, whatever the image
    mean = found["correlation"]
    assert mean[opening.RIGHT_CLASS] == pytest.approx(1)
    assert mean[opening.ATTACKED] == pytest.approx(mean[opening.WRONG_CLASS])
    assert mean[opening.ATTACKED] < 0.9
    nothing = opening.map_correlations(model, x, x, torch.arange(20))
    assert (nothing["n"] == 0).all() and "fooled nobody" in opening.told_maps(nothing)


@pytest.mark.parametrize(
    ("right_class", "wrong_class", "said"),
    [(0.9, 0.0, "with the class"), (0.0, 0.9, "with the image"), (0.3, 0.2, "both")],
)
def test_maps_are_read_by_what_changed_them(right_class, wrong_class, said):
    names = [opening.NOISY, opening.ATTACKED, opening.RIGHT_CLASS, opening.WRONG_CLASS]
    values = [0.99, 0.1, right_class, wrong_class]
    found = pd.DataFrame({"map": names, "correlation": values, "n": 9})
    assert said in opening.told_maps(found)


def row(auroc, name="fgsm"):
    return {"tested_on": name, "auroc": auroc, "low": auroc - 0.05, "high": auroc + 0.05}


@pytest.mark.parametrize(
    ("own", "other", "noise", "said"),
    [
        (0.95, 0.6, 0.95, "Noise looks more"),
        (0.95, 0.6, 0.5, "does not take noise"),
        (0.95, 0.9, 0.7, "takes some noise"),
        (0.52, 0.5, 0.5, "not learned"),
    ],
)
def test_a_detector_is_read_by_its_noise(own, other, noise, said):
    assert said in opening.told_detector(row(own), row(other, "ddn"), row(noise))


def test_a_detector_is_not_blamed_for_an_attack_that_fooled_nobody():
    found = opening.told_detector(row(0.95), row(0.5, "ddn") | {"success": 0.0}, row(0.95))
    assert "fooled nobody" in found and "Noise looks more" not in found


def test_the_findings_hold_the_numbers_and_say_where_there_are_none():
    x, noise = grey(0.3), {"changed": 3, "draws": 50}
    fooled = opening.readings(Slope(), {"a": x, "b": x, "c": grey(0.6)}, ["one", "two"])
    nobody = opening.readings(Slope(), {"a": x, "b": x, "c": x}, ["one", "two"])
    names = [opening.NOISY, opening.ATTACKED, opening.RIGHT_CLASS, opening.WRONG_CLASS]
    maps = pd.DataFrame({"map": names, "correlation": [0.9, 0.1, 0.8, 0.2], "n": 9})
    tested = pd.DataFrame({"auroc": [0.97, 0.61, 0.55]})
    said = opening.found_out(fooled, noise, maps, tested)
    for part in ("turned one into two", "3 times", "0.10", "0.20", "0.97", "0.61", "0.55"):
        assert part in said
    said = opening.found_out(nobody, noise, maps.assign(n=0, correlation=None), tested)
    assert "fooled nobody" in said and len(said.splitlines()) == 2


def test_separation_is_an_auroc_with_a_width_at_the_edge():
    found = opening.separation(torch.zeros(1, 20), torch.ones(1, 20))
    assert found["auroc"] == 1 and found["low"] < 1 and found["n"] == 20


def test_accuracy_is_told_with_its_interval_and_weakness_is_named():
    good = classifying.accuracies({"test": torch.arange(100) < 97, "none": torch.zeros(0) > 0})
    assert [one["split"] for one in good] == ["test"]
    assert good[0]["accuracy"] == pytest.approx(0.97) and good[0]["interval"] == wilson(97, 100)
    assert "97.0%" in classifying.told_accuracy(good[0], 10)
    assert "weak" not in classifying.told_accuracy(good[0], 10)
    weak = classifying.accuracies({"test": torch.arange(100) < 15})[0]
    assert "weak classifier" in classifying.told_accuracy(weak, 10)
    assert "weak classifier" in classifying.told_accuracy(weak | {"interval": (0.4, 0.7)}, 2)


def test_doubt_counts_the_mistakes_on_both_sides():
    confidence = torch.tensor([0.99, 0.95, 0.95, 0.6, 0.5])
    right = torch.tensor([True, True, False, False, True])
    found = classifying.doubt(confidence, right)
    assert found["n"].tolist() == [3, 2] and found["misread"].tolist() == [1, 1]
    # pairs: three right against two wrong doubts, ties count one half
    assert "AUROC of 0.58" in classifying.told_doubt(confidence, right)
    assert "nothing to find" in classifying.told_doubt(confidence, right | True)
    assert "never sure" in classifying.told_doubt(confidence / 2, right)


def test_the_surest_mistakes_come_first():
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0], [2.0, 0.0]])
    found = classifying.surest_mistakes(logits, torch.tensor([0, 0, 0, 1]), ["a", "b"])
    assert found["row"].tolist() == [2, 3, 1]
    assert found["is"].tolist() == ["a", "b", "a"]
    assert classifying.surest_mistakes(logits[:1], torch.tensor([0]), ["a", "b"]).empty


def test_an_objection_is_the_checks_own_sentence():
    index = torch.arange(3)
    assert classifying.objection(leaks.sources_disjoint, index, index + 5) == "nothing"
    assert "both sides" in classifying.objection(leaks.sources_disjoint, index, index + 2)
    softmax = nn.Sequential(Slope(), nn.Softmax(1)).eval()
    assert "softmax" in classifying.objection(contract.check, softmax, grey(0.2, 0.7), 2)
    with pytest.raises(ZeroDivisionError):
        classifying.objection(lambda: 1 / 0)
    assert issubclass(InputError, Exception)


def test_training_is_told_by_where_the_network_comes_from():
    record = {"architecture": "net", "parameters": 1234}
    assert "brought" in classifying.told_training(record)
    made = record | {"epoch": 3, "epochs": 5}
    assert "epoch 3 were kept, not the last of 5" in classifying.told_training(made)
    assert "the last one" in classifying.told_training(made | {"epoch": 5})
    assert "committed" in classifying.told_training(made | {"made_by": "x"})


def test_printed_accuracies_name_their_data():
    found = classifying.printed()
    assert set(found["paper"]) == {"000", "002", "004"}
    assert set(found["data"]) == {"mnist", "cifar10", "cats_dogs", "imagenet_subset"}
    assert set(found["measured on"]) == {"training", "test"}
    assert found["accuracy"].between(0.5, 1).all()


def test_names_are_never_cut_in_a_word():
    assert plots.shortened("cat") == "cat"
    assert plots.shortened("German_shepherd") == "German shepherd"
    for name in ("black and tan coonhound of the hills", "a b c d e f g h i j k l m n o p"):
        short = plots.shortened(name, 16)
        assert len(short) <= 16 and short.endswith("…")
        assert name.startswith(short.rstrip(" …")) and name[len(short.rstrip(" …"))] == " "
    assert plots.shortened("Rhabarberbarbara", 8) == "Rhabarberbarbara"


def test_captioned_pictures_stand_under_their_captions():
    figure = plots.captioned({"a": torch.rand(2, 3, 4, 4)}, [["one", "two"]], title="all")
    assert [ax.get_title() for ax in figure.axes] == ["one", "two"]
    assert figure.axes[0].get_ylabel() == "a" and figure.get_size_inches()[0] <= 8
    assert figure.get_suptitle() == "all"
    plt.close(figure)


def test_magnified_shows_the_largest_change():
    shown, k = plots.magnified(torch.tensor([[[[0.1, -0.05]]]]))
    assert k == 5 and torch.allclose(shown, torch.tensor([[[[1.0, 0.25]]]]))
    assert plots.magnified(torch.zeros(1, 1, 2, 2))[0].mean() == 0.5


def test_a_class_is_written_as_it_is_called_in_markdown():
    """Jupyter reads what stands between two dollar signs as a formula, and stars as emphasis."""
    assert opening.literal("5$ & 10$$") == r"5\$ \& 10\$\$"
    assert opening.literal("grüne Äpfel 2") == "grüne Äpfel 2"
    rows = [
        {"read_as": name, "confidence": 1.0, "rms": 0.1, "largest": 0.1}
        for name in ("*a*", "*a*", "20$^{")
    ]
    maps = pd.DataFrame({"map": [opening.NOISY], "correlation": [0.5], "n": [0]})
    maps = pd.concat([maps.assign(map=name) for name in (opening.ATTACKED, opening.WRONG_CLASS)])
    tested = pd.DataFrame({"auroc": [0.9, 0.8, 0.7]})
    said = opening.found_out(pd.DataFrame(rows), {"draws": 5, "changed": 0}, maps, tested)
    assert r"turned \*a\* into 20\$\^\{, and" in said
