"""The cellar: nothing lost, nothing wrong loaded, nothing remade without need."""

import errno
import importlib
import json
import os
import sys
import time

import pytest
import torch

from nbutils import InputError, artifacts, attacks, networks, train
from nbutils.artifacts import code_hash, load_or_make


def counting(tensors=None, record=None):
    calls = []

    def make(folder):
        calls.append(folder)
        return tensors or {"x": torch.arange(5.0)}, record or {"n": 5}

    return make, calls


def test_made_once_then_loaded_equal(tmp_path):
    make, calls = counting()
    first = load_or_make(tmp_path / "a", make, arguments={"k": (1, 2)}, code=(counting,))
    second = load_or_make(tmp_path / "a", make, arguments={"k": [1, 2]}, code=(counting,))
    assert len(calls) == 1 and first.hash == second.hash and first.record == second.record == {"n": 5}
    assert torch.equal(first.tensors["x"], second.tensors["x"])


@pytest.mark.parametrize("change", ["arguments", "parents", "code"])
def test_remade_when_something_differs_and_says_what(tmp_path, change):
    make, calls = counting()
    parent = load_or_make(tmp_path / "p", make, arguments={})
    other = load_or_make(tmp_path / "q", counting({"x": torch.ones(2)})[0], arguments={})
    said, base = [], {"arguments": {"eps": 1}, "parents": {"p": parent}, "code": (attacks.fgsm,)}
    load_or_make(tmp_path / "a", make, say=said.append, **base)
    different = {"arguments": {"eps": 2}, "parents": {"p": other}, "code": (attacks.pgd,)}
    load_or_make(tmp_path / "a", make, say=said.append, **{**base, change: different[change]})
    assert len(calls) == 3 and len(said) == 1 and change in said[0]


@pytest.mark.parametrize("name", ["tensors.safetensors", "meta.json"])
def test_any_flipped_byte_is_reported_and_remade(tmp_path, name):
    make, calls = counting()
    whole = load_or_make(tmp_path / "a", make, arguments={})
    data = (tmp_path / "a" / name).read_bytes()
    places = range(0, len(data), max(1, len(data) // 25))
    for place in places:
        (tmp_path / "a" / name).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1:])
        said = []
        again = load_or_make(tmp_path / "a", make, arguments={}, say=said.append)
        assert said and "damaged" in said[0] and again.hash == whole.hash
        data = (tmp_path / "a" / name).read_bytes()
    assert len(calls) == 1 + len(places)


def test_a_truncated_or_missing_file_is_remade(tmp_path):
    make, calls = counting()
    load_or_make(tmp_path / "a", make, arguments={})
    (tmp_path / "a" / "tensors.safetensors").write_bytes(b"")
    load_or_make(tmp_path / "a", make, arguments={})
    (tmp_path / "a" / "tensors.safetensors").unlink()
    load_or_make(tmp_path / "a", make, arguments={})
    assert len(calls) == 3


def test_no_space_left_gets_a_sentence_and_keeps_the_parts(tmp_path, monkeypatch):
    def make(folder):
        artifacts.keep_part(folder, "0", {"x": torch.ones(3)}, "key")

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        return {"x": torch.ones(3)}, {}

    with pytest.raises(InputError, match="No space is left for"):
        load_or_make(tmp_path / "a", make, arguments={})
    assert torch.equal(artifacts.find_part(tmp_path / "a", "0", "key")["x"], torch.ones(3))
    assert not list((tmp_path / "a").glob(".*"))  # no half-written file stays


def test_out_below_a_file_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        load_or_make(tmp_path / "file" / "a", counting()[0], arguments={})


def test_parts_are_bound_to_their_key_and_checked(tmp_path):
    artifacts.keep_part(tmp_path, "3", {"x": torch.ones(3)}, "key")
    assert artifacts.find_part(tmp_path, "3", "other") is None and artifacts.find_part(tmp_path, "4", "key") is None
    path = tmp_path / "part-3.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert artifacts.find_part(tmp_path, "3", "key") is None


