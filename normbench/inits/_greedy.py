"""Greedy layer-wise pre-training: each unit of a net learns to give back its input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count, islice
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adam import adam

from normbench.inits._base import Init, InitContext
from normbench.norms._units import Unit
from normbench.rows import Halt, Row
from normbench.runtime import rng

GEOMETRY = ("stride", "padding", "dilation", "groups")


class Stage(NamedTuple):
    """The options of `init=autoencoder` that say how a unit is pre-trained."""

    steps: int
    batch: int
    lr: float
    noise: float
    tied: bool


def units_of(model: nn.Module) -> dict[str, nn.Module]:
    """Find the units with a linear layer, by path; the classifier is none."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, Unit) and hasattr(module, "linear")
    }


def pretrain(
    model: nn.Module, context: InitContext, stage: Stage, drawing: Init
) -> Iterator[Row | Halt]:
    """Train the units one after the other, in the order in which the model calls them.

    Yields: rows with the mean loss of a unit since the last one. A loss that is not finite ends
        the stage, in the row of its step.
    """
    order = _in_order(model, context.first)
    done = int(context.kept.get("units", 0))
    for number, path in enumerate(order[done:], done):
        course = _Course(model, path, context, stage, drawing)
        first = course.load(context.kept) if number == done and context.kept else 0
        for step, index in enumerate(islice(course.batches(), first, stage.steps), first + 1):
            course.learn(index)
            if step % context.log_every == 0 or step == stage.steps:
                row, finite = course.row(number * stage.steps + step)
                yield row
                if not finite:
                    return
            if context.halts(step):
                units, steps = torch.tensor(number), torch.tensor(step)
                state = {**course.state(), "units": units, "steps": steps}
                yield Halt(partial(dict, state))


