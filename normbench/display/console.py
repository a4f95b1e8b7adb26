"""Writes lines, tables and live displays on one stream, in what it can show, and to its width."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from textwrap import TextWrapper
from time import monotonic
from typing import TYPE_CHECKING, Self, TextIO, cast

from normbench.errors import MachineError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text


GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)  # the reader or the terminal has left
STYLES = {"best": "bold", "diverged": "yellow", "failed": "red", "faint": "dim", "head": "dim"}
LEAST_WRAP = 16  # columns below which no line is wrapped
USUAL = 80  # columns of a terminal that has fewer than that
REDRAW_S = 0.1  # between two drawings of something live
BOUNDLESS = 1 << 20  # columns of a line that may be as long as it likes
BARS = (8, 28)  # columns of a bar, at least and at most


def between_words(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text into lines of `width` columns, the second and further ones indented."""
    whole = TextWrapper(
        width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return whole.wrap(text)


class Sink:
    """A stream whose reader may leave: what nobody can read any more is dropped.

    Args: vital: whether it matters that there is no space for what is written.
    """

    def __init__(self, stream: TextIO | None, vital: bool) -> None:
        self.stream, self.vital = stream, vital
        self.lost: str | None = None  # why there was no space
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
                self.lost = None if error.errno in GONE else error.strerror
                if self.vital and self.lost:
                    why = f"cannot be written: {self.lost}"
                    raise MachineError("output", why, "a place with space for it") from None
        return len(text)

    def flush(self) -> None:
        """Do nothing: every write is flushed."""

    def isatty(self) -> bool:
        """Tell whether the stream is a terminal."""
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

    @property
    def width(self) -> int | None:
        """Give the columns of the terminal, None where a line may be as long as it likes."""
        return self.console.width if self.live else None

    @property
    def plain(self) -> bool:
        """Tell whether the stream takes ASCII only."""
        return self.console.options.ascii_only

    @property
    def height(self) -> int:
        """Give the lines of the terminal."""
        return self.console.height

    @cached_property
    def console(self) -> Console:
        """Give what rich writes through: the 16 colours, which fit every theme, or none."""
        from rich.console import Console

        console = Console(
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
        if console.width < LEAST_WRAP:  # a terminal that does not know its size, or says nonsense
            console.width = USUAL
        return console

    def line(self, text: Text | str, style: str = "") -> None:
        """Write one line, however long."""
        self.console.print(text, style=style or None, soft_wrap=True)

    def wrapped(self, text: str, style: str = "") -> Iterator[Text]:
        """Break a line between words where the terminal is too narrow for it.

        A longer word, such as a path, is whole: what a terminal breaks itself can be copied.
        """
        from rich.text import Text

        pieces = [text]
        if self.width is not None:
            width = max(LEAST_WRAP, self.width)
            pieces = between_words(text, width, "  ") or [""]
        for piece in pieces:
            yield Text(piece, style)

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
        """Draw a bar of `width` columns filled by `share`."""
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(
            1.0, share, width, style="dim", complete_style=style, finished_style=style
        )
        text = Text.assemble(*((part.text, part.style or "") for part in self.console.render(bar)))
        text.pad_right(width - len(text))
        return text

    def cut(self, text: str, width: int) -> str:
        """Cut a text to `width` columns, and fill it up to them."""
        from rich.text import Text

        cut = Text(text)
        cut.truncate(width, overflow="crop" if self.plain else "ellipsis", pad=True)
        return cut.plain

    def _colored(self) -> bool:
        if os.environ.get("NO_COLOR"):
            return False
        return self.live or os.environ.get("FORCE_COLOR", "0") not in ("", "0")


class LiveDisplay:
    """Draws again what changes on a terminal; elsewhere lines are written one after the other.

    Args: quiet: whether nothing is shown at all.
    """

    redirects = False  # whether what others write on stderr is put above what is live

    def __init__(self, terminal: Terminal, quiet: bool) -> None:
        self._terminal, self._quiet = terminal, quiet
        self._live: Live | None = None
        self._last_drawn = 0.0

    def __enter__(self) -> Self:
        if self._terminal.live and not self._quiet:
            self._live = self._terminal.start(self._draw, self.redirects)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def refresh(self, at_once: bool = False) -> None:
        """Draw again if it is time to; to be called now and then, so that the times go on."""
        now = monotonic()
        if self._live is not None and (at_once or now - self._last_drawn >= REDRAW_S):
            self._last_drawn = now
            self._live.refresh()

    def _plain_line(self, text: str) -> None:
        """Write a line where nothing is live."""
        if self._live is None and not self._quiet:
            self._terminal.line(text)

    def _draw(self) -> Text:
        """Return what is to be seen."""
        raise NotImplementedError
