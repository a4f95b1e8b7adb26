"""One run: from a config to a directory of records."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from normbench.engine.train import Due
from normbench.errors import MachineError, NormbenchError, first_line
from normbench.rows import Halt, Row
from normbench.runs import build, check, checkpoint, evaluations, judge, weights
from normbench.runs.clock import Clock
from normbench.runs.columns import hparams
from normbench.runs.directory import RunDirectory
from normbench.runs.evaluations import Evaluation
from normbench.runs.job import Job
from normbench.runs.keeping import Keeper, heeded
from normbench.runs.kept import Kept
from normbench.runs.message import Message
from normbench.runs.state import fitting, from_first, in_place, packed, unpacked
from normbench.runtime import collectives, machine, signs, torchrun, workers
from normbench.settings.declared import RECORDING
from normbench.settings.schema import EVALUATION, Config, part


def run(config: Config, on_row: Callable[[Row], None] = lambda row: None) -> str:
    """Train one config and record it; `on_row` is called with every row.

    Returns: how it ended, `finished` or `diverged`.
    Raises: FileRefused if another process works on the run; MachineError; KeyboardInterrupt and
        SystemExit after the state has been written.
    """
    prepare(config)
    join_torchrun(config)
    keeper = Keeper(config.checkpoint_every)
    with keeper.listening(), _recording(config, keeper) as (told, directory):
        for message in told:
            assert isinstance(message, Message)
            _record(message, directory, on_row, keeper)
        return _finish(config, message, directory)


def recorded(
    config: Config, keeper: Keeper, on_row: Callable[[Row], None]
) -> Generator[Due, None, str]:
    """Train and record a config as `run` does, beside others in this process, which is prepared.

    Args: keeper: listens already.
    Yields: each step when it is due, to be made before the next one is asked for.
    """
    with _recording(config, keeper, shared=True) as (told, directory):
        for message in told:
            if isinstance(message, Due):
                yield message
            else:
                _record(message, directory, on_row, keeper)
        return _finish(config, message, directory)


def prepare(config: Config) -> None:
    """Set this process up for a run; call before its first tensor."""
    build.scaling(config)  # before freed memory is kept: what it took is given back
    machine.prepare(_threads(config))


@contextmanager
def _recording(
    config: Config, keeper: Keeper, shared: bool = False
) -> Iterator[tuple[Iterator[Message | Due], RunDirectory | None]]:
    """Open the directory of a run, and begin to train when asked for what is told of it.

    Yields: what is told; the directory, None on a worker that records nothing.
    """
    here, name = config.gpus == 1 or collectives.joined(), f"{config.sha256}/{config.seed}"
    with ExitStack() as stack:
        if collectives.rank():
            stack.enter_context(torchrun.watched(name))
            yield worker(config, keeper), None
            return
        stack.enter_context(memory_errors(config))
        directory = stack.enter_context(open_directory(config))
        if collectives.joined():
            stack.enter_context(torchrun.watched(name, directory.fail))
        kept = directory.kept
        told = worker(config, keeper, kept, shared) if here else together(config, keeper, kept)
        stack.enter_context(closing(told))
        yield told, directory


def _record(
    message: Message,
    directory: RunDirectory | None,
    on_row: Callable[[Row], None],
    keeper: Keeper,
) -> None:
    """Write what is told into the run's folder, and end the run if a signal asks for it."""
    if directory is None:
        return
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
    if keeper.stops() and message.row is None and not collectives.joined():
        keeper.end()


def _finish(config: Config, last: Message | Due, directory: RunDirectory | None) -> str:
    """Write what a run came to; return how it ended."""
    assert isinstance(last, Message) and last.row is not None
    state = str(last.row.values["state"])
    if directory is None:
        return state
    if state == "diverged" and config.on_nan == "fail":
        raise _divergence(config, last.row)
    if last.right and last.result:
        right = {name: bytes.fromhex(bits) for name, bits in last.right.items()}
        digest = str(last.result["state_sha256"])
        evaluations.write(config, Evaluation(config.evaluation, digest, {}, right))
    directory.finish(state, **last.result or {})
    return state


def worker(
    config: Config, keeper: Keeper, kept: Kept | None = None, shared: bool = False
) -> Generator[Message | Due, None, None]:
    """Train a config as its only worker or one of several, and yield what there is to record.

    Args: keeper: says when there is a state to be kept; kept: what to go on from, as worker 0 has
        it; shared: other runs train in this process, so that steps are yielded to be made.
    Raises: KeyboardInterrupt or SystemExit once several workers have halted to end.
    """
    job = Job(config)
    job.train_step.together = shared
    if state := from_first(kept and (kept.tensors, kept.about)):
        job.load(*state)
    several = heeded(job, keeper)
    batch = job.picture().hex() if config.diagnose == "full" and config.tb else None
    yield Message(tuple(each.text for each in check.warnings(config, job.model)), batch=batch)
    clock = Clock(**state[1]["clock"]) if state else Clock()
    for row in job.rows():
        if isinstance(row, Due):
            start, cpu = time.perf_counter(), time.process_time()
            yield row
            others = (
                time.perf_counter() - start - row.seconds,
                time.process_time() - cpu - row.cpu_s,
            )
            job.evaluator.seconds += clock.left_out(*others)
        elif isinstance(row, Halt):
            yield from _keeping(job, row, keeper, clock)
            if several.ends:
                collectives.meet()  # the others wait until worker 0 has kept the run
                keeper.end()
        elif row.kind == "end":
            break
        else:
            yield Message(row=row, time=clock.read(row, job.evaluator.seconds))
    assert isinstance(row, Row)
    yield _last(job, row, clock)


def _last(job: Job, row: Row, clock: Clock) -> Message:
    """Say what a job came to, whose last row this is; its weights are kept."""
    config = job.config
    result = {
        "state_sha256": job.state_sha256(),
        "figures": {
            "train_s": round(clock.trained_s, 4),
            "cpu_s": round(clock.cpu_s, 4),
            "parameters": sum(p.numel() for p in job.model.parameters() if p.requires_grad),
            **({"shared": True} if job.train_step.together else {}),
        },
    }
    right = {name: bits.hex() for name, bits in judge.packed(job.evaluator.right).items()}
    if not collectives.rank():
        with signs.away():
            weights.write(config, job.model, str(result["state_sha256"]))
    collectives.meet()  # or one that leaves early breaks off the last message to another
    obstacle = job.train_step.obstacle
    slower = f"capture={config.capture}: steps are not replayed: {obstacle}" if obstacle else ""
    return Message(tuple(filter(None, [slower])), row=row, result=result, right=right)


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
            assert isinstance(message, Message)  # these workers make their steps themselves
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


def _divergence(config: Config, last: Row) -> NormbenchError:
    end = last.values
    why = f"{end['bad_quantity']} is not finite at step {end['bad_step']}"
    return NormbenchError(str(config.directory), why, "a smaller optimizer.lr, or on_nan=record")
