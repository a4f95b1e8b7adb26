"""Online normalization in float64, sample by sample, from Chiley et al. 2019, equations 6 to 12."""

import torch

KIND = "features"
OPTIONS = [
    {},
    {"momentum": 0.3, "control": 0.4, "eps": 0.2},
    {"layer_scale": False, "control": 0.2, "momentum": 0.1},
    {"affine": False, "momentum": 1, "control": 1},
]
SHAPES = [
    *[(6, 5), (2, 5), (1, 5), (6, 5, 4), (2, 3, 7)],
    *[(6, 5, 4, 3), (2, 5, 4, 3), (1, 5, 4, 3), (6, 5, 1, 1), (1, 5, 1, 1)],
]
REFUSED = [
    ({}, (0, 5), r"input \(0, 5\) is an empty batch"),
    ({}, (3, 5, 0, 2), r"input \(3, 5, 0, 2\) is an empty batch"),
    ({}, (4, 1), "1 value per sample"),
    ({}, (4, 1, 1, 1), r"input \(4, 1, 1, 1\) leaves 1 value per sample"),
    ({"momentum": 1.5}, None, "norm.momentum=1.5: "),
    ({"control": -0.1}, None, "norm.control=-0.1: must be in 0 .. 1"),
    ({"eps": -1e-5}, None, "norm.eps=-1e-05: "),
    ({"norm_batch": 4}, None, "online has no option of this name"),
]
INVARIANT = set()
GRADCHECK = False


class Oracle:
    def __init__(
        self, channels, dims, momentum=0.001, control=0.01, layer_scale=True, eps=1e-5, affine=True
    ):
        self.alpha_f, self.alpha_b, self.eps = 1 - momentum, 1 - control, eps
        self.layer_scale, self.parameters = layer_scale, {}
        self.form = (channels, *[1] * dims)
        if affine:
            self.parameters["weight"] = torch.ones(channels, requires_grad=True)
            self.parameters["bias"] = torch.zeros(channels, requires_grad=True)
        self.buffers = {
            "running_mean": torch.zeros(channels),
            "running_var": torch.ones(channels),
            "errors": torch.zeros(2, channels),
        }

    def train(self, x):
        normalized, scales = [], []
        for sample in x:
            flat = sample.detach().reshape(len(sample), -1)
            mean, var = self.buffers["running_mean"], self.buffers["running_var"]
            scale = (var + self.eps) ** 0.5
            normalized.append((sample - mean.reshape(self.form)) / scale.reshape(self.form))
            scales.append(scale)
            mu = flat.mean(1)
            spread = (flat - mu[:, None]).square().mean(1)
            a = self.alpha_f
            self.buffers["running_mean"] = a * mean + (1 - a) * mu
            self.buffers["running_var"] = (
                a * var + (1 - a) * spread + a * (1 - a) * (mu - mean) ** 2
            )
        y = torch.stack(normalized)
        if x.requires_grad:
            y.register_hook(lambda grad: self.controlled(grad, y.detach(), scales))
        return self.scaled(y)

    def together(self, x):
        """The whole batch by its own moments, which become the running ones."""
        channels = x.detach().transpose(0, 1).reshape(x.shape[1], -1)
        mean = channels.mean(1)
        self.buffers["running_mean"] = mean
        self.buffers["running_var"] = (channels - mean[:, None]).square().mean(1)
        return self.evaluate(x)

    def controlled(self, grads, outputs, scales):
        """What has to flow into y so that, over its scale, x' flows into x."""
        given = []
        off, shift = self.buffers["errors"]
        gain = 1 - self.alpha_b
        for grad, y, scale in zip(grads, outputs, scales, strict=True):
            steered = grad - gain * off.reshape(self.form) * y
            off = off + per_channel(steered * y)
            inward = steered / scale.reshape(self.form) - gain * shift.reshape(self.form)
            shift = shift + per_channel(inward)
            given.append(inward * scale.reshape(self.form))
        self.buffers["errors"] = torch.stack([off, shift])
        return torch.stack(given)

    def evaluate(self, x):
        mean, var = self.buffers["running_mean"], self.buffers["running_var"]
        scale = (var + self.eps) ** 0.5
        return self.scaled((x - mean.reshape(self.form)) / scale.reshape(self.form))

    def scaled(self, y):
        if self.parameters:
            weight, bias = self.parameters["weight"], self.parameters["bias"]
            y = y * weight.reshape(self.form) + bias.reshape(self.form)
        if self.layer_scale:
            second = y.square().flatten(1).mean(1)
            y = y / (second + self.eps).sqrt().reshape(-1, *[1] * (y.dim() - 1))
        return y


def per_channel(sample):
    return sample.reshape(len(sample), -1).mean(1)
