"""Files on disk: read exactly, or refused with one sentence that names them."""

import gzip
import hashlib
import http.server
import io
import os
import pickle
import threading
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nbutils import InputError, steps
from nbutils.data import sources
from nbutils.data.embedded import IN_COLOUR
from nbutils.data.folders import CLASS_LISTS, ilsvrc
from nbutils.data.splits import load
from nbutils.evaluation.leaks import sources_disjoint
from nbutils.models.building import build
from tests.conftest import configure


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    tiny = {n: (md5, 30 if "train" in n else 10) for n, (md5, _) in sources.MNIST.items()}
    monkeypatch.setattr(sources, "MNIST", tiny)
    raw = tmp_path / "MNIST" / "raw"
    for part, n in (("train", 30), ("t10k", 10)):
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)
    return tmp_path


def test_mnist_is_read_as_written_and_numbered_over_both_parts(tiny_mnist):
    d = load("mnist", root=tiny_mnist, calibrate=5, seed=1)
    content = (tiny_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    raw = np.frombuffer(content, np.uint8, offset=16).reshape(10, 1, 28, 28)
    assert torch.equal(d.test.x, torch.from_numpy(raw.copy())[d.test.index - 30])
    assert torch.equal(d.test.y, (d.test.index - 30) % 10)
    assert (len(d.train), len(d.calibrate), len(d.test)) == (25, 5, 10)
    assert len(torch.cat([d.train.index, d.calibrate.index, d.test.index]).unique()) == 40


def test_inked_mnist_has_the_same_labels_and_splits_in_colours_of_its_own(tiny_mnist):
    splits = {"root": tiny_mnist, "calibrate": 5, "seed": 1}
    grey, colour = load("mnist", **splits), load("mnist_rgb", **splits)
    assert IN_COLOUR["mnist"] == "mnist_rgb" and colour.shape == (3, 32, 32)
    for part in ("train", "test", "calibrate"):
        a, b = getattr(grey, part), getattr(colour, part)
        assert torch.equal(a.index, b.index) and torch.equal(a.y, b.y)
    flat = colour.train.pixels().flatten(2)
    papers = {tuple(pixel.tolist()) for pixel in flat[:, :, 0]}
    assert len(papers) == len(flat)  # each on paper of its own


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda b: b[:-1], "truncated or too long"),
        (lambda b: b + b"x", "truncated or too long"),
        (lambda b: b"PK" + b, "no idx file"),
        (lambda b: b[:6], "truncated"),
        (lambda b: b"", "no idx file"),
    ],
)
def test_damaged_idx_files_are_named(tiny_mnist, spoil, sentence):
    path = tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=f"train-images-idx3-ubyte.*{sentence}"):
        load("mnist", root=tiny_mnist)


def test_parts_that_do_not_belong_together_are_refused(tiny_mnist):
    write_idx(tiny_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.zeros(29, np.uint8))
    with pytest.raises(InputError, match="not 30: replace them"):
        load("mnist", root=tiny_mnist)


