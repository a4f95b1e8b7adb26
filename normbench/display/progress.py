"""Shows how far one run is, in one line.

The bar is rich's. Its `Progress` is not used: it cannot leave out what a narrow terminal has no
room for, and takes its times from its own clock, not from the steps of a run that goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from normbench.display.console import BARS, REDRAW_S, LiveDisplay, Terminal

if TYPE_CHECKING:
    from rich.progress import Progress as BarsOfRich
    from rich.progress import ProgressColumn
    from rich.text import Text

    from normbench.rows import Row, Value

PATIENCE_S = 0.5  # work that is done sooner is not shown


class Progress(LiveDisplay):
    """Shows the rows of one run: a bar on a terminal, elsewhere one line per validation."""

    redirects = True

    def __init__(self, terminal: Terminal, quiet: bool, total: int) -> None:
        super().__init__(terminal, quiet)
        self._total = total
        self._first: Row | None = None
        self._last: Row | None = None
        self._stage: Row | None = None  # the last row of a pre-training that goes on
        self._seen: dict[str, Value] = {}
        self._began = 0.0

    def row(self, row: Row) -> None:
        """Take in a row and show it."""
        now = monotonic()
        done, self._stage = self._stage, row if row.kind == "pretrain" else None
        if done and done.values.keys() != row.values.keys():
            self._plain_line(self._prepared(done))
        if self._stage is None:
            self._take(row, now)
        self.refresh(at_once=row.kind == "val")
        if row.kind == "val":
            self._plain_line(self._plain(row, now))

    def _take(self, row: Row, now: float) -> None:
        if self._first is None:
            self._first, self._began = row, now
        self._last = row
        self._seen.update(row.values)
        if row.values.get("state") == "finished":
            self._total = row.step  # at its target a run ends before its time

    def _prepared(self, row: Row) -> str:
        """Say what the pre-training of a layer came to."""
        ((name, loss),) = row.values.items()
        size = f"{loss:.3g}" if isinstance(loss, float) else "-"
        return f"{_stage(name)} examples={row.examples} loss={size}"

    def _plain(self, row: Row, now: float) -> str:
        loss = "train/loss" if "train/loss" in self._seen else "val/loss"
        left = self._left(now)
        words = {
            "epoch": f"{row.epoch:.4g}",
            "examples": str(row.examples),
            "loss": _loss(self._seen.get(loss)),
            "val": percent(self._seen.get("val/accuracy")),
            "eta": "-" if left is None else f"{left:.0f}s",
        }
        return " ".join(f"{word}={value}" for word, value in words.items() if value != "-")

    def _left(self, now: float) -> float | None:
        """Give the seconds to the end at the pace so far, None before there is a pace."""
        if self._first is None or self._last is None or self._last.step <= self._first.step:
            return None
        pace = (now - self._began) / (self._last.step - self._first.step)
        return pace * max(0, self._total - self._last.step)

    def _draw(self) -> Text:
        """Draw ` epoch 3/5 ━━╸━━ 61%  430 ex/s  eta 0:00:19  loss 0.184  val 95.2`, if it fits."""
        step = self._last.step if self._last else 0
        share = step / max(1, self._total)
        facts = self._facts(share, monotonic())
        return _bar_line(self._terminal, share, facts, ("speed", "loss", "epoch"))

    def _facts(self, share: float, now: float) -> dict[str, str]:
        """Give what stands in the line, each in a width that does not change."""
        passed = now - self._began if self._first else 0.0
        time = f"in  {clock(passed)}" if share >= 1 else f"eta {clock(self._left(now))}"
        return {
            "epoch": self._epoch(),
            "share": f"{math.floor(100 * share):3d}%",
            "speed": f"{self._speed(passed):>5} ex/s",
            "time": time,
            "loss": f"loss {_loss(self._seen.get('train/loss')):<5}",
            "val": f"val {percent(self._seen.get('val/accuracy')):<4}",
        }

    def _epoch(self) -> str:
        """Say which epoch is going on, of how many."""
        if self._stage is not None:
            return _stage(next(iter(self._stage.values)))
        if self._last is None or self._last.step == 0:
            return "epoch 1"
        epochs = math.ceil(self._last.epoch / self._last.step * self._total - 1e-4)
        return f"epoch {min(epochs, int(self._last.epoch) + 1)}/{epochs}"

    def _speed(self, passed: float) -> str:
        if self._first is None or self._last is None or passed <= 0:
            return "-"
        return f"{(self._last.examples - self._first.examples) / passed:.0f}"


@contextmanager
def transfer(terminal: Terminal, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on a live terminal how much of a download has come, without a thread.

    Args: name: of the file; total: its bytes.
    Yields: what is told how many bytes have come.
    """
    from rich import progress as rich

    with _bars(terminal, rich.DownloadColumn(), rich.TransferSpeedColumn()) as bars:
        yield _told(bars, name, total, 0.0)


@contextmanager
def work(terminal: Terminal, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on a live terminal how much of some work is done, if it lasts, and then no more.

    Yields: what is told how many of the `total` pieces are done.
    """
    bars = _bars(terminal, transient=True)
    try:
        yield _told(bars, what, total, monotonic() + PATIENCE_S)
    finally:
        bars.stop()


def _bars(terminal: Terminal, *columns: ProgressColumn, transient: bool = False) -> BarsOfRich:
    from rich import progress as rich

    return rich.Progress(
        rich.TextColumn(" {task.description}", markup=False),
        rich.BarColumn(BARS[1], style="dim", complete_style="cyan", finished_style="green"),
        *(rich.TaskProgressColumn(), *columns),
        rich.TimeRemainingColumn(elapsed_when_finished=True),
        console=terminal.console,
        auto_refresh=False,
        transient=transient,
    )


def _told(bars: BarsOfRich, what: str, total: int, start: float) -> Callable[[int], None]:
    """Give what is told how much is done, and draws it from the time `start` on."""
    task, drawn = bars.add_task(what, total=total), start

    def so_far(count: int) -> None:
        nonlocal drawn
        now = monotonic()
        if now >= start and (count == total or now - drawn >= REDRAW_S):
            drawn = now
            bars.update(task, completed=count)
            bars.start()
            bars.refresh()

    return so_far


def _bar_line(
    terminal: Terminal, share: float, facts: dict[str, str], least: Sequence[str]
) -> Text:
    """Draw a line of facts with a bar; until it fits, those of `least` are left out in their order.

    The last of `least` stands before the bar.
    """
    from rich.text import Text

    width, first = terminal.width or 80, least[-1]
    for name in least:
        if _room(facts, width) < BARS[0]:
            del facts[name]
    line = Text(no_wrap=True, overflow="crop")
    line.append(f" {facts.pop(first)}" if first in facts else "").append(" ")
    bar = min(BARS[1], max(BARS[0], _room(facts, width) - len(line)))
    line.append_text(terminal.bar(share, bar, "green" if share >= 1 else "cyan"))
    return line.append(" " + "  ".join(facts.values()))


def _stage(name: str) -> str:
    """Say what is pre-trained: `pretrain layer1` for `pretrain/layer1/loss`."""
    return " ".join(name.split("/")[:2])


def _room(facts: Mapping[str, str], width: int) -> int:
    """Count the columns that are left for a bar."""
    return width - 1 - sum(len(fact) + 2 for fact in facts.values())


def _loss(value: Value) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else "-"


def percent(value: Value) -> str:
    """Return a share in percent, `95.2`, or a dash if there is none."""
    return f"{100 * value:.1f}" if isinstance(value, float | int) else "-"


def clock(seconds: float | None) -> str:
    """Return `0:01:10`, or dashes of the same width."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
