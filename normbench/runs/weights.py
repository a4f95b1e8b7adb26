"""The final weights of a run, kept for good: the state of its model, by torch's names for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from normbench.errors import FileRefused, pasted, shown
from normbench.runs import checkpoint
from normbench.settings.schema import Config

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "weights.safetensors"


def path(directory: Path) -> Path:
    """Return where the weights of a run lie."""
    return directory / NAME


def write(config: Config, model: nn.Module, state_sha256: str) -> None:
    """Keep the weights of a run, with the run's name and the digest of model and optimizer.

    Raises: as `checkpoint.write` does.
    """
    state = model.state_dict()
    # Flat optimizers make of all parameters views of one tensor, which the layout does not know.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    about = {"run": _run(config.directory), "state_sha256": state_sha256}
    checkpoint.write(path(config.directory), tensors, about)


def check(directory: Path, state_sha256: str | None) -> None:
    """See whether weights are there, whole, and those of the run in a folder. Imports no torch.

    Raises: FileRefused.
    """
    place = path(directory)
    if not place.exists():
        fix = "normbench train with its settings and force=true, which keeps them"
        raise FileRefused(str(place), "is not here: the run has kept no weights", fix)
    about = checkpoint.read_about(place)
    for key, mine in (("run", _run(directory)), ("state_sha256", state_sha256)):
        if about.get(key) != mine:
            why = f"{key} is {shown(about.get(key))} there, and {mine} in the folder's status"
            fix = f"rm -r {pasted(place.parent)}    (and train it again)"
            raise FileRefused(str(place), why, fix)


def read(directory: Path) -> dict[str, Tensor]:
    """Read the weights of a run, on the CPU.

    Raises: as `checkpoint.read` does.
    """
    return checkpoint.read(path(directory)).tensors


def _run(directory: Path) -> str:
    return "/".join(directory.absolute().parts[-2:])
