"""The base of norms: the class `Norm` with its hooks, layers over time, and checks of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from normbench.errors import Mistake, NormError, counted
from normbench.norms._sums import widest
from normbench.parts.options import Options

PLACES = ("pre", "post", "preact")
Share = TypeVar("Share")
BATCH_AXES = {0: (2, "(N, C)"), 1: (3, "(N, C, L)"), 2: (4, "(N, C, H, W)")}


@dataclass(frozen=True)
class Norm(Options):
    """The options of a normalization method and the hooks by which it enters a model.

    A norm holds no tensors: the modules that its hooks return do. Each hook has a neutral default.
    The facts below tell what the code around a norm must know of it.
    """

    error: ClassVar[type[NormError]] = NormError
    aliases: ClassVar[tuple[str, ...]] = ()  # other names, only for the answer to an unknown name
    bias: ClassVar[bool] = True  # a bias directly before the norm is of use
    placement: ClassVar[str] = "pre"  # where it stands unless the user says otherwise
    places: ClassVar[tuple[str, ...]] = ("pre", "post", "preact")
    brings: ClassVar[str] = "relu"  # the activation that stands where the user names none
    own_activation: ClassVar[bool] = False  # it is its own activation: a named one is refused
    uses_batch: ClassVar[bool] = False  # in training, a sample's output depends on its batch
    running: ClassVar[bool] = False  # keeps running statistics for evaluation
    sized_by: ClassVar[str] = "norm_batch"  # option or fact: examples behind a batch statistic
    parameters: ClassVar[str] = "none"  # learned numbers for C channels, for `list norms`
    state: ClassVar[str] = "none"  # buffers in the state dictionary, at the default options
    memory_format: ClassVar[str] = "channels_last"  # the faster format of feature maps on a CPU

    def linear(self, layer: nn.Module) -> nn.Module:
        """Return the module that takes the place of a Linear or Conv2d with its first weights."""
        return layer

    def layer(self, channels: int, dims: int) -> nn.Module | None:
        """Return the module features -> features for `dims` spatial axes, None if there is none."""
        return None

    def activation(self, act: nn.Module | None, channels: int, dims: int) -> nn.Module:
        """Return what stands in the activation's place; `act` is None if the run names none."""
        return act or nn.ReLU()

    def over_time(self, channels: int, steps: int) -> nn.Module | None:
        """Return a module `(x, t) -> y` for a recurrent cell, None if the norm has no layer.

        Without running statistics one layer serves all time steps. With them there is one per
        step, sharing weight and bias; longer sequences use the last.
        """
        count = steps if self.has_modes() else 1
        layers = [self.layer(channels, 0) for _ in range(count)]
        return None if layers[0] is None else OverTime([layer for layer in layers if layer])

    def resolve(self, accumulate: int) -> Norm:
        """Return the norm for a run of `accumulate` micro-batches per optimizer step.

        Raises: NormError if it cannot be used there.
        """
        return self

    def after_backward(self, model: nn.Module) -> None:
        """Act on the gradients of a step; passes on to the modules that have this hook."""
        _pass_on(model, "after_backward")

    def after_step(self, model: nn.Module) -> None:
        """Act after the optimizer's step; passes on to the modules that have this hook."""
        _pass_on(model, "after_step")

    def has_modes(self) -> bool:
        """Tell whether training and evaluation compute different things."""
        return self.running

    def norms_features(self) -> bool:
        """Tell whether it has a layer or an activation of its own."""
        kind = type(self)
        return kind.layer is not Norm.layer or kind.activation is not Norm.activation

    def warnings(self, model: nn.Module, beside: Sequence[Norm] = ()) -> list[Mistake]:
        """Return what works in this model but may not be meant.

        Args: model: built with this norm, on any device; beside: what it is chained with.
        """
        return []


