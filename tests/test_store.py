"""The cellar: nothing lost, nothing wrong loaded, nothing remade without need."""

import errno
import importlib
import json
import os
import sys
import time
from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch

from nbutils import InputError
from nbutils.attacks import ATTACKS, gradient
from nbutils.detectors import DETECTORS
from nbutils.models import ARCHITECTURES
from nbutils.series import publish, session
from nbutils.store import files, fingerprints
from nbutils.store.artifacts import Parts, committed, load_or_make
from nbutils.store.fingerprints import fingerprint, key_of

CALLS = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def numbers(parts, *, tensors=None, record=None, **settings):
    """A step that notes that it was called."""
    CALLS.append(parts.folder)
    return tensors or {"x": torch.arange(5.0)}, record or {"n": 5}


def other_numbers(parts, *, tensors=None, record=None, **settings):
    """The same by another code."""
    CALLS.append(parts.folder)
    return tensors or {"x": 1 * torch.arange(5.0)}, record or {"n": 5}


def test_made_once_then_loaded_equal(tmp_path):
    first = load_or_make(tmp_path / "a", numbers, {}, {"k": (1, 2)})
    second = load_or_make(tmp_path / "a", numbers, {}, {"k": [1, 2]})
    assert len(CALLS) == 1 and first.content == second.content
    assert first.record == second.record == {"n": 5}
    assert torch.equal(first.tensors["x"], second.tensors["x"])


@pytest.mark.parametrize("change", ["arguments", "parents", "code"])
def test_remade_when_something_differs_and_says_what(tmp_path, change):
    parent = load_or_make(tmp_path / "p", numbers)
    other = load_or_make(tmp_path / "q", numbers, {"tensors": {"x": torch.ones(2)}})
    said, make = [], numbers
    base = {"settings": {"eps": 1}, "parents": {"p": parent}, "say": said.append}
    load_or_make(tmp_path / "a", make, **base)
    if change == "code":
        make = other_numbers
    else:
        different = {"arguments": ("settings", {"eps": 2}), "parents": ("parents", {"p": other})}
        name, value = different[change]
        base[name] = value
    load_or_make(tmp_path / "a", make, **base)
    assert len(CALLS) == 4 and len(said) == 1 and change in said[0]


def test_what_identifies_inputs_is_part_of_the_key_and_not_handed_over(tmp_path):
    said = []
    for images in ("a", "a", "b"):
        load_or_make(tmp_path / "a", numbers, known={"images": images}, say=said.append)
    assert len(CALLS) == 2 and "images: 'a' -> 'b'" in said[0]


def test_children_are_bound_to_the_content_of_their_parents(tmp_path):
    """A parent made again to the same bits leaves its child valid; another content does not."""
    same, other = {"x": torch.ones(3)}, {"x": torch.zeros(3)}
    for eps, tensors, made in ((1, same, 2), (2, same, 3), (3, other, 5)):
        parent = load_or_make(tmp_path / "p", numbers, {"tensors": tensors}, {"eps": eps})
        load_or_make(tmp_path / "child", numbers, parents={"p": parent})
        assert len(CALLS) == made


def test_a_closure_or_a_lambda_is_no_step(tmp_path):
    outside = 3

    def nested(parts):
        return {"x": torch.full((1,), outside)}, {}

    for make in (nested, lambda parts: ({}, {}), partial(numbers, record={})):
        with pytest.raises(TypeError, match="a step is a function of a module"):
            load_or_make(tmp_path / "a", make)
    assert not list(tmp_path.rglob("*"))


def test_what_is_kept_is_asked_whether_it_still_holds(tmp_path):
    said = []
    load_or_make(tmp_path / "a", numbers)
    for answer, made in (("", 1), ("the model answers differently", 2)):
        load_or_make(tmp_path / "a", numbers, still=lambda kept, a=answer: a, say=said.append)
        assert len(CALLS) == made
    assert said == [f"{tmp_path.name}/a: the model answers differently; it is made again."]


