"""What TensorBoard's table of runs shows of a configuration: the same columns for every run."""

from __future__ import annotations

from functools import cache

from normbench.parts import registry
from normbench.parts.options import leaves, written
from normbench.settings.declared import GROUPS, declared_keys
from normbench.settings.schema import Config

NONE = "none"  # in a column of words; one of numbers has a blank
NUMBERS = {"int", "float", "None"}
Value = float | str | bool | None


@cache
def columns() -> dict[str, bool]:
    """List the columns, and whether they hold numbers: settings, and the options of all parts.

    Whatever run TensorBoard meets first, it learns the columns of all of them.
    """
    types: dict[str, set[str]] = {}
    for setting in declared_keys():
        types[setting.name] = set(setting.type.split(" | "))
    for group in GROUPS:
        types[group] = {"str"}
        for name in registry.names(group):
            for key, option in registry.facts(group, name).options.items():
                types.setdefault(f"{group}.{key}", set()).update(option.type.split(" | "))
    types |= {key: {"int"} for key in ("worker_batch", "stat_batch")} | {"lr": {"float"}}
    return {name: kinds <= NUMBERS for name, kinds in types.items()}


def hparams(config: Config) -> dict[str, Value]:
    """Give every setting of a run, and what follows from them; None where a number has none.

    Of the members of a chain the first that has an option shows it.
    """
    given: dict[str, Value] = {"worker_batch": config.worker_batch, "stat_batch": config.stat_batch}
    given["lr"] = config.lr
    for key, value in leaves(config.plain()):
        group, _, rest = key.partition(".")
        column = group if rest == "name" else f"{group}.{rest.rpartition('.')[2]}" if rest else key
        given.setdefault(column, value)
    return {
        name: given.get(name) if numbers else _word(given.get(name))
        for name, numbers in columns().items()
    }


def _word(value: Value) -> str:
    return NONE if value is None else written(value)
