"""Adaptive gradient clipping in float64, from Brock et al. 2021, equation 3."""

from torch import nn

KIND = "linear"  # the layer itself: what differs is its gradient after the hook
OPTIONS = [{}, {"factor": 5.0}, {"eps": 20.0, "factor": 0.5}]
LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Linear(4, 3, bias=False),
    lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    lambda: nn.Conv2d(4, 6, (3, 2), dilation=(1, 2), groups=2, bias=False),
    lambda: nn.Conv2d(3, 5, 1),
]
INPUTS = [(6, 7), (1, 4), (2, 4, 5, 6), (3, 4, 4, 5), (1, 3, 1, 1)]
REFUSED = [
    ({"factor": 0.0}, None, "norm.factor=0.0: .* above 0"),
    ({"eps": -1.0}, None, "norm.eps=-1.0: must be at least 0"),
]
INVARIANT = set()


def norm(values):
    return (values**2).sum() ** 0.5


class Oracle:
    def __init__(self, layer, factor=0.01, eps=1e-3):
        self.layer, self.factor, self.eps = layer, factor, eps
        self.parameters = dict(layer.named_parameters())
        self.buffers = {}

    def train(self, x):
        return self.layer(x)

    evaluate = train

    def after_backward(self):
        for parameter in self.parameters.values():
            if parameter.dim() == 1:
                self.clip(parameter.data, parameter.grad)
            else:
                for values, gradient in zip(parameter.data, parameter.grad, strict=True):
                    self.clip(values, gradient)

    def clip(self, values, gradient):
        limit = self.factor * max(norm(values), self.eps)
        if norm(gradient) >= limit:
            gradient *= limit / max(norm(gradient), 1e-6)
