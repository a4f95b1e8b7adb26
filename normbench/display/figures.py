"""Draws what finished runs say: curves, batch sizes, differences, failures, cost. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
from matplotlib.figure import Figure

from normbench.display.colours import PALETTE, styles
from normbench.display.drawing import (
    PANELS,
    arm_of,
    by_block,
    draw_point,
    frontier,
    grid,
    has_mean,
    lengths,
    logarithmic,
    rows_of,
    said,
    styled,
    values,
    with_legend,
)
from normbench.parts.options import written
from normbench.results.curves import Validation
from normbench.results.groups import Group, labels_of
from normbench.results.layout import Layout, place, word
from normbench.results.lr_search import LRSearch

KINDS = {  # what a run came to, and how it is drawn
    "trained": "#DDDDDD",
    "stuck": "#E69F00",
    "diverged": "#D55E00",
    "failed": "#000000",
    "no result": "#56B4E9",
}


@styled
def convergence(laid: Layout, curves: Mapping[str, Sequence[Validation]]) -> Figure | None:
    """Draw validation accuracy over examples seen: mean and range of the seeds that trained.

    Runs that did not train are thin dotted lines.

    Args: curves: by directory of the run. Returns: None where no run has a curve.
    """
    if not any(curves.values()):
        return None
    figure, axes = by_block(
        laid, lambda on, group, look: _curves(on, group, curves, {"color": look.colour})
    )
    for each in axes:
        each.set_xlabel("examples seen")
        each.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        each.locator_params(axis="x", nbins=4)
    axes[0].set_ylabel("validation accuracy, %")
    return with_legend(figure, laid, lines=True)


def _curves(
    axes: Any, group: Group, curves: Mapping[str, Sequence[Validation]], style: dict[str, Any]
) -> None:
    trained = []
    for result in group.results:
        curve, end = curves.get(result.directory, ()), group.outcomes.get(result.seed)
        points = {at.examples: 100 * at.accuracy for at in curve}
        if end and not end.failed and points:
            trained.append(points)
        elif points:
            axes.plot([*points], [*points.values()], linestyle=":", linewidth=1, **style)
    common = sorted(set.intersection(*map(set, trained))) if trained else []
    if common:
        seeds = [[points[at] for points in trained] for at in common]
        axes.plot(common, [sum(each) / len(each) for each in seeds], **style)
        low, high = [*map(min, seeds)], [*map(max, seeds)]
        axes.fill_between(common, low, high, alpha=0.18, linewidth=0, **style)


@styled
def batches(laid: Layout) -> Figure | None:
    """Draw the metric against the batch size, a line for each arm; None where it does not vary.

    Bars are 95 % intervals; a hollow marker is a cell of which a run failed.
    """
    sizes = _split(laid)
    if sizes is None:
        return None
    style, scale = styles(laid.by, values(laid)), laid.measured.scale
    figure, axes = grid(len(sizes))
    for each, (title, cells) in zip(axes, sizes.items(), strict=True):
        for arm, groups in cells.items():
            known = [(size, group) for size, group in sorted(groups.items()) if has_mean(group)]
            xs, ys = [size for size, _ in known], [scale * (g.mean or 0) for _, g in known]
            look = style[arm]
            each.plot(xs, ys, color=look.colour)
            for size, group in known:
                draw_point(each, size, group, look, scale)
        ticks = sorted({size for groups in cells.values() for size in groups})
        each.set_xscale("log", base=2)
        each.set_xticks(ticks, [f"{size:g}" for size in ticks], minor=False)
        each.set_title(title)
        each.set_xlabel("batch")
    axes[0].set_ylabel(laid.measured.title)
    return with_legend(figure, laid)


def _texts(laid: Layout, key: str) -> set[str]:
    return {written(run.settings.get(key, "")) for run in laid.results}


def _split(laid: Layout) -> dict[str, dict[str, dict[float, Group]]] | None:
    """Sort cells by their settings beside the batch, then by arm, then by batch."""
    keys = [*laid.across, *laid.down]
    if "batch" not in keys or not all(text.isdigit() for text in _texts(laid, "batch")):
        return None
    found: dict[str, dict[str, dict[float, Group]]] = {}
    for (head, down), block in laid.blocks.items():
        at = dict(zip(keys, (*head, *down), strict=True))
        size = float(at.pop("batch"))
        title = "  ".join(f"{word(key)} {value}" for key, value in at.items())
        for row, group in block.groups.items():
            found.setdefault(title, {}).setdefault(arm_of(row), {})[size] = group
    return dict([*found.items()][:PANELS])


@styled
def differences(laid: Layout) -> Figure | None:
    """Draw the paired differences to the baseline with 95 % intervals, None where there are none.

    Intervals right of zero are of larger values.
    """
    found = [
        (block, row, one.difference)
        for block in laid.blocks.values()
        for row, one in block.above(laid.baseline).items()
        if one.difference
    ]
    if not found:
        return None
    style, scale = styles(laid.by, values(laid)), laid.measured.scale
    figure, axes = rows_of([said(laid, block, row) for block, row, _ in found])
    for y, (_, row, interval) in enumerate(found):
        look = style[arm_of(row)]
        middle = scale * interval.mean
        bar = lengths(interval, scale)
        axes.errorbar(middle, y, xerr=bar, color=look.colour, marker=look.marker, capsize=3)
    axes.axvline(0, color="black", linewidth=1)
    unit = f",{laid.measured.points}" * laid.measured.percent
    axes.set_xlabel(f"{laid.measured.words}{unit} above {laid.baseline}")
    return figure


@styled
def rates(searches: Sequence[LRSearch], laid: Layout) -> Figure | None:
    """Draw the tuning: mean validation accuracy over the learning rate, the chosen one ringed.

    A cross is a learning rate at which a run diverged or stayed at chance.
    """
    known = [search for search in searches if search.points]
    if not known:
        return None
    style = styles(laid.by, values(laid))
    panels: dict[str, list[LRSearch]] = {}
    for search in known:
        keys = sorted((key for key in laid.keys if key != laid.by), key=place)
        title = "  ".join(filter(None, labels_of(search.settings, keys, laid.keys)))
        panels.setdefault(title, []).append(search)
    shown = [*panels.items()][:PANELS]
    figure, axes = grid(len(shown))
    for each, (title, lines) in zip(axes, shown, strict=True):
        for search in lines:
            look = style.get(str(search.settings.get(laid.by)))
            _rates(each, search, look.colour if look else PALETTE[0])
        each.set_title(title)
        logarithmic(each, (1,))
        each.set_xlabel("optimizer.lr")
    axes[0].set_ylabel("validation accuracy, %")
    return with_legend(figure, laid, lines=True)


def _rates(axes: Any, search: LRSearch, colour: str) -> None:
    xs, ys = [each.lr for each in search.points], [100 * each.score for each in search.points]
    axes.plot(xs, ys, color=colour)
    for x, y, at in zip(xs, ys, search.points, strict=True):
        axes.plot(x, y, marker="o" if at.eligible else "x", color=colour)
        if search.choice and search.choice.lr == at.lr:
            axes.plot(x, y, marker="o", markersize=14, fillstyle="none", color=colour)


@styled
def failures(laid: Layout) -> Figure | None:
    """Draw how many runs of each cell trained, and what became of others; None if all trained."""
    found = []
    for block in laid.blocks.values():
        for row, group in block.groups.items():
            ends = (group.outcomes.get(run.seed) for run in group.results)
            kinds = Counter(
                end.kind if end else run.state if run.state == "failed" else "no result"
                for end, run in zip(ends, group.results, strict=True)
                if run.state != "does not apply"
            )
            if set(kinds) - {"trained"}:
                found.append((said(laid, block, row), kinds))
    if not found:
        return None
    figure, axes = rows_of([name for name, _ in found])
    left = [0] * len(found)
    for kind, shade in KINDS.items():
        widths = [kinds[kind] for _, kinds in found]
        if any(widths):
            axes.barh(range(len(found)), widths, left=left, color=shade, label=kind, height=0.7)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.grid(axis="y", visible=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("runs")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


@styled
def cost(laid: Layout, spent: Mapping[str, float]) -> Figure | None:
    """Draw the metric against the core-seconds of a run, each cell with its settings.

    Cells of which no run trained are left out. Where one way is better, a grey line joins those
    that no other one beats in both.

    Args: spent: core-seconds by directory of the run.
    """
    style, scale = styles(laid.by, values(laid)), laid.measured.scale
    figure, (axes,) = grid(1)
    points = []
    for block in laid.blocks.values():
        for row, group in block.groups.items():
            costs = [spent[run.directory] for run in group.results if run.directory in spent]
            if costs and group.arm.values:
                mean = sum(costs) / len(costs)
                draw_point(axes, mean, group, style[arm_of(row)], scale)
                points.append((mean, scale * (group.mean or 0)))
                near = {"xytext": (7, 4), "textcoords": "offset points", "fontsize": 11}
                axes.annotate(block.at, points[-1], **near)
    if not points:
        return None
    if laid.measured.larger is not None:
        front = frontier(points, laid.measured.larger)
        axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1, zorder=0)
    logarithmic(axes, (1, 2, 5))
    axes.set_xlabel("core-seconds of a run")
    axes.set_ylabel(laid.measured.title)
    return with_legend(figure, laid)
