"""How a setting is declared: its section, default, range and a sentence of help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import Any

from normbench.parts import registry
from normbench.parts.options import Declared, option

AUTO = "auto"  # the activation that the norm brings, or that the model usually has
TRAINED = "what is trained"
JUDGED = "how it is judged: other evaluations of the same weights, without training"
RECORDED = "how it is run and recorded: changes no weight"


def _setting(section: str, default: Any, *, help: str, **limits: Any) -> Any:
    made = option(default, **limits)
    return field(default=default, metadata={**made.metadata, "section": section, "help": help})


trained, judged, recorded = (partial(_setting, name) for name in (TRAINED, JUDGED, RECORDED))


def chosen(group: str, name: str) -> Any:
    """Declare the part that a group has unless another is chosen, with its default options."""
    return field(default_factory=lambda: default_part(group, name), metadata={"part": name})


def default_part(group: str, name: str) -> dict[str, Any]:
    """Return the name and the default options of a part."""
    options = declared_options(group, name)
    return {"name": name, **{key: declared.default for key, declared in options.items()}}


def declared_options(group: str, name: str) -> dict[str, Declared]:
    """Return the options of a part by name."""
    return (
        {} if (group, name) == ("activation", AUTO) else dict(registry.facts(group, name).options)
    )


def set_sizes(norm: Mapping[str, Any]) -> Iterator[tuple[int | str, bool]]:
    """Yield what stands behind a batch statistic, and whether it may join workers, by norm."""
    names = norm["name"].split("+")
    for name in names:
        known = registry.facts("norm", name).constants
        options = norm if len(names) == 1 else norm.get(name, {})
        if known["uses_batch"]:
            key = known["sized_by"]
            yield options.get(key, known.get(key, "worker")), key == "norm_batch"
