"""Turns finished runs into tables, Markdown, CSV and plain documents; draws nothing itself."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from normbench import stats
from normbench.errors import shown
from normbench.options import written

Settings = Mapping[str, object]  # flat dotted keys: `norm`, `norm.groups`, `batch`, `seed`
Key = tuple[str, ...]  # the values of some keys, as written on a command line

PARTS = ("model", "norm", "init", "data", "optimizer")  # whose values say what they are
SEEDS = ("seed", "seeds")
COLUMNS = 6  # values of a key up to which they stand side by side
SEED_COLUMNS = 5  # seeds up to which each has a column
LISTED = 5  # messages of failed runs under a table
CLOSE = 2.0  # points within which a table shows two decimals
RESULTS = ("finished", "diverged")  # states of a run that has a result
STATES = ("failed", "interrupted", "running", "planned", "does not apply", "diverged", "finished")
STAR = "* better than every other in its column (Holm, 5 %)"
RISKY = ("=", "+", "-", "@")  # with these a spreadsheet takes a cell for a formula
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Result:
    """One run as recorded: its settings, how it ended, and the last value of each metric.

    Args: directory: of the run, `.../<name>/seed<k>`; state: as in `status.json`, or `does not
    apply`; final: by metric, None where it was not finite; classes: of the data set.
    """

    directory: str
    settings: Settings
    state: str
    final: Mapping[str, float | None] = field(default_factory=dict)
    message: str | None = None
    classes: int = 10

    @property
    def name(self) -> str:
        """The last two parts of the directory, which are the same under any root."""
        return "/".join(PurePath(self.directory).parts[-2:])

    @property
    def seed(self) -> int:
        """The seed by which runs are paired."""
        return int(str(self.settings.get("seed", 0)))

    def outcome(self, metric: str) -> stats.Outcome | None:
        """Give the value that counts, chance level if the run diverged, None without a result."""
        if self.state not in RESULTS:
            return None
        diverged = self.state == "diverged"
        if metric not in self.final and not diverged:
            return None
        return stats.outcome(self.final.get(metric), _chance(metric, self.classes), diverged)


@dataclass(frozen=True)
class Cell:
    """One cell as text, and what a screen may set it off as: best, diverged, failed, faint."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table as text: the first `labels` columns name a row, the others hold its values.

    Args: title: stands above the labels; head: one text per column; right: columns of numbers,
    set to the right; notes: lines below.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    labels: int = 1
    right: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def narrow(self) -> Table:
        """Give the table with one line per value, its columns one below the other as blocks."""
        rows = tuple(
            (Cell(self.head[column]), *row[: self.labels], row[column])
            for column in range(self.labels, len(self.head))
            for row in self.rows
        )
        notes = tuple(note.replace("in its column", "in its block") for note in self.notes)
        head = ("", *self.head[: self.labels], "")
        return replace(self, head=head, rows=rows, labels=self.labels + 1, notes=notes)


def swept(cells: Iterable[Settings], among: Sequence[str] | None = None) -> list[str]:
    """List the keys that vary over the cells of a sweep, without the seed.

    Args: cells: the settings of each; among: the keys to look at, in the order wanted, such as
    those of the command line. By default all keys, in order of appearance.
    """
    values: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in cell.items():
            values.setdefault(key, set()).add(written(value))
    order = values if among is None else dict.fromkeys(among)
    return [key for key in order if len(values.get(key, ())) > 1 and key not in SEEDS]


def label(key: str, value: object, keys: Sequence[str] = ()) -> str:
    """Say a setting in a table: `bn` for a part, `batch 2` or `groups 8` for the others.

    Args: keys: all that are shown; a last component shared by two of them is not enough.
    """
    text = shown(written(value))
    if key in PARTS:
        return text
    last = key.rpartition(".")[2]
    shared = [each for each in keys if each.rpartition(".")[2] == last]
    return f"{key if len(shared) > 1 else last} {text}"


