"""The scheduler of many runs: which run goes when, each in a forked child.

The parent imports torch and loads the data once, single-threaded, and touches neither CUDA nor
autograd; then it forks one child per run. On a GPU a child goes on with further runs, since a
CUDA context costs seconds.
"""

from __future__ import annotations

import selectors
import signal
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from normbench.errors import InUse, first_line
from normbench.parts import registry
from normbench.rows import Row, from_json, to_json
from normbench.runs import build, columns, tensorboard
from normbench.runs.attempt import record_killed
from normbench.runs.judge import judge
from normbench.runs.run import run
from normbench.runtime import machine, processes
from normbench.runtime.lock import Wait
from normbench.runtime.processes import Channel, Child, Message
from normbench.settings.fields import AUTO
from normbench.settings.schema import Config
from normbench.sweeps.items import Item

BUSY_WAIT_S = 1.0  # between two looks at a run that another process works on
HELD = ("busy", "stopped")  # states of a run by the process that works on it
STEP = 4e6  # multiply-adds in the time that a step takes however few images it has
TRIES = 2  # a child that was killed is tried once more

OnChange = Callable[[int, str, Row | None, str], None]  # index of a run, state, row, note


def max_parallel(config: Config) -> int:
    """Return how many runs like this one train at a time: `jobs`, or as cores or GPUs allow."""
    if config.dist["port"] is not None:
        return 1  # a port is for the workers of one run
    if isinstance(config.jobs, int):
        return config.jobs
    if config.device == "cuda":
        return machine.gpus() if config.gpus == 1 else 1
    return max(1, machine.cores() // ((config.other_threads or config.threads) * config.gpus))


def length(config: Config) -> float:
    """Estimate how long a run takes, in multiply-adds; to compare with others of its sweep.

    A backward pass takes twice as many as the forward pass that it belongs to.
    """
    assert config.steps and config.eval_every
    between = max(1, round(config.eval_every * config.steps_per_epoch))
    judged = (1 + -(-config.steps // between)) * config.sizes[1] + config.sizes[2]
    return config.steps * STEP + (3 * config.steps * config.batch + judged) * build.work(config)


def train_all(items: list[Item], on_change: OnChange) -> None:
    """Train every unfinished run; `on_change` is called at each row and change of state.

    Raises: KeyboardInterrupt or SystemExit once all children are gone.
    """
    todo = [item for item in items if not item.finished]
    if not todo:
        return
    _warm(todo)
    if sys.platform == "linux" and machine.rank_info() is None:
        _Pool(items, on_change).train()
        return
    # Forking is not safe with macOS's frameworks, and torchrun's processes go through all runs
    # together.
    for index, item in enumerate(items):
        if not item.finished:
            run_one(item, partial(_running, on_change, index))
            on_change(index, item.state, None, item.message or "")


def _running(on_change: OnChange, index: int, row: Row) -> None:
    on_change(index, "running", row, "")


def _warm(todo: list[Item]) -> None:
    """Import and load in the parent what every child needs."""
    if any(item.config.tb for item in todo):
        tensorboard.load_tensorboard()
        columns.columns()
    for item in todo:
        build.scaling(item.config)
        for group in registry.KINDS:
            name = getattr(item.config, group)["name"]
            for member in name.split("+"):
                if (group, member) != ("activation", AUTO):
                    registry.find(group, member)
    machine.environment("cpu", 1)  # reads and digests the code, once for all
    machine.prepare(todo[0].config.threads)  # after loading: what that took is given back


def complete(item: Item, on_row: Callable[[Row], None]) -> None:
    """Train an item in this process unless it is trained, and judge it in all ways of its cells.

    Raises: as `runs.run` and `runs.judge` do.
    """
    try:
        if not item.trained:
            item.state = run(item.config, on_row)
    except InUse:
        item.look()  # another process may have finished it in the meantime
        if not item.trained:
            raise
    judge(item.config, item.missing)
    item.look()


def run_one(item: Item, on_row: Callable[[Row], None]) -> None:
    """Complete one item in this process and note how it ended."""
    try:
        complete(item, on_row)
    except InUse as refused:
        item.state, item.message = "stopped" if refused.stopped else "busy", refused.holder
    except Exception as error:  # a failed run must not stop the others; its folder has the trace
        item.state, item.message = "failed", first_line(error)


@dataclass
class _Trainer:
    """A child that trains: its GPU, the index of its run, -1 for none, and the run's share.

    The share (`part`) is of what the machine can train at a time.
    """

    child: Child
    gpu: int
    index: int
    part: Fraction


class _Pool:
    """Keeps the machine busy with children until every run is done.

    A run takes one n-th of the machine where n like it go at a time. The first one that fits
    beside the others starts.
    """

    def __init__(self, items: list[Item], on_change: OnChange) -> None:
        self.items, self.on_change = items, on_change
        self.parts = [Fraction(1, max_parallel(item.config)) for item in items]
        # The longest first: one that is left to the end would keep all but its own core waiting.
        todo = [i for i, item in enumerate(items) if not item.finished]
        lengths = {i: length(items[i].config) for i in todo}
        self.waiting = deque(sorted(todo, key=lambda i: -lengths[i]))
        self.busy: list[tuple[float, int]] = []
        self.waits: defaultdict[int, Wait] = defaultdict(Wait)
        self.trainers: list[_Trainer] = []
        self.selector = selectors.DefaultSelector()
        # A child that has touched a GPU cannot fork workers any more.
        one_worker = all(item.config.gpus == 1 for item in items)
        self.reuse = one_worker and items[0].config.device == "cuda"
        self.gpus = machine.gpus() if self.reuse else 1

    def train(self) -> None:
        """Start children as they fit and follow them until all runs are done."""
        try:
            while self.waiting or self.trainers or self.busy:
                self._look_again()
                while (index := self._next()) is not None:
                    self._start(index)
                for key, _ in self.selector.select(BUSY_WAIT_S):
                    self._receive(key.data)
        finally:
            self._end()

    def _next(self) -> int | None:
        """Take out the first waiting run that fits beside those that go on, if there is one."""
        free = 1 - sum(trainer.part for trainer in self.trainers)
        if not free:
            return None
        index = next((index for index in self.waiting if self.parts[index] <= free), None)
        if index is not None:
            self.waiting.remove(index)
        return index

    def _start(self, index: int) -> None:
        siblings = [trainer.child for trainer in self.trainers]
        taken = [trainer.gpu for trainer in self.trainers]
        gpu = min(range(self.gpus), key=taken.count)
        child = processes.fork(partial(_serve, self.items, gpu), siblings, dies_by=signal.SIGTERM)
        trainer = _Trainer(child, gpu, index, self.parts[index])
        self.trainers.append(trainer)
        self.selector.register(child.channel.source, selectors.EVENT_READ, trainer)
        self._order(trainer, index)

    def _order(self, trainer: _Trainer, index: int) -> None:
        trainer.index, trainer.part = index, self.parts[index]
        self.items[index].tries += 1
        self.on_change(index, "running", None, "")
        trainer.child.channel.send({"train": index})

    def _receive(self, trainer: _Trainer) -> None:
        messages = trainer.child.channel.receive()
        if messages is None:
            self._gone(trainer)
            return
        for message in messages:
            if "row" in message:
                row = from_json(message["row"])
                assert isinstance(row, Row)
                self.on_change(trainer.index, "running", row, "")
            else:
                self._ended(trainer, message)

    def _ended(self, trainer: _Trainer, message: Message) -> None:
        item, index = self.items[trainer.index], trainer.index
        state, said = message["state"], message["message"]
        trainer.index = -1
        if state in HELD and not self.waits[index].over(state == "stopped"):
            item.state = "busy"
            self.busy.append((time.monotonic() + BUSY_WAIT_S, index))
            self.on_change(index, "busy", None, f"for {said}")
        else:
            if state in HELD:
                state, said = "failed", f"is in use by {said}"
            item.state, item.message = state, said
            if item.trained:
                item.look()
            self.on_change(index, state, None, said or "")
        # After a CUDA error nothing works any more in its process, nor is memory given back.
        if self.reuse and self.waiting and item.state != "failed":
            self._order(trainer, self.waiting.popleft())
        else:
            trainer.child.channel.finish()

    def _gone(self, trainer: _Trainer) -> None:
        self.selector.unregister(trainer.child.channel.source)
        trainer.child.reap()
        self.trainers.remove(trainer)
        if trainer.index < 0:
            return
        item = self.items[trainer.index]  # it died before it could say how it ended
        record_killed(item.config.directory)
        if item.tries < TRIES:
            self.waiting.append(trainer.index)
        else:
            item.state, item.message = "failed", "its process was killed"
            self.on_change(trainer.index, "failed", None, item.message)

    def _look_again(self) -> None:
        """See what became of runs that other processes work on."""
        now = time.monotonic()
        due = [index for when, index in self.busy if when <= now]
        self.busy = [(when, index) for when, index in self.busy if when > now]
        for index in due:
            item = self.items[index]
            item.look()
            if item.finished:
                self.on_change(index, item.state, None, "by another process")
            else:
                self.waiting.append(index)

    def _end(self) -> None:
        for trainer in self.trainers:
            trainer.child.kill(signal.SIGTERM)
        for trainer in self.trainers:
            trainer.child.reap()
        self.selector.close()


def _serve(items: list[Item], gpu: int, channel: Channel) -> int:
    """Train the runs that are ordered until there are no more, on the GPU of that number."""
    for order in channel.messages():
        item = items[order["train"]]
        if item.config.gpus == 1:  # several workers take a device each
            machine.take_device(item.config.device, gpu)
        run_one(item, lambda row: _tell(channel, {"row": to_json(row)}))
        _tell(channel, {"state": item.state, "message": item.message})
    return 0


def _tell(channel: Channel, message: Message) -> None:
    """Send a message to the parent, if it still listens.

    Where it has stopped, SIGTERM is on its way; the run that the signal finds is to end by it,
    interrupted, and not to fail for want of a reader.
    """
    with suppress(BrokenPipeError):
        channel.send(message)
