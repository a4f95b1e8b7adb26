"""Adagrad in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"lr_decay": 0.1},
    {"start": 0.5, "eps": 1e-3},
    {"weight_decay": 0.1},
]
REFUSED = [
    ({"lr_decay": -0.1}, r"optimizer\.lr_decay=-0\.1: .*0 \.\. 1e"),
    ({"start": -1.0}, r"optimizer\.start=-1\.0: .*0 \.\. 1e"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0: .*above 0"),
]


def twin(groups, lr, lr_decay=0.0, start=0.0, eps=1e-10):
    return torch.optim.Adagrad(
        groups, lr=lr, lr_decay=lr_decay, initial_accumulator_value=start, eps=eps
    )


class Oracle:
    def __init__(self, p, lr_decay=0.0, start=0.0, eps=1e-10, weight_decay=0.0):
        self.p, self.t, self.total = p, 0, np.full_like(p, start)
        self.lr_decay, self.eps, self.weight_decay = lr_decay, eps, weight_decay

    def step(self, g, lr, decayed):
        g = g + (self.weight_decay if decayed else 0) * self.p
        self.total = self.total + g * g
        rate = lr / (1 + self.t * self.lr_decay)
        self.t += 1
        self.p = self.p - rate * g / (np.sqrt(self.total) + self.eps)
