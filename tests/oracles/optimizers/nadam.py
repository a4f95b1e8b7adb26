"""NAdam in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    {"momentum_decay": 0.1},
    {"weight_decay": 0.1},
    {"weight_decay": 0.5, "decoupled_weight_decay": True},
]
CALLS = 14
REFUSED = [
    ({"beta1": 1.0}, r"optimizer\.beta1=1\.0: .*at least 0 and below 1"),
    ({"momentum_decay": -0.1}, r"optimizer\.momentum_decay=-0\.1: .*0 \.\. 1e"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0: .*above 0"),
]


def twin(groups, lr, beta1=0.9, beta2=0.999, **options):
    return torch.optim.NAdam(groups, lr=lr, betas=(beta1, beta2), **options)


class Oracle:
    def __init__(self, p, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=4e-3, **decay):
        self.p, self.t, self.first, self.second = p, 0, np.zeros_like(p), np.zeros_like(p)
        self.beta1, self.beta2, self.eps, self.momentum_decay = beta1, beta2, eps, momentum_decay
        self.weight_decay = decay.get("weight_decay", 0.0)
        self.decoupled = decay.get("decoupled_weight_decay", False)
        self.product = 1.0  # of all momenta so far

    def momentum(self, t):
        return self.beta1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def step(self, g, lr, decayed):
        self.t += 1
        decay = self.weight_decay if decayed else 0
        shrunk = lr * decay * self.p if self.decoupled else 0
        g = g if self.decoupled else g + decay * self.p
        self.first = self.beta1 * self.first + (1 - self.beta1) * g
        self.second = self.beta2 * self.second + (1 - self.beta2) * g**2
        now, later = self.momentum(self.t), self.momentum(self.t + 1)
        self.product *= now
        ahead = later * self.first / (1 - self.product * later)
        here = (1 - now) * g / (1 - self.product)
        size = np.sqrt(self.second / (1 - self.beta2**self.t))
        self.p = self.p - shrunk - lr * (ahead + here) / (size + self.eps)