class _Course:
    """The pre-training of one unit: its decoder, optimizer, batches and corruption."""

    def __init__(
        self, model: nn.Module, path: str, context: InitContext, stage: Stage, drawing: Init
    ) -> None:
        self.model, self.path, self.context = model, path, context
        self.unit = model.get_submodule(path)
        self.noise, self.batch = stage.noise, min(stage.batch, context.count)
        device = context.first.device
        self.random = self._random("noise", device=str(device))
        layer = self.unit.get_submodule("linear")
        own = None if stage.tied else _drawn(layer, drawing, self._random("decoder")).to(device)
        self.decoder = Decoder(layer, own)
        parameters = [*self.unit.parameters(), *self.decoder.learned]
        self.optimizer = _Adam(parameters, stage.lr)
        self.losses: list[Tensor] = []  # since the last row

    def batches(self) -> Iterator[Tensor]:
        """Yield the indices (batch,) of training images, each once an epoch, for ever."""
        images = self.context.count
        for epoch in count():
            order = torch.randperm(images, generator=self._random("order", epoch))
            whole = images // self.batch * self.batch
            yield from order[:whole].to(self.context.first.device).reshape(-1, self.batch)

    def learn(self, index: Tensor) -> None:
        """Do a step on the images at `index`."""
        x = self._input(self.context.gather(index))
        corrupted = x
        if self.noise:
            corrupted = x * torch.empty_like(x).bernoulli_(1 - self.noise, generator=self.random)
        self.optimizer.zero_grad()
        with self.context.cast():
            back = self.decoder(self.unit(corrupted), x.shape)
        loss = F.mse_loss(back.float(), x.float())
        loss.backward()  # type: ignore[no-untyped-call]
        self.context.norm.after_backward(self.unit)
        self.optimizer.step()
        self.context.norm.after_step(self.unit)
        self.losses.append(loss.detach())

    def row(self, step: int) -> tuple[Row, bool]:
        """Return the row of the losses since the last one, and whether they are finite.

        It is of `step`, counted over all units, or of the step of the first one that is not finite.
        """
        values, self.losses = torch.stack(self.losses).tolist(), []
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        now = step - (0 if bad is None else len(values) - 1 - bad)
        loss = math.fsum(values) / len(values) if bad is None else math.nan
        examples = now * self.batch
        epoch = round(examples / self.context.count, 6)
        return Row(
            "pretrain", now, examples, epoch, {f"pretrain/{self.path}/loss": loss}
        ), bad is None

    def state(self) -> dict[str, Tensor]:
        """Return all that is not of the model, by name."""
        state = {f"losses.{place}": loss for place, loss in enumerate(self.losses)}
        return state | self._tensors() | {"random": self.random.get_state()}

    def load(self, state: Mapping[str, Tensor]) -> int:
        """Take over what `state` returned, and return the steps that are done."""
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(state[name])
        self.random.set_state(state["random"])
        count, device = sum(name.startswith("losses.") for name in state), self.context.first.device
        self.losses = [state[f"losses.{place}"].to(device) for place in range(count)]
        return int(state["steps"])

    def _tensors(self) -> dict[str, Tensor]:
        """Give what changes with a step besides the unit, by name."""
        named: dict[str, Tensor] = {
            f"decoder.{place}": own for place, own in enumerate(self.decoder.learned)
        }
        for kind in ("exp_avgs", "exp_avg_sqs", "state_steps"):
            for place, tensor in enumerate(self.optimizer.state[kind]):
                named[f"{kind}.{place}"] = tensor
        return named

    def _input(self, images: Tensor) -> Tensor:
        """Return the input of the unit for `images`; the layers after it are spared the work."""

        def stop(unit: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _Reached(inputs[0])

        hook = self.unit.register_forward_pre_hook(stop)
        try:
            with torch.no_grad(), self.context.cast():
                self.model(images)
        except _Reached as reached:
            return reached.x
        finally:
            hook.remove()
        raise AssertionError(f"{self.path} is not called")

    def _random(self, purpose: str, epoch: int = 0, device: str = "cpu") -> torch.Generator:
        seed = self.context.seed
        return rng.generator(seed, "pretrain", purpose, self.path, epoch, device=device)


class _Adam:
    """Torch's Adam with its usual constants (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1).

    Parameters and gradients are changed in place, as they may be views of one tensor. By torch's
    function: its class imports a compiler, which takes longer than the whole pre-training.
    """

    options: ClassVar[dict[str, Any]] = {
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "foreach": True,
        "amsgrad": False,
        "maximize": False,
    }

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        self.lr, self.values = lr, [parameter.detach() for parameter in parameters]
        for parameter, value in zip(parameters, self.values, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(value)
        self.grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.state: dict[str, Any] = {
            "exp_avgs": [torch.zeros_like(value) for value in self.values],
            "exp_avg_sqs": [torch.zeros_like(value) for value in self.values],
            "max_exp_avg_sqs": [],
            "state_steps": [
                torch.zeros((), dtype=torch.float64, device="cpu") for _ in self.values
            ],
        }

    def zero_grad(self) -> None:
        torch._foreach_zero_(self.grads)

    def step(self) -> None:
        adam(self.values, self.grads, **self.state, **self.options, lr=self.lr)


class _Reached(Exception):
    """Ends a forward at the unit that is looked for, whose input is `x`."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class Decoder:
    """Transpose of a linear layer, from its outputs to its inputs: D(h) = W' h + d.

    W: (out, in, ...); d: (inputs,), starts at 0. For a convolution it is the transposed one.

    Args: layer: whose transpose it is; it may be what a norm has put into its place. weight: of its
        own, in the shape of the layer's; None shares that of the layer.
    """

    def __init__(self, layer: nn.Module, weight: Tensor | None) -> None:
        own = layer.get_parameter("weight") if weight is None else nn.Parameter(weight)
        self.geometry = _geometry(layer)
        self.weight = own
        self.bias = nn.Parameter(own.new_zeros(own.shape[1] * self.geometry.get("groups", 1)))
        self.learned = [self.bias] if weight is None else [self.bias, own]

    def __call__(self, h: Tensor, shape: torch.Size) -> Tensor:
        """Map `h` (N, out) or (N, out, ...) to the inputs, of `shape`."""
        if not self.geometry:
            return F.linear(h, self.weight.t(), self.bias)
        geometry, pads, left = self.geometry, [], []
        for axis, taps in enumerate(self.weight.shape[2:]):
            stride, dilation = geometry["stride"][axis], geometry["dilation"][axis]
            cover = (h.shape[axis + 2] - 1) * stride + (taps - 1) * dilation + 1
            beyond = cover - shape[axis + 2]  # what the kernels of all outputs see of no input
            pads.append(max(geometry["padding"][axis], (beyond + 1) // 2))
            left.append(2 * pads[-1] - beyond)
        return F.conv_transpose2d(
            h,
            self.weight,
            self.bias,
            geometry["stride"],
            pads,
            left,
            geometry["groups"],
            geometry["dilation"],
        )


def _geometry(layer: nn.Module) -> dict[str, Any]:
    """Return stride, padding, dilation and groups of a convolution, {} for a dense layer."""
    if isinstance(layer, nn.Linear):
        return {}
    geometry = getattr(layer, "how", None)
    if geometry is None:
        geometry = {name: getattr(layer, name) for name in GEOMETRY}
    if geometry and not isinstance(geometry["padding"], tuple):
        geometry = {**geometry, "padding": (0, 0)}  # padded by other means: the decoder cuts it off
    return dict(geometry)


def _drawn(layer: nn.Module, drawing: Init, generator: torch.Generator) -> Tensor:
    """Draw the weight of a decoder of its own as that of a linear layer from `h` to `x`."""
    shape = getattr(layer, "shape", None) or layer.get_parameter("weight").shape
    dtype, groups = next(layer.parameters()).dtype, drawing.groups_of(layer)
    size = shape[1], shape[0] // groups, *shape[2:]
    weights = [torch.empty(size, dtype=dtype) for _ in range(groups)]
    for weight in weights:
        drawing.fill(weight, "identity", generator)
    return torch.cat([weight.transpose(0, 1) for weight in weights]).contiguous()


def _in_order(model: nn.Module, x: Tensor) -> list[str]:
    """Return the paths of the units in the order of their first calls."""
    order: dict[str, None] = {}
    hooks = [
        unit.register_forward_pre_hook(lambda unit, x, path=path: order.setdefault(path))
        for path, unit in units_of(model).items()
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return list(order)
