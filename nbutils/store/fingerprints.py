"""What code made it: a hash of a function's source and of all that it uses inside nbutils.

Comments, docstrings and type hints do not count, but what a hint names is followed, so that the
methods of the objects that a step is handed count too. A registry, a module's dict of functions,
counts by the entries that are used and by no others: those whose names stand in the step's
arguments or, as a key, a default or in a dict of data, in the code that was followed. So adding an
architecture, an attack or a detector changes no fingerprint. Storage does not count, and what is
defined outside nbutils counts with its own source only.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import torch

from nbutils import InputError

LOADED = time.time()  # modules edited later are not the code that runs
PACKAGE, STORAGE = "nbutils", "nbutils.store"

COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

Place = tuple[str, str]  # a module and a name in it


def fingerprint(
    function: Callable, arguments: object = (), inputs: object = ()
) -> tuple[str, list[str]]:
    """The hash of a function of a module and of all it uses inside nbutils, and the registry
    entries in it.

    Args:
        arguments: JSON-able; the strings in it name the entries of registries that are used.
        inputs: the objects that it works on, whose classes, and functions that they hold, count
            too.
    Raises:
        TypeError: a lambda, or a function that is no module's own.
        InputError: a source was edited since Python started.
    """
    done, registries, entries = {}, set(), {}
    todo, strings = [*_places(function)], set(_strings(arguments))
    held = {_told(part): part for part in _code_in(inputs)}
    for part in held.values():
        todo += _places(part)
    while todo:
        while todo:
            place = todo.pop()
            if place in done or place[0].startswith(STORAGE):
                continue
            if _registry(place) is not None:
                registries.add(place)
                continue
            done[place], targets, said = _piece(*place)
            todo += targets
            strings |= said
        todo = _entries_used(registries, strings, entries)
    used = sorted(f"{module}.{name}[{key}]" for (module, name), key in entries)
    told = [
        sorted(done.items()),
        sorted(held),
        sorted((*place, key, text) for (place, key), text in entries.items()),
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest(), used


def _entries_used(registries: set[Place], strings: set[str], entries: dict) -> list[Place]:
    """Note the entries of these registries that the strings name, and return where they lead.

    Strings that an entry is made with are added to `strings`, and asked about in the next round.
    """
    todo, asked = [], set(strings)
    for place in registries:
        for key, value in _registry(place).items():
            if key in asked and (place, key) not in entries:
                entries[place, key] = _told(value)
                strings |= set(_arguments_of(value))
                todo += _places(value)
    return todo


def _registry(place: Place) -> dict | None:
    """The dict of functions that stands at this place, if it is one."""
    if not place[0].startswith(PACKAGE):
        return None
    value = getattr(importlib.import_module(place[0]), place[1], None)
    found = isinstance(value, dict) and value and all(callable(entry) for entry in value.values())
    return value if found else None


def _places(thing: object) -> Iterator[Place]:
    """Where the functions and classes lie that a registry's entry is made of."""
    if isinstance(thing, functools.partial):
        for part in (thing.func, *thing.args, *thing.keywords.values()):
            yield from _places(part)
    elif callable(thing):
        thing = getattr(thing, "__wrapped__", thing)
        module, name = thing.__module__, thing.__qualname__.split(".")[0]
        if module.startswith(PACKAGE) and name not in _module(module)[0]:
            raise TypeError(
                f"{module}.{name} has no source of its own to hash: name a function of a module."
            )
        yield module, name


def _code_in(thing: object) -> Iterator[object]:
    """The classes of nbutils that inputs are of, and the functions that they are or hold."""
    if isinstance(thing, list | tuple):
        for part in thing:
            yield from _code_in(part)
    elif isinstance(thing, dict):
        yield from _code_in([*thing.values()])
    elif isinstance(thing, functools.partial | FunctionType):
        yield thing
    elif type(thing).__module__.split(".")[0] == PACKAGE:
        yield type(thing)
        held = [v for v in vars(thing).values() if isinstance(v, functools.partial | FunctionType)]
        yield from held


def _arguments_of(thing: object) -> Iterator[str]:
    """The strings that a registry's entry is made with."""
    if isinstance(thing, functools.partial):
        yield from _strings([*thing.args, *thing.keywords.values()])
        for part in (*thing.args, *thing.keywords.values()):
            yield from _arguments_of(part)


