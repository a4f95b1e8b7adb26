"""Weight standardization in float64, from Qiao et al. 2019, equations 1 to 3."""

import torch
from torch import nn
from torch.func import functional_call

KIND = "linear"
OPTIONS = [{}, {"eps": 0.3}, {"eps": 0.0}]
LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Linear(4, 3, bias=False),
    lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), groups=2, bias=False),
    lambda: nn.Conv2d(3, 5, 1),
]
INPUTS = [(6, 7), (1, 4), (2, 4, 5, 6), (3, 4, 4, 5), (1, 3, 1, 1)]
PADDED = 2  # not with the first options: padding zeros do not shift with the input
CASES = [(options, k) for options in OPTIONS for k in range(5) if options or k != PADDED]
REFUSED = [
    ({}, lambda: nn.Linear(1, 4), r"weight \(4, 1\) leaves 1 value per filter"),
    ({}, lambda: nn.Conv2d(6, 6, 1, groups=6), r"weight \(6, 1, 1, 1\) leaves 1 value per filter"),
    ({"eps": -1e-6}, None, "norm.eps=-1e-06: must be at least 0"),
]
INVARIANT = {"shift", "sample_shift", "weight_shift", "weight_scale"}


class Oracle:
    def __init__(self, layer, eps=1e-6):
        self.layer, self.eps = layer, eps
        self.parameters = {
            name: value.detach().clone().requires_grad_()
            for name, value in layer.named_parameters()
        }
        self.buffers = {}

    def train(self, x):
        rows = []
        for row in self.parameters["weight"].flatten(1):
            centred = row - row.sum() / len(row)
            var = (centred**2).sum() / len(row)
            rows.append(centred / (var + self.eps) ** 0.5)
        shape = self.parameters["weight"].shape
        values = {"weight": torch.stack(rows).reshape(shape)}
        if "bias" in self.parameters:
            values["bias"] = self.parameters["bias"]
        return functional_call(self.layer, values, (x,))

    evaluate = train
