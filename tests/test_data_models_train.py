"""Data, networks and the training loop."""

import pytest
import torch
from torch import nn

from nbutils import InputError
from nbutils.data.splits import load
from nbutils.evaluation import papers
from nbutils.models import ARCHITECTURES, training
from nbutils.models.brought import bring, load_weights
from nbutils.models.building import build, with_published_weights
from nbutils.models.contract import check, predict
from nbutils.models.normalised import Normalised, Restricted
from nbutils.models.published import NETWORKS
from nbutils.models.taps import taps
from nbutils.models.training import Training
from nbutils.saliency.gradients import gradient
from nbutils.store.artifacts import Parts
from nbutils.store.files import write_tensors


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 28, 28)), ("digits_rgb", (3, 32, 32))])
def test_splits_are_disjoint_whole_and_seeded(name, shape):
    a, b, other = load(name, seed=1), load(name, seed=1), load(name, seed=2)
    assert a.shape == shape and a.train.x.dtype == torch.uint8
    every = torch.cat([a.train.index, a.calibrate.index, a.test.index])
    assert len(every) == 1797 == len(every.unique()) and len(a.calibrate) == 200
    assert torch.equal(a.train.x, b.train.x) and not torch.equal(a.test.index, other.test.index)
    assert 0 <= a.test.pixels().min() and a.test.pixels().max() <= 1


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    source = load_digits()
    d = load("digits", seed=3)
    assert torch.equal(d.test.y, torch.from_numpy(source.target)[d.test.index])
    # 24 of 28 pixels: the means follow the source closely
    small = torch.nn.functional.avg_pool2d(d.test.pixels()[:, :, 2:26, 2:26], 3)
    want = torch.from_numpy(source.images)[d.test.index].float()[:, None] / 16
    assert torch.corrcoef(torch.stack([small.flatten(), want.flatten()]))[0, 1] > 0.9


def test_digits_rgb_has_contrast_and_the_same_labels():
    grey, colour = load("digits", seed=0), load("digits_rgb", seed=0)
    assert torch.equal(grey.train.y, colour.train.y)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    luminance = (colour.train.pixels() * weights).sum(1).flatten(1)
    assert (luminance.amax(1) - luminance.amin(1)).min() > 0.3


def test_bad_data_requests_get_a_sentence():
    with pytest.raises(InputError, match=r"DATASET 'nothing' is unknown: choose one of digits"):
        load("nothing")
    with pytest.raises(InputError, match="has 1348 images"):
        load("digits", train=5000)


OWN = [name for name in ARCHITECTURES if name not in NETWORKS]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 17, 23)])
def test_networks_keep_the_contract(name, shape):
    knobs = {"mean": [0.3] * shape[0], "std": [0.2] * shape[0], "width": 0.25, "seed": 4}
    model, again = (build(name, shape, 5, **knobs) for _ in range(2))
    check(model, torch.rand(3, *shape), 5)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def convolutions(name, shape, outputs=10, **more):
    net = build(name, shape, outputs, **more)
    shapes = [m.weight.shape for m in net.modules() if isinstance(m, nn.Conv2d)]
    dense = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
    return [(count, size) for count, _, size, _ in shapes], dense


def filters(name, shape, outputs=10):
    return [count for count, _ in convolutions(name, shape, outputs)[0]]


