"""A user's own model: known by what it answers, refused in a sentence, handed what any network can
read.
"""

import copy
import importlib
import json
import logging
import os
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbutils import InputError, steps
from nbutils.attacks import ATTACKS
from nbutils.attacks.carlini_wagner import through_tanh
from nbutils.attacks.settings import settings_for
from nbutils.data.splits import load
from nbutils.detectors import views
from nbutils.detectors.consistency import EMPHASES, OTHER_MAPS, TRANSFORMS, emphasised
from nbutils.detectors.squeezing import SQUEEZERS
from nbutils.evaluation import controls, underflow
from nbutils.models.brought import Brought, bring, load_weights
from nbutils.models.building import build
from nbutils.models.contract import check, check_scale, check_trained, predict
from nbutils.models.taps import taps
from nbutils.saliency.grad_cam import grad_cam
from nbutils.saliency.learned import SaliencyModel
from nbutils.steps.adversarial import knobs_of
from nbutils.store.files import write_tensors
from tests.conftest import ROOT, NearestMean, configure, python

DIGITS = load("digits", calibrate=0)


class Around(nn.Module):
    """A net that reads f(x), and whose logits go through `after`."""

    def __init__(self, f, after=None):
        super().__init__()
        self.net, self.f, self.after = NearestMean(), f, after or nn.Identity()
        self.eval()

    def forward(self, x):
        return self.after(self.net(self.f(x)))


class Short(nn.Module):
    """A net that computes in fewer bits, as those trained on accelerators do."""

    def __init__(self, net, kind):
        super().__init__()
        self.net, self.kind = net.to(kind), kind
        self.eval()

    def forward(self, x):
        return self.net(x.to(self.kind))


class Autocast(nn.Module):
    """A net whose layers compute in bfloat16, as `torch.autocast` has it."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x)


def own(monkeypatch, tmp_path, model, **parameters):
    """A run with this model as the user's own."""
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "factory", lambda: model, raising=False)
    return configure(tmp_path, MODEL=f"{__name__}:factory", **parameters)


# -- what it answers is what it is -----------------------------------------------------------------

USERS = """
import os, torch
from tests.conftest import NearestMean

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.t = NearestMean(), float(os.environ.get("TEMPERATURE", 1))

    def forward(self, x):
        way = os.environ.get("WAY")
        if way == "back":  # the same logits, the opposite gradient
            x = 2 * x.detach() - x
        if way == "grid":  # the same on stored images, and the same gradient
            x = x + ((x * 255).round() / 255 - x).detach()
        return self.net(x) * self.t

def make():
    return Net().eval()
"""


@pytest.mark.parametrize(
    "changes",
    [{"TEMPERATURE": "1000"}, {"TEMPERATURE": "1.001"}, {"WAY": "back"}, {"WAY": "grid"}],
    ids=lambda changes: "-".join(changes.values()),
)
def test_all_is_made_anew_when_the_answers_change_and_nothing_else_does(
    changes, tmp_path, monkeypatch
):
    (tmp_path / "answering.py").write_text(USERS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "answering", raising=False)

    def attacked(out):
        run = configure(tmp_path / out, MODEL="answering:make")
        return steps.adversarial(run, "fgsm"), steps.classifier(run).artifact.content

    first, its = attacked("out")
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    again, other = attacked("out")
    meta = json.loads((again.artifact.path / "meta.json").read_text(encoding="utf-8"))
    assert its != other == meta["parents"]["classifier"]
    fresh, _ = attacked("fresh")
    assert torch.equal(again.x_adv, fresh.x_adv)
    assert again.record["success_rate"] == fresh.record["success_rate"]
    if "1000" in changes.values() or "back" in changes.values():
        assert again.record["success_rate"] < 0.1 < 0.5 < first.record["success_rate"]


