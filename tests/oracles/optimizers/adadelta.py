"""Adadelta in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [{}, {"rho": 0.5, "eps": 1e-3}, {"weight_decay": 0.1}]
CALLS = 13
REFUSED = [
    ({"rho": 1.0}, r"optimizer\.rho=1\.0: .*at least 0 and below 1"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0: .*above 0"),
    ({"weight_decay": -1.0}, r"weight_decay=-1\.0: .*0 \.\. 1e"),
]


def twin(groups, lr, **options):
    return torch.optim.Adadelta(groups, lr=lr, **options)


class Oracle:
    def __init__(self, p, rho=0.9, eps=1e-6, weight_decay=0.0):
        self.p, self.rho, self.eps, self.weight_decay = p, rho, eps, weight_decay
        self.gradients, self.updates = np.zeros_like(p), np.zeros_like(p)

    def step(self, g, lr, decayed):
        def rms(mean_square):
            return np.sqrt(mean_square + self.eps)

        g = g + (self.weight_decay if decayed else 0) * self.p
        self.gradients = self.rho * self.gradients + (1 - self.rho) * g**2
        update = -rms(self.updates) / rms(self.gradients) * g
        self.updates = self.rho * self.updates + (1 - self.rho) * update**2
        self.p = self.p + lr * update
