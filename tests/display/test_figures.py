"""Colours that say the same norm everywhere, the front of costs, curves of the tuning."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from results import samples

from normbench.display import colours, drawing, figures
from normbench.results.curves import Validation
from normbench.results.layout import Layout


def laid(results=samples.SWEEP, **options):
    return Layout(results, ["norm", "batch"], "test/accuracy", "norm", **options)


def test_a_norm_has_its_colour_whatever_stands_beside_it() -> None:
    one = colours.styles("norm", ["gn", "bn", "gn(groups=2)"])
    other = colours.styles("norm", ["bn", "ln", "gn"])
    assert one["gn"].colour == other["gn"].colour == one["gn(groups=2)"].colour
    assert one["gn"].marker != one["gn(groups=2)"].marker
    assert len({colours.colour(name) for name in colours.USUAL}) == len(colours.USUAL)


def test_the_front_keeps_what_nothing_beats_in_both() -> None:
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 70.0), (2.0, 85.0), (4.0, 90.0)]
    assert drawing.frontier(points, True) == [(1.0, 80.0), (2.0, 85.0), (3.0, 90.0)]
    assert drawing.frontier(points, False) == [(1.0, 80.0), (2.0, 70.0)]


def test_the_line_of_a_norm_goes_through_its_means() -> None:
    figure = figures.batches(laid())
    assert figure is not None
    lines = {line.get_color(): line.get_data() for line in figure.axes[0].lines[::-1]}
    xs, ys = lines[colours.colour("bn")]
    assert [*xs] == [2, 32]
    assert ys == pytest.approx([84.0333, 97.0], abs=1e-3)


def test_the_legend_names_what_is_drawn() -> None:
    none = samples.run(None, "does not apply", norm="in", batch=2, seed=0)
    figure = figures.batches(laid([*samples.SWEEP, none]))
    assert figure is not None
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["bn", "gn"]


def test_differences_are_those_of_the_comparison() -> None:
    figure = figures.differences(laid(wanted="bn"))
    assert figure is not None
    means = [bar.lines[0].get_xdata()[0] for bar in figure.axes[0].containers]
    assert means == pytest.approx([11.7667, -0.3], abs=1e-3)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "gn  batch 2", "gn  batch 32",
    ]  # fmt: skip


def test_a_band_reaches_over_the_seeds_that_trained() -> None:
    curves = {
        run.directory: [Validation(0, 0.0, 0.1), Validation(100, 1.0, run.final["test/accuracy"])]
        for run in samples.SWEEP
    }
    figure = figures.convergence(laid(), curves)
    assert figure is not None
    (bn, _), _ = (each.collections for each in figure.axes)
    assert np.ptp(bn.get_paths()[0].vertices[:, 1]) == pytest.approx(88 - 10)


def test_failures_are_drawn_where_there_are_some() -> None:
    assert figures.failures(laid()) is None
    broken = [replace(samples.SWEEP[0], state="failed"), *samples.SWEEP[1:]]
    figure = figures.failures(laid(broken))
    assert figure is not None
    assert figure.get_size_inches()[1] < 2
    picture = Image.open(io.BytesIO(drawing.encoded(figure, "png")))
    assert picture.size[0] == 1200
