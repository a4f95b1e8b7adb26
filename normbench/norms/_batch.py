"""What norms with batch statistics share: sets of samples, their moments, running statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Norm, Running, check_count, check_rank
from normbench.norms._sums import by_moments, precise, spread
from normbench.parts.options import option
from normbench.runtime import collectives


@dataclass(frozen=True)
class RunningStatistics(Norm):
    """The base of norms that take statistics of a batch in training, running ones in evaluation.

    Args: eps: added to the variance. momentum: weight of the new value in the running statistics.
        affine: learn weight and bias.
    """

    bias: ClassVar[bool] = False
    uses_batch: ClassVar[bool] = True
    running: ClassVar[bool] = True
    parameters: ClassVar[str] = "2 C"
    state: ClassVar[str] = "running_mean running_var steps"

    eps: float = option(1e-5, low=0)
    momentum: float = option(0.1, low=0, high=1)
    affine: bool = True


@dataclass(frozen=True)
class BatchStatistics(RunningStatistics):
    """The base of those that let the run choose whose samples share a statistic.

    Args: norm_batch: samples behind one statistic; `worker` one worker's batch, `global` that of
        all workers, a number less than a worker's share contiguous chunks of it, more the batches
        of several workers.
    """

    norm_batch: int | str = option("worker", low=1, choices=("worker", "global"))


class BatchOptions(Protocol):
    """The options that a layer with batch statistics reads from its norm."""

    @property
    def momentum(self) -> float | None: ...
    @property
    def affine(self) -> bool: ...
    @property
    def norm_batch(self) -> int | str: ...


class Sets(NamedTuple):
    """The sets of samples that share statistics in one forward.

    They are contiguous chunks of `rows` samples, of which the last may have fewer; or, with all of
    a worker's samples in one, the batches of `workers` workers together.
    """

    rows: int
    workers: int = 1


def sets_of(layer: nn.Module, x: Tensor, norm_batch: int | str, chunks: bool = True) -> Sets:
    """Find the sets of samples for a training forward of `x` (N, C, ...), from its shape alone.

    Args: norm_batch: `worker`, `global`, or samples a set: less than N cuts chunks of equal size as
        far as possible, more joins workers. A single worker has no more than its N to offer.
        chunks: whether the layer can be cut.
    Raises: NormError if a set has a single value per channel or none, if a layer that is not to be
        cut would be, or if `norm_batch` is no multiple of N that divides the workers.
    """
    samples, positions, over = x.shape[0], math.prod(x.shape[2:]), "per channel"
    sets, smallest = Sets(samples), samples
    if norm_batch == "global":
        sets = Sets(samples, collectives.world_size())
    elif isinstance(norm_batch, int) and norm_batch < samples:
        if not chunks:
            why = f"{type(layer).__name__} does not cut a worker's {samples} samples into chunks"
            raise NormError("norm_batch", norm_batch, why, "worker")
        count = -(-samples // norm_batch)
        sets, over = Sets(-(-samples // count)), "per channel and chunk"
        smallest = samples - (count - 1) * sets.rows
    elif isinstance(norm_batch, int) and samples:
        sets = Sets(samples, _joined(norm_batch, samples))
    values = smallest * positions
    check_count(layer, x.shape, values * sets.workers, over)
    return sets


def _joined(norm_batch: int, samples: int) -> int:
    """How many workers of `samples` each make up `norm_batch` samples."""
    world = collectives.world_size()
    workers = norm_batch // samples
    if world == 1:
        return 1
    if norm_batch % samples or world % workers:
        works = [str(each * samples) for each in range(1, world + 1) if world % each == 0]
        raise NormError(
            "norm_batch",
            norm_batch,
            f"the batches of {world} workers with {samples} samples each do not make groups of "
            f"{norm_batch} (they make {', '.join(works)})",
            works[-1],
        )
    return workers


class BatchLayer(Running):
    """A layer with batch statistics: cuts the batch, keeps running statistics, counts forwards.

    A subclass computes: `normalize` in training, from one set of samples, and `evaluate`.
    """

    learned: ClassVar[Mapping[str, float]] = {"weight": 1.0, "bias": 0.0}  # with starting values
    tracked: ClassVar[Mapping[str, float]] = {"running_mean": 0.0, "running_var": 1.0}
    counter: ClassVar[str] = "steps"  # the buffer that counts training forwards
    chunks: ClassVar[bool] = True  # whether norm_batch may cut a worker's batch

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    steps: Tensor

    def __init__(self, channels: int, dims: int, options: BatchOptions) -> None:
        super().__init__()
        self.dims, self.momentum = dims, options.momentum
        self.norm_batch = options.norm_batch
        for name, start in self.learned.items():
            value = nn.Parameter(torch.full((channels,), start)) if options.affine else None
            self.register_parameter(name, value)
        for name, start in self.tracked.items():
            self.register_buffer(name, torch.full((channels,), start))
        self.register_buffer(self.counter, torch.tensor(0))

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Normalize `x` (n, times*C, ...), `times` chunks side by side as if they were channels.

        Returns: y, and for each of `tracked` the value that it is to follow, (times*C,).
        """
        raise NotImplementedError

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalize `x` (N, C, ...) without its batch."""
        raise NotImplementedError

    def sets(self, x: Tensor) -> Sets:
        """Find the sets of samples of a training forward."""
        return sets_of(self, x, self.norm_batch, self.chunks)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` and, in training, update the running statistics."""
        check_rank(self, x, self.dims)
        if not self.training:
            return self.evaluate(x)
        return self.train_forward(x, sets_of(self, x, "worker") if self.plain else self.sets(x))

    def train_forward(self, x: Tensor, sets: Sets) -> Tensor:
        """Normalize each set of samples, then update the buffers."""
        y, new = by_chunk(x, sets.rows, lambda part, k: self.normalize(part, k, sets.workers))
        with torch.no_grad():
            self.update(x, sets, new)
        return y.to(x.dtype)

    def update(self, x: Tensor, sets: Sets, new: Sequence[Tensor]) -> None:
        """Let each of `tracked` follow its values (K, C), one for each chunk, and count."""
        steps = getattr(self, self.counter)
        for name, values in zip(self.tracked, new, strict=True):
            follow(getattr(self, name), values, self.share(self.momentum), steps)
        steps.add_(1)

    def gains(self, times: int) -> tuple[Tensor | None, Tensor | None]:
        """Return weight and bias for `times` chunks side by side, (times*C,) each, if learned."""
        learned = self.weight, self.bias
        weight, bias = (
            each if each is None else repeated(precise(each), times) for each in learned
        )
        return weight, bias

    def extra_repr(self) -> str:
        """Show what the layer was made with."""
        channels = len(self.get_buffer(next(iter(self.tracked))))
        return f"{channels}, momentum={self.momentum}, norm_batch={self.norm_batch}"


