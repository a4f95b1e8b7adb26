"""How long a run trains, evaluations and other runs of its process left out."""

from __future__ import annotations

import time
from collections import defaultdict

from normbench.rows import Row, TimeRow
from normbench.runtime import machine


class Clock:
    """Turns wall time between training rows into examples per second, evaluations left out."""

    def __init__(self, **before: float) -> None:
        """Go on from what `state` returned."""
        now, known = time.perf_counter(), defaultdict(float, before)
        self.start, self.last = now - known["wall_s"], now - known["since_s"]
        self.examples, self.trained_s = known["examples"], known["trained_s"]
        self.cpu, self.away_s = time.process_time() - known["cpu_s"], known["away_s"]
        self.evaluation_s = 0.0

    @property
    def cpu_s(self) -> float:
        """Give the CPU seconds of all threads for this run so far, evaluations with them."""
        return time.process_time() - self.cpu

    def left_out(self, seconds: float, cpu_s: float) -> float:
        """Leave out what other runs of this process took; return the seconds."""
        self.away_s += seconds
        self.cpu += cpu_s
        return seconds

    def state(self, evaluation_s: float) -> dict[str, float]:
        """Return the times so far, in seconds; `since_s` is of training since the last row."""
        now = time.perf_counter()
        return {
            "wall_s": now - self.start,
            "cpu_s": self.cpu_s,
            "away_s": self.away_s,
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
        values = {"wall_s": round(now - self.start, 4), "cpu_s": round(self.cpu_s, 4)}
        values["cores"] = round(self.cpu_s / max(1e-6, now - self.start - self.away_s), 3)
        if row.kind == "train":  # the time of pre-training does not count
            trained = now - self.last - (evaluation_s - self.evaluation_s)
            self.trained_s += trained
            values["train_s"] = round(self.trained_s, 4)
            values["speed/examples_per_s"] = round((row.examples - self.examples) / trained, 1)
            self.examples = row.examples
        self.last, self.evaluation_s = now, evaluation_s
        values["memory_mib"] = round(machine.memory_mib(), 1)
        return TimeRow(row.step, row.examples, values)
