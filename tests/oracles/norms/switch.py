"""Switchable normalization in float64, from Luo et al. 2019, equations 2 to 5."""

import torch

KIND = "features"
OPTIONS = [
    {},
    {"eps": 0.3, "momentum": 0.7},
    {"batch": False},
    {"affine": False, "momentum": 1},
    {"batch": False, "affine": False, "eps": 0.0},
]
SHAPES = [
    *[(6, 5), (2, 5), (6, 5, 4), (2, 3, 7), (1, 4, 2)],
    *[(6, 5, 4, 3), (2, 5, 4, 3), (1, 5, 4, 3), (2, 5, 1, 2), (3, 1, 2, 2)],
]
REFUSED = [
    ({}, (1, 5), r"norm=SwitchNorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (4, 1), r"input \(1, 1\) leaves 1 value per sample"),
    ({"batch": False}, (4, 1), r"leaves 1 value per sample"),
    ({}, (4, 5, 1, 1), r"input \(4, 5, 1, 1\) leaves 1 value per channel and sample"),
    ({"batch": False}, (4, 5, 1), r"input \(4, 5, 1\) leaves 1 value per channel and sample"),
    ({}, (0, 5, 2, 2), r"input \(0, 5, 2, 2\) leaves 0 values per channel"),
    ({}, (0, 5), r"input \(0, 5\) leaves 0 values per channel"),
    ({"norm_batch": "worker"}, None, "switch has no option of this name"),
    ({"batch": 1}, None, "norm.batch=1: is not true or false"),
    ({"momentum": -0.1}, None, "norm.momentum=-0.1: "),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
]
INVARIANT = {"shift", "scale"}


class Oracle:
    def __init__(self, channels, dims, eps=1e-5, momentum=0.1, batch=True, affine=True):
        self.dims, self.eps, self.momentum, self.batch = dims, eps, momentum, batch
        members = (3 if dims else 2) - (not batch)
        self.parameters, self.buffers = {}, {}
        for name in ("mean_weight", "var_weight"):
            self.parameters[name] = torch.ones(members, requires_grad=True)
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        if batch:
            self.buffers["running_mean"] = torch.zeros(channels)
            self.buffers["running_var"] = torch.zeros(channels)
            self.buffers["steps"] = torch.tensor(0)

    def train(self, x):
        members = self.members(x)
        if self.batch:
            for name, new in zip(("running_mean", "running_var"), members[-1], strict=True):
                old, new = self.buffers[name], new.detach().flatten()
                self.buffers[name] = (1 - self.momentum) * old + self.momentum * new
            self.buffers["steps"] = self.buffers["steps"] + 1
        return self.mixed(x, members)

    def evaluate(self, x):
        members = self.members(x)
        if self.batch:
            names = "running_mean", "running_var"
            members[-1] = tuple(self.buffers[name].unsqueeze(0) for name in names)
        return self.mixed(x, members)

    def members(self, x):
        """Mean and variance of each member, to be broadcast over (N, C)."""
        if not self.dims:
            axes = (1, 0) if self.batch else (1,)
            return [unbiased(x, axis) for axis in axes]
        mean, var = unbiased(x.flatten(2), 2)
        mean, var = mean.squeeze(2), var.squeeze(2)
        second = var + mean**2
        found = [(mean, var)]
        for axis in (1, 0) if self.batch else (1,):
            joined = mean.mean(axis, keepdim=True)
            found.append((joined, second.mean(axis, keepdim=True) - joined**2))
        return found

    def mixed(self, x, members):
        shares, var_shares = (
            torch.exp(self.parameters[name]) / torch.exp(self.parameters[name]).sum()
            for name in ("mean_weight", "var_weight")
        )
        mean = sum(share * mean for share, (mean, _) in zip(shares, members, strict=True))
        var = sum(share * var for share, (_, var) in zip(var_shares, members, strict=True))
        form = [1] * self.dims
        mean, var = mean.reshape(*mean.shape, *form), var.reshape(*var.shape, *form)
        y = (x - mean) / (var + self.eps) ** 0.5
        if "weight" in self.parameters:
            y = y * self.parameters["weight"].reshape(-1, *form)
            y = y + self.parameters["bias"].reshape(-1, *form)
        return y


def unbiased(x, axis):
    mean = x.sum(axis, keepdim=True) / x.shape[axis]
    return mean, ((x - mean) ** 2).sum(axis, keepdim=True) / max(x.shape[axis] - 1, 1)
