"""EvoNorm-B0 in float64, from Liu et al. 2020, table 2."""

import torch

KIND = "activation"
OPTIONS = [
    {},
    {"eps": 0.3, "momentum": 0.7},
    {"affine": False, "momentum": 1},
    {"momentum": None},
    {"norm_batch": "global"},
    {"norm_batch": 2},
    {"norm_batch": 4, "momentum": 0.4},
]
SHAPES = [(6, 5), (2, 5), (6, 5, 4), (2, 3, 7), (6, 5, 4, 3), (2, 5, 4, 3), (6, 5, 1, 1)]
CASES = [
    *[(options, shape) for options in OPTIONS for shape in SHAPES],
    *[({}, shape) for shape in [(1, 5, 4, 3), (1, 3, 2), (3, 1, 2, 2)]],
    *[({"norm_batch": size}, (7, 3, 2, 2)) for size in (1, 3, 5, 8)],
]
REFUSED = [
    ({}, (1, 5), r"norm=BatchEvoNorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (1, 5, 1, 1), r"input \(1, 5, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 5, 2), r"input \(0, 5, 2\) leaves 0 values per channel"),
    ({"norm_batch": 1}, (4, 5), "leaves 1 value per channel and chunk"),
    ({"norm_batch": "all"}, None, "norm.norm_batch=all: "),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"eps": -1e-3}, None, "norm.eps=-0.001: "),
]
INVARIANT = {"scale", "channel_scale"}


class Oracle:
    def __init__(self, channels, dims, eps=1e-3, momentum=0.1, affine=True, norm_batch="worker"):
        self.eps, self.momentum, self.norm_batch = eps, momentum, norm_batch
        self.parameters = {"v": torch.ones(channels, requires_grad=True)}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers = {"running_var": torch.ones(channels), "steps": torch.tensor(0)}

    def train(self, x):
        size = len(x) if isinstance(self.norm_batch, str) else self.norm_batch
        count = -(-len(x) // size)
        rows = -(-len(x) // count)
        outputs, steps = [], self.buffers["steps"]
        found = []
        for chunk in x.split(rows):
            axes = (0, *range(2, x.dim()))
            values = chunk.numel() // chunk.shape[1]
            var = variance(chunk, axes)
            found.append(var.detach().flatten() * values / (values - 1))
            outputs.append(self.divided(chunk, var))
        if self.momentum is None:
            new = sum(found) / count
            self.buffers["running_var"] = (self.buffers["running_var"] * steps + new) / (steps + 1)
        else:
            share = self.momentum / count
            for new in found:
                old = self.buffers["running_var"]
                self.buffers["running_var"] = (1 - share) * old + share * new
        self.buffers["steps"] = steps + 1
        return torch.cat(outputs)

    def evaluate(self, x):
        return self.divided(x, self.buffers["running_var"].reshape(1, -1, *[1] * (x.dim() - 2)))

    def divided(self, x, var_batch):
        form = (-1, *[1] * (x.dim() - 2))
        own = variance(x, tuple(range(2, x.dim()))) if x.dim() > 2 else torch.zeros_like(x)
        linear = self.parameters["v"].reshape(form) * x + (own + self.eps) ** 0.5
        floor = (var_batch + self.eps) ** 0.5
        y = x / torch.where(linear > floor, linear, floor)
        if "weight" in self.parameters:
            y = y * self.parameters["weight"].reshape(form)
            y = y + self.parameters["bias"].reshape(form)
        return y


def variance(x, axes):
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    mean = x.sum(axes, keepdim=True) / count
    return ((x - mean) ** 2).sum(axes, keepdim=True) / count
