"""Adam in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"beta1": 0.0},
    {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    {"weight_decay": 0.1},
]
REFUSED = [
    ({"beta1": 1.0}, r"optimizer\.beta1=1\.0: .*at least 0 and below 1"),
    ({"beta2": -0.1}, r"optimizer\.beta2=-0\.1: .*at least 0 and below 1"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0: .*above 0"),
    ({"weight_decay": -1.0}, r"weight_decay=-1\.0: .*0 \.\. 1e"),
]


def twin(groups, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return torch.optim.Adam(groups, lr=lr, betas=(beta1, beta2), eps=eps)


class Oracle:
    def __init__(self, p, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        self.p, self.t = p, 0
        self.first, self.second = np.zeros_like(p), np.zeros_like(p)
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay

    def step(self, g, lr, decayed):
        self.t += 1
        g = g + (self.weight_decay if decayed else 0) * self.p
        self.first = self.beta1 * self.first + (1 - self.beta1) * g
        self.second = self.beta2 * self.second + (1 - self.beta2) * g * g
        unbiased = self.first / (1 - self.beta1**self.t)
        size = np.sqrt(self.second / (1 - self.beta2**self.t))
        self.p = self.p - lr * unbiased / (size + self.eps)
