"""Writes lines, tables and live displays on one stream, in what it can show, and to its width."""

from __future__ import annotations

import errno
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, TextIO, cast

from normbench.errors import MachineError, escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from normbench.results.tables import Table

Piece = tuple[str, str]  # a text and how it is set off
GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)  # the reader or the terminal has left
STYLES = {"best": "bold", "diverged": "yellow", "failed": "red", "faint": "dim", "head": "dim"}
GAPS = (3, 2)  # blanks between columns, and in a terminal that is too narrow for them
LEAST_WRAP = 16  # columns below which no text is wrapped


class Sink:
    """A stream whose reader may leave: what nobody can read any more is dropped.

    Args: vital: whether it matters that there is no space for what is written.
    """

    def __init__(self, stream: TextIO | None, vital: bool) -> None:
        self.stream, self.vital = stream, vital
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write; characters that the encoding lacks are written out.

        Raises: MachineError if a vital stream has no space for it.
        """
        if self.stream is not None:
            try:
                self.stream.write(
                    text.encode(self.encoding, "backslashreplace").decode(self.encoding)
                )
                self.stream.flush()
            except ValueError:  # closed
                self.stream = None
            except OSError as error:
                self._leave()
                if self.vital and error.errno not in GONE:
                    why = f"cannot be written: {error.strerror}"
                    raise MachineError("output", why, "a place with space for it") from None
        return len(text)

    def flush(self) -> None:
        """Do nothing: every write is flushed."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with suppress(ValueError):  # closed
            return self.stream is not None and self.stream.isatty()
        return False

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        if self.stream is None:
            raise OSError(errno.EBADF, "the stream is gone")
        return self.stream.fileno()

    def _leave(self) -> None:
        """Send what is still held back for the stream to nowhere: Python would complain at exit."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        self.stream = None


class Terminal:
    """One stream, a terminal or not, and what is written on it.

    Args: stream: None for one that is closed; color: None decides by `NO_COLOR`, `FORCE_COLOR`,
    `TERM` and whether it is a terminal; vital: whether it carries the results.
    """

    def __init__(self, stream: TextIO | None, color: bool | None, vital: bool = False) -> None:
        self.sink = Sink(stream, vital)
        self.live = self.sink.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self.color = self._colored() if color is None else color
        self.smooth = self._takes("━╸")

    @property
    def width(self) -> int | None:
        """The columns of the terminal, None where a line may be as long as it likes."""
        return self.console.width if self.live else None

    @property
    def height(self) -> int:
        """The lines of the terminal."""
        return self.console.height

    @cached_property
    def console(self) -> Console:
        """What rich writes through: the 16 colours, which fit every theme, or none."""
        from rich.console import Console

        return Console(
            file=cast(TextIO, self.sink),
            force_terminal=self.live,
            force_interactive=self.live,
            color_system="standard" if self.color else None,
            no_color=not self.color,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )

    def line(self, text: Text | str, style: str = "") -> None:
        """Write one line, however long."""
        self.console.print(text, style=style or None, soft_wrap=True)

    def wrapped(self, text: str, style: str = "") -> Iterator[Text]:
        """Break a line between words where the terminal is too narrow for it."""
        from rich.text import Text

        pieces = [text]
        if self.width is not None:
            pieces = textwrap.wrap(text, max(LEAST_WRAP, self.width), subsequent_indent="  ")
        for piece in pieces:
            yield Text(piece, style)

    def table(self, table: Table) -> None:
        """Write a table; a terminal that is too narrow for it gets one value per line."""
        for line in _laid_out(table, self.width):
            self.line(line)
        for note in table.notes:
            for line in self.wrapped(f" {escaped(note)}", "dim"):
                self.line(line)

    def start(self, draw: Callable[[], Text], redirect: bool) -> Live:
        """Start a live display without a thread.

        Args: draw: gives what is to be seen; redirect: what others write on stderr comes above.
        """
        from rich.live import Live

        live = Live(
            get_renderable=draw,
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=redirect and self.sink.stream is sys.stderr,
            vertical_overflow="crop",
        )
        live.start(refresh=True)
        return live

    def bar(self, share: float, width: int, style: str) -> Text:
        """Draw a bar of `width` columns filled by `share`, of `#` if lines cannot be encoded."""
        from rich.text import Text

        halves = int(2 * width * min(1.0, max(0.0, share)))
        full, half = ("━", "╸") if self.smooth else ("#", "")
        done = full * (halves // 2) + half * (halves % 2)
        blank = full if self.color and self.smooth else " "
        return Text().append(done, style).append(blank * (width - len(done)), "dim")

    def cut(self, text: str, width: int) -> str:
        """Cut a text to `width` columns, and fill it up to them."""
        from rich.cells import cell_len, set_cell_size

        if cell_len(text) <= width:
            return set_cell_size(text, width)
        dots = "…" if self._takes("…") else "..."
        return set_cell_size(text, width - len(dots)) + dots

    def _takes(self, text: str) -> bool:
        try:
            text.encode(self.sink.encoding)
        except UnicodeError:
            return False
        return True

    def _colored(self) -> bool:
        if os.environ.get("NO_COLOR"):
            return False
        return self.live or os.environ.get("FORCE_COLOR", "0") not in ("", "0")


def _laid_out(table: Table, width: int | None) -> Iterator[Text]:
    """The lines of a table, in at most `width` columns where that can be done."""
    from rich.text import Text

    rows, gap = _joined(table), GAPS[0]
    if width is not None and _span(rows, gap) > width:
        gap = GAPS[1]
        if _span(rows, gap) > width and table.title and len(rows[0]) > 2:
            table = table.narrow()
            rows = _joined(table)
    shift = table.labels - 1 if table.title else 0
    right = {column - shift for column in table.right}
    sizes = _sizes(rows)
    if width is not None:
        _narrow(sizes, right, width - 1 - gap * (len(sizes) - 1))
    for row in (each for whole in rows for each in _broken(whole, sizes)):
        line = Text(" ")
        for place, ((text, style), size) in enumerate(zip(row, sizes, strict=True)):
            blank = " " * (size - _length(text))
            line.append(" " * gap if place else "")
            line.append(blank + text if place in right else text + blank, STYLES.get(style, ""))
        line.rstrip()
        yield line


def _joined(table: Table) -> list[list[Piece]]:
    """The rows of a table below its head; under a title the labels are one column."""
    head = [(escaped(text), "head") for text in table.head]
    rows = [[(escaped(cell.text), cell.style) for cell in row] for row in table.rows]
    if not table.title:
        return [head, *rows]
    sizes = _sizes([row[: table.labels] for row in rows])
    joined = [[(escaped(table.title), "head"), *head[table.labels :]]]
    for row in rows:
        names = [
            text + " " * (size - _length(text))
            for (text, _), size in zip(row[: table.labels], sizes, strict=True)
        ]
        joined.append([("  ".join(names).rstrip(), ""), *row[table.labels :]])
    return joined


def _narrow(sizes: list[int], right: set[int], width: int) -> None:
    """Take from the widest columns of text until all columns fit, or none is wide."""
    while sum(sizes) > width:
        size, widest = max((s, i) for i, s in enumerate([*sizes, LEAST_WRAP]) if i not in right)
        if size <= LEAST_WRAP:
            return
        sizes[widest] -= 1


def _broken(row: Sequence[Piece], sizes: Sequence[int]) -> Iterator[list[Piece]]:
    """A row as several where a text is longer than its column."""
    broken = [
        [text] if _length(text) <= size else textwrap.wrap(text, size)
        for (text, _), size in zip(row, sizes, strict=True)
    ]
    for texts in zip_longest(*broken, fillvalue=""):
        yield [(text, style) for text, (_, style) in zip(texts, row, strict=True)]


def _span(rows: Sequence[Sequence[Piece]], gap: int) -> int:
    """The columns that rows take, with the blank before them."""
    sizes = _sizes(rows)
    return 1 + sum(sizes) + gap * (len(sizes) - 1)


def _sizes(rows: Sequence[Sequence[Piece]]) -> list[int]:
    return [max(_length(text) for text, _ in column) for column in zip(*rows, strict=True)]


def _length(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
