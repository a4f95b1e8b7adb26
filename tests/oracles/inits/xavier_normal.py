"""Glorot & Bengio 2010: Var[w] = 2 / (fan_in + fan_out), normal."""

import math

OPTIONS = [{}, {"gain": 2.5}, {"gain": None}]
REFUSED = [({"gain": -1.0}, r"init\.gain=-1\.0: .*above 0")]
SQUARED_GAINS = {"relu": 2, "leaky_relu": 2 / 1.0001, "tanh": 25 / 9, "identity": 1}


def spread(shape, act, gain=1.0):
    out, fan_in = shape[0], math.prod(shape[1:])
    fan_out = out * math.prod(shape[2:])
    gain = math.sqrt(SQUARED_GAINS[act]) if gain is None else gain
    std = gain * math.sqrt(2 / (fan_in + fan_out))
    return std, None
