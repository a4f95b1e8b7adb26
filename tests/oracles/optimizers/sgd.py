"""SGD with momentum in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"momentum": 0.0},
    {"momentum": 0.5, "nesterov": True},
    {"weight_decay": 0.1},
    {"weight_decay": 0.0},
    {"momentum": 0.0, "weight_decay": 0.1},
]
REFUSED = [
    ({"momentum": 1.0}, r"optimizer\.momentum=1\.0: .*at least 0 and below 1"),
    ({"nesterov": True, "momentum": 0.0}, "needs a momentum above 0"),
    ({"weight_decay": -1.0}, r"weight_decay=-1\.0: .*0 \.\. 1e"),
    ({"lr": 0.0}, r"optimizer\.lr=0\.0: .*above 0"),
    ({"lr": "fast"}, "optimizer.lr=fast: is not a finite number"),
]


def twin(groups, lr, momentum=0.9, nesterov=False):
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


class Oracle:
    def __init__(self, p, momentum=0.9, nesterov=False, weight_decay=5e-4):
        self.p, self.velocity = p, np.zeros_like(p)
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay

    def step(self, g, lr, decayed):
        d = g + (self.weight_decay if decayed else 0) * self.p
        self.velocity = self.momentum * self.velocity + d
        ahead = d + self.momentum * self.velocity if self.nesterov else self.velocity
        self.p = self.p - lr * ahead
