"""`normbench bench`: how long norm layers take, or whole training steps, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from normbench import __version__
from normbench.cli.parser import Parser, screen
from normbench.errors import Mistake, NormError, Refused
from normbench.results import groups
from normbench.results.tables import Table, TableCell
from normbench.runtime import machine
from normbench.settings import compose

if TYPE_CHECKING:
    from normbench.runs.timing import Figure, Timed
    from normbench.settings.cell import Cell
    from normbench.settings.schema import Config

EXAMPLES = (
    "normbench bench norm=bn,gn,frn batch=2,32             layers of 64x28x28",
    "normbench bench norm=bn,ln --input 512                layers behind dense ones",
    "normbench bench norm=none,bn,gn model=mlp batch=2     whole training steps",
)
INPUT = "64x28x28"
LARGEST = 2**31  # numbers of a batch
HEADS = {"forward": "forward us", "both": "forward+backward us", "step": "step us"}


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Time norm layers or, with model=..., whole training steps."
    made = Parser("bench", text, EXAMPLES, overrides=True)
    shape = "CxHxW, or C behind a dense layer"
    made.add_argument("--input", metavar="SHAPE", help=f"of layers: {shape} (default: {INPUT})")
    made.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    return made


def run(words: list[str]) -> int:
    """Time every combination of the settings and show them in one table.

    Raises: Refused with all mistakes, before anything is timed; MachineError without memory.
    """
    options = parser().parsed(words)
    steps = any(text.partition("=")[0].split(".")[0] == "model" for text in options.overrides)
    if steps and options.input:
        fix = f"normbench bench --input {options.input}    (without model=...)"
        raise Refused(Mistake(f"--input {options.input}", "is of layers, not of steps", fix))
    size = [] if steps else _size(options.input or INPUT)
    from normbench.runs import timing  # imports torch, which --help and a refusal do without

    found = compose.Grid(compose.loader(options.config_dir)).cells(options.overrides, True)
    cells = [cell for cell in found if cell.config]
    rows = _timed(cells, size)
    config, shown = rows[0].case.config, screen(options)
    how = f"{timing.clock(config)}, median of {timing.REPEATS}"
    shown.heading([f"normbench {__version__}  {config.device} {config.precision} | {how}"])
    for row, figures in zip(rows, timing.measure([row.case for row in rows]), strict=True):
        row.figures.update(figures)
    facts = {**_facts(config), "clock": timing.clock(config)}
    shown.document({"command": "bench", **facts, "rows": list(map(_document, rows))})
    shown.table(_table(rows))
    return 0


@dataclass
class Row:
    """What is timed with which settings, and what came of it; ratio: to the first norm's time."""

    settings: dict[str, str]
    size: Sequence[int]
    case: Timed
    figures: dict[str, Figure] = field(default_factory=dict)

    @property
    def main(self) -> Figure:
        """Return the figure that rows are compared by."""
        return list(self.figures.values())[-1]


def _size(text: str) -> list[int]:
    """Read the shape of a layer's input, without the batch."""
    words = text.split("x")
    if len(words) not in (1, 3) or not all(word.isdecimal() and int(word) for word in words):
        why = "is no shape CxHxW, nor a number C of features"
        raise Refused(Mistake(f"--input {text}", why, f"--input {INPUT}"))
    return list(map(int, words))


def _timed(cells: Sequence[Cell], size: Sequence[int]) -> list[Row]:
    """Make what is timed: layers where there is a size of their inputs, else steps.

    Raises: Refused with all misfits.
    """
    rows, mistakes = [], []
    for cell, settings in zip(cells, _settings(cells, bool(size)), strict=True):
        config = cell.config
        assert config
        try:
            if config.gpus > 1:
                raise Refused(Mistake(f"gpus={config.gpus}", "only one worker is timed", "gpus=1"))
            case = _layer(config, size) if size else _step(config)
        except Refused as error:
            mistakes += [] if config.skip_invalid else error.mistakes
        else:
            rows.append(Row(settings, size or config.shape, case))
    if mistakes or not rows:
        raise Refused(*dict.fromkeys(mistakes))
    return rows


def _layer(config: Config, size: Sequence[int]) -> Timed:
    if config.batch * math.prod(size) > LARGEST:
        why = f"{config.batch:,} of them have more than {LARGEST:,} numbers"
        raise Refused(Mistake(f"--input {'x'.join(map(str, size))}", why, f"--input {INPUT}"))
    from normbench.runs import timing  # as above

    try:
        return timing.layer(config, size)
    except NormError as error:  # a layer knows its class, the user the name of the norm
        subject, why, fix = astuple(error.mistakes[0])
        named = f"norm={config.norm['name']}" if subject.startswith("norm=") else subject
        raise Refused(Mistake(named, why, fix)) from error


def _step(config: Config) -> Timed:
    from normbench.runs import check, timing  # as above

    error = check.check_fit(config, config.shape, config.classes).error
    if error:
        raise error
    return timing.step(config)


def _settings(cells: Sequence[Cell], layers: bool) -> list[dict[str, str]]:
    """Say of each cell what its row is about: the norm, the batch, and what else varies."""
    given = [dict(text.split("=", 1) for text in cell.row) for cell in cells]
    usual = ("norm", "batch") if layers else ("model", "norm", "batch")
    named = []
    for cell, row in zip(cells, given, strict=True):
        config = cell.config
        assert config
        known = {"model": config.model["name"], "norm": config.norm["name"], "batch": config.batch}
        others = {key: row[key] for key in groups.swept(given) if key not in usual}
        named.append({**{key: str(known[key]) for key in usual}, **others})
    return named


def _ratio(row: Row, rows: Sequence[Row]) -> float:
    """Compare a row with the first that differs from it in nothing but the norm."""
    plain = [{**each.settings, "norm": ""} for each in rows]
    first = rows[plain.index({**row.settings, "norm": ""})]
    return row.main.median / first.main.median


def _table(rows: Sequence[Row]) -> Table:
    names, figures = list(rows[0].settings), rows[0].figures
    head = (*names, "input", *(HEADS[name] for name in figures), "ratio", "kept MB")
    lines = []
    for row in rows:
        times = [f"{_us(each.median)} ±{_us(each.spread)}" for each in row.figures.values()]
        last = (f"{_ratio(row, rows):.2f}x", f"{row.case.kept / 1e6:.3g}")
        texts = (*row.settings.values(), "x".join(map(str, row.size)), *times, *last)
        lines.append(tuple(map(TableCell, texts)))
    notes = [
        "± half the distance between the quartiles; ratio: to the first norm, all else equal",
        "kept: what the forward pass keeps in memory for the backward pass",
    ]
    if weighed := dict.fromkeys(row.settings["norm"] for row in rows if row.case.linear):
        notes.append(f"with the linear layer whose weights they change: {', '.join(weighed)}")
    numbers = frozenset(range(len(names) + 1, len(head)))
    return Table("", head, tuple(lines), labels=len(names) + 1, right=numbers, notes=tuple(notes))


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-4 else f"{1e6 * seconds:.1f}"


def _facts(config: Config) -> dict[str, Any]:
    known = machine.environment(config.device, config.threads)
    kept = {key: known[key] for key in ("normbench", "torch", "device", "device_name", "threads")}
    return kept


def _document(row: Row) -> dict[str, Any]:
    figures = {
        f"{name}_s": {"median": each.median, "spread": each.spread, "samples": each.samples}
        for name, each in row.figures.items()
    }
    return {**row.settings, "input": row.size, **figures, "kept_bytes": row.case.kept}
