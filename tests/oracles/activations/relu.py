"""max(x, 0), and 1/2 of all variance lost by it."""

import numpy as np

GAIN = 2**0.5


def forward(x):
    return np.where(x > 0, x, 0.0)


def slope(x):
    return np.where(x > 0, 1.0, 0.0)
