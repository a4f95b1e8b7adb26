"""Muon in numpy, one parameter at a time, from Jordan et al. 2024, and with torch's own Adam."""

import numpy as np
import torch

OPTIONS = [
    {},
    {"momentum": 0.8, "nesterov": False, "ns_steps": 3},
    {"weight_decay": 0.1, "adam_lr": 0.01},
]
CLOSE = 1e-4  # in float32: five times the slope 3.44 multiplies what rounding differs by
CALLS = 110  # some 40 for each matrix
REFUSED = [
    ({"momentum": 1.0}, r"optimizer\.momentum=1\.0: .*at least 0 and below 1"),
    ({"ns_steps": 0}, r"optimizer\.ns_steps=0: .*1 \.\. 99"),
]


class Reference:
    """The loop of the reference in the precision of the parameters, torch's Adam for the rest."""

    def __init__(self, groups, lr, momentum=0.95, nesterov=True, ns_steps=5, adam_lr=1e-3):
        self.matrices, others = groups[0]["params"], groups[1]["params"]
        self.decay = groups[0]["weight_decay"]
        rate = adam_lr * lr / 0.02
        self.adam = torch.optim.Adam(others, lr=rate, betas=(0.9, 0.95), eps=1e-10, fused=True)
        self.lr, self.momentum, self.nesterov, self.count = lr, momentum, nesterov, ns_steps
        self.buffers = [torch.zeros_like(each) for each in self.matrices]

    @torch.no_grad()
    def step(self):
        for weight, buffer in zip(self.matrices, self.buffers, strict=True):
            weight *= 1 - self.lr * self.decay
            buffer.lerp_(weight.grad, 1 - self.momentum)
            update = weight.grad.lerp(buffer, self.momentum) if self.nesterov else buffer
            x = update.flatten(1)
            tall = x.shape[0] > x.shape[1]
            x = x.T if tall else x
            x = x / x.norm()
            for _ in range(self.count):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = x.T if tall else x
            scale = max(1, x.shape[0] / x.shape[1]) ** 0.5
            weight.sub_(x.reshape(weight.shape), alpha=self.lr * scale)
        self.adam.step()

    def zero_grad(self):
        for weight in self.matrices:
            weight.grad = None
        self.adam.zero_grad()


def twin(groups, lr, **options):
    return Reference(groups, lr, **options)


class Oracle:
    def __init__(self, p, momentum=0.95, nesterov=True, ns_steps=5, adam_lr=1e-3, weight_decay=0.0):
        self.p, self.m, self.t = p, np.zeros_like(p), 0
        self.second = np.zeros_like(p)
        self.momentum, self.nesterov, self.count = momentum, nesterov, ns_steps
        self.adam_lr, self.weight_decay = adam_lr, weight_decay

    def step(self, g, lr, decayed):
        self.t += 1
        self.p = self.p * (1 - (lr * self.weight_decay if decayed else 0))
        self.p = self.p - (self.adam(g, lr) if g.ndim < 2 else self.muon(g, lr))

    def adam(self, g, lr):
        self.m = 0.9 * self.m + 0.1 * g
        self.second = 0.95 * self.second + 0.05 * g * g
        size = np.sqrt(self.second / (1 - 0.95**self.t)) + 1e-10
        return lr * self.adam_lr / 0.02 * self.m / (1 - 0.9**self.t) / size

    def muon(self, g, lr):
        """By the singular values alone, on which the iteration is s -> a s + b s^3 + c s^5."""
        self.m = self.momentum * self.m + (1 - self.momentum) * g
        update = self.momentum * self.m + (1 - self.momentum) * g if self.nesterov else self.m
        left, values, right = np.linalg.svd(update.reshape(len(g), -1), full_matrices=False)
        values = values / np.sqrt((values**2).sum())
        for _ in range(self.count):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        scale = max(1, len(g) / (g.size / len(g))) ** 0.5
        return lr * scale * ((left * values) @ right).reshape(g.shape)
