"""Shows how far the runs of a sweep are, a line for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import monotonic
from typing import TYPE_CHECKING

from normbench.display.console import BARS, BOUNDLESS, LiveDisplay, Terminal
from normbench.display.progress import clock, percent
from normbench.errors import counted, escaped

if TYPE_CHECKING:
    from rich.text import Text

    from normbench.rows import Row, Value

OPEN = ("planned", "running", "busy")  # states of a run that is still to come to something
WORDS = {"finished": "done", "planned": "waiting", "busy": "waiting"}  # states as they are shown
HEAD = "val, then test, %"  # of the last column
TONES = {"finished": "green", "diverged": "yellow", "failed": "red", "interrupted": "yellow"}


@dataclass
class RunLine:
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
        """Say the state in a word, or how far the run is."""
        if self.state == "running":
            return f"{100 * self.step // max(1, self.total)}%"
        return WORDS.get(self.state, self.state)

    @property
    def result(self) -> str:
        """Give the newest accuracy in percent, while it means something."""
        known = self.accuracy is not None and self.state in ("running", "finished")
        return percent(self.accuracy) if known else ""

    def time(self, now: float) -> str:
        """Say how long it took, or how long it still takes."""
        if self.state not in OPEN:
            return "" if self.took is None else f"    {clock(self.took)}"
        if self.state != "running" or self.began is None or not self.step:
            return ""
        left = (now - self.began) / self.step * max(0, self.total - self.step)
        return f"eta {clock(left)}"


class SweepProgress(LiveDisplay):
    """Shows the runs of a sweep: a live table on a terminal, elsewhere one line per run done."""

    def __init__(self, terminal: Terminal, quiet: bool, runs: Sequence[RunLine]) -> None:
        super().__init__(terminal, quiet)
        self._runs = runs
        self._began: float | None = None
        self._news = 0
        self._awaited: set[str] = set()  # processes that are waited for

    def update(self, i: int, state: str, row: Row | None = None, note: str = "") -> None:
        """Take in news of run `i` and show them.

        Args: state: as in `status.json`, or `planned`, `busy`; row: its newest; note: stands in
        place of the bar, such as `finished already` or the first line of an error.
        """
        run, now = self._runs[i], monotonic()
        turned = state != run.state
        run.take(state, row, note, now)
        self._news += 1
        run.changed = self._news if turned else run.changed
        if state == "running" and self._began is None:
            self._began = now
        self.refresh(at_once=turned)
        waits = state == "busy" and note not in self._awaited
        if waits:
            self._awaited.add(note)
        if waits or (turned and state not in OPEN):
            self._plain_line(self._plain(i, now))

    def _plain(self, i: int, now: float) -> str:
        run = self._runs[i]
        state = run.word if run.state != "finished" or not run.note else ""
        words = [self._number(i), run.label, state, run.note, run.time(now).strip(), run.result]
        return "  ".join(filter(None, words))

    def _number(self, i: int) -> str:
        return f"[{i + 1}/{len(self._runs)}]"

    def _draw(self) -> Text:
        from rich.text import Text

        cut, now, width = self._terminal.cut, monotonic(), self._terminal.width or 80
        room = width - len(self._number(len(self._runs) - 1)) - 34  # for label and bar
        labels, mark = [run.label for run in self._runs], "" if self._terminal.plain else "…"
        names = _shortened(labels, room - BARS[0], mark)
        least = BARS[0] if _distinct(names, room - BARS[0]) == _distinct(labels) else 0
        label = max(8, min(max(map(len, names), default=0), room - least))
        bar = max(least, min(BARS[1], room - label)) if least else 0
        visible = self._visible(self._terminal.height - 3)
        lines = [self._row(i, cut(names[i], label), bar, now) for i in visible]
        lines.insert(0, Text(HEAD.rjust(max(len(line) for line in lines)), "dim"))
        return Text("\n", no_wrap=True, overflow="crop").join([*lines, self._totals(now)])

    def _row(self, i: int, label: str, bar: int, now: float) -> Text:
        """Draw `[1/4] bn  batch 2   ━━━━━━━━ done          0:00:52    84.1`."""
        from rich.text import Text

        run, cut = self._runs[i], self._terminal.cut
        tone = TONES.get(run.state, "" if run.state == "running" else "dim")
        last = len(self._number(len(self._runs) - 1))
        line = Text().append(self._number(i).rjust(last), "dim")
        line.append(f" {label}  ", "dim" if tone == "dim" else "")
        if run.note:
            state = "" if run.state == "finished" else f"{run.word}: "
            text = cut(state + run.note, bar + 22)
            line.append(text, "dim" if run.state == "finished" else tone)
        else:
            share = 1.0 if run.state == "finished" else run.step / max(1, run.total)
            waits = run.state in ("planned", "busy")
            drawn = bar and self._terminal.bar(share, bar, tone or "cyan")
            line.append_text(drawn if drawn and not waits else Text(" " * bar))
            line.append(f" {run.word:<9}", tone).append(f" {run.time(now):<11}")
        return line.append(f"  {run.result:>5}", "dim" if run.state in OPEN else "")

    def _totals(self, now: float) -> Text:
        """Draw `4 runs: 2 done, 1 failed, 1 running   eta 0:01:10`."""
        from rich.text import Text

        states = [WORDS.get(run.state, run.state) for run in self._runs]
        order = dict.fromkeys(["done", "diverged", "failed", "running", *sorted(states)])
        words = [f"{states.count(word)} {word}" for word in order if word in states]
        line = f"{counted(len(states), 'run')}: {', '.join(words)}   {self._time(now)}"
        return Text(line.rstrip(), "dim", no_wrap=True, overflow="crop")

    def _time(self, now: float) -> str:
        """Say how long all runs still take, by their steps; in the end how long they took."""
        if self._began is None:
            return ""
        passed = now - self._began
        made = sum(run.step for run in self._runs if run.began is not None)
        left = sum(run.total - run.step for run in self._runs if run.state in OPEN)
        if not left:
            return f"in {clock(passed)}"
        return f"eta {clock(passed * left / made)}" if made else ""

    def _visible(self, height: int) -> list[int]:
        """List the runs that fit, in their order: running, failed, ended last, next to come."""
        ranks = {"running": 0, "failed": 1, "planned": 3}

        def rank(i: int) -> tuple[int, int]:
            return ranks.get(self._runs[i].state, 2), -self._runs[i].changed

        return sorted(sorted(range(len(self._runs)), key=rank)[: max(1, height)])


def _shortened(labels: Sequence[str], width: int, mark: str) -> list[str]:
    """Shorten labels that would be cut where they differ: keys go first, then ends of words.

    Args: mark: stands for such an end.
    """
    columns = [*zip_longest(*(re.split(" {2,}", label) for label in labels), fillvalue="")]
    values = [[text.rpartition(" ")[2] for text in column] for column in columns]
    beginnings = [[_begun(text, column, mark) for text in column] for column in values]
    for shorter in (labels, _joined(values), _joined(beginnings)):
        if _distinct(shorter, width) == _distinct(labels):
            break
    return [*shorter]


def _distinct(labels: Sequence[str], width: int = BOUNDLESS) -> int:
    """Count the labels that differ in their first `width` columns, of which a mark may take one."""
    return len({text[: width - (len(text) > width)] for text in labels})


def _begun(text: str, among: Sequence[str], mark: str) -> str:
    """Give as much of a text as tells it from others, three letters at least."""
    others = {other for other in among if other != text}
    least = next(
        (n for n in range(3, len(text)) if not any(other[:n] == text[:n] for other in others)),
        len(text),
    )
    return text if len(text) <= least + len(mark) else text[:least] + mark


def _joined(columns: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
