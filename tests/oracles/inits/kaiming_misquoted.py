"""The misquoted std 2 / sqrt(fan_in) in place of sqrt(2 / fan_in): Var[w] = 4 / fan_in."""

import math

OPTIONS = [{}]


def spread(shape, act):
    return math.sqrt(4 / math.prod(shape[1:])), None
