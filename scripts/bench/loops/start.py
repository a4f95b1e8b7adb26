"""What all loops begin with: the same weights, images and order of batches, from one run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.runs.job import Job
from normbench.settings import compose
from normbench.settings.schema import Config

# One validation at the end, constant learning rate, no decay: what a tutorial's loop does. The rate
# is small, so that roundings do not grow within the steps whose losses are compared.
SAME = (
    "schedule=constant warmup=0 optimizer.lr=0.003 optimizer.weight_decay=0 eval_every=100000 "
    "device=cpu"
)
KEPT: dict[str, Tensor] = {}  # the standardized images, which all starts share


def configured(*words: str) -> Config:
    """Return the settings of one run on a CPU, as a tutorial would train."""
    (cell,) = compose.Grid(compose.loader()).cells([*SAME.split(), *words], False)
    assert cell.config
    return cell.config


@dataclass(frozen=True)
class Start:
    """Weights in torch's own layers, standardized images (N, C, H, W), labels, batches in order."""

    config: Config
    model: nn.Sequential
    images: Tensor
    labels: Tensor
    order: list[Tensor]

    @classmethod
    def of(cls, config: Config) -> Start:
        """Take them from the run of a config."""
        job = Job(config)
        order = job.train.order(config.seed, 0, config.batch)[: config.steps]
        if "images" not in KEPT:
            KEPT["images"] = job.train.gather(torch.arange(len(job.train)))[0].contiguous()
        return cls(config, plain(job.model), KEPT["images"], job.train.labels, list(order))


def plain(model: nn.Module) -> nn.Sequential:
    """Rebuild a model of normbench of torch's own layers, with the same values."""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for path, layer in model.named_modules():
        if not any(layer.children()):
            found[path.replace(".", "_")] = _torchs(layer)
    return nn.Sequential(found)


def _torchs(layer: nn.Module) -> nn.Module:
    kind = type(layer).__name__
    made: nn.Module
    if isinstance(layer, nn.Conv2d):
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size)
        made = nn.Conv2d(*shape, padding=layer.padding, bias=layer.bias is not None)
    elif isinstance(layer, nn.Linear):
        made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    elif kind == "BatchNorm":
        norms = {0: nn.BatchNorm1d, 2: nn.BatchNorm2d}
        made = norms[layer.dims](len(layer.weight), layer.eps, layer.momentum)
    elif kind == "GroupNorm":
        made = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
    elif kind == "ReLU":
        return nn.ReLU(inplace=True)
    else:
        assert isinstance(layer, nn.Flatten | nn.MaxPool2d), kind
        return layer
    with torch.no_grad():
        for mine, other in zip(made.parameters(), layer.parameters(), strict=True):
            mine.copy_(other)
    return made
