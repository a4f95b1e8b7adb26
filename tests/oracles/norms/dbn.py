"""Decorrelated batch normalization in float64, from Huang et al. 2018, algorithms 1 and 2."""

import torch

KIND = "features"
OPTIONS = [
    {},
    {"groups": 2, "eps": 0.3},
    {"groups": 3, "momentum": 0.7},
    {"groups": 6, "momentum": 1, "eps": 0.0},
    {"affine": False, "momentum": 0.0},
]
SHAPES = [(24, 6), (7, 6, 5), (6, 6, 4, 3), (1, 6, 6, 5), (30, 6, 1, 1), (9, 6, 2, 2)]
CASES = [
    *[({}, shape) for shape in [(12, 3), (5, 5, 7), (3, 7, 5, 4)]],
    *[(options, shape) for options in OPTIONS for shape in SHAPES],
    *[({"groups": 3}, shape) for shape in [(3, 6), (2, 6, 3), (1, 6, 3, 1)]],  # m = 3, d = 2
]
REFUSED = [
    ({}, (6, 6), r"norm=Decorrelated.*input \(6, 6\) leaves 6 values .* 6 channels, at least 7"),
    ({}, (1, 6, 2, 2), r"input \(1, 6, 2, 2\) leaves 4 values per channel"),
    ({"groups": 6}, (1, 6), r"input \(1, 6\) leaves 1 value per channel .* at least 2 are"),
    ({"groups": 6}, (0, 6, 3), r"input \(0, 6, 3\) leaves 0 values"),
    ({"groups": 4}, (24, 6), r"norm.groups=4: 6 channels do not divide .* 1, 2, 3, 6\)"),
    ({"groups": 7}, (24, 6), "6 channels do not divide into 7 groups"),
    ({"groups": None}, None, "norm.groups=.*: is not an integer"),
    ({"momentum": None}, None, "norm.momentum=.*: is not a finite number"),
    ({"eps": -1.0}, None, "norm.eps=-1.0: "),
    ({"norm_batch": 4}, None, "dbn has no option of this name"),
]
INVARIANT = {"shift", "scale", "channel_shift"}


class Oracle:
    def __init__(self, channels, dims, groups=1, eps=1e-5, momentum=0.1, affine=True):
        self.groups, self.eps, self.momentum = groups, eps, momentum
        self.parameters, width = {}, channels // groups
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers = {
            "running_mean": torch.zeros(groups, width, 1),
            "running_proj": torch.stack([torch.eye(width)] * groups),
            "steps": torch.tensor(0),
        }

    def train(self, x):
        parts = by_group(x, self.groups)
        means = [part.sum(1, keepdim=True) / part.shape[1] for part in parts]
        projections = []
        for part, mean in zip(parts, means, strict=True):
            z = part - mean
            cov = sum(torch.outer(column, column) for column in z.T) / z.shape[1]
            projections.append(
                self.projection(cov + self.eps * torch.eye(len(cov), dtype=cov.dtype))
            )
        for name, new in (("running_mean", means), ("running_proj", projections)):
            old, new = self.buffers[name], torch.stack(new).detach()
            self.buffers[name] = (1 - self.momentum) * old + self.momentum * new
        self.buffers["steps"] = self.buffers["steps"] + 1
        return self.applied(x, means, projections)

    def evaluate(self, x):
        return self.applied(x, self.buffers["running_mean"], self.buffers["running_proj"])

    def projection(self, cov):
        """The inverse root by the iteration of Denman and Beavers, which needs no eigenvectors."""
        root, inverse = cov, torch.eye(len(cov), dtype=cov.dtype)
        for _ in range(40):
            root, inverse = (root + inverse.inverse()) / 2, (inverse + root.inverse()) / 2
        return inverse

    def applied(self, x, means, projections):
        parts = zip(by_group(x, self.groups), means, projections, strict=True)
        y = torch.cat([proj @ (part - mean) for part, mean, proj in parts])
        y = y.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)
        if not self.parameters:
            return y
        form = (-1, *[1] * (x.dim() - 2))
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        return y * weight.reshape(form) + bias.reshape(form)


def by_group(x, groups):
    """Cut `x` (N, C, ...) into matrices (C/groups, N*positions)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1).split(x.shape[1] // groups)
