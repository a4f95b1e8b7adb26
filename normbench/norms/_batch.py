"""The base of norms with batch statistics: groups of samples, chunks, running statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.errors import NormError
from normbench.norms._base import Running, check_count, check_rank
from normbench.norms._batch_moments import batch_norm
from normbench.norms._moments import ema_
from normbench.norms._sums import at_least_float32, by_moments
from normbench.runtime import collectives


class BatchOptions(Protocol):
    """The options that a layer with batch statistics reads from its norm."""

    @property
    def momentum(self) -> float | None: ...
    @property
    def affine(self) -> bool | str: ...
    @property
    def norm_batch(self) -> int | str: ...


class StatGroups(NamedTuple):
    """The sets of samples that share statistics in one forward.

    They are contiguous chunks of `rows` samples, of which the last may have fewer; or, with all of
    a worker's samples in one, the batches of `workers` workers together.
    """

    rows: int
    workers: int = 1


def stat_groups(
    layer: nn.Module, x: Tensor, norm_batch: int | str, chunks: bool = True
) -> StatGroups:
    """Find the sets of samples for a training forward of `x` (N, C, ...), from its shape alone.

    Args: norm_batch: `worker`, `global`, or samples a set: less than N cuts chunks of equal size as
        far as possible, more joins workers. A single worker has no more than its N to offer.
        chunks: whether the layer can be cut.
    Raises: NormError if a set has a single value per channel or none, if a layer that is not to be
        cut would be, or if `norm_batch` is not a multiple of N that divides the workers.
    """
    samples, positions, over = x.shape[0], math.prod(x.shape[2:]), "per channel"
    groups, smallest, fix = StatGroups(samples), samples, ""
    if norm_batch == "global":
        groups = StatGroups(samples, collectives.world_size())
    elif isinstance(norm_batch, int) and norm_batch < samples:
        if not chunks:
            why = f"{type(layer).__name__} does not cut a worker's {samples} samples into chunks"
            raise NormError("norm_batch", norm_batch, why, "worker")
        count = -(-samples // norm_batch)
        groups, over = StatGroups(-(-samples // count)), "per channel and chunk"
        smallest = samples - (count - 1) * groups.rows
        fix = f"{getattr(layer, 'chunked_by', 'norm_batch')}={samples}"
    elif isinstance(norm_batch, int) and samples:
        groups = StatGroups(samples, _joined(norm_batch, samples))
    values = smallest * positions
    check_count(layer, x.shape, values * groups.workers, over, fix)
    return groups


def _joined(norm_batch: int, samples: int) -> int:
    """Count the workers of `samples` each that make up `norm_batch` samples."""
    world = collectives.world_size()
    workers = norm_batch // samples
    if world == 1:
        return 1
    if norm_batch % samples or world % workers:
        works = [str(count * samples) for count in range(1, world + 1) if world % count == 0]
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
    variance: ClassVar[str | None] = "running_var"

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
            wanted = options.affine in (True, name)
            value = nn.Parameter(torch.full((channels,), start)) if wanted else None
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

    def stat_groups(self, x: Tensor) -> StatGroups:
        """Find the sets of samples of a training forward."""
        return stat_groups(self, x, self.norm_batch, self.chunks)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x` and, in training, update the running statistics."""
        check_rank(self, x, self.dims)
        if not self.training:
            return self.evaluate(x)
        return self.train_forward(
            x, stat_groups(self, x, "worker") if self.plain else self.stat_groups(x)
        )

    def train_forward(self, x: Tensor, groups: StatGroups) -> Tensor:
        """Normalize each set of samples, then update the buffers."""
        y, new = by_chunk(x, groups.rows, lambda part, k: self.normalize(part, k, groups.workers))
        with torch.no_grad():
            self.update(x, groups, new)
        return y.to(x.dtype)

    def update(self, x: Tensor, groups: StatGroups, new: Sequence[Tensor]) -> None:
        """Let each of `tracked` follow its values (K, C), one for each chunk, and count."""
        steps = getattr(self, self.counter)
        for name, values in zip(self.tracked, new, strict=True):
            ema_by_chunk_(getattr(self, name), values, self.share(self.momentum), steps)
        steps.add_(1)

    def gains(self, times: int) -> tuple[Tensor | None, Tensor | None]:
        """Return weight and bias for `times` chunks side by side, (times*C,) each, if learned."""
        learned = self.weight, self.bias
        weight, bias = (
            value if value is None else repeated(at_least_float32(value), times)
            for value in learned
        )
        return weight, bias

    def extra_repr(self) -> str:
        """Show what the layer was made with."""
        channels = len(self.get_buffer(next(iter(self.tracked))))
        return f"{channels}, momentum={self.momentum}, norm_batch={self.norm_batch}"