def test_networks_are_the_papers():
    """Filters, kernels and dense layers as 000 (figures 3 and 4, ASSIRA) and 002 (table I) print
    them, misprints read as architectures.py says.
    """
    kernels, dense = convolutions("cifar_net", (3, 32, 32))
    assert kernels == [(32, 3), (32, 3), (64, 3), (64, 3), (128, 3), (128, 3)]
    assert dense == [(2048, 128), (128, 10)]
    assert filters("cifar_net12", (3, 32, 32)) == [32] * 4 + [64] * 4 + [128] * 4
    kernels, dense = convolutions("mnist_net", (1, 28, 28))
    assert kernels == [(64, 8), (64, 8), (128, 6), (128, 6), (128, 3), (128, 3)]
    assert dense == [(100352, 10)]
    assert filters("assira_net", (3, 112, 112), 2) == [64, 64, 128, 128, 256, 256, 512, 512]
    dense = convolutions("assira_net", (3, 112, 112), 2)[1]
    assert dense == [(25088, 256), (256, 256), (256, 2)]
    table = papers.table("002.table1")
    for dataset, shape in (("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        printed = table[(table["dataset"] == dataset) & (table["network"] == "f")]["value"].tolist()
        steps = zip([shape[0], 32, 32, 64], filters("zhang_net", shape), strict=True)
        assert [f"Conv(3,3,{a},{b})" for a, b in steps] == printed[1:5]
        dense = convolutions("zhang_net", shape)[1]
        assert f"Fc({dense[0][0]},{dense[0][1]})" == printed[5] and dense[1] == (100, 10)


def test_appendix_a_changes_one_factor_at_a_time():
    shape = (1, 28, 28)
    assert filters("appendix_a", shape, 2) == [32, 32, 64, 64, 128, 128]
    assert convolutions("appendix_a", shape, 2)[1] == [(1152, 128), (128, 2)]
    assert filters("appendix_a-convolutions_3", shape, 2) == [32, 64, 128]
    assert filters("appendix_a-constant_filters", shape, 2) == [32] * 6
    assert convolutions("appendix_a-dense_1", shape, 2)[1] == [(1152, 2)]
    net = build("appendix_a-no_pool", shape, 2)
    assert not any(isinstance(m, nn.MaxPool2d) for m in net.modules())
    assert convolutions("appendix_a-no_pool", shape, 2)[1][0] == (2048, 128)
    assert dropouts(build("appendix_a-no_dropout", shape, 2)) == {0.0}


def dropouts(net):
    return {m.p for m in net.modules() if isinstance(m, nn.Dropout)}


def test_dropout_and_width_are_knobs():
    net = build("cifar_net", (3, 32, 32), 10, width=0.5, dropout=0.3)
    assert dropouts(net) == {0.3}
    channels = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [16, 16, 32, 32, 64, 64]


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvisions_networks_keep_the_contract_restricted(name):
    net = build(name, (3, 64, 64), 1000, seed=1)
    some = Restricted(net, [7, 3, 999]).eval()
    x = torch.rand(2, 3, 64, 64)
    assert check(some, x, 3) == 3 and torch.equal(some(x), net(x)[:, [7, 3, 999]])
    with pytest.raises(InputError, match=f"{name} reads colour pictures"):
        build(name, (1, 64, 64), 10)


def test_published_weights_come_from_a_file_or_get_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    made = build("resnet20", (3, 32, 32), 10, seed=3)
    with pytest.raises(InputError, match="resnet20 are not there: put resnet20"):
        with_published_weights("resnet20", (3, 32, 32), root=tmp_path)
    write_tensors(tmp_path / "weights" / "resnet20_mine.safetensors", made.body.state_dict())
    found = with_published_weights("resnet20", (3, 32, 32), root=tmp_path)
    assert torch.equal(found.body.linear.weight, made.body.linear.weight)
    assert found.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])

    def refuse(*_, **__):
        raise OSError("no route to host")

    where = "torchvision.models._api.load_state_dict_from_url"
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(where, refuse, raising=False)
    reason = r"squeezenet1_1 cannot be downloaded \(no route to host\)"
    with pytest.raises(InputError, match=rf"{reason}: put squeezenet1_1.safetensors"):
        with_published_weights("squeezenet1_1", (3, 64, 64), root=tmp_path)


def test_normalisation_is_inside():
    model = Normalised(nn.Flatten(), [0.1, 0.2], [0.5, 0.25])
    x = torch.rand(2, 2, 3, 3)
    want = torch.stack([(x[:, 0] - 0.1) / 0.5, (x[:, 1] - 0.2) / 0.25], 1).flatten(1)
    assert torch.allclose(model(x), want)


