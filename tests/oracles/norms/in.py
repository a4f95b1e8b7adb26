"""Instance normalization in float64, from Ulyanov, Vedaldi & Lempitsky 2016, equation 4."""

import torch

KIND = "features"
OPTIONS = [{}, {"eps": 0.4}, {"affine": False}, {"track": True}, {"track": True, "momentum": 0.7}]
SHAPES = [(6, 5, 4), (2, 3, 7), (1, 1, 2), (6, 5, 4, 3), (2, 5, 4, 3), (1, 5, 4, 3), (3, 7, 1, 2)]
REFUSED = [
    ({}, (4, 6), r"\(N, C\) has no positions"),
    ({}, (4, 6, 1), r"input \(4, 6, 1\) leaves 1 value per channel of a sample"),
    ({"track": True}, (4, 6, 1, 1), "1 value per channel of a sample"),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: must be in 0 .. 1"),
    ({"momentum": None}, None, "norm.momentum=None: is not a finite number"),
]
INVARIANT = {
    *["shift", "scale", "channel_shift", "channel_scale", "sample_shift", "sample_scale"],
}


class Oracle:
    def __init__(self, channels, dims, eps=1e-5, affine=True, track=False, momentum=0.1):
        self.eps, self.momentum, self.track = eps, momentum, track
        self.buffers, self.parameters = {}, {}
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        if track:
            self.buffers["running_mean"] = torch.zeros(channels)
            self.buffers["running_var"] = torch.ones(channels)

    def train(self, x):
        means, unbiased = [], []
        rows = []
        for sample in x:
            parts = []
            for c, part in enumerate(sample):
                count = part.numel()
                mean = part.sum() / count
                squares = ((part - mean) ** 2).sum()
                parts.append(self.affine((part - mean) / (squares / count + self.eps) ** 0.5, c))
                means.append(mean.detach())
                unbiased.append(squares.detach() / (count - 1))
            rows.append(torch.stack(parts))
        y = torch.stack(rows)
        if self.track:
            new = [torch.stack(each).reshape(x.shape[:2]).mean(0) for each in (means, unbiased)]
            for key, value in zip(("running_mean", "running_var"), new, strict=True):
                old = self.buffers[key]
                self.buffers[key] = (1 - self.momentum) * old + self.momentum * value
        return y

    def affine(self, part, c):
        if not self.parameters:
            return part
        return part * self.parameters["weight"][c] + self.parameters["bias"][c]

    def evaluate(self, x):
        if not self.track:
            return self.train(x)
        mean, var = self.buffers["running_mean"], self.buffers["running_var"]
        parts = [
            self.affine((x[:, c] - mean[c]) / (var[c] + self.eps) ** 0.5, c)
            for c in range(x.shape[1])
        ]
        return torch.stack(parts, dim=1)
