"""One step of training: forward, loss, backward, optimizer, and what is read of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.engine.capture.captured import Captured, captured, doubt, obstacle
from normbench.norms._base import Norm
from normbench.runtime import collectives

if TYPE_CHECKING:
    from normbench.engine.loader import Batch
    from normbench.optimizers._base import FlatOptimizer

SUMS = ("losses", "norms", "hits", "classes")
FOLD = 64  # steps whose losses are kept apart before they are reduced on the device
Write = Callable[[list[Tensor], list[Tensor]], Any]


@dataclass(eq=False)
class TrainStep:
    """One optimizer step: forward, loss, backward, optimizer, and the hooks of the norm.

    Each worker trains on its part of the batch; gradients are averaged over the workers. Nothing
    is read back from the device until `read`, which reports on all steps since its last call.
    """

    model: nn.Module
    optimizer: FlatOptimizer
    norm: Norm
    options: StepOptions

    def __call__(self, batch: Batch, lr: float) -> None:
        """Train on one batch with learning rate `lr`; the model is in training mode."""
        gradient = self.gradient
        for x, y in self._micro_batches(batch):
            loss, logits = gradient(x, y)
            self._seen(loss, logits, y)
            gradient = self.further
        grad = self.optimizer.grad
        collectives.average(self.optimizer.message)
        if self.after_backward:
            self.norm.after_backward(self.model)
        self.squares.append(grad.dot(grad))  # half the time of the norm; the root is taken in read
        if self.options.clip is not None:
            self.optimizer.clip(self.squares[-1], self.options.clip)
        self.optimizer.step(lr)
        if self.after_step:
            self.norm.after_step(self.model)
        if len(self.squares) >= FOLD:
            self._fold()

    def __post_init__(self) -> None:
        self.after_backward = _has_hook(self.norm, self.model, "after_backward")
        self.after_step = _has_hook(self.norm, self.model, "after_step")
        self.device_type = next(self.model.parameters()).device.type
        self.parameters = [each for each in self.model.parameters() if each.requires_grad]
        self.gradients = [each.grad for each in self.parameters if each.grad is not None]
        self.gradient, self.further = (
            captured(
                partial(self._differentiate, write),
                self.model,
                self.options.capture,
                self.gradients,
            )
            for write in (torch._foreach_copy_, torch._foreach_add_)
        )
        self.losses: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.folded: list[tuple[Tensor, Tensor, Tensor, Tensor, int]] = []

    @property
    def obstacle(self) -> str:
        """Say why steps cannot be replayed, or nothing."""
        return obstacle(self.gradient) or obstacle(self.further)

    def doubt(self) -> None:
        """Let the next step see whether all modules are still as they were when recorded."""
        doubt(self.gradient)
        doubt(self.further)

    def _differentiate(self, write: Write, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Write or add the gradient of a micro-batch; return its loss and logits."""
        with self.cast():
            logits = self.model(x)
            loss = F.cross_entropy(logits, y)
        share = loss / self.options.accumulate if self.options.accumulate > 1 else loss
        made = torch.autograd.grad(
            share, self.parameters, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            write(self.gradients, list(made))
        return loss.detach(), logits.detach()

    def cast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of the run's precision."""
        if self.options.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def read(self) -> tuple[dict[str, float], tuple[int, str] | None]:
        """Return mean loss, accuracy and the last gradient norm of the steps since the last call.

        `batch/classes` is the mean number of different classes in a batch.
        Returns: the values; how many steps ago the first number that is not finite came, 0 for the
        last step, and which quantity it is, or None if all are finite.
        """
        self._fold()
        losses, norms, hits, classes, counts = zip(*self.folded, strict=True)
        self.folded = []
        loss_by_step = torch.cat(losses).reshape(-1, self.options.accumulate).mean(1).tolist()
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
        self._fold()
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

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.folded = []
        if state:
            sums = [state[name].to(self.optimizer.grad.device) for name in SUMS]
            losses, norms, hits, classes = sums
            self.folded = [(losses, norms, hits, classes, int(state["count"]))]

    def _micro_batches(self, batch: Batch) -> Iterable[Batch]:
        if self.options.accumulate == 1:
            return (batch,)
        x, y = (tensor.chunk(self.options.accumulate) for tensor in batch)
        return zip(x, y, strict=True)

    def _seen(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.losses.append(loss)
        self.logits.append(logits)
        self.labels.append(labels)

    def _fold(self) -> None:
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


@dataclass(frozen=True)
class StepOptions:
    """How a step is made.

    accumulate: micro-batches of a batch; precision: `fp32` or `bf16`; clip: the length to which a
    longer gradient is shortened, after the norm's hook, or None. The gradient norm that is reported
    is that before. capture: replay recorded steps from the first on (`on`), after some (`auto`), or
    not (`off`): the numbers are the same.
    """

    accumulate: int
    precision: str
    clip: float | None = None
    capture: str = "auto"


def why_eager(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """Say why steps of a model cannot be replayed, found by a few on one batch, or nothing.

    The model stays as it is but for its buffers.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]

    def gradient(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(model(x), y)
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    made = Captured(gradient, model)
    while not (made.replays or made.reason):
        made(x, y)
    return made.reason


def _has_hook(norm: Norm, model: nn.Module, hook: str) -> bool:
    """Tell whether a hook does anything, so that a step does not search the model for nothing."""
    overridden = getattr(type(norm), hook) is not getattr(Norm, hook)
    return overridden or any(hasattr(module, hook) for module in model.modules())


def _first_bad(by_step: dict[str, list[float]]) -> tuple[int, str] | None:
    """Find how many steps ago the first number that is not finite came, and which it is."""
    steps = len(next(iter(by_step.values())))
    for place, numbers in enumerate(zip(*by_step.values(), strict=True)):
        for quantity, number in zip(by_step, numbers, strict=True):
            if not math.isfinite(number):
                return steps - 1 - place, quantity
    return None
