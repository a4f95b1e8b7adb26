"""Saxe et al. 2014: rows or columns, whichever are fewer, orthogonal and of one length."""

import math

import numpy as np

OPTIONS = [{}, {"gain": 1.0}, {"gain": 0.3}]
REFUSED = [({"gain": 0.0}, r"init\.gain=0\.0: .*above 0")]
SQUARED_GAINS = {"relu": 2, "leaky_relu": 2 / 1.0001, "tanh": 25 / 9, "identity": 1}


def squared_gain(act, gain):
    return SQUARED_GAINS[act] if gain is None else gain**2


def spread(shape, act, gain=None):
    longer = max(shape[0], math.prod(shape[1:]))
    return math.sqrt(squared_gain(act, gain) / longer), None


def exact(weight, act, gain=None):
    rows = weight.reshape(len(weight), -1)
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    expected = squared_gain(act, gain) * np.eye(len(gram))
    np.testing.assert_allclose(gram, expected, rtol=0, atol=1e-12)
