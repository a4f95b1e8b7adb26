"""One run: from a config to a directory of records."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, NamedTuple

from normbench.errors import MachineError, NormbenchError, first_line
from normbench.rows import Halt, Row, TimeRow, from_json, to_json
from normbench.runs import build, check, checkpoint, evaluations, judge, weights
from normbench.runs.columns import hparams
from normbench.runs.directory import RunDirectory
from normbench.runs.evaluations import Evaluation
from normbench.runs.job import Job
from normbench.runs.keeping import Keeper, heeded
from normbench.runs.kept import Kept
from normbench.runs.state import State, fitting, from_first, in_place, packed, unpacked
from normbench.runtime import collectives, machine, signs, torchrun, workers
from normbench.settings.declared import RECORDING
from normbench.settings.schema import EVALUATION, Config, part


class Message(NamedTuple):
    """What a worker reports: warnings first, then rows, and with the last row the `result`.

    Then also `right`: which images of each test are right, packed to hexadecimal digits. `batch`:
    a picture of the first batch, likewise, with the warnings. `kept`: tensors and facts from which
    the run goes on; it stays in this process.
    """

    warnings: tuple[str, ...] = ()
    row: Row | None = None
    time: TimeRow | None = None
    result: dict[str, Any] | None = None
    right: dict[str, str] | None = None
    batch: str | None = None
    kept: State | None = None

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
    machine.prepare(_threads(config))
    join_torchrun(config)
    alone = config.gpus == 1 or collectives.joined()
    keeper, name = Keeper(config.checkpoint_every), f"{config.sha256}/{config.seed}"
    with ExitStack() as stack:
        stack.enter_context(keeper.listening())
        if collectives.rank():  # which records nothing
            stack.enter_context(torchrun.watched(name))
            *_, message = worker(config, keeper)
            return _state(message)
        stack.enter_context(memory_errors(config))
        directory = stack.enter_context(open_directory(config))
        if collectives.joined():
            stack.enter_context(torchrun.watched(name, directory.fail))
        messages = (worker if alone else together)(config, keeper, directory.kept)
        stack.enter_context(closing(messages))
        for message in messages:
            _record(message, directory, on_row)
            if keeper.stops() and message.row is None and not collectives.joined():
                keeper.end()
        state = _state(message)
        if state == "diverged" and config.on_nan == "fail":
            raise _divergence(config, message)
        if message.right and message.result:
            right = {name: bytes.fromhex(bits) for name, bits in message.right.items()}
            digest = str(message.result["state_sha256"])
            evaluations.write(config, Evaluation(config.evaluation, digest, {}, right))
        directory.finish(state, **message.result or {})
    return state


def _record(message: Message, directory: RunDirectory, on_row: Callable[[Row], None]) -> None:
    """Write what is reported into the run's folder."""
    for text in message.warnings:
        directory.warn(text)
    if message.batch:
        directory.show("input/batch", bytes.fromhex(message.batch))
    if message.row is not None:
        directory.write(message.row)
    if message.time is not None:
        directory.write(message.time)
    if message.row is not None:
        on_row(message.row)
    if message.kept:
        directory.keep(*message.kept)


