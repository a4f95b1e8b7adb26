"""Group normalization in float64, from Wu & He 2018, equations 1 to 7."""

import torch

KIND = "features"
OPTIONS = [{}, {"groups": 1}, {"groups": 3}, {"groups": 9, "eps": 0.3}, {"affine": False}]
OPTIONS += [{"group_size": 3}]
SHAPES = [
    *[(6, 9), (1, 9), (6, 9, 4), (2, 9, 7)],
    *[(6, 9, 4, 3), (2, 9, 4, 3), (1, 9, 4, 3), (2, 9, 1, 2)],
]
# The divisor nearest to 8 with two channels a group; 6 and 10 are equally near, the larger counts.
NULL = {9: 3, 8: 4, 16: 8, 5: 1, 100: 10, 30: 10}
CASES = [
    *[(options, shape) for options in OPTIONS[:3] for shape in [*SHAPES, (6, 9, 1, 1)]],
    *[(OPTIONS[3], shape) for shape in SHAPES[2:]],
    *[(OPTIONS[4], shape) for shape in SHAPES],
    *[(OPTIONS[5], shape) for shape in [(6, 9), (2, 12, 4, 3)]],
    *[({}, shape) for shape in [(2, 8), (2, 16, 1, 1), (3, 5, 2), (2, 100), (2, 30)]],
]
REFUSED = [
    ({"groups": 4}, (2, 6, 4, 4), r"norm.groups=4: 6 channels .* \(divisors: 1, 2, 3, 6\)"),
    ({"groups": 12}, (2, 6), "6 channels do not divide into 12 groups"),
    ({"group_size": 4}, (2, 6), r"norm.group_size=4: .* groups of 4 .*\n  try: norm.group_size=3"),
    ({"group_size": 3, "groups": 2}, None, "norm.group_size=3: norm.groups=2 says it too"),
    ({"groups": 0}, None, "norm.groups=0: must be at least 1"),
    ({"groups": 6}, (4, 6), r"leaves 1 value per group"),
    ({"groups": 6}, (4, 6, 1, 1), r"input \(4, 6, 1, 1\) leaves 1 value per group"),
    ({}, (4, 1), "leaves 1 value per group"),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: must be at least 0"),
    ({"groups": 2.0}, None, "norm.groups=2.0: is not an integer or null"),
]
INVARIANT = {"shift", "scale", "sample_shift", "sample_scale"}


class Oracle:
    def __init__(self, channels, dims, groups=None, group_size=None, eps=1e-5, affine=True):
        self.groups = channels // group_size if group_size else groups or NULL[channels]
        self.eps = eps
        self.parameters, self.buffers = {}, {}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)

    def train(self, x):
        rows = []
        for sample in x:
            parts = []
            for part in sample.split(len(sample) // self.groups):
                mean = part.sum() / part.numel()
                var = ((part - mean) ** 2).sum() / part.numel()
                parts.append((part - mean) / (var + self.eps) ** 0.5)
            row = torch.cat(parts)
            if self.parameters:
                form = (-1, *[1] * (x.dim() - 2))
                row = row * self.parameters["weight"].reshape(form)
                row = row + self.parameters["bias"].reshape(form)
            rows.append(row)
        return torch.stack(rows)

    evaluate = train