class BatchNorm(BatchLayer):
    """Batch normalization; the buffers are those of torch's layer."""

    counter = "num_batches_tracked"
    num_batches_tracked: Tensor

    def __init__(self, channels: int, dims: int, options: BatchOptions, eps: float) -> None:
        super().__init__(channels, dims, options)
        self.eps = eps

    def train_forward(self, x: Tensor, sets: Sets) -> Tensor:
        """Leave all to torch's kernel where the statistics are those of the whole batch."""
        momentum = self.share(self.momentum)
        if sets != Sets(x.shape[0]) or momentum is None or self.eps == 0:
            return super().train_forward(x, sets)
        mean, var = self.running_mean, self.running_var
        y = F.batch_norm(x, mean, var, self.weight, self.bias, True, momentum, self.eps)
        self.num_batches_tracked.add_(1)
        return y

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Normalize by the moments of the set; the running variance follows the unbiased one."""
        kind = repeated(precise(self.running_mean), times)
        y, mean, var, count = batch_norm(x, kind, self.gains(times), self.eps, workers)
        return y, (mean, var * (count / (count - 1)))

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""
        mean, var = self.running_mean, self.running_var
        return by_moments(x, mean, var, self.weight, self.bias, self.eps)


def repeated(values: Tensor, times: int) -> Tensor:
    """Return `values` (C,) for `times` chunks side by side, (times*C,)."""
    return values if times == 1 else values.repeat(times)


Part = Callable[[Tensor, int], tuple[Tensor, Sequence[Tensor]]]


def by_chunk(x: Tensor, rows: int, normalize: Part) -> tuple[Tensor, list[Tensor]]:
    """Apply `normalize` to each chunk of `rows` samples of `x` (N, C, ...).

    Equal chunks stand side by side as channels, (rows, K*C, ...), so one call serves them all.
    Returns: y (N, C, ...), and the other results with a row for each chunk, (K, C).
    """
    samples, channels = x.shape[:2]
    if rows == samples:
        y, new = normalize(x, 1)
        return y, [each.unsqueeze(0) for each in new]
    whole = samples // rows * rows
    if whole < samples:
        # Copies, since torch 2.11 has kernels that take no slices of a stack of models.
        parts = [
            by_chunk(x[:whole].clone(), rows, normalize),
            by_chunk(x[whole:].clone(), samples - whole, normalize),
        ]
        outputs, found = zip(*parts, strict=True)
        return torch.cat(outputs), [torch.cat(each) for each in zip(*found, strict=True)]
    times = samples // rows
    y, new = normalize(torch.unflatten(x, 0, (times, rows)).transpose(0, 1).flatten(1, 2), times)
    y = torch.unflatten(y, 1, (times, channels)).transpose(0, 1).flatten(0, 1)
    return y, [each.view(times, channels) for each in new]


def follow(buffer: Tensor, values: Tensor, momentum: float | None, steps: Tensor) -> None:
    """Let a running statistic take `values` (K, ...) in order, each with momentum/K.

    Without momentum: the plain average over all forwards, of which `steps` are done.
    """
    values = values.to(buffer.dtype)
    count = len(values)
    if momentum is None:
        buffer.add_((values.mean(0) - buffer) / (steps + 1))
    elif count == 1:
        buffer.mul_(1 - momentum).add_(values[0], alpha=momentum)
    else:
        keep = 1 - momentum / count
        age = torch.arange(count - 1, -1, -1, dtype=buffer.dtype, device=buffer.device)
        shares = (momentum / count) * keep**age
        # not by a matrix product, which autocast takes in half precision
        buffer.mul_(keep**count).add_((shares.unsqueeze(1) * values).sum(0))


class Centred(NamedTuple):
    """What is left of features (N, C, ...) minus a constant per channel, and its moments.

    `shift` (C,) is the constant, the mean up to rounding; `mean`, `var` (C,) are the moments of
    what is left, so a large mean costs no digits; var is biased, `values` () are behind them.
    """

    x: Tensor
    shift: Tensor
    mean: Tensor
    var: Tensor
    values: Tensor


@torch.no_grad()
def centre(x: Tensor, workers: int = 1) -> Centred:
    """Take the moments of `x`, in float32 or better, in two passes, so that none is lost."""
    total, count = totals(x, workers)
    shift = total / count
    left = x - spread(shift, x.dim() - 2)
    mean, second = left.sum(_axes(x)), _squares(left)
    if workers > 1:
        mean, second = over_workers(torch.stack([mean, second]), workers).unbind()
    mean = mean / count
    return Centred(left, shift, mean, (second / count - mean.square()).clamp_min(0), count)


def totals(x: Tensor, workers: int = 1) -> tuple[Tensor, Tensor]:
    """Return the sum of `x` over samples and positions of `workers` workers, and their number."""
    total = x.sum(_axes(x))
    count = total.new_full((1,), x.numel() / x.shape[1])
    if workers == 1:
        return total, count[0]
    both = over_workers(torch.cat([total, count]), workers)
    return both[:-1], both[-1].detach()


def moments(x: Tensor, workers: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance (C,) of `x` (N, C, ...) with gradient, and their count."""
    wide = precise(x)
    found = centre(wide.detach(), workers)
    mean, var = _Moments.apply(wide, *found[1:], workers)
    return mean, var, found.values


