"""He et al. 2015: Var[w] = gain^2 / fan, uniform."""

import math

OPTIONS = [{}, {"mode": "fan_out"}, {"gain": 1.5}, {"mode": "fan_out", "gain": 1.0}]
REFUSED = [
    ({"mode": "fan_avg"}, "init.mode=fan_avg: is none of fan_in, fan_out"),
    ({"gain": 0.0}, r"init\.gain=0\.0: .*above 0"),
]
SQUARED_GAINS = {"relu": 2, "leaky_relu": 2 / 1.0001, "tanh": 25 / 9, "identity": 1}


def spread(shape, act, mode="fan_in", gain=None):
    fan = math.prod(shape[1:]) if mode == "fan_in" else shape[0] * math.prod(shape[2:])
    squared = SQUARED_GAINS[act] if gain is None else gain**2
    std = math.sqrt(squared / fan)
    return std, std * math.sqrt(3)
