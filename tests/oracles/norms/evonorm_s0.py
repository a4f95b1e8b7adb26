"""EvoNorm-S0 in float64, from Liu et al. 2020, table 2."""

import torch

KIND = "activation"
OPTIONS = [{}, {"groups": 1}, {"groups": 3, "eps": 0.3}, {"affine": False}]
SHAPES = [
    *[(6, 9), (1, 9), (6, 9, 4), (2, 9, 7), (6, 9, 4, 3), (2, 9, 4, 3), (1, 9, 4, 3)],
    *[(6, 9, 1, 1), (2, 9, 1, 2)],
]
NULL = {9: 3, 8: 4, 5: 1}  # the divisor nearest to 8 with two channels a group
CASES = [
    *[(options, shape) for options in OPTIONS for shape in SHAPES],
    *[({}, (2, 8, 3)), ({}, (3, 5)), ({"groups": 9}, (2, 9, 2, 2))],
]
REFUSED = [
    ({"groups": 4}, (2, 6, 4, 4), r"norm.groups=4: 6 channels .* \(divisors: 1, 2, 3, 6\)"),
    ({"groups": 0}, None, "norm.groups=0: must be at least 1"),
    ({"groups": 6}, (4, 6), "leaves 1 value per group"),
    ({"groups": 6}, (4, 6, 1, 1), r"input \(4, 6, 1, 1\) leaves 1 value per group"),
    ({}, (4, 6, 5, 5, 5), r"got shape \(4, 6, 5, 5, 5\)"),
]
INVARIANT = set()


class Oracle:
    def __init__(self, channels, dims, groups=None, eps=1e-5, affine=True):
        self.groups, self.eps = groups or NULL[channels], eps
        self.form, self.buffers = (channels, *[1] * dims), {}
        self.parameters = {"v": torch.ones(channels, requires_grad=True)}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)

    def train(self, x):
        deviations = []
        for sample in x:
            for part in sample.split(len(sample) // self.groups):
                mean = part.sum() / part.numel()
                var = ((part - mean) ** 2).sum() / part.numel()
                deviations.append((var + self.eps).sqrt().expand_as(part))
        deviation = torch.stack(deviations).reshape(x.shape)
        gate = 1 / (1 + torch.exp(-self.parameters["v"].reshape(self.form) * x))
        y = x * gate / deviation
        if "weight" not in self.parameters:
            return y
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        return y * weight.reshape(self.form) + bias.reshape(self.form)

    evaluate = train
