"""One run: from a config to a directory of records."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from normbench.errors import MachineError, NormbenchError, first_line
from normbench.rows import Row, TimeRow, from_json, to_json
from normbench.runs import build, check, evaluations, judge, weights
from normbench.runs.directory import RunDirectory
from normbench.runs.evaluations import Evaluation
from normbench.runs.job import Job
from normbench.runs.tensorboard import hparams
from normbench.runtime import collectives, machine, workers
from normbench.settings.schema import Config


class Message(NamedTuple):
    """What a worker reports: warnings first, then rows, and with the last row the `result`.

    Then also `right`: which images of each test are right, packed to hexadecimal digits.
    """

    warnings: tuple[str, ...] = ()
    row: Row | None = None
    time: TimeRow | None = None
    result: dict[str, Any] | None = None
    right: dict[str, str] | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        row, time = (row and to_json(row) for row in (self.row, self.time))
        return {**self._asdict(), "row": row, "time": time}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Message:
        """Return what `to_plain` was made from."""
        row, time = (plain[key] and from_json(plain[key]) for key in ("row", "time"))
        return cls(**{**plain, "row": row, "time": time})


def run(config: Config, on_row: Callable[[Row], None] = lambda row: None) -> str:
    """Train one config and record it; `on_row` is called with every row.

    Returns: how it ended, `finished` or `diverged`.
    Raises: FileRefused if another process works on the run; MachineError; KeyboardInterrupt and
        SystemExit after the state has been written.
    """
    build.scaling(config)  # before freed memory is kept: what it took is given back
    machine.prepare(config.threads)
    join_torchrun(config)
    alone = config.gpus == 1 or collectives.joined()
    messages = worker(config) if alone else together(config)
    if collectives.rank():  # which records nothing
        *_, message = messages
        return _state(message)
    with memory_errors(config), open_directory(config) as directory, closing(messages):
        for message in messages:
            for text in message.warnings:
                directory.warn(text)
            if message.row is not None:
                directory.write(message.row)
            if message.time is not None:
                directory.write(message.time)
            if message.row is not None:
                on_row(message.row)
        state = _state(message)
        if state == "diverged" and config.on_nan == "fail":
            raise _divergence(config, message)
        if message.right and message.result:
            right = {name: bytes.fromhex(bits) for name, bits in message.right.items()}
            digest = str(message.result["state_sha256"])
            evaluations.write(config, Evaluation(config.evaluation, digest, {}, right))
        directory.finish(state, **message.result or {})
    return state


def worker(config: Config) -> Generator[Message, None, None]:
    """Train a config as its only worker or one of several, and yield what there is to record."""
    job = Job(config)
    yield Message(tuple(mistake.text for mistake in check.warnings(config, job.model)))
    clock = Clock()
    for row in job.rows():
        if row.kind == "end":
            break
        yield Message(row=row, time=clock.read(row, job.evaluator.seconds))
    result = {
        "state_sha256": job.state_sha256(),
        "train_s": round(clock.trained_s, 4),
        "parameters": sum(p.numel() for p in job.model.parameters() if p.requires_grad),
    }
    right = {name: bits.hex() for name, bits in judge.packed(job.evaluator.right).items()}
    if not collectives.rank():
        weights.write(config, job.model, str(result["state_sha256"]))
    collectives.meet()  # or one that leaves early breaks off the last message to another
    obstacle = job.train_step.obstacle
    slower = f"capture={config.capture}: steps are not replayed: {obstacle}" if obstacle else ""
    yield Message(tuple(filter(None, [slower])), row=row, result=result, right=right)


def together(config: Config) -> Generator[Message, None, None]:
    """Train a config in several processes, and yield what the first of them reports."""

    def work(send: workers.Send) -> None:
        for message in worker(config):
            send(message.to_plain())

    sent = workers.together(config.gpus, config.device, work, config.dist["port"])
    with closing(sent):
        yield from map(Message.from_plain, sent)


def join_torchrun(config: Config) -> None:
    """Join the group of workers where torchrun has started this process as one of them."""
    info = machine.rank_info()
    if info is None:
        return
    machine.take_device(config.device, info.local)
    if not collectives.joined():
        collectives.join(info.rank, info.workers, config.device, "env://")


def open_directory(config: Config) -> RunDirectory:
    """Return the directory in which a run is recorded."""
    forked = 1 if collectives.joined() else config.gpus
    environment = machine.environment(config.device, config.threads, forked)
    environment["numerics"] = machine.numerics(config.device)
    environment["data"] = {config.label: config.digest}
    return RunDirectory(
        config.directory,
        {"experiment": config.experiment(), "execution": config.execution()},
        environment,
        tb=config.tb,
        tb_axis=config.tb_axis,
        hparams=hparams(config),
        steps_total=config.steps,
    )


@contextmanager
def memory_errors(config: Config) -> Iterator[None]:
    """Turn an error that says that memory ran out into one that names a smaller batch.

    Raises: MachineError.
    """
    try:
        yield
    except Exception as error:
        if not machine.out_of_memory(error):
            raise
        multiple = config.gpus * config.accumulate
        smaller = config.batch // 2 // multiple * multiple
        fix = f"batch={smaller}" if smaller else "a smaller model"
        why = f"memory ran out ({first_line(error)})"
        raise MachineError(f"batch={config.batch}", why, fix) from error


class Clock:
    """Turns wall time between training rows into examples per second, evaluations left out."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.examples, self.evaluation_s, self.trained_s = 0, 0.0, 0.0

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


def _state(last: Message) -> str:
    assert last.row is not None
    return str(last.row.values["state"])


def _divergence(config: Config, last: Message) -> NormbenchError:
    assert last.row is not None
    end = last.row.values
    why = f"{end['bad_quantity']} is not finite at step {end['bad_step']}"
    return NormbenchError(str(config.directory), why, "a smaller optimizer.lr, or on_nan=record")
