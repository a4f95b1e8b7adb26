"""Keeps the machine busy with runs, each in a forked child, alike ones together in one.

The parent has imported torch and loaded the data, and touches neither CUDA nor autograd. On a GPU
a child goes on with further runs, since a CUDA context costs seconds.
"""

from __future__ import annotations

import selectors
import signal
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from normbench.rows import Row, from_json, to_json
from normbench.runs import lockstep
from normbench.runs.attempt import record_killed
from normbench.runs.keeping import Keeper
from normbench.runtime import machine, processes, watching
from normbench.runtime.lock import Wait
from normbench.runtime.processes import Channel, Child, Message
from normbench.sweeps.completing import run_one, step_by_step
from normbench.sweeps.items import Item

BUSY_WAIT_S = 1.0  # between two looks at a run that another process works on
HELD = ("busy", "stopped")  # states of a run by the process that works on it
TRIES = 2  # a child that was killed is tried once more

Tell = Callable[[Message], None]
OnChange = Callable[[int, str, Row | None, str], None]  # index of a run, state, row, note


@dataclass
class _Trainer:
    """A child that trains runs together: its GPU, and the runs' share of the machine (`part`).

    group: the indexes of its runs; open: those that have not ended.
    """

    child: Child
    gpu: int
    group: Sequence[int] = ()
    part: Fraction = Fraction(1)
    open: set[int] = field(default_factory=set)


class Pool:
    """Keeps the machine busy with children until every run is done.

    A run takes one n-th of the machine where n like it go at a time, and so does a group of runs
    that train together. The first group that fits beside the others starts.

    Args: groups: of the runs that are left, by index, in the order of their start; parts: what each
        run takes; on_change: is called at each row and change of state.
    """

    def __init__(
        self,
        items: list[Item],
        groups: Sequence[Sequence[int]],
        parts: Mapping[int, Fraction],
        on_change: OnChange,
    ) -> None:
        self.items, self.parts, self.on_change = items, parts, on_change
        self.waiting = deque(groups)
        self.busy: list[tuple[float, int]] = []
        self.waits: defaultdict[int, Wait] = defaultdict(Wait)
        self.trainers: list[_Trainer] = []
        self.selector = selectors.DefaultSelector()
        # A child that has touched a GPU cannot fork workers any more.
        one_worker = all(item.config.gpus == 1 for item in items)
        self.reuse = one_worker and items[0].config.device == "cuda"
        self.gpus = machine.gpus() if self.reuse else 1
        self.told = False  # that fewer runs are trained together

    def train(self) -> None:
        """Start children as they fit and follow them until all runs are done."""
        try:
            while self.waiting or self.trainers or self.busy:
                self._look_again()
                while group := self._next():
                    self._start(group)
                for key, _ in self.selector.select(BUSY_WAIT_S):
                    self._receive(key.data)
        finally:
            self._end()

    def _next(self) -> Sequence[int]:
        """Take out the first group that fits beside those that go on, if there is one."""
        free = 1 - sum(trainer.part for trainer in self.trainers)
        group = next((each for each in self.waiting if free and self.parts[each[0]] <= free), ())
        if group:
            self.waiting.remove(group)
        return group

    def _start(self, group: Sequence[int]) -> None:
        siblings = [trainer.child for trainer in self.trainers]
        taken = [trainer.gpu for trainer in self.trainers]
        gpu = min(range(self.gpus), key=taken.count)
        child = processes.fork(partial(_serve, self.items, gpu), siblings, dies_by=signal.SIGTERM)
        trainer = _Trainer(child, gpu)
        self.trainers.append(trainer)
        self.selector.register(child.channel.source, selectors.EVENT_READ, trainer)
        self._order(trainer, group)

    def _order(self, trainer: _Trainer, group: Sequence[int]) -> None:
        trainer.group, trainer.open, trainer.part = group, {*group}, self.parts[group[0]]
        for index in group:
            self.items[index].tries += 1
            self.on_change(index, "running", None, "")
        trainer.child.channel.send({"train": [*group]})

    def _receive(self, trainer: _Trainer) -> None:
        messages = trainer.child.channel.receive()
        if messages is None:
            self._gone(trainer)
            return
        for message in messages:
            if "row" in message:
                row = from_json(message["row"])
                assert isinstance(row, Row)
                self.on_change(message["run"], "running", row, "")
            else:
                self._ended(trainer, message)

    def _ended(self, trainer: _Trainer, message: Message) -> None:
        index, state = message["run"], message["state"]
        item, trainer.open = self.items[index], trainer.open - {index}
        if state in HELD and not self.waits[index].over(state == "stopped"):
            item.state = "busy"
            self.busy.append((time.monotonic() + BUSY_WAIT_S, index))
            self.on_change(index, "busy", None, f"for {message['message']}")
        elif message["tight"] and len(trainer.group) > 1:
            item.state, item.tight = "failed", True
        else:
            self._note(index, message)
        if trainer.open:
            return
        states = [self.items[each].state for each in trainer.group]
        if tight := [each for each in trainer.group if self.items[each].tight]:
            self._halve(trainer, tight, "memory ran out")
        # After a CUDA error nothing works any more in its process, nor is memory given back.
        if self.reuse and self.waiting and "failed" not in states:
            self._order(trainer, self.waiting.popleft())
        else:
            trainer.child.channel.finish()

    def _note(self, index: int, message: Message) -> None:
        """Take over how a run ended."""
        item, state, said = self.items[index], message["state"], message["message"]
        if state in HELD:
            state, said = "failed", f"is in use by {said}"
        item.state, item.message, item.fix = state, said, message["fix"]
        if item.trained:
            item.look()
        self.on_change(index, state, None, said or "")

    def _halve(self, trainer: _Trainer, again: Sequence[int], why: str) -> None:
        """Let runs go on with half as many together as there were."""
        size = len(trainer.group) // 2
        if not self.told:
            self.told = True
            watching.note(f"{why} with {len(trainer.group)} runs in a process: on with {size}")
        for start in range(0, len(again), size):
            self.waiting.appendleft(again[start : start + size])
        for index in again:
            self.items[index].tries = 0
            self.items[index].tight = False

    def _gone(self, trainer: _Trainer) -> None:
        self.selector.unregister(trainer.child.channel.source)
        trainer.child.reap()
        self.trainers.remove(trainer)
        for index in trainer.open:  # it died before it could say how they ended
            record_killed(self.items[index].config.directory)
        left = [i for i in trainer.group if i in trainer.open or self.items[i].tight]
        if left and len(trainer.group) > 1:
            self._halve(trainer, left, "a process was killed")
            return
        for index in left:
            item = self.items[index]
            if item.tries < TRIES:
                self.waiting.append([index])
            else:
                item.state, item.message = "failed", "its process was killed"
                self.on_change(index, "failed", None, item.message)

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
                self.waiting.append([index])

    def _end(self) -> None:
        for trainer in self.trainers:
            trainer.child.kill(signal.SIGTERM)
        for trainer in self.trainers:
            trainer.child.reap()
        self.selector.close()


