"""What `normbench study list`, `show` and `report` say: cards, and verdicts that are there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from normbench.cli.parser import outputs
from normbench.errors import FileRefused, pasted

if TYPE_CHECKING:
    from normbench.display.screen import Screen


def list_all(options: argparse.Namespace, shown: Screen) -> int:
    """List the studies: their title, their cost at each size, their last verdict."""
    from normbench.results.tables import Table, TableCell
    from normbench.studies import card as cards
    from normbench.studies import record
    from normbench.studies import resolve as studies

    last = {each["study"]: each["verdict"] for each in record.finished(outputs(options))}
    rows, entries = [], []
    for name in cards.packaged():
        card = cards.read(name)
        sizes = {size: studies.resolve(card, size).cost for size in card.sizes}
        costs = [f"{size} {cost / 60:.0f}" for size, (_, cost) in sizes.items()]
        rows.append((name, card.text("title"), ", ".join(costs), last.get(name, "")))
        costs_of = {size: {"runs": n, "core_seconds": round(s)} for size, (n, s) in sizes.items()}
        entries.append(
            {"id": name, "title": card.text("title"), "sizes": costs_of}
            | {"verdict": last.get(name)}
        )
    shown.document({"command": "study", "studies": entries})
    head = ("study", "title", "core-minutes", "verdict")
    shown.table(Table("", head, tuple(tuple(map(TableCell, row)) for row in rows)))
    return 0


def show(options: argparse.Namespace, shown: Screen) -> int:
    """Print a card: claim, source, question, hypotheses, threats."""
    from normbench.studies import card as cards
    from normbench.studies import resolve as studies
    from normbench.studies import wording

    card = cards.read(options.name)
    keys = ("id", "title", "claim", "source", "question", "expect")
    lines = [f"{key}: {card.text(key)}" for key in keys if card.text(key)]
    found = studies.resolve(card, options.size)
    lines.append(f"scope: {wording.scope(found)}")
    lines += [f"{each.role} {each.id}: {wording.hypothesis(each)}" for each in found.hypotheses]
    lines += [f"threat: {text}" for text in card.tree.get("threats", ())]
    shown.document({"command": "study", "card": dict(card.tree)})
    for line in lines:
        shown.statement(line)
    return 0


def report(options: argparse.Namespace, shown: Screen) -> int:
    """Print one line per finished study, or those of the one that is named.

    Raises: FileRefused if there is none.
    """
    from normbench.studies import book, record
    from normbench.studies import card as cards

    found, which, place = record.finished(outputs(options)), "", "bn-fig1"
    if options.name:
        card = cards.read(options.name)
        found = [each for each in found if each["study"] == card.id]
        which, place = f" {card.id}", card.place
    if not found:
        why = f"has no finished study{which}"
        raise FileRefused(outputs(options), why, f"normbench study run {pasted(place)}")
    shown.document({"command": "study", "verdicts": found})
    shown.table(book.overview(found))
    return 0
