#!/usr/bin/env python3
"""Draw one quantity of all layers over depth: scripts/plots/layers.py PICTURE RUNS [RUNS ...]

RUNS are folders of runs with `diagnose=full`, or folders that hold such runs. Each configuration is
a line, labelled by the settings in which the runs differ; several seeds give their mean and range
(geometric where the axis is logarithmic). With `--panel KEY` each value of that key has a panel. A
layer without the quantity is left out, and what is 0 is a gap in a logarithmic line.

    uv run python scripts/plots/layers.py docs/pictures/init-depth.png outputs/runs \
        --panel activation --where model=mlp --where steps=1
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from normbench.errors import NormbenchError
from normbench.parts.options import leaves, written
from normbench.results import groups
from normbench.runs import reader

# Okabe & Ito 2008: told apart with any colour vision; yellow, too faint for a line, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*<>"
QUANTITIES = {  # what the vertical axis says, and whether it is logarithmic
    "act_std": ("standard deviation after the activation", True),
    "pre_std": ("standard deviation before the activation", True),
    "act_mean": ("mean after the activation", False),
    "pre_mean": ("mean before the activation", False),
    "saturated": ("share of saturated units", False),
    "linear_zone": ("share of units in the linear zone", False),
    "zeros": ("share of zeros after the activation", False),
    "weight_norm": ("norm of the weight", True),
    "grad_norm": ("norm of the gradient by the weight", True),
    "output_grad_norm": ("norm of the gradient by the output", True),
    "stat_error": ("error of the running mean, deviations", True),
    "stat_log_var": ("ln of running over probe variance", False),
}


class Run(NamedTuple):
    """One run: its settings by key, and the quantity by layer, from the input on."""

    settings: dict[str, Any]
    values: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="a .png, .svg or .pdf")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or of such folders")
    parser.add_argument("--quantity", default="act_std", choices=QUANTITIES, metavar="NAME")
    parser.add_argument("--step", type=int, default=0, help="default: 0; -1 is the last")
    parser.add_argument("--panel", metavar="KEY", help="a panel for each value of this setting")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    try:
        runs = [run for path in folders(options.runs) for run in read(path, options)]
    except NormbenchError as error:
        print(error, file=sys.stderr)
        return 3
    if not runs:
        print("no run there has rows on its layers; try: diagnose=full", file=sys.stderr)
        return 3
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, options.quantity, options.panel).savefig(options.picture, dpi=160)
    print(options.picture)
    return 0


def folders(paths: Sequence[Path]) -> Iterator[Path]:
    """Find the folders of runs at or below the paths."""
    for path in paths:
        yield from sorted(each.parent for each in path.rglob(reader.METRICS))


def read(path: Path, options: argparse.Namespace) -> Iterator[Run]:
    """Read a run, if it is one of those asked for and has the quantity at the step."""
    experiment = dict(leaves(reader.read_config(path)["experiment"]))
    settings = {key.removesuffix(".name"): value for key, value in experiment.items()}
    asked = (text.partition("=")[::2] for text in options.where)
    if any(written(settings.get(key)) != value for key, value in asked):
        return
    rows = [row for row in reader.read_rows(path) if row.kind == "layers"]
    rows = rows[-1:] if options.step < 0 else [row for row in rows if row.step == options.step]
    for row in rows:
        values = by_depth(row.values, options.quantity)
        if values:
            yield Run(settings, values)


def by_depth(values: Mapping[str, Any], quantity: str) -> list[float]:
    """The quantity by layer; NaN where it was not finite."""
    found = {}
    for tag, value in values.items():
        room, _, rest = tag.partition("/")
        place, _, name = rest.partition("/")
        if room == "layer" and name == quantity:
            found[int(place.partition("-")[0])] = math.nan if value is None else float(value)
    return [found[number] for number in sorted(found)]


def draw(runs: Sequence[Run], quantity: str, panel: str | None) -> Figure:
    """Draw the runs: a panel for each value of one key, a line for each configuration."""
    keys = [key for key in groups.swept([run.settings for run in runs]) if key != panel]
    panels: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        # An option of a part that another run does not have says no more than the part's name.
        own = [key for key in keys if key in run.settings and not _inside(key, keys)]
        name = ", ".join(groups.label(key, run.settings[key], keys) for key in own)
        title = groups.label(panel, run.settings.get(panel), ()) if panel else ""
        panels[title][name or "all runs"].append(run.values)
    ends = {name: seeds[0][-1] for lines in panels.values() for name, seeds in lines.items()}
    names = sorted(ends, key=lambda name: (-ends[name], name))  # as the lines end, from the top
    styles = {name: _style(number) for number, name in enumerate(names)}
    text, log = QUANTITIES[quantity]
    figure = Figure(figsize=(1.6 + 4.2 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for each, (title, lines) in zip(axes, sorted(panels.items()), strict=True):
        for name in sorted(lines):
            _line(each, lines[name], log, {**styles[name], "label": name})
        each.set_xlim(left=0.5)
        each.set_title(title)
        each.set_xlabel("layer, from the input")
        each.xaxis.get_major_locator().set_params(integer=True)
        each.grid(alpha=0.3, linewidth=0.6)
        each.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(text)
    if log:
        axes[0].set_yscale("log")
    handles = {
        label: handle
        for each in axes
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in names if name in handles and len(names) > 1]
    if shown:
        figure.legend([handles[name] for name in shown], shown, loc="outside right center")
    return figure


def _line(axes: Any, seeds: Sequence[Sequence[float]], log: bool, style: dict[str, Any]) -> None:
    """One configuration: the mean over its seeds, and their range if there are several."""
    depth = min(map(len, seeds))
    values = np.array([each[:depth] for each in seeds], dtype=np.float64)
    layers = np.arange(1, depth + 1)
    if log:
        values = np.where(values > 0, values, math.nan)
        middle = np.exp(np.log(values).mean(0))
    else:
        middle = values.mean(0)
    axes.plot(layers, middle, **style)
    if len(values) > 1:
        low, high = values.min(0), values.max(0)
        axes.fill_between(layers, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _style(number: int) -> dict[str, Any]:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.6}


def _inside(key: str, keys: Sequence[str]) -> bool:
    return key.partition(".")[0] in keys and "." in key


if __name__ == "__main__":
    sys.exit(main())
