"""Glorot & Bengio 2010, uniform, for layers that are no map from state to state.

Those are looked at in a recurrent net, see `tests/inits`.
"""

import math

OPTIONS = [{}]


def spread(shape, act):
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    bound = math.sqrt(6 / (fan_in + fan_out))
    return bound / math.sqrt(3), bound
