"""An expert's loop: torch's layers and SGD, standardized images in memory, nothing read back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loops.start import Start


class Expert:
    """Trains in one memory format, on the batches of a start."""

    def __init__(self, start: Start, memory_format: torch.memory_format) -> None:
        config = start.config
        self.model = start.model.train().to(memory_format=memory_format)
        self.images = start.images.contiguous(memory_format=memory_format)
        self.labels, self.order = start.labels, iter(start.order)
        momentum = config.optimizer["momentum"]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr, momentum=momentum)
        self.total = torch.zeros(())

    def train(self, steps: int) -> None:
        """Train some steps."""
        for _ in range(steps):
            index = next(self.order)
            x, y = self.images.index_select(0, index), self.labels.index_select(0, index)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.total += loss.detach()
