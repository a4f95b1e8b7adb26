"""Draws quantities of layers over depth. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from normbench.display.colours import PALETTE, SETTINGS, Style, styles
from normbench.display.drawing import by_block, styled, with_legend
from normbench.results.depth import QUANTITIES, profile
from normbench.results.groups import Group
from normbench.results.layout import Layout
from normbench.rows import Value

TELLING = ("act_std", "grad_norm", "saturated", "stat_error")  # what is drawn of a single run
PROBED = ("act_std", "output_grad_norm")
SMALL: Any = {
    **{key: 7 for key in ("font.size", "axes.titlesize", "legend.fontsize")},
    "lines.linewidth": 1,
    "lines.markersize": 3,
}

Profiles = Mapping[str, Sequence[float]]  # a quantity by layer, by directory of the run


@styled
def layers(laid: Layout, profiles: Profiles, quantity: str) -> Figure | None:
    """Draw a quantity over depth: mean and range of the seeds, geometric on a logarithmic axis.

    Returns: None where no run has it.
    """
    if not any(profiles.values()):
        return None

    def draw(on: Any, group: Group, look: Style) -> None:
        found = [profiles.get(run.directory) for run in group.results]
        _line(on, [seed for seed in found if seed], quantity, look._asdict())

    figure, axes = by_block(laid, draw)
    _name(axes, quantity)
    return with_legend(figure, laid)


def of_run(before: Mapping[str, Value], after: Mapping[str, Value]) -> dict[str, Figure]:
    """Draw what its `layers` rows tell of a run, at its start and at its end, by quantity.

    The figures are as small as TensorBoard shows pictures.
    """
    return {name: _small(before, after, name) for name in TELLING if profile(after, name)}


def _small(before: Mapping[str, Value], after: Mapping[str, Value], quantity: str) -> Figure:
    with matplotlib.rc_context({**SETTINGS, **SMALL}):
        figure = Figure(figsize=(2.9, 2.2), layout="constrained")
        axes = figure.subplots()
        for at, row in enumerate((before, after)):
            look = {"colour": PALETTE[1 + at], "marker": "os"[at]}
            _line(axes, [profile(row, quantity)], quantity, look)
        _name([axes], quantity)
        axes.set_ylabel("")
        axes.set_title(QUANTITIES[quantity].words)
        axes.legend(axes.lines, ["at the start", "at the end"], frameon=False)
    return figure


@styled
def of_nets(found: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> Figure | None:
    """Draw activations and their gradients of nets that were measured.

    Args: found: by name of the net, of each seed the quantities by layer.
    """
    figure = Figure(figsize=(5.0 * len(PROBED), 4.8), layout="constrained")
    axes = figure.subplots(1, len(PROBED))
    for each, quantity in zip(axes, PROBED, strict=True):
        for look, seeds in zip(styles("", [*found]).values(), found.values(), strict=True):
            _line(each, [seed[quantity] for seed in seeds], quantity, look._asdict())
        _name([each], quantity)
        each.set_ylabel("")
        each.set_title(QUANTITIES[quantity].words, fontsize=12)
    names = [name for name in found if name]
    if names:
        figure.legend(axes[0].lines, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _line(axes: Any, seeds: Sequence[Sequence[float]], quantity: str, look: Any) -> None:
    """Draw one configuration; what is 0 is a gap in a logarithmic line."""
    depth = min(map(len, seeds), default=0)
    if not depth:
        return
    found = np.array([each[:depth] for each in seeds], dtype=np.float64)
    places = np.arange(1, depth + 1)
    middle = found.mean(0)
    if QUANTITIES[quantity].logarithmic:
        found = np.where(found > 0, found, math.nan)
        middle = np.exp(np.log(found).mean(0))
    axes.plot(places, middle, color=look["colour"], marker=look["marker"])
    if len(found) > 1:
        band = {"color": look["colour"], "alpha": 0.2, "linewidth": 0}
        axes.fill_between(places, found.min(0), found.max(0), **band)


def _name(axes: Sequence[Any], quantity: str) -> None:
    for each in axes:
        each.set_xlim(left=0.5)
        each.set_xlabel("layer, from the input")
        each.xaxis.get_major_locator().set_params(integer=True)
        if QUANTITIES[quantity].logarithmic:
            each.set_yscale("log")
            low, high = each.get_ylim()
            few = high < 100 * low  # decades alone would be too few ticks
            locator = matplotlib.ticker.LogLocator(subs=(1, 2, 5) if few else (1,))
            each.yaxis.set_major_locator(locator)
            each.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            each.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes[0].set_ylabel(QUANTITIES[quantity].words)
