"""The loop that an expert writes: torch's modules and SGD, images on the device, no waiting."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_of(kind: str, channels: int, dims: int) -> nn.Module:
    """A layer of torch; the groups are those that normbench takes for these widths."""
    if kind == "gn":
        from normbench.norms._base import groups_of

        return nn.GroupNorm(groups_of(None, channels), channels)
    return nn.BatchNorm2d(channels) if dims else nn.BatchNorm1d(channels)


def mlp(kind: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    features, layers = shape[0] * shape[1] * shape[2], [nn.Flatten()]
    for _ in range(3):
        dense = nn.Linear(features, 100, bias=kind == "gn")
        layers += [dense, norm_of(kind, 100, 0), nn.ReLU(inplace=True)]
        features = 100
    return nn.Sequential(*layers, nn.Linear(features, classes))


def conv(kind: str, cin: int, cout: int, stride: int = 1, size: int = 3) -> list[nn.Module]:
    layer = nn.Conv2d(cin, cout, size, stride, size // 2, bias=kind == "gn")
    return [layer, norm_of(kind, cout, 2)]


def cnn(kind: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for cin, cout in ((shape[0], 16), (16, 32)):
        layers += [*conv(kind, cin, cout), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    features = 32 * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))


class Block(nn.Module):
    """Two convolutions and a skip."""

    def __init__(self, kind: str, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        one = [*conv(kind, cin, cout, stride), nn.ReLU(inplace=True)]
        self.branch = nn.Sequential(*one, *conv(kind, cout, cout))
        changes = stride > 1 or cin != cout
        self.skip = nn.Sequential(*(conv(kind, cin, cout, stride, 1) if changes else []))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (N, cin, H, W) to (N, cout, H / stride, W / stride)."""
        return F.relu(self.branch(x) + self.skip(x), inplace=True)


def resnet20(kind: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    layers: list[nn.Module] = [*conv(kind, shape[0], 16), nn.ReLU(inplace=True)]
    channels = 16
    for width in (16, 32, 64):
        for number in range(3):
            layers.append(Block(kind, channels, width, 2 if number == 0 and width > 16 else 1))
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


MODELS = OrderedDict(mlp=mlp, cnn=cnn, resnet20=resnet20)


class Loop:
    """Trains a model on images that lie on the device, scaled once; starts from given values."""

    def __init__(self, model: nn.Module, data: tuple[Tensor, Tensor], how: dict[str, Any]) -> None:
        self.x, self.y = data
        self.model = model.to(self.x.device, memory_format=torch.channels_last).train()
        decayed = [value for value in model.parameters() if value.dim() >= 2]
        others = [value for value in model.parameters() if value.dim() < 2]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        fused = self.x.device.type == "cuda"
        rule = {"lr": how["lr"], "momentum": 0.9, "weight_decay": 5e-4, "fused": fused}
        self.optimizer = torch.optim.SGD(groups, **rule)
        self.bf16 = how["precision"] == "bf16"

    def start_from(self, values: list[Tensor]) -> None:
        """Take the parameters of another model, in order."""
        with torch.no_grad():
            for own, value in zip(self.model.parameters(), values, strict=True):
                own.copy_(value)

    def step(self, index: Tensor, lr: float) -> Tensor:
        """Train on the images at `index`; return the loss, still on the device."""
        x, y = self.x.index_select(0, index), self.y.index_select(0, index)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
