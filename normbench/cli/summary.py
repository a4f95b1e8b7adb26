"""`normbench summary`: the layers of configurations, found by running them on an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from difflib import SequenceMatcher

import torch

from normbench.cli.parser import Parser, screen
from normbench.display.screen import Screen
from normbench.engine.train import why_eager
from normbench.errors import Refused
from normbench.results.tables import Table, TableCell
from normbench.runs import build, check
from normbench.runs.layers import LayerRow, Summary, linear_parameters, summarize
from normbench.settings import compose
from normbench.settings.schema import Config

EXAMPLES = (
    "normbench summary model=blog6 norm=bn",
    "normbench summary model=resnet20 norm=gn data=synthetic",
    "normbench summary model=cnn norm=bn --diff norm=frn",
)


def parser() -> Parser:
    """Return the parser of the command's words."""
    text = "Show layers, output shapes, parameters and buffers."
    made = Parser("summary", text, EXAMPLES, overrides=True)
    made.add_argument("--diff", nargs="+", metavar="KEY=VALUE", help="beside it, with this changed")
    made.add_argument("--config-dir", metavar="DIR", help="your own configuration files")
    return made


def run(words: list[str]) -> int:
    """Show the layers of a configuration."""
    options = parser().parsed(words)
    grid = compose.Grid(compose.loader(options.config_dir))
    show(grid, options.overrides, options.diff or [], screen(options))
    return 0


def show(
    grid: compose.Grid, overrides: Sequence[str], changed: Sequence[str], screen: Screen
) -> None:
    """Print the layer table of a configuration, beside it one with `changed` overrides.

    Raises: Refused if the configuration cannot be built.
    """
    chosen = _one(grid, overrides)
    first = _counted(chosen)
    if not changed:
        document = {"command": "summary", "config": chosen.experiment(), **asdict(first)}
        screen.document(document)
        screen.table(table(first, _remark(chosen, first)))
        return
    keys = {text.partition("=")[0] for text in changed}
    kept = [text for text in overrides if text.partition("=")[0] not in keys]
    other = _one(grid, [*kept, *changed])
    second = _counted(other)
    titles = (" ".join(overrides) or "default", " ".join(changed))
    both = {"left": asdict(first), "right": asdict(second)}
    screen.document({"command": "summary", **both})
    screen.table(pair(titles, (first, second)))


def _one(grid: compose.Grid, overrides: Sequence[str]) -> Config:
    (cell,) = grid.cells(overrides, multirun=False)
    assert cell.config
    error = check.check_fit(cell.config, cell.config.shape, cell.config.classes).error
    if error:
        raise Refused(*error.mistakes)
    return cell.config


def _counted(chosen: Config) -> Summary:
    plain = replace(chosen, norm={"name": "none"}, activation={"name": "relu"}, placement="pre")
    linear = linear_parameters(build.unfilled(chosen, chosen.shape, chosen.classes))
    without = build.unfilled(plain, chosen.shape, chosen.classes)
    model = build.model(chosen, chosen.shape, chosen.classes)
    return summarize(model, without, linear, chosen.shape)


def _remark(chosen: Config, summary: Summary) -> str:
    examples = chosen.stat_batch if build.norm(chosen).uses_batch else None
    remarks = [statistics(summary, examples)]
    if check.foreign(chosen):  # our own can all be replayed
        model = build.model(chosen, chosen.shape, chosen.classes).train()
        labels = torch.arange(chosen.worker_batch) % chosen.classes
        reason = why_eager(model, torch.rand(len(labels), *chosen.shape), labels)
        remarks += [f"steps are not replayed: {reason}"] if reason else []
    return "   ".join(remarks)


def statistics(summary: Summary, examples: int | None) -> str:
    """Say over how many values the first norm takes a statistic; `examples`: None if of one."""
    if examples is None:
        return "statistics over 1 example (no batch)"
    normed = [row for row in summary.rows if "norm" in row.path.split(".")]
    positions = (normed or summary.rows)[0].output_shape[2:]
    return f"statistics over {' x '.join(map(str, (examples, *positions)))} values"


def aligned(
    left: Sequence[LayerRow], right: Sequence[LayerRow]
) -> list[tuple[LayerRow | None, LayerRow | None]]:
    """Put the rows of two models side by side where they have the same path and output shape."""
    matcher = SequenceMatcher(None, _keys(left), _keys(right), autojunk=False)
    pairs: list[tuple[LayerRow | None, LayerRow | None]] = []
    for what, a, b, c, d in matcher.get_opcodes():
        if what == "equal":
            pairs += zip(left[a:b], right[c:d], strict=True)
        else:
            pairs += [(row, None) for row in left[a:b]] + [(None, row) for row in right[c:d]]
    return pairs


def table(summary: Summary, remark: str = "") -> Table:
    """Lay out one model, and under it the totals with a `remark` on its statistics."""
    head = ("layer", "output shape", "parameters", "buffers")
    rows = tuple(
        tuple(map(TableCell, (_label(row), _shape(row), *_numbers(row)))) for row in summary.rows
    )
    totals = (*_totals(summary), *filter(None, [remark]))
    return Table("", head, rows, right=frozenset({2, 3}), notes=("   ".join(totals),))


def pair(titles: tuple[str, str], summaries: tuple[Summary, Summary]) -> Table:
    """Lay out two models side by side, `titles` over their layers and before their totals."""
    head = [part for title in titles for part in (title, "parameters", "buffers")]
    rows = []
    for sides in aligned(summaries[0].rows, summaries[1].rows):
        texts = [
            text for row in sides for text in ((_label(row), *_numbers(row)) if row else [""] * 3)
        ]
        rows.append(tuple(map(TableCell, (*texts, *{_shape(row) for row in sides if row}))))
    notes = [
        "   ".join((title, *_totals(summary)))
        for title, summary in zip(titles, summaries, strict=True)
    ]
    right = frozenset({1, 2, 4, 5})
    return Table("", (*head, "output shape"), tuple(rows), right=right, notes=tuple(notes))


def _keys(rows: Sequence[LayerRow]) -> list[tuple[object, ...]]:
    return [(row.path, row.output_shape) for row in rows]


def _label(row: LayerRow) -> str:
    return row.name if row.groups == 1 else f"{row.name} ({row.groups} groups)"


def _shape(row: LayerRow) -> str:
    return f"[{', '.join(map(str, row.output_shape))}]"


def _numbers(row: LayerRow) -> tuple[str, str]:
    return f"{row.parameters:,}", f"{row.buffers:,}"


def _totals(summary: Summary) -> tuple[str, ...]:
    share = 100 * summary.norm / summary.trainable
    return (
        f"trainable {summary.trainable:,}",
        f"norm {summary.norm:,} ({share:.1f} %)",
        f"buffers {summary.buffers:,}",
        f"norm=none: {summary.without:,}",
    )
