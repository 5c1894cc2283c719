"""Data, networks and the training loop."""

import pytest
import torch
from torch import nn

from nbutils import InputError, artifacts, data, models, train
from nbutils.saliency import logit_gradient


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 28, 28)), ("digits_rgb", (3, 32, 32))])
def test_splits_are_disjoint_whole_and_seeded(name, shape):
    a, b, other = data.load(name, seed=1), data.load(name, seed=1), data.load(name, seed=2)
    assert a.shape == shape and a.train.x.dtype == torch.uint8
    every = torch.cat([a.train.index, a.calibrate.index, a.test.index])
    assert len(every) == 1797 == len(every.unique()) and len(a.calibrate) == 200
    assert torch.equal(a.train.x, b.train.x) and not torch.equal(a.test.index, other.test.index)
    assert 0 <= a.test.pixels().min() and a.test.pixels().max() <= 1


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    source = load_digits()
    d = data.load("digits", seed=3)
    assert torch.equal(d.test.y, torch.from_numpy(source.target)[d.test.index])
    small = torch.nn.functional.avg_pool2d(d.test.pixels()[:, :, 2:26, 2:26], 3)  # 24 of 28 pixels: the means follow the source closely
    want = torch.from_numpy(source.images)[d.test.index].float()[:, None] / 16
    assert torch.corrcoef(torch.stack([small.flatten(), want.flatten()]))[0, 1] > 0.9


def test_digits_rgb_has_contrast_and_the_same_labels():
    grey, colour = data.load("digits", seed=0), data.load("digits_rgb", seed=0)
    assert torch.equal(grey.train.y, colour.train.y)
    luminance = (colour.train.pixels() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1).flatten(1)
    assert (luminance.amax(1) - luminance.amin(1)).min() > 0.3


def test_bad_data_requests_get_a_sentence():
    with pytest.raises(InputError, match=r"DATASET 'nothing' is unknown: choose one of digits"):
        data.load("nothing")
    with pytest.raises(InputError, match="has 1348 images"):
        data.load("digits", train=5000)


@pytest.mark.parametrize("name", models.ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 17, 23)])
def test_networks_keep_the_contract(name, shape):
    model = models.build(name, shape, 5, mean=[0.3] * shape[0], std=[0.2] * shape[0], width=0.25)
    models.check(model, torch.rand(3, *shape), 5)
    assert torch.equal(models.build(name, shape, 5, seed=4).body[0].weight, models.build(name, shape, 5, seed=4).body[0].weight)


def test_cifar_net_is_the_papers_size():
    net = models.build("cifar_net", (3, 32, 32), 10)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 32, 64, 64, 128, 128]
    assert [m.out_features for m in net.modules() if isinstance(m, nn.Linear)] == [128, 10]
    assert len([m for m in models.cifar_net((3, 32, 32), 10, depth=12) if isinstance(m, nn.Conv2d)]) == 12


def test_normalisation_is_inside():
    model = models.Normalised(nn.Flatten(), [0.1, 0.2], [0.5, 0.25])
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
        (lambda x: (x.flatten(1)[:, :4] - x.flatten(1)[:, :4].detach()).sqrt() * 3, "gradient with respect to the image is NaN"),
        (lambda x: nn.Linear(3, 3)(x), "cannot read images of shape"),
        (lambda x: "logits", "returns str"),
    ],
)
def test_models_that_break_the_contract_get_a_sentence(function, sentence):
    with pytest.raises(InputError, match=sentence):
        models.check(Answer(function), torch.rand(3, 1, 4, 4) * 0.9, 4)


def test_check_refuses_train_mode_and_bring_refuses_nonsense():
    with pytest.raises(InputError, match="train mode"):
        models.check(models.build("digits_net", (1, 8, 8), 2).train(), torch.rand(1, 1, 8, 8), 2)
    wrong = {"no.such:thing": "cannot be brought in", "json:dumps_not": "cannot be brought in", "builtins:dict": "returned a dict"}
    for path, sentence in wrong.items():
        with pytest.raises(InputError, match=sentence):
            models.bring(path)
    with pytest.raises(InputError, match="'resnet9' is unknown"):
        models.build("resnet9", (1, 8, 8), 2)


