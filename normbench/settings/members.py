"""Options that address a part by its name: `norm.gn.groups=4`, wherever gn stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from normbench.parts import registry
from normbench.settings import rules
from normbench.settings.declared import defaults
from normbench.settings.fields import declared_options
from normbench.settings.schema import WORDS
from normbench.settings.suggest import options_everywhere

Row = tuple[str, ...]  # one combination of a sweep, as `KEY=VALUE` texts


def is_member(key: str) -> bool:
    """Tell whether a key addresses a part by name, as `norm.gn.groups` does."""
    group, _, rest = key.partition(".")
    member, dot, _ = rest.partition(".")
    return bool(dot) and group in registry.KINDS and member in registry.names(group)


def for_hydra(text: str) -> str:
    """Write an override so that Hydra takes it whatever part is chosen: ours have checked it."""
    key = _key(text)
    return f"++{text}" if "." in key and key.partition(".")[0] in registry.KINDS else text


def is_there(key: str) -> bool:
    """Tell whether a key addresses an option that a part, whether chosen or not, has."""
    group, _, rest = key.partition(".")
    member, _, option = rest.partition(".")
    return is_member(key) and option in registry.facts(group, member).options


def idle_words(row: Sequence[str], tree: Mapping[str, Any]) -> dict[str, str]:
    """Find the keys of a row that make no difference in it, each with the choice that says so.

    Args: tree: what the row composes to.
    """
    keys = [text.partition("=")[0] for text in row]
    found = {key: why for key, why in rules.idle(tree).items() if key in keys}
    for key in filter(is_member, keys):
        group, member, *_ = key.split(".")
        if member not in tree[group]["name"].split("+"):
            found[key] = f"{group}={tree[group]['name']}"
    return found


def without_idle(
    rows: Sequence[Row], tree: Callable[[Row], Mapping[str, Any]]
) -> dict[tuple[Row, Row], dict[str, str]]:
    """Find in each row the words that make no difference there, if they do in another row.

    Options of a part that is not in a row are left out of it, so that the row is there once.

    Returns: by row and its idle words: their keys, each with the choice that says so.
    """
    found = [(row, idle_words(row, tree(row))) for row in rows]
    used = {_key(text) for row, idle in found for text in row if _key(text) not in idle}
    split = {}
    for row, idle in found:
        told = {key: why for key, why in idle.items() if key in used}
        kept = tuple(text for text in row if _key(text) not in told or not is_member(_key(text)))
        split[kept, tuple(text for text in kept if _key(text) in told)] = told
    return split


def fold(tree: dict[str, Any]) -> None:
    """Apply what addresses the parts of a composed tree, and leave out what does so to others."""
    for key in rules.idle(tree):
        tree[key] = defaults()[key]
    for group in registry.KINDS:
        name = str(tree[group].get("name"))
        for key in tree[group].keys() - declared_options(group, name).keys() - {"name"}:
            if group in WORDS and f"{group}.{key}" in options_everywhere():
                del tree[group][key]  # an option of another order, as in our own sweeps
        for member in registry.names(group):
            if isinstance(tree[group].get(member), dict) and member not in name.split("+"):
                del tree[group][member]
            elif member == name and isinstance(tree[group].get(member), dict):
                tree[group] |= tree[group].pop(member)


def _key(text: str) -> str:
    return text.partition("=")[0]
