"""Shows runs, sweeps and tables: progress and messages on stderr, results on stdout."""

from __future__ import annotations

import json
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from normbench.display.console import BOUNDLESS, STYLES, Terminal
from normbench.display.progress import Progress, transfer, work
from normbench.display.sweep_progress import RunLine, SweepProgress
from normbench.errors import NormbenchError, escaped

if TYPE_CHECKING:
    from rich.text import Text

    from normbench.results.tables import Table

PLAIN_COLUMNS = 80  # of a picture where nothing says how many there are


class Screen:
    """What a command says, and where: quiet, as JSON, in colour, on a terminal or not.

    Args: quiet: errors and the final result only; json: stdout takes one document and nothing
    else; color: None decides by terminal, `NO_COLOR`, `FORCE_COLOR` and `TERM`; stream: for
    progress and messages, stderr by default; out: for results, stdout by default; vital: whether
    it is an error that there is no space for the results.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        json: bool = False,
        color: bool | None = None,
        stream: TextIO | None = None,
        out: TextIO | None = None,
        vital: bool = True,
    ) -> None:
        self.quiet, self.json = quiet, json
        self._err = Terminal(stream or sys.stderr, color)
        self._out = Terminal(out or sys.stdout, color, vital)

    def heading(self, lines: Sequence[str]) -> None:
        """Print the first lines of a command; nothing if quiet."""
        for place, line in enumerate([] if self.quiet else lines):
            for piece, text in enumerate(self._err.wrapped(escaped(line))):
                if place == piece == 0:
                    text.stylize("bold", 0, len(line.partition("  ")[0]))
                self._err.line(text)

    def note(self, line: str) -> None:
        """Print a line that is good to know; nothing if quiet."""
        for text in [] if self.quiet else self._err.wrapped(escaped(line), "dim"):
            self._err.line(text)

    def command(self, line: str) -> None:
        """Print a command to paste, in one piece however long; nothing if quiet."""
        if not self.quiet:
            self._err.line(escaped(line), "dim")

    def loading(self, what: str) -> None:
        """Say that something takes a while to load; nothing if quiet."""
        dots = "..." if self._err.plain else "…"
        self.note(f"loading {what} {dots}")

    def warn(self, text: str) -> None:
        """Print a warning, in the form of the errors; nothing if quiet."""
        if not self.quiet:
            self._marked(f"normbench: warning: {text}", "yellow")

    def error(self, error: NormbenchError, verbose: bool = False) -> None:
        """Print what is wrong and what would work, after the trace if verbose."""
        if verbose:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._err.line(escaped(line), "dim")
        self._marked(str(error), "bold red")

    def text(self, text: str) -> None:
        """Print a text as the result; nothing for JSON."""
        self.lines(text.splitlines())

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines as the result; nothing for JSON."""
        for line in [] if self.json else lines:
            self._out.line(escaped(line))

    def statement(self, line: str, style: str = "") -> None:
        """Print a sentence as the result, in one of the styles of cells; nothing for JSON."""
        for text in [] if self.json else self._out.wrapped(escaped(line), STYLES.get(style, "")):
            self._out.line(text)

    def prose(self, text: str) -> None:
        """Print paragraphs as the result; where their lines are too long they are broken anew."""
        if max(map(len, text.splitlines()), default=0) > (self._out.width or BOUNDLESS):
            text = re.sub(r"(?<!\n)\n(?!\n|[A-Z][a-z]+: ) *", " ", text)
        for line in text.splitlines():
            self.statement(line)

    def table(self, table: Table) -> None:
        """Print a table as the result; nothing for JSON."""
        if not self.json:
            from normbench.display import tabular  # imports rich

            tabular.write(self._out, table)

    def document(self, content: Mapping[str, Any]) -> None:
        """Print the one document of JSON, what is not finite as null; nothing if not for JSON.

        Args: content: `command` and its result; `schema` is added.
        """
        if self.json:
            self._out.line(json.dumps(_finite({"schema": 1, **content}), indent=2))

    def progress(self, total_steps: int) -> Progress:
        """Follow one run, to be told each of its rows."""
        return Progress(self._err, self.quiet, total_steps)

    def sweep(self, labels: Sequence[str], totals: Sequence[int]) -> SweepProgress:
        """Follow the runs of a sweep; starts no thread, so that the caller may fork.

        Args: labels: one line per run, as `describe.labels` gives them; totals: steps per run.
        """
        lines = [
            RunLine(escaped(label), steps) for label, steps in zip(labels, totals, strict=True)
        ]
        return SweepProgress(self._err, self.quiet, lines)

    @property
    def lost(self) -> str | None:
        """Say why results could not be written."""
        return self._out.sink.lost

    @property
    def live(self) -> bool:
        """Tell whether someone watches: progress goes to a terminal."""
        return self._err.live

    @property
    def columns(self) -> int:
        """Give the columns that a picture of characters may take."""
        return self._out.width or PLAIN_COLUMNS

    @contextmanager
    def transfer(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Follow a download: a bar on a terminal, elsewhere a line at its start.

        Args: name: of the file; total: its bytes.
        Yields: what is told how many bytes have come.
        """
        if self._err.live and not self.quiet:
            with transfer(self._err, escaped(name), total) as so_far:
                yield so_far
        else:
            if not self.quiet:
                self._err.line(f"downloading {escaped(name)}, {total:,} bytes")
            yield lambda count: None

    @contextmanager
    def work(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Follow work that may take long: a bar on a terminal, nothing elsewhere.

        Yields: what is told how many of `total` pieces are done.
        """
        if self._err.live and not self.quiet:
            with work(self._err, escaped(what), total) as so_far:
                yield so_far
        else:
            yield lambda done: None

    def _marked(self, text: str, style: str) -> None:
        """Print lines, and set off how those begin that name the program."""
        for line in map(escaped, text.splitlines()):
            fix, gap, about = line.partition("    (")
            pieces: list[Text | str] = [line]
            if head := re.match("normbench: [^:]*:", line):
                first, *rest = self._err.wrapped(line)
                first.stylize(style, 0, head.end())
                pieces = [first, *rest]
            elif gap and len(line) > (self._err.width or BOUNDLESS):
                pieces = [fix, *self._err.wrapped(gap + about)]  # what is to be copied is whole
            for piece in pieces:
                self._err.line(piece)


def _finite(value: Any) -> Any:
    """Return the same document with null for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
