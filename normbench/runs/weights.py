"""The final weights of a run, kept for good: the state of its model, by torch's names for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from normbench.runs import checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "weights.safetensors"


def path(directory: Path) -> Path:
    """Return where the weights of a run lie."""
    return directory / NAME


def write(directory: Path, model: nn.Module) -> None:
    """Keep the weights of a model.

    Raises: as `checkpoint.write` does.
    """
    state = model.state_dict()
    # Flat optimizers make of all parameters views of one tensor, which the layout does not know.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    checkpoint.write(path(directory), tensors, {})


def read(directory: Path) -> dict[str, Tensor]:
    """Read the weights of a run, on the CPU.

    Raises: as `checkpoint.read` does.
    """
    return checkpoint.read(path(directory)).tensors
