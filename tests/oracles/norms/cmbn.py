"""Cross mini-batch normalization in float64, from Bochkovskiy et al. 2020, figure 4."""

import torch

KIND = "features"
RUN = {"window": 4}
OPTIONS = [
    {},
    {"window": 1, "eps": 0.3, "momentum": 0.7},
    {"window": 2, "affine": False, "momentum": 1},
    {"window": 3},
    {"window": 2, "norm_batch": "global"},
    {"window": 2, "norm_batch": 8},
]
SHAPES = [
    *[(6, 5), (2, 5), (6, 5, 4), (2, 3, 7)],
    *[(6, 5, 4, 3), (2, 5, 4, 3), (1, 5, 4, 3), (6, 5, 1, 1), (2, 5, 1, 1)],
]
REFUSED = [
    ({}, (1, 5), r"norm=CrossMiniBatchNorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (1, 5, 1, 1), r"input \(1, 5, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 5), r"input \(0, 5\) leaves 0 values per channel"),
    ({"norm_batch": 2}, (4, 5), "norm.norm_batch=2: .* does not cut a worker's 4 samples"),
    ({"window": None}, (4, 5), "norm.window=null: .* there is no run here"),
    ({"window": 0}, None, "norm.window=0: "),
    ({"momentum": None}, None, "norm.momentum=.*: is not a finite number"),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
]
INVARIANT = {"shift", "scale", "channel_shift", "channel_scale"}
GRADCHECK = False


class Oracle:
    def __init__(
        self, channels, dims, window=4, eps=1e-5, momentum=0.1, affine=True, norm_batch="worker"
    ):
        self.window, self.eps, self.momentum = window, eps, momentum
        self.accumulate = 2 if window == 3 else window  # 3: the optimizer steps in mid-window
        self.parameters = {}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers = {
            "running_mean": torch.zeros(channels),
            "running_var": torch.ones(channels),
            "steps": torch.tensor(0),
            "index": torch.tensor(0),
            "past": torch.zeros(2, channels),
        }

    def train(self, x):
        first, second = per_channel(x), per_channel(x**2)
        i = int(self.buffers["index"]) + 1
        past = self.buffers["past"]
        mean, var = self.statistics(first + past[0], second + past[1], i)
        self.buffers["past"] = past + torch.stack([first, second]).detach()
        self.buffers["index"] = torch.tensor(i)
        self.buffers["steps"] = self.buffers["steps"] + 1
        if i == self.window:
            for name, new in (("running_mean", mean), ("running_var", var)):
                old = self.buffers[name]
                self.buffers[name] = (1 - self.momentum) * old + self.momentum * new.detach()
            self.step()
        return self.normed(x, mean, var)

    def evaluate(self, x):
        return self.normed(x, self.buffers["running_mean"], self.buffers["running_var"])

    def step(self):
        self.buffers["index"] = torch.tensor(0)
        self.buffers["past"] = torch.zeros_like(self.buffers["past"])

    def statistics(self, first, second, i):
        mean = first / i
        return mean, (second / i - mean**2).clip(min=0)

    def normed(self, x, mean, var):
        form = (-1, *[1] * (x.dim() - 2))
        y = (x - mean.reshape(form)) / (var.reshape(form) + self.eps) ** 0.5
        if self.parameters:
            y = y * self.parameters["weight"].reshape(form)
            y = y + self.parameters["bias"].reshape(form)
        return y


def per_channel(x):
    return x.transpose(0, 1).flatten(1).sum(1) * x.shape[1] / x.numel()
