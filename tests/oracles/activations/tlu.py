"""max(x, tau) with tau = 0 at the start."""

import numpy as np

GAIN = 2**0.5
TORCH = "relu"  # whose gain torch has


def forward(x):
    return np.maximum(x, 0.0)


def slope(x):
    return np.where(x > 0, 1.0, 0.0)
