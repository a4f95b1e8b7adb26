"""Mishkin & Matas 2016: before it has seen data, orthonormal weights."""

import math

import numpy as np

OPTIONS = [{}, {"tol": 0.01}]
REFUSED = [
    ({"tol": 0.0}, r"init\.tol=0\.0: .*above 0"),
    ({"tol": 1.0}, r"init\.tol=1\.0: .*below 1"),
]


def spread(shape, act, tol=0.1):
    return math.sqrt(1 / max(shape[0], math.prod(shape[1:]))), None


def exact(weight, act, tol=0.1):
    rows = weight.reshape(len(weight), -1)
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    np.testing.assert_allclose(gram, np.eye(len(gram)), rtol=0, atol=1e-12)
