"""What is told of a run in training."""

from __future__ import annotations

from typing import Any, NamedTuple

from normbench.rows import Row, TimeRow, from_json, to_json
from normbench.runs.state import State


class Message(NamedTuple):
    """What a worker reports: warnings first, then rows, and with the last row the `result`.

    Then also `right`: which images of each test are right, packed to hexadecimal digits. `batch`:
    a picture of the first batch, likewise, with the warnings. `kept`: tensors and facts from which
    the run goes on; it stays in this process.
    """

    warnings: tuple[str, ...] = ()
    row: Row | None = None
    time: TimeRow | None = None
    result: dict[str, Any] | None = None
    right: dict[str, str] | None = None
    batch: str | None = None
    kept: State | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        row, time = (row and to_json(row) for row in (self.row, self.time))
        return {**self._asdict(), "row": row, "time": time}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Message:
        """Return what `to_plain` was made from."""
        row, time = (plain[key] and from_json(plain[key]) for key in ("row", "time"))
        return cls(**{**plain, "row": row, "time": time})