@pytest.mark.parametrize("name", ["tensors.safetensors", "meta.json"])
def test_any_flipped_byte_is_reported_and_remade(tmp_path, name):
    whole = load_or_make(tmp_path / "a", numbers)
    data = (tmp_path / "a" / name).read_bytes()
    places = range(0, len(data), max(1, len(data) // 25))
    for place in places:
        flipped = bytes([data[place] ^ 4])
        (tmp_path / "a" / name).write_bytes(data[:place] + flipped + data[place + 1 :])
        said = []
        again = load_or_make(tmp_path / "a", numbers, say=said.append)
        assert said and "damaged" in said[0] and again.content == whole.content
        data = (tmp_path / "a" / name).read_bytes()
    assert len(CALLS) == 1 + len(places)


def test_a_truncated_or_missing_file_is_remade(tmp_path):
    load_or_make(tmp_path / "a", numbers)
    (tmp_path / "a" / "tensors.safetensors").write_bytes(b"")
    load_or_make(tmp_path / "a", numbers)
    (tmp_path / "a" / "tensors.safetensors").unlink()
    load_or_make(tmp_path / "a", numbers)
    assert len(CALLS) == 3


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def fills_the_disk(parts, *, patch):
    """A step that has kept a part when the disk is full."""
    parts.keep("0", {"x": torch.ones(3)}, "key")
    patch.setattr(os, "fsync", full)
    return {"x": torch.ones(3)}, {}


def test_no_space_left_gets_a_sentence_and_keeps_the_parts(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="No space is left for"):
        load_or_make(tmp_path / "a", fills_the_disk, {"patch": monkeypatch})
    assert torch.equal(Parts(tmp_path / "a").find("0", "key")["x"], torch.ones(3))
    assert not list((tmp_path / "a").glob(".*"))  # no half-written file stays


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "No space is left for"),
        (errno.EDQUOT, "The disk quota leaves no room for"),
        (errno.EFBIG, "is larger than a file may be here"),
        (errno.EROFS, "lies on a read-only file system"),
        (errno.EACCES, "cannot be written: choose another OUT"),
        (errno.EPERM, "cannot be written: choose another OUT"),
        (errno.EIO, "the disk reports an error"),
    ],
)
@pytest.mark.parametrize("what", ["a file", "a step", "a figure", "a result", "a publication"])
def test_every_refusal_to_write_is_one_sentence_wherever_it_comes(
    what, number, sentence, tmp_path, monkeypatch
):
    run = session.configure("01_classifiers", {"PRESET": "smoke", "OUT": str(tmp_path)})
    figure = plt.figure()
    files.atomically(run.folder / "results" / "01_classifiers.json", b"{}")
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path / "published")

    def refuses(*_):
        raise OSError(number, os.strerror(number))

    writes = {
        "a file": lambda: files.atomically(tmp_path / "x", b"x"),
        "a step": lambda: load_or_make(tmp_path / "a", numbers),
        "a figure": lambda: run.save(figure, "name"),
        "a result": lambda: run.record(key=("a", 1.0), tables={}),
        "a publication": lambda: publish.publish(run.folder),
    }
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(InputError, match=sentence) as caught:
        writes[what]()
    plt.close(figure)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    left = {p.name for p in tmp_path.rglob("*") if p.is_file() and p not in before}
    assert left <= {"a.lock"}  # no half-written file stays


def test_out_below_a_file_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        load_or_make(tmp_path / "file" / "a", numbers)


def test_parts_are_bound_to_their_key_and_checked(tmp_path):
    parts = Parts(tmp_path)
    parts.keep("3", {"x": torch.ones(3)}, "key", torch.ones(2))
    assert torch.equal(parts.find("3", "key", torch.ones(2))["x"], torch.ones(3))
    assert parts.find("3", "other") is None and parts.find("4", "key", torch.ones(2)) is None
    path = tmp_path / "part-3.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert parts.find("3", "key", torch.ones(2)) is None


def interrupted(parts):
    """A step that is stopped after its first part."""
    CALLS.append(parts.find("0", "same key"))
    parts.keep("0", {"x": torch.ones(1)}, "same key")
    raise KeyboardInterrupt


def otherwise_interrupted(parts):
    """The same by another code."""
    CALLS.append(parts.find("0", "same key"))
    raise KeyboardInterrupt


def test_parts_of_another_step_are_dropped(tmp_path):
    for make in (interrupted, interrupted, otherwise_interrupted):
        with pytest.raises(KeyboardInterrupt):
            load_or_make(tmp_path / "a", make)
    assert [found is not None for found in CALLS] == [False, True, False]


def test_key_of_sees_values_shapes_and_types():
    x = torch.arange(4)
    things = (x, x + 1, x.view(2, 2), x.float(), {"x": x}, {"y": x}, "x")
    keys = [key_of(thing) for thing in things]
    assert len(set(keys)) == len(keys) and key_of(x) == key_of(x.clone())
    assert key_of(1, 23) != key_of(12, 3)


