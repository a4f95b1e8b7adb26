"""Moving average batch normalization in float64, from Yan et al. 2020, algorithm 1."""

import torch

KIND = "features"
OPTIONS = [
    {},
    {"window": 2, "warmup": 0, "eps": 0.3, "momentum": 0.7},
    {"window": 1, "warmup": 3},
    {"window": 3, "warmup": 2, "affine": False, "momentum": 1},
    {"window": 2, "warmup": 4},
]
SHAPES = [
    *[(6, 5), (2, 5), (1, 5), (6, 5, 4), (2, 3, 7)],
    *[(6, 5, 4, 3), (2, 5, 4, 3), (1, 5, 4, 3), (6, 5, 1, 1), (1, 5, 1, 1)],
]
REFUSED = [
    ({}, (0, 5), r"input \(0, 5\) is an empty batch"),
    ({}, (3, 5, 0, 2), r"input \(3, 5, 0, 2\) is an empty batch"),
    ({"window": 0}, None, "norm.window=0: must be at least 1"),
    ({"warmup": -1}, None, "norm.warmup=-1: must be at least 0"),
    ({"norm_batch": 4}, None, "mabn has no option of this name"),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
]
INVARIANT = {"scale", "channel_scale"}
GRADCHECK = False


class Oracle:
    def __init__(self, channels, dims, window=16, warmup=100, eps=1e-5, momentum=0.02, affine=True):
        self.window, self.warmup, self.eps, self.momentum = window, warmup, eps, momentum
        self.parameters = {}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers = {
            "running_var": torch.ones(channels),
            "steps": torch.tensor(0),
            "past_x2": torch.zeros(window, channels),
            "past_gz": torch.zeros(window, channels),
        }

    def train(self, x):
        t = int(self.buffers["steps"]) + 1
        plain = t <= self.window or t < self.warmup
        square = self.newest_or_mean("past_x2", per_channel(x.detach() ** 2), t, plain)
        running = self.buffers["running_var"]
        r = ((square + self.eps) / (running + self.eps)) ** 0.5
        r = torch.ones_like(r) if t <= max(1000, self.warmup) else r.clip(0.2, 5.0)
        self.buffers["running_var"] = (1 - self.momentum) * running + self.momentum * square
        self.buffers["steps"] = self.buffers["steps"] + 1

        form = (-1, *[1] * (x.dim() - 2))
        z = x / ((square + self.eps) ** 0.5).reshape(form)

        def change(g):  # what flows into z leaves it without its mean product with z
            product = per_channel(g * z.detach())
            return g - z.detach() * self.newest_or_mean("past_gz", product, t, plain).reshape(form)

        z.register_hook(change)
        return self.affine(r.reshape(form) * z)

    def evaluate(self, x):
        form = (-1, *[1] * (x.dim() - 2))
        return self.affine(x / ((self.buffers["running_var"] + self.eps) ** 0.5).reshape(form))

    def newest_or_mean(self, name, newest, t, plain):
        rows = list(self.buffers[name])
        rows[t % self.window] = newest
        self.buffers[name] = torch.stack(rows)
        return newest if plain else sum(rows) / self.window

    def affine(self, y):
        if not self.parameters:
            return y
        form = (-1, *[1] * (y.dim() - 2))
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        return y * weight.reshape(form) + bias.reshape(form)


def per_channel(x):
    return x.transpose(0, 1).flatten(1).sum(1) * x.shape[1] / x.numel()
