"""The book of claims: every verdict with its scope and its cost, as Markdown and as one page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.results import tables
from normbench.results.tables import Table, TableCell
from normbench.results.verdict import INCONCLUSIVE, REFUTED, SUPPORTED
from normbench.runtime import storage
from normbench.studies import statements
from normbench.studies.card import Card
from normbench.studies.record import FIGURE

FIGURE_BYTES = 2**22
STATED = "Statements of the five sources, and where each is tested"


@dataclass(frozen=True)
class Chapter:
    """A study in the book.

    Args: found: the document of its verdict, None where it has none, for the reason that `missing`
    says; folder: of the study.
    """

    card: Card
    size: str
    found: Mapping[str, Any] | None
    missing: str = ""
    folder: Path | None = None

    @property
    def command(self) -> str:
        """Give the command that says it again."""
        return f"normbench study run {self.card.place} --size {self.size}"

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Say what the verdict hangs on, as pairs of a word and a text."""
        assert self.found is not None
        told = [("source", self.card.text("source")), ("question", self.card.text("question"))]
        told += [("scope", str(self.found["scope"]))]
        told += [(f"{role} lr", said) for role, said in self.found["words"].items()]
        told += [("note", note) for note in self.found["notes"][self.found["lr"]["headline"]]]
        told += [("expected", self.card.text("expect"))]
        seeds, cost = self.found["seeds"]["count"], self.found["core_seconds"]
        spent = f"{self.found['runs']} runs, {seeds} seeds, {cost:,.0f} core-seconds"
        if walls := self.found["wall_runs"]:
            spent += f" ({walls} of the runs did not record CPU time and count by wall time)"
        told += [("cost", spent)]
        told += [("threat", text) for text in self.card.tree.get("threats", ())]
        return [(name, text) for name, text in told if text]

    @property
    def tables(self) -> list[Table]:
        """Lay out the hypotheses, once for each way of choosing the learning rates."""
        assert self.found is not None
        made = []
        for role, judged in self.found["hypotheses"].items():
            title = f"{role} learning rate" + " (the verdict)" * (
                role == self.found["lr"]["headline"] and len(self.found["words"]) > 1
            )
            head = ("hypothesis", "says", "effect", "failed", "p (Holm)", "verdict")
            made.append(Table(title, head, tuple(map(_row, judged))))
        return made

    @property
    def figure(self) -> str:
        """Give the figure of the effects as a data URL."""
        assert self.folder is not None
        svg = storage.read_bytes(self.folder / FIGURE, FIGURE_BYTES)
        return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def overview(found: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out one line per study: verdict, effects, cost, scope."""
    rows = []
    for each in found:
        judged = each["hypotheses"][each["lr"]["headline"]]
        effects = "; ".join(
            f"{one['id']} {one['text']}" for one in judged if one["role"] == "primary"
        )
        cost = f"{each['core_seconds']:,.0f}"
        texts = [each["study"], each["size"], each["status"], each["verdict"], effects, cost]
        rows.append(tuple(map(TableCell, [*texts, each["scope"]])))
    head = ("study", "size", "status", "verdict", "effects", "core-seconds", "scope")
    return Table("", head, tuple(rows))


def summary(chapters: Sequence[Chapter], size: str) -> str:
    """Say in a sentence what the book holds, and what it cost."""
    found = [chapter.found for chapter in chapters if chapter.found]
    words = [
        one["verdict"]
        for each in found
        for one in each["hypotheses"][each["lr"]["headline"]]
        if one["role"] == "primary"
    ]
    counts = ", ".join(f"{words.count(word)} {word}" for word in (SUPPORTED, REFUTED, INCONCLUSIVE))
    cost = sum(each["core_seconds"] for each in found) / 60
    return (
        f"{len(found)} of {len(chapters)} studies at size {size}, "
        f"{len(words)} hypotheses: {counts}. "
        f"{sum(each['runs'] for each in found):,} runs, {cost:,.1f} core-minutes."
    )


def stated(chapters: Sequence[Chapter]) -> Table:
    """Lay out the statements of the sources with the verdicts of these studies."""
    verdicts = {each.card.id: str(each.found["verdict"]) for each in chapters if each.found}
    return statements.table(verdicts)


def markdown(chapters: Sequence[Chapter], size: str) -> str:
    """Write the book as Markdown; text of the cards cannot become markup."""
    plain = tables.plain
    lines = [
        "# Claims of the literature, and what became of them",
        "",
        plain(summary(chapters, size)),
    ]
    lines += ["", f"Written by `normbench book --size {size}`.", ""]
    for chapter in chapters:
        if not chapter.found:
            continue
        lines += [f"## {plain(chapter.card.text('title') or chapter.card.id)}", ""]
        lines += [f"**{plain(chapter.card.text('claim'))}**", ""]
        lines += [f"`{chapter.card.id}`: **{str(chapter.found['verdict']).upper()}**", ""]
        lines += [tables.markdown(table) for table in chapter.tables]
        lines += [f"- {name}: {plain(text)}" for name, text in chapter.lines]
        lines += ["", f"    {chapter.command}", ""]
    missing = [chapter for chapter in chapters if not chapter.found]
    if missing:
        lines += ["## Without a verdict", ""]
    lines += [
        f"- `{each.card.id}` {plain(each.card.text('claim'))} {each.missing}" for each in missing
    ]
    lines += ["", f"## {STATED}", "", tables.markdown(stated(chapters))]
    return "\n".join(lines) + "\n"


def html(chapters: Sequence[Chapter], size: str) -> str:
    """Write the book as one HTML file without outside links."""
    from normbench.display import page  # imports jinja2

    return page.rendered(
        "book.html",
        title="Claims of the literature, and what became of them",
        summary=summary(chapters, size),
        chapters=[chapter for chapter in chapters if chapter.found],
        missing=[chapter for chapter in chapters if not chapter.found],
        stated=(STATED, stated(chapters)),
    )


def _row(one: Mapping[str, Any]) -> tuple[TableCell, ...]:
    failed = " / ".join(f"{k} of {n}" for k, n in one["failures"])
    primary = one["role"] == "primary"
    said = (
        one["verdict"] + (f" ({one['label']})" if one["label"] else "") if primary else one["role"]
    )
    said = "; ".join([said, *one["notes"]])
    p = f"{one['p_holm']:.4f}" if primary else ""
    texts = [one["id"], one["says"], one["text"], failed, p, said]
    return tuple(map(TableCell, texts))