def test_the_rounding_of_another_machine_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "rounding.py").write_text(USERS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rounding", raising=False)
    kept, times = [], []
    for temperature in ("1", "1.000001"):
        monkeypatch.setenv("TEMPERATURE", temperature)
        run = configure(tmp_path / "out", MODEL="rounding:make")
        path = steps.adversarial(run, "fgsm").artifact.path
        kept.append(steps.classifier(run).artifact.content)
        times.append((path / "meta.json").stat().st_mtime_ns)
    assert kept[0] == kept[1] and times[0] == times[1]


def test_a_helper_that_was_edited_is_no_longer_what_runs(tmp_path, monkeypatch):
    """In the same process Python would not read it again; in the next the answers tell."""
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "scaling.py").write_text("def scaled(x):\n    return x\n", encoding="utf-8")
    (folder / "using.py").write_text(
        "from scaling import scaled\nfrom tests.test_brought import Around\n\n"
        "def make():\n    return Around(scaled)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(folder))
    before = steps.classifier(configure(tmp_path / "out", MODEL="using:make")).artifact
    (folder / "scaling.py").write_text("def scaled(x):\n    return x / 2\n", encoding="utf-8")
    os.utime(folder / "scaling.py", ns=(1, 1))
    with pytest.raises(InputError, match=r"scaling.py was edited since Python read it.*run this"):
        steps.classifier(configure(tmp_path / "out", MODEL="using:make"))
    for name in ("scaling", "using"):
        del sys.modules[name]
    importlib.invalidate_caches()
    after = steps.classifier(configure(tmp_path / "out", MODEL="using:make")).artifact
    assert before.content != after.content


# -- each image by itself --------------------------------------------------------------------------


def batch_norm():
    return nn.BatchNorm1d(10, track_running_stats=False)


LEAKS = {
    "batch norm": lambda: Around(nn.Identity(), batch_norm()),
    "batch norm inside": lambda: Around(nn.BatchNorm2d(1, track_running_stats=False)),
    "scale of the batch": lambda: Around(lambda x: x / x.mean()),
    "place in the batch": lambda: Around(lambda x: x + torch.arange(len(x)).view(-1, 1, 1, 1)),
    "less the batch's mean": lambda: Around(lambda x: x - x.mean(0) / 20),
}


@pytest.mark.parametrize("name", LEAKS)
def test_answers_that_depend_on_the_batch_are_refused(name, tmp_path, monkeypatch):
    run = own(monkeypatch, tmp_path, LEAKS[name]())
    with pytest.raises(InputError, match="answers an image differently in other company"):
        steps.classifier(run)
    assert not list(tmp_path.rglob("meta.json"))


def test_honest_models_of_all_precisions_pass():
    x, net = DIGITS.test[:4].pixels(), build("cifar_net", (1, 28, 28), 10, width=0.25, seed=1)
    layers = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(5408, 10))
    body, casting = nn.Sequential(*layers).eval(), Around(lambda x: x.double()).double()
    for model in (net, body, casting, Autocast(body), Short(copy.deepcopy(body), torch.bfloat16)):
        assert check(Brought(model), x, 10) == 10
    kept = Around(nn.Identity(), nn.BatchNorm1d(10))  # with running statistics
    assert check(kept, x, 10) == 10


# -- a gradient ------------------------------------------------------------------------------------


DARK = 0.3  # the mean value of about half of the digits is under it


class Inked(nn.Module):
    """Rounds dark images, and only those."""

    def __init__(self):
        super().__init__()
        self.net = NearestMean()

    def forward(self, x):
        dark = x.mean((1, 2, 3), keepdim=True) < DARK
        return self.net(torch.where(dark, (x * 255).round() / 255, x))


@pytest.mark.parametrize("levels", [4, 255])
def test_a_model_without_a_gradient_is_refused_before_any_attack(levels, tmp_path, monkeypatch):
    run = own(monkeypatch, tmp_path, Around(lambda x: (x * levels).round() / levels))
    with pytest.raises(InputError, match=r"no gradient at all for 32 of 32 .*gradient masking"):
        steps.adversarial(run, "fgsm")
    assert not list(tmp_path.rglob("meta.json"))


