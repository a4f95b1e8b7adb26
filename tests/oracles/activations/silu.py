"""x times the logistic function."""

import numpy as np

GAIN = 2**0.5
TORCH = "relu"  # whose gain torch has


def forward(x):
    return x / (1 + np.exp(-x))


def slope(x):
    return (1 + np.exp(-x) + x * np.exp(-x)) / (1 + np.exp(-x)) ** 2
