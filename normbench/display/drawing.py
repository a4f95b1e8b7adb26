"""What the figures share: panels, names, points with their intervals, the legend."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from normbench.display.colours import SETTINGS, Style, styles
from normbench.results.groups import Group, Key
from normbench.results.layout import Block, Layout
from normbench.results.stats import Interval

ABREAST = 3  # panels in a row
PANELS = 12  # of a figure at most
WIDTH = 10.0  # inches
ROW = 0.38  # inches of a line with a name

Given = ParamSpec("Given")


def styled(draw: Callable[Given, Figure | None]) -> Callable[Given, Figure | None]:
    """Let a figure be drawn with our settings, those of the caller's matplotlib left alone."""

    @wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Figure | None:
        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return drawn


def encoded(figure: Figure, form: str) -> bytes:
    """Write a figure as `svg`, `png` or `pdf`; the same figure gives the same bytes."""
    out = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[form]
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(out, format=form, dpi=120, metadata=undated)
    return out.getvalue()


def frontier(points: Sequence[tuple[float, float]], larger: bool) -> list[tuple[float, float]]:
    """Keep the points that are better than all cheaper ones."""
    sign = 1 if larger else -1
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * point[1] > sign * kept[-1][1]:
            kept.append(point)
    return kept


def draw_point(axes: Any, x: float, group: Group, look: Style, scale: int) -> None:
    """Draw the mean of a cell with its interval, hollow where a run of it failed."""
    bar = lengths(group.interval, scale) if group.interval else None
    fill = "white" if group.failed else look.colour
    style = {"color": look.colour, "marker": look.marker, "markerfacecolor": fill}
    axes.errorbar(x, scale * (group.mean or 0), yerr=bar, capsize=3, markersize=8, **style)


def logarithmic(axes: Any, steps: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic, plain numbers at so many steps of each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def lengths(interval: Interval, scale: int) -> list[list[float]]:
    """Give the lengths of an interval below and above its mean, as matplotlib takes them."""
    below, above = interval.mean - interval.low, interval.high - interval.mean
    return [[scale * below], [scale * above]]


def has_mean(group: Group) -> bool:
    """Tell whether a cell has a mean that can be drawn."""
    return group.mean is not None and math.isfinite(group.mean)


def grid(count: int) -> tuple[Figure, list[Any]]:
    """Begin a figure with so many panels, at most three abreast."""
    columns = min(count, ABREAST)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, 1.2 + 3.4 * rows), layout="constrained")
    every = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for spare in every[count:]:
        spare.set_visible(False)
    return figure, [*every[:count]]


def by_block(laid: Layout, draw: Callable[[Any, Group, Style], None]) -> tuple[Figure, list[Any]]:
    """Begin a figure with a panel for each block, and draw its groups as their arms look."""
    style = styles(laid.by, values(laid))
    blocks = [*laid.blocks.values()][:PANELS]
    figure, axes = grid(len(blocks))
    for each, block in zip(axes, blocks, strict=True):
        for row, group in block.groups.items():
            draw(each, group, style[arm_of(row)])
        each.set_title(block.at)
    return figure, axes


def rows_of(names: Sequence[str]) -> tuple[Figure, Any]:
    """Begin a figure with a line for each name, the first on top."""
    figure = Figure(figsize=(WIDTH, 1.2 + ROW * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def with_legend(figure: Figure, laid: Layout, lines: bool = False) -> Figure:
    """Name the arms beside the panels, those of which something is drawn."""
    names = {row[-1]: texts[-1] for row, texts in laid.names.items()}
    there = [line for axes in figure.axes for line in axes.lines if np.size(line.get_xdata())]
    drawn = {(line.get_color(), "" if lines else line.get_marker()) for line in there}
    shown = {
        arm: look
        for arm, look in styles(laid.by, [*names]).items()
        if (look.colour, "" if lines else look.marker) in drawn
    }
    handles = [
        matplotlib.lines.Line2D([], [], color=look.colour, marker="" if lines else look.marker)
        for look in shown.values()
    ]
    if len(shown) > 1:
        texts = [names[arm] for arm in shown]
        figure.legend(handles, texts, loc="outside right upper", frameon=False)
    return figure


def values(laid: Layout) -> list[str]:
    """List the values of the compared key."""
    return [*dict.fromkeys(map(arm_of, laid.names))]


def arm_of(row: Key) -> str:
    """Give the value of the compared key, which is the last that names a row."""
    return row[-1]


def said(laid: Layout, block: Block, row: Key) -> str:
    """Name a cell by its arm and its other settings."""
    return "  ".join(filter(None, [laid.names[row][-1], block.at]))
