"""x times the distribution function of the standard normal."""

import numpy as np
from scipy.special import ndtr

GAIN = 2**0.5
TORCH = "relu"  # whose gain torch has


def forward(x):
    return x * ndtr(x)


def slope(x):
    return ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
