"""The step written out without autograd and modules: aten's kernels, one flat SGD.

For the mlp and the cnn with bn, gn or no norm: what is left is arithmetic, and the calls for it.
Nothing is written down of a step but the sum of losses.
"""

from __future__ import annotations

from typing import Any

import torch
from loops.start import Start
from torch import Tensor, nn

aten: Any = torch.ops.aten
ALL = [True, True, True]
ALIGN = 16  # elements at which a parameter begins


def flattened(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Make parameters and gradients views of two vectors, and return these."""
    found = list(model.parameters())
    sizes = [-(-each.numel() // ALIGN) * ALIGN for each in found]
    values, grads = torch.zeros(sum(sizes)), torch.zeros(sum(sizes))
    start = 0
    for each, size in zip(found, sizes, strict=True):
        place = (each.shape, each.stride(), start)
        values.as_strided(*place).copy_(each.detach())
        each.data, each.grad = values.as_strided(*place), grads.as_strided(*place)
        start += size
    return values, grads


class Linear:
    """A dense layer: y = x W' + b."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.turned = layer.weight.data, layer.weight.data.t()
        self.grad, self.bias = layer.weight.grad, layer.bias
        self.first = False  # of the net: nobody wants the gradient of its input

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch."""
        self.x = x
        return x.mm(self.turned) if self.bias is None else self.bias.addmm(x, self.turned)

    def backward(self, g: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        torch.mm(g.t(), self.x, out=self.grad)
        if self.bias is not None:
            torch.sum(g, 0, out=self.bias.grad)
        return g if self.first else g.mm(self.weight)


class Conv:
    """A 3x3 convolution."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.weight, self.grad, self.bias = layer.weight.data, layer.weight.grad, layer.bias
        self.first = False

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch."""
        self.x = x
        return torch.conv2d(x, self.weight, self.bias, 1, 1)

    def backward(self, g: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        biased = self.bias is not None
        sizes = [len(self.weight)] if biased else None
        where = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        wanted = [not self.first, True, biased]
        gx, gw, gb = aten.convolution_backward.default(
            g, self.x, self.weight, sizes, *where, wanted
        )
        self.grad.copy_(gw)
        if biased:
            self.bias.grad.copy_(gb)
        return g if self.first else gx


class BatchNorm:
    """Batch normalization with running statistics."""

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        self.affine = layer.weight.data, layer.bias.data
        self.running = layer.running_mean, layer.running_var
        self.grads, self.how = (layer.weight.grad, layer.bias.grad), (layer.momentum, layer.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch."""
        self.x = x
        y, *self.kept = torch.native_batch_norm(x, *self.affine, *self.running, True, *self.how)
        return y

    def backward(self, g: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        backward = aten.native_batch_norm_backward.default
        plain = (None, None, *self.kept, True, self.how[1], ALL)
        gx, gw, gb = backward(g, self.x, self.affine[0], *plain)
        self.grads[0].copy_(gw)
        self.grads[1].copy_(gb)
        return gx


class GroupNorm:
    """Group normalization."""

    def __init__(self, layer: nn.GroupNorm) -> None:
        self.affine, self.grads = (
            (layer.weight.data, layer.bias.data),
            (layer.weight.grad, layer.bias.grad),
        )
        self.channels, self.groups, self.eps = layer.num_channels, layer.num_groups, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch."""
        self.x, self.size = x, (len(x), self.channels, x[0, 0].numel(), self.groups)
        y, *self.kept = torch.native_group_norm(x, *self.affine, *self.size, self.eps)
        return y

    def backward(self, g: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        backward = aten.native_group_norm_backward.default
        if self.x.dim() == 4:  # torch 2.11 reads it as x lies
            last = self.x.is_contiguous(memory_format=torch.channels_last)
            form = torch.channels_last if last else torch.contiguous_format
            g = g.contiguous(memory_format=form)
        gx, gw, gb = backward(g, self.x, *self.kept, self.affine[0], *self.size, ALL)
        self.grads[0].copy_(gw)
        self.grads[1].copy_(gb)
        return gx


class ReLU:
    """max(x, 0), in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch."""
        self.y = x.relu_()
        return self.y

    def backward(self, g: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        return aten.threshold_backward.default(g, self.y, 0)


class Pool:
    """2x2 max-pooling; it comes before the ReLU, which then has a quarter of the work."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch."""
        self.x = x
        y, self.index = aten.max_pool2d_with_indices.default(x, [2, 2], [2, 2])
        return y

    def backward(self, g: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        how = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        return aten.max_pool2d_with_indices_backward.default(g, self.x, *how, self.index)


class Flatten:
    """(N, C, H, W) -> (N, C H W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch."""
        self.shape = x.shape
        self.last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return x.reshape(len(x), -1)

    def backward(self, g: Tensor) -> Tensor:
        """Map the gradient of the output to that of the input."""
        g = g.view(self.shape)
        return g.contiguous(memory_format=torch.channels_last) if self.last else g


KINDS: dict[type[nn.Module], Any] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv,
    nn.BatchNorm1d: BatchNorm,
    nn.BatchNorm2d: BatchNorm,
    nn.GroupNorm: GroupNorm,
}
BARE: dict[type[nn.Module], Any] = {nn.ReLU: ReLU, nn.MaxPool2d: Pool, nn.Flatten: Flatten}


class ByHand:
    """Trains in one memory format, on the batches of a start."""

    def __init__(self, start: Start, memory_format: torch.memory_format) -> None:
        config, model = start.config, start.model.to(memory_format=memory_format)
        self.values, self.grads = flattened(model)
        self.average, self.total = torch.zeros_like(self.values), torch.zeros(())
        self.lr, self.momentum = config.lr, config.optimizer["momentum"]
        self.layers = self._layers(list(model))
        self.images = start.images.contiguous(memory_format=memory_format)
        if isinstance(self.layers[0], Flatten):  # once, instead of at each step
            self.images, self.layers = self.images.flatten(1), self.layers[1:]
        self.layers[0].first = True
        self.labels, self.order = start.labels, iter(start.order)
        self.minus = torch.full((config.batch, 1), -1.0)

    @staticmethod
    def _layers(modules: list[nn.Module]) -> list[Any]:
        for place in range(len(modules) - 1):
            if isinstance(modules[place], nn.ReLU) and isinstance(modules[place + 1], nn.MaxPool2d):
                modules[place : place + 2] = modules[place + 1], modules[place]
        return [
            BARE[type(each)]() if type(each) in BARE else KINDS[type(each)](each)
            for each in modules
        ]

    @torch.inference_mode()
    def train(self, steps: int) -> None:
        """Train some steps."""
        layers, turned = self.layers, self.layers[::-1]
        for _ in range(steps):
            index = next(self.order)
            x, y = self.images.index_select(0, index), self.labels.index_select(0, index)
            for layer in layers:
                x = layer.forward(x)
            logs = x.log_softmax(1)
            loss, _weight = aten.nll_loss_forward.default(logs, y, None, 1, -100)
            g = logs.exp_().scatter_add_(1, y.unsqueeze(1), self.minus).mul_(1 / len(y))
            for layer in turned:
                g = layer.backward(g)
            self.average.mul_(self.momentum).add_(self.grads)
            self.values.add_(self.average, alpha=-self.lr)
            self.total.add_(loss)
