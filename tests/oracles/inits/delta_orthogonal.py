"""Xiao et al. 2018: an orthogonal matrix at the central tap, zeros elsewhere."""

import numpy as np

OPTIONS = [{}, {"gain": 1.0}, {"gain": 0.3}]
REFUSED = [({"gain": 0.0}, r"init\.gain=0\.0: .*above 0")]
SQUARED_GAINS = {"relu": 2, "leaky_relu": 2 / 1.0001, "tanh": 25 / 9, "identity": 1}


def centre(weight):
    """The matrix at the central tap: of a dense layer the only one."""
    return weight[(..., *(size // 2 - (size % 2 == 0) for size in weight.shape[2:]))]


def spread(shape, act, gain=None):
    squared = SQUARED_GAINS[act] if gain is None else gain**2
    return np.sqrt(squared / max(shape[:2])) if len(shape) == 2 else 0.0, None


def exact(weight, act, gain=None):
    squared = SQUARED_GAINS[act] if gain is None else gain**2
    matrix = centre(weight)
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(gram, squared * np.eye(len(gram)), rtol=0, atol=1e-12)
    assert np.count_nonzero(weight) == matrix.size


def second_moment(shape, act, gain=None):
    """The mean square of outputs for unit noise: |H|^2 / out."""
    squared = SQUARED_GAINS[act] if gain is None else gain**2
    return squared * min(shape[:2]) / shape[0]
