"""The engine: `fit` trains a model and yields rows; it knows no files, no screen, no processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

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
from normbench.rows import Halt, Row

if TYPE_CHECKING:
    from normbench.engine.evaluate import Evaluator
    from normbench.engine.loader import Feed
    from normbench.engine.train import TrainStep


def fit(
    feed: Feed,
    train_step: TrainStep,
    schedule: Callable[[int], float],
    evaluator: Evaluator,
    at: Progress,
    pretraining: Iterable[Row | Halt] = (),
) -> Iterator[Row | Halt]:
    """Train from where a run is (`at`) and yield rows: `val`, `train` and `val`, `test` and `end`.

    A training row precedes each validation. A number that is not finite ends the run after the row
    in which it is read: the `end` row then has `state` diverged with the first bad step and
    quantity, and there is no test. The first validation after step 0 that reaches the target ends
    the run as well: the test follows, and the `end` row with `target/examples`.

    Between two steps it halts when `at` says so, and before an evaluation that was stopped.
    """
    try:
        if at.stage == PRETRAINING:
            yield from pretraining
            at.stage = VALIDATION
        if at.stage == VALIDATION:
            yield from _validation(evaluator, at)
        while at.stage == TRAINING:
            epoch, first = divmod(at.step, evaluator.budget.steps_per_epoch)
            evaluator.begin(epoch, first)
            for batch in feed.epoch(epoch, first):
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
    values, bad = train_step.read()
    if budget.diagnose == "off":
        del values["optim/grad_norm"]
    yield budget.row("train", step, {**values, "optim/lr": lr})
    if bad:
        raise Diverged(step - bad[0], bad[1])
