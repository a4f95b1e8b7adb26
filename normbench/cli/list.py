"""`normbench list`: the parts of a kind, or one explained, read without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from normbench.cli.parser import Parser, screen
from normbench.display.screen import Screen
from normbench.errors import Mistake, Refused
from normbench.parts import registry
from normbench.parts.options import Declared, near, written
from normbench.parts.registry import Facts
from normbench.results.tables import Table, TableCell

KINDS = {plural: group for group, (plural, _) in registry.KINDS.items()}
PRESETS = "experiments"  # listed beside the kinds of parts
EXAMPLES = (
    "normbench list norms",
    "normbench list norms gn",
    "normbench list models --json",
)
MOMENTUM = (
    "momentum of running statistics is that of an optimizer step: with accumulate=k a micro-batch "
    "takes 1 - (1 - momentum)^(1/k); with norm.momentum_per=forward the whole momentum"
)
FACTS = {  # what `list KIND NAME` says of the facts of a part
    "aliases": "also called",
    "places": "placements",
    "placement": "usual placement",
    "bias": "a bias before it is of use",
    "brings": "activation unless one is named",
    "own_activation": "takes the activation's place",
    "activation": "activation unless one is named",
    "gain": "gain of the weights before it",
    "uses_batch": "training looks at the batch",
    "running": "running statistics for evaluation",
    "parameters": "learned numbers for C channels",
    "state": "buffers in the state dictionary",
    "memory_format": "memory format of maps",
    "residual": "has residual blocks",
    "spatial": "works on feature maps",
    "recurrent": "reads a sequence",
    "images": "images",
    "split": "train, val, test",
}


def parser() -> Parser:
    """Return the parser of the command's words."""
    made = Parser("list", "List the parts of a kind, or explain one part.", EXAMPLES)
    made.add_argument("kind", choices=(*KINDS, PRESETS), metavar="KIND")
    made.add_argument("name", nargs="?", metavar="NAME")
    return made


def run(words: list[str]) -> int:
    """List the parts of a kind, or explain one."""
    options = parser().parsed(words)
    if options.kind == PRESETS:
        presets(options.name, screen(options))
    else:
        show(KINDS[options.kind], options.name, screen(options))
    return 0


def presets(name: str | None, screen: Screen) -> None:
    """List the packaged command lines, or show the file of one.

    Raises: Refused if there is none of this name.
    """
    known = registry.presets()
    if name is not None and name not in known:
        meant = near(name, known)
        fix = f"normbench list {PRESETS} {meant}" if meant else f"normbench list {PRESETS}"
        raise Refused(Mistake(name, "no preset has this name", fix))
    chosen = {each: known[each] for each in ([name] if name else known)}
    listed = [{"name": each, "description": text} for each, text in chosen.items()]
    screen.document({"command": "list", "kind": "experiment", "presets": listed})
    if name:
        path = registry.configs() / "experiment" / f"{name}.yaml"
        screen.text(f"normbench train experiment={name}\n\n{path.read_text('utf-8')}")
    else:
        notes = ("normbench train experiment=NAME; your own: --config-dir DIR",)
        screen.table(_table(("name", "description"), tuple(chosen.items()), notes))


def show(group: str, name: str | None, screen: Screen) -> None:
    """List the parts of a group, or explain the one called `name`."""
    if name is not None:
        _explain(group, name, screen)
    elif screen.json:
        parts = [_document(registry.facts(group, part)) for part in registry.names(group)]
        screen.document({"command": "list", "kind": group, "parts": parts})
    else:
        screen.table(_norms() if group == "norm" else _parts(group))


def _norms() -> Table:
    head = ("name", "batch stats", "running", "parameters", "description", "source")
    rows = []
    for name in registry.names("norm"):
        facts = registry.facts("norm", name)
        known = facts.constants
        rows.append(
            (
                name,
                _yes(known["uses_batch"]),
                _yes(known["running"]),
                known["parameters"],
                _described(facts),
                facts.source,
            )
        )
    return _table(head, rows, (*_presets("norm"), MOMENTUM))


def _parts(group: str) -> Table:
    rows = []
    for name in registry.names(group):
        facts = registry.facts(group, name)
        options = " ".join(
            f"{key}={written(option.default)}" for key, option in facts.options.items()
        )
        rows.append((name, options, _described(facts)))
    return _table(("name", "options", "description"), rows, _presets(group))


def _table(
    head: tuple[str, ...], rows: Sequence[tuple[str, ...]], notes: tuple[str, ...] = ()
) -> Table:
    return Table("", head, tuple(tuple(map(TableCell, row)) for row in rows), notes=notes)


def _presets(group: str) -> tuple[str, ...]:
    extra = [name for name in registry.choices(group) if name not in registry.names(group)]
    return (f"presets and chains: {', '.join(extra)}",) if extra else ()


def _explain(group: str, name: str, screen: Screen) -> None:
    if name not in registry.names(group):
        meant = registry.also_called(group, name) or near(name, registry.names(group))
        fix = " ".join(["normbench list", registry.KINDS[group][0], *filter(None, [meant])])
        raise Refused(Mistake(name, f"no {group} has this name", fix))
    facts = registry.facts(group, name)
    if screen.json:
        screen.document({"command": "list", "kind": group, "parts": [_document(facts)]})
        return
    screen.prose(f"{group}={name}\n\n{facts.doc}")
    rows = [
        (f"{group}.{key}", option.type, written(option.default), _allowed(option))
        for key, option in facts.options.items()
    ]
    if rows:
        screen.table(_table(("option", "type", "default", "allowed"), rows))
    stated = [
        (label, value if isinstance(value, str) else _plain(value))
        for key, label in FACTS.items()
        if (value := facts.constants.get(key)) not in ((), "", None)
    ]
    if stated:
        screen.table(_table(("fact", "value"), stated))


def _document(facts: Facts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "package": facts.package,
        "description": facts.summary,
        "source": facts.source,
        "doc": facts.doc,
        "options": {
            key: {"type": option.type, "default": option.default, "limits": dict(option.limits)}
            for key, option in facts.options.items()
        },
        "facts": dict(facts.constants),
    }


def _described(facts: Facts) -> str:
    return facts.summary + ("" if facts.package == "normbench" else f" ({facts.package})")


def _allowed(option: Declared) -> str:
    choices = option.limits.get("choices")
    return ", ".join(choices) if choices else option.range()


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return _yes(value) if isinstance(value, bool) else str(value)