def test_the_share_without_a_gradient_is_said(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "nbutils")
    x = DIGITS.test.pixels()
    dark = (x.mean((1, 2, 3)) < DARK).double().mean()
    assert 0.2 < dark < 0.8
    for model, sentence in (
        (Inked(), "logits have no gradient at all for "),
        (Around(nn.Identity(), lambda z: 1000 * z), "cross-entropy has no gradient in 32 bits"),
    ):
        caplog.clear()
        steps.classifier(own(monkeypatch, tmp_path, model))
        assert sentence in caplog.text and "of 32 test images" in caplog.text
    caplog.clear()
    steps.classifier(own(monkeypatch, tmp_path, NearestMean()))
    assert "gradient" not in caplog.text


# -- the values that it is made for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "values"),
    [
        (lambda x: x / 255, "run from 0 to 255"),
        (lambda x: ((x + 1) / 2).clamp(0, 1), "run from -1 to 1"),
    ],
)
def test_a_model_for_other_values_is_refused(f, values, tmp_path, monkeypatch):
    run = own(monkeypatch, tmp_path, Around(f))
    with pytest.raises(InputError, match=f"rightly, and .*% when their values {values}"):
        steps.classifier(run)
    assert not list(tmp_path.rglob("meta.json"))


def test_one_label_for_everything_is_refused_whatever_the_balance_of_the_labels():
    y = (torch.arange(200) % 10 > 6).long()  # 70 % of the first label
    one = torch.tensor([[2.0, 1.0]]).expand(200, 2)
    nearly = one.clone()
    nearly[:2] = one[:2].flip(1)
    for logits in (one, nearly):
        with pytest.raises(InputError, match=r"of 200 test images the same label, .*0 to 255"):
            check_trained(logits, y)
    with pytest.raises(InputError, match="of 40 test images the same label"):
        check_trained(one[:40], y[:40])
    assert "same label" in check_trained(one[:12], y[:12])  # too few to refuse
    rare = (torch.arange(200) % 20 == 0).long()
    with pytest.raises(InputError, match=r"reads 95.0% .* no better than chance \(95.0%\)"):
        check_trained(one, rare)
    good = functional.one_hot(torch.where(torch.arange(200) < 8, 1 - rare, rare), 2).float()
    assert check_trained(good, rare) == ""  # 96 % where 95 % are of one label
    assert check_trained(good[rare == 0], rare[rare == 0]) == ""  # pictures of one class alone
    with pytest.raises(InputError, match="NaN or infinite logits for some"):
        check_trained(torch.where(torch.arange(200)[:, None] == 150, torch.nan, good), rare)


def test_a_model_that_refuses_other_values_itself_is_let_in():
    def inside(x):
        assert x.min() >= 0 and x.max() <= 1
        return x

    check_scale(Brought(Around(inside)), DIGITS.test[:64].pixels(), DIGITS.test[:64].y)


class Bright(nn.Module):
    """Two classes, dark and bright; `first` is the place of dark in the output, `white` the value
    of the brightest picture.
    """

    def __init__(self, first, white=1):
        super().__init__()
        self.first, self.white = first, white

    def forward(self, x):
        bright = x.flatten(1).mean(1) / self.white - 0.5
        logits = torch.stack([-bright, bright], 1)
        return logits if self.first == 0 else logits.flip(1)


def test_outputs_in_another_order_are_not_taken_for_other_values():
    """A weak model of two classes in reverse: whatever gives one answer to all reads more."""
    level = torch.linspace(0.05, 0.95, 120)
    x, y = level.view(-1, 1, 1, 1).expand(-1, 1, 8, 8), (level > 0.5).long()
    y = torch.where(torch.arange(120) % 4 == 0, 1 - y, y)  # a quarter of the labels is noise
    check_scale(Bright(0), x, y)
    check_scale(Bright(1), x, y)
    with pytest.raises(InputError, match="its outputs stand in another order"):
        check_trained(predict(Bright(1), x), y)
    with pytest.raises(InputError, match=r"reads 50.0% of 120 .* when their values run from 0"):
        check_scale(Bright(0, white=255), x, y)


