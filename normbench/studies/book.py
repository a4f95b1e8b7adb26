"""The book of claims: every verdict with its scope and its cost, as Markdown and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normbench.results.tables import Table, TableCell

Document = Mapping[str, Any]


def overview(found: Sequence[Document]) -> Table:
    """Lay out one line per study: verdict, effects, scope."""
    rows = []
    for each in found:
        head = each["lr"]["headline"]
        primary = [one for one in each["hypotheses"][head] if one["role"] == "primary"]
        effects = "; ".join(f"{one['id']} {one['text']}" for one in primary)
        texts = [each["study"], each["size"], each["status"], each["verdict"], effects]
        rows.append(tuple(map(TableCell, [*texts, each["scope"]])))
    head_ = ("study", "size", "status", "verdict", "effects", "scope")
    return Table("", head_, tuple(rows))
