"""RMSprop in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"alpha": 0.5, "eps": 1e-3},
    {"momentum": 0.9},
    {"centered": True, "eps": 1e-3},
    {"centered": True, "momentum": 0.5, "eps": 1e-3},
    {"weight_decay": 0.1},
]
REFUSED = [
    ({"alpha": 1.0}, r"optimizer\.alpha=1\.0: .*at least 0 and below 1"),
    ({"momentum": -0.1}, r"optimizer\.momentum=-0\.1: .*at least 0 and below 1"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0: .*above 0"),
    ({"centered": 1}, "optimizer.centered=1: is not true or false"),
]


def twin(groups, lr, **options):
    return torch.optim.RMSprop(groups, lr=lr, **options)


class Oracle:
    def __init__(self, p, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, weight_decay=0.0):
        self.p, self.alpha, self.eps, self.momentum = p, alpha, eps, momentum
        self.centered, self.weight_decay = centered, weight_decay
        self.square, self.mean, self.velocity = (np.zeros_like(p) for _ in range(3))

    def step(self, g, lr, decayed):
        g = g + (self.weight_decay if decayed else 0) * self.p
        self.square = self.alpha * self.square + (1 - self.alpha) * g * g
        self.mean = self.alpha * self.mean + (1 - self.alpha) * g
        size = self.square - (self.mean**2 if self.centered else 0)
        self.velocity = self.momentum * self.velocity + g / (np.sqrt(size) + self.eps)
        self.p = self.p - lr * self.velocity