def test_records_with_any_keys_are_read_back(tmp_path):
    first = load_or_make(tmp_path / "a", numbers, {"record": {2: 1, 10: 2}})
    assert first.record == {"2": 1, "10": 2}
    (tmp_path / "a" / "meta.json").write_text("5", encoding="utf-8")
    assert load_or_make(tmp_path / "a", numbers).record == {"n": 5}


def test_committed_for_equal_arguments_whatever_code_made_it(tmp_path):
    load_or_make(tmp_path / "a", numbers, {}, {"eps": 1})
    assert committed(tmp_path / "a", {"eps": 2}) is None
    tensors, meta = committed(tmp_path / "a", {"eps": 1})
    assert torch.equal(tensors["x"], torch.arange(5.0)) and meta["record"] == {"n": 5}
    files.atomically(tmp_path / "a" / "tensors.safetensors", b"")
    with pytest.raises(InputError, match="is damaged"):
        committed(tmp_path / "a", {"eps": 1})


# -- fingerprints


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes nbutils.made with a source."""
    monkeypatch.setattr(fingerprints, "LOADED", time.time() + 60)
    package = sys.modules["nbutils"]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])

    def forget():
        for name in [name for name in sys.modules if name.startswith("nbutils.made")]:
            del sys.modules[name]
            vars(package).pop(name.split(".")[1], None)
        fingerprints._module.cache_clear()
        fingerprints._of_file.cache_clear()
        importlib.invalidate_caches()

    def made(source, name="made"):
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
        forget()
        return importlib.import_module(f"nbutils.{name.removesuffix('.__init__')}")

    yield made
    forget()


SOURCE = '''
from nbutils.evaluation import metrics
LEVEL = 3
A, B = 1, 2
TABLE = {}
TABLE["x"] = 5
def helper(x):
    return x + LEVEL + A + TABLE["x"]
def used(x: int) -> int:
    """What it does."""
    return helper(x)  # why
def unused(x):
    return x
class Thing:
    def double(self):
        return 2
def hinted(thing: Thing):
    return thing.double()
'''
SAME = {
    "same": ("", ""),
    "comment": ("# why", "# because"),
    "docstring": ("What it does", "What else"),
    "hint": ("x: int", "x: float"),
    "stranger": ("def unused(x):\n    return x\n", "def unused(x):\n    return -x\n"),
}
OTHER = {
    "body": ("helper(x) ", "-helper(x) "),
    "callee": ("x + LEVEL", "x - LEVEL"),
    "constant": ("LEVEL = 3", "LEVEL = 4"),
    "pair": ("A, B = 1, 2", "A, B = 3, 2"),
    "entry": ('["x"] = 5', '["x"] = 6'),
}


def test_a_fingerprint_follows_what_is_used_and_ignores_words(module):
    found = {}
    for name, (old, new) in (SAME | OTHER).items():
        made = module(SOURCE.replace(old, new) if old else SOURCE)
        found[name] = fingerprint(made.used)[0]
    assert {found[name] for name in SAME} == {found["same"]}
    assert len({found[name] for name in ("same", *OTHER)}) == 1 + len(OTHER)


def test_methods_of_what_a_hint_names_count(module):
    first = fingerprint(module(SOURCE).hinted)[0]
    assert fingerprint(module(SOURCE.replace("return 2", "return 3")).hinted)[0] != first


LOCALS = """
def helper(x): return x
def parameter(helper): return helper
def local(x):
    helper = x
    return helper
def comprehension(x): return [helper for helper in x]
def inner(x):
    def nested(helper): return helper
    return helper(x)
