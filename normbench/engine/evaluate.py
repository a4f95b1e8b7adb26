"""What a model in training is worth: validation, the gap of its two modes, layers, and tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.engine import diagnostics
from normbench.engine.budget import Budget, Diverged, Stopped, never
from normbench.engine.capture.captured import captured, doubt
from normbench.engine.loader import Batch, Feed
from normbench.engine.noise import Noise
from normbench.norms._base import Norm
from normbench.norms._modes import (
    average_running,
    batch_statistics,
    preserve_buffers,
    update_bn,
)
from normbench.rows import Row, Value
from normbench.runtime import collectives, rng

GAP_IMAGES = 1000  # validation images on which the two modes of a model are compared
PROBE_IMAGES = 500  # validation images on which its layers are looked at
EVAL_BATCH = {"cpu": 250}  # never the training batch: batch 2 would cost ten times as much
EVAL_BATCH_GPU = 2000
REFRESH_BATCH = 64  # least images at a time when statistics are taken again


class Evaluator:
    """Evaluates a model in training and yields rows: validation, gap, layers and tests.

    Evaluation normalizes by the running statistics as they are; with `eval_stats` dataset by their
    plain averages over the training set, taken again each time; with batch by the moments of the
    images that are evaluated together. None of it changes the model. Beside the feeds `train`,
    `val` and `test` there may be others: further tests, each with results under its name. Without
    `test` nothing is tested.

    `facts` are further values of the first validation row. `right` holds which images of each test
    were classified rightly, bool (N,). `seconds` is the time spent on evaluation so far, so that
    training speed can leave it out. `stops` is asked before each batch whether to stop instead.
    """

    def __init__(
        self,
        model: nn.Module,
        cast: Callable[[], AbstractContextManager[Any]],
        norm: Norm,
        feeds: Mapping[str, Feed],
        budget: Budget,
    ) -> None:
        self.model, self.cast, self.budget = model, cast, budget
        self.train, self.val = feeds["train"], feeds["val"]
        self.tests = {name: feeds[name] for name in feeds if name not in ("train", "val")}
        self.workers = collectives.world_size()
        self.noise = Noise(model, budget.seed, str(self.val.device))
        running = norm.has_modes()
        self.modes_differ = running or bool(self.noise.dropouts)
        self.stats = budget.eval_stats if running else "running"
        self.batch = EVAL_BATCH.get(self.val.device.type, EVAL_BATCH_GPU)
        if self.stats == "batch":
            self.batch = min(budget.stat_batch, budget.batch // budget.accumulate // self.workers)
        # Apart, for what has been recorded holds in the mode in which it was.
        self.evaluated, self.trained = (captured(self._answer, model, budget.capture) for _ in "12")
        self.draws: dict[Feed, tuple[Tensor, Tensor]] = {}
        self.facts: dict[str, Any] = {}
        self.right: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.stops: Callable[[], bool] = never

    def begin(self, epoch: int, first: int = 0) -> None:
        """Put the model into training mode, with the random numbers of this epoch.

        Args: first: batches of it that are done.
        """
        self.model.train()
        self.noise.begin(epoch, first)

    def validation(self, step: int) -> Generator[Row, None, bool]:
        """Yield a `val` row, and with `diagnose=full` one on each layer.

        Returns: whether the target is reached.
        Raises: Diverged, after the row, if a loss, logit, parameter or running statistic is not
            finite, whatever training has seen.
        """
        values = self._timed(self._validate, step)
        yield self.budget.row("val", step, {**values, **({} if step else self.facts)})
        self._check(step, values)
        if self.budget.diagnose == "full":
            yield self.budget.row("layers", step, self._timed(self._layers))
        target = self.budget.target
        return target is not None and values["val/accuracy"] >= target

    def test(self, step: int) -> Iterator[Row]:
        """Yield a row of loss and accuracy of each test: `test/accuracy/invert`, and so on.

        Raises: Diverged, after the row, if a loss or logit is not finite.
        """
        if not self.tests:
            return
        values = {}
        with self._evaluating():
            for name, feed in self.tests.items():
                loss, right = self._evaluate(feed, self._batches(feed))
                end = "" if name == "test" else f"/{name}"
                values[f"test/loss{end}"] = loss / len(feed)
                values[f"test/accuracy{end}"] = float(right.sum()) / len(feed)
                self.right[name] = right > 0
        yield self.budget.row("test", step, values)
        self._check(step, values)

    def train_accuracy(self) -> float:
        """Return the accuracy on all training images, which are not augmented for it.

        Returns: nan if a loss or logit is not finite.
        """
        with self._evaluating():
            loss, right = self._evaluate(self.train, self._batches(self.train))
        return float(right.sum()) / len(self.train) if math.isfinite(loss) else math.nan

    def _timed(self, measure: Callable[..., dict[str, Any]], *args: int) -> dict[str, Any]:
        start = time.perf_counter()
        values = measure(*args)
        self.seconds += time.perf_counter() - start
        return values

    def _validate(self, step: int) -> dict[str, float]:
        """Loss and accuracy on the validation split, and the gap of the two modes."""
        images = len(self.val)
        probe = self._micro_batches(GAP_IMAGES)
        gap = self.modes_differ and self.budget.diagnose != "off"
        with self._evaluating():
            loss, right = self._evaluate(self.val, self._batches(self.val))
            if gap and self.stats == "batch":  # what is right depends on what is beside it
                right_there = self._evaluate(self.val, self._cut(probe.flatten()))[1]
            else:
                right_there = right[probe.flatten()]
        in_training = self._in_training(step, probe) if gap else 0.0
        in_evaluation = float(right_there.sum()) if gap else 0.0
        self.model.train()
        values = {"val/loss": loss / images, "val/accuracy": float(right.sum()) / images}
        if self.budget.diagnose != "off":
            values["gap/accuracy"] = (in_training - in_evaluation) / probe.numel()
        return values

    def _layers(self) -> dict[str, Value]:
        probe = self._micro_batches(PROBE_IMAGES)
        batches = [self.val.gather(self._share(index)) for index in probe]
        return diagnostics.look(self.model, batches, self.cast)

    def _micro_batches(self, most: int) -> Tensor:
        """Draw up to `most` validation images in micro-batches as in training, (count, size)."""
        drawn, _ = self._drawn(self.val)
        size = min(self.budget.batch // self.budget.accumulate, drawn.shape[1], most)
        return drawn[:, : drawn.shape[1] // size * size].reshape(-1, size)[: most // size]

    def _batches(self, feed: Feed) -> Iterator[Tensor]:
        """Cut all images of a feed into batches and yield this worker's share of each."""
        if self.stats != "batch":
            yield from self._cut(torch.arange(len(feed), device=feed.device))
            return
        # What is left over is spread, so that each image counts once and no batch is small.
        drawn, rest = self._drawn(feed)
        for index, more in zip(drawn, rest.tensor_split(len(drawn)), strict=True):
            yield from self._cut(torch.cat([index, more]))

    def _drawn(self, feed: Feed) -> tuple[Tensor, Tensor]:
        """Draw batches (count, batch) as training draws them, and the images that are left over.

        The images of a split may lie class by class, which training never sees. They are drawn
        from the seed alone, so that all configurations of a seed see the same.
        """
        if feed not in self.draws:
            seed, count = rng.derive(self.budget.seed, "evaluation"), len(feed)
            sampler, size = self.train.sampling.sampler, min(self.budget.batch, count)
            drawn = sampler.batches(feed.labels, size, seed, 0)
            left = torch.ones(count, dtype=torch.bool)
            left[drawn.flatten()] = False
            rest = torch.randperm(count, generator=rng.generator(seed, "rest"))
            self.draws[feed] = drawn.to(feed.device), rest[left[rest]].to(feed.device)
        return self.draws[feed]

    def _cut(self, index: Tensor) -> Iterator[Tensor]:
        """Cut images into batches for each worker, and yield this one's share.

        All workers have equally many, for their layers may have to wait for each other.
        """
        for start, stop in evenly(len(index), self.batch * self.workers):
            yield self._share(index[start:stop])

    def _share(self, index: Tensor) -> Tensor:
        start, stop = collectives.share(0, len(index))
        return index[start:stop]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Let the model evaluate by the statistics of the run until the block ends."""
        if self.stats == "batch":
            with batch_statistics(self.model):
                yield
        elif self.stats == "dataset":
            with preserve_buffers(self.model):
                self.refresh()
                self.model.eval()
                yield
        else:
            with preserve_buffers(self.model) if self.workers > 1 else nullcontext():
                average_running(self.model)
                self.model.eval()
                yield

    def refresh(self) -> None:
        """Take the running statistics again, over the training set in a fixed random order.

        In the order of the data, which may lie class by class, batches would be unlike training's.
        """
        random = rng.generator(self.budget.seed, "statistics")
        index = torch.randperm(len(self.train), generator=random).to(self.train.device)
        size = max(REFRESH_BATCH, self.budget.batch) * self.workers
        paddings = self.train.blank_steps.most + 1  # each number of blank steps in turn
        shares = enumerate(self._share(index[slice(*pair)]) for pair in evenly(len(index), size))
        with self.cast():
            batches = (self._gather(self.train, part, n % paddings)[0] for n, part in shares)
            update_bn(self.model, batches)

    @torch.no_grad()
    def _evaluate(self, feed: Feed, batches: Iterable[Tensor]) -> tuple[float, Tensor]:
        """Sum of losses over the images of `batches`, NaN with an infinite logit; who is right.

        The latter is 1 or 0 for each image of the feed (N,), 0 outside of `batches`.
        """
        doubt(self.evaluated)
        right = torch.zeros(len(feed), device=feed.device)
        losses, finite = [], []
        for index in batches:
            loss, hits, all_finite = self.evaluated(*self._gather(feed, index))
            right[index] = hits
            losses.append(loss)
            finite.append(all_finite)
        sound = _total(finite) == collectives.total_number(len(finite))
        return _total(losses) if sound else math.nan, collectives.total(right)

    def _gather(self, feed: Feed, index: Tensor, pad_steps: int | None = None) -> Batch:
        if self.stops():
            raise Stopped
        return feed.gather(index, pad_steps)

    @torch.no_grad()
    def _in_training(self, step: int, probe: Tensor) -> float:
        """Hits among the images of a probe (count, size) in training mode."""
        with preserve_buffers(self.model), self.noise.apart(step):
            self.model.train()
            doubt(self.trained)
            batches = (self.val.gather(self._share(index)) for index in probe)
            hits = [self.trained(*batch)[1].sum() for batch in batches]
        return _total(hits)

    def _answer(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of losses, who is right, and whether all logits are finite, still on the device."""
        with self.cast():
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), y, reduction="sum")
        return loss, (logits.argmax(1) == y).float(), logits.isfinite().all()

    def _check(self, step: int, values: Mapping[str, float]) -> None:
        """Raise Diverged for the first number of an evaluation or of the model that is not finite.

        A run whose last update leaves infinite weights has finite losses up to there.
        """
        for quantity, value in values.items():
            if not math.isfinite(value):
                raise Diverged(step, quantity)
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        tensors = {name: tensor for name, tensor in named if tensor.is_floating_point()}
        if not tensors:
            return
        bad = torch.stack([~tensor.isfinite().all() for tensor in tensors.values()])
        for name, count in zip(tensors, collectives.total(bad.float()).tolist(), strict=True):
            if count:
                raise Diverged(step, f"model/{name}")


def evenly(images: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut `images` into batches of `size`, a rest spread over them, and yield their bounds."""
    count = max(1, images // size)
    return pairwise(images * place // count for place in range(count + 1))


def _total(parts: Any) -> float:
    """Sum of small device tensors over all workers, in float64 on the host."""
    own = math.fsum(torch.stack(list(parts)).tolist())
    return collectives.total_number(own)
