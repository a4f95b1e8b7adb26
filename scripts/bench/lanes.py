"""Several runs in one program: a step of one of LANES, against the same run alone.

Alone it is made as written (eager), or replayed (captured). Batches are gathered, losses, hits and
gradient norms kept and optimizers stepped on all sides; all start from the same seeds, and what
they have summed up must be equal to the bit. A figure is of STEPS steps, in CPU time of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from loops.start import configured
from run import Case

from normbench.engine.lanes import Lanes
from normbench.engine.loader import Batch
from normbench.runs.job import Job
from normbench.runtime import machine

LANES, STEPS, LR = 8, 30, 0.003
CHECKED = 40  # steps: the captured ones are made as written first, then recorded, then replayed
# model, norm, batch: floors against the eager and the captured step, a fifth off what was seen
WORKLOADS: tuple[tuple[str, str, int, float, float], ...] = (
    ("mlp", "bn", 2, 2.8, 1.0),
    ("mlp", "gn", 2, 2.8, 1.0),
    ("mlp", "bn", 32, 1.3, 0.7),
    ("cnn", "bn", 2, 2.3, 1.15),
    ("cnn", "gn", 2, 1.4, 1.05),
    ("cnn", "ln", 2, 1.7, 1.15),
)


class Side:
    """Runs that differ in their seeds, which take each step together or are one."""

    def __init__(self, words: Sequence[str], count: int, capture: str) -> None:
        seeds = range(count)
        given = *words, f"capture={capture}", "steps=100000"
        self.jobs = [Job(configured(*given, f"seed={seed}")) for seed in seeds]
        for job in self.jobs:
            job.model.train()
            job.evaluator.begin(0, 0)
        self.feeds = [self._batches(job) for job in self.jobs]
        self.lanes = Lanes([job.train_step for job in self.jobs])

    @staticmethod
    def _batches(job: Job) -> Iterator[Batch]:
        for epoch in range(job.config.steps or 0):
            yield from job.train.epoch(epoch)

    def train(self, steps: int) -> list[float]:
        """Make steps; return the mean loss of each run since the last call."""
        for _ in range(steps):
            assert not self.lanes([(n, next(feed), LR) for n, feed in enumerate(self.feeds)])
        return [job.train_step.sums.read()[0]["train/loss"] for job in self.jobs]

    def microseconds(self) -> float:
        """Return what a step of one of the runs takes."""
        start = time.process_time()
        self.train(STEPS)
        return 1e6 * (time.process_time() - start) / STEPS / len(self.jobs)


def agree(words: Sequence[str]) -> None:
    """Check that the first run has the same losses in all ways."""
    ways = (1, "off"), (1, "on"), (LANES, "on")
    found = {Side(words, *way).train(CHECKED)[0] for way in ways}
    if len(found) > 1:
        raise AssertionError(f"the losses differ: {found}")


def cases(quick: bool) -> Iterator[Case]:
    """Yield two cases per workload; the sides take turns every STEPS steps."""
    machine.prepare(1)
    for model, norm, batch, *floors in WORKLOADS:
        words = f"model={model}", f"norm={norm}", f"batch={batch}"
        ours = Side(words, LANES, "on")
        for (name, capture), floor in zip(
            (("eager", "off"), ("captured", "on")), floors, strict=True
        ):
            alone = Side(words, 1, capture)
            yield Case(
                name=f"lanes {model} {norm} batch {batch} / {name}",
                baseline=alone.microseconds,
                ours=ours.microseconds,
                agree=(lambda words=words: agree(words)) if name == "eager" else None,
                least=floor,
                repeats=3 if quick else 7,
                unit="us",
            )
