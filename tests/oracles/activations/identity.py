"""No activation."""

import numpy as np

GAIN = 1.0
TORCH = "linear"  # whose gain torch has


def forward(x):
    return x


def slope(x):
    return np.ones_like(x)