def test_weights_load_or_get_a_sentence(tmp_path):
    model, other = models.build("digits_net", (1, 8, 8), 2, seed=1), models.build("digits_net", (1, 8, 8), 2, seed=2)
    artifacts.write_tensors(tmp_path / "a.safetensors", model.state_dict())
    torch.save(model.state_dict(), tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        models.load_weights(other, tmp_path / name)
        assert torch.equal(other.body.fc2.weight, model.body.fc2.weight)
    torch.save(model, tmp_path / "code.pt")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:300])
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    artifacts.write_tensors(tmp_path / "else.safetensors", {"x": torch.zeros(2)})
    for name, sentence in (("none.pt", "is no file"), ("code.pt", "cannot be read"), ("cut.safetensors", "cannot be read"),
                           ("numbers.pt", "no state dict"), ("else.safetensors", "does not fit")):
        with pytest.raises(InputError, match=sentence):
            models.load_weights(other, tmp_path / name)


def test_taps_leave_no_hook_behind(net):
    x = torch.rand(2, 3, 8, 8).double()
    with models.taps(net, ["body.3", "0"]) as found:
        net(x)
    assert found["body.3"].shape == (2, 6, 3, 3) and found["0"].shape == (2, 6, 8, 8)
    with pytest.raises(RuntimeError), models.taps(net, ["body.3"]):
        net(torch.rand(1, 1, 1, 1).double())
    with pytest.raises(InputError, match="no module 'nowhere'"), models.taps(net, ["body.3", "nowhere"]):
        pass
    assert all(not m._forward_hooks for m in net.modules())


def test_logit_gradient_is_the_derivative(net, images):
    labels = torch.arange(12) % 4
    gradient, h = logit_gradient(net, images, labels), 1e-6
    for place in ((0, 1, 2), (2, 7, 7), (1, 4, 0)):
        step = torch.zeros_like(images)
        step[(slice(None), *place)] = h
        with torch.no_grad():
            numeric = (net(images + step) - net(images - step)).gather(1, labels[:, None])[:, 0] / (2 * h)
        assert torch.allclose(gradient[(slice(None), *place)], numeric, atol=1e-6)
    x = images.clone().requires_grad_()
    second = torch.autograd.grad(logit_gradient(net, x, labels, create_graph=True).square().sum(), x)[0]
    assert second.abs().sum() > 0


# -- training --------------------------------------------------------------------------------------------------------------------------


def blobs(n=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    x[y == 1, :, 2:6, 2:6] += 0.4
    return x, y


def fit(epochs=4, net="cifar_net", **more):
    x, y = blobs()
    model = models.build(net, (1, 8, 8), 2, width=0.2, seed=1)
    record = train.fit(model, x, y, groups=torch.arange(len(x)) // 2, epochs=epochs, seed=3, batch=16, **more)
    return model, record


def test_training_learns_and_repeats_bit_for_bit():
    (a, record), (b, _) = (fit(epochs=12, net="digits_net", lr=0.01) for _ in range(2))
    assert record["validation_accuracy"] == 1.0 and not record["collapsed"] and not record["diverged"] and not a.training
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_groups_never_stand_on_both_sides():
    groups = torch.arange(60).repeat(2)
    kept, held = train._split(groups, 0.1, 0)
    assert len(held) == 12 and not set(groups[kept].tolist()) & set(groups[held].tolist())


def test_a_killed_training_continues_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    whole, record = fit()
    epochs = []

    def stop(items):
        for item in items:
            if item == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        fit(folder=tmp_path, progress=stop)
    resumed, again = fit(folder=tmp_path, progress=lambda items: epochs.append(list(items)) or items)
    assert epochs[-1] == [2, 3]  # it went on, it did not begin anew
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    assert again["train_loss"] == record["train_loss"]


def test_the_best_epoch_is_kept_not_the_last(monkeypatch):
    scores = iter([(0.5, -1.0), (0.9, -0.5), (0.9, -0.7), (0.8, -0.1)])
    monkeypatch.setattr(train, "_validate", lambda *a: next(scores))
    assert fit()[1]["epoch"] == 2


def test_divergence_and_collapse_are_noticed():
    with pytest.raises(InputError, match="diverged in epoch 1"):
        fit(lr=1e30)
    assert fit(epochs=1, lr=0.0)[1]["collapsed"]
