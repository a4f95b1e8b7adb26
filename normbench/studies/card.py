"""Reads the file of a study, and refuses what it does not know. No torch, no Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.errors import FileRefused, Mistake, Refused
from normbench.parts import registry
from normbench.parts.options import copied, near
from normbench.runtime import storage
from normbench.settings.fields import AUTO
from normbench.studies import form

FOLDER, BYTES = "study", 2**17


@dataclass(frozen=True)
class Card:
    """A study as its file tells it, checked in its form.

    Args: tree: plain data; place: the name of a packaged study, or the path of a user's.
    """

    tree: Mapping[str, Any]
    place: str

    @property
    def id(self) -> str:
        """Name the study."""
        return str(self.tree["id"])

    @property
    def sizes(self) -> list[str]:
        """List its sizes."""
        return [*self.tree["sizes"]]

    def text(self, key: str) -> str:
        """Give one of its texts, empty where it has none."""
        value = self.tree.get(key, "")
        return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def packaged() -> list[str]:
    """List the studies that ship."""
    return sorted(path.stem for path in (registry.configs() / FOLDER).glob("*.yaml"))


def read(name: str) -> Card:
    """Read a packaged study by its name, or a user's own by its path.

    Raises: Refused with all that its file says wrongly; FileRefused if it is not readable.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileRefused(name, "is not a file", "normbench study list")
        try:
            return checked(storage.read_yaml(path, BYTES), name)
        except FileRefused as error:  # what is advised for damaged records would remove the folder
            fix = "plain YAML, as of normbench study show bn-fig1 --json"
            raise FileRefused(name, error.mistakes[0].why, fix) from None
    known = packaged()
    if name not in known:
        why, meant = "no study has this name", near(name, known)
        fix = f"normbench study show {meant}" if meant else "normbench study list"
        raise Refused(Mistake(name, why, fix))
    return checked(storage.read_yaml(registry.configs() / FOLDER / f"{name}.yaml", BYTES), name)


def checked(tree: Any, place: str) -> Card:
    """Check the form of a study: its keys, the words it chooses, and that it is whole.

    Raises: Refused with all mistakes.
    """
    if not isinstance(tree, dict):
        raise Refused(Mistake(place, "is not a map of settings", "normbench study show bn-fig1"))
    tree = {**tree, "seeds": {"screen": AUTO}} if tree.get("seeds") == AUTO else tree
    if mistakes := [*form.mistakes(tree, place)]:
        raise Refused(*mistakes)
    return Card(copied(tree), place)
