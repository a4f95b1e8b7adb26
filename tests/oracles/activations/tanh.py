"""Hyperbolic tangent."""

import numpy as np

GAIN = 5 / 3


def forward(x):
    return (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)


def slope(x):
    return 1 - forward(x) ** 2
