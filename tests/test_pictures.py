"""A user's own pictures: what a folder holds, which of it is read, and what stops a run."""

import io
import logging
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from nbutils import InputError, steps
from nbutils.data import folders, sources
from nbutils.data.splits import load
from nbutils.models.normalised import moments
from tests.conftest import configure


def noise(seed, colour=0, size=(20, 20)):
    """A picture of noise, brighter in one colour."""
    x = np.random.default_rng(seed).integers(0, 120, (*size, 3)).astype(np.uint8)
    x[..., colour] += 120
    return x


def write(path, picture, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(path, **how)
    return path


def fill(root, train=6, test=3, change=lambda x: x, classes=("a", "b")):
    """train/ and test/ with so many pictures of each class."""
    seed = 0
    for part, n in (("train", train), ("test", test)):
        for colour, name in enumerate(classes):
            for i in range(n):
                seed += 1
                write(root / part / name / f"{part}{i}.png", change(noise(seed, colour)))
    return root


def seen(path, size=8):
    """What is read of one picture."""
    return sources.pictures([path], size)[0][0]


def test_what_systems_leave_behind_is_no_class_and_no_picture(tmp_path, caplog):
    fill(tmp_path)
    as_it_was = load("folder", root=tmp_path, calibrate=1)
    checkpoint = tmp_path / "train" / ".ipynb_checkpoints"
    write(checkpoint / "x-checkpoint.png", noise(99))
    write(tmp_path / "test" / "__MACOSX" / "y.png", noise(98))
    for part in (checkpoint, tmp_path / "train" / "a", tmp_path / "test"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._train0.png"):
            (part / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "train" / "a" / ".ipynb_checkpoints").mkdir()
    d = load("folder", root=tmp_path, calibrate=1)
    assert d.classes == ["a", "b"] and not caplog.messages
    assert torch.equal(d.train.x, as_it_was.train.x) and len(d.test) == 6
    (tmp_path / "train" / "b").rename(tmp_path / "train" / ".b")
    with pytest.raises(InputError, match="two classes or more, but holds 1"):
        load("folder", root=tmp_path)


def test_a_picture_is_read_whatever_usual_ending_it_has(tmp_path):
    x = noise(1)
    for ending in ("JPG", "jfif", "tif", "TIFF", "gif", "webp", "bmp", "PNG", "ppm"):
        path = write(tmp_path / "train" / "a" / f"{ending}.{ending}", x, format=None)
        assert path.suffix.lower() in sources.PICTURES
        gap = (seen(path, 20).permute(1, 2, 0).float() - torch.from_numpy(x)).abs().mean()
        assert gap < 25, ending
    write(tmp_path / "train" / "b" / "x.png", noise(2))
    _, files, note = sources.listed(tmp_path / "train")
    assert len(files) == 10 and not note


def test_what_is_read_and_what_is_not_is_counted_before_any_work(tmp_path, caplog):
    fill(tmp_path)
    for name in ("a.heic", "b.HEIC", "c.txt", "no_ending"):
        (tmp_path / "train" / "a" / name).write_bytes(b"?")
    write(tmp_path / "train" / "a" / "more" / "deep.png", noise(50))
    write(tmp_path / "train" / "loose.jpg", noise(51))
    for i in range(2):  # a broken picture stops the run, but not before the counts are told
        (tmp_path / "test" / "a" / f"bad{i}.png").write_text("no picture at all", encoding="utf-8")
    with (
        caplog.at_level(logging.WARNING, "nbutils"),
        pytest.raises(InputError, match=r"bad0.png is no readable.* 1 more cannot .*bad1.png\.$"),
    ):
        load("folder", root=tmp_path)
    (said,) = caplog.messages
    assert said == (
        f"Of {tmp_path / 'train'}, 12 .png are read, and 2 .heic, 1 .jpg beside the class folders, "
        "1 .txt, 1 folder in a class folder and 1 file without an ending are not."
    )


def test_a_class_that_is_left_with_none_says_what_it_has(tmp_path):
    fill(tmp_path)
    (tmp_path / "train" / "c").mkdir()
    for i in range(3):
        (tmp_path / "train" / "c" / f"{i}.heic").write_bytes(b"?")
    with pytest.raises(InputError, match=r"c holds no picture \(.png.*\), only 3 .heic\."):
        load("folder", root=tmp_path)


def test_the_first_of_several_frames_is_read_and_told(tmp_path, caplog):
    frames = [Image.fromarray(noise(i, i % 3)) for i in range(3)]
    more = {"save_all": True, "append_images": frames[1:]}
    for ending in ("tif", "gif", "png", "webp"):
        path = write(tmp_path / f"x.{ending}", frames[0], **more)
        picture, several = sources.pictures([path], 20)
        gap = picture[0].permute(1, 2, 0).float() - torch.from_numpy(noise(0))
        assert several == 1 and gap.abs().mean() < 25, ending
    fill(tmp_path)
    write(tmp_path / "test" / "a" / "moving.gif", frames[0], **more)
    load("folder", root=tmp_path, calibrate=1)
    assert "1 pictures of" in caplog.text and "several frames" in caplog.text


BLACK = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
BLACK.paste((0, 0, 0, 255), (4, 4, 12, 12))  # a black square on nothing


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "with a transparent colour"])
def test_what_is_transparent_is_white(tmp_path, mode):
    """Its hidden colour is often black, and black drawings on nothing would all be one picture."""
    how, path = {}, tmp_path / "x.png"
    if mode == "P":
        picture = BLACK.quantize(8)
    elif mode == "with a transparent colour":
        picture, how = Image.new("RGB", (16, 16), (1, 1, 1)), {"transparency": (1, 1, 1)}
        picture.paste((0, 0, 0), (4, 4, 12, 12))
    else:
        picture = BLACK.convert(mode)
    found = seen(write(path, picture, **how), 16)
    assert found[:, 0, 0].tolist() == [255] * len(found)
    assert found[:, 8, 8].tolist() == [0] * len(found)


