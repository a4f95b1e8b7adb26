"""Logistic function."""

import numpy as np

GAIN = 1.0


def forward(x):
    return 1 / (1 + np.exp(-x))


def slope(x):
    return forward(x) * (1 - forward(x))