# -- what its code raises --------------------------------------------------------------------------


def patches(x):
    assert x.shape[-1] == 224, "Input height (28) does not match model (224)."
    return x


def small(x):
    if len(x) > 4:
        raise KeyError("too many")
    return x


def raising(error):
    def f(x):
        raise error

    return f


@pytest.mark.parametrize(
    ("f", "sentence"),
    [
        (patches, r"\(1, 28, 28\), 4 at once: AssertionError: Input height"),
        (small, r"KeyError: 'too many', at .*test_brought.py:\d+"),
        (raising(TypeError("a\nb")), "TypeError: a, at"),
        (raising(ValueError()), "ValueError, at"),
        (raising(NotImplementedError("x")), "NotImplementedError: x, at"),
    ],
)
def test_what_a_forward_raises_is_a_sentence_that_says_where(f, sentence, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=sentence) as found:
        steps.adversarial(own(monkeypatch, tmp_path, Around(f)), "fgsm")
    assert found.value.__cause__ is not None


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "def make():\n    raise ValueError('no data')",
            r"ValueError: no data, at .*broken.py:2\)",
        ),
        ("def make():\n    return 1 / 0", r"ZeroDivisionError: division by zero, at .*broken.py:2"),
        ("import sys\nsys.exit('usage: train.py')", r"SystemExit: usage: train.py, at .*py:2"),
        ("def make(:\n", r"SyntaxError: invalid syntax.*broken.py:1"),
        ("def make(weights):\n    return 1", r"TypeError: make\(\) missing 1 required"),
        ("make = 3", "'int' object is not callable"),
        ("import no_such_module", r"No module named 'no_such_module', at .*broken.py:1"),
    ],
)
def test_what_a_factory_raises_is_a_sentence_that_says_where(
    source, sentence, tmp_path, monkeypatch
):
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(InputError, match=rf"MODEL 'broken:make' cannot be brought in .*{sentence}"):
        bring("broken:make")


USED = """
import torchvision
from torchvision.models import squeezenet1_1
from tests.test_brought import Around

def make():
    squeezenet1_1()
    return Around(lambda x: x)
"""


def test_from_the_users_own_folder_make_and_run_find_model_weights_and_out(tmp_path):
    """Its factory imports torchvision, whose compiled operators a CPU build of torch cannot load;
    its weights are a checkpoint of a trainer.
    """
    (tmp_path / "mine.py").write_text(USED, encoding="utf-8")
    state = {f"module.{name}": value for name, value in Around(None).state_dict().items()}
    (tmp_path / "sub").mkdir()
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "sub" / "best.pt")
    words = ["--model", "mine:make", "-p", "WEIGHTS", "sub/best.pt", "--preset", "smoke"]
    words += ["--threads", "1", "--device", "cpu", "--out", "here"]
    here = {"cwd": tmp_path, "PYTHONPATH": str(ROOT)}  # where its file finds this one
    made = python("make", "classifier", *words, **here)
    assert made.returncode == 0 and "accuracy 0.8" in made.stdout, made.stderr[-1000:]
    ran = python("run", "--notebooks", "01", *words, **here)
    assert ran.returncode == 0 and "test accuracy 0.8" in ran.stdout, ran.stdout + ran.stderr
    (folder,) = (tmp_path / "here").iterdir()
    assert (folder / "results" / "01_classifiers.json").exists()
    words[words.index("sub/best.pt")] = "best.pt"
    lost = python("make", "classifier", *words, **here)
    assert f"looked for at {tmp_path.resolve() / 'best.pt'}" in lost.stderr, lost.stderr


