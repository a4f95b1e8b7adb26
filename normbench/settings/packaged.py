"""Composes packaged parts, with Hydra only where a file of them chooses others."""

from __future__ import annotations

from functools import cache
from typing import Any

from normbench.parts import registry
from normbench.parts.options import copied
from normbench.runtime import storage
from normbench.settings.composer import Composed, Composer, loader

PART_BYTES = 2**16  # of a file of one part


@cache  # such files do not change, and Hydra takes longer than all that follows
def packaged(chosen: tuple[str, ...]) -> Composed:
    """Compose packaged parts: those that are alone in their files are put in, without Hydra."""
    alone = [text for text in chosen if own_settings(text) is not None]
    if not alone:
        return Composer(loader()).compose(chosen)
    made = packaged(tuple(text for text in chosen if text not in alone))
    own = {text.partition("=")[0]: copied(own_settings(text)) for text in alone}
    return Composed({**made.tree, **own}, made.hydra)


@cache
def own_settings(text: str) -> dict[str, Any] | None:
    """Read the settings of the packaged part that `norm=gn` chooses.

    Returns: None if its file chooses other parts as well, or there is none.
    """
    group, _, name = text.partition("=")
    path = registry.configs() / group / f"{name}.yaml"
    if group not in registry.KINDS or "/" in name or not path.is_file():
        return None
    tree = storage.read_yaml(path, PART_BYTES)
    return tree if "defaults" not in tree else None