def _told(thing: object) -> str:
    """An entry in words: a function by its place, a partial with its arguments."""
    if isinstance(thing, functools.partial):
        keywords = sorted(thing.keywords.items())
        given = [*map(_told, thing.args), *(f"{name}={_told(value)}" for name, value in keywords)]
        return f"{_told(thing.func)}({', '.join(given)})"
    return ".".join(next(_places(thing))) if callable(thing) else repr(thing)


def _strings(thing: object) -> Iterator[str]:
    """All strings in a JSON-able thing; names joined by + or & are names."""
    if isinstance(thing, str):
        yield thing
        yield from thing.replace("&", "+").split("+")
    elif isinstance(thing, dict):
        yield from _strings([*thing.keys(), *thing.values()])
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _strings(part)


def _piece(module: str, name: str) -> tuple[str, list[Place], set[str]]:
    """The source of a module's name, what it names in nbutils, and the strings in it."""
    if name == "<lambda>":
        raise TypeError(f"{module} has a lambda, which has no name to hash it by.")
    thing = getattr(sys.modules.get(module), name, None)
    if not module.startswith(PACKAGE) and callable(thing):
        if not getattr(sys.modules[module], "__file__", None):  # a notebook's cell
            return _of_cell(thing), [], set()
    return _of_file(module, name)


def _of_cell(thing: Callable) -> str:
    """The source of a function or class that was typed into a notebook, as it stands now."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError) as error:
        raise TypeError(f"{thing.__qualname__} has no source that Python remembers.") from error
    for node in ast.walk(tree):
        _strip(node)
    return ast.unparse(tree)


@cache
def _of_file(module: str, name: str) -> tuple[str, list[Place], set[str]]:
    tops, imports = _module(module)
    nodes, own = tops.get(name, []), module.startswith(PACKAGE)
    targets = [target for node in nodes for target in _names(node, module)] if own else []
    if own and not nodes and imports.get(name, ("", None))[1]:  # handed on from another module
        targets.append(imports[name])
    said = {key for node in (nodes if own else []) for key in _keys(node)}
    return "\n".join(map(ast.unparse, nodes)), targets, said


def _keys(node: ast.stmt) -> Iterator[str]:
    """The strings in a piece of code that may name a registry's entry: keys, defaults, data."""
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript):
            yield from _constants(part.slice)
        elif isinstance(part, ast.FunctionDef | ast.Lambda):
            for default in (*part.args.defaults, *filter(None, part.args.kw_defaults)):
                yield from _constants(default)
        elif isinstance(part, ast.AnnAssign) and part.value is not None:
            yield from _constants(part.value)
        elif isinstance(part, ast.Assign) and isinstance(part.value, ast.Dict):
            yield from _constants(part.value)


def _constants(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


@cache
def _module(name: str) -> tuple[dict[str, list[ast.stmt]], dict[str, tuple[str, str | None]]]:
    """The top-level statements of a module by the names they define or change, and what its imports
    bind.

    An import binds a name to (module, name), or to (module, None) where it is a module itself.
    """
    module = sys.modules.get(name) or importlib.import_module(name)
    source = getattr(module, "__file__", None)
    if not source or not source.endswith(".py"):
        return {}, {}
    if name.startswith(PACKAGE) and LOADED < Path(source).stat().st_mtime <= time.time():
        raise InputError(
            f"{source} was edited since Python started: restart it (in Jupyter, the kernel), or "
            "old code would pass for new."
        )
    tree = ast.parse(Path(source).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        _strip(node)
    tops: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for bound in _binds(node):
            tops.setdefault(bound, []).append(node)
    imports = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                imports[alias.asname or alias.name] = _imported(node.module, alias.name)
    return tops, imports


def _imported(module: str, name: str) -> tuple[str, str | None]:
    """What `from module import name` binds: a module of nbutils, or a name in one."""
    value = getattr(importlib.import_module(module), name, None)
    if value is None or isinstance(value, ModuleType):
        return f"{module}.{name}", None
    return module, name


def _strip(node: ast.AST) -> None:
    """Take hints and docstrings away; what a function's hints name stays known as `hinted`."""
    if isinstance(node, ast.FunctionDef):
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        node.hinted = [part.annotation for part in every if part.annotation]
        node.hinted += [node.returns] if node.returns else []
    for hint in ("annotation", "returns"):
        if getattr(node, hint, None) is not None and not isinstance(node, ast.AnnAssign):
            setattr(node, hint, None)
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        if isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]


def _binds(node: ast.stmt) -> set[str]:
    """The names that a top-level statement defines or changes.

    `def`, `x = 1`, `a, b = 1, 2`, `D["k"] = 1`, `C.k = 1`, `L.append(1)`, also under `if`.
    """
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            found.add(part.name)
        place = (
            part.func
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute)
            else part
        )
        changed = place is not part or isinstance(getattr(part, "ctx", None), ast.Store)
        while isinstance(place, ast.Attribute | ast.Subscript):
            place = place.value
        if changed and isinstance(place, ast.Name):
            found.add(place.id)
    return found


