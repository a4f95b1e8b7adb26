"""What an attempt at a run begins with: may it, and its first status. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from normbench.errors import InUse, NormbenchError, shown
from normbench.parts.options import leaves
from normbench.runs.reader import CONFIG, FINAL, STATUS, digest_of, read_config, read_status
from normbench.runtime import storage
from normbench.runtime.lock import Lock

EXIT_CODES = {
    "sigint": 130,
    "sigterm": 143,
    "oom": 4,
    "storage": 4,
    "artifact": 3,
    "data": 3,
    "error": 1,
    "rank_lost": 1,
    "worker_killed": 1,
    "timeout": 1,
}  # by the reason of a run that was interrupted or failed


def check(
    directory: Path, before: Mapping[str, Any], config: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse a folder that is final or of another configuration.

    Raises: FileRefused.
    """
    stored = dict(leaves(read_config(directory)["experiment"]))
    mine = dict(leaves(config["experiment"]))
    # A setting that came after the folder was written is at its default: the name says so.
    differing = [
        f"{key} is {shown(stored[key])} there and {shown(mine.get(key))} here"
        for key in stored
        if key not in mine or stored[key] != mine[key]
    ]
    if differing:
        why = f"is of another configuration: {', '.join(differing[:4])}"
        raise storage.damaged(directory / CONFIG, why)
    if before["state"] in FINAL and not config["execution"].get("force"):
        raise InUse(str(directory), f"is {before['state']} already", "force=true")


def first_status(
    experiment: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    step: int,
    steps_total: int | None,
) -> dict[str, Any]:
    """Return the status of an attempt that begins at a step, after another one or none."""
    return {
        "schema": 1,
        "state": "running",
        "reason": None,
        "message": None,
        "config_sha256": digest_of(experiment),
        "state_sha256": None,
        "step": 0,
        "epoch": 0,
        "steps_total": steps_total,
        "attempts": before["attempts"] + 1 if before else 1,
        "resumed_at": [*before["resumed_at"], step] if before else [],
        "exit_code": None,
        "started_at": before["started_at"] if before else now(),
        "updated_at": None,
        "finished_at": None,
        "final": None,
        "warnings": [],
    }


def now() -> str:
    """Return the time, as a status says it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def exit_code(state: str, reason: str | None) -> int:
    """Return the exit code of a run that was interrupted or failed."""
    return EXIT_CODES.get(reason or "", 130 if state == "interrupted" else 1)


def plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree as it comes back from a JSON file."""
    made: dict[str, Any] = json.loads(json.dumps(tree, allow_nan=False))
    return made


def save_status(directory: Path, status: dict[str, Any]) -> None:
    """Write a status, with the time."""
    status["updated_at"] = now()
    text = json.dumps(status, indent=1, allow_nan=False)
    storage.write_atomic(directory / STATUS, text + "\n")


def record_killed(directory: Path) -> None:
    """Write into a run that its process was killed, unless it has ended or another works on it."""
    with suppress(NormbenchError), Lock(directory):
        status = read_status(directory)
        if status and status["state"] == "running":
            ended: dict[str, Any] = {
                "state": "failed",
                "reason": "worker_killed",
                "message": "its process was killed",
                "exit_code": EXIT_CODES["worker_killed"],
                "finished_at": now(),
            }
            save_status(directory, {**status, **ended})
