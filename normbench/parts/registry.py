"""Finds parts by file name, and those of other packages by entry point; reads them without torch.

A part is the one class of its file that derives from the base of its kind. What a command needs
to know before anything is computed (options with their ranges, class facts, the docstring) is read
from the source text, so that a spelling error or `normbench list` never waits for torch.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from normbench.parts.options import Declared, Options, declarations

# configuration group: (folder and entry-point group, base class)
KINDS = {
    "model": ("models", "Model"),
    "norm": ("norms", "Norm"),
    "init": ("inits", "Init"),
    "data": ("data", "Data"),
    "optimizer": ("optimizers", "Optimizer"),
}


@dataclass(frozen=True)
class Facts:
    """What is known of a part before it is imported."""

    group: str
    name: str
    doc: str
    options: Mapping[str, Declared]
    constants: Mapping[str, Any]  # class facts: attributes that are no options
    package: str = "normbench"
    methods: frozenset[str] = frozenset()  # what the class defines itself: the hooks of a norm

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return self.doc.split("\n\n")[0].replace("\n", " ").removesuffix(".")

    @property
    def source(self) -> str:
        """Authors and year of the method, "" where the docstring names none."""
        found = re.search(r"Source: +(.*?\d{4})", self.doc.replace("\n", " "))
        return re.sub(r" +", " ", found[1]) if found else ""


def names(group: str) -> list[str]:
    """List the parts of a group, those of other packages last."""
    folder, _ = KINDS[group]
    own = sorted(path.stem for path in _folder(folder).glob("*.py") if path.stem[0] != "_")
    return own + sorted(set(_foreign(group)) - set(own))


def choices(group: str) -> list[str]:
    """List what can be chosen: the parts, and the packaged presets and chains of them."""
    return sorted({*names(group), *(path.stem for path in (configs() / group).glob("*.yaml"))})


def configs() -> Path:
    """Find `configs/`: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


@cache
def facts(group: str, name: str) -> Facts:
    """Read a part's options, class facts and docstring; imports it only if it is foreign.

    Those of norms joined by `+` are those of the whole, its options called `member.option`.
    """
    if "+" in name:
        return _chained(group, name)
    folder, base = KINDS[group]
    foreign = _foreign(group).get(name)
    if foreign is not None:
        return _loaded_facts(group, name, foreign)
    shared = _class(_folder(folder) / "_base.py", base)
    own = _class(_folder(folder) / f"{name}.py", base)
    options, constants = _body(own)
    base_options, base_constants = _body(shared)
    return Facts(
        group,
        name,
        inspect.cleandoc(ast.get_docstring(own) or ""),
        {**base_options, **options},
        {**base_constants, **constants},
        methods=frozenset(each.name for each in own.body if isinstance(each, ast.FunctionDef)),
    )


def find(group: str, name: str) -> type[Any]:
    """Import a part and return its class. The only look-up of code by name in normbench."""
    foreign = _foreign(group).get(name)
    if foreign is not None:
        loaded: type[Any] = foreign.load()
        return loaded
    folder, base = KINDS[group]
    module = importlib.import_module(f"normbench.{folder}.{name}")
    found: type[Any] = getattr(module, _class(_folder(folder) / f"{name}.py", base).name)
    return found


@cache
def _foreign(group: str) -> dict[str, EntryPoint]:
    folder, _ = KINDS[group]
    return {each.name: each for each in entry_points(group=f"normbench.{folder}")}


def _folder(folder: str) -> Path:
    return Path(__file__).resolve().parents[1] / folder


@cache
def _class(path: Path, base: str) -> ast.ClassDef:
    """The class of a file that derives from `base`, or is `base` in the file that defines it."""
    found = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        and (node.name == base or base in [ast.unparse(each) for each in node.bases])
    ]
    if len(found) != 1:
        raise TypeError(f"{path} has {len(found)} classes derived from {base}, one is needed")
    return found[0]


def _body(node: ast.ClassDef) -> tuple[dict[str, Declared], dict[str, Any]]:
    """Split the annotated assignments of a class into options and class facts."""
    options: dict[str, Declared] = {}
    constants: dict[str, Any] = {}
    for each in node.body:
        if not (isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)):
            continue
        name, kind = each.target.id, ast.unparse(each.annotation)
        if kind.startswith("ClassVar"):
            try:
                constants[name] = ast.literal_eval(each.value) if each.value else None
            except ValueError:
                continue  # not a plain value, such as the class of the errors
        else:
            options[name] = _declared(name, kind, each.value)
    return options, constants


def _declared(name: str, kind: str, value: ast.expr | None) -> Declared:
    if isinstance(value, ast.Call):  # option(default, low=...)
        limits = {each.arg or "": ast.literal_eval(each.value) for each in value.keywords}
        return Declared(name, kind, ast.literal_eval(value.args[0]), limits)
    return Declared(name, kind, None if value is None else ast.literal_eval(value), {})


def _loaded_facts(group: str, name: str, entry: EntryPoint) -> Facts:
    kind = entry.load()
    if not (inspect.isclass(kind) and issubclass(kind, Options)):
        raise TypeError(f"entry point {entry.value} is no part: it does not derive from a base")
    options = {each.name: each for each in declarations(kind)}
    constants = {
        key: value
        for parent in reversed(kind.__mro__)
        for key, value in vars(parent).items()
        if not key.startswith("_") and key not in options and not callable(value)
    }
    package = entry.dist.name if entry.dist else entry.module.partition(".")[0]
    methods = frozenset(key for key, value in vars(kind).items() if callable(value))
    return Facts(group, name, inspect.getdoc(kind) or "", options, constants, package, methods)


def _chained(group: str, name: str) -> Facts:
    """Join the facts of norms: which bias is of use, which places all of them take, and so on."""
    members = [facts(group, each) for each in name.split("+")]
    options = {
        f"{member.name}.{key}": replace(declared, name=f"{member.name}.{key}")
        for member in members
        for key, declared in member.options.items()
    }
    return Facts(
        group,
        name,
        f"{name}: {' Then: '.join(member.summary + '.' for member in members)}",
        options,
        _joined([member for member in members if member.name != "none"] or members),
        methods=frozenset.union(*(member.methods for member in members)),
    )


def _joined(members: list[Facts]) -> dict[str, Any]:
    known = [member.constants for member in members]
    layers = [member.constants for member in members if "layer" in member.methods]
    linear = [member.constants for member in members if "linear" in member.methods]
    active = [member.constants for member in members if "activation" in member.methods]
    first, shown = (layers or known)[0], (layers or active or known)[0]
    places = tuple(
        place for place in known[0]["places"] if all(place in each["places"] for each in known)
    )
    return {
        **known[0],
        "aliases": (),
        # A constant that the linear layer adds is lost in that layer or in the norm right after it.
        "bias": first["bias"] and all(each["bias"] for each in linear),
        "placement": shown["placement"] if shown["placement"] in places else places[0],
        "places": places,
        "brings": (active or known)[0]["brings"],
        "own_activation": any(each["own_activation"] for each in known),
        "uses_batch": any(each["uses_batch"] for each in known),
        "running": any(each["running"] for each in known),
        "parameters": _sum("parameters", known, " + "),
        "state": _sum("state", known, " "),
        "memory_format": shown["memory_format"],
    }


def _sum(fact: str, known: list[Mapping[str, Any]], by: str) -> str:
    return by.join(each[fact] for each in known if each[fact] != "none") or "none"
