"""One run: from a config to a folder of records."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from normbench.engine import augment, transforms
from normbench.engine.loader import Blanks, Feed
from normbench.engine.sampler import Order
from normbench.engine.schedule import Schedule
from normbench.engine.train import Judge, Plan, Update, average_running, fit
from normbench.errors import FileRefused, MachineError, NormbenchError, first_line
from normbench.inits._base import InitContext
from normbench.norms._base import calibrate, plainly
from normbench.rows import Row, TimeRow, finite, from_json, to_json
from normbench.runs import build
from normbench.runs.directory import Record, write_error
from normbench.runtime import collectives, machine, workers
from normbench.settings import inputs
from normbench.settings.schema import Config, part

if TYPE_CHECKING:
    from normbench.data._base import Dataset

# Examples from which data-dependent starts are set, where the batch is not larger: the variance of
# two values says nothing, and wn at batch 2 then starts with lengths that end at chance.
CALIBRATION = 64


def run(config: Config, each: Callable[[Row], None] = lambda row: None) -> str:
    """Train one config and record it; `each` sees every row.

    Returns: how it ended, `finished` or `diverged`.
    Raises: FileRefused if another process works on the run; MachineError; KeyboardInterrupt and
        SystemExit after the state has been written.
    """
    build.scaling(config)  # before freed memory is kept: what it took is given back
    machine.prepare(config.threads)
    place = machine.place()
    if place is not None:
        machine.take_device(config.device, place.local)
        if not collectives.joined():
            collectives.join(place.rank, place.workers, config.device, "env://")
        if place.rank:
            return _followed(config)
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
        "order": config.order,
        "seed": config.seed,
    }


def batches(config: Config) -> dict[str, int]:
    """Return the examples of a step, of one worker's forward, and behind one batch statistic."""
    return {
        "batch/global": config.batch,
        "batch/worker": config.worker_batch,
        "batch/statistics": config.stat_batch,
    }


def _recorded(config: Config, record: Record, each: Callable[[Row], None]) -> str:
    end, last = None, News()
    with closing(_told(config)) as told:
        for last in told:
            for text in last.warnings:
                record.warn(text)
            if last.row is not None:
                record.write(last.row)
                if last.time is not None:
                    record.time(last.time)
                each(last.row)
                end = last.row
    assert end is not None
    state = str(end.values["state"])
    if state == "diverged" and config.on_nan == "fail":
        why = f"{end.values['bad_quantity']} is not finite at step {end.values['bad_step']}"
        raise NormbenchError(str(config.directory), why, "a smaller optimizer.lr, or on_nan=record")
    record.finish(state, state_sha256=last.digest, train_s=last.train_s)
    return state


def _followed(config: Config) -> str:
    """Train as a worker other than the first, which records nothing."""
    *_, before, _ = work(config)
    assert before.row is not None
    return str(before.row.values["state"])


def _told(config: Config) -> Generator[News, None, None]:
    """Train in this process, or in several together, and yield what there is to record."""
    if config.gpus == 1 or collectives.joined():
        yield from work(config)
        return

    def one_of_them(say: workers.Say) -> None:
        for news in work(config):
            say(news.plain())

    messages = workers.together(config.gpus, config.device, one_of_them, config.dist["port"])
    with closing(messages) as told:
        for plain in told:
            yield News.of(plain)


class News(NamedTuple):
    """What a worker has to tell: warnings first, then rows, a digest of its tensors in the end."""

    warnings: tuple[str, ...] = ()
    row: Row | None = None
    time: TimeRow | None = None
    digest: str | None = None
    train_s: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        rows = {
            key: each and to_json(each) for key, each in (("row", self.row), ("time", self.time))
        }
        return {**self._asdict(), **rows}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> News:
        """Return what `plain` has written."""
        rows = {key: plain[key] and from_json(plain[key]) for key in ("row", "time")}
        return cls(**{**plain, **rows})


def work(config: Config) -> Iterator[News]:
    """Train a config as its only worker or one of several, and yield what there is to record."""
    job = Job(config)
    yield News(tuple(each.text for each in build.warnings(config, job.model)))
    clock = Clock(job)
    for row in job.rows():
        if row.step == 0 and row.kind == "val":
            row = replace(row, values={**row.values, **batches(config)})
        read = {"train": clock.read, "pretrain": clock.before}.get(row.kind)
        yield News(row=row, time=read(row) if read else None)
    digest = job.state_sha256()
    collectives.meet()  # or one that leaves early breaks off the last message to another
    yield News(digest=digest, train_s=round(clock.trained_s, 4))


