"""Weights of a run for users of torch, in a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from normbench.runs import build, checkpoint, weights
from normbench.settings.schema import Config


def export(config: Config, file: Path) -> dict[str, Any]:
    """Write the weights of a run to a file of the user's, with what they are of.

    Returns: what it says of them.
    Raises: FileRefused if they are not here or damaged; MachineError.
    """
    tensors = weights.read(config.directory)
    about = {
        "model": config.model["name"],
        "norm": config.norm["name"],
        "seed": config.seed,
        "data": config.label,
        "inputs": _inputs(config),
        "tensors": len(tensors),
        "numbers": sum(tensor.numel() for tensor in tensors.values()),
    }
    checkpoint.write(file, tensors, about)
    return about


def _inputs(config: Config) -> str:
    """Say what the model takes of an image, where each channel is scaled by itself."""
    if config.inputs != "standardized":
        return f"inputs={config.inputs}"
    data = build.data(config)
    mean, std = (" ".join(f"{number:.6g}" for number in each) for each in (data.mean, data.std))
    return f"(pixel / 255 - mean) / std, mean {mean}, std {std}"
