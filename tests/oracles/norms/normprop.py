"""Normalization propagation in float64, from Arpit et al. 2016, equations 4 to 8."""

import math

import torch
from torch import nn
from torch.func import functional_call

KIND = "linear+activation"
OPTIONS = [{}, {"gamma": 1.5}, {"affine": False}]
LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Linear(4, 30, bias=False),
    lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), groups=2, bias=False),
    lambda: nn.Conv2d(3, 30, 1),
]
INPUTS = [(6, 7), (1, 4), (2, 4, 5, 6), (3, 4, 4, 5), (1, 3, 1, 1)]


def zero():
    layer = nn.Linear(3, 4)
    layer.weight.data.zero_()
    return layer


REFUSED = [
    ({}, zero, "4 of 4 rows of the weight are zero"),
    ({"gamma": 0.0}, None, "norm.gamma=0.0: .* above 0"),
]
INVARIANT = {"weight_scale"}


class Oracle:
    def __init__(self, layer, gamma=0.8256452711765563, affine=True):
        self.layer = layer
        out = len(layer.weight)
        self.parameters = {"linear.weight": layer.weight.detach().clone().requires_grad_()}
        if affine:
            self.parameters["linear.gamma"] = (gamma * torch.ones(out)).requires_grad_()
            self.parameters["linear.bias"] = torch.zeros(out, requires_grad=True)
        self.buffers = {}

    def train(self, x):
        weight = self.parameters["linear.weight"]
        rows = torch.stack([row / (row**2).sum() ** 0.5 for row in weight.flatten(1)])
        values = {"weight": rows.reshape(weight.shape)}
        if self.layer.bias is not None:
            values["bias"] = weight.new_zeros(len(weight))
        u = functional_call(self.layer, values, (x,))
        if "linear.gamma" in self.parameters:
            form = (-1, *[1] * (x.dim() - 2))
            u = u * self.parameters["linear.gamma"].reshape(form)
            u = u + self.parameters["linear.bias"].reshape(form)
        positive = u * (u > 0)
        return (positive - (1 / (2 * math.pi)) ** 0.5) / ((1 - 1 / math.pi) / 2) ** 0.5

    evaluate = train
