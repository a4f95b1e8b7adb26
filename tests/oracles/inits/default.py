"""torch's default: weights and biases uniform within 1/sqrt(fan_in)."""

import math

OPTIONS = [{}]


def spread(shape, act):
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return bound / math.sqrt(3), bound


def bias_spread(shape):
    return spread(shape, "relu")
