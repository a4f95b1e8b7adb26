"""Turns recorded runs into tables, Markdown, CSV and plain documents; draws nothing itself."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from normbench.errors import shown
from normbench.parts.options import written
from normbench.results import stats

Settings = Mapping[str, object]  # flat dotted keys: `norm`, `norm.groups`, `batch`, `seed`
Key = tuple[str, ...]  # the values of some keys, as written on a command line

PARTS = ("model", "norm", "init", "data", "optimizer")  # their values say what they are
SEEDS = ("seed", "seeds")
COLUMNS = 6  # values of a key up to which they stand side by side
SEED_COLUMNS = 5  # seeds up to which each has a column
LISTED = 5  # messages of failed runs under a table
CLOSE = 2.0  # points within which one decimal would hide the differences
RESULTS = ("finished", "diverged")  # states of a run that has a result
STATES = ("failed", "interrupted", "running", "planned", "does not apply", *reversed(RESULTS))
STAR = "* better than every other in its column (Holm, 5 %)"
RISKY = ("=", "+", "-", "@")  # with these a spreadsheet takes a cell for a formula
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Result:
    """One run as recorded: its settings, how it ended, and the last value of each metric.

    Args: directory: of the run, `.../<name>/seed<k>`; state: as in `status.json`, or `does not
    apply`; final: by metric, None where it was not finite; classes: of the data set; target: the
    validation accuracy that ends the run; length: its examples, if nothing does; train_s: seconds
    of training; tests: names of the tests beside that of the test set as it is.
    """

    directory: str
    settings: Settings
    state: str
    final: Mapping[str, float | None] = field(default_factory=dict)
    message: str | None = None
    classes: int = 10
    target: float | None = None
    length: int = 0
    train_s: float | None = None
    tests: Sequence[str] = ()

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
        diverged = self.state == "diverged"
        if diverged or (self.state in RESULTS and metric in self.final):
            chance = _chance(metric, self.classes)
            return stats.outcome(self.final.get(metric), chance, diverged)
        return None


@dataclass(frozen=True)
class Cell:
    """One cell as text, and what a screen may set it off as: best, diverged, failed, faint."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table as text: the first `labels` columns name a row, the others hold its values.

    Args: title: stands above the labels; head: one text per column; right: columns set to the
    right; notes: lines below.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    labels: int = 1
    right: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def narrow(self) -> Table:
        """Give the table with one value per line: its columns become blocks of rows."""
        rows = tuple(
            (Cell("" if place else self.head[column]), *row[: self.labels], row[column])
            for column in range(self.labels, len(self.head))
            for place, row in enumerate(self.rows)
        )
        head = ("", *self.head[: self.labels], "")
        notes = tuple(note.replace("in its column", "in its block") for note in self.notes)
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

    Args: keys: all that are shown; where two share their last component it is not enough.
    """
    text = shown(written(value))
    if key in PARTS:
        return text
    last = key.rpartition(".")[2]
    shared = sum(each.rpartition(".")[2] == last for each in keys) > 1
    return f"{key if shared else last} {text}"


def labels(cells: Sequence[Settings], keys: Sequence[str]) -> list[str]:
    """Say each cell of a sweep in one line, their settings below each other: `bn  batch 32`."""
    rows = [_labels(cell, keys, keys) for cell in cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def table(results: Sequence[Result], keys: Sequence[str], metric: str = "test/accuracy") -> Table:
    """Lay out a metric by the swept keys: the last one across where it has at most 6 values.

    A cell is the mean over seeds in percent, with its 95 % interval from 3 seeds on. Diverged
    runs count at chance level. The star stands where a cell is better than every other in its
    column (paired t tests on the seeds in common, Holm, 5 %).

    Args: keys: the swept keys without the seed; with one key its values are rows, with none
    there is one row. metric: where it is that of a further test, only runs that have it are shown.
    Raises: ValueError if two runs of one cell have the same seed: a key is missing.
    """
    for test in metric.split("/", 2)[2:]:
        results = [each for each in results if test in each.tests]
    last = list(keys[-1:])
    wide = len(keys) > 1 and len({_key(each.settings, last) for each in results}) <= COLUMNS
    across, down = (last, list(keys[:-1])) if wide else ([], list(keys))
    down = down or [key for key in ("model", "norm") if results and key in results[0].settings]
    heads, names, cells = _grid(results, across, down, keys)
    columns = [[_Group(cells.get((row, head), []), metric) for row in names] for head in heads]
    groups = [group for column in columns for group in column]
    filled = [_column(column, metric, _digits(groups, metric)) for column in columns]
    rows = tuple(
        (*map(Cell, name), *cells) for name, *cells in zip(names.values(), *filled, strict=True)
    )
    head = (*down, *(heads.values() if wide else [_seed_count(groups)] * len(heads)))
    starred = any(cell.text.endswith("*") for column in filled for cell in column)
    notes = [STAR] * starred + _notes(groups, metric, keys)
    return Table(_title(metric), head, rows, len(down), frozenset(), tuple(notes))


def further(results: Sequence[Result]) -> list[str]:
    """List the accuracies of further tests, such as `test/accuracy/invert`, by name and number."""
    names = {name for result in results for name in result.tests}
    return [f"test/accuracy/{name}" for name in sorted(names, key=_in_order)]


def seeds(results: Sequence[Result]) -> Table:
    """Lay out the seeds of one configuration: test accuracies and train-eval gap, in percent.

    Each seed has a column up to 5 seeds, beyond that the lowest and the highest value have one.
    """
    metrics = ("test/accuracy", *further(results), "gap/accuracy")
    accuracy, *_ = groups = [_Group(results, metric) for metric in metrics]
    each = [f"seed {result.seed}" for result in accuracy.results]
    head = ["", *(each if len(each) <= SEED_COLUMNS else ["lowest", "highest"])]
    if len(each) > 1:
        head += ["mean", "95 % interval"]
    values = [100 * value for value in accuracy.values]
    digits = 2 if values and max(values) - min(values) < CLOSE else 1
    forms = [f".{digits}f"] * (len(groups) - 1) + [f"+.{digits}f"]
    rows = tuple(
        (Cell(_name(group.metric)), *_across(group, form, len(head) - 1))
        for group, form in zip(groups, forms, strict=True)
    )
    dull = ("mean",) if len(each) > 1 else ("mean", "too few")  # the columns say it
    notes = [note for note in _notes([accuracy], accuracy.metric, []) if not note.startswith(dull)]
    return Table("", tuple(head), rows, 1, frozenset(range(1, len(head))), tuple(notes))


def runs(results: Sequence[Result], metric: str = "test/accuracy") -> list[dict[str, object]]:
    """Give one plain document per configuration, its seeds together, numbers as fractions."""
    folders: dict[str, list[Result]] = {}
    for result in results:
        folders.setdefault(str(PurePath(result.directory).parent), []).append(result)
    return [_document(folder, _Group(found, metric)) for folder, found in folders.items()]


def markdown(table: Table) -> str:
    """Write a table as Markdown; text of the user cannot become markup."""
    marks = ["---:" if i in table.right else "---" for i in range(len(table.head))]
    rows = [
        [_plain(cell.text) if i < table.labels else _piece(cell.text) for i, cell in enumerate(row)]
        for row in table.rows
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in [list(map(_plain, table.head)), marks, *rows]]
    title = [_plain(table.title), ""] if table.title else []
    notes = ["", *(f"- {_plain(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([*title, *lines, *notes]) + "\n"


def csv(results: Sequence[Result], keys: Sequence[str]) -> str:
    """Write one line per run, sorted by name, with plain numbers: accuracy as a fraction.

    The same results give the same bytes.
    """
    metrics = sorted({metric for result in results for metric in result.final})
    rows: list[list[object]] = [["run", *keys, "seed", "state", *metrics, "message"]]
    for result in sorted(results, key=lambda result: (result.name, result.directory)):
        settings = [result.settings.get(key, "") for key in keys]
        values = [result.final.get(metric) for metric in metrics]
        rows.append([result.name, *settings, result.seed, result.state, *values, result.message])
    return lines(rows)


def lines(rows: Iterable[Sequence[object]]) -> str:
    """Write rows as CSV; what a spreadsheet would take for a formula is behind an apostrophe."""
    from csv import writer

    out = io.StringIO()
    writer(out, lineterminator="\n").writerows(map(_csv_cell, row) for row in rows)
    return out.getvalue()


class _Group:
    """The runs of one cell of a table, in the order of their seeds, and what they say together."""

    def __init__(self, results: Iterable[Result], metric: str) -> None:
        self.metric = metric
        self.results: list[Result] = []
        self.outcomes: dict[int, stats.Outcome] = {}
        for result in sorted(results, key=lambda each: each.seed):
            if result in self.results:
                continue  # listed by two sweeps
            if result.seed in self.outcomes:
                raise ValueError(f"two runs of one cell have seed {result.seed}: {result.name}")
            self.results.append(result)
            found = result.outcome(metric)
            if found is not None:
                self.outcomes[result.seed] = found
        self.values = [each.value for each in self.outcomes.values()]
        self.mean = stats.mean(self.values) if self.values else None
        self.interval = stats.interval(self.values)
        self.diverged = sum(each.diverged for each in self.outcomes.values())
        states = [result.state for result in self.results]
        self.state = min(states, key=_rank, default="missing")


def _chance(metric: str, classes: int) -> float:
    if metric.startswith("gap/"):
        return 0.0
    return math.log(classes) if _quantity(metric) == "loss" else 1 / classes


def _rank(state: str) -> int:
    return STATES.index(state) if state in STATES else 0


def _percent(metric: str) -> bool:
    return _quantity(metric) == "accuracy"


def _quantity(metric: str) -> str:
    """What is measured: the second word of `test/accuracy/invert`."""
    return metric.split("/")[:2][-1]


def _name(metric: str) -> str:
    if metric == "gap/accuracy":
        return "train-eval gap"
    words = metric.split("/", 2)
    return " ".join(words[:2]) + "".join(f" ({word})" for word in words[2:])


def _title(metric: str) -> str:
    return f"{_name(metric)}, %" if _percent(metric) else _name(metric)


def _in_order(name: str) -> list[float | str]:
    """By what names are sorted, the numbers in them by their size."""
    pieces = re.split(r"(\d+\.?\d*)", name)
    return [float(piece) if place % 2 else piece for place, piece in enumerate(pieces)]


def _key(settings: Settings, keys: Sequence[str]) -> Key:
    return tuple(written(settings[key]) if key in settings else "" for key in keys)


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
    if not _percent(metric):
        return 3
    means = [100 * group.mean for group in groups if group.mean is not None]
    return 2 if means and max(means) - min(means) < CLOSE else 1


def _column(groups: Sequence[_Group], metric: str, digits: int) -> list[Cell]:
    """The cells of a column, their numbers below each other."""
    best = None
    if not metric.startswith("gap/"):
        values = {
            place: {seed: each.value for seed, each in group.outcomes.items()}
            for place, group in enumerate(groups)
        }
        best = stats.best_of(values, largest=_percent(metric))
    numbers = [_numbers(group, digits) for group in groups]
    widths = [max(map(len, texts)) for texts in zip(*numbers, strict=True)]
    return [
        _cell(group, list(map(str.rjust, texts, widths)), place == best)
        for place, (group, texts) in enumerate(zip(groups, numbers, strict=True))
    ]


def _numbers(group: _Group, digits: int) -> list[str]:
    """Mean and bounds as text, empty where there is none."""
    scale, found = 100 if _percent(group.metric) else 1, group.interval
    values = [group.mean, found.low if found else None, found.high if found else None]
    return ["" if value is None else f"{value * scale:.{digits}f}" for value in values]


def _cell(group: _Group, numbers: Sequence[str], best: bool) -> Cell:
    if not group.outcomes:
        state = "missing" if group.state in RESULTS else group.state
        return Cell(state, "failed" if state == "failed" else "faint")
    mean, low, high = numbers
    without = [each.state for each in group.results if each.seed not in group.outcomes]
    words = [f"{mean} [{low}, {high}]" if group.interval else mean]
    if group.diverged:
        words.append("diverged" if len(group.values) == 1 else f"{group.diverged} diverged")
    words += [f"{without.count(state)} {state}" for state in dict.fromkeys(without)]
    words += ["*"] * best
    style = "failed" if "failed" in without else "diverged" if group.diverged else "best" * best
    return Cell(" ".join(words), style)


def _across(group: _Group, form: str, columns: int) -> list[Cell]:
    """One row of the table of seeds: each seed or the extremes, then mean and interval."""

    def points(value: float) -> str:
        text = format(100 * value, form)
        return text.lstrip("+-") if float(text) == 0 else text

    if len(group.results) > SEED_COLUMNS:
        extremes = (min(group.values), max(group.values)) if group.values else ()
        cells = [Cell(points(value)) for value in extremes]
    else:
        cells = [_seed_cell(each, group, points) for each in group.results]
    if len(group.results) > 1 and group.mean is not None:
        found = group.interval if any(group.values) else None
        cells.append(Cell(points(group.mean)))
        cells.append(Cell(f"{points(found.low)} .. {points(found.high)}" if found else ""))
    return cells + [Cell("-", "faint")] * (columns - len(cells))


def _seed_cell(result: Result, group: _Group, points: Callable[[float], str]) -> Cell:
    found = group.outcomes.get(result.seed)
    if found is None:
        state = "missing" if result.state in RESULTS else result.state
        return Cell(state, "failed" if state == "failed" else "faint")
    if found.diverged:
        return Cell("diverged", "diverged")
    return Cell(points(found.value))


def _seed_count(groups: Sequence[_Group]) -> str:
    """What stands above the only column of values."""
    counts = [len(group.values) for group in groups if group.values]
    found = {seed for group in groups for seed in group.outcomes}
    if set(counts) == {1}:
        return f"seed {found.pop()}" if len(found) == 1 else "one seed"
    return f"{_span(counts)} seeds" if counts else ""


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _notes(groups: Sequence[_Group], metric: str, keys: Sequence[str]) -> list[str]:
    """Say what the intervals are over, what stands in for diverged runs, and what failed."""
    counts = [len(group.values) for group in groups if group.values]
    enough = [count for count in counts if count >= stats.FEWEST]
    few = [count for count in counts if count < stats.FEWEST]
    notes = [f"mean and 95 % interval of {_span(enough)} seeds"] if enough else []
    if few:
        where = f" in {len(few)} of {len(counts)} cells" if enough else ""
        notes.append(f"too few seeds for an interval{where}: {_span(few)}, {stats.FEWEST} give one")
    diverged = [each for group in groups for each in group.outcomes.values() if each.diverged]
    if diverged:
        scale, digits = (100, 1) if _percent(metric) else (1, 3)
        levels = sorted({f"{each.value * scale:.{digits}f}" for each in diverged})
        notes.append(f"diverged runs count as chance, {' or '.join(levels)}")
    return notes + _failures([each for group in groups for each in group.results], keys)


def _failures(results: Sequence[Result], keys: Sequence[str]) -> list[str]:
    """The first line of the message of each run that failed or does not apply."""
    lines: dict[str, None] = {}
    for result in results:
        if result.state in ("failed", "does not apply"):
            where = [f"{result.state}:", *filter(None, _labels(result.settings, keys, keys))]
            if result.state == "failed":
                where.append(f"seed {result.seed}")
            why = (result.message or "no message").strip().partition("\n")[0]
            lines[f"{'  '.join(where)}: {shown(why)}"] = None
    more = len(lines) - LISTED
    return [*lines][:LISTED] + ([f"and {more} more of this kind"] if more > 0 else [])


def _document(folder: str, group: _Group) -> dict[str, object]:
    settings = group.results[0].settings
    return {
        "dir": folder,
        "state": group.state,
        "config": {key: value for key, value in settings.items() if key not in SEEDS},
        "seeds": [
            {
                "seed": each.seed,
                "state": each.state,
                "final": each.final,
                "train_s": each.train_s,
                "message": each.message,
            }
            for each in group.results
        ],
        "mean": group.mean,
        "interval": [group.interval.low, group.interval.high] if group.interval else None,
    }


def _plain(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return _piece(re.sub(r"([\\`*\[\]])", r"\\\1", text))


def _piece(text: str) -> str:
    """Escape what would end a cell or begin a tag; numbers in brackets stay readable."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("|", r"\|")


def _csv_cell(value: object) -> str:
    """A value as text that a spreadsheet does not run."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = shown(written(value))
    return f"'{text}" if text.startswith(RISKY) and not NUMBER.fullmatch(text) else text
