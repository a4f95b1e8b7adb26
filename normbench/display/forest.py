"""Draws effects with their intervals, each over the region in which a claim puts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from normbench.display.colours import SETTINGS

WIDTH, ROW = 9.0, 1.3  # inches, of the figure and of one effect
MARGIN = 0.15  # of the span, on both sides


class Row(NamedTuple):
    """An effect: what it is called, its interval, and the ends of its region."""

    name: str
    mean: float
    low: float
    high: float
    region: tuple[float, float]


def forest(title: str, rows: Sequence[Row]) -> Figure:
    """Draw one panel per effect, since their units differ; the region is shaded."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 0.6 + ROW * max(1, len(rows))), layout="constrained")
        figure.suptitle(title)
        panels = figure.subplots(max(1, len(rows)), 1, squeeze=False).flatten()
        for axes, row in zip(panels, rows, strict=False):
            finite = [end for end in row.region if abs(end) != float("inf")]
            seen = [row.low, row.high, 0.0, *finite]
            room = MARGIN * ((max(seen) - min(seen)) or 1.0)
            left, right = min(seen) - room, max(seen) + room
            axes.axvspan(max(left, row.region[0]), min(right, row.region[1]), alpha=0.2)
            bar = [[row.mean - row.low], [row.high - row.mean]]
            axes.errorbar(row.mean, 0, xerr=bar, color="black", marker="o", capsize=4)
            axes.axvline(0, color="black", linewidth=1)
            axes.set_xlim(left, right)
            axes.set_yticks([])
            axes.set_title(row.name, loc="left", fontsize="medium")
        if not rows:
            panels[0].set_visible(False)
        return figure
