"""One run: from a config to a folder of records."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from normbench import build, machine
from normbench.config import Config, part
from normbench.errors import MachineError, NormbenchError
from normbench.feed import Feed
from normbench.norms._base import calibrate, plainly
from normbench.record import Record, write_error
from normbench.rows import Row, TimeRow
from normbench.schedule import Schedule
from normbench.train import Judge, Plan, Update, fit

# Examples from which data-dependent starts are set, where the batch is not larger: the variance of
# two values says nothing, and wn at batch 2 then starts with lengths that end at chance.
CALIBRATION = 64


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and the first line of what went wrong if it failed."""

    directory: Path
    state: str
    message: str | None = None


def run(config: Config, each: Callable[[Row], None] = lambda row: None) -> Outcome:
    """Train one config and record it; `each` sees every row.

    Raises: FileRefused if another process works on the run; MachineError; KeyboardInterrupt and
        SystemExit after the state has been written.
    """
    build.data(config)  # before freed memory is kept: what it took to load is given back
    machine.prepare(config.threads)
    settings = {"experiment": config.experiment(), "execution": config.execution()}
    environment = machine.environment(config.device, config.threads)
    environment["data"] = {config.label: config.digest}
    with Record(
        config.directory,
        settings,
        environment,
        tb=config.tb,
        tb_axis=config.tb_axis,
        hparams=hparams(config),
        steps_total=config.steps,
    ) as record:
        try:
            return _recorded(config, record, each)
        except (KeyboardInterrupt, SystemExit) as stop:
            signal = "sigint" if isinstance(stop, KeyboardInterrupt) else "sigterm"
            record.finish("interrupted", reason=signal, message=f"stopped by {signal.upper()}")
            raise
        except Exception as error:
            _record_failure(config, record, error)
            raise


def hparams(config: Config) -> dict[str, str | float | bool]:
    """Return what TensorBoard's table of runs shows: the same keys for every run."""
    return {
        "model": config.model["name"],
        "norm": config.norm["name"],
        "init": config.init["name"],
        "batch": config.batch,
        "worker_batch": config.worker_batch,
        "stat_batch": config.stat_batch,
        "gpus": config.gpus,
        "lr": config.lr,
        "placement": config.placement,
        "activation": config.activation,
        "seed": config.seed,
    }


def batches(config: Config) -> dict[str, int]:
    """Return the examples of a step, of one worker's forward, and behind one batch statistic."""
    return {
        "batch/global": config.batch,
        "batch/worker": config.worker_batch,
        "batch/statistics": config.stat_batch,
    }


def _recorded(config: Config, record: Record, each: Callable[[Row], None]) -> Outcome:
    job = Job(config)
    for warning in job.update.norm.warnings(job.model):
        record.warn(warning.text)
    clock = Clock(job)
    end: Row | None = None
    for row in job.rows():
        if row.step == 0:
            row = replace(row, values={**row.values, **batches(config)})
        record.write(row)
        if row.kind == "train":
            record.time(clock.read(row))
        each(row)
        end = row
    assert end is not None
    state = str(end.values["state"])
    if state == "diverged" and config.on_nan == "fail":
        why = f"{end.values['bad_quantity']} is not finite at step {end.values['bad_step']}"
        raise NormbenchError(str(config.directory), why, "a smaller optimizer.lr, or on_nan=record")
    record.finish(state, state_sha256=job.state_sha256())
    return Outcome(config.directory, state)


class Job:
    """Everything that one run needs in memory."""

    def __init__(self, config: Config) -> None:
        self.config = config
        data = build.data(config)
        device = torch.device(config.device)
        memory_format = build.memory_format(config)
        feeds = {
            name: Feed(getattr(data, name), (data.mean, data.std), device, memory_format)
            for name in ("train", "val", "test")
        }
        model = build.model(config, data.shape, len(data.classes))
        self.model = model.to(device).to(memory_format=memory_format)
        self.stepper = part("optimizer", config.optimizer).bind(self.model)
        norm = build.norm(config)
        self.update = Update(self.model, self.stepper, norm, config.accumulate, config.precision)
        self.plan = _plan(config)
        self.train = feeds["train"]
        self.judge = Judge(self.update, feeds, self.plan)

    def rows(self) -> Iterator[Row]:
        """Calibrate, train, and yield every row of the run."""
        config, plan = self.config, self.plan
        order = self.train.order(config.seed, 0, config.batch).flatten()
        first = order[: max(config.batch, CALIBRATION)]
        with plainly(self.model):  # these examples are one set, however batches are cut
            calibrate(self.model, self.train.gather(first)[0])
        schedule = Schedule(config.schedule, config.lr, plan.steps, config.warmup)
        return fit(self.train, self.update, schedule, self.judge, plan)

    def state_sha256(self) -> str:
        """Digest of all model and optimizer tensors: name, dtype, shape and bytes, by name."""
        total = hashlib.sha256()
        tensors: dict[str, Tensor] = {
            **{f"model.{name}": each for name, each in self.model.state_dict().items()},
            **{f"optimizer.{name}": each for name, each in self.stepper.state_dict().items()},
        }
        for name, tensor in sorted(tensors.items()):
            plain = tensor.detach().cpu().contiguous()
            total.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
            total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


class Clock:
    """Turns wall time between training rows into examples per second, evaluations left out."""

    def __init__(self, job: Job) -> None:
        import time

        self.now, self.judge = time.perf_counter, job.judge
        self.start = self.now()
        self.last, self.examples = self.start, 0

    def read(self, row: Row) -> TimeRow:
        """Return the timing row that belongs to a training row."""
        now = self.now()
        trained = now - self.last - self.judge.wall_s
        speed = (row.examples - self.examples) / trained
        self.last, self.examples, self.judge.wall_s = now, row.examples, 0.0
        values = {
            "wall_s": round(now - self.start, 4),
            "speed/examples_per_s": round(speed, 1),
            "memory_mib": round(machine.memory_mib(), 1),
        }
        return TimeRow(row.step, row.examples, values)


def _plan(config: Config) -> Plan:
    assert config.steps and config.eval_every
    return Plan(
        steps=config.steps,
        batch=config.batch,
        steps_per_epoch=config.steps_per_epoch,
        log_every=config.log_every,
        eval_steps=max(1, round(config.eval_every * config.steps_per_epoch)),
        seed=config.seed,
        stat_batch=config.stat_batch,
        eval_stats=config.eval_stats,
    )


def _record_failure(config: Config, record: Record, error: Exception) -> None:
    """Write why a run failed; a second failure while writing must not hide the first."""
    with suppress(NormbenchError, OSError):
        if isinstance(error, MachineError):
            reason = "storage"
        elif _out_of_memory(error):
            reason = "oom"
        else:
            reason = "error"
            write_error(config.directory, traceback.format_exc())
        record.finish("failed", reason=reason, message=first_line(error))


def _out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in text
    )


def first_line(error: BaseException) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, NormbenchError):
        mistake = error.mistakes[0]
        return f"{mistake.subject}: {mistake.why}"
    return f"{type(error).__name__}: {error}".splitlines()[0]
