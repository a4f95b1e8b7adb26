"""Orthogonal weights, scaled layer by layer to outputs of unit variance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.inits._base import Init, InitContext, linear_layers
from normbench.parts.options import option
from normbench.rows import Row

TRIES = 10  # scalings of a layer at most


@dataclass(frozen=True)
class LSUV(Init):
    """Layer-sequential unit-variance: orthogonal weights, scaled until outputs have variance 1.

    W W' = I or W' W = I, b = 0; then layer by layer, from the first, W <- W / sqrt(Var[y]) until
    |Var[y] - 1| < tol, at most ten times; y: all outputs of the linear layer, before its norm and
    activation, for training images: as many as a batch, 64 at least. W: (out, fan_in), a
    convolution's filters as rows; each group of a grouped one is scaled as a layer of its own.
    Where a norm has taken the layer's place, what it scales the weight by is divided; wn with
    data_init sets itself in its turn. In recurrent cells the first time step counts at which a
    map's output varies; a layer whose output never does stays.

    Args: tol: how far from 1 a variance may stay.
    Raises: InitError for a norm that takes the length of weights away: ws, cosine, cbn.
    Source: Mishkin & Matas 2016, arXiv 1511.06422, algorithm 1.
    """

    tol: float = option(0.1, above=0, below=1)

    def fill(self, weight: Tensor, act: str, generator: torch.Generator) -> None:
        """Fill `weight` with orthonormal rows or columns; `act` plays no role."""
        torch.nn.init.orthogonal_(weight, generator=generator)

    def check(self, model: nn.Module) -> None:
        """Raise InitError if a layer's output cannot be scaled."""
        fixed = {type(layer).__name__ for layer, scale in linear_layers(model) if scale is None}
        if fixed:
            names = ", ".join(sorted(fixed))
            why = f"the output of {names} does not change with the length of weights"
            raise self.error("", "lsuv", why, "init=orthogonal")

    @torch.no_grad()
    def calibrate(self, model: nn.Module, context: InitContext) -> Iterator[Row]:
        """Scale all layers in one forward: each passes on what it gives once it is scaled."""
        todo = dict(linear_layers(model))

        def scaled(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            return self._scaled(layer, todo, inputs[0], output) if layer in todo else output

        hooks = [layer.register_forward_hook(scaled) for layer in todo]
        model(context.first)
        for hook in hooks:
            hook.remove()
        return iter(())

    def _scaled(
        self, layer: nn.Module, todo: dict[nn.Module, Tensor | None], x: Tensor, y: Tensor
    ) -> Tensor:
        """Scale a layer by its output `y`, if that varies, and return what it gives then."""
        scale = todo[layer]
        assert scale is not None
        if hasattr(layer, "calibrate"):
            layer.calibrate(x)  # type: ignore[operator]
            y = layer.forward(x)
        else:
            groups = self.groups_of(layer) if scale.dim() else 1
            for _ in range(TRIES):
                var = y.transpose(0, 1).reshape(groups, -1).var(1, correction=0)
                if not var.any():
                    return y
                off = ((var - 1).abs() >= self.tol) & (var > 0)
                if not off.any():
                    break
                factor = torch.where(off, var.sqrt(), 1).reshape(groups, *[1] * scale.dim())
                scale.copy_((scale.reshape(groups, -1, *scale.shape[1:]) / factor).view_as(scale))
                y = layer.forward(x)
        del todo[layer]
        return y
