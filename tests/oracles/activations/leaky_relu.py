"""A slope of 0.01 below zero."""

import numpy as np

GAIN = (2 / 1.0001) ** 0.5


def forward(x):
    return np.where(x > 0, x, 0.01 * x)


def slope(x):
    return np.where(x > 0, 1.0, 0.01)