def default(x=helper): return x
"""


def test_names_of_a_functions_own_lead_nowhere(module):
    names = ("parameter", "local", "comprehension", "inner", "default")
    prints = []
    for source in (LOCALS, LOCALS.replace("def helper(x): return x", "def helper(x): return -x")):
        made = module(source)
        prints.append([fingerprint(getattr(made, name))[0] for name in names])
    same = [a == b for a, b in zip(*prints, strict=True)]
    assert same == [True, True, True, False, False]


def test_functions_that_inputs_hold_count(module):
    first = module(SOURCE)
    plain = fingerprint(first.used, (), {"thing": first.Thing(), "f": partial(first.unused, k=1)})
    for old, new in (("return 2", "return 3"), ("    return x\n", "    return -x\n")):
        made = module(SOURCE.replace(old, new))
        inputs = {"thing": made.Thing(), "f": partial(made.unused, k=1)}
        assert fingerprint(made.used, (), inputs)[0] != plain[0], old
    made = module(SOURCE)
    inputs = {"thing": made.Thing(), "f": partial(made.unused, k=2)}
    assert fingerprint(made.used, (), inputs)[0] != plain[0]  # a partial counts with its arguments


REGISTRY = """
from functools import partial
def one(x): return 1
def two(x, k=0): return 2
KINDS = {"one": one, "two": partial(two, k=1)}
def step(name): return KINDS[name](0)
def fixed(): return KINDS["two"](0)
"""


def test_of_a_registry_the_entries_that_are_used_count(module):
    def prints(source):
        made = module(source)
        named = [fingerprint(made.step, {"kind": name})[0] for name in ("one", "two")]
        return [*named, fingerprint(made.fixed)[0]]

    first = prints(REGISTRY)
    assert len(set(first)) == 3
    more = REGISTRY.replace('{"one": one', '{"three": one, "one": one')
    assert prints(more) == first  # an entry more changes nothing
    edited = prints(REGISTRY.replace("return 1", "return -1"))
    assert edited[0] != first[0] and edited[1:] == first[1:]
    other = prints(REGISTRY.replace("k=1)", "k=2)"))
    assert other[0] == first[0] and other[1] != first[1] and other[2] != first[2]


def test_a_new_package_is_followed(module):
    """Nothing lists the packages: one that is added is seen."""
    use = "from nbutils import made\ndef step(x): return made.tool.work(x)\n"
    found = []
    for constant in (1, 2):
        module(f"def work(x): return x + {constant}\n", "made.tool")
        module("from nbutils.made import tool\n", "made.__init__")
        found.append(fingerprint(module(use, "made2").step)[0])
    assert found[0] != found[1]


def test_code_edited_after_the_start_is_refused_and_lambdas_are_no_roots(monkeypatch):
    fingerprints._module.cache_clear()
    fingerprints._of_file.cache_clear()
    monkeypatch.setattr(fingerprints, "LOADED", 0.0)
    with pytest.raises(InputError, match="was edited since Python started"):
        fingerprint(gradient.fgsm)
    monkeypatch.undo()
    nameless = eval("lambda x: x", {"__name__": "nbutils.attacks"})
    with pytest.raises(TypeError, match="no source of its own"):
        fingerprint(nameless)


def test_fingerprints_tell_the_attacks_apart_and_bim_needs_pgd():
    assert len({fingerprint(attack)[0] for attack in ATTACKS.values()}) == len(ATTACKS)
    reached = {
        name: fingerprints._of_file("nbutils.attacks.gradient", name)[1] for name in ("bim", "fgsm")
    }
    assert ("nbutils.attacks.gradient", "pgd") in reached["bim"]
    assert ("nbutils.attacks.gradient", "pgd") not in reached["fgsm"]


@pytest.mark.parametrize("registry", [ATTACKS, ARCHITECTURES, DETECTORS])
def test_every_entry_of_the_registries_can_be_followed(registry):
    for name, entry in registry.items():
        places = [*fingerprints._places(entry)]
        assert places and all(fingerprints._of_file(*place)[0] for place in places), name


def test_a_fingerprint_is_the_same_in_every_process():
    """The order of sets differs from process to process; the hash must not."""
    from tests.conftest import python

    code = (
        "from nbutils.steps.detector import make_detector\nfrom nbutils.store.fingerprints "
        "import fingerprint\nprint(fingerprint(make_detector, ['jsd_softmax', 'digits_net', "
        "'spd', 'adam'])[0])"
    )
    found = {python(code=code, PYTHONHASHSEED=str(seed)).stdout for seed in range(4)}
    assert len(found) == 1 and len(found.pop().strip()) == 64


def test_an_artifact_records_what_made_it(tmp_path):
    made = load_or_make(tmp_path / "a", numbers, {}, {"k": 1})
    meta = json.loads((tmp_path / "a" / "meta.json").read_text(encoding="utf-8"))
    assert meta["code"] == made.code == fingerprint(numbers, {"k": 1})[0]
    assert meta["arguments"] == {"k": 1} and meta["versions"]["torch"] == torch.__version__