def with_exif(**tags):
    """A JPEG, 24x16, one quarter of it bright, whose orientation is 6."""
    x = np.full((16, 24, 3), 60, np.uint8)
    x[:8, :12] = 220
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for name, value in tags.items():
        exif[ExifTags.Base[name]] = value
    out = io.BytesIO()
    Image.fromarray(x).save(out, "JPEG", exif=exif, quality=95)
    return x, out.getvalue()


def as_text(data, tag):
    """The JPEG with the type of one of its EXIF tags changed to text."""
    changed = bytearray(data)
    place = changed.index(tag.to_bytes(2, "big"), changed.index(b"Exif"))
    assert changed[place + 2 : place + 4] in (b"\0\3", b"\0\4")
    changed[place + 3] = 2
    return bytes(changed)


def test_orientation_alone_is_needed_of_exif(tmp_path):
    x, data = with_exif(ImageWidth=24, Make="a maker")
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    turned = seen(path, 16)
    corners = turned[0, [2, 2, 13, 13], [2, 13, 2, 13]] > 140
    assert corners.tolist() == [False, True, False, False]  # a quarter turn to the right
    path.write_bytes(as_text(data, ExifTags.Base.ImageWidth))
    assert torch.equal(seen(path, 16), turned)
    path.write_bytes(data.replace(b"Exif\0\0MM\0*", b"Exif\0\0??\0*"))
    corners = seen(path, 16)[0, [2, 2, 13, 13], [2, 13, 2, 13]] > 140
    assert corners.tolist() == [True, False, False, False]
    for format in ("TIFF", "PNG", "WEBP"):  # others turn as well, and once only
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        other = write(tmp_path / f"x.{format}", x, exif=exif, format=format)
        assert (seen(other, 16).float() - turned).abs().mean() < 12, format


