"""What `diagnose=full` tells of each layer, as profiles over depth, from the input on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from normbench.rows import Value

HISTOGRAM = "_histogram"  # ends the names of quantities that are counts, as words


class Quantity(NamedTuple):
    """What the axis of a quantity says, and whether it is logarithmic."""

    words: str
    logarithmic: bool


QUANTITIES = {
    "act_std": Quantity("standard deviation after the activation", True),
    "pre_std": Quantity("standard deviation before the activation", True),
    "act_mean": Quantity("mean after the activation", False),
    "pre_mean": Quantity("mean before the activation", False),
    "saturated": Quantity("share of saturated units", False),
    "linear_zone": Quantity("share of units in the linear zone", False),
    "zeros": Quantity("share of zeros after the activation", False),
    "weight_norm": Quantity("norm of the weight", True),
    "grad_norm": Quantity("norm of the gradient by the weight", True),
    "output_grad_norm": Quantity("norm of the gradient by the output", True),
    "stat_error": Quantity("error of the running mean, deviations", True),
    "stat_log_var": Quantity("ln of running over probe variance", False),
}


def profile(values: Mapping[str, Value], quantity: str) -> list[float]:
    """Give a quantity of the layers in their order, NaN where it is not finite.

    Args: values: of a `layers` row. A layer without the quantity is left out.
    """
    found = {}
    for tag, value in values.items():
        room, _, rest = tag.partition("/")
        place, _, name = rest.rpartition("/")
        if room == "layer" and name == quantity and not isinstance(value, str):
            found[int(place.partition("-")[0])] = math.nan if value is None else float(value)
    return [found[number] for number in sorted(found)]
