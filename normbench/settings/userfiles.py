"""Checks a user's own configuration files: are they found, read, and of settings that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from normbench.errors import Mistake
from normbench.parts import registry
from normbench.parts.options import leaves, near
from normbench.runtime import storage
from normbench.settings import resolve
from normbench.settings.declared import defaults
from normbench.settings.fields import AUTO, declared_options
from normbench.settings.members import is_member


def wrong(tree: dict[str, Any]) -> list[Mistake]:
    """List what a composed tree has beyond the settings that there are; puts in what it lacks."""
    found = [mistake for group in registry.KINDS for mistake in wrong_in_group(tree, group)]
    own = dict(leaves({key: tree[key] for key in tree if key not in registry.KINDS}))
    for key in own.keys() - defaults().keys():
        meant = near(key, defaults())
        fix = f"{meant}: VALUE" if meant else "normbench train --help    (all settings)"
        found.append(Mistake(f"{key}={own[key]}", "no setting has this name", fix))
    return found


def wrong_in_group(tree: dict[Any, Any], group: str) -> Iterator[Mistake]:
    """Yield what is wrong with the name and the options of a part; puts in what it lacks."""
    part = tree.get(group)
    name = str(part.get("name")) if isinstance(part, dict) else "null"
    known = registry.names(group)
    if (group, name) != ("activation", AUTO) and not all(part in known for part in name.split("+")):
        meant = registry.also_called(group, name) or near(name, known)
        fix = f"name: {meant}" if meant else f"normbench list {registry.KINDS[group][0]}"
        yield Mistake(f"{group}.name={name}", f"no {group} has this name", fix)
        return
    options, given = declared_options(group, name), dict(leaves(tree[group]))
    for key in given.keys() - options.keys() - {"name"}:
        if not is_member(f"{group}.{key}"):
            meant = near(key, options)
            fix = f"{meant}: VALUE" if meant else f"no such line, {name} has {_listed(options)}"
            yield Mistake(f"{group}.{key}={given[key]}", f"{name} has no such option", fix)
    for key in options.keys() - given.keys():
        resolve.put(tree[group], key, options[key].default)


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(options) or "no options"


def hidden(folder: Path) -> Mistake | None:
    """Find a user's file that has the name of a packaged one, which Hydra takes in its place."""
    ours = registry.configs()
    for path in sorted(ours.rglob("*.yaml")):
        place = path.relative_to(ours)
        mine = folder / place
        if mine.is_file() and mine.read_bytes() != path.read_bytes():
            group, name = place.parent.as_posix(), f"my_{place.stem}"
            why = "normbench has a file of this name, and Hydra would take that one"
            fix = f"another name, such as {place.with_stem(name)}    ({group}={name})"
            if place.parent == Path():
                fix = f"{folder / 'experiment' / place.with_stem(name)}    (experiment={name})"
            return Mistake(str(mine), why, fix)
    return None


def unreadable(folder: Path, words: Sequence[str]) -> Iterator[str]:
    """Say which files of a folder cannot be read, those that the words name first."""
    named = {word.partition("=")[2] for word in words}
    for path in sorted(folder.rglob("*.yaml"), key=lambda path: (path.stem not in named, path)):
        if path.is_file() and (why := _fault(path)):
            yield why


def line_of(path: Path, keys: Sequence[str]) -> int | None:
    """Find the line of a nested key in a YAML file."""
    import yaml

    node, line = yaml.compose(path.read_text(encoding="utf-8")), None
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        name, node = next((pair for pair in pairs if pair[0].value == key), (None, None))
        if name is None:
            return line
        line = name.start_mark.line + 1
    return line


def _fault(path: Path) -> str | None:
    """Say why a YAML file cannot be read as Hydra reads it, None if it can."""
    from yaml import MarkedYAMLError

    data = path.read_bytes()
    try:
        read = OmegaConf.create(data.decode())
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return f"{path} line {line} is not UTF-8 (byte {data[error.start]:#04x})"
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        return f"{path} line {line} is not YAML: {error.problem}"
    except RecursionError:
        return f"{path} is nested too deep"
    except Exception as error:
        return f"{path} is not YAML: {str(error).splitlines()[0]}"
    if not isinstance(read, DictConfig):
        return f"{path} line 1 begins a list, not KEY: VALUE"
    if storage.nesting(data.decode()) > storage.DEPTH:  # which Hydra reads from a deeper stack
        return f"{path} is nested too deep"
    return None
