"""TensorBoard's view of a sweep: one run for each cell, the mean over its seeds with its bounds."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from normbench.errors import FileRefused, MachineError
from normbench.results import groups, metrics, stats
from normbench.results.distributions import t_quantile
from normbench.results.groups import Result
from normbench.rows import Row
from normbench.runs import tensorboard
from normbench.runs.columns import hparams
from normbench.runs.reader import EVENTS, METRICS, read_rows
from normbench.runtime import storage
from normbench.settings.schema import Config

if TYPE_CHECKING:
    import numpy as np

    from normbench.sweeps.plan import Sweep

FOLDER, KNOWN = "tensorboard", "cells.json"
EVERY_S = 10.0  # at least, between two refreshments of a sweep that goes on
SHARE = 0.05  # of the time, at most, that they take
KINDS = ("train", "val")  # of the rows that make curves
FIRST = "val/"  # TensorBoard sorts charts by name and opens those that come first:
LATER = "~"  # so this stands before the names of all others
LEVEL = 0.95
BOUNDS = {"lower": -1, "upper": 1}
SHOWN = ("val/accuracy", "val/loss", "~train/accuracy", "~train/loss", "~gap/accuracy")
NAME = 120  # characters of a run
Curves = dict[str, dict[int, float]]  # by tag: the values over examples or steps


class Cell(NamedTuple):
    """What one run of TensorBoard shows: the results of the seeds, and the config of the first."""

    results: list[Result]
    config: Config


class Board:
    """Writes the curves of a sweep's cells below its folder, and again where there is news.

    Args: folder: of the sweep; keys: those that vary.
    """

    def __init__(self, folder: Path, sweep: Sweep, keys: Sequence[str]) -> None:
        self.folder, self.sweep, self.keys = folder / FOLDER, sweep, keys
        self.due = time.monotonic() + EVERY_S
        self.read: dict[str, tuple[int, Curves]] = {}  # by run: the bytes that were read

    def refresh(self) -> None:
        """Write what is new if it is time to; to be called now and then."""
        if time.monotonic() < self.due:
            return
        start = time.monotonic()
        with suppress(MachineError):  # the runs matter more; the end says what is wrong
            self.write()
        now = time.monotonic()
        self.due = now + max(EVERY_S, (now - start) / SHARE)

    def write(self) -> Path:
        """Write the cells that have changed, and leave out what is no cell any more.

        Returns: the folder for TensorBoard.
        Raises: MachineError if the storage fails.
        """
        configs = {str(item.config.directory): item.config for item in self.sweep.items}
        cells = by_name(self.sweep.results(), self.keys, configs)
        known = self._known()
        news = {name: _state(cell.results) for name, cell in cells.items()}
        for name in known.keys() - news:
            _clear(self.folder / name)
        for name, state in news.items():
            if state and known.get(name) != state:
                self._cell(self.folder / name, cells[name])
        if known != news:
            storage.make_directory(self.folder)
            storage.write_atomic(self.folder / KNOWN, json.dumps(news, indent=1) + "\n")
        return self.folder

    def _known(self) -> dict[str, object]:
        """Read what was written when; nothing where that is not to be trusted."""
        with suppress(FileRefused):
            known = storage.read_json(self.folder / KNOWN, 2**24)
            if isinstance(known, dict) and all(name == _safe(name) for name in known):
                return known
        return {}

    def _cell(self, folder: Path, cell: Cell) -> None:
        """Write a cell anew, in a file behind those that it replaces."""
        seeds = [self._curves(result, cell.config.tb_axis) for result in cell.results]
        storage.make_directory(folder)
        before = [name for name in storage.names(folder) if name.startswith(EVENTS)]
        number = max(
            (int(found[0]) for name in before if (found := re.findall(r"\d+", name))), default=0
        )
        path = folder / f"{EVENTS}{number + 1:06d}.normbench"
        with closing(storage.Appended(path, 0)) as file:
            events = tensorboard.Events(file, "examples")
            about = [f"{result.name}  {result.state}" for result in cell.results]
            columns = {**hparams(cell.config), "seed": None}
            events.begin(columns, "\n".join(about), _charts(), metrics=_later(tensorboard.METRICS))
            for row in _means(seeds):
                events.add(row)
            events.end("finished")
        for name in before:
            storage.remove(folder / name)

    def _curves(self, result: Result, axis: str) -> Curves:
        """Read the curves of a run, unless they are known, and the values of its tests."""
        size = _size(result)
        if self.read.get(result.name, (-1, {}))[0] != size:
            rows: list[Row] = []
            with suppress(FileRefused):  # it has just started over
                rows = read_rows(Path(result.directory))
            self.read[result.name] = size, _by_tag(rows, axis)
        curves = dict(self.read[result.name][1])
        end = result.examples if axis == "examples" else result.steps
        for tag, value in result.final.items():
            if tag.startswith("test/") and isinstance(value, float):
                curves[tag] = {end: value}
        return curves


def by_name(
    results: Sequence[Result], keys: Sequence[str], configs: Mapping[str, Config]
) -> dict[str, Cell]:
    """Gather the runs of each cell under its name, such as `bn batch 2`.

    Args: keys: those that vary; configs: by the run's directory.
    """
    found: dict[groups.Key, list[Result]] = {}
    for result in results:
        if result.directory:
            found.setdefault(groups.values_of(result.settings, keys), []).append(result)
    named: dict[str, Cell] = {}
    for members in found.values():
        words = groups.labels_of(members[0].settings, keys, keys)
        usual = PurePath(members[0].directory).parent.name
        name = _safe(" ".join(filter(None, words)) or usual)
        while name in named:
            name += "'"
        named[name] = Cell(members, configs[members[0].directory])
    return named


def _by_tag(rows: Sequence[Row], axis: str) -> Curves:
    """Sort the numbers of rows by tag."""
    curves: Curves = {}
    for row in rows:
        if row.kind in KINDS:
            place = row.examples if axis == "examples" else row.step
            for tag, value in row.values.items():
                told = "/" in tag and not tag.startswith(tensorboard.CONSTANT)
                if told and isinstance(value, int | float):
                    curves.setdefault(tag, {})[place] = float(value)
    return curves


def _means(seeds: Sequence[Curves]) -> Iterator[Row]:
    """Yield a row for each place of the axis: means over the seeds there, and their bounds.

    A bound takes 3 seeds; it is that of Student's t, cut to the range of the metric.
    """
    import numpy as np

    rows: dict[int, dict[str, float]] = {}
    for tag in sorted({tag for curves in seeds for tag in curves}):
        curves = [each[tag] for each in seeds if tag in each]
        places = sorted({place for curve in curves for place in curve})
        values = np.array([[curve.get(place, math.nan) for place in places] for curve in curves])
        (name,) = _later([tag])
        for end, found in _bounded(values, metrics.of(tag).within).items():
            for place, value in zip(places, found.tolist(), strict=True):
                rows.setdefault(place, {})[f"{name} {end}".rstrip()] = value
    for place in sorted(rows):
        yield Row("val", place, place, 0.0, rows[place])


def _bounded(values: np.ndarray, within: tuple[float, float]) -> dict[str, np.ndarray]:
    """Give mean and bounds of values (seeds, places), nan where a seed has none or there are few.

    m -/+ t s / sqrt(n), as `stats.interval` has it.
    """
    import numpy as np

    counts = (~np.isnan(values)).sum(0)
    mean = np.nanmean(values, 0)
    found = {"": mean}
    if counts.max() >= stats.FEWEST:
        squares = np.nansum(np.square(values - mean), 0)
        factor = [
            t_quantile((1 + LEVEL) / 2, n - 1) / math.sqrt(n * (n - 1))
            if n >= stats.FEWEST
            else math.nan
            for n in counts.tolist()
        ]
        for end, sign in BOUNDS.items():
            found[end] = np.clip(mean + sign * np.sqrt(squares) * factor, *within)
    return found


def _later(tags: Sequence[str]) -> list[str]:
    return [tag if tag.startswith(FIRST) else f"{LATER}{tag}" for tag in tags]


def _charts() -> tensorboard.Charts:
    """Lay out the curves with their bounds; TensorBoard shows the last chart first."""
    band = tensorboard.Band
    title = f"mean over the seeds, {100 * LEVEL:.0f} % interval"
    return {title: {tag: band(tag, *(f"{tag} {end}" for end in BOUNDS)) for tag in reversed(SHOWN)}}


def _state(results: Sequence[Result]) -> list[list[object]]:
    """Say what a cell is made of; empty while nothing of it has been recorded."""
    found: list[list[object]] = [
        [result.name, result.evaluation, result.state, _size(result)] for result in results
    ]
    return found if any(state[-1] for state in found) else []


def _size(result: Result) -> int:
    with suppress(OSError):
        return (Path(result.directory) / METRICS).stat().st_size
    return 0


def _clear(folder: Path) -> None:
    """Remove a cell that the sweep does not have any more."""
    with suppress(FileRefused, OSError):
        for name in storage.names(folder):
            storage.remove(folder / name)
        folder.rmdir()


def _safe(name: str) -> str:
    """Make of a label the name of a folder."""
    return re.sub(r"[/\x00-\x1f\x7f]|^\.+", "_", name)[:NAME]
