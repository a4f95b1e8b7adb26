"""Iterative normalization in float64, from Huang et al. 2019, algorithm 1."""

import torch
from oracles.norms import dbn

KIND = "features"
OPTIONS = [
    {},
    {"groups": 2, "steps": 1, "eps": 0.3},
    {"groups": 3, "steps": 3, "momentum": 0.7},
    {"groups": 6, "momentum": 1},
    {"steps": 7, "affine": False, "momentum": 0.0},
]
SHAPES = [(24, 6), (7, 6, 5), (6, 6, 4, 3), (2, 6, 6, 5), (1, 6, 6, 5), (5, 6, 1, 1), (2, 6)]
CASES = [
    *[(options, shape) for options in OPTIONS for shape in SHAPES],
    *[({}, shape) for shape in [(12, 3), (5, 5, 7), (3, 7, 5, 4)]],
]
REFUSED = [
    ({}, (1, 6), r"norm=IterativeNorm: input \(1, 6\) leaves 1 value per channel"),
    ({}, (1, 6, 1, 1), r"input \(1, 6, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 6, 3), r"input \(0, 6, 3\) leaves 0 values"),
    ({"groups": 4}, (24, 6), r"norm.groups=4: 6 channels do not divide .* 1, 2, 3, 6\)"),
    ({"groups": 0}, None, "norm.groups=0: "),
    ({"steps": 0}, None, "norm.steps=0: "),
    ({"steps": 2.5}, None, "norm.steps=2.5: is not an integer"),
    ({"momentum": 1.1}, None, "norm.momentum=1.1: "),
]
INVARIANT = {"shift", "scale", "channel_shift"}


class Oracle(dbn.Oracle):
    def __init__(self, channels, dims, steps=5, **options):
        super().__init__(channels, dims, **options)
        self.steps = steps

    def projection(self, cov):
        trace = sum(cov[i, i] for i in range(len(cov)))
        p = torch.eye(len(cov), dtype=cov.dtype)
        for _ in range(self.steps):
            p = (3 * p - p @ p @ p @ (cov / trace)) / 2
        return p / trace**0.5
