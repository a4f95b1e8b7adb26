"""Draws quantities of nets by layer. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.ticker
from matplotlib.figure import Figure

from normbench.display.colours import styles
from normbench.display.drawing import WIDTH, styled

TITLES = {"act_second": "mean square of activations", "output_grad_norm": "norm of their gradient"}


@styled
def by_layer(nets: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure | None:
    """Draw activations and their gradients against the number of the layer, on log scales.

    Args: nets: by name, the quantities of each layer in order.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    look = styles("", [*nets])
    for axes, (quantity, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
        for name, layers in nets.items():
            points = {
                number: values[quantity]
                for number, values in enumerate(layers, 1)
                if values.get(quantity, 0) > 0
            }
            axes.plot([*points], [*points.values()], color=look[name].colour, label=name)
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    if len(nets) > 1:
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure
