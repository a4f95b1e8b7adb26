"""What no file has a name for starts as He et al. 2015, Var[w] = gain^2 / fan_in.

What a file has is tested in `test_pretrained`.
"""

import math

OPTIONS = [{}]
SQUARED_GAINS = {"relu": 2, "leaky_relu": 2 / 1.0001, "tanh": 25 / 9, "identity": 1}


def spread(shape, act):
    return math.sqrt(SQUARED_GAINS[act] / math.prod(shape[1:])), None