def labels(cells: Sequence[Settings], keys: Sequence[str]) -> list[str]:
    """Say each cell of a sweep in one line, its settings below each other: `bn  batch 32`."""
    rows = [_labels(cell, keys) for cell in cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def table(results: Sequence[Result], keys: Sequence[str], metric: str = "test/accuracy") -> Table:
    """Lay out a metric by the swept keys: the last one across where it has at most 6 values.

    A cell is the mean over seeds in percent, with its 95 % interval from 3 seeds on. Diverged
    runs count at chance level. The star stands where a cell is better than every other in its
    column (paired t tests on the seeds in common, Holm, 5 %).

    Args: keys: the swept keys without the seed; with one key its values are rows, with none
    there is one row.
    Raises: ValueError if two runs of one cell have the same seed: a key is missing.
    """
    across = [keys[-1]] if len(keys) > 1 and _width(results, keys[-1]) <= COLUMNS else []
    down = [key for key in keys if key not in across]
    named = down or [key for key in ("model", "norm") if results and key in results[0].settings]
    heads, names, cells = _grid(results, across, named, keys)
    groups = [[_Group(cells.get((i, j), []), metric) for i in names] for j in heads]
    flat = [group for column in groups for group in column]
    columns = [_column(column, metric, _digits(flat, metric)) for column in groups]
    rows = tuple(
        (*map(Cell, name), *(column[i] for column in columns))
        for i, name in enumerate(names.values())
    )
    head = (*named, *(heads.values() if across else [_seed_count(flat)] * len(heads)))
    starred = any(cell.text.endswith("*") for column in columns for cell in column)
    notes = [STAR] * starred + _interval_notes(flat) + _chance_notes(flat, metric)
    notes += _failures(flat, keys)
    return Table(_title(metric), head, rows, len(named), frozenset(), tuple(notes))


def seeds(results: Sequence[Result]) -> Table:
    """Lay out the seeds of one configuration: test accuracy and train-eval gap, in percent.

    Each seed has a column up to 5 seeds, beyond that the lowest and the highest value have one.
    """
    results = sorted(results, key=lambda result: result.seed)
    single = [f"seed {each.seed}" for each in results]
    head = ["", *(single if len(results) <= SEED_COLUMNS else ["lowest", "highest"])]
    accuracy = _Group(results, "test/accuracy")
    notes = _chance_notes([accuracy], "test/accuracy") + _failures([accuracy], [])
    if len(results) > 1:
        head += ["mean", "95 % interval"]
        few = [note for note in _interval_notes([accuracy]) if note.startswith("too few")]
        notes = few + notes
    rows = (_seeds_row(accuracy, ".{}f"), _seeds_row(_Group(results, "gap/accuracy"), "+.{}f"))
    return Table("", tuple(head), rows, 1, frozenset(range(1, len(head))), tuple(notes))


def runs(results: Sequence[Result], metric: str = "test/accuracy") -> list[dict[str, object]]:
    """Give one plain document per configuration, its seeds side by side, numbers unrounded."""
    folders: dict[str, list[Result]] = {}
    for result in results:
        folders.setdefault(str(PurePath(result.directory).parent), []).append(result)
    return [_document(folder, _Group(found, metric)) for folder, found in folders.items()]


def markdown(table: Table) -> str:
    """Write a table as Markdown; text of the user cannot become markup."""
    lines = [table.title, ""] if table.title else []
    head = [*map(_plain, table.head[: table.labels]), *map(_plain, table.head[table.labels :])]
    marks = ["---:" if i in table.right else "---" for i in range(len(head))]
    rows = [[_plain(" ".join(cell.text.split())) for cell in row] for row in table.rows]
    lines += [f"| {' | '.join(cells)} |" for cells in [head, marks, *rows]]
    lines += ["", *(f"- {_plain(note)}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def csv(results: Sequence[Result], keys: Sequence[str]) -> str:
    """Write one line per run, sorted by name, with plain numbers: accuracy as a fraction.

    The same results give the same bytes. A text that a spreadsheet would take for a formula
    stands behind an apostrophe.
    """
    from csv import writer

    metrics = sorted({metric for result in results for metric in result.final})
    out = io.StringIO()
    lines = writer(out, lineterminator="\n")
    lines.writerow(map(_csv_cell, ["run", *keys, "seed", "state", *metrics, "message"]))
    for result in sorted(results, key=lambda result: (result.name, result.directory)):
        settings = [result.settings.get(key, "") for key in keys]
        values = [result.final.get(metric) for metric in metrics]
        row = [result.name, *settings, result.seed, result.state, *values, result.message]
        lines.writerow(map(_csv_cell, row))
    return out.getvalue()


class _Group:
    """The runs of one cell of a table, by seed."""

    def __init__(self, results: Iterable[Result], metric: str) -> None:
        self.results: list[Result] = []
        self.outcomes: dict[int, stats.Outcome] = {}
        for result in sorted(results, key=lambda each: each.seed):
            if result in self.results:
                continue  # listed by two sweeps
            if result.seed in self.outcomes:
                raise ValueError(f"two runs of one cell have seed {result.seed}: {result.directory}")
            self.results.append(result)
            found = result.outcome(metric)
            if found is not None:
                self.outcomes[result.seed] = found

    @property
    def values(self) -> dict[int, float]:
        """The values that count, by seed."""
        return {seed: each.value for seed, each in self.outcomes.items()}

    @property
    def mean(self) -> float | None:
        """The mean of the values, None where there is none."""
        return stats.mean(list(self.values.values())) if self.outcomes else None

    @property
    def interval(self) -> stats.Interval | None:
        """The 95 % interval of the mean, None below 3 values."""
        return stats.interval(list(self.values.values()))

    @property
    def diverged(self) -> int:
        """How many of the values stand in for runs that diverged."""
        return sum(each.diverged for each in self.outcomes.values())

    @property
    def state(self) -> str:
        """The state most in need of being seen."""
        found = {result.state for result in self.results}
        return next((state for state in STATES if state in found), "missing")


def _chance(metric: str, classes: int) -> float:
    if metric.startswith("gap/"):
        return 0.0
    return math.log(classes) if metric.endswith("loss") else 1 / classes


def _percent(metric: str) -> bool:
    return metric.endswith("accuracy")


def _title(metric: str) -> str:
    name = "train-eval gap" if metric == "gap/accuracy" else metric.replace("/", " ")
    return f"{name}, %" if _percent(metric) else name


def _key(settings: Settings, keys: Sequence[str]) -> Key:
    return tuple(written(settings[key]) if key in settings else "" for key in keys)


def _width(results: Sequence[Result], key: str) -> int:
    return len({_key(result.settings, [key]) for result in results})


def _labels(settings: Settings, keys: Sequence[str], among: Sequence[str]) -> Key:
    return tuple(label(key, settings[key], among) if key in settings else "" for key in keys)


def _grid(
    results: Sequence[Result], across: Sequence[str], down: Sequence[str], keys: Sequence[str]
) -> tuple[dict[Key, str], dict[Key, Key], dict[tuple[Key, Key], list[Result]]]:
    """Heads of the columns, names of the rows, and the runs by row and column."""
    heads: dict[Key, str] = {}
    names: dict[Key, Key] = {}
    cells: dict[tuple[Key, Key], list[Result]] = {}
    for result in results:
        row, column = _key(result.settings, down), _key(result.settings, across)
        heads[column] = "".join(_labels(result.settings, across, keys))
        names[row] = _labels(result.settings, down, keys)
        cells.setdefault((row, column), []).append(result)
    return heads, names, cells


def _digits(groups: Sequence[_Group], metric: str) -> int:
    """Decimals of a table: two where one would hide the differences."""
    if not _percent(metric):
        return 3
    means = [group.mean for group in groups if group.mean is not None]
    return 2 if means and max(means) - min(means) < CLOSE else 1


def _column(groups: Sequence[_Group], metric: str, digits: int) -> list[Cell]:
    """The cells of a column, their numbers below each other."""
    best = None
    if not metric.startswith("gap/"):
        column = {i: group.values for i, group in enumerate(groups)}
        best = stats.best_of(column, largest=_percent(metric))
    numbers = [_numbers(group, metric, digits) for group in groups]
    widths = [max(map(len, texts)) for texts in zip(*numbers, strict=True)]
    return [
        _cell(group, [*map(str.rjust, texts, widths)], i == best)
        for i, (group, texts) in enumerate(zip(groups, numbers, strict=True))
    ]


def _numbers(group: _Group, metric: str, digits: int) -> tuple[str, str, str]:
    """Mean and bounds as text, empty where there is none."""
    scale, found = 100 if _percent(metric) else 1, group.interval
    bounds = (None, None) if found is None else (found.low, found.high)
    numbers = [
        "" if value is None else f"{value * scale:.{digits}f}" for value in (group.mean, *bounds)
    ]
    return numbers[0], numbers[1], numbers[2]


def _cell(group: _Group, numbers: Sequence[str], best: bool) -> Cell:
    if not group.outcomes:
        state = "missing" if group.state in RESULTS else group.state
        return Cell(state, "failed" if state == "failed" else "faint")
    mean, low, high = numbers
    without = [each.state for each in group.results if each.seed not in group.outcomes]
    text = f"{mean} [{low}, {high}]" if low.strip() else mean
    if group.diverged:
        text += " diverged" if len(group.outcomes) == 1 else f" {group.diverged} diverged"
    for state in dict.fromkeys(without):
        text += f" {without.count(state)} {state}"
    style = "failed" if "failed" in without else "diverged" if group.diverged else ""
    return Cell(f"{text} *", style or "best") if best else Cell(text, style)


def _counts(groups: Sequence[_Group]) -> list[int]:
    """The numbers of seeds of the cells that have a value."""
    return [len(group.outcomes) for group in groups if group.outcomes]


def _seed_count(groups: Sequence[_Group]) -> str:
    """What stands above the only column of values."""
    counts = _counts(groups)
    found = {seed for group in groups for seed in group.outcomes}
    if set(counts) == {1}:
        return f"seed {found.pop()}" if len(found) == 1 else "one seed"
    return f"{_span(counts)} seeds" if counts else ""


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _interval_notes(groups: Sequence[_Group]) -> list[str]:
    """Say over how many seeds the intervals are, and where there are too few for one."""
    counts = _counts(groups)
    enough = [count for count in counts if count >= stats.FEWEST]
    few = [count for count in counts if count < stats.FEWEST]
    notes = [f"mean and 95 % interval of {_span(enough)} seeds"] if enough else []
    if few:
        where = f" in {len(few)} of {len(counts)} cells" if enough else ""
        notes.append(f"too few seeds for an interval{where}: {_span(few)}, {stats.FEWEST} give one")
    return notes


def _chance_notes(groups: Sequence[_Group], metric: str) -> list[str]:
    """Say what stands in for diverged runs."""
    levels = {
        each.value for group in groups for each in group.outcomes.values() if each.diverged
    }
    scale, digits = (100, 1) if _percent(metric) else (1, 3)
    chance = " or ".join(f"{level * scale:.{digits}f}" for level in sorted(levels))
    return [f"diverged runs count as chance, {chance}"] if levels else []


def _failures(groups: Sequence[_Group], keys: Sequence[str]) -> list[str]:
    """The first line of the message of each run that failed or does not apply."""
    lines: dict[str, None] = {}
    for result in (each for group in groups for each in group.results):
        if result.state in ("failed", "does not apply"):
            where = list(filter(None, _labels(result.settings, keys, keys)))
            if result.state == "failed":
                where.append(f"seed {result.seed}")
            why = shown((result.message or "no message").strip().partition("\n")[0])
            lines["  ".join([f"{result.state}:", *where]) + f": {why}"] = None
    more = len(lines) - LISTED
    return [*lines][:LISTED] + ([f"and {more} more of this kind"] if more > 0 else [])


def _seeds_row(group: _Group, form: str) -> tuple[Cell, ...]:
    values = [value * 100 for value in group.values.values()]
    digits = 2 if form == ".{}f" and values and max(values) - min(values) < CLOSE * 100 else 1

    def points(value: float) -> str:
        text = format(value, form.format(digits))
        return text.lstrip("+-") if float(text) == 0 else text

    name = Cell(_title(group.metric).removesuffix(", %"))
    if len(group.results) > SEED_COLUMNS:
        cells = [Cell(points(limit(values)) if values else "-") for limit in (min, max)]
    else:
        cells = [_seed_cell(each, group.outcomes.get(each.seed), points) for each in group.results]
    if len(group.results) < 2:
        return name, *cells
    mean = points(stats.mean(values)) if values else "-"
    found = stats.interval(values) if any(values) else None
    return name, *cells, Cell(mean), Cell(f"{points(found.low)} .. {points(found.high)}" if found else "")

def _document(directory: str, group: Sequence[Result], metric: str) -> dict[str, object]:
    group = sorted(group, key=lambda result: result.seed)
    values = list(_Group(group).values(metric).values())
    scale = _scale(metric)
    plain = [value / scale for value in values]
    found = stats.interval(plain)
    return {
        "dir": directory,
        "state": next((s for s in STATES if s in {each.state for each in group}), group[0].state),
        "config": {key: value for key, value in group[0].settings.items() if key not in SEEDS},
        "seeds": [
            {"seed": each.seed, "state": each.state, "final": each.final, "message": each.message}
            for each in group
        ],
        "mean": stats.mean(plain) if plain else None,
        "interval": [found.low, found.high] if found else None,
    }


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would take for markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", text)


def _csv_cell(value: object) -> str:
    """A value as text that a spreadsheet does not run."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = shown(written(value))
    return f"'{text}" if text.startswith(RISKY) and not NUMBER.fullmatch(text) else text
