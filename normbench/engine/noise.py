"""The random numbers of dropout: for each epoch, for evaluations, and kept in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from normbench.norms._units import Dropout
from normbench.runtime import collectives, rng


class Noise:
    """The dropout layers of a model, which share one generator, derived from the run's seed."""

    def __init__(self, model: nn.Module, seed: int, device: str) -> None:
        self.dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
        self.seed, self.device = seed, device
        self._kept: Tensor | None = None

    def begin(self, epoch: int, first: int = 0) -> None:
        """Take the numbers of an epoch.

        Args: first: batches of it that are done; after `load` the numbers go on from there.
        """
        self._derive("dropout", epoch)
        kept, self._kept = self._kept, None
        if first and kept is not None and self.dropouts[0].generator:
            self.dropouts[0].generator.set_state(kept)

    @contextmanager
    def apart(self, step: int) -> Iterator[None]:
        """Take the numbers of the evaluation after a step, until the end of a `with` block."""
        kept = [dropout.generator for dropout in self.dropouts]
        self._derive("noise", step)
        yield
        for dropout, generator in zip(self.dropouts, kept, strict=True):
            dropout.generator = generator

    def state(self) -> dict[str, Tensor]:
        """Return the state of the generator, by name, if there is one."""
        generator = self.dropouts[0].generator if self.dropouts else None
        return {"dropout": generator.get_state()} if generator else {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self._kept = state.get("dropout")

    def _derive(self, purpose: str, index: int) -> None:
        if self.dropouts:
            rank = collectives.rank()
            names = (purpose, index, rank) if rank else (purpose, index)
            shared = rng.generator(self.seed, *names, device=self.device)
            for dropout in self.dropouts:
                dropout.generator = shared