class Job:
    """Everything that one run needs in memory."""

    def __init__(self, config: Config) -> None:
        self.config = config
        data = build.data(config)
        device = torch.device(config.device)
        memory_format = build.memory_format(config)
        scaling, blanks = build.scaling(config), Blanks(config.blank_steps, config.step_rows)
        feeds = {
            name: Feed(getattr(data, name), scaling, device, memory_format, blanks)
            for name in (("train", "val") if config.tuning else ("train", "val", "test"))
        }
        if not config.tuning:
            feeds |= _tests(config, feeds["test"])
        model = build.model(config, data.shape, len(data.classes))
        self.model = model.to(device).to(memory_format=memory_format)
        self.stepper = part("optimizer", config.optimizer).bind(self.model)
        norm = build.norm(config)
        self._agree()
        how = config.accumulate, config.precision, config.clip
        self.update = Update(self.model, self.stepper, norm, *how)
        self.plan = _plan(config)
        self.train = feeds["train"] = _for_training(config, data, feeds["train"])
        self.judge = Judge(self.update, feeds, self.plan)

    def _agree(self) -> None:
        """See to it that all workers train the same, from the same values.

        Raises: FileRefused if they have not the same configuration and data.
        """
        if collectives.world_size() == 1:
            return
        config = self.config
        mine = hashlib.sha256(f"{config.sha256} {config.seed} {config.digest}".encode())
        unlike = collectives.unlike_first(mine.hexdigest(), config.device)
        if unlike:
            who = f"worker {unlike[0]}" if len(unlike) == 1 else f"workers {unlike}"
            why = f"{who} had another configuration or other data than worker 0"
            raise FileRefused(str(config.directory), why, "the same command and data everywhere")
        collectives.from_first([self.stepper.params, *self.model.buffers()])

    def rows(self) -> Iterator[Row]:
        """Start from data what asks for it, train, and yield every row of the run."""
        config, plan = self.config, self.plan
        spent: dict[str, Any] = {}
        for row in self._start():
            yield row
            spent = {"pretrain/steps": row.step, "pretrain/examples": row.examples}
            bad = next((name for name, value in row.values.items() if finite(value) is None), None)
            if bad is not None:
                what = {"state": "diverged", "bad_step": row.step, "bad_quantity": bad, **spent}
                yield plan.end(0, what, reached=False)
                return
        collectives.from_first([self.stepper.params])
        schedule = Schedule(config.schedule, config.lr, plan.steps, config.warmup)
        rows = fit(self.train, self.update, schedule, self.judge, plan)
        first = next(rows)
        yield replace(first, values={**first.values, **spent})
        yield from rows

    def _start(self) -> Iterator[Row]:
        """Let the norm set itself from training images, then the initializer, which may train."""
        config = self.config
        # By an iid batch, whatever the order: runs that differ in it start from the same weights.
        order = Order().batches(self.train.labels, config.batch, config.seed, 0).flatten()
        first = order[: max(config.batch, CALIBRATION)].to(self.train.device)
        images = self.train.gather(first)[0]
        with plainly(self.model):  # these examples are one set, however batches are cut
            calibrate(self.model, images)
            context = InitContext(
                gather=lambda index: self.train.gather(index)[0],
                count=len(self.train),
                first=images,
                norm=self.update.norm,
                cast=self.update.cast,
                seed=config.seed,
                log_every=config.log_every,
            )
            yield from build.init(config).calibrate(self.model, context)

    def state_sha256(self) -> str:
        """Digest of all model and optimizer tensors: name, dtype, shape and bytes, by name."""
        average_running(self.model)
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
        self.last, self.examples, self.trained_s = self.start, 0, 0.0

    def before(self, row: Row) -> TimeRow:
        """Return the timing row of a row of pre-training, whose time is none of the training."""
        self.last = self.now()
        values = {
            "wall_s": round(self.last - self.start, 4),
            "memory_mib": round(machine.memory_mib(), 1),
        }
        return TimeRow(row.step, row.examples, values)

    def read(self, row: Row) -> TimeRow:
        """Return the timing row that belongs to a training row."""
        now = self.now()
        trained = now - self.last - self.judge.wall_s
        speed = (row.examples - self.examples) / trained
        self.last, self.examples, self.judge.wall_s = now, row.examples, 0.0
        self.trained_s += trained
        values = {
            "wall_s": round(now - self.start, 4),
            "train_s": round(self.trained_s, 4),
            "speed/examples_per_s": round(speed, 1),
            "memory_mib": round(machine.memory_mib(), 1),
        }
        return TimeRow(row.step, row.examples, values)


def _for_training(config: Config, data: Dataset, feed: Feed) -> Feed:
    """The training images in the batches of the run, augmented."""
    order = Order(config.order, config.order_alpha, config.order_classes, config.reshuffle)
    kinds = inputs.augmentations(config.augment)
    change = augment.Augment(kinds, data.shape, data.mean, feed.device) if kinds else None
    return feed.for_training(order, change)


def _tests(config: Config, feed: Feed) -> dict[str, Feed]:
    """The test images once more for each shift, number of blank steps and domain, by name."""
    feeds = [feed.changed(transforms.Shift(*inputs.read_shift(word))) for word in config.shifts]
    feeds += [feed.led(steps) for steps in config.test_blank_steps]
    if config.mix != "none":
        second = transforms.inverted_half(feed.labels)
        feeds += [feed.only(~second), feed.only(second)]
    return dict(zip(config.tests, feeds, strict=True))


def _plan(config: Config) -> Plan:
    assert config.steps and config.eval_every
    return Plan(
        steps=config.steps,
        batch=config.batch,
        accumulate=config.accumulate,
        steps_per_epoch=config.steps_per_epoch,
        log_every=config.log_every,
        eval_steps=max(1, round(config.eval_every * config.steps_per_epoch)),
        seed=config.seed,
        stat_batch=config.stat_batch,
        eval_stats=config.eval_stats,
        diagnose=config.diagnose,
        target=config.target,
    )


def _record_failure(config: Config, record: Record, error: Exception) -> None:
    """Write why a run failed; a second failure while writing must not hide the first."""
    with suppress(NormbenchError, OSError):
        if isinstance(error, MachineError):
            reason = "storage"
        elif machine.out_of_memory(error):
            reason = "oom"
        elif isinstance(error, workers.RankLost | collectives.PeerLost):
            reason = "rank_lost"
        elif isinstance(error, NormbenchError) and error.code == 3:
            reason = "data"
        else:
            reason = "error"
            write_error(config.directory, traceback.format_exc())
        record.finish("failed", reason=reason, message=first_line(error))
