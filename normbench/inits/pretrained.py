"""Weights of a model that is trained already."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor, nn

from normbench.errors import FileRefused, shown
from normbench.inits._base import Init, fans, gain_of
from normbench.runtime import storage

LARGEST = 2**34  # bytes of a file


@dataclass(frozen=True)
class Pretrained(Init):
    """The weights of a finished run, or of a safetensors file, to train further.

    Each parameter and buffer whose name and shape the file has is that of the file, and so are the
    running statistics; the classifier is drawn anew where its shape differs, and what the file has
    no name for starts as usual: w ~ N(0, s^2), s = gain / sqrt(fan_in), as kaiming_normal.

    Args: path: of a file by torch's names, such as `normbench export` writes; in the settings of a
        run also the folder of one seed of a run. sha256: of the file, which names the run; it is
        found by itself.
    Raises: InitError if a weight matrix of the model, but for the classifier, is not in the file
        with its shape, or the file has one that the model has not; FileRefused if there is no such
        file, or it is damaged or has changed.
    Limits: a norm that sets itself from data (wn) does not do so here.
    Source: Girshick et al. 2014, arXiv 1311.2524, section 2.3.
    """

    settled: ClassVar[bool] = True

    path: str | None = None
    sha256: str | None = None

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` of a layer before the activation `act`, until it is read."""
        weight.normal_(0, gain_of(act) / math.sqrt(fans(weight)[0]), generator=generator)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Copy what the file has into a model with its norm."""
        state, kept = model.state_dict(keep_vars=True), self._read()
        heads = {
            f"{path}.{name}"
            for path, layer in model.named_modules()
            if hasattr(layer, "classifies")
            for name in ("weight", "bias")
        }
        for name in [*state, *kept]:
            mine, theirs = (_shape(each.get(name)) for each in (state, kept))
            if mine == theirs:
                state[name].copy_(kept[name])
            elif name not in heads and max(len(mine or ()), len(theirs or ())) > 1:
                why = f"{shown(name)} is {theirs or 'not'} there, and {mine or 'not'} in this model"
                raise self.error("path", shown(str(self.path)), why, "a run of the same model")

    def _read(self) -> dict[str, Tensor]:
        if self.path is None:
            raise self.error("path", "null", "names no run", "init.path=outputs/runs/NAME/seed0")
        file = Path(self.path)
        data = storage.read_bytes(file, LARGEST)
        if self.sha256 not in (None, storage.digest(data)):
            fix = "the file as it was, or init.sha256=null"
            raise FileRefused(str(file), "has changed since the run began", fix)
        try:
            return dict(load(data))
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            why = f"is no safetensors file: {shown(error)}"
            fix = "init.path=FILE    (as normbench export writes it)"
            raise FileRefused(str(file), why, fix) from None


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