class Answer(nn.Module):
    """A model with one fault."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: x.flatten(1)[:, :4].softmax(1), "probabilities, not logits"),
        (lambda x: x.flatten(1)[:, :3], "returns .* are needed"),
        (lambda x: x.flatten(1)[:, :4] * float("nan"), "NaN or infinite logits"),
        (lambda x: x.flatten(1)[:, :4] + torch.rand(1), "differently twice"),
        (lambda x: x.flatten(1)[:, :4].detach() * 3, "carry no gradient"),
        (
            lambda x: (x.flatten(1)[:, :4] - x.flatten(1)[:, :4].detach()).sqrt() * 3,
            "gradient with respect to the image is NaN",
        ),
        (
            lambda x: nn.Linear(3, 3)(x),
            "cannot read images of shape .* One that is made for another size",
        ),
        (lambda x: "logits", "returns str"),
    ],
)
def test_models_that_break_the_contract_get_a_sentence(function, sentence):
    with pytest.raises(InputError, match=sentence):
        check(Answer(function), torch.rand(3, 1, 4, 4) * 0.9, 4)


def test_check_refuses_train_mode_and_bring_refuses_nonsense():
    with pytest.raises(InputError, match="train mode"):
        check(build("digits_net", (1, 8, 8), 2).train(), torch.rand(1, 1, 8, 8), 2)
    wrong = {
        "no.such:thing": "cannot be brought in",
        "json:dumps_not": "cannot be brought in",
        "builtins:dict": "returned a dict",
    }
    for path, sentence in wrong.items():
        with pytest.raises(InputError, match=sentence):
            bring(path)
    with pytest.raises(InputError, match="'resnet9' is unknown"):
        build("resnet9", (1, 8, 8), 2)


def test_weights_load_or_get_a_sentence(tmp_path):
    model, other = (build("digits_net", (1, 8, 8), 2, seed=seed) for seed in (1, 2))
    write_tensors(tmp_path / "a.safetensors", model.state_dict())
    torch.save(model.state_dict(), tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        load_weights(other, tmp_path / name)
        assert torch.equal(other.body.fc2.weight, model.body.fc2.weight)
    torch.save(model, tmp_path / "code.pt")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:300])
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    write_tensors(tmp_path / "else.safetensors", {"x": torch.zeros(2)})
    for name, sentence in (
        ("none.pt", "is no file"),
        ("code.pt", "cannot be read"),
        ("cut.safetensors", "cannot be read"),
        ("numbers.pt", "no state dict"),
        ("else.safetensors", "does not fit"),
    ):
        with pytest.raises(InputError, match=sentence):
            load_weights(other, tmp_path / name)


def test_taps_leave_no_hook_behind(net):
    x = torch.rand(2, 3, 8, 8).double()
    with taps(net, ["body.3", "0"]) as found:
        net(x)
    assert found["body.3"].shape == (2, 6, 3, 3) and found["0"].shape == (2, 6, 8, 8)
    with pytest.raises(RuntimeError), taps(net, ["body.3"]):
        net(torch.rand(1, 1, 1, 1).double())
    with pytest.raises(InputError, match="no module 'nowhere'"), taps(net, ["body.3", "nowhere"]):
        pass
    assert all(not m._forward_hooks for m in net.modules())


def test_logit_gradient_is_the_derivative(net, images):
    labels = torch.arange(12) % 4
    found, h = gradient(net, images, labels), 1e-6
    for place in ((0, 1, 2), (2, 7, 7), (1, 4, 0)):
        step = torch.zeros_like(images)
        step[(slice(None), *place)] = h
        with torch.no_grad():
            change = (net(images + step) - net(images - step)) / (2 * h)
        numeric = change.gather(1, labels[:, None])[:, 0]
        assert torch.allclose(found[(slice(None), *place)], numeric, atol=1e-6)
    x = images.clone().requires_grad_()
    second = torch.autograd.grad(gradient(net, x, labels, create_graph=True).square().sum(), x)[0]
    assert second.abs().sum() > 0


# -- training --------------------------------------------------------------------------------------


def blobs(n=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    x[y == 1, :, 2:6, 2:6] += 0.4
    return x, y


def fit(epochs=4, net="cifar_net", parts=None, progress=iter, **more):
    x, y = blobs()
    model = build(net, (1, 8, 8), 2, width=0.2, seed=1)
    how, groups = Training(epochs=epochs, batch=16, **more), torch.arange(len(x)) // 2
    record = training.fit(model, x, y, how, groups=groups, seed=3, parts=parts, progress=progress)
    return model, record


def test_training_learns_and_repeats_bit_for_bit():
    (a, record), (b, _) = (fit(epochs=12, net="digits_net", lr=0.01) for _ in range(2))
    assert record["validation_accuracy"] == 1.0 and not a.training
    assert not record["collapsed"] and not record["diverged"]
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_groups_never_stand_on_both_sides():
    groups = torch.arange(60).repeat(2)
    kept, held = training._split(groups, 0.1, 0)
    assert len(held) == 12 and not set(groups[kept].tolist()) & set(groups[held].tolist())


def test_a_killed_training_continues_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    whole, record = fit()
    epochs = []

    def stop(items):
        for item in items:
            if item == 2:
                raise KeyboardInterrupt
            yield item

    def watch(items):
        epochs.append(list(items))
        return items

    with pytest.raises(KeyboardInterrupt):
        fit(parts=Parts(tmp_path), progress=stop)
    resumed, again = fit(parts=Parts(tmp_path), progress=watch)
    assert epochs[-1] == [2, 3]  # it went on, it did not begin anew
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    assert again["train_loss"] == record["train_loss"]


def test_the_best_epoch_is_kept_not_the_last(monkeypatch):
    scores = iter([(0.5, -1.0), (0.9, -0.5), (0.9, -0.7), (0.8, -0.1)])
    monkeypatch.setattr(training, "_validate", lambda *a: next(scores))
    assert fit()[1]["epoch"] == 2


def test_divergence_and_collapse_are_noticed():
    with pytest.raises(InputError, match="diverged in epoch 1"):
        fit(lr=1e30)
    assert fit(epochs=1, lr=0.0)[1]["collapsed"]


def test_training_on_all_images_keeps_the_last_epoch():
    model, record = fit(epochs=12, net="digits_net", lr=0.01, validate=0.0)
    assert record["epoch"] == 12 and not record["collapsed"]
    assert record["train_loss"][-1] < record["train_loss"][0]
    x, y = blobs()
    assert (predict(model, x).argmax(1) == y).float().mean() > 0.95