def test_a_whole_model_that_was_saved_says_what_to_save(tmp_path):
    torch.save(build("digits_net", (1, 8, 8), 2, seed=1), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"Save model.state_dict\(\), not the model itself"):
        load_weights(build("digits_net", (1, 8, 8), 2, seed=2), tmp_path / "w.pt")


def test_checkpoints_of_the_usual_kinds_load(tmp_path):
    given = build("digits_net", (1, 8, 8), 2, seed=1)
    state = given.state_dict()

    def named(prefix, state=state):
        return {prefix + name: value for name, value in state.items()}

    kinds = {
        **{name: {"epoch": 3, name: state} for name in ("state_dict", "model_state_dict")},
        **{name: {"loss": 0.1, name: state, "optimizer": {}} for name in ("model", "net")},
        **{prefix: named(prefix) for prefix in ("module.", "_orig_mod.", "model.")},
        "both": {"state_dict": named("module._orig_mod.")},
        "bare": {"model": named("module.", given.body.state_dict())},
    }
    for kind, content in kinds.items():
        torch.save(content, tmp_path / "w.pt")
        model = build("digits_net", (1, 8, 8), 2, seed=2)
        load_weights(model, tmp_path / "w.pt")
        assert torch.equal(model.body.fc2.weight, given.body.fc2.weight), kind
    write_tensors(tmp_path / "w.safetensors", named("module."))
    load_weights(model, tmp_path / "w.safetensors")
    for content in ({"ema": state, "epoch": 1}, {"state_dict": {}}, [1, 2]):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(
            InputError, match="no state dict of tensors, by itself or as state_dict"
        ):
            load_weights(model, tmp_path / "w.pt")


# -- what it is handed, and what it hands back -----------------------------------------------------


class Particular(nn.Module):
    """Reads contiguous images alone, as `x.view` does, and colours last: its gradient is laid out
    another way.
    """

    def __init__(self, shape):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        values = shape[0] * shape[1] * shape[2]
        self.weight = torch.randn(10, values, generator=generator) / values**0.5
        self.eval()

    def forward(self, x):
        x.view(len(x), -1)
        assert x.is_contiguous(), x.stride()
        return 5 * x.permute(0, 2, 3, 1).flatten(1) @ self.weight.T


CHANNELS = pytest.mark.parametrize("channels", [1, 3])


@CHANNELS
def test_attacks_ask_about_contiguous_images_and_return_them(channels):
    x = torch.rand(4, channels, 12, 12, generator=torch.Generator().manual_seed(1))
    model = Particular(x.shape[1:])
    y = model(x).argmax(1)
    for name, setting in settings_for("digits" if channels == 1 else "cifar10").items():
        knobs = knobs_of(setting)
        if "steps" in knobs:
            knobs["steps"] = min(knobs["steps"], 4)
        target = (y + 1) % 10 if setting.get("targeted") else None
        x_adv = ATTACKS[setting["attack"]](model, x, y, target=target, **knobs)
        assert x_adv.is_contiguous(), name


@CHANNELS
def test_every_transformation_returns_contiguous_images(channels):
    x = torch.rand(4, channels, 12, 12, generator=torch.Generator().manual_seed(2))
    x_adv, index = (x + 0.1).clamp(0, 1), torch.arange(4)
    made = {name: squeeze(x) for name, squeeze in SQUEEZERS.items()}
    made |= {kind: controls.matched_noise(x, x_adv, index, kind) for kind in controls.NOISES}
    made |= {"jpeg": controls.through_jpeg(x), "swapped": controls.swapped(x, x_adv)}
    made |= {"tanh": through_tanh(x)}
    mean = x.mean((0, 2, 3)).view(1, -1, 1, 1)
    last = x.contiguous(memory_format=torch.channels_last).mean(1, keepdim=True)
    for transform in TRANSFORMS:
        for emphasis in EMPHASES if channels == 3 else ["grey", "multiply"]:
            for first in (False, True):
                for other in OTHER_MAPS:
                    maps = OTHER_MAPS[other](last, 0)
                    how = {"transform": transform, "emphasis": emphasis, "transform_first": first}
                    made[transform, emphasis, first, other] = emphasised(
                        x, maps, mean, theta=0.2, **how
                    )
    assert not [name for name, images in made.items() if not images.is_contiguous()]


