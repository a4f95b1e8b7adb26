"""RAdam in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    {"beta2": 0.6},  # never rectified: the average is too short
    {"weight_decay": 0.1},
    {"weight_decay": 0.5, "decoupled_weight_decay": True},
]
CALLS = 15
REFUSED = [
    ({"beta1": 1.0}, r"optimizer\.beta1=1\.0: .*at least 0 and below 1"),
    ({"beta2": -0.1}, r"optimizer\.beta2=-0\.1: .*at least 0 and below 1"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0: .*above 0"),
]


def twin(groups, lr, beta1=0.9, beta2=0.999, **options):
    return torch.optim.RAdam(groups, lr=lr, betas=(beta1, beta2), **options)


class Oracle:
    def __init__(self, p, beta1=0.9, beta2=0.999, eps=1e-8, **decay):
        self.p, self.t, self.first, self.second = p, 0, np.zeros_like(p), np.zeros_like(p)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.weight_decay = decay.get("weight_decay", 0.0)
        self.decoupled = decay.get("decoupled_weight_decay", False)

    def step(self, g, lr, decayed):
        self.t += 1
        decay = self.weight_decay if decayed else 0
        shrunk = lr * decay * self.p if self.decoupled else 0
        g = g if self.decoupled else g + decay * self.p
        self.first = self.beta1 * self.first + (1 - self.beta1) * g
        self.second = self.beta2 * self.second + (1 - self.beta2) * g**2
        unbiased = self.first / (1 - self.beta1**self.t)
        rest = 1 - self.beta2**self.t
        longest = 2 / (1 - self.beta2) - 1
        length = longest - 2 * self.t * (1 - rest) / rest
        if length > 5:
            variance = (length - 4) * (length - 2) * longest
            variance /= (longest - 4) * (longest - 2) * length
            unbiased = unbiased * np.sqrt(variance * rest) / (np.sqrt(self.second) + self.eps)
        self.p = self.p - shrunk - lr * unbiased
