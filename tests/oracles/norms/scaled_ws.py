"""Scaled weight standardization in float64, from Brock, De & Smith 2021, equation 4."""

import torch
from torch import nn
from torch.func import functional_call

KIND = "linear"
OPTIONS = [{}, {"eps": 0.3}, {"gamma": 1.7139588594436646}, {"affine": False, "gamma": 0.5}]
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
    ({"gamma": 0.0}, None, "norm.gamma=0.0: .* above 0"),
]
INVARIANT = {"shift", "sample_shift", "weight_shift", "weight_scale"}


class Oracle:
    def __init__(self, layer, eps=1e-6, gamma=1.0, affine=True):
        self.layer, self.eps = layer, eps
        self.parameters = {
            name: value.detach().clone().requires_grad_()
            for name, value in layer.named_parameters()
        }
        self.buffers = {}
        self.gamma = gamma
        if affine:
            self.parameters["gain"] = torch.ones(len(layer.weight), requires_grad=True)

    def train(self, x):
        rows = []
        for k, row in enumerate(self.parameters["weight"].flatten(1)):
            centred = row - row.sum() / len(row)
            var = (centred**2).sum() / len(row)
            gain = self.parameters["gain"][k] if "gain" in self.parameters else 1
            rows.append(gain * centred / (var + self.eps) ** 0.5 * self.gamma / len(row) ** 0.5)
        shape = self.parameters["weight"].shape
        values = {"weight": torch.stack(rows).reshape(shape)}
        if "bias" in self.parameters:
            values["bias"] = self.parameters["bias"]
        return functional_call(self.layer, values, (x,))

    evaluate = train