class Running(nn.Module):
    """A layer with running statistics for evaluation, in buffers called `running_*`.

    While it is `plain`, a training forward takes nothing but the moments of the whole batch, for
    its output as for the running statistics, which become those of this batch.
    """

    plain = False
    count = 0  # values per channel behind the statistics of a plain forward
    notes: ClassVar[tuple[str, ...]] = ("count",)  # attributes that no forward reads
    variance: ClassVar[str | None] = None  # the buffer with the variance around `running_mean`
    unbiased = False  # it is the sum of squares over `count` - 1

    def share(self, momentum: Share) -> Share | float:
        """Return the weight of new values in the running statistics: `momentum`, or 1 if plain."""
        return 1.0 if self.plain else momentum

    def statistics(self) -> dict[str, Tensor]:
        """Return the running statistics by name."""
        buffers = self.named_buffers(recurse=False)
        return {name: buffer for name, buffer in buffers if name.startswith("running_")}

    def additive(self) -> dict[str, Tensor]:
        """Return what of the statistics of one batch may be averaged over batches, in float64.

        Means may, and variances as second moments: by the law of total variance the variance over
        all batches is the mean of those within them plus the variance of their means.
        """
        values = {name: widest(buffer) for name, buffer in self.statistics().items()}
        if self.variance:
            var = values[self.variance]
            if self.unbiased:
                var = var * ((self.count - 1) / self.count)
            values[self.variance] = var + values["running_mean"].square()
        return values

    def adopt(self, averages: dict[str, Tensor], count: float) -> None:
        """Take averages of what `additive` returns, over `count` values per channel in all."""
        if self.variance:
            var = (averages[self.variance] - averages["running_mean"].square()).clamp_min(0)
            averages[self.variance] = var * (count / (count - 1)) if self.unbiased else var
        for name, buffer in self.statistics().items():
            buffer.copy_(averages[name])


class OverTime(nn.Module):
    """Applies the t-th layer at time t, the last one at all later times."""

    notes: ClassVar[tuple[str, ...]] = ("last",)  # attributes that no forward reads

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.last = 0  # the time of the last call
        self.layers = nn.ModuleList(layers)
        for layer in layers[1:]:  # one weight and bias for all steps
            for name, parameter in layers[0].named_parameters():
                owner, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(owner), leaf, parameter)

    def forward(self, x: Tensor, t: int) -> Tensor:
        """Normalize `x` of shape (N, C) at time `t` >= 0."""
        self.last = t
        y: Tensor = self.layers[min(t, len(self.layers) - 1)](x)
        return y


def check_rank(layer: nn.Module, x: Tensor, dims: int) -> None:
    """Raise NormError unless `x` has `dims` spatial axes behind (N, C)."""
    axes, form = BATCH_AXES.get(dims, (0, "(N, C), (N, C, L) or (N, C, H, W)"))
    if x.dim() != axes:
        name = type(layer).__name__
        raise NormError("", name, f"got shape {tuple(x.shape)}, needs {form}", f"shape={form}")


def check_count(
    layer: nn.Module, shape: Sequence[int], count: int, over: str, fix: str = ""
) -> None:
    """Raise NormError if a variance would be taken over fewer than two values.

    Args: over: what it is taken over, in words; fix: what works, where a larger batch does not.
    """
    if count < 2:
        name = type(layer).__name__
        batched = over.startswith("per channel") and "sample" not in over
        raise NormError(
            "",
            name,
            f"input {tuple(shape)} leaves {counted(count, 'value')} {over} "
            "to take statistics of, at least 2 are needed",
            fix or ("a larger batch" if batched else "another norm, or a larger layer"),
        )


def divisors(number: int) -> list[int]:
    """List the divisors of `number` in ascending order."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def groups_of(groups: int | None, channels: int) -> int:
    """Resolve `groups`: None is the divisor nearest to 8 that leaves two channels a group.

    Of two that are equally near the larger is taken. A single channel is one group.
    Raises: NormError if `groups` does not divide `channels`.
    """
    if groups is None:
        usable = [count for count in divisors(channels) if channels // count >= 2] or [1]
        return min(usable, key=lambda count: (abs(count - 8), -count))
    return divisor(groups, channels, "groups")


def divisor(number: int, channels: int, key: str) -> int:
    """Return `number`, the value of the option `key`.

    Raises: NormError if it does not divide `channels`.
    """
    if channels % number:
        works = divisors(channels)
        into = f"{number} groups" if key == "groups" else f"groups of {number}"
        raise NormError(
            key,
            number,
            f"{channels} channels do not divide into {into} "
            f"(divisors: {', '.join(map(str, works))})",
            min(works, key=lambda count: abs(count - number)),
        )
    return number


def _pass_on(model: nn.Module, hook: str) -> None:
    for module in model.modules():
        if hasattr(module, hook):
            getattr(module, hook)()
