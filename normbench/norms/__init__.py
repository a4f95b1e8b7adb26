"""Normalization methods, one file each; `create` makes one by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normbench.errors import NormError
from normbench.norms._base import Norm
from normbench.norms._chain import chain, naming
from normbench.parts import registry
from normbench.parts.options import Declared, nearest


def create(name: str, **options: Any) -> Norm:
    """Make a norm by name: `create("gn", groups=4)`, or a chain: `create("ws+gn", gn={...})`.

    Args: name: the file name of a norm, or several joined by `+`, applied in this order; options:
        its keyword arguments, for a chain a mapping of them for each member. What is by default a
        share of a run is 0 here unless a number is given: `create("brn")` limits by rmax and dmax
        from its first forward on.
    Returns: the frozen options with their hooks, see `Norm`.
    Raises: NormError (a ValueError) for an unknown name, an unknown option, a wrong type or range,
        or members that cannot stand together.
    """
    known = registry.names("norm")
    members = name.split("+")
    strange = [member for member in members if member not in known]
    if strange:
        near = "+".join(
            member
            if member in known
            else registry.also_called("norm", member) or nearest(member, known)
            for member in members
        )
        why = "no norm has this name" if strange == [name] else f"no norm is called {strange[0]!r}"
        raise NormError("", name, why, near)
    if len(members) > 1:
        return _chained(members, options)
    declared = registry.facts("norm", name).options
    for option in options:
        if option not in declared:
            fix = f"norm.{nearest(option, declared)}=" if declared else f"norm={name}"
            raise NormError(option, options[option], f"{name} has no option of this name", fix)
    norm: Norm = registry.find("norm", name)(**_without_run(options, declared))
    return norm


def _without_run(options: Mapping[str, Any], declared: Mapping[str, Declared]) -> dict[str, Any]:
    """Give what is by default a share of a run as a number, for there is no run here.

    A number that is given replaces its share; where none is given, the share is of no forwards.
    In a configuration all shares are numbers already.
    """
    numbers: dict[str, Any] = {}
    for share in declared:
        count = share.removesuffix("_share")
        if count != share and share not in options:
            numbers |= {count: options.get(count, 0), share: None}
    return {**options, **numbers}


def _chained(members: list[str], options: Mapping[str, Any]) -> Norm:
    name = "+".join(members)
    if len(set(members)) < len(members):
        raise NormError("", name, "names a norm twice", "+".join(dict.fromkeys(members)))
    made = {}
    for key, given in options.items():
        if key not in members:
            owners = [member for member in members if key in registry.facts("norm", member).options]
            fix = f"norm.{owners[0]}.{key}=" if owners else f"options of {' and '.join(members)}"
            raise NormError(key, given, f"{name} has no member of this name", fix)
        if not isinstance(given, Mapping):
            raise NormError(key, given, f"is not a set of options of {key}", f"norm.{key}={{}}")
    for member in members:
        with naming(member):
            made[member] = create(member, **options.get(member, {}))
    return chain(made)
