"""The base of optimizers: the flat parameters of a model, and the step over them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normbench.errors import OptimizerError
from normbench.parts.options import Options, option

Parts = list[tuple[float, list[list[Tensor]]]]  # by weight decay, as `_parts` returns them
ALIGN = 16  # each parameter starts at a multiple of this many elements: 64 bytes in float32


@dataclass(frozen=True)
class OptimizerOptions(Options):
    """The options of an optimizer; `bind` gives the object that steps a model."""

    error: ClassVar[type[OptimizerError]] = OptimizerError
    rescales: ClassVar[bool] = False  # steps are of the size of lr, whatever that of the gradient

    lr: float = option(0.1, above=0, high=1e30)
    weight_decay: float = option(0.0, low=0, high=1e30)

    def bind(self, model: nn.Module, decay_all: bool = False) -> FlatOptimizer:
        """Flatten the parameters of `model`, which is on its device and in its memory format.

        Args: decay_all: decay every parameter, not only those with two or more axes.
        """
        raise NotImplementedError


class FlatParameters:
    """All parameters of a model as views of one tensor, and their gradients as views of another.

    Decayed parameters (two or more axes, or all) come first, so that weight decay is one slice.
    Shared parameters appear once. A view has the strides of its parameter, so channels-last
    weights stay so. Gaps between parameters (see `ALIGN`) are 0 in both tensors and stay 0.
    Whatever replaces a parameter or a gradient afterwards (`model.to`, `set_to_none`) breaks this.
    `message` is the gradients and one number more, which workers send each other.

    Args: model: its trainable parameters share one dtype and one device.
    """

    def __init__(self, model: nn.Module, decay_all: bool = False) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        trained.sort(key=lambda parameter: not (decay_all or parameter.dim() >= 2))  # stable
        starts, self.decayed, size = [], 0, 0
        for parameter in trained:
            starts.append(size)
            size += -(-parameter.numel() // ALIGN) * ALIGN
            if decay_all or parameter.dim() >= 2:
                self.decayed = size
        like = trained[0]
        self.params = torch.zeros(size, dtype=like.dtype, device=like.device)
        self.message = self.params.new_zeros(size + 1)
        self.grad = self.message[:size]
        for parameter, start in zip(trained, starts, strict=True):
            assert (parameter.dtype, parameter.device) == (like.dtype, like.device)
            # empty_like has dense strides, also where the parameter itself has gaps.
            place = (parameter.shape, torch.empty_like(parameter).stride(), start)
            view = self.params.as_strided(*place)
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = self.grad.as_strided(*place)


class FlatOptimizer:
    """Steps the flat parameters of one model; a subclass fills `state` and implements `step`.

    `params` and `grad` are the flat parameters and gradients: their norm, or their sum over
    workers, is one call. `message` is `grad` and one number more, for whoever sends it.
    """

    def __init__(self, flat: FlatParameters) -> None:
        self.params, self.grad, self.message = flat.params, flat.grad, flat.message
        self.state: dict[str, Tensor] = {}
        self.parts: Parts = []  # of those that step by one of torch's fused calls, and how
        self.how: dict[str, Any] = {}
        self.steps: list[Tensor] = []
        self._decayed = slice(0, flat.decayed)

    def step(self, lr: float) -> None:
        """Change the parameters by their gradients, which it uses up: read their norm before."""
        raise NotImplementedError

    def clip(self, square: Tensor, most: float) -> None:
        """Shorten the gradient g to the norm `most` if it is longer, as torch's clip_grad_norm_.

        g <- g * min(1, most / (|g| + 1e-6)), without waiting for the device.

        Args: square: |g|^2, shape `()`.
        """
        self.grad.mul_((most / (square.sqrt() + 1e-6)).clamp_(max=1.0))

    def zero_grad(self) -> None:
        """Set all gradients to 0, in place: their tensors are views and must stay."""
        self.grad.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors, by name, without which training cannot go on; not copies."""
        return dict(self.state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors saved by the same optimizer for the same model.

        Raises: OptimizerError if a name, shape or dtype differs; nothing is changed then.
        """
        wrong = next(self._differences(state), None)
        if wrong:
            raise OptimizerError("", type(self).__name__, wrong, "the state of this very model")
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def _parts(self, weight_decay: float, *state: str) -> Parts:
        """Cut parameters, gradients and tensors of the state into parts by their weight decay.

        Returns: for each part that is not empty its weight decay, and each tensor in a list, as
        torch's fused steps take it.
        """
        cut = self._decayed.stop if weight_decay else 0
        tensors = self.params, self.grad, *(self.state[name] for name in state)
        return [
            (decay, [[tensor[part]] for tensor in tensors])
            for decay, part in ((weight_decay, slice(0, cut)), (0.0, slice(cut, None)))
            if len(self.params[part])
        ]

    def _decay(self, weight_decay: float) -> None:
        """Add the gradient of weight_decay/2 * |p|^2 for the decayed parameters."""
        if weight_decay:
            self.grad[self._decayed].add_(self.params[self._decayed], alpha=weight_decay)

    def _differences(self, state: Mapping[str, Tensor]) -> Iterator[str]:
        if state.keys() != self.state.keys():
            yield f"saved state holds {sorted(state)}, needed are {sorted(self.state)}"
            return
        for name, own in self.state.items():
            saved, needed = (f"{t.dtype} {tuple(t.shape)}" for t in (state[name], own))
            if saved != needed:
                yield f"saved {name} is {saved}, needed is {needed}"


def joined(optimizers: Sequence[FlatOptimizer]) -> FlatOptimizer | None:
    """Return one that steps the models of several with one learning rate, each as its own does.

    Fused calls take lists of tensors, and go through one after the other.
    Returns: None where they have no fused call in common.
    """
    first = optimizers[0]
    alike = [(type(each), each.how, [decay for decay, _ in each.parts]) for each in optimizers]
    if not first.parts or any(each != alike[0] for each in alike):
        return None
    made = copy.copy(first)
    made.steps = [tensor for each in optimizers for tensor in each.steps]
    made.parts = [
        (part[0][0], [sum(lists, []) for lists in zip(*(lists for _, lists in part), strict=True)])
        for part in zip(*(each.parts for each in optimizers), strict=True)
    ]
    return made
