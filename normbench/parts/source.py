"""Reads the class of a part from its source text, so that nothing has to be imported."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from normbench.parts.options import Declared, option

Written = tuple[Path, ast.ClassDef]


@dataclass(frozen=True)
class Source:
    """What the source text of a part says.

    name: of its class; doc: its docstring; options, constants: annotated attributes, without and
    with ClassVar; methods: what it or a base in its folder defines beyond the base of its kind.
    """

    name: str
    doc: str | None
    options: Mapping[str, Declared]
    constants: Mapping[str, Any]
    methods: frozenset[str]


@cache
def read(path: Path, base: str) -> Source:
    """Read the one class of a file that derives from `base`, the class of `_base.py` beside it.

    Bases are followed through the private modules (`_*.py`) of the folder.
    Raises: TypeError, naming file and line, if there is no such class or more than one, or a
        default or limit that is neither a literal nor a constant of the same file.
    """
    lines = [_lineage(path, name, base) for name in _classes(path)]
    found = [line for line in lines if line]
    if len(found) != 1:
        raise TypeError(f"{path} has {len(found)} classes derived from {base}, one is needed")
    lineage = found[0]
    options: dict[str, Declared] = {}
    constants: dict[str, Any] = {}
    for where, node in lineage:
        for known, new in zip((options, constants), _body(where, node), strict=True):
            known.update(new)
    own = lineage[-1][1]
    methods = frozenset(
        item.name
        for _, node in lineage[1:]
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    )
    return Source(own.name, ast.get_docstring(own), options, constants, methods)


def _lineage(path: Path, name: str, base: str) -> list[Written]:
    """Trace a class back to `base`: that first, the class last; empty if it does not derive."""
    node = _classes(path).get(name)
    if node is None:
        return []
    if name == base and path.stem == "_base":
        return [(path, node)]
    for parent in map(ast.unparse, node.bases):
        module, leaf = _imported(path).get(parent.split(".")[0], (path, parent))
        lineage = _lineage(module, leaf or parent.rpartition(".")[2], base)
        if lineage:
            return [*lineage, (path, node)]
    return []


@cache  # a base is read once for all parts
def _body(path: Path, node: ast.ClassDef) -> tuple[dict[str, Declared], dict[str, Any]]:
    """Return the options and the constants that a class itself declares."""
    options: dict[str, Declared] = {}
    constants: dict[str, Any] = {}
    for name, annotation, value in _annotated(node):
        if not annotation.startswith("ClassVar"):
            options[name] = _declared(path, name, annotation, value)
        elif value is not None:
            try:
                constants[name] = _literal(path, value)
            except ValueError:
                continue  # not a plain value, such as the class of the errors
    return options, constants


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _classes(path: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _tree(path).body if isinstance(node, ast.ClassDef)}


@cache
def _imported(path: Path) -> dict[str, tuple[Path, str]]:
    """Find what is imported from private modules of the folder: file and name, "" for all of it."""
    found = {}
    for node in _tree(path).body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            for stem, leaf in (
                ((node.module or "").rpartition(".")[2], alias.name),
                (alias.name, ""),
            ):
                if stem.startswith("_") and (path.parent / f"{stem}.py").is_file():
                    found[alias.asname or alias.name] = (path.parent / f"{stem}.py", leaf)
    return found


def _annotated(node: ast.ClassDef) -> Iterator[tuple[str, str, ast.expr | None]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id, ast.unparse(item.annotation), item.value


def _declared(path: Path, name: str, kind: str, value: ast.expr | None) -> Declared:
    if value is None:
        return Declared(name, kind, None, {})
    try:
        if not isinstance(value, ast.Call):
            return Declared(name, kind, _literal(path, value), {})
        if ast.unparse(value.func).rpartition(".")[2] != option.__name__:
            raise ValueError
        given = [_literal(path, argument) for argument in value.args]
        limits = {word.arg or "": _literal(path, word.value) for word in value.keywords}
        field = option(*given, **limits)
    except (TypeError, ValueError):
        where = f"{path}, line {value.lineno}: {name} = {ast.unparse(value)}"
        raise TypeError(
            f"{where}: a default, and the limits in option(default, low=...), must be literals "
            "or constants of this file, since they are read without importing it"
        ) from None
    return Declared(name, kind, field.default, field.metadata)


def _literal(path: Path, value: ast.expr) -> Any:
    """Evaluate a literal in which constants of the file may be named; ValueError for others."""
    try:
        return ast.literal_eval(value)  # nearly always: copying costs more than all the rest
    except ValueError:
        return ast.literal_eval(_Named(path).visit(copy.deepcopy(value)))


class _Named(ast.NodeTransformer):
    """Puts the values of module constants in the place of their names."""

    def __init__(self, path: Path) -> None:
        self.constants = {
            target.id: node.value
            for node in _tree(path).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)