def _serve(items: list[Item], gpu: int, channel: Channel) -> int:
    """Train the runs that are ordered until there are no more, on the GPU of that number."""
    for order in channel.messages():
        group, tell = order["train"], partial(_tell, channel)
        configs = [items[index].config for index in group]
        if configs[0].gpus == 1:  # several workers take a device each
            machine.take_device(configs[0].device, gpu)
        if len(group) == 1:
            run_one(items[group[0]], partial(_tell_row, tell, group[0]))
            _tell_end(tell, group[0], items[group[0]])
        else:
            runs = [partial(_in_turns, tell, index, items[index]) for index in group]
            lockstep.train(configs, runs)
    return 0


def _in_turns(tell: Tell, index: int, item: Item, keeper: Keeper) -> lockstep.Run:
    yield from step_by_step(item, partial(_tell_row, tell, index), keeper)
    _tell_end(tell, index, item)


def _tell_row(tell: Tell, index: int, row: Row) -> None:
    tell({"run": index, "row": to_json(row)})


def _tell_end(tell: Tell, index: int, item: Item) -> None:
    told = {"state": item.state, "message": item.message, "fix": item.fix, "tight": item.tight}
    tell({"run": index, **told})


def _tell(channel: Channel, message: Message) -> None:
    """Send a message to the parent, if it still listens.

    Where it has stopped, SIGTERM is on its way; the run that the signal finds is to end by it,
    interrupted, and not to fail for want of a reader.
    """
    with suppress(BrokenPipeError):
        channel.send(message)
