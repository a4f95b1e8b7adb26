"""What the sources state, and where it is tested: `configs/statements.yaml`. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normbench.parts import registry
from normbench.results.tables import Table, TableCell
from normbench.runtime import storage

FILE, BYTES = "statements.yaml", 2**17


def read() -> list[dict[str, Any]]:
    """Read the statements: `source`, `says`; `studies`, `tests`, `note`, or `why` there is none."""
    found: list[dict[str, Any]] = storage.read_yaml(registry.configs() / FILE, BYTES)
    return found


def table(verdicts: Mapping[str, str]) -> Table:
    """Lay out all statements with what became of them.

    Args: verdicts: by study, as far as there are any.
    """
    rows = []
    for each in read():
        studies = [f"{name}: {verdicts.get(name, 'pending')}" for name in each.get("studies", ())]
        tested = [name.removeprefix("test_").replace("_", " ") for name in each.get("tests", ())]
        where = "; ".join([*studies, *(f"test: {name}" for name in tested)])
        remark = "; ".join(each[key] for key in ("note", "why") if key in each)
        rows.append(tuple(map(TableCell, (each["source"], each["says"], where or "-", remark))))
    return Table("", ("source", "statement", "where it is tested", "remark"), tuple(rows))
