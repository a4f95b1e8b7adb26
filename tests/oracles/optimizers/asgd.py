"""ASGD in numpy, one parameter at a time, and the same optimizer of torch."""

import torch

OPTIONS = [
    {},
    {"lambd": 0.1, "alpha": 1.0},
    {"t0": 3.0},
    {"weight_decay": 0.1},
]
CALLS = 16
REFUSED = [
    ({"lambd": -0.1}, r"optimizer\.lambd=-0\.1: .*0 \.\. 1e"),
    ({"alpha": -1.0}, r"optimizer\.alpha=-1\.0: .*0 \.\. 1e"),
    ({"t0": -1.0}, r"optimizer\.t0=-1\.0: .*0 \.\. 1e"),
]
QUIET = {"lambd": 0.0}


def twin(groups, lr, **options):
    return torch.optim.ASGD(groups, lr=lr, **options)


class Oracle:
    def __init__(self, p, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0):
        self.p, self.t = p, 0
        self.lambd, self.alpha, self.weight_decay = lambd, alpha, weight_decay

    def step(self, g, lr, decayed):
        g = g + (self.weight_decay if decayed else 0) * self.p
        rate = lr / (1 + self.lambd * lr * self.t) ** self.alpha
        self.t += 1
        self.p = self.p - rate * (self.lambd * self.p + g)
