"""The engine: `fit` trains a model by steps and yields rows; it knows no files and no screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.engine.budget import (
    PRETRAINING,
    TEST,
    TRAINING,
    VALIDATION,
    Budget,
    Diverged,
    Progress,
    Stopped,
)
from normbench.engine.capture.captured import Captured, captured, doubt, obstacle
from normbench.engine.sums import Sums
from normbench.norms._base import Norm
from normbench.rows import Halt, Row
from normbench.runtime import collectives

if TYPE_CHECKING:
    from normbench.engine.evaluate import Evaluator
    from normbench.engine.loader import Batch, Feed
    from normbench.optimizers._base import FlatOptimizer

Outputs = tuple[Tensor, ...]
Write = Callable[[list[Tensor], list[Tensor]], Any]


def fit(
    feed: Feed,
    train_step: TrainStep,
    schedule: Callable[[int], float],
    evaluator: Evaluator,
    at: Progress,
    pretraining: Iterable[Row | Halt] = (),
) -> Iterator[Row | Halt | Due]:
    """Train from where a run is (`at`) and yield rows: `val`, `train` and `val`, `test` and `end`.

    A training row precedes each validation. A number that is not finite ends the run after the row
    in which it is read: the `end` row then has `state` diverged with the first bad step and
    quantity, and there is no test. The first validation after step 0 that reaches the target ends
    the run as well: the test follows, and the `end` row with `target/examples`.

    Between two steps it halts when `at` says so, and before an evaluation that was stopped. Where
    runs train together, each step is yielded when it is due, to be made before the next row.
    """
    try:
        yield from _begin(pretraining, evaluator, at)
        while at.stage == TRAINING:
            epoch, first = divmod(at.step, evaluator.budget.steps_per_epoch)
            evaluator.begin(epoch, first)
            for batch in feed.epoch(epoch, first):
                if train_step.together:
                    yield Due(train_step, batch, schedule(at.step))
                else:
                    train_step(batch, schedule(at.step))
                at.step += 1
                if any(evaluator.budget.due(at.step)):
                    yield from _due(train_step, schedule, evaluator, at)
                if at.halts(at.step):
                    yield Halt()
                if at.stage == TEST:
                    break
        yield from evaluator.test(at.step)
        yield evaluator.budget.end(at.step, at.reached)
    except Stopped:
        yield Halt()
    except Diverged as cause:
        yield evaluator.budget.diverged(at.step, cause)


@dataclass(eq=False)
class Due:
    """A step that is to be made; who makes it says how many `seconds` of that are this run's.

    `cpu_s`: likewise, of CPU time.
    """

    step: TrainStep
    batch: Batch
    lr: float
    seconds: float = 0.0
    cpu_s: float = 0.0


@dataclass(eq=False)
class TrainStep:
    """One optimizer step: forward, loss, backward, optimizer, and the hooks of the norm.

    Each worker trains on its part of the batch; gradients are averaged over the workers. Nothing
    is read back from the device until `sums.read`, which reports on all steps since its last call.

    Args: together: steps are made by whoever trains several runs in one process.
    """

    model: nn.Module
    optimizer: FlatOptimizer
    norm: Norm
    options: StepOptions
    together: bool = False

    def __call__(self, batch: Batch, lr: float) -> None:
        """Train on one batch with learning rate `lr`; the model is in training mode."""
        square = self.begin(batch)
        self.optimizer.step(lr)
        self.end(square)

    def begin(self, batch: Batch, made: Iterable[Outputs] = ()) -> Tensor:
        """Do what comes before the optimizer's step; return the gradient's squared length.

        Args: made: loss and logits of each micro-batch, where the gradient is there already.
        """
        gradient, given = self.gradient, iter(made)
        for x, y in self.micro_batches(batch):
            loss, logits = next(given, None) or gradient(x, y)
            self.sums.add(loss, logits, y)
            gradient = self.further
        grad = self.optimizer.grad
        collectives.average(self.optimizer.message)
        if self.after_backward:
            self.norm.after_backward(self.model)
        square = grad.dot(grad)  # half the time of the norm; the root is taken by the sums
        if self.options.clip is not None:
            self.optimizer.clip(square, self.options.clip)
        return square

    def end(self, square: Tensor) -> None:
        """Do what comes after the optimizer's step."""
        if self.after_step:
            self.norm.after_step(self.model)
        self.sums.close(square)

    def __post_init__(self) -> None:
        self.after_backward = _has_hook(self.norm, self.model, "after_backward")
        self.after_step = _has_hook(self.norm, self.model, "after_step")
        self.device_type = next(self.model.parameters()).device.type
        self.parameters = [each for each in self.model.parameters() if each.requires_grad]
        self.gradients = [each.grad for each in self.parameters if each.grad is not None]
        self.gradient, self.further = (
            captured(
                partial(self._differentiate, write),
                self.model,
                self.options.capture,
                self.gradients,
            )
            for write in (torch._foreach_copy_, torch._foreach_add_)
        )
        self.sums = Sums(self.options.accumulate)

    @property
    def obstacle(self) -> str:
        """Say why steps cannot be replayed, or nothing."""
        return obstacle(self.gradient) or obstacle(self.further)

    def doubt(self) -> None:
        """Let the next step see whether all modules are still as they were when recorded."""
        doubt(self.gradient)
        doubt(self.further)

    def _differentiate(self, write: Write, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Write or add the gradient of a micro-batch; return its loss and logits."""
        with self.cast():
            logits = self.model(x)
            loss = F.cross_entropy(logits, y)
        share = loss / self.options.accumulate if self.options.accumulate > 1 else loss
        made = torch.autograd.grad(
            share, self.parameters, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            write(self.gradients, list(made))
        return loss.detach(), logits.detach()

    def cast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of the run's precision."""
        if self.options.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def micro_batches(self, batch: Batch) -> Iterable[Batch]:
        """Cut a batch into those whose gradients are summed."""
        if self.options.accumulate == 1:
            return (batch,)
        x, y = (tensor.chunk(self.options.accumulate) for tensor in batch)
        return zip(x, y, strict=True)


def _begin(
    pretraining: Iterable[Row | Halt], evaluator: Evaluator, at: Progress
) -> Iterator[Row | Halt]:
    """Yield what comes before the next step of training."""
    if at.stage == PRETRAINING:
        yield from pretraining
        at.stage = VALIDATION
    if at.stage == VALIDATION:
        yield from _validation(evaluator, at)


def _due(
    train_step: TrainStep, schedule: Callable[[int], float], evaluator: Evaluator, at: Progress
) -> Iterator[Row]:
    """Yield the rows that are due after a step."""
    yield from training(train_step, evaluator.budget, at.step, schedule(at.step - 1))
    if evaluator.budget.due(at.step)[1]:
        yield from _validation(evaluator, at)
        train_step.doubt()


def _validation(evaluator: Evaluator, at: Progress) -> Iterator[Row]:
    """Yield the rows of the validation that is due, and say what comes next."""
    at.stage = VALIDATION
    at.reached = (yield from evaluator.validation(at.step)) and at.step > 0
    at.stage = TEST if at.reached or at.step == evaluator.budget.steps else TRAINING


def training(train_step: TrainStep, budget: Budget, step: int, lr: float) -> Iterator[Row]:
    """Yield the training row that is due after `step` steps.

    Raises: Diverged, after the row, if a loss or gradient norm since the last row is not finite.
    """
    values, bad = train_step.sums.read()
    if budget.diagnose == "off":
        del values["optim/grad_norm"]
    yield budget.row("train", step, {**values, "optim/lr": lr})
    if bad:
        raise Diverged(step - bad[0], bad[1])


@dataclass(frozen=True)
class StepOptions:
    """How a step is made.

    accumulate: micro-batches of a batch; precision: `fp32` or `bf16`; clip: the length to which a
    longer gradient is shortened, after the norm's hook, or None. The gradient norm that is reported
    is that before. capture: replay recorded steps from the first on (`on`), after some (`auto`), or
    not (`off`): the numbers are the same.
    """

    accumulate: int
    precision: str
    clip: float | None = None
    capture: str = "auto"


def why_eager(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """Say why steps of a model cannot be replayed, found by a few on one batch, or nothing.

    The model stays as it is but for its buffers.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]

    def gradient(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(model(x), y)
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    made = Captured(gradient, model)
    while not (made.replays or made.reason):
        made(x, y)
    return made.reason


def _has_hook(norm: Norm, model: nn.Module, hook: str) -> bool:
    """Tell whether a hook does anything, so that a step does not search the model for nothing."""
    overridden = getattr(type(norm), hook) is not getattr(Norm, hook)
    return overridden or any(hasattr(module, hook) for module in model.modules())
