"""The engine: `fit` trains a model and yields rows; it knows no files, no screen, no processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench import seeds
from normbench.feed import Batch, Feed
from normbench.norms._base import Dropout, Norm, buffers_kept, plainly, refresh
from normbench.rows import Row

if TYPE_CHECKING:
    from normbench.optimizers._base import Stepper

FOLD = 64  # steps whose losses are kept apart before they are reduced on the device
GAP_IMAGES = 1000  # validation images on which the two modes of a model are compared
EVAL_BATCH = {"cpu": 250}  # never the training batch: batch 2 would cost ten times as much
EVAL_BATCH_GPU = 2000
REFRESH_BATCH = 64  # least images at a time when statistics are taken anew


class Update:
    """One optimizer step: forward, loss, backward, optimizer, and the hooks of the norm.

    Nothing is read back from the device until `read`, which reports on all steps since it was
    last called.
    """

    def __init__(
        self, model: nn.Module, stepper: Stepper, norm: Norm, accumulate: int, precision: str
    ) -> None:
        self.model, self.stepper, self.norm = model, stepper, norm
        self.accumulate, self.precision = accumulate, precision
        self.device_type = next(model.parameters()).device.type
        self.hooks = {name: _asks(norm, model, name) for name in ("after_backward", "after_step")}
        self.losses: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.folded: list[tuple[Tensor, Tensor, Tensor, int]] = []

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
        if self.hooks["after_backward"]:
            self.norm.after_backward(self.model)
        grad = self.stepper.grad
        self.squares.append(grad.dot(grad))  # half the time of the norm; the root is taken in read
        self.stepper.step(lr)
        if self.hooks["after_step"]:
            self.norm.after_step(self.model)
        if len(self.losses) >= FOLD * self.accumulate:
            self._fold()

    def read(self) -> dict[str, Any]:
        """Return mean loss, accuracy and the last gradient norm of the steps since the last call.

        `bad`: (how many steps ago, quantity) of the first number that is not finite, 0 for the
        last step; absent if all are finite.
        """
        self._fold()
        losses, sizes, hits, counts = zip(*self.folded, strict=True)
        self.folded = []
        by_step = torch.cat(losses).reshape(-1, self.accumulate).mean(1).tolist()
        norms = torch.cat(sizes).tolist()
        bad = _first_bad({"train/loss": by_step, "optim/grad_norm": norms})
        return {
            "train/loss": math.fsum(by_step) / len(by_step) if bad is None else math.nan,
            "train/accuracy": sum(map(int, hits)) / sum(counts),
            "optim/grad_norm": norms[-1],
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
            hits = torch.cat(self.logits).argmax(1) == torch.cat(self.labels)
            losses, squares = torch.stack(self.losses).float(), torch.stack(self.squares)
            self.folded.append((losses, squares.sqrt(), hits.sum(), len(hits)))
            self.losses, self.squares, self.logits, self.labels = [], [], [], []


@dataclass(frozen=True)
class Plan:
    """How long and how often: steps in all, per epoch, between training rows and validations.

    stat_batch: examples behind a batch statistic; eval_stats: by which statistics to evaluate.
    """

    steps: int
    batch: int
    steps_per_epoch: int
    log_every: int
    eval_steps: int
    seed: int
    stat_batch: int
    eval_stats: str

    def row(self, kind: str, step: int, values: dict[str, Any]) -> Row:
        """Return a row of `values` after `step` optimizer steps."""
        epoch = round(step / self.steps_per_epoch, 6)
        return Row(kind, step, step * self.batch, epoch, values)


def fit(
    feed: Feed,
    update: Callable[[Batch, float], None],
    schedule: Callable[[int], float],
    judge: Judge,
    plan: Plan,
) -> Iterator[Row]:
    """Train and yield rows: `val` at step 0, `train` and `val` on the way, `test` and `end`.

    A loss that is not finite ends the run after the row in which it is read: the `end` row then
    has `state` diverged with the first bad step and quantity, and there is no test.
    """
    yield plan.row("val", 0, judge.validate(0))
    step = 0
    while step < plan.steps:
        epoch = step // plan.steps_per_epoch
        judge.begin(epoch)
        for index in feed.order(plan.seed, epoch, plan.batch)[: plan.steps - step]:
            lr = schedule(step)
            update(feed.gather(index), lr)
            step += 1
            last = step == plan.steps
            if step % plan.log_every == 0 or last:
                values = judge.read()
                bad = values.pop("bad", None)
                yield plan.row("train", step, {**values, "optim/lr": lr})
                if bad is not None:
                    values = {
                        "state": "diverged",
                        "bad_step": step - bad[0],
                        "bad_quantity": bad[1],
                    }
                    yield plan.row("end", step, values)
                    return
            if step % plan.eval_steps == 0 or last:
                yield plan.row("val", step, judge.validate(step))
    yield plan.row("test", step, judge.test())
    yield plan.row("end", step, {"state": "finished"})


class Judge:
    """Looks at a model in training: what the update saw, validation, gap and test.

    Evaluation normalizes by the running statistics as they are; with `eval_stats` dataset by their
    plain averages over the training set, taken anew each time; with batch by the moments of the
    images that are evaluated together. None of it changes the model.

    `wall_s` is the time spent on evaluation so far, so that training speed can be told without it.
    """

    def __init__(self, update: Update, feeds: Mapping[str, Feed], plan: Plan) -> None:
        self.update, self.model = update, update.model
        self.train, self.val, self.test_feed = (feeds[name] for name in ("train", "val", "test"))
        self.plan = plan
        self.dropouts = [each for each in self.model.modules() if isinstance(each, Dropout)]
        running = update.norm.has_modes()
        self.modes_differ = running or bool(self.dropouts)
        self.stats = plan.eval_stats if running else "running"
        self.batch = EVAL_BATCH.get(self.val.device.type, EVAL_BATCH_GPU)
        if self.stats == "batch":
            self.batch = plan.stat_batch
        self.wall_s = 0.0

    def begin(self, epoch: int) -> None:
        """Put the model into training mode, with the random numbers of this epoch."""
        self.model.train()
        self._seed(self.plan.seed, "dropout", epoch)

    def read(self) -> dict[str, Any]:
        """Return what the update saw since the last call."""
        return self.update.read()

    def validate(self, step: int) -> dict[str, float]:
        """Return loss and accuracy on the validation split, and the gap of the two modes."""
        start, images = time.perf_counter(), len(self.val)
        size = min(self.plan.batch // self.update.accumulate, GAP_IMAGES, images)
        shown = min(GAP_IMAGES, images) // size * size
        with self._evaluating():
            loss, hits = self._evaluate(self.val, images)
            quiet = self._evaluate(self.val, shown)[1] if self.modes_differ else 0.0
        loud = self._in_training(step, shown, size) if self.modes_differ else 0.0
        self.model.train()
        self.wall_s += time.perf_counter() - start
        gap = (loud - quiet) / shown
        return {"val/loss": loss / images, "val/accuracy": hits / images, "gap/accuracy": gap}

    def test(self) -> dict[str, float]:
        """Return loss and accuracy on the test set."""
        images = len(self.test_feed)
        with self._evaluating():
            loss, hits = self._evaluate(self.test_feed, images)
        return {"test/loss": loss / images, "test/accuracy": hits / images}

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
            self.model.eval()
            yield

    def _refresh(self) -> None:
        """Take the running statistics anew, over the training set in the order of the data."""
        pieces = evenly(len(self.train), max(REFRESH_BATCH, self.plan.batch))
        with self.update.cast():
            refresh(self.model, (self.train.slice(*each)[0] for each in pieces))

    @torch.inference_mode()
    def _evaluate(self, feed: Feed, images: int) -> tuple[float, float]:
        """Sum of losses and number of hits over the first `images`."""
        pieces = [self._judged(feed, *each) for each in evenly(images, self.batch)]
        losses, hits = zip(*pieces, strict=True)
        return _total(losses), _total(hits)

    @torch.no_grad()
    def _in_training(self, step: int, images: int, size: int) -> float:
        """Hits among the first `images` in training mode, in batches of `size`."""
        kept = [each.generator for each in self.dropouts]
        self._seed(self.plan.seed, "noise", step)
        with buffers_kept(self.model):
            self.model.train()
            hits = [self._judged(self.val, *each)[1] for each in evenly(images, size)]
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
            device = str(self.val.device)
            shared = seeds.generator(seed, purpose, index, device=device)
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
    """Sum of small device tensors, in float64 on the host."""
    return math.fsum(torch.stack(list(parts)).tolist())
