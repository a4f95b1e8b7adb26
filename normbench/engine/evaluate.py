"""What a model in training is worth: validation, the gap of its two modes, layers, and tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.engine import diagnostics
from normbench.engine.budget import Budget
from normbench.engine.loader import Feed
from normbench.norms._base import Dropout, Norm
from normbench.norms._modes import batch_statistics, preserve_buffers, update_bn
from normbench.rows import Row
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

    `facts` are further values of the first validation row. `seconds` is the time spent on
    evaluation so far, so that training speed can leave it out.
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
        self.dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
        running = norm.has_modes()
        self.modes_differ = running or bool(self.dropouts)
        self.stats = budget.eval_stats if running else "running"
        self.batch = EVAL_BATCH.get(self.val.device.type, EVAL_BATCH_GPU)
        if self.stats == "batch":
            self.batch = min(budget.stat_batch, budget.batch // budget.accumulate // self.workers)
        self.facts: dict[str, Any] = {}
        self.seconds = 0.0

    def begin(self, epoch: int) -> None:
        """Put the model into training mode, with the random numbers of this epoch."""
        self.model.train()
        self._seed("dropout", epoch)

    def validation(self, step: int) -> Generator[Row, None, bool]:
        """Yield a `val` row, and with `diagnose=full` one on each layer.

        Returns: whether the target is reached.
        """
        values = self._timed(self._validate, step)
        yield self.budget.row("val", step, {**values, **({} if step else self.facts)})
        if self.budget.diagnose == "full":
            yield self.budget.row("layers", step, self._timed(self._layers))
        target = self.budget.target
        return target is not None and values["val/accuracy"] >= target

    def test(self, step: int) -> Iterator[Row]:
        """Yield a row of loss and accuracy of each test: `test/accuracy/invert`, and so on."""
        if not self.tests:
            return
        values = {}
        with self._evaluating():
            for name, feed in self.tests.items():
                loss, hits = self._evaluate(feed, len(feed))
                end = "" if name == "test" else f"/{name}"
                values[f"test/loss{end}"] = loss / len(feed)
                values[f"test/accuracy{end}"] = hits / len(feed)
        yield self.budget.row("test", step, values)

    def _timed(self, measure: Callable[..., dict[str, float]], *args: int) -> dict[str, float]:
        start = time.perf_counter()
        values = measure(*args)
        self.seconds += time.perf_counter() - start
        return values

    def _validate(self, step: int) -> dict[str, float]:
        """Loss and accuracy on the validation split, and the gap of the two modes."""
        images = len(self.val)
        shown, size = self._as_trained(GAP_IMAGES)
        gap = self.modes_differ and self.budget.diagnose != "off"
        with self._evaluating():
            loss, hits = self._evaluate(self.val, images)
            in_evaluation = self._evaluate(self.val, shown)[1] if gap else 0.0
        in_training = self._in_training(step, shown, size) if gap else 0.0
        self.model.train()
        values = {"val/loss": loss / images, "val/accuracy": hits / images}
        if self.budget.diagnose != "off":
            values["gap/accuracy"] = (in_training - in_evaluation) / shown
        return values

    def _layers(self) -> dict[str, float]:
        bounds = evenly(*self._as_trained(PROBE_IMAGES))
        batches = [self.val.slice(*collectives.share(*pair)) for pair in bounds]
        return diagnostics.look(self.model, batches, self.cast)

    def _as_trained(self, most: int) -> tuple[int, int]:
        """Count those of the first `most` validation images that fill batches as in training.

        Returns: the number of images, and the size of their batches.
        """
        images = min(most, len(self.val))
        size = min(self.budget.batch // self.budget.accumulate, images)
        return images // size * size, size

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Let the model evaluate by the statistics of the run until the block ends."""
        if self.stats == "batch":
            with batch_statistics(self.model):
                yield
        elif self.stats == "dataset":
            with preserve_buffers(self.model):
                self._refresh()
                self.model.eval()
                yield
        else:
            with preserve_buffers(self.model) if self.workers > 1 else nullcontext():
                average_running(self.model)
                self.model.eval()
                yield

    def _refresh(self) -> None:
        """Take the running statistics again, over the training set in the order of the data."""
        size = max(REFRESH_BATCH, self.budget.batch)
        shares = enumerate(self._shares(len(self.train), size))
        paddings = self.train.blank_steps.most + 1  # each number of blank steps in turn
        with self.cast():
            update_bn(self.model, (self.train.slice(*pair, n % paddings)[0] for n, pair in shares))
        average_running(self.model)

    @torch.inference_mode()
    def _evaluate(self, feed: Feed, images: int) -> tuple[float, float]:
        """Sum of losses and number of hits over the first `images`."""
        pieces = [self._judged(feed, *pair) for pair in self._shares(images, self.batch)]
        losses, hits = zip(*pieces, strict=True)
        return _total(losses), _total(hits)

    def _shares(self, images: int, size: int) -> Iterator[tuple[int, int]]:
        """Cut `images` into batches of `size` for each worker, and yield the bounds of this one's.

        All workers have equally many, for their layers may have to wait for each other.
        """
        return (collectives.share(*pair) for pair in evenly(images, size * self.workers))

    @torch.no_grad()
    def _in_training(self, step: int, images: int, size: int) -> float:
        """Hits among the first `images` in training mode, in batches of `size`."""
        kept = [dropout.generator for dropout in self.dropouts]
        self._seed("noise", step)
        with preserve_buffers(self.model):
            self.model.train()
            bounds = (collectives.share(*pair) for pair in evenly(images, size))
            hits = [self._judged(self.val, *pair)[1] for pair in bounds]
        for dropout, generator in zip(self.dropouts, kept, strict=True):
            dropout.generator = generator
        return _total(hits)

    def _judged(self, feed: Feed, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Sum of losses and number of hits, still on the device."""
        x, y = feed.slice(start, stop)
        with self.cast():
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), y, reduction="sum")
        return loss, (logits.argmax(1) == y).sum()

    def _seed(self, purpose: str, index: int) -> None:
        if self.dropouts:
            rank = collectives.rank()
            names = (purpose, index, rank) if rank else (purpose, index)
            shared = rng.generator(self.budget.seed, *names, device=str(self.val.device))
            for dropout in self.dropouts:
                dropout.generator = shared


def evenly(images: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut `images` into batches of `size`, a rest spread over them, and yield their bounds."""
    count = max(1, images // size)
    return pairwise(images * place // count for place in range(count + 1))


def _total(parts: Any) -> float:
    """Sum of small device tensors over all workers, in float64 on the host."""
    own = math.fsum(torch.stack(list(parts)).tolist())
    return collectives.total_number(own)


def average_running(model: nn.Module) -> None:
    """Replace the running statistics on all workers by their means over them, in one message."""
    if collectives.world_size() == 1:
        return
    statistics = [buffer for name, buffer in model.named_buffers() if _is_running(name)]
    if statistics:
        means = torch.cat([buffer.flatten() for buffer in statistics])
        collectives.average(means)
        start = 0
        for buffer in statistics:
            buffer.copy_(means[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()


def _is_running(buffer: str) -> bool:
    return buffer.rpartition(".")[2].startswith("running_")
