"""Glorot & Bengio 2010: Var[w] = 2 / (fan_in + fan_out), uniform."""

import math

OPTIONS = [{}, {"gain": 2.5}]
REFUSED = [({"gain": -1.0}, r"init\.gain=-1\.0: .*above 0")]


def spread(shape, act, gain=1.0):
    out, fan_in = shape[0], math.prod(shape[1:])
    fan_out = out * math.prod(shape[2:])
    std = gain * math.sqrt(2 / (fan_in + fan_out))
    return std, std * math.sqrt(3)
