"""Finds parts by file name, and those of other packages by entry point; reads them without torch.

A part is the one class of its file that derives from the base of its kind, directly or by bases
in the private modules of its folder. What a command needs to know before anything is computed
(options with their ranges, class facts, the docstring) is read from the source text, so that a
spelling error or `normbench list` never waits for torch.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from itertools import takewhile
from pathlib import Path
from typing import Any

from normbench.errors import MachineError, Mistake, Refused, shown
from normbench.parts import source
from normbench.parts.moved import moved
from normbench.parts.options import Declared, Options, declarations

# configuration group: (folder and entry-point group, base class)
KINDS = {
    "model": ("models", "Model"),
    "norm": ("norms", "Norm"),
    "init": ("inits", "Init"),
    "data": ("data", "Data"),
    "optimizer": ("optimizers", "OptimizerOptions"),
    "activation": ("activations", "Activation"),
    "schedule": ("schedules", "Schedule"),
    "order": ("orders", "Order"),
}

_added: dict[EntryPoint | None, str] = {}  # of this command, by `--parts`: digests


@dataclass(frozen=True)
class Facts:
    """What is known of a part before it is imported."""

    group: str
    name: str
    doc: str
    options: Mapping[str, Declared]
    constants: Mapping[str, Any]  # class facts: attributes that are no options
    package: str = "normbench"
    methods: frozenset[str] = frozenset()  # what it defines beyond its kind: the hooks of a norm

    @property
    def summary(self) -> str:
        """Return the first sentence of the docstring."""
        return self.doc.split("\n\n")[0].replace("\n", " ").removesuffix(".")

    @property
    def source(self) -> str:
        """Return authors and year of the method, "" where the docstring names none."""
        found = re.search(r"Source: +(.*?\d{4})", self.doc.replace("\n", " "))
        return re.sub(r" +", " ", found[1]) if found else ""


def names(group: str) -> list[str]:
    """List the parts of a group, those of other packages last."""
    own = _own(group)
    return [*own, *sorted(set(_foreign(group)) - set(own))]


def choices(group: str) -> list[str]:
    """List what can be chosen: the parts, and the packaged presets and chains of them."""
    return sorted({*names(group), *(path.stem for path in (configs() / group).glob("*.yaml"))})


def also_called(group: str, word: str) -> str | None:
    """Find the part that another name means, such as `BatchNorm2d`; None if there is none."""
    meant = _bare(word)
    for name in names(group):
        if meant in map(_bare, (name, *facts(group, name).constants.get("aliases", ()))):
            return name
    return None


def _bare(word: str) -> str:
    """Leave out of a name what programs write differently: case, dashes, `norm`, dimensions."""
    plain = re.sub(r"[^a-z0-9+]", "", word.casefold())
    return re.sub(r"norm(alization)?|[123]d$", "", plain)


def presets() -> dict[str, str]:
    """List the packaged command lines, `experiment=NAME`, each with the comment at its top."""
    files = sorted((configs() / "experiment").glob("*.yaml"))
    return {path.stem: path.read_text("utf-8").splitlines()[1].lstrip("# ") for path in files}


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
    read = source.read(_folder(folder) / f"{name}.py", base)
    doc = inspect.cleandoc(read.doc or "")
    return Facts(group, name, doc, read.options, read.constants, methods=read.methods)


def find(group: str, name: str) -> type[Any]:
    """Import a part and return its class. The only look-up of code by name in normbench.

    Raises: MachineError if a package that it needs is missing.
    """
    foreign = _foreign(group).get(name)
    if foreign is not None:
        return _loaded(group, name, foreign)
    folder, base = KINDS[group]
    try:
        module = importlib.import_module(f"normbench.{folder}.{name}")
    except ModuleNotFoundError as error:
        why = f"the package {error.name} cannot be imported ({shown(error)})"
        raise MachineError(f"{group}={name}", why, f"pip install {error.name}") from error
    found: type[Any] = getattr(module, source.read(_folder(folder) / f"{name}.py", base).name)
    return found


def add(entry: EntryPoint, digest: str) -> None:
    """Make one more part known, as if a package had it.

    Args: digest: of its file, which names the runs that have it.
    """
    _added[entry] = digest
    _foreign.cache_clear()
    facts.cache_clear()


def digest(group: str, name: str) -> str | None:
    """Give the digest of the file of a part that was added, None for all others."""
    return _added.get(_foreign(group).get(name))


def is_foreign(group: str, name: str) -> bool:
    """Tell whether a part is of another package, or was added."""
    return name in _foreign(group)


@cache
def _own(group: str) -> tuple[str, ...]:
    files = _folder(KINDS[group][0]).glob("*.py")
    return tuple(sorted(path.stem for path in files if path.stem[0] != "_"))


@cache
def _foreign(group: str) -> dict[str, EntryPoint]:
    folder, _ = KINDS[group]
    group = f"normbench.{folder}"
    added = (entry for entry in _added if entry and entry.group == group)
    return {entry.name: entry for entry in (*_entry_points().select(group=group), *added)}


@cache
def _entry_points() -> Any:
    """Read those of all installed packages once: each look goes through all their files."""
    return entry_points()


@cache
def _folder(folder: str) -> Path:
    return Path(__file__).resolve().parents[1] / folder


def _loaded(group: str, name: str, entry: EntryPoint) -> type[Any]:
    """Import a part of another package.

    Raises: Refused if it is written for an earlier layout of normbench.
    """
    try:
        part: type[Any] = entry.load()
    except ImportError as error:
        places = moved(error)
        if places is None:
            raise
        old, new = places
        why = f"{entry.module} is written for an earlier normbench: {old} is now {new}"
        raise Refused(Mistake(f"{group}={name}", why, f"{new} in {entry.module}")) from error
    return part


def _loaded_facts(group: str, name: str, entry: EntryPoint) -> Facts:
    kind, base = _loaded(group, name, entry), KINDS[group][1]
    if not (inspect.isclass(kind) and issubclass(kind, Options)):
        raise TypeError(f"entry point {entry.value} is not a part: it does not derive from {base}")
    options = {declared.name: declared for declared in declarations(kind)}
    constants = {
        key: value
        for parent in reversed(kind.__mro__)
        for key, value in vars(parent).items()
        if not key.startswith("_") and key not in options and not callable(value)
    }
    package = entry.dist.name if entry.dist else entry.module.partition(".")[0]
    beyond = takewhile(lambda parent: parent.__name__ != base, kind.__mro__)
    methods = frozenset(
        key for parent in beyond for key, value in vars(parent).items() if callable(value)
    )
    return Facts(group, name, inspect.getdoc(kind) or "", options, constants, package, methods)


def _chained(group: str, name: str) -> Facts:
    """Join the facts of norms: which bias is of use, which places all of them take, and so on."""
    members = [facts(group, member) for member in name.split("+")]
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
        place for place in known[0]["places"] if all(place in one["places"] for one in known)
    )
    return {
        **known[0],
        "aliases": (),
        # A constant that the linear layer adds is lost in that layer or in the norm right after it.
        "bias": first["bias"] and all(one["bias"] for one in linear),
        "placement": shown["placement"] if shown["placement"] in places else places[0],
        "places": places,
        "brings": (active or known)[0]["brings"],
        "own_activation": any(one["own_activation"] for one in known),
        "uses_batch": any(one["uses_batch"] for one in known),
        "running": any(one["running"] for one in known),
        "parameters": _sum("parameters", known, " + "),
        "state": _sum("state", known, " "),
        "memory_format": shown["memory_format"],
    }


def _sum(fact: str, known: list[Mapping[str, Any]], by: str) -> str:
    return by.join(one[fact] for one in known if one[fact] != "none") or "none"
