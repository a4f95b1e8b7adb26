"""How long a run trains, evaluations and other runs of its process left out."""

from __future__ import annotations

import time

from normbench.rows import Row, TimeRow
from normbench.runtime import machine


class Clock:
    """Turns wall time between training rows into examples per second, evaluations left out."""

    def __init__(
        self, wall_s: float = 0.0, trained_s: float = 0.0, since_s: float = 0.0, examples: int = 0
    ) -> None:
        """Go on from what `state` returned."""
        now = time.perf_counter()
        self.start, self.last = now - wall_s, now - since_s
        self.examples, self.evaluation_s, self.trained_s = examples, 0.0, trained_s

    def state(self, evaluation_s: float) -> dict[str, float]:
        """Return the times so far, in seconds; `since_s` is of training since the last row."""
        now = time.perf_counter()
        return {
            "wall_s": now - self.start,
            "trained_s": self.trained_s,
            "since_s": now - self.last - (evaluation_s - self.evaluation_s),
            "examples": self.examples,
        }

    def read(self, row: Row, evaluation_s: float) -> TimeRow | None:
        """Return the timing row that belongs to a row of training or pre-training, if it is one.

        Args: evaluation_s: seconds of evaluation since the run began.
        """
        if row.kind not in ("train", "pretrain"):
            return None
        now = time.perf_counter()
        values = {"wall_s": round(now - self.start, 4)}
        if row.kind == "train":  # the time of pre-training does not count
            trained = now - self.last - (evaluation_s - self.evaluation_s)
            self.trained_s += trained
            values["train_s"] = round(self.trained_s, 4)
            values["speed/examples_per_s"] = round((row.examples - self.examples) / trained, 1)
            self.examples = row.examples
        self.last, self.evaluation_s = now, evaluation_s
        values["memory_mib"] = round(machine.memory_mib(), 1)
        return TimeRow(row.step, row.examples, values)