def worker(
    config: Config, keeper: Keeper, kept: Kept | None = None
) -> Generator[Message, None, None]:
    """Train a config as its only worker or one of several, and yield what there is to record.

    Args: keeper: says when there is a state to be kept; kept: what to go on from, as worker 0 has
        it.
    Raises: KeyboardInterrupt or SystemExit once several workers have halted to end.
    """
    job = Job(config)
    if state := from_first(kept and (kept.tensors, kept.about)):
        job.load(*state)
    several = heeded(job, keeper)
    batch = job.picture().hex() if config.diagnose == "full" and config.tb else None
    yield Message(tuple(each.text for each in check.warnings(config, job.model)), batch=batch)
    clock = Clock(**state[1]["clock"]) if state else Clock()
    for row in job.rows():
        if isinstance(row, Halt):
            yield from _keeping(job, row, keeper, clock)
            if several.ends:
                collectives.meet()  # the others wait until worker 0 has kept the run
                keeper.end()
        elif row.kind == "end":
            break
        else:
            yield Message(row=row, time=clock.read(row, job.evaluator.seconds))
    assert isinstance(row, Row)
    result = {
        "state_sha256": job.state_sha256(),
        "train_s": round(clock.trained_s, 4),
        "parameters": sum(p.numel() for p in job.model.parameters() if p.requires_grad),
    }
    right = {name: bits.hex() for name, bits in judge.packed(job.evaluator.right).items()}
    if not collectives.rank():
        with signs.away():
            weights.write(config, job.model, str(result["state_sha256"]))
    collectives.meet()  # or one that leaves early breaks off the last message to another
    obstacle = job.train_step.obstacle
    slower = f"capture={config.capture}: steps are not replayed: {obstacle}" if obstacle else ""
    yield Message(tuple(filter(None, [slower])), row=row, result=result, right=right)


def _keeping(job: Job, halt: Halt, keeper: Keeper, clock: Clock) -> Iterator[Message]:
    """Yield the state of a job at a halt, whose time does not count as training."""
    start = time.perf_counter()
    with keeper.keeping():
        about = {"clock": clock.state(job.evaluator.seconds)}
        state = job.state(halt)
        if collectives.rank():  # worker 0 has all
            state = None
        with signs.away():
            yield Message(kept=state and (state[0], {**state[1], **about}))
    job.evaluator.seconds += time.perf_counter() - start


def together(config: Config, keeper: Keeper, kept: Kept | None) -> Generator[Message, None, None]:
    """Train a config in several processes, and yield what the first of them reports."""

    def work(send: workers.Send) -> None:
        for message in worker(config, keeper, kept):
            data = packed(*message.kept) if message.kept else b""
            send(message._replace(kept=None).to_plain(), data)

    sent = workers.together(config.gpus, config.device, work, config.dist["port"], keeper.wait)
    with closing(sent):
        for plain in sent:
            state = unpacked(plain.pop("data")) if "data" in plain else None
            yield Message.from_plain({**plain, "kept": state})


def join_torchrun(config: Config) -> None:
    """Join the group of workers where torchrun has started this process as one of them."""
    info = machine.rank_info()
    if info is None:
        return
    machine.end_with_parent()  # torchrun, and with it the store of the signs of life
    machine.take_device(config.device, info.local)
    if not collectives.joined():
        collectives.join(info.rank, info.workers, config.device, "env://")


def open_directory(config: Config) -> RunDirectory:
    """Return the directory in which a run is recorded."""
    forked = 1 if collectives.joined() else config.gpus
    environment = machine.environment(config.device, _threads(config), forked)
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
        recorded={key: getattr(config, key) for key in (*RECORDING, *EVALUATION)},
        fits=partial(_fits, config),
    )


def _threads(config: Config) -> int:
    """Give the threads of a run: those of its name, unless it goes on with others."""
    goes_on = (config.directory / checkpoint.NAME).exists()
    return config.other_threads or config.threads if goes_on else config.threads


def _fits(config: Config, kept: Kept) -> None:
    """See, before anything is written, that a state has the tensors of a run.

    Raises: FileRefused.
    """
    with machine.one_thread(), collectives.planned(config.gpus):
        model = build.model(config, config.shape, config.classes)
        optimizer = part("optimizer", config.optimizer).bind(model)
    fitting(config.directory / checkpoint.NAME, kept.tensors, in_place(model, optimizer))


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


def _state(last: Message) -> str:
    assert last.row is not None
    return str(last.row.values["state"])


def _divergence(config: Config, last: Message) -> NormbenchError:
    assert last.row is not None
    end = last.row.values
    why = f"{end['bad_quantity']} is not finite at step {end['bad_step']}"
    return NormbenchError(str(config.directory), why, "a smaller optimizer.lr, or on_nan=record")