def test_cifar_batches_are_read_only_with_the_official_checksum(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for i, name in enumerate(sources.CIFAR10):
        batch = pickle.dumps({b"data": np.full((4, 3072), i, np.uint8), b"labels": [0, 1, 2, 3]})
        (folder / name).write_bytes(batch)
        sums[name] = hashlib.md5(batch).hexdigest()
    # a pickle that is not the official one is never opened
    with pytest.raises(InputError, match="data_batch_1 is damaged"):
        load("cifar10", root=tmp_path)
    monkeypatch.setattr(sources, "CIFAR10", sums)
    d = load("cifar10", root=tmp_path, calibrate=4)
    assert d.shape == (3, 32, 32) and len(d.train) == 16
    assert (d.test.x == 5).all() and d.classes[3] == "cat"
    (folder / "data_batch_2").unlink()
    with pytest.raises(InputError, match="data_batch_2 is missing"):
        load("cifar10", root=tmp_path)


def picture(path, colour, mode="RGB", size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


@pytest.fixture
def folders(tmp_path):
    """Two classes, mixed sizes and formats, spaces and accents, grey and colour, one class with one
    picture in its test part.
    """
    for part, shift in (("train", 10), ("test", 0)):
        apples = tmp_path / part / "grüne Äpfel"
        picture(apples / "ein Bild.png", (shift, 200, 0))
        picture(apples / "grau.jpg", 90 + shift, "L", (70, 100))
        picture(apples / "mit alpha.png", (shift, 150, 0, 255), "RGBA", (64, 64))
        picture(tmp_path / part / "birnen" / "é.jpeg", (200, 200, shift), size=(200, 90))
        (tmp_path / part / "birnen" / "notes.txt").write_text("no picture", encoding="utf-8")
    for i in range(4):
        picture(tmp_path / "train" / "birnen" / f"{i}.png", (200, 180, 20 * i))
    return tmp_path


def test_folders_of_any_pictures(folders):
    d = load("folder", root=folders, calibrate=1)
    assert d.classes == ["birnen", "grüne Äpfel"] and d.shape == (3, 64, 64) and len(d.test) == 4
    pear = d.test.x[d.test.y == 0]
    colour = pear.float().mean((0, 2, 3))
    assert len(pear) == 1 and (colour - torch.tensor([200.0, 200.0, 0.0])).abs().max() < 4


def test_grey_folders_have_one_channel(tmp_path):
    for p, part in enumerate(("train", "test")):
        for n, name in enumerate(("a", "b")):
            for i in range(3):
                picture(tmp_path / part / name / f"{i}.png", 80 * i + 20 * n + 10 * p, "L")
    assert load("folder", root=tmp_path, calibrate=1).shape == (1, 64, 64)
    picture(tmp_path / "test" / "a" / "colour.png", (9, 99, 199))
    d = load("folder", root=tmp_path, calibrate=1)
    assert d.shape == (3, 64, 64) and d.train.x.shape[1] == 3


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: cut(f / "train/birnen/é.jpeg", 0), "é.jpeg is no readable picture"),
        (lambda f: cut(f / "train/birnen/é.jpeg", 200), "é.jpeg is no readable picture"),
        (
            lambda f: picture(f / "train/birnen/cmyk.jpg", (1, 2, 3, 4), "CMYK"),
            "cmyk.jpg is a picture of mode CMYK",
        ),
        (
            lambda f: picture(f / "train/birnen/deep.png", 4000, "I;16"),
            "deep.png is a picture of mode I",
        ),
        (lambda f: (f / "train/leer").mkdir(), "leer holds no picture"),
        (lambda f: [p.unlink() for p in (f / "train/birnen").iterdir()], "birnen holds no picture"),
        (
            lambda f: (f / "test/birnen").rename(f / "test/kirschen"),
            "are not those of the training part",
        ),
        (lambda f: (f / "test").rename(f / "testing"), "has no folder test/"),
        (
            lambda f: (f / "train" / "birnen").rename(f / "birnen"),
            "two classes or more, but holds 1",
        ),
    ],
)
def test_wrong_folders_get_a_sentence_before_any_work(folders, tmp_path, spoil, sentence):
    spoil(folders)
    run = configure(tmp_path / "out", DATASET="folder", DATA_ROOT=str(folders))
    with pytest.raises(InputError, match=sentence):
        _ = run.data
    assert not list((tmp_path / "out").rglob("meta.json"))


def test_no_network_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(sources.urllib.request, "urlopen", refuse)
    for name, sentence in (
        ("mnist", "no route to host.*put the four idx files of MNIST into"),
        ("cifar10", "put CIFAR-10's python version"),
    ):
        with pytest.raises(InputError, match=sentence):
            load(name, root=tmp_path)
    with pytest.raises(InputError, match=r"No folder .*cats_dogs: put pictures"):
        load("cats_dogs", root=tmp_path)


def test_pictures_to_test_on_only_may_be_evaluated_not_fitted(folders, tmp_path):
    (folders / "train").rename(folders / "training")
    parameters = {"DATASET": "folder", "DATA_ROOT": str(folders)}
    run = configure(tmp_path / "out", **parameters)
    assert len(run.data.train) == len(run.data.calibrate) == 0 < len(run.data.test)
    for work, sentence in (
        (lambda: steps.classifier(run), "no training pictures to fit digits_net on"),
        (lambda: steps.adversarial(run, "fgsm", "train"), "folder has no train pictures to attack"),
        (lambda: steps.evaluation(run, "id", "fgsm", "fgsm"), "no detector \\(id\\) can be fitted"),
    ):
        with pytest.raises(InputError, match=sentence):
            work()
    assert not list((tmp_path / "out").rglob("meta.json"))
    brought = configure(tmp_path / "out", **parameters, MODEL="tests.test_sources:two_classes")
    held, tested = len(brought.data.calibrate), len(brought.data.test)
    assert held + tested == len(run.data.test) and held > 0
    assert steps.classifier(brought).record["n"] == tested
    assert steps.adversarial(brought, "fgsm").record["n"] == tested


class Bright(torch.nn.Module):
    """Two classes of pictures, told by their brightness."""

    def forward(self, x):
        light = x.mean((1, 2, 3))
        return 20 * torch.stack([0.4 - light, light - 0.4], 1)


def two_classes():
    return Bright().eval()


def thousand_classes():
    return build("digits_net", (3, 224, 224), 1000, seed=5)


@pytest.fixture
def imagenet(tmp_path):
    for blue, part in ((200, "train"), (190, "test")):
        for i, wnid in enumerate(("n01440764", "n02102040", "n07734744")):
            for j in range(6):
                path = tmp_path / "data" / "shots" / part / wnid / f"{j}.png"
                picture(path, (80 * i, 9 * j, blue))
    return tmp_path / "data"


