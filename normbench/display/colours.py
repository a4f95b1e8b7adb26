"""How figures look: one colour per norm everywhere, markers by place, text for half size."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

# Okabe & Ito 2008, told apart with any colour vision; yellow, too faint for a line, is grey here.
PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
USUAL = ("none", "bn", "gn", "ln", "in", "brn", "frn", "syncbn")  # have one colour each
MARKERS = "osD^vPX*<>"
SETTINGS: Any = {
    "font.size": 14,
    "axes.titlesize": 14,
    "legend.fontsize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
    "text.parse_math": False,  # names from files are no formulas
    "svg.hashsalt": "normbench",  # the same data gives the same bytes
}


class Style(NamedTuple):
    """How one arm is drawn."""

    colour: str
    marker: str


def styles(key: str, values: Sequence[str]) -> dict[str, Style]:
    """Choose how the values of a compared key are drawn.

    A norm has its colour by its name alone, whatever stands beside it; where two share one, as a
    norm with other options does, their markers differ. Values of other keys have it by place.
    """
    return {
        value: Style(colour(value) if key == "norm" else _nth(PALETTE, at), _nth(MARKERS, at))
        for at, value in enumerate(values)
    }


def colour(norm: str) -> str:
    """Give the colour of a norm, with or without options: `gn(groups=2)` has that of `gn`."""
    name = norm.partition("(")[0]
    if name in USUAL:
        return PALETTE[USUAL.index(name)]
    return _nth(PALETTE, zlib.crc32(name.encode()))


def _nth(among: Sequence[str], place: int) -> str:
    return among[place % len(among)]
