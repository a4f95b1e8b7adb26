"""The steps of several runs in one process, made in one program where that changes no bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from normbench.engine.capture.laned import Laned
from normbench.engine.loader import Batch
from normbench.engine.train import Outputs, TrainStep
from normbench.optimizers._base import FlatOptimizer, joined

ALIGN = 16  # float32 values in 64 bytes, where the parameters of each lane begin
Due = tuple[int, Batch, float]


class Lanes:
    """Makes the steps of several runs that are alike, each with the bits of the run alone.

    They are made in one program once that is known to do (see `Laned`).

    Args: steps: those of the runs, which are numbered by their place. Their parameters, gradients
        and buffers move to where those of all runs lie side by side.
    """

    def __init__(self, steps: Sequence[TrainStep]) -> None:
        self.steps = steps
        self.here = set(range(len(steps)))
        self.joined: dict[tuple[int, ...], FlatOptimizer | None] = {}
        if len(steps) > 1:
            side_by_side(steps)
        self.gradient = Laned([step.gradient for step in steps])
        self.further = Laned([step.further for step in steps])

    def __call__(self, due: Sequence[Due]) -> dict[int, Exception]:
        """Make a step of each run that is named, with its batch and learning rate.

        Returns: the errors of the runs whose own step has failed.
        """
        several = len(self.steps) > 1 and 2 * len(due) > len(self.steps)
        together = several and self.here == {number for number, _, _ in due}
        made: Mapping[int, Sequence[Outputs]] = {}
        if together and not self.obstacle:
            made = self._differentiate({number: batch for number, batch, _ in due})
        rates: dict[float, list[tuple[int, Tensor]]] = {}
        failed = {}
        for number, batch, lr in due:
            try:
                square = self.steps[number].begin(batch, made.get(number, ()))
                rates.setdefault(lr, []).append((number, square))
            except Exception as error:  # of this run alone
                failed[number] = error
        for lr, begun in rates.items():
            failed |= self._finish(dict(begun), lr)
        return failed

    def _finish(self, squares: Mapping[int, Tensor], lr: float) -> dict[int, Exception]:
        """Make the optimizers' steps of runs with one learning rate, and what comes after them."""
        numbers, failed = tuple(squares), {}
        if numbers not in self.joined:
            self.joined[numbers] = joined([self.steps[number].optimizer for number in numbers])
        if optimizer := self.joined[numbers]:
            optimizer.step(lr)
        for number, square in squares.items():
            try:
                if not optimizer:
                    self.steps[number].optimizer.step(lr)
                self.steps[number].end(square)
            except Exception as error:  # of this run alone
                failed[number] = error
        return failed

    def without(self, number: int) -> None:
        """Leave out a run that has ended: what it has may change from now on."""
        self.here.discard(number)

    @property
    def obstacle(self) -> str:
        """Say why steps are not made in one program, as far as is known, or nothing."""
        return self.gradient.reason or self.further.reason

    def _differentiate(self, batches: Mapping[int, Batch]) -> dict[int, list[Outputs]]:
        """Write the gradients of all runs; those that have ended compute something in vain.

        Returns: loss and logits of each micro-batch, by run.
        """
        some = next(iter(batches.values()))
        cut = [step.micro_batches(batches.get(n, some)) for n, step in enumerate(self.steps)]
        first, *others = zip(*cut, strict=True)
        made = [self.gradient(first), *map(self.further, others)]
        return {number: [outputs[number] for outputs in made] for number in batches}


def side_by_side(steps: Sequence[TrainStep]) -> None:
    """Move parameters, gradients and buffers of all lanes to where equal ones lie side by side.

    All tensors of a lane that lie in the same memory move with them, such as what its optimizer
    cuts out of the parameters.
    """
    homes = zip(*map(_homes, steps), strict=True)
    moved = [dict[int, tuple[Tensor, int]]() for _ in steps]
    for (first, align), *others in homes:
        size = first.untyped_storage().nbytes() // first.element_size()
        step = -(-size // align) * align
        block = first.new_zeros(len(steps) * step)
        for lane, tensor in enumerate((first, *(other for other, _ in others))):
            block[lane * step :][:size].copy_(tensor.detach().as_strided((size,), (1,), 0))
            moved[lane][tensor.untyped_storage()._cdata] = block, lane * step
    for lane, each in enumerate(steps):
        for tensor in _tensors(each):
            if home := moved[lane].get(tensor.untyped_storage()._cdata):
                block, start = home
                place = tensor.shape, tensor.stride(), start + tensor.storage_offset()
                tensor.data = block.as_strided(*place)


def _homes(step: TrainStep) -> list[tuple[Tensor, int]]:
    """Name the tensors that lie in memory of their own, and at multiples of what to put them.

    Buffers follow each other without gaps, so that those of all lanes are one vector.
    """
    flat = step.optimizer.params, step.optimizer.message
    return [*((tensor, ALIGN) for tensor in flat), *((each, 1) for each in step.model.buffers())]


def _tensors(step: TrainStep) -> Iterator[Tensor]:
    """Yield the tensors that a step keeps, each at least once."""
    yield from step.model.parameters()
    yield from step.model.buffers()
    yield from step.gradients
    yield from _nested(vars(step.optimizer))


def _nested(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _nested(part)
