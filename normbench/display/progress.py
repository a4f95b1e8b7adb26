"""Shows runs, sweeps and tables: progress and messages on stderr, results on stdout."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

from normbench.display.console import Terminal
from normbench.errors import NormbenchError, escaped

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from normbench.results.tables import Table
    from normbench.rows import Row, Value

REDRAW_S = 0.1  # between two drawings of something live
PLAIN_COLUMNS = 80  # of a picture where nothing says how many there are
BARS = (8, 28)  # columns of a bar, at least and at most
OPEN = ("planned", "running", "busy")  # states of a run that is still to come to something
WORDS = {"finished": "done", "planned": "waiting", "busy": "waiting"}  # states as they are shown
TONES = {"finished": "green", "diverged": "yellow", "failed": "red", "interrupted": "yellow"}


class Screen:
    """What a command says, and where: quiet, as JSON, in colour, on a terminal or not.

    Args: quiet: errors and the final result only; json: stdout takes one document and nothing
    else; color: None decides by terminal, `NO_COLOR`, `FORCE_COLOR` and `TERM`; stream: for
    progress and messages, stderr by default; out: for results, stdout by default.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        json: bool = False,
        color: bool | None = None,
        stream: TextIO | None = None,
        out: TextIO | None = None,
    ) -> None:
        self.quiet, self.json = quiet, json
        self._err = Terminal(stream or sys.stderr, color)
        self._out = Terminal(out or sys.stdout, color, vital=True)

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

    def table(self, table: Table) -> None:
        """Print a table as the result; nothing for JSON."""
        if not self.json:
            self._out.table(table)

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

        Args: labels: one line per run, as `report.labels` gives them; totals: steps per run.
        """
        cells = [_Cell(escaped(label), total) for label, total in zip(labels, totals, strict=True)]
        return SweepProgress(self._err, self.quiet, cells)

    @property
    def columns(self) -> int:
        """The columns that a picture of characters may take."""
        return self._out.width or PLAIN_COLUMNS

    def transfer(self, name: str, total: int) -> Transfer:
        """Follow a download of `total` bytes, to be told how many have come."""
        return Transfer(self._err, self.quiet, escaped(name), total)

    def _marked(self, text: str, style: str) -> None:
        """Print lines, and set off how those begin that name the program."""
        from rich.text import Text

        for line in text.splitlines():
            marked = Text(escaped(line))
            if line.startswith("normbench: "):
                marked.stylize(style, 0, line.index(": ", len("normbench: ")) + 1)
            self._err.line(marked)


class Progress:
    """Shows the rows of one run: a bar on a terminal, elsewhere one line per validation."""

    def __init__(self, terminal: Terminal, quiet: bool, total: int) -> None:
        self._terminal, self._quiet, self._total = terminal, quiet, total
        self._live: Live | None = None
        self._first: Row | None = None
        self._last: Row | None = None
        self._stage: Row | None = None  # the last row of a pre-training that goes on
        self._seen: dict[str, Value] = {}
        self._began = self._drawn = 0.0

    def __enter__(self) -> Progress:
        if self._terminal.live and not self._quiet:
            self._live = self._terminal.start(self._draw, redirect=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def row(self, row: Row) -> None:
        """Take in a row and show it."""
        now = monotonic()
        done, self._stage = self._stage, row if row.kind == "pretrain" else None
        if done and done.values.keys() != row.values.keys() and not (self._live or self._quiet):
            self._terminal.line(self._prepared(done))
        if self._stage is None:
            self._take(row, now)
        if self._live is not None:
            if row.kind == "val" or now - self._drawn >= REDRAW_S:
                self._drawn = now
                self._live.refresh()
        elif row.kind == "val" and not self._quiet:
            self._terminal.line(self._plain(row, now))

    def _take(self, row: Row, now: float) -> None:
        if self._first is None:
            self._first, self._began = row, now
        self._last = row
        self._seen.update(row.values)
        if row.values.get("state") == "finished":
            self._total = row.step  # at its target a run ends before its time

    def _prepared(self, row: Row) -> str:
        """What the pre-training of a layer came to."""
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
            "val": _percent(self._seen.get("val/accuracy")),
            "eta": "-" if left is None else f"{left:.0f}s",
        }
        return " ".join(f"{word}={value}" for word, value in words.items() if value != "-")

    def _left(self, now: float) -> float | None:
        """Seconds to the end at the pace so far, None before there is a pace."""
        if self._first is None or self._last is None or self._last.step <= self._first.step:
            return None
        pace = (now - self._began) / (self._last.step - self._first.step)
        return pace * max(0, self._total - self._last.step)

    def _draw(self) -> Text:
        """` epoch 3/5 ━━╸━━ 61%  430 ex/s  eta 0:00:19  loss 0.184  val 95.2`, if it fits."""
        step = self._last.step if self._last else 0
        share = step / max(1, self._total)
        facts = self._facts(share, monotonic())
        return _bar_line(self._terminal, share, facts, ("speed", "loss", "epoch"))

    def _facts(self, share: float, now: float) -> dict[str, str]:
        """What stands in the line, each in a width that does not change."""
        passed = now - self._began if self._first else 0.0
        time = f"in  {_clock(passed)}" if share >= 1 else f"eta {_clock(self._left(now))}"
        return {
            "epoch": self._epoch(),
            "share": f"{math.floor(100 * share):3d}%",
            "speed": f"{self._speed(passed):>5} ex/s",
            "time": time,
            "loss": f"loss {_loss(self._seen.get('train/loss')):<5}",
            "val": f"val {_percent(self._seen.get('val/accuracy')):<4}",
        }

    def _epoch(self) -> str:
        """The epoch that is going on, of how many."""
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


@dataclass
class _Cell:
    """One run of a sweep, as far as it is known."""

    label: str
    total: int
    state: str = "planned"
    note: str = ""
    step: int = 0
    accuracy: Value = None
    began: float | None = None
    took: float | None = None
    changed: int = 0  # when its state changed last, counted in news of the sweep

    def take(self, state: str, row: Row | None, note: str, now: float) -> None:
        """Take in what is new."""
        if state != self.state:
            if state == "running":
                self.began, self.step = now, 0
            elif self.state == "running" and self.began is not None:
                self.took = now - self.began
        self.state, self.note = state, escaped(note.strip().partition("\n")[0])
        if row is not None and row.kind != "pretrain":  # which has steps of its own
            self.step = row.step
            seen = row.values.get("test/accuracy", row.values.get("val/accuracy"))
            self.accuracy = self.accuracy if seen is None else seen

    @property
    def word(self) -> str:
        """The state in a word, or how far the run is."""
        if self.state == "running":
            return f"{100 * self.step // max(1, self.total)}%"
        return WORDS.get(self.state, self.state)

    @property
    def result(self) -> str:
        """The newest accuracy in percent, while it means something."""
        known = self.accuracy is not None and self.state in ("running", "finished")
        return _percent(self.accuracy) if known else ""

    def time(self, now: float) -> str:
        """How long it took, or what it takes still."""
        if self.state not in OPEN:
            return "" if self.took is None else f"    {_clock(self.took)}"
        if self.state != "running" or self.began is None or not self.step:
            return ""
        left = (now - self.began) / self.step * max(0, self.total - self.step)
        return f"eta {_clock(left)}"


class SweepProgress:
    """Shows the runs of a sweep: a live table on a terminal, elsewhere one line per run done."""

    def __init__(self, terminal: Terminal, quiet: bool, cells: Sequence[_Cell]) -> None:
        self._terminal, self._quiet, self._cells = terminal, quiet, cells
        self._live: Live | None = None
        self._began: float | None = None
        self._drawn = 0.0
        self._news = 0

    def __enter__(self) -> SweepProgress:
        if self._terminal.live and not self._quiet:
            self._live = self._terminal.start(self._draw, redirect=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def cell(self, i: int, state: str, row: Row | None = None, note: str = "") -> None:
        """Take in news of run `i` and show them.

        Args: state: as in `status.json`, or `planned`, `busy`; row: its newest; note: stands in
        place of the bar, such as `finished already` or the first line of an error.
        """
        cell, now = self._cells[i], monotonic()
        turned = state != cell.state
        cell.take(state, row, note, now)
        self._news += 1
        cell.changed = self._news if turned else cell.changed
        if state == "running" and self._began is None:
            self._began = now
        if self._live is not None:
            self._drawn = 0.0 if turned else self._drawn
            self.refresh()
        elif turned and state not in OPEN and not self._quiet:
            self._terminal.line(self._plain(i, now))

    def refresh(self) -> None:
        """Draw again if it is time to; to be called now and then, so that the times go on."""
        now = monotonic()
        if self._live is not None and now - self._drawn >= REDRAW_S:
            self._drawn = now
            self._live.refresh()

    def _plain(self, i: int, now: float) -> str:
        cell = self._cells[i]
        state = cell.word if cell.state != "finished" or not cell.note else ""
        words = [self._number(i), cell.label, state, cell.note, cell.time(now).strip(), cell.result]
        return "  ".join(filter(None, words))

    def _number(self, i: int) -> str:
        return f"[{i + 1}/{len(self._cells)}]"

    def _draw(self) -> Text:
        from rich.text import Text

        now, width = monotonic(), self._terminal.width or 80
        longest = max((len(cell.label) for cell in self._cells), default=0)
        room = width - len(self._number(len(self._cells) - 1)) - 34  # for label and bar
        label = max(8, min(longest, room - BARS[0]))
        bar = max(BARS[0], min(BARS[1], room - label))
        lines = [self._row(i, label, bar, now) for i in self._visible(self._terminal.height - 2)]
        return Text("\n", no_wrap=True, overflow="crop").join([*lines, self._totals(now)])

    def _row(self, i: int, label: int, bar: int, now: float) -> Text:
        """`[1/4] bn  batch 2   ━━━━━━━━ done          0:00:52    84.1`."""
        from rich.text import Text

        cell, cut = self._cells[i], self._terminal.cut
        tone = TONES.get(cell.state, "" if cell.state == "running" else "dim")
        last = len(self._number(len(self._cells) - 1))
        line = Text().append(self._number(i).rjust(last), "dim")
        line.append(f" {cut(cell.label, label)}  ", "dim" if tone == "dim" else "")
        if cell.note:
            state = "" if cell.state == "finished" else f"{cell.word}: "
            text = cut(state + cell.note, bar + 22)
            line.append(text, "dim" if cell.state == "finished" else tone)
        else:
            share = 1.0 if cell.state == "finished" else cell.step / max(1, cell.total)
            waits = cell.state in ("planned", "busy")
            drawn = self._terminal.bar(share, bar, tone or "cyan")
            line.append_text(Text(" " * bar) if waits else drawn)
            line.append(f" {cell.word:<9}", tone).append(f" {cell.time(now):<11}")
        return line.append(f"  {cell.result:>5}", "dim" if cell.state in OPEN else "")

    def _totals(self, now: float) -> Text:
        """`4 runs: 2 done, 1 failed, 1 running   eta 0:01:10`."""
        from rich.text import Text

        states = [WORDS.get(cell.state, cell.state) for cell in self._cells]
        order = dict.fromkeys(["done", "diverged", "failed", "running", *sorted(states)])
        words = [f"{states.count(word)} {word}" for word in order if word in states]
        line = f"{len(states)} runs: {', '.join(words)}   {self._time(now)}"
        return Text(line.rstrip(), "dim", no_wrap=True, overflow="crop")

    def _time(self, now: float) -> str:
        """What all takes still, by the steps made and to be made; in the end what it took."""
        if self._began is None:
            return ""
        passed = now - self._began
        made = sum(cell.step for cell in self._cells if cell.began is not None)
        left = sum(cell.total - cell.step for cell in self._cells if cell.state in OPEN)
        if not left:
            return f"in {_clock(passed)}"
        return f"eta {_clock(passed * left / made)}" if made else ""

    def _visible(self, height: int) -> list[int]:
        """The runs that fit, in their order: running, failed, ended last, next to come."""
        ranks = {"running": 0, "failed": 1, "planned": 3}

        def rank(i: int) -> tuple[int, int]:
            return ranks.get(self._cells[i].state, 2), -self._cells[i].changed

        return sorted(sorted(range(len(self._cells)), key=rank)[: max(1, height)])


class Transfer:
    """Shows how much of a download has come: a bar on a terminal, elsewhere a line at its start."""

    def __init__(self, terminal: Terminal, quiet: bool, name: str, total: int) -> None:
        self._terminal, self._quiet, self._name, self._total = terminal, quiet, name, total
        self._live: Live | None = None
        self._count, self._began, self._drawn = 0, monotonic(), 0.0

    def __enter__(self) -> Transfer:
        if self._quiet:
            return self
        if self._terminal.live:
            self._live = self._terminal.start(self._draw, redirect=True)
        else:
            self._terminal.line(f"downloading {self._name}, {self._total:,} bytes")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def so_far(self, count: int) -> None:
        """Take in how many bytes have come."""
        self._count, now = count, monotonic()
        if self._live and (count == self._total or now - self._drawn >= REDRAW_S):
            self._drawn = now
            self._live.refresh()

    def _draw(self) -> Text:
        """` cifar-10-binary.tar.gz ━━╸━━ 61%  104.2 MB  5.1 MB/s  eta 0:00:12`, if it fits."""
        passed = monotonic() - self._began
        share = self._count / self._total
        left = passed * (1 / share - 1) if share else None
        facts = {
            "name": self._name,
            "share": f"{math.floor(100 * share):3d}%",
            "size": f"{self._count / 1e6:.1f} MB",
            "speed": f"{self._count / 1e6 / max(passed, 1e-3):.1f} MB/s",
            "time": f"in  {_clock(passed)}" if share == 1 else f"eta {_clock(left)}",
        }
        return _bar_line(self._terminal, share, facts, ("speed", "size", "name"))


def _bar_line(
    terminal: Terminal, share: float, facts: dict[str, str], least: Sequence[str]
) -> Text:
    """A line of facts with a bar; those of `least` are left out, in their order, until it fits.

    The last of `least` stands before the bar.
    """
    from rich.text import Text

    width, first = terminal.width or 80, least[-1]
    for each in least:
        if _room(facts, width) < BARS[0]:
            del facts[each]
    line = Text(no_wrap=True, overflow="crop")
    line.append(f" {facts.pop(first)}" if first in facts else "").append(" ")
    bar = min(BARS[1], max(BARS[0], _room(facts, width) - len(line)))
    line.append_text(terminal.bar(share, bar, "green" if share >= 1 else "cyan"))
    return line.append(" " + "  ".join(facts.values()))


def _stage(name: str) -> str:
    """Say what is pre-trained: `pretrain layer1` for `pretrain/layer1/loss`."""
    return " ".join(name.split("/")[:2])


def _room(facts: Mapping[str, str], width: int) -> int:
    """The columns that are left for a bar."""
    return width - 1 - sum(len(fact) + 2 for fact in facts.values())


def _loss(value: Value) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else "-"


def _percent(value: Value) -> str:
    return f"{100 * value:.1f}" if isinstance(value, float | int) else "-"


def _clock(seconds: float | None) -> str:
    """`0:01:10`, or dashes of the same width."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _finite(value: Any) -> Any:
    """The same document with null for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