def _names(node: ast.stmt, module: str) -> set[Place]:
    """What a statement names in nbutils, in its hints too.

    Names of its own, parameters and locals, lead nowhere.
    """
    tops, imports = _module(module)
    found = set()
    for part in _free(node, frozenset()):
        if isinstance(part, ast.Attribute):
            found |= _attribute(part, imports)
        elif part.id in tops:
            found.add((module, part.id))
        elif imports.get(part.id, ("", None))[1]:
            found.add(imports[part.id])
    return found


def _free(node: ast.AST, bound: frozenset[str]) -> Iterator[ast.Name | ast.Attribute]:
    """The names and attributes in a piece of code whose first name is not bound inside it."""
    if isinstance(node, ast.Name) and node.id not in bound:
        yield node
    if isinstance(node, ast.Attribute):
        first = node.value
        while isinstance(first, ast.Attribute):
            first = first.value
        if isinstance(first, ast.Name) and first.id not in bound:
            yield node
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        outside = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        outside += [*getattr(node, "decorator_list", ()), *getattr(node, "hinted", ())]
        for part in outside:
            yield from _free(part, bound)
        bound = bound | _bound_in(node)
        inside = node.body if isinstance(node.body, list) else [node.body]
    else:
        if isinstance(node, COMPREHENSIONS):
            bound = bound | {name for part in node.generators for name in _stored(part.target)}
        inside = [*ast.iter_child_nodes(node)]
    for part in inside:
        yield from _free(part, bound)


def _bound_in(function: ast.FunctionDef | ast.Lambda) -> set[str]:
    """The parameters and local names of a function, without those of functions inside it."""
    every = function.args
    arguments = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
    found = {argument.arg for argument in arguments if argument}
    todo = list(function.body) if isinstance(function.body, list) else []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif not isinstance(node, ast.Lambda | COMPREHENSIONS):
            if isinstance(node, ast.Import | ast.ImportFrom):
                continue  # an import inside a function leads where `_module` says
            found |= _stored(node) if isinstance(node, ast.Name) else set()
            todo += ast.iter_child_nodes(node)
    return found


def _stored(node: ast.AST) -> set[str]:
    """The names that an assignment's target binds."""
    return {
        part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


def _attribute(node: ast.Attribute, imports: dict) -> set[Place]:
    """The place that `module.name` or `package.module.name` leads to, if it is in nbutils."""
    if isinstance(node.value, ast.Name):
        where = imports.get(node.value.id, ("", ""))
        return {(where[0], node.attr)} if where[1] is None else set()
    if isinstance(node.value, ast.Attribute):
        for module, name in _attribute(node.value, imports):
            if isinstance(getattr(sys.modules.get(module), name, None), ModuleType):
                return {(f"{module}.{name}", node.attr)}
    return set()


def key_of(*things: object) -> str:
    """A hash of JSON-able things and of tensors, dicts of tensors among them."""
    digest = hashlib.sha256()
    for thing in things:
        if isinstance(thing, torch.Tensor):
            digest.update(str((thing.dtype, tuple(thing.shape))).encode())
            flat = thing.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(thing, dict) and any(isinstance(v, torch.Tensor) for v in thing.values()):
            items = [item for name in sorted(thing) for item in (name, thing[name])]
            digest.update(key_of(*items).encode())
        else:
            digest.update(json.dumps(thing, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()
