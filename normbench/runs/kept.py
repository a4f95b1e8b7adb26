"""What is kept of a run that is not done: the checkpoint, and the records that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from normbench.errors import FileRefused, pasted, shown
from normbench.rows import Row, TimeRow, from_json
from normbench.runs import checkpoint
from normbench.runs.reader import METRICS, METRICS_BYTES, TIMING
from normbench.runtime import storage

if TYPE_CHECKING:
    from torch import Tensor

# Of the environment: what the last bits depend on. The data is part of a run's name.
SAME = ("source", "torch", "system", "cpu", "device", "device_name", "threads", "numerics")


class Kept(NamedTuple):
    """A state that a run goes on from, and the records up to there, whole lines of bytes.

    `changed`: what is not as it was, so that equal bits are not promised any more.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]
    records: dict[str, bytes]
    changed: list[str]

    def rows(self) -> list[Row | TimeRow]:
        """Return all rows so far, those of times last."""
        lines = b"".join(self.records[name] for name in (METRICS, TIMING)).splitlines()
        return [from_json(line.decode()) for line in lines]


def write(
    directory: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    belongs: Mapping[str, Any],
) -> None:
    """Keep a state, and what a run must have to go on from it.

    Args: about: with `records`, the size and the digest of each file of rows, and `recorded`.
    Raises: as `checkpoint.write` does.
    """
    path = directory / checkpoint.NAME
    checkpoint.write(path, tensors, {**about, "belongs": belongs})


def read(
    directory: Path, belongs: Mapping[str, Any], recorded: Mapping[str, Any], allow_changed: bool
) -> Kept | None:
    """Read what is kept in a folder; None if that is nothing, or has other rows than are asked for.

    Args: belongs: what must be as it was, with `allow_changed` but for what is in SAME; recorded:
        settings by which rows are recorded.
    Raises: FileRefused if a file is damaged, of another run, or from another machine or code.
    """
    path = directory / checkpoint.NAME
    if not path.exists():
        return None
    tensors, about = checkpoint.read(path)
    changed = _changed(path, about, belongs, allow_changed)
    if about.get("recorded") != recorded:
        return None
    kept = Kept(tensors, about, _beside(path, about), changed)
    try:
        kept.rows()
    except ValueError as error:
        raise storage.damaged(path, f"and the records beside it disagree: {shown(error)}") from None
    return kept


def check(directory: Path, belongs: Mapping[str, Any]) -> None:
    """See that what is kept in a folder is whole and of its run, with its records; without torch.

    Raises: as `read` does.
    """
    path = directory / checkpoint.NAME
    about = checkpoint.read_about(path)
    _changed(path, about, belongs, False)
    _beside(path, about)


def _beside(path: Path, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Read the records that belong to a checkpoint.

    Raises: FileRefused if they are not as they were.
    """
    try:
        sizes = {name: about["records"][name] for name in (METRICS, TIMING)}
        return {name: _records(path.with_name(name), **sizes[name]) for name in sizes}
    except (KeyError, TypeError) as error:
        raise storage.damaged(path, f"tells no records: {shown(error)}") from None


def _changed(
    path: Path, about: Mapping[str, Any], belongs: Mapping[str, Any], allowed: bool
) -> list[str]:
    """List what is not as it was.

    Raises: FileRefused if that is not allowed.
    """
    there = about.get("belongs")
    there = there if isinstance(there, dict) else {}
    changed = []
    for key, here in belongs.items():
        if there.get(key) == here:
            continue
        most = 12 if key == "source" else None  # digits enough to tell two digests apart
        why = f"{key} is {shown(there.get(key))[:most]} there and {shown(here)[:most]} here"
        if not (allowed and key in SAME):
            fix = "allow_changed=true    (goes on, and equal bits are not promised any more)"
            over = f"rm {pasted(path)}    (then the same command again, which starts over)"
            raise FileRefused(str(path), why, fix if key in SAME else over)
        changed.append(why)
    return changed


def _records(path: Path, size: int, sha256: str) -> bytes:
    """Read the records up to a length.

    Raises: FileRefused if they are fewer, or not as they were.
    """
    data = storage.read_bytes(path, METRICS_BYTES)
    if len(data) < size:
        why = f"has {len(data):,} bytes, and had {size:,} when its run was kept"
        raise storage.damaged(path, why)
    if storage.digest(data[:size]) != sha256:
        raise storage.damaged(path, "has changed since its run was kept: its digest is another")
    return data[:size]
