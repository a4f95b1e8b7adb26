"""Before pre-training, which `test_pretrain` is about, the weights of another initializer."""

import math

OPTIONS = [{}, {"base": "lecun_normal"}]
REFUSED = [
    ({"base": "nobody"}, r"init\.base=nobody: is none of constant, default, .*, zeros"),
    ({"base": "lsuv"}, r"init\.base=lsuv: is none of"),
    ({"base": "fixup"}, r"init\.base=fixup: is none of"),
    ({"base": "autoencoder"}, r"init\.base=autoencoder: is none of"),
    ({"noise": 1.0}, r"init\.noise=1\.0: .*below 1"),
    ({"lr": 0.0}, r"init\.lr=0\.0: .*above 0"),
    ({"batch": 1}, r"init\.batch=1: must be in 2"),
]
SQUARED_GAINS = {"relu": 2, "leaky_relu": 2 / 1.0001, "tanh": 25 / 9, "identity": 1}


def spread(shape, act, base="kaiming_normal"):
    squared = SQUARED_GAINS[act] if base == "kaiming_normal" else 1
    return math.sqrt(squared / math.prod(shape[1:])), None
