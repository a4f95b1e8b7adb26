"""How long a run trains, what is due after a step, and the rows that are counted by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from normbench.rows import Row


class Diverged(Exception):
    """A number is not finite: the first such `quantity`, met at optimizer step `step`.

    `facts` are further values of the row of the end.
    """

    def __init__(self, step: int, quantity: str, facts: Mapping[str, float] | None = None) -> None:
        super().__init__(f"{quantity} is not finite at step {step}")
        self.step, self.quantity, self.facts = step, quantity, facts or {}


class Stopped(Exception):
    """An evaluation was asked to stop, and has left the model as it was."""


# What a run does one after the other, training and validation in turns.
PRETRAINING, VALIDATION, TRAINING, TEST = STAGES = ("pretraining", "validation", "training", "test")


def never(step: int = 0) -> bool:
    """Tell that there is no reason to halt."""
    return False


@dataclass
class Progress:
    """How far a run is: with the tensors and the facts, all that it needs to go on.

    stage: what it is at, of `STAGES`; step: optimizer steps done, whose training rows are written,
    and so is their validation unless that is the stage; reached: the target; halts: asked after
    each step whether to halt.
    """

    stage: str = PRETRAINING
    step: int = 0
    reached: bool = False
    halts: Callable[[int], bool] = never


@dataclass(frozen=True)
class Budget:
    """How long and how often: steps in all, per epoch, between training rows and validations.

    stat_batch: examples behind a batch statistic; eval_stats: by which statistics to evaluate;
    diagnose: `off`, `light` or `full`; target: validation accuracy at which to stop; capture: when
    to replay recorded evaluations, `auto`, `on` or `off`.
    """

    steps: int
    batch: int
    accumulate: int
    steps_per_epoch: int
    log_every: int
    eval_steps: int
    seed: int
    stat_batch: int
    eval_stats: str
    diagnose: str
    target: float | None = None
    capture: str = "auto"

    def due(self, step: int) -> tuple[bool, bool]:
        """Tell whether a training row and whether a validation is due after `step` steps."""
        last = step == self.steps
        return last or step % self.log_every == 0, last or step % self.eval_steps == 0

    def row(self, kind: str, step: int, values: dict[str, Any]) -> Row:
        """Return a row of `values` after `step` optimizer steps."""
        epoch = round(step / self.steps_per_epoch, 6)
        return Row(kind, step, step * self.batch, epoch, values)

    def end(self, step: int, reached: bool) -> Row:
        """Return the row of a finished run, with when its target was reached, if it has one."""
        return self.row("end", step, {"state": "finished", **self._target(step, reached)})

    def diverged(self, step: int, cause: Diverged) -> Row:
        """Return the row of a run that ends after `step` steps since a number is not finite."""
        bad = {"bad_step": cause.step, "bad_quantity": cause.quantity, **cause.facts}
        return self.row("end", step, {"state": "diverged", **bad, **self._target(step, False)})

    def _target(self, step: int, reached: bool) -> dict[str, int | None]:
        if self.target is None:
            return {}
        return {
            "target/reached": int(reached),
            "target/step": step if reached else None,
            "target/examples": step * self.batch if reached else None,
        }
