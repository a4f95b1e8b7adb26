"""The engine: `fit` trains a model and yields rows; it knows no files, no screen, no processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.engine import diagnostics
from normbench.engine.loader import Batch, Feed
from normbench.norms._base import Dropout, Norm, buffers_kept, plainly, refresh
from normbench.rows import Row
from normbench.runtime import collectives, rng

if TYPE_CHECKING:
    from normbench.optimizers._base import FlatOptimizer

FOLD = 64  # steps whose losses are kept apart before they are reduced on the device
GAP_IMAGES = 1000  # validation images on which the two modes of a model are compared
PROBE_IMAGES = 500  # validation images on which its layers are looked at
EVAL_BATCH = {"cpu": 250}  # never the training batch: batch 2 would cost ten times as much
EVAL_BATCH_GPU = 2000
REFRESH_BATCH = 64  # least images at a time when statistics are taken anew


class Update:
    """One optimizer step: forward, loss, backward, optimizer, and the hooks of the norm.

    Each worker trains on its part of the batch; gradients are averaged over the workers.
    With `clip` a longer gradient is shortened to it, after the norm's hook; the gradient norm that
    is told is that before. Nothing is read back from the device until `read`, which reports on all
    steps since it was last called.
    """

    def __init__(
        self,
        model: nn.Module,
        stepper: FlatOptimizer,
        norm: Norm,
        accumulate: int,
        precision: str,
        clip: float | None = None,
    ) -> None:
        self.model, self.stepper, self.norm = model, stepper, norm
        self.accumulate, self.precision, self.clip = accumulate, precision, clip
        self.device_type = next(model.parameters()).device.type
        self.hooks = {name: _asks(norm, model, name) for name in ("after_backward", "after_step")}
        self.losses: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.folded: list[tuple[Tensor, Tensor, Tensor, Tensor, int]] = []

    def __call__(self, batch: Batch, lr: float) -> None:
        """Train on one batch with learning rate `lr`; the model is in training mode."""
        self.stepper.zero_grad()
        for x, y in self._micro(batch):
            with self.cast():
                logits = self.model(x)
                loss = F.cross_entropy(logits, y)
            share = loss / self.accumulate if self.accumulate > 1 else loss
            share.backward()  # type: ignore[no-untyped-call]
            self.losses.append(loss.detach())
            self.logits.append(logits.detach())
            self.labels.append(y)
        grad = self.stepper.grad
        collectives.average(grad)
        if self.hooks["after_backward"]:
            self.norm.after_backward(self.model)
        self.squares.append(grad.dot(grad))  # half the time of the norm; the root is taken in read
        if self.clip is not None:
            self.stepper.clip(self.squares[-1], self.clip)
        self.stepper.step(lr)
        if self.hooks["after_step"]:
            self.norm.after_step(self.model)
        if len(self.losses) >= FOLD * self.accumulate:
            self._fold()

    def read(self) -> dict[str, Any]:
        """Return mean loss, accuracy and the last gradient norm of the steps since the last call.

        `batch/classes` is the mean number of different classes in a batch.
        `bad`: (how many steps ago, quantity) of the first number that is not finite, 0 for the
        last step; absent if all are finite.
        """
        self._fold()
        losses, sizes, hits, classes, counts = zip(*self.folded, strict=True)
        self.folded = []
        by_step = torch.cat(losses).reshape(-1, self.accumulate).mean(1).tolist()
        norms = torch.cat(sizes).tolist()
        bad = _first_bad({"train/loss": by_step, "optim/grad_norm": norms})
        return {
            "train/loss": math.fsum(by_step) / len(by_step) if bad is None else math.nan,
            "train/accuracy": sum(map(int, hits)) / sum(counts),
            "optim/grad_norm": norms[-1],
            "batch/classes": sum(map(int, classes)) / len(by_step),
            **({} if bad is None else {"bad": bad}),
        }

    def cast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of the run's precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def _micro(self, batch: Batch) -> Iterator[Batch]:
        if self.accumulate == 1:
            return iter([batch])
        x, y = batch
        return zip(x.chunk(self.accumulate), y.chunk(self.accumulate), strict=True)

    def _fold(self) -> None:
        if self.losses:
            logits, labels = torch.cat(self.logits), torch.cat(self.labels)
            hits = logits.argmax(1) == labels
            losses, squares = torch.stack(self.losses).float(), torch.stack(self.squares)
            # One mark for each class in a batch, however many of its images are of it.
            marks = logits.new_zeros(len(squares), logits.shape[1])
            marks.scatter_(1, labels.reshape(len(squares), -1), 1)
            classes = collectives.total(marks).clamp_max_(1).sum(dtype=torch.float32)
            collectives.average(losses)
            count = len(hits) * collectives.world_size()
            self.folded.append(
                (losses, squares.sqrt(), collectives.total(hits.sum()), classes, count)
            )
            self.losses, self.squares, self.logits, self.labels = [], [], [], []


@dataclass(frozen=True)
class Plan:
    """How long and how often: steps in all, per epoch, between training rows and validations.

    stat_batch: examples behind a batch statistic; eval_stats: by which statistics to evaluate;
    diagnose: `off`, `light` or `full`; target: validation accuracy at which to stop.
    """

    steps: int
    batch: int
    accumulate: int
    steps_per_epoch: int
    log_every: int
    eval_steps: int
    seed: int
    stat_batch: int
    eval_stats: str
    diagnose: str
    target: float | None = None

    def row(self, kind: str, step: int, values: dict[str, Any]) -> Row:
        """Return a row of `values` after `step` optimizer steps."""
        epoch = round(step / self.steps_per_epoch, 6)
        return Row(kind, step, step * self.batch, epoch, values)

    def end(self, step: int, values: dict[str, Any], reached: bool) -> Row:
        """Return the row of the end, with when the target was reached, null where it was not."""
        if self.target is not None:
            values = {
                **values,
                "target/reached": int(reached),
                "target/step": step if reached else None,
                "target/examples": step * self.batch if reached else None,
            }
        return self.row("end", step, values)


def fit(
    feed: Feed,
    update: Callable[[Batch, float], None],
    schedule: Callable[[int], float],
    judge: Judge,
    plan: Plan,
) -> Iterator[Row]:
    """Train and yield rows: `val` at step 0, `train` and `val` on the way, `test` and `end`.

    With `diagnose=full` each `val` is followed by a row `layers`; with `off` the rows have neither
    gradient norm nor gap.
    A loss that is not finite ends the run after the row in which it is read: the `end` row then
    has `state` diverged with the first bad step and quantity, and there is no test. The first
    validation that reaches `plan.target` (that at step 0 does not count) ends the run as well: a
    training row up to there follows, the test, and the `end` row with `target/examples`.
    """
    yield plan.row("val", 0, judge.validate(0))
    yield from judge.layers(0)
    step, reached = 0, False
    while step < plan.steps and not reached:
        epoch = step // plan.steps_per_epoch
        judge.begin(epoch)
        order = feed.order(plan.seed, epoch, plan.batch)
        leads = feed.leads(plan.seed, epoch, len(order))
        chances = feed.chances(plan.seed, epoch, *order.shape)
        order = collectives.mine(order, plan.accumulate)
        if isinstance(chances, Tensor):
            chances = collectives.mine(chances, plan.accumulate)
        for each in zip(order[: plan.steps - step], leads, chances, strict=False):
            lr = schedule(step)
            update(feed.gather(*each), lr)
            step += 1
            last = step == plan.steps
            due = step % plan.log_every == 0 or last
            if due and (yield from _told(judge, plan, step, lr)):
                return
            if step % plan.eval_steps == 0 or last:
                values = judge.validate(step)
                yield plan.row("val", step, values)
                yield from judge.layers(step)
                reached = plan.target is not None and values["val/accuracy"] >= plan.target
            if reached:
                if not due and (yield from _told(judge, plan, step, lr)):
                    return
                break
    if judge.tests:
        yield plan.row("test", step, judge.test())
    yield plan.end(step, {"state": "finished"}, reached)


def _told(judge: Judge, plan: Plan, step: int, lr: float) -> Generator[Row, None, bool]:
    """Yield a training row, and if a number of it is not finite the end; return whether so."""
    values = judge.read()
    bad = values.pop("bad", None)
    yield plan.row("train", step, {**values, "optim/lr": lr})
    if bad is None:
        return False
    what = {"state": "diverged", "bad_step": step - bad[0], "bad_quantity": bad[1]}
    yield plan.end(step, what, reached=False)
    return True


class Judge:
    """Looks at a model in training: what the update saw, validation, gap and test.

    Evaluation normalizes by the running statistics as they are; with `eval_stats` dataset by their
    plain averages over the training set, taken anew each time; with batch by the moments of the
    images that are evaluated together. None of it changes the model. Beside the feeds `train`,
    `val` and `test` there may be others: further tests, each with results under its name. Without
    `test` nothing is tested.

    `wall_s` is the time spent on evaluation so far, so that training speed can be told without it.
    """

    def __init__(self, update: Update, feeds: Mapping[str, Feed], plan: Plan) -> None:
        self.update, self.model = update, update.model
        self.train, self.val = feeds["train"], feeds["val"]
        self.tests = {name: feeds[name] for name in feeds if name not in ("train", "val")}
        self.plan, self.workers = plan, collectives.world_size()
        self.dropouts = [each for each in self.model.modules() if isinstance(each, Dropout)]
        running = update.norm.has_modes()
        self.modes_differ = running or bool(self.dropouts)
        self.stats = plan.eval_stats if running else "running"
        self.batch = EVAL_BATCH.get(self.val.device.type, EVAL_BATCH_GPU)
        if self.stats == "batch":
            self.batch = min(plan.stat_batch, plan.batch // plan.accumulate // self.workers)
        self.wall_s = 0.0

    def begin(self, epoch: int) -> None:
        """Put the model into training mode, with the random numbers of this epoch."""
        self.model.train()
        self._seed(self.plan.seed, "dropout", epoch)

    def read(self) -> dict[str, Any]:
        """Return what the update saw since the last call."""
        values = self.update.read()
        if self.plan.diagnose == "off":
            del values["optim/grad_norm"]
        return values

    def validate(self, step: int) -> dict[str, float]:
        """Return loss and accuracy on the validation split, and the gap of the two modes."""
        start, images = time.perf_counter(), len(self.val)
        shown, size = self._as_trained(GAP_IMAGES)
        gap = self.modes_differ and self.plan.diagnose != "off"
        with self._evaluating():
            loss, hits = self._evaluate(self.val, images)
            quiet = self._evaluate(self.val, shown)[1] if gap else 0.0
        loud = self._in_training(step, shown, size) if gap else 0.0
        self.model.train()
        self.wall_s += time.perf_counter() - start
        values = {"val/loss": loss / images, "val/accuracy": hits / images}
        if self.plan.diagnose != "off":
            values["gap/accuracy"] = (loud - quiet) / shown
        return values

    def layers(self, step: int) -> Iterator[Row]:
        """Yield a row on each layer where the run is diagnosed in full."""
        if self.plan.diagnose != "full":
            return
        start = time.perf_counter()
        pieces = evenly(*self._as_trained(PROBE_IMAGES))
        batches = [self.val.slice(*collectives.share(*each)) for each in pieces]
        values = diagnostics.look(self.model, batches, self.update.cast)
        self.wall_s += time.perf_counter() - start
        yield self.plan.row("layers", step, values)

    def test(self) -> dict[str, float]:
        """Return loss and accuracy of each test: `test/accuracy`, `test/accuracy/invert`."""
        values = {}
        with self._evaluating():
            for name, feed in self.tests.items():
                loss, hits = self._evaluate(feed, len(feed))
                end = "" if name == "test" else f"/{name}"
                values[f"test/loss{end}"] = loss / len(feed)
                values[f"test/accuracy{end}"] = hits / len(feed)
        return values

    def _as_trained(self, most: int) -> tuple[int, int]:
        """How many of the first `most` validation images fill batches as in training, of what."""
        images = min(most, len(self.val))
        size = min(self.plan.batch // self.plan.accumulate, images)
        return images // size * size, size

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Let the model evaluate by the statistics of the run until the block ends."""
        if self.stats == "batch":
            with plainly(self.model):
                yield
        elif self.stats == "dataset":
            with buffers_kept(self.model):
                self._refresh()
                self.model.eval()
                yield
        else:
            with buffers_kept(self.model) if self.workers > 1 else nullcontext():
                average_running(self.model)
                self.model.eval()
                yield

    def _refresh(self) -> None:
        """Take the running statistics anew, over the training set in the order of the data."""
        size = max(REFRESH_BATCH, self.plan.batch)
        pieces = enumerate(self._shares(len(self.train), size))
        leads = self.train.blanks.most + 1  # each number of blank steps in turn
        with self.update.cast():
            batches = (self.train.slice(*each, place % leads)[0] for place, each in pieces)
            refresh(self.model, batches)
        average_running(self.model)

    @torch.inference_mode()
    def _evaluate(self, feed: Feed, images: int) -> tuple[float, float]:
        """Sum of losses and number of hits over the first `images`."""
        pieces = [self._judged(feed, *each) for each in self._shares(images, self.batch)]
        losses, hits = zip(*pieces, strict=True)
        return _total(losses), _total(hits)

    def _shares(self, images: int, size: int) -> Iterator[tuple[int, int]]:
        """Cut `images` into batches of `size` for each worker, and yield the bounds of this one's.

        All workers have equally many, for their layers may have to wait for each other.
        """
        return (collectives.share(*each) for each in evenly(images, size * self.workers))

    @torch.no_grad()
    def _in_training(self, step: int, images: int, size: int) -> float:
        """Hits among the first `images` in training mode, in batches of `size`."""
        kept = [each.generator for each in self.dropouts]
        self._seed(self.plan.seed, "noise", step)
        with buffers_kept(self.model):
            self.model.train()
            pieces = (collectives.share(*each) for each in evenly(images, size))
            hits = [self._judged(self.val, *each)[1] for each in pieces]
        for dropout, generator in zip(self.dropouts, kept, strict=True):
            dropout.generator = generator
        return _total(hits)

    def _judged(self, feed: Feed, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Sum of losses and number of hits, still on the device."""
        x, y = feed.slice(start, stop)
        with self.update.cast():
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), y, reduction="sum")
        return loss, (logits.argmax(1) == y).sum()

    def _seed(self, seed: int, purpose: str, index: int) -> None:
        if self.dropouts:
            device, rank = str(self.val.device), collectives.rank()
            what = (seed, purpose, index, rank) if rank else (seed, purpose, index)
            shared = rng.generator(*what, device=device)
            for dropout in self.dropouts:
                dropout.generator = shared


def evenly(images: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut `images` into batches of `size`, a rest spread over them, and yield their bounds."""
    count = max(1, images // size)
    return pairwise(images * each // count for each in range(count + 1))


def _asks(norm: Norm, model: nn.Module, hook: str) -> bool:
    """Whether a hook does anything, so that a step does not look through the model for nothing."""
    own = getattr(type(norm), hook) is not getattr(Norm, hook)
    return own or any(hasattr(module, hook) for module in model.modules())


def _first_bad(numbers: dict[str, list[float]]) -> tuple[int, str] | None:
    """How many steps ago the first number that is not finite came, and what it was."""
    for place, row in enumerate(zip(*numbers.values(), strict=True)):
        for quantity, number in zip(numbers, row, strict=True):
            if not math.isfinite(number):
                return len(next(iter(numbers.values()))) - 1 - place, quantity
    return None


def _total(parts: Any) -> float:
    """Sum of small device tensors over all workers, in float64 on the host."""
    own = math.fsum(torch.stack(list(parts)).tolist())
    return collectives.total_number(own)


def average_running(model: nn.Module) -> None:
    """Replace the running statistics on all workers by their means over them, in one message."""
    if collectives.world_size() == 1:
        return
    statistics = [each for name, each in model.named_buffers() if _is_running(name)]
    if statistics:
        means = torch.cat([each.flatten() for each in statistics])
        collectives.average(means)
        start = 0
        for each in statistics:
            each.copy_(means[start : start + each.numel()].view_as(each))
            start += each.numel()


def _is_running(buffer: str) -> bool:
    return buffer.rpartition(".")[2].startswith("running_")
