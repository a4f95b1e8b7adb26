"""Several runs in one process, which take each step together."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence

from normbench.engine.lanes import Lanes
from normbench.engine.train import Due
from normbench.runs.keeping import Keeper, Lane
from normbench.runs.run import prepare
from normbench.settings.schema import Config

Run = Generator[Due, None, None]  # trains, and deals with the errors of its own


def train(configs: Sequence[Config], runs: Sequence[Callable[[Keeper], Run]]) -> None:
    """Train several runs that are alike, of which none is ended by what goes wrong in another.

    Args: runs: begin the run of each config, given its keeper.
    Raises: KeyboardInterrupt or SystemExit once each run has been kept.
    """
    for config in configs:
        prepare(config)
    process = Keeper(0)
    with process.listening():
        keepers = [Lane(config.checkpoint_every, process, len(runs)) for config in configs]
        _Lockstep([run(keeper) for run, keeper in zip(runs, keepers, strict=True)]).train()


class _Lockstep:
    """Takes runs to their next steps in turn, and makes these together."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = dict(enumerate(runs))
        self.due: dict[int, Due] = {}
        self.lanes: Lanes | None = None  # of the runs that come to a step
        self.stopped: BaseException | None = None

    def train(self) -> None:
        """Train until all runs have ended.

        Raises: what has ended one before its time, once each has recorded how it ended.
        """
        try:
            self._go_on({})
            while self.due:
                self._go_on(self._step())
        except BaseException as error:
            self._go_on(dict.fromkeys(self.runs, error))
            raise
        if self.stopped:
            raise self.stopped

    def _step(self) -> dict[int, Exception]:
        """Make the steps that are due; return the errors by run."""
        start, cpu = time.perf_counter(), time.process_time()
        try:
            if not self.lanes:
                self.places = {number: place for place, number in enumerate(self.due)}
                self.lanes = Lanes([due.step for due in self.due.values()])
            places, due = self.places, self.due.items()
            calls = [(places[number], each.batch, each.lr) for number, each in due]
            failed = self.lanes(calls)
        except Exception as error:
            return dict.fromkeys(self.due, error)
        seconds = (time.perf_counter() - start) / len(calls)
        cpu_s = (time.process_time() - cpu) / len(calls)
        for each in self.due.values():
            each.seconds, each.cpu_s = seconds, cpu_s
        return {number: failed[place] for number, place in places.items() if place in failed}

    def _go_on(self, errors: Mapping[int, BaseException]) -> None:
        """Take each run to its next step or to its end, those in `errors` with an error."""
        for number, run in [*self.runs.items()]:
            error = errors.get(number)
            try:
                self.due[number] = run.throw(error) if error else next(run)
                continue
            except StopIteration:
                pass
            except BaseException as stopped:  # the others are kept, or go on
                self.stopped = stopped
            del self.runs[number]
            if self.due.pop(number, None) and self.lanes:
                self.lanes.without(self.places[number])