def test_key_of_sees_values_shapes_and_types():
    x = torch.arange(4)
    keys = [artifacts.key_of(y) for y in (x, x + 1, x.view(2, 2), x.float(), {"x": x}, {"y": x}, "x", fgsm_like)]
    assert len(set(keys)) == len(keys) and artifacts.key_of(x) == artifacts.key_of(x.clone())


def fgsm_like():
    return attacks.fgsm


def module(tmp_path, monkeypatch, source):
    """nbutils.made, with this source."""
    (tmp_path / "made.py").write_text(source)
    monkeypatch.setattr(sys.modules["nbutils"], "__path__", [*sys.modules["nbutils"].__path__, str(tmp_path)])
    sys.modules.pop("nbutils.made", None)
    artifacts._module.cache_clear()
    artifacts._piece.cache_clear()
    importlib.invalidate_caches()
    monkeypatch.setattr(artifacts, "LOADED", time.time() + 60)
    return importlib.import_module("nbutils.made")


def test_code_hash_follows_what_is_used_and_ignores_words(tmp_path, monkeypatch):
    source = '''
from nbutils import metrics
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
'''
    hashes = {}
    edits = {"same": ("", ""), "comment": ("# why", "# because"), "docstring": ("What it does", "What else"), "hint": ("x: int", "x: float"),
             "stranger": ("    return x\n", "    return -x\n"), "body": ("helper(x) ", "-helper(x) "), "callee": ("x + LEVEL", "x - LEVEL"),
             "constant": ("LEVEL = 3", "LEVEL = 4"), "pair": ("A, B = 1, 2", "A, B = 3, 2"), "entry": ('["x"] = 5', '["x"] = 6')}
    for name, (old, new) in edits.items():
        hashes[name] = code_hash(module(tmp_path, monkeypatch, source.replace(old, new) if old else source).used)
    assert hashes["same"] == hashes["comment"] == hashes["docstring"] == hashes["hint"] == hashes["stranger"]
    assert len({hashes[name] for name in ("same", "body", "callee", "constant", "pair", "entry")}) == 6
    sys.modules.pop("nbutils.made")


def test_code_edited_after_the_start_is_refused_and_lambdas_are_no_roots(monkeypatch):
    artifacts._module.cache_clear()
    artifacts._piece.cache_clear()
    monkeypatch.setattr(artifacts, "LOADED", 0.0)
    with pytest.raises(InputError, match="was edited since Python started"):
        code_hash(attacks.fgsm)
    monkeypatch.undo()
    nameless = eval("lambda x: x", {"__name__": "nbutils.attacks"})
    with pytest.raises(TypeError, match="no source of its own"):
        code_hash(nameless)


def test_parts_of_another_step_are_dropped(tmp_path):
    def make(folder):
        artifacts.keep_part(folder, "0", {"x": torch.ones(1)}, "same key")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_make(tmp_path / "a", make, arguments={}, code=(attacks.fgsm,))
    found = []
    for code in (attacks.fgsm, attacks.pgd):
        with pytest.raises(KeyboardInterrupt):
            load_or_make(tmp_path / "a", lambda f: found.append(artifacts.find_part(f, "0", "same key")) or make(f), arguments={}, code=(code,))
    assert found[0] is not None and found[1] is None


def test_records_with_any_keys_are_read_back(tmp_path):
    first = load_or_make(tmp_path / "a", counting(record={2: 1, 10: 2})[0], arguments={})
    assert first.record == {"2": 1, "10": 2}
    (tmp_path / "a" / "meta.json").write_text("5")
    assert load_or_make(tmp_path / "a", counting()[0], arguments={}).record == {"n": 5}
    assert artifacts.key_of(1, 23) != artifacts.key_of(12, 3)


def test_code_hash_tells_the_attacks_apart_and_bim_needs_pgd():
    assert len({code_hash(f) for f in (attacks.fgsm, attacks.bim, attacks.pgd, train.fit, networks.digits_net)}) == 5
    reached = lambda f: json.dumps(sorted(_reach(f)))  # noqa: E731
    assert '"pgd"' in reached(attacks.bim) and '"pgd"' not in reached(attacks.fgsm)


def _reach(function):
    tops, imports = artifacts._module(function.__module__)
    return {name for node in tops[function.__name__] for _, name in artifacts._names(node, function.__module__, tops, imports)}