def test_data_is_contiguous():
    for name in ("digits", "digits_rgb"):
        data = load(name)
        for part in (data.train, data.calibrate, data.test):
            assert part.x.is_contiguous() and part.pixels().is_contiguous()


def test_a_brought_model_is_handed_contiguous_images_whatever_made_them():
    x = torch.rand(2, 3, 8, 8)
    model = Brought(Particular((3, 8, 8)))
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(last), model(x))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.half])
def test_logits_of_16_bits_come_back_in_32(kind, tmp_path, monkeypatch):
    class Linear(nn.Module):
        """Distances to the classes' means, without their squares: exact enough in few bits."""

        def __init__(self):
            super().__init__()
            means = NearestMean().means
            self.dense = nn.Linear(784, 10)
            with torch.no_grad():
                self.dense.weight.copy_(2 * means)
                self.dense.bias.copy_(-means.square().sum(1))

        def forward(self, x):
            return self.dense(x.flatten(1))

    run = own(monkeypatch, tmp_path, Short(Linear(), kind))
    base = steps.classifier(run)
    assert base.model(run.data.test[:3].pixels()).dtype == torch.float32
    assert base.test_logits.dtype == torch.float32 and base.record["accuracy"] > 0.8
    assert predict(base.model, run.data.test.x).softmax(1).numpy().shape == (200, 10)
    assert steps.evaluation(run, "max_softmax", "", "fgsm").record["all"]["auroc"] > 0
    x = run.data.test[:8].pixels()
    lost = partial(underflow.lost_in_32_bits, base.model, x, base.model(x).argmax(1))
    assert 0 <= lost(of="softmax")["maps all zero"] <= 1
    assert views.jacobian(base.model, x, of="softmax", double=True).shape == x.shape


class Steps(nn.Module):
    """Two convolutions and a sum, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.dense = nn.Linear(24, 3)
        self.eval()

    def forward(self, x):
        y = self.a(x)
        y = functional.relu_(y) if self.in_place else y.relu()
        y = functional.max_pool2d(y, 2)
        z = self.b(y)
        if self.in_place:
            z += y
            z[:, 0] *= 2
            z.relu_()
        else:
            z = z + y
            z = torch.cat([2 * z[:, :1], z[:, 1:]], 1).relu()
        return self.dense(functional.max_pool2d(z, 2).flatten(1))


def test_what_a_network_changes_in_place_does_not_change_what_is_seen_of_it():
    x = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(3))[..., :16, :16]
    x = functional.avg_pool2d(x, 2)
    still, changing = (nn.Sequential(Steps(in_place)).eval() for in_place in (False, True))
    assert torch.equal(still(x), changing(x))
    for layer in ("0.a", "0.b", ""):
        maps = [grad_cam(model, x, layer=layer) for model in (still, changing)]
        assert maps[0].max() > 0 and torch.equal(*maps), layer
    learned = [SaliencyModel(model, x[:1]).eval() for model in (still, changing)]
    assert torch.equal(learned[0](x), learned[1](x))
    for depth in (0, 1):
        seen = [views.layer(model, x, depth=depth) for model in (still, changing)]
        assert seen[0].min() < 0 and torch.equal(*seen)


def test_a_module_whose_output_is_changed_by_another_name_is_named():
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.a(x)
            self.relu(y)  # what it returns is not used
            y += 1
            return y.mean((2, 3))

    model, x = Careless().eval(), torch.rand(2, 1, 8, 8)
    with pytest.raises(InputError, match="its module 'relu' in place by another name"):
        with taps(model, ["relu"]):
            model(x)
    with taps(model, ["a"]):
        model(x)
