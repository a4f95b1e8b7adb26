"""Batch-instance normalization in float64, from Nam & Kim 2018."""

import torch
from oracles.norms.bn import chunks, like, moments

KIND = "features"
OPTIONS = [
    {},
    {"eps": 0.3, "momentum": 0.7},
    {"affine": False, "momentum": 0.0},
    {"norm_batch": "global"},
    {"norm_batch": 2},
    {"norm_batch": 4, "momentum": 0.4, "eps": 0.2},
]
SHAPES = [(6, 5, 4, 3), (6, 5, 4), (2, 3, 7), (2, 5, 4, 3), (1, 5, 4, 3), (6, 5, 1, 2)]
CASES = [
    *[({}, shape) for shape in SHAPES],
    *[(options, shape) for options in OPTIONS[1:] for shape in SHAPES[:3]],
    *[({"norm_batch": size}, (7, 3, 2, 2)) for size in (1, 3, 5)],
]
REFUSED = [
    ({}, (4, 5), "norm=bin: has no instance statistics"),
    ({}, (4, 5, 1, 1), r"input \(4, 5, 1, 1\) leaves 1 value per channel and sample"),
    ({}, (4, 5, 1), r"input \(4, 5, 1\) leaves 1 value per channel and sample"),
    ({}, (0, 5, 4, 4), "leaves 0 values per channel"),
    ({"norm_batch": 0}, None, "norm.norm_batch=0: "),
    ({"momentum": None}, None, "norm.momentum=.*: is not "),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
]
# At the gate's start, 1, it is batch normalization.
INVARIANT = {"shift", "scale", "channel_shift", "channel_scale"}


class Oracle:
    def __init__(self, channels, dims, eps=1e-5, momentum=0.1, affine=True, norm_batch="worker"):
        self.eps, self.momentum, self.norm_batch = eps, momentum, norm_batch
        self.parameters = {"gate": torch.ones(channels, requires_grad=True)}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers = {
            "running_mean": torch.zeros(channels),
            "running_var": torch.ones(channels),
            "steps": torch.tensor(0),
        }

    def train(self, x):
        y, sets = torch.empty_like(x), chunks(len(x), self.norm_batch)
        for rows in sets:
            for c in range(x.shape[1]):
                mean, var, count = moments(x[rows, c])
                y[rows, c] = (x[rows, c] - mean) / torch.sqrt(var + self.eps)
                weight = self.momentum / len(sets)
                for name, new in (("mean", mean), ("var", var * count / (count - 1))):
                    value = self.buffers[f"running_{name}"]
                    value[c] = (1 - weight) * value[c] + weight * new.detach()
        self.buffers["steps"] += 1
        return self.mixed(x, y)

    def evaluate(self, x):
        mean, var = self.buffers["running_mean"], self.buffers["running_var"]
        return self.mixed(x, (x - like(mean, x)) / torch.sqrt(like(var, x) + self.eps))

    def mixed(self, x, batch):
        rows = []
        for sample in x:
            parts = []
            for values in sample:
                mean, var, _ = moments(values)
                parts.append((values - mean) / torch.sqrt(var + self.eps))
            rows.append(torch.stack(parts))
        gate = like(self.parameters["gate"], x)
        y = gate * batch + (1 - gate) * torch.stack(rows)
        if "weight" in self.parameters:
            y = y * like(self.parameters["weight"], x) + like(self.parameters["bias"], x)
        return y

    def step(self):
        gate = self.parameters["gate"].data
        gate[gate < 0] = 0
        gate[gate > 1] = 1