def batch_norm(
    x: Tensor,
    kind: Tensor,
    gains: tuple[Tensor | None, Tensor | None],
    eps: float,
    workers: int,
) -> tuple[Tensor, Tensor, Tensor, float | Tensor]:
    """Normalize `x` (N, C, ...) by the moments of `workers` workers, then apply weight and bias.

    Args: kind: a tensor of the shape and type of statistics, (C,); gains: weight and bias (C,).
    Returns: y, mean, biased var (C,) without gradient, and the count of values behind them.
    """
    if workers > 1 or eps == 0:  # which torch's kernel refuses
        weight, bias = gains
        found = centre(precise(x.detach()), workers)
        weight = torch.ones_like(found.mean) if weight is None else weight
        bias = torch.zeros_like(found.mean) if bias is None else bias
        y = standardize(x, found, weight, bias, eps, workers)
        return y, found.shift + found.mean, found.var, found.values
    count = x.numel() / x.shape[1]
    mean, var = torch.zeros_like(kind), torch.zeros_like(kind)
    y = F.batch_norm(x, mean, var, *gains, True, 1.0, eps)
    return y, mean, var * ((count - 1) / count), count


def standardize(
    x: Tensor, found: Centred, scale: Tensor, shift: Tensor, eps: float, workers: int
) -> Tensor:
    """Return `(x - mean) / sqrt(var + eps) * scale + shift` with gradients through mean and var.

    Args: found: `centre(x)`; scale, shift: (C,), constants or learned values.
    """
    scale, shift = scale.to(found.x.dtype), shift.to(found.x.dtype)
    left, _, mean, var, values = found
    y: Tensor = _Standardize.apply(precise(x), left, mean, var, scale, shift, values, eps, workers)
    return y


