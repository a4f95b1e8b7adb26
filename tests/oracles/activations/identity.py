"""No activation."""

import numpy as np

GAIN = 1.0


def forward(x):
    return x


def slope(x):
    return np.ones_like(x)
