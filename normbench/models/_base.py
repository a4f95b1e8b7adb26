"""The base of models: the class `Model`, and the refusal of images that are too small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from normbench.errors import ModelError
from normbench.norms._units import UnitBuilder
from normbench.parts.options import Options

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Model(Options):
    """The options of a model; `build` makes it for an input shape and a number of classes."""

    error: ClassVar[type[ModelError]] = ModelError
    residual: ClassVar[bool] = False  # has skip connections, so that placement=preact has a place
    spatial: ClassVar[bool] = False  # works on feature maps: their memory format matters
    recurrent: ClassVar[bool] = False  # reads an image in time steps of its option `rows`
    activation: ClassVar[str] = "relu"  # where neither the run nor the norm names one

    def build(self, units: UnitBuilder, shape: Shape, classes: int) -> nn.Module:
        """Return the module for inputs of `shape` (C, H, W), its linear layers not yet filled.

        Raises: ModelError if the model cannot take such inputs.
        """
        raise NotImplementedError


def check_size(name: str, shape: Shape, least: int) -> None:
    """Raise ModelError if the images of `shape` (C, H, W) have a side shorter than `least`."""
    _, height, width = shape
    if min(height, width) < least:
        why = f"needs images of at least {least}x{least}, these are {height}x{width}"
        raise ModelError("", name, why, "model=mlp")