def over_workers(tensor: Tensor, workers: int) -> Tensor:
    """Return the sum over `workers` workers; the gradient is summed over them as well."""
    if workers == 1:
        return tensor
    total: Tensor = _OverWorkers.apply(tensor, workers)
    return total


class _OverWorkers(torch.autograd.Function):
    """The sum over workers, whose losses are summed as well."""

    @staticmethod
    def forward(tensor: Tensor, workers: int) -> Tensor:
        return collectives.all_reduce_sum(tensor, workers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.workers = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return over_workers(grad, ctx.workers), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, tensor: Tensor, workers: int) -> tuple[Tensor, int | None]:
        return over_workers(tensor, workers), in_dims[0]  # elementwise: a lane is one more axis


class _Moments(torch.autograd.Function):
    """Mean and variance found by `centre`, with their gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, shift: Tensor, mean: Tensor, var: Tensor, values: Tensor, workers: int
    ) -> tuple[Tensor, Tensor]:
        return shift + mean, var.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, shift, mean, _, values, ctx.workers = inputs
        ctx.save_for_backward(x, shift, mean, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, mean, values = ctx.saved_tensors
        of_mean, of_var = over_workers(torch.stack(grads) / values, ctx.workers).unbind()
        slope = 2 * of_var
        grad = (x - spread(shift, x.dim() - 2)) * spread(slope, x.dim() - 2) + spread(
            of_mean - slope * mean, x.dim() - 2
        )
        return grad, None, None, None, None, None


class _Standardize(torch.autograd.Function):
    """The last step of batch normalization on centred values, with the gradient of all steps."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, left: Tensor, *rest: Any) -> Tensor:
        mean, var, scale, shift, _, eps, _ = rest
        return by_moments(left, mean, var, scale, shift, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, left, mean, var, scale, _, values, ctx.eps, ctx.workers = inputs
        ctx.save_for_backward(left, mean, var, scale, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, mean, var, scale, values = ctx.saved_tensors
        backward, every = torch.ops.aten.native_batch_norm_backward, [True, True, True]
        root = (var + ctx.eps).rsqrt()
        if ctx.workers == 1:
            found = backward(grad, left, scale, None, None, mean, root, True, ctx.eps, every)
            return _placed(*found)
        # with constant moments first, then what flows through those of all workers
        found = backward(grad, left, scale, mean, var, mean, root, False, ctx.eps, every)
        through, of_scale, of_shift = found
        of_both = over_workers(torch.stack([of_scale, of_shift]) / values, ctx.workers)
        slope = -scale * root.square() * of_both[0]
        offset = -scale * root * of_both[1] - slope * mean
        through = through + left * spread(slope, left.dim() - 2) + spread(offset, left.dim() - 2)
        return _placed(through, of_scale, of_shift)


def _placed(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients where `_Standardize` takes their tensors."""
    return x, None, None, None, scale, shift, None, None, None


def _axes(x: Tensor) -> tuple[int, ...]:
    return 0, *range(2, x.dim())


def _squares(x: Tensor) -> Tensor:
    """The sum of squares over samples and positions, (C,)."""
    if x.dim() > 2 and x.is_contiguous():  # the fast reduction over the last axis of a CPU tensor
        norms: Tensor = torch.linalg.vector_norm(x.flatten(2), dim=2)
        return norms.square().sum(0)
    return x.square().sum(_axes(x))