def test_imagenet_subset_takes_classes_by_any_name_and_restricts_a_network_to_them(
    imagenet, tmp_path
):
    d = load("imagenet_subset", root=imagenet, source="shots", calibrate=0.2)
    assert d.classes == ["tench", "English springer", "mushroom"]
    assert d.positions == (0, 217, 947) and d.shape == (3, 224, 224)
    assert (len(d.train), len(d.calibrate), len(d.test)) == (14, 4, 18)
    run = configure(
        tmp_path / "out",
        DATASET="imagenet_subset",
        SOURCE="shots",
        CLASSES=["mushroom", "n01440764"],
        DATA_ROOT=str(imagenet),
        MODEL="tests.test_sources:thousand_classes",
    )
    assert run.data.classes == ["tench", "mushroom"]
    assert sorted(run.data.test.y.unique().tolist()) == [0, 1]
    made = steps.classifier(run)
    x = run.data.test.pixels()
    assert torch.equal(made.model(x), thousand_classes()(x)[:, [0, 947]])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"CLASSES": ["tensh", "mushroom"]},
            "CLASSES holds 'tensh', which is none of ILSVRC's 1000 classes; near are \\['tench",
        ),
        ({"CLASSES": ["zhang"]}, "shots/train has no pictures of n02074367"),
        ({"CLASSES": ["tench"]}, "two classes or more, but holds 1"),
        ({"SOURCE": "none"}, "No folder .*none: put pictures into train/"),
    ],
)
def test_wrong_class_lists_get_a_sentence(imagenet, tmp_path, parameters, sentence):
    given = {"DATASET": "imagenet_subset", "SOURCE": "shots", "DATA_ROOT": str(imagenet)}
    run = configure(tmp_path / "out", **{**given, **parameters})
    with pytest.raises(InputError, match=sentence):
        _ = run.data
    (imagenet / "shots" / "test" / "tench").mkdir()
    (imagenet / "shots" / "train" / "tench").mkdir()
    picture(imagenet / "shots" / "test" / "tench" / "a.png", (1, 2, 3))
    picture(imagenet / "shots" / "train" / "tench" / "a.png", (3, 2, 1))
    with pytest.raises(InputError, match="class folder 'tench', which is no WordNet id"):
        load("imagenet_subset", root=imagenet, source="shots")


def test_ready_lists_are_classes_of_ilsvrc():
    names = [name for _, name in ilsvrc()]
    assert len(names) == len(set(names)) == 1000
    assert ilsvrc()[0] == ("n01440764", "tench") and ilsvrc()[999][1] == "toilet tissue"
    assert [wnid for wnid, _ in ilsvrc()] == sorted(wnid for wnid, _ in ilsvrc())
    assert all(len(chosen) == 10 and set(chosen) <= set(names) for chosen in CLASS_LISTS.values())


CONTENT = bytes(range(256)) * 400


class Server(http.server.BaseHTTPRequestHandler):
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.asked.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *_):
        pass


def test_a_download_goes_on_is_checked_and_not_repeated(tmp_path):
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, md5 = f"http://127.0.0.1:{server.server_port}/x", hashlib.md5(CONTENT).hexdigest()
    target = tmp_path / "x.bin"
    try:
        (tmp_path / "x.bin.part").write_bytes(CONTENT[:5000])
        for _ in range(2):
            sources.download(url, target, md5, "bring it yourself")
        assert target.read_bytes() == CONTENT and Server.asked == [5000]
        with pytest.raises(InputError, match="wrong checksum and was removed"):
            sources.download(url, tmp_path / "y.bin", "0" * 32, "bring it yourself")
        assert not (tmp_path / "y.bin").exists() and not (tmp_path / "y.bin.part").exists()
        # killed between the last byte and the rename
        (tmp_path / "z.bin.part").write_bytes(CONTENT)
        sources.download(url, tmp_path / "z.bin", md5, "bring it yourself")
        assert (tmp_path / "z.bin").read_bytes() == CONTENT
    finally:
        server.shutdown()


def test_packed_mnist_is_unpacked(tiny_mnist, monkeypatch):
    path = tiny_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as f:
        f.write(path.read_bytes())
    whole = path.read_bytes()
    path.unlink()

    def fetched(url, target, md5, otherwise):
        target.write_bytes(packed.getvalue())

    monkeypatch.setattr(sources, "download", fetched)
    load("mnist", root=tiny_mnist, calibrate=5)
    assert path.read_bytes() == whole


@pytest.mark.skipif(
    not os.environ.get("NBUTILS_DATA"),
    reason="needs the real data sets: set NBUTILS_DATA to their folder",
)
@pytest.mark.parametrize(
    ("name", "shape", "train", "test"),
    [
        ("mnist", (1, 28, 28), 60_000, 10_000),
        ("cifar10", (3, 32, 32), 50_000, 10_000),
        ("cats_dogs", (3, 112, 112), 2_000, 1_000),
    ],
)
def test_the_real_data_sets(name, shape, train, test):
    folder = Path(os.environ["NBUTILS_DATA"])
    if not (folder / {"mnist": "MNIST", "cifar10": "cifar-10-batches-py"}.get(name, name)).exists():
        pytest.skip(f"{name} is not under NBUTILS_DATA")
    d = load(name, root=folder, calibrate=200)
    assert d.shape == shape and (len(d.train) + 200, len(d.test)) == (train, test)
    assert torch.bincount(d.test.y).min() > test / len(d.classes) * 0.85
    sources_disjoint(d.train.index, d.test.index)
