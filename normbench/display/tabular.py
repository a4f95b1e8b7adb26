"""Lays tables out for a terminal: beside each other, or below where it is too narrow for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from normbench.display.console import BOUNDLESS, LEAST_WRAP, STYLES, Terminal, between_words
from normbench.errors import escaped
from normbench.results.tables import Table

GAPS = (3, 2)  # blanks between columns, and in a terminal that is too narrow for them
INDENT = 4


def write(terminal: Terminal, table: Table) -> None:
    """Write a table to the width of a terminal, or as wide as it is, and its notes."""
    width = BOUNDLESS if terminal.width is None else terminal.width
    terminal.line(Text("\n").join(drawn(terminal.console, table, width)))
    for note in table.notes:
        for line in terminal.wrapped(f" {escaped(note)}", "dim"):
            terminal.line(line)


def drawn(console: Console, table: Table, width: int) -> Iterator[Text]:
    """Yield the lines of a table of at most `width` columns.

    Where it is too narrow, the values below a title stand one per line, and texts of a list that
    would have less than `LEAST_WRAP` columns, or break a word, below their row.
    """
    room = width if width == BOUNDLESS else width - 1  # behind the first blank
    laid, taken = _laid_out(console, table, GAPS[0])
    if taken > room:
        laid, taken = _laid_out(console, table, GAPS[1])
    texts = 0
    if taken > room and table.title and len(laid.columns) > 2:
        laid, taken = _laid_out(console, table.narrow(), GAPS[1])
    elif taken > room and not table.title:
        fits, texts = _below(table, room)
        if not fits:
            yield from _pairs(table, width)
            return
        kept = len(table.head) - texts
        rows = tuple(row[:kept] for row in table.rows)
        laid, taken = _laid_out(console, replace(table, head=table.head[:kept], rows=rows), GAPS[1])
    options = console.options.update(width=min(taken, room))
    lines = []
    for segments in console.render_lines(laid, options, pad=False):
        line = Text.assemble(" ", *((part.text, part.style or "") for part in segments))
        line.rstrip()
        lines.append(line)
    for place, line in enumerate(lines, -1):
        yield line
        for cell in table.rows[place][-texts:] if texts and place >= 0 else ():
            for piece in between_words(escaped(cell.text), max(LEAST_WRAP, width - INDENT)):
                yield Text(" " * INDENT + piece, STYLES.get(cell.style, ""))


def _pairs(table: Table, width: int) -> Iterator[Text]:
    """Yield each row as its name and, below it, the other values behind what they are."""
    for row in table.rows:
        cells = [*zip(table.head, row, strict=True)]
        if table.labels:
            yield Text(f" {escaped(cells.pop(0)[1].text)}")
        told = [f"{head} {cell.text.strip()}".strip() for head, cell in cells if cell.text]
        room = width - INDENT
        whole = "  ".join(
            text.replace(" ", "\0") if len(text) <= room else text for text in map(escaped, told)
        )
        for piece in between_words(whole, room):
            yield Text(" " * INDENT + piece.replace("\0", " "))


def _below(table: Table, room: int) -> tuple[bool, int]:
    """Count the columns at the end, of texts, that have too little room beside the others.

    Returns: also whether those others have enough.
    """
    columns = [*zip(*([cell.text for cell in row] for row in table.rows), strict=True)]
    texts = 0
    while texts < len(columns) - 1 and any(" " in text.strip() for text in columns[-1 - texts]):
        texts += 1
    kept = zip(table.head, columns[: len(columns) - texts], strict=False)
    taken = sum(max(map(cell_len, [head, *column])) + GAPS[1] for head, column in kept)
    words = " ".join(" ".join(column) for column in columns[len(columns) - texts :]).split()
    least = max([LEAST_WRAP, *(cell_len(word) + GAPS[1] for word in words)])
    return taken <= room + GAPS[1], texts if room - taken < least * texts else 0


def _laid_out(console: Console, table: Table, gap: int) -> tuple[RichTable, int]:
    """Return the table for rich, and the columns that it takes if no text is wrapped."""
    labels = table.labels if table.title else 1  # below a title they are one column
    drawn = RichTable(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for place, text in enumerate([table.title or table.head[0], *table.head[labels:]]):
        right = place + labels - 1 in table.right
        justify: Literal["left", "right"] = "right" if right else "left"
        # Of a list, only texts are broken: never a name, whose pieces nobody can paste.
        whole = not (table.title or any(" " in row[place].text.strip() for row in table.rows))
        drawn.add_column(
            Text(escaped(text)), justify=justify, no_wrap=right or whole, overflow="fold"
        )
    for name, row in zip(_names(table, labels), table.rows, strict=True):
        cells = [replace(row[0], text=name), *row[labels:]]
        drawn.add_row(*(Text(escaped(cell.text), STYLES.get(cell.style, "")) for cell in cells))
    boundless = console.options.update(width=BOUNDLESS)
    return drawn, Measurement.get(console, boundless, drawn).maximum


def _names(table: Table, labels: int) -> list[str]:
    """Return the first `labels` texts of each row as one, below each other in columns."""
    texts = [[escaped(cell.text) for cell in row[:labels]] for row in table.rows]
    sizes = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(map(set_cell_size, row, sizes)).rstrip() for row in texts]
