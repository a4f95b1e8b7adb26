"""Mean-only batch normalization in float64, from Salimans & Kingma 2016, section 4."""

import torch

KIND = "features"
OPTIONS = [
    {},
    {"momentum": 0.7},
    {"momentum": 0.0},
    {"affine": False, "momentum": 1.0},
    {"norm_batch": "global"},
    {"norm_batch": 6},
]
SHAPES = [
    (6, 5, 4, 3),
    (6, 5, 4),
    (6, 5),
    (2, 5),
    (2, 3, 7),
    (2, 5, 4, 3),
    (1, 5, 4, 3),
    (6, 5, 1, 1),
]
REFUSED = [
    ({}, (1, 5), r"norm=MeanOnlyBatchNorm: input \(1, 5\) leaves 1 value per channel"),
    ({}, (1, 5, 1, 1), r"input \(1, 5, 1, 1\) leaves 1 value per channel"),
    ({}, (0, 5), "leaves 0 values per channel"),
    ({"norm_batch": 2}, (6, 5), "norm.norm_batch=2: .* does not cut a worker's 6 samples"),
    ({"norm_batch": 0}, None, "norm.norm_batch=0: "),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"momentum": None}, None, "norm.momentum=.*: is not "),
    ({"eps": 1e-5}, None, "mean has no option of this name"),
]
INVARIANT = {"shift", "channel_shift"}


class Oracle:
    def __init__(self, channels, dims, momentum=0.1, affine=True, norm_batch="worker"):
        self.momentum = momentum
        self.parameters = {"bias": torch.zeros(channels, requires_grad=True)} if affine else {}
        self.buffers = {"running_mean": torch.zeros(channels), "steps": torch.tensor(0)}

    def train(self, x):
        means = [x[:, c].sum() / x[:, c].numel() for c in range(x.shape[1])]
        running = self.buffers["running_mean"]
        for c, mean in enumerate(means):
            running[c] = (1 - self.momentum) * running[c] + self.momentum * mean.detach()
        self.buffers["steps"] += 1
        return self.shifted(x, torch.stack(means))

    def evaluate(self, x):
        return self.shifted(x, self.buffers["running_mean"])

    def shifted(self, x, mean):
        form = (1, -1, *[1] * (x.dim() - 2))
        y = x - mean.reshape(form)
        return y + self.parameters["bias"].reshape(form) if self.parameters else y
