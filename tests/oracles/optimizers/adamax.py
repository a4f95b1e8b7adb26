"""Adamax in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [{}, {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3}, {"weight_decay": 0.1}]
REFUSED = [
    ({"beta1": 1.0}, r"optimizer\.beta1=1\.0: .*at least 0 and below 1"),
    ({"beta2": -0.1}, r"optimizer\.beta2=-0\.1: .*at least 0 and below 1"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0: .*above 0"),
]


def twin(groups, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    return torch.optim.Adamax(groups, lr=lr, betas=(beta1, beta2), eps=eps)


class Oracle:
    def __init__(self, p, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        self.p, self.t, self.first, self.largest = p, 0, np.zeros_like(p), np.zeros_like(p)
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay

    def step(self, g, lr, decayed):
        self.t += 1
        g = g + (self.weight_decay if decayed else 0) * self.p
        self.first = self.beta1 * self.first + (1 - self.beta1) * g
        self.largest = np.maximum(self.beta2 * self.largest, abs(g) + self.eps)
        self.p = self.p - lr / (1 - self.beta1**self.t) * self.first / self.largest