def test_damaged_exif_stops_no_picture(tmp_path):
    """One to three bytes of EXIF changed, by a fixed seed: the pixels are all there."""
    _, data = with_exif(
        ImageWidth=24, Make="a maker", Model="a model", XResolution=72.0, DateTime="2020:01:01"
    )
    start = data.index(b"Exif\0\0")
    length = int.from_bytes(data[start - 2 : start], "big") - 2
    rng = np.random.default_rng(0)
    files = []
    for i in range(400):
        changed = bytearray(data)
        for place in rng.integers(start, start + length, rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        files.append(tmp_path / f"{i:03}.jpg")
        files[-1].write_bytes(changed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, about EXIF
        found, _ = sources.pictures(files, 16)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    every = [whole, *(whole.transpose(turn) for turn in Image.Transpose)]
    allowed = [seen(write(tmp_path / "whole.png", picture), 16) for picture in every]
    kinds = [
        [torch.equal(one.expand(3, -1, -1), w.expand(3, -1, -1)) for w in allowed] for one in found
    ]
    assert all(map(any, kinds))
    right = allowed[1 + list(Image.Transpose).index(Image.Transpose.ROTATE_270)]
    assert sum(torch.equal(one, right) for one in found) > 250


def huge(path, width=13_000, height=15_000):
    """A PNG that says that it has 195 million pixels."""
    write(path, Image.new("L", (8, 8)))
    data = bytearray(path.read_bytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        ("huge.png", huge, "has too many pixels .more than 178,956,970.: scale it down"),
        ("text.png", lambda p: p.write_text("<html>", encoding="utf-8"), "is no readable picture"),
        ("empty.tif", lambda p: p.write_bytes(b""), "is no readable picture"),
        ("cut.jpg", lambda p: p.write_bytes(with_exif()[1][:-200]), "is no readable picture"),
        ("cut.gif", lambda p: p.write_bytes(b"GIF89a\1\0\1\0"), "is no readable picture"),
        ("ink.tif", lambda p: write(p, Image.new("CMYK", (9, 9))), "is a picture of mode CMYK"),
        (
            "deep.tif",
            lambda p: write(p, Image.new("I;16", (9, 9), 4000)),
            "is a picture of mode I;16",
        ),
        ("real.tiff", lambda p: write(p, Image.new("F", (9, 9), 0.5)), "is a picture of mode F"),
        ("lost.png", lambda p: p.symlink_to("nowhere"), "cannot be opened .No such file"),
        (
            "bomb.png",
            lambda p: p.write_bytes(bomb()),
            "is no readable picture",
        ),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, name, spoil, sentence):
    fill(tmp_path)
    spoil(tmp_path / "train" / "a" / name)
    run = configure(tmp_path / "out", DATASET="folder", DATA_ROOT=str(tmp_path))
    with pytest.raises(InputError, match=rf"train/a/{name} {sentence}"):
        steps.classifier(run)
    assert not list((tmp_path / "out").rglob("meta.json"))


def bomb():
    """A PNG with a text of two million letters, which Pillow refuses with a ValueError."""
    chunk = b"zTXtk\0\0" + zlib.compress(b"a" * 2_000_000)
    extra = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "PNG")
    return out.getvalue()[:33] + extra + out.getvalue()[33:]


def test_twins_across_the_parts_are_named_when_the_folder_is_read(tmp_path):
    fill(tmp_path)
    twin = tmp_path / "train" / "a" / "train3.png"
    write(tmp_path / "test" / "a" / "holiday.bmp", Image.open(twin))  # another file, same pixels
    run = configure(tmp_path / "out", DATASET="folder", DATA_ROOT=str(tmp_path))
    with pytest.raises(
        InputError, match=r"test/a/holiday.bmp is train/a/train3.png\): keep each in one place"
    ):
        steps.classifier(run)
    assert not list((tmp_path / "out").rglob("meta.json"))


def test_one_picture_has_one_class_and_is_counted_once(tmp_path, caplog):
    fill(tmp_path)
    for i in range(4):  # thresholds would be fixed on pictures that the classifier knows
        write(
            tmp_path / "train" / "a" / f"copy{i}.png", Image.open(tmp_path / "train/a/train0.png")
        )
    _, train, test = folders.folder(tmp_path)
    assert len(train) == 12 and len({one.numpy().tobytes() for one in train.x}) == 12
    assert torch.cat([train.index, test.index]).tolist() == list(range(18))
    assert f"4 pictures of {tmp_path / 'train'} are copies of others: left out" in caplog.text
    for name in "ab":
        write(tmp_path / "test" / name / "black.png", Image.new("RGB", (9, 9)))
    with pytest.raises(InputError, match=r"\(test/b/black.png is test/a/black.png\)"):
        folders.folder(tmp_path)


def without_blue(x):
    x[..., 2] = 0
    return x


def nearly_without_blue(x):
    x[..., 2] = 0
    x[0, 0, 2] = x[0, 0, 0] % 2
    return x


@pytest.mark.parametrize("change", [without_blue, nearly_without_blue])
def test_a_channel_that_carries_nothing_stops_no_training(tmp_path, change):
    fill(tmp_path, 10, 6, change)
    run = configure(
        tmp_path / "out", DATASET="folder", DATA_ROOT=str(tmp_path), CHANGES={"epochs": 12}
    )
    made = steps.classifier(run)
    x = run.data.test.pixels()
    x[:, 2] = 8 / 255  # as an attack may
    assert made.record["accuracy"] > 0.7
    assert made.model.std.flatten()[2] == 1 and (made.model.std.flatten()[:2] > 0.05).all()
    assert (made.model(x).argmax(1) == run.data.test.y).float().mean() > 0.7


def test_moments_are_mean_and_deviation_where_there_is_one():
    x = torch.rand(6, 3, 4, 4)
    mean, std = moments(x)
    assert torch.equal(torch.tensor(mean), x.mean((0, 2, 3)))
    assert torch.equal(torch.tensor(std), x.std((0, 2, 3)))
    x[:, 1] = 1 / 3
    assert moments(x)[1][1] == 1 and moments(x)[1][0] == std[0]


@pytest.mark.parametrize("train", [1, 2])
def test_too_few_training_pictures_say_how_many_are_needed(tmp_path, train):
    fill(tmp_path, train, 3)
    run = configure(tmp_path / "out", DATASET="folder", DATA_ROOT=str(tmp_path))
    with pytest.raises(InputError, match="a classifier needs 2 of each class: add pictures"):
        steps.classifier(run)
    assert not list((tmp_path / "out").rglob("meta.json"))


def test_a_class_with_one_picture_among_others_with_many(tmp_path):
    fill(tmp_path, 8, 3)
    for path in sorted((tmp_path / "train" / "b").iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match=r"training pictures of 'b' when 2 are held back"):
        load("folder", root=tmp_path, calibrate=0.2)


def test_a_brought_model_needs_no_training_pictures_of_each_class(tmp_path):
    fill(tmp_path, 1, 6)
    d = load("folder", root=tmp_path, calibrate=2, held_back_from="test")
    assert len(d.train) == 2 and len(d.calibrate) == 2
    (tmp_path / "train" / "a" / "train0.png").unlink()
    (tmp_path / "train" / "b" / "train0.png").unlink()
    with pytest.raises(InputError, match="a holds no picture"):
        load("folder", root=tmp_path, held_back_from="test")


def test_few_pictures_are_enough_to_train_and_attack_and_detect(tmp_path):
    """With one or two validation images of one class, every network gave "one label for all"."""
    fill(tmp_path, 6, 2)
    run = configure(
        tmp_path / "out",
        DATASET="folder",
        DATA_ROOT=str(tmp_path),
        CHANGES={"epochs": 12, "detector_epochs": 2},
    )
    assert steps.classifier(run).record["accuracy"] == 1
    found = steps.evaluation(run, "id", "fgsm", "fgsm").record
    assert 0 <= found["all"]["auroc"] <= 1
