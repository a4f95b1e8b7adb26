"""Rprop in numpy, one parameter at a time, and the same optimizer of torch."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"etaminus": 0.7, "etaplus": 1.5},
    {"step_min": 1e-3, "step_max": 2e-2},
]
CALLS = 24  # of torch.optim.rprop in torch 2.11; fewer in later ones
REFUSED = [
    ({"etaminus": 1.0}, r"optimizer\.etaminus=1\.0: .*above 0 and below 1"),
    ({"etaplus": 1.0}, r"optimizer\.etaplus=1\.0: .*above 1"),
    ({"step_min": 2.0, "step_max": 1.0}, r"step_min=2\.0: is above step_max=1\.0"),
]


def twin(groups, lr, etaminus=0.5, etaplus=1.2, step_min=1e-6, step_max=50.0):
    return torch.optim.Rprop(
        groups, lr=lr, etas=(etaminus, etaplus), step_sizes=(step_min, step_max)
    )


class Oracle:
    def __init__(self, p, etaminus=0.5, etaplus=1.2, step_min=1e-6, step_max=50.0):
        self.p, self.size, self.before = p, np.ones_like(p), np.zeros_like(p)
        self.etaminus, self.etaplus, self.least, self.most = etaminus, etaplus, step_min, step_max
        self.lr = 1.0

    def step(self, g, lr, decayed):
        agree = np.sign(g * self.before)
        factor = np.where(agree > 0, self.etaplus, np.where(agree < 0, self.etaminus, 1.0))
        self.size = np.clip(self.size * lr / self.lr * factor, self.least, self.most)
        self.lr = lr
        g = np.where(agree < 0, 0.0, g)
        self.p = self.p - self.size * np.sign(g)
        self.before = g
