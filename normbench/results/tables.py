"""Tables as text: columns of numbers, Markdown and CSV; draws nothing and knows no runs."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from csv import writer
from dataclasses import dataclass, replace
from html import escape

from normbench.errors import shown
from normbench.parts.options import written

RISKY = ("=", "+", "-", "@")  # with these a spreadsheet takes a cell for a formula
TEX = {
    **{char: f"\\{char}" for char in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    **{char: f"${char}$" for char in "<>|"},
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class TableCell:
    """One cell as text, and what a screen may set it off as: best, diverged, failed, faint."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Estimate:
    """A number of a column before its width is known: `mean [low, high] words`.

    Args: mean: as text; bounds: of its interval as text, if it has one; words: what follows.
    """

    mean: str
    bounds: tuple[str, str] | None = None
    words: tuple[str, ...] = ()
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table as text: the first `labels` columns name a row, the others hold its values.

    Args: title: stands above the labels; head: one text per column; right: columns set to the
    right; notes: lines below.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    labels: int = 1
    right: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return html(self)

    def narrow(self) -> Table:
        """Give the table with one value per line: its columns become blocks of rows."""
        rows = tuple(
            (TableCell("" if place else self.head[column]), *row[: self.labels], row[column])
            for column in range(self.labels, len(self.head))
            for place, row in enumerate(self.rows)
        )
        head = ("", *self.head[: self.labels], "")
        return replace(self, head=head, rows=rows, labels=self.labels + 1)


def column(entries: Sequence[TableCell | Estimate]) -> list[TableCell]:
    """Make the cells of a column, the means and bounds of its estimates below each other."""
    numbers = [_numbers(entry) for entry in entries]
    widths = [max(map(len, texts)) for texts in zip(*numbers, strict=True)]
    return [
        entry if isinstance(entry, TableCell) else _cell(entry, list(map(str.rjust, texts, widths)))
        for entry, texts in zip(entries, numbers, strict=True)
    ]


def state_cell(state: str) -> TableCell:
    """Make the cell of a run that has no number, such as `failed` or `missing`."""
    return TableCell(state, "failed" if state == "failed" else "faint")


def filled(cells: Sequence[TableCell], columns: int) -> list[TableCell]:
    """Fill a row up to a number of columns with dashes."""
    return [*cells, *[TableCell("-", "faint")] * (columns - len(cells))]


def markdown(table: Table) -> str:
    """Write a table as Markdown; text of the user cannot become markup."""
    marks = ["---:" if i in table.right else "---" for i in range(len(table.head))]
    rows = [
        [plain(cell.text) if i < table.labels else _piece(cell.text) for i, cell in enumerate(row)]
        for row in table.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in [list(map(plain, table.head)), marks, *rows]]
    title = [plain(table.title), ""] if table.title else []
    notes = ["", *(f"- {plain(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([*title, *lines, *notes]) + "\n"


def html(table: Table) -> str:
    """Write a table as HTML; text of the user cannot become markup."""

    def line(texts: Iterable[str], tag: str) -> str:
        return "".join(["<tr>", *(f"<{tag}>{escape(shown)}</{tag}>" for shown in texts), "</tr>"])

    rows = [line((cell.text for cell in row), "td") for row in table.rows]
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return (
        f"<table><caption>{escape(table.title)}</caption><thead>{line(table.head, 'th')}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table><ul>{notes}</ul>"
    )


def latex(table: Table) -> str:
    """Write a table for LaTeX, without packages; text of the user cannot become a command."""
    marks = ["r" if i in table.right else "l" for i in range(len(table.head))]
    rows = [" & ".join(_tex(cell.text) for cell in row) + r" \\" for row in table.rows]
    lines = [
        rf"\begin{{tabular}}{{{''.join(marks)}}}",
        r"\hline",
        " & ".join(map(_tex, table.head)) + r" \\",
        r"\hline",
        *rows,
        r"\hline",
        r"\end{tabular}",
    ]
    title = [_tex(table.title), "", r"\smallskip"] if table.title else []
    notes = [line for note in table.notes for line in ("", rf"{{\footnotesize {_tex(note)}\par}}")]
    return "\n".join([r"\par\noindent", *title, *lines, *notes]) + "\n"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Write rows as CSV; what a spreadsheet would take for a formula is behind an apostrophe."""
    out = io.StringIO()
    writer(out, lineterminator="\n").writerows(map(_csv_cell, row) for row in rows)
    return out.getvalue()


def _numbers(entry: TableCell | Estimate) -> tuple[str, str, str]:
    if isinstance(entry, TableCell):
        return ("", "", "")
    return (entry.mean, *(entry.bounds or ("", "")))


def _cell(entry: Estimate, numbers: Sequence[str]) -> TableCell:
    mean, low, high = numbers
    number = f"{mean} [{low}, {high}]" if entry.bounds else mean
    return TableCell(" ".join([number, *entry.words]), entry.style)


def plain(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return _piece(re.sub(r"([\\`*\[\]])", r"\\\1", text))


def _piece(text: str) -> str:
    """Escape what would end a cell or begin a tag; numbers in brackets stay readable."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("|", r"\|")


def _tex(text: str) -> str:
    """Escape what LaTeX would take for a command, and set brackets that would be an option."""
    text = re.sub(r"[\\{}$&#%_^~<>|]", lambda found: TEX[found[0]], " ".join(text.split()))
    return re.sub(r"^(?=[\[*])", "{}", text)


def _csv_cell(value: object) -> str:
    """Write a value as text that a spreadsheet does not run."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = shown(written(value))
    return f"'{text}" if text.startswith(RISKY) and not NUMBER.fullmatch(text) else text
