"""Normalization methods, one file each; `create` makes one by name."""

from __future__ import annotations

from typing import Any

from normbench import registry
from normbench.errors import NormError
from normbench.norms._base import Norm
from normbench.options import nearest


def create(name: str, **options: Any) -> Norm:
    """Make a norm by name: `create("gn", groups=4)`.

    Args: name: the file name of a norm; options: its keyword arguments.
    Returns: the frozen options with their hooks, see `Norm`.
    Raises: NormError (a ValueError) for an unknown name, an unknown option, a wrong type or range.
    """
    known = registry.names("norm")
    if name not in known:
        others = {
            a: each for each in known for a in registry.facts("norm", each).constants["aliases"]
        }
        near = others.get(name) or nearest(name, known)
        raise NormError("", name, "no norm has this name", near)
    declared = registry.facts("norm", name).options
    for option in options:
        if option not in declared:
            fix = f"norm.{nearest(option, declared)}=" if declared else f"norm={name}"
            raise NormError(option, options[option], f"{name} has no option of this name", fix)
    norm: Norm = registry.find("norm", name)(**options)
    return norm
