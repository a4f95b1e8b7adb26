"""One combination of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from normbench.errors import Mistake
from normbench.settings.schema import Config

Row = tuple[str, ...]  # one combination of a sweep, as `KEY=VALUE` texts


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep: its overrides, and its config or why it does not apply.

    `idle`: those of the overrides that make no difference in it, and are not applied.
    """

    row: Row
    config: Config | None
    misfits: tuple[Mistake, ...] = ()
    idle: Row = ()

    @property
    def words(self) -> Row:
        """Give the overrides that are applied."""
        return tuple(text for text in self.row if text not in self.idle)