class BatchNorm(BatchLayer):
    """Batch normalization; the buffers are those of torch's layer.

    Args: first: let the running statistics start as those of the first batch.
    """

    counter = "num_batches_tracked"
    unbiased = True
    by_kernel: ClassVar[bool] = True  # torch's, with its gradient
    num_batches_tracked: Tensor

    def __init__(
        self, channels: int, dims: int, options: BatchOptions, eps: float, first: bool = False
    ) -> None:
        super().__init__(channels, dims, options)
        self.eps, self.first = eps, first

    def train_forward(self, x: Tensor, groups: StatGroups) -> Tensor:
        """Leave all to torch's kernel where the statistics are those of the whole batch."""
        momentum = self.share(self.momentum)
        by_kernel = self.by_kernel and not self.first and self.eps > 0
        if groups != StatGroups(x.shape[0]) or momentum is None or not by_kernel:
            return super().train_forward(x, groups)
        mean, var = self.running_mean, self.running_var
        y = F.batch_norm(x, mean, var, self.weight, self.bias, True, momentum, self.eps)
        self.num_batches_tracked.add_(1)
        return y

    def normalize(self, x: Tensor, times: int, workers: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Normalize by the moments of the set; the running variance follows the unbiased one."""
        like = repeated(at_least_float32(self.running_mean), times)
        y, mean, var, count = batch_norm(x, like, self.gains(times), self.eps, workers)
        return y, (mean, var * (count / (count - 1)))

    def update(self, x: Tensor, groups: StatGroups, new: Sequence[Tensor]) -> None:
        """Update the running statistics, which may start as the mean over the first chunks."""
        begins = self.num_batches_tracked == 0
        super().update(x, groups, new)
        for name, values in zip(self.tracked, new, strict=True) if self.first else ():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.where(begins, values.mean(0).to(buffer.dtype), buffer))

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
        return y, [row.unsqueeze(0) for row in new]
    whole = samples // rows * rows
    if whole < samples:
        # Copies, since torch 2.11 has kernels that take no slices of a stack of models.
        parts = [
            by_chunk(x[:whole].clone(), rows, normalize),
            by_chunk(x[whole:].clone(), samples - whole, normalize),
        ]
        outputs, found = zip(*parts, strict=True)
        return torch.cat(outputs), [torch.cat(rows) for rows in zip(*found, strict=True)]
    times = samples // rows
    y, new = normalize(torch.unflatten(x, 0, (times, rows)).transpose(0, 1).flatten(1, 2), times)
    y = torch.unflatten(y, 1, (times, channels)).transpose(0, 1).flatten(0, 1)
    return y, [values.view(times, channels) for values in new]


def ema_by_chunk_(buffer: Tensor, values: Tensor, momentum: float | None, steps: Tensor) -> None:
    """Let a running statistic take `values` (K, ...) in order, each with momentum/K.

    Without momentum: the plain average over all forwards, of which `steps` are done.
    """
    values = values.to(buffer.dtype)
    count = len(values)
    if momentum is None:
        buffer.add_((values.mean(0) - buffer) / (steps + 1))
    elif count == 1:
        ema_(buffer, values[0], momentum)
    else:
        keep = 1 - momentum / count
        age = torch.arange(count - 1, -1, -1, dtype=buffer.dtype, device=buffer.device)
        shares = (momentum / count) * keep**age
        # not by a matrix product, which autocast takes in half precision
        buffer.mul_(keep**count).add_((shares.unsqueeze(1) * values).sum(0))
