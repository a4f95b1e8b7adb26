"""`normbench summary`: the layers of a composed configuration, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch

from normbench.cli import summary
from normbench.errors import Refused
from normbench.norms._base import apply
from normbench.runs import build
from normbench.settings.compose import Grid
from normbench.settings.schema import Config

if TYPE_CHECKING:
    from normbench.cli.summary import Summary
    from normbench.display.progress import Screen


def show(grid: Grid, overrides: Sequence[str], changed: Sequence[str], screen: Screen) -> None:
    """Print the layer table of a configuration, beside it one with `changed` overrides.

    Raises: Refused if the configuration cannot be built.
    """
    chosen = _one(grid, overrides)
    first = _summary(chosen)
    if not changed:
        document = {"command": "summary", "config": chosen.experiment(), **asdict(first)}
        screen.document(document)
        screen.table(summary.table(first, _statistics(chosen, first)))
        return
    keys = {text.partition("=")[0] for text in changed}
    kept = [text for text in overrides if text.partition("=")[0] not in keys]
    other = _one(grid, [*kept, *changed])
    second = _summary(other)
    titles = (" ".join(overrides) or "default", " ".join(changed))
    both = {"left": asdict(first), "right": asdict(second)}
    screen.document({"command": "summary", **both})
    screen.table(summary.pair(titles, (first, second)))


def _one(grid: Grid, overrides: Sequence[str]) -> Config:
    (cell,) = grid.cells(overrides, multirun=False)
    assert cell.config
    error = build.check(cell.config, cell.config.shape, cell.config.classes).error
    if error:
        raise Refused(*error.mistakes)
    return cell.config


def _summary(chosen: Config) -> Summary:
    plain = replace(chosen, norm={"name": "none"}, activation="relu", placement="pre")
    with torch.device("meta"):
        model = build.unfilled(chosen, chosen.shape, chosen.classes)
        linear = summary.linear_parameters(model)
        apply(build.norm(chosen), model)
        without = build.unfilled(plain, chosen.shape, chosen.classes)
        return summary.summarize(model, without, linear, chosen.shape)


def _statistics(chosen: Config, found: Summary) -> str:
    examples = chosen.stat_batch if build.norm(chosen).uses_batch else None
    return summary.statistics(found, examples)
