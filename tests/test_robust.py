"""Adversarial training (Madry 2018, Rony 2019): what it trains on, and what it is worth."""

import copy

import pytest
import torch
from torch import nn

from nbutils import InputError, steps
from nbutils.attacks import ATTACKS
from nbutils.models import robust as training
from nbutils.models.contract import predict
from nbutils.models.robust import AdversarialTraining
from nbutils.steps.classifier import copied
from nbutils.steps.robust import KINDS, attacked, recipe
from nbutils.store.artifacts import Parts
from nbutils.store.fingerprints import key_of
from tests.conftest import configure

PGD = AdversarialTraining("pgd", 0.15, 5, epochs=3)
DDN = AdversarialTraining("ddn", 2.4, 5, epochs=3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A plain net on digits with its data: 400 training images."""
    run = configure(tmp_path_factory.mktemp("robust"), CHANGES={"epochs": 12})
    base = steps.classifier(run)
    return base.model, run.data


def trained(digits, how, seed=0, n=400, **more):
    model, images = copy.deepcopy(digits[0]).requires_grad_(True), digits[1].train[:n]
    record = training.fit(
        model, images.x, images.y, how, attacked, index=images.index, seed=seed, **more
    )
    return model, record


def accuracy(model, data, **attack):
    images = data.test[:150]
    x = images.pixels()
    if attack:
        x = ATTACKS[attack.pop("name")](model, x, images.y, index=images.index, **attack)
    return (predict(model, x).argmax(1) == images.y).double().mean().item()


def test_pgd_training_raises_the_accuracy_under_pgd(digits):
    model, record = trained(digits, AdversarialTraining("pgd", 0.1, 5, epochs=6))
    under = {"name": "pgd", "eps": 0.1, "step": 0.025, "steps": 20}
    plain, robust = accuracy(digits[0], digits[1], **under), accuracy(model, digits[1], **under)
    assert robust > plain + 0.15 and accuracy(model, digits[1]) > 0.8
    assert not record["collapsed"] and len(record["train_loss"]) == record["epochs"] == 6
    assert record["validation"][record["epoch"] - 1] == max(record["validation"][1:])


def test_ddn_training_raises_the_accuracy_under_an_l2_attack(digits):
    model, _ = trained(digits, AdversarialTraining("ddn", 2.4, 8, epochs=6))
    under = {"name": "pgd", "norm": "l2", "eps": 1.5, "step": 0.3, "steps": 20}
    plain, robust = accuracy(digits[0], digits[1], **under), accuracy(model, digits[1], **under)
    assert robust > plain + 0.05 and accuracy(model, digits[1]) > 0.85


@pytest.mark.parametrize("how", [PGD, DDN])
def test_it_trains_on_attacked_images_alone_in_their_ball_with_true_labels(
    digits, how, monkeypatch
):
    seen, exact = [], ATTACKS[how.attack]

    def noted(model, x, y, **knobs):
        assert not model.training  # dropout would hide the gradient
        seen.append([x, y, knobs["index"], exact(model, x, y, **knobs)])
        return seen[-1][-1]

    monkeypatch.setitem(ATTACKS, how.attack, noted)
    fed = []
    base = copy.deepcopy(digits[0])
    base.register_forward_pre_hook(
        lambda module, given: fed.append(given[0].detach().clone()) if module.training else None
    )
    images, was = digits[1].train[:60], digits[1].train[:60].y
    base.requires_grad_(True)
    before = key_of(digits[0].state_dict())
    training.fit(base, images.x, images.y, how, attacked, index=images.index, seed=0)
    assert key_of(digits[0].state_dict()) == before and not base.training
    by_index = {int(i): int(y) for i, y in zip(images.index, was, strict=True)}
    shares = []
    for x, y, index, _ in seen:
        assert [by_index[int(i)] for i in index] == y.tolist()
        assert x.min() >= 0 and x.max() <= 1
    batches = [entry for entry in seen if len(entry[0]) <= how.batch]
    for x_fed in fed:
        assert x_fed.min() >= 0 and x_fed.max() <= 1
        sources = [e for e in batches if e[0].shape == x_fed.shape]
        if how.attack == "pgd":
            sizes = [(x_fed - e[0]).abs().max().item() for e in sources]
        else:
            sizes = [(x_fed - e[0]).flatten(1).norm(dim=1).max().item() for e in sources]
        shares.append(min(sizes) / how.size)
    assert max(shares) <= 1 + 1e-5 and shares[0] <= 0.5 + 1e-5  # half of the size at first
    # a net on clean images would be fed nothing that has moved
    assert max(shares) > (0.55 if how.attack == "pgd" else 0.05)
    assert sum(len(x_fed) for x_fed in fed) == 54 * how.epochs  # six of the sixty are held back


def test_a_perturbation_that_is_too_long_is_scaled_back(digits):
    images = digits[1].test[:40]
    x, how = images.pixels(), AdversarialTraining("ddn", 0.3, 10)
    found = attacked(digits[0], x, images.y, how, images.index, 0)
    free = ATTACKS["ddn"](digits[0], x, images.y, steps=10, index=images.index)
    sizes = [(x_adv - x).flatten(1).norm(dim=1) for x_adv in (found, free)]
    assert sizes[0].max() <= 0.3 + 1e-5 and sizes[1].max() > 0.3
    short = sizes[1] <= 0.3
    assert torch.allclose(found[short], free[short])
    ratio = (found - x)[~short] / (free - x)[~short].clamp(min=1e-9)
    moved = (free - x)[~short] > 1e-3
    wanted = (0.3 / sizes[1][~short])[:, None, None, None].expand_as(ratio)
    assert torch.allclose(ratio[moved], wanted[moved], rtol=1e-3)
    half = attacked(digits[0], x, images.y, how, images.index, 0, 0.5)
    assert (half - x).flatten(1).norm(dim=1).max() <= 0.15 + 1e-5


def test_the_same_seed_gives_the_same_weights_also_after_a_kill(digits, tmp_path):
    whole, record = trained(digits, PGD, n=120)
    again, _ = trained(digits, PGD, n=120)
    other, _ = trained(digits, PGD, n=120, seed=1)
    assert key_of(whole.state_dict()) == key_of(again.state_dict()) != key_of(other.state_dict())
    tmp_path.joinpath("parts").mkdir()
    parts = Parts(tmp_path / "parts")

    def killed(epochs):
        for epoch in epochs:
            if epoch == 2:
                raise KeyboardInterrupt
            yield epoch

    with pytest.raises(KeyboardInterrupt):
        trained(digits, PGD, n=120, parts=parts, progress=killed)
    begun = []
    rest, found = trained(
        digits, PGD, n=120, parts=parts, progress=lambda epochs: begun.extend(epochs) or begun
    )
    assert begun == [2] and found == record
    assert key_of(rest.state_dict()) == key_of(whole.state_dict())


def test_what_cannot_be_trained_is_said(digits, tmp_path, monkeypatch):
    x, y, index = torch.rand(4, 1, 28, 28), torch.zeros(4, dtype=torch.long), torch.arange(4)
    with pytest.raises(InputError, match="choose pgd or ddn"):
        attacked(digits[0], x, y, AdversarialTraining("fgsm", 0.1, 1), index, 0)
    run = configure(tmp_path)
    with pytest.raises(InputError, match="choose one of pgd, ddn"):
        steps.robust(run, "fgsm")
    with pytest.raises(InputError, match="no parameters"):
        copied(nn.Flatten())

    class Fixed(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("a handle")

    with pytest.raises(InputError, match=r"cannot be copied \(a handle\)"):
        copied(Fixed())
    monkeypatch.setattr(training, "fit", lambda *a, **k: {"collapsed": True})
    with pytest.raises(InputError, match="one answer for every image"):
        steps.robust(run, "pgd")


def test_the_step_tells_what_the_network_is_worth_beside_the_plain_one(tmp_path):
    run = configure(tmp_path, CHANGES={"robust_epochs": 3, "robust_train": 0, "robust_steps": 5})
    made, base = steps.robust(run, "pgd"), steps.classifier(run)
    record = made.record
    test = run.data.test
    right = (predict(made.model, test.x).argmax(1) == test.y).double().mean().item()
    assert record["accuracy"] == pytest.approx(right) and record["n"] == len(test)
    assert record["plain"] == pytest.approx(base.record["accuracy"])
    eps = 0.15
    x_adv = ATTACKS["pgd"](
        made.model, test.pixels(), test.y, index=test.index, eps=eps, step=eps / 4, steps=20
    )
    under = (predict(made.model, x_adv).argmax(1) == test.y).double().mean().item()
    assert record["accuracy_pgd"] == pytest.approx(under, abs=0.02) and record["n_pgd"] == len(test)
    assert record["trained_on"] == len(run.data.train)
    assert not made.model.training and not any(p.requires_grad for p in made.model.parameters())
    assert key_of(base.model.state_dict()) != key_of(made.model.state_dict())
    recipes = {kind: recipe(run, kind) for kind in KINDS}
    assert recipes["pgd"].size == 0.15 and recipes["ddn"].size == pytest.approx(2.4)
    assert recipes["pgd"].steps == 5 and recipes["ddn"].epochs == 3
    paper = configure(tmp_path, PRESET="paper")
    assert recipe(paper, "pgd").size == 0.3 and recipe(paper, "ddn").steps == 100
