"""What training steps leave behind for the next row: losses, gradient norms, hits, classes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from normbench.runtime import collectives

SUMS = ("losses", "norms", "hits", "classes")
FOLD = 64  # steps whose losses are kept apart before they are reduced on the device


class Sums:
    """Sums over the steps since the last row, kept on the device until `read`.

    Args: accumulate: micro-batches of a step.
    """

    def __init__(self, accumulate: int) -> None:
        self.accumulate = accumulate
        self.losses: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.folded: list[tuple[Tensor, Tensor, Tensor, Tensor, int]] = []

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take what a micro-batch gave."""
        self.losses.append(loss)
        self.logits.append(logits)
        self.labels.append(labels)

    def close(self, square: Tensor) -> None:
        """End a step, whose gradient has this squared length."""
        self.squares.append(square)
        if len(self.squares) >= FOLD:
            self.fold()

    def read(self) -> tuple[dict[str, float], tuple[int, str] | None]:
        """Return mean loss, accuracy and the last gradient norm of the steps since the last call.

        `batch/classes` is the mean number of different classes in a batch.
        Returns: the values; how many steps ago the first number that is not finite came, 0 for the
        last step, and which quantity it is, or None if all are finite.
        """
        self.fold()
        losses, norms, hits, classes, counts = zip(*self.folded, strict=True)
        self.folded = []
        loss_by_step = torch.cat(losses).reshape(-1, self.accumulate).mean(1).tolist()
        norm_by_step = torch.cat(norms).tolist()
        bad = _first_bad({"train/loss": loss_by_step, "optim/grad_norm": norm_by_step})
        values = {
            "train/loss": math.nan if bad else math.fsum(loss_by_step) / len(loss_by_step),
            "train/accuracy": sum(map(int, hits)) / sum(counts),
            "optim/grad_norm": norm_by_step[-1],
            "batch/classes": sum(map(int, classes)) / len(loss_by_step),
        }
        return values, bad

    def state(self) -> dict[str, Tensor]:
        """Return the sums of the steps since the last `read`, by name; none right after it."""
        self.fold()
        if not self.folded:
            return {}
        losses, norms, hits, classes, counts = zip(*self.folded, strict=True)
        return {
            "losses": torch.cat(losses),
            "norms": torch.cat(norms),
            "hits": torch.stack(hits).sum(),
            "classes": torch.stack(classes).sum(),
            "count": torch.tensor(sum(counts)),
        }

    def load(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on, on a device, from what `state` returned."""
        self.folded = []
        if state:
            sums = [state[name].to(device) for name in SUMS]
            losses, norms, hits, classes = sums
            self.folded = [(losses, norms, hits, classes, int(state["count"]))]

    def fold(self) -> None:
        """Reduce what the last steps kept to a few small tensors on the device."""
        if not self.losses:
            return
        logits, labels = torch.cat(self.logits), torch.cat(self.labels)
        hits = logits.argmax(1) == labels
        losses, squares = torch.stack(self.losses).float(), torch.stack(self.squares)
        # One mark for each class in a batch, however many of its images are of it.
        marks = logits.new_zeros(len(squares), logits.shape[1])
        marks.scatter_(1, labels.reshape(len(squares), -1), 1)
        classes = collectives.total(marks).clamp_max_(1).sum(dtype=torch.float32)
        collectives.average(losses)
        count = len(hits) * collectives.world_size()
        self.folded.append((losses, squares.sqrt(), collectives.total(hits.sum()), classes, count))
        self.losses, self.squares, self.logits, self.labels = [], [], [], []


def _first_bad(by_step: dict[str, list[float]]) -> tuple[int, str] | None:
    """Find how many steps ago the first number that is not finite came, and which it is."""
    steps = len(next(iter(by_step.values())))
    for place, numbers in enumerate(zip(*by_step.values(), strict=True)):
        for quantity, number in zip(by_step, numbers, strict=True):
            if not math.isfinite(number):
                return steps - 1 - place, quantity
    return None
