"""The directory of one run: its configuration, state, rows, and TensorBoard's view of the rows."""

from __future__ import annotations

import json
import secrets
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from normbench.errors import FileRefused, InUse, MachineError, NormbenchError, first_line, shown
from normbench.parts.options import leaves
from normbench.rows import Row, TimeRow, Value, finite, to_json
from normbench.runs.reader import (
    CONFIG,
    ENVIRONMENT,
    ERROR,
    EVENTS,
    FINAL,
    MANY,
    METRICS,
    STATES,
    STATUS,
    TIMING,
    digest_of,
    is_of_attempt,
    read_config,
    read_status,
)
from normbench.runs.tensorboard import Events, load_tensorboard
from normbench.runtime import machine, storage
from normbench.runtime.lock import Lock
from normbench.settings.schema import LAYOUT

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

STATUS_EVERY_S = 5.0  # so that, with rows that come this often too, no status is older than 10 s
MESSAGE = 1000  # characters of a message in a status


@dataclass
class RunDirectory:
    """Writes one run's folder while it holds the folder's lock: a context manager.

    Entering makes the folder; what an earlier attempt left unfinished there is started over.
    Leaving by an exception records it, as interrupted or failed. Leaving without `finish` leaves
    the state `running`, as a process that was killed does.

    Args: directory: the run's folder. config: the maps `experiment` and `execution`, resolved;
        `force` in the latter lets a finished run start over. environment: what the run depends on
        besides. tb: write TensorBoard events. tb_axis: their axis, `examples` or `step`. hparams:
        the run's columns in TensorBoard's table. steps_total: planned optimizer steps.
    Raises: FileRefused if the folder is in use, finished, damaged or of another configuration;
        MachineError if the storage fails or TensorBoard is asked for and missing.
    """

    directory: Path
    config: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    _: KW_ONLY
    tb: bool
    tb_axis: str
    hparams: Mapping[str, float | str | bool]
    steps_total: int | None = None

    def __enter__(self) -> Self:
        if self.tb:
            load_tensorboard()  # before anything is created, for it may be missing
        storage.names(self.directory)  # raises if there are links
        storage.make_directory(self.directory)
        with ExitStack() as stack:
            stack.enter_context(Lock(self.directory))
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._stack:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                signal = "sigint" if isinstance(error, KeyboardInterrupt) else "sigterm"
                self.finish("interrupted", reason=signal, message=f"stopped by {signal.upper()}")
            elif error is not None:
                self._fail(error)

    def write(self, row: Row | TimeRow) -> None:
        """Record one row on the disk and in TensorBoard, and in `status.json` now and then.

        A row of times is marked with this process, in `timing.jsonl`; others in `metrics.jsonl`.
        """
        if isinstance(row, TimeRow):
            row = replace(row, values={**row.values, "process": self._process})
            self._timing.write(to_json(row).encode() + b"\n")
        else:
            self._measured(row)
        if self._events:
            self._events.add(row)
        if time.monotonic() >= self._due:
            self._save()

    def warn(self, text: str) -> None:
        """Keep a warning in `status.json`."""
        self._save(warnings=[*self._status["warnings"], text[:MESSAGE]])

    def finish(
        self,
        state: str,
        *,
        reason: str | None = None,
        message: str | None = None,
        state_sha256: str | None = None,
        train_s: float | None = None,
        parameters: int | None = None,
    ) -> None:
        """Bring everything to the disk and write the final state; nothing is recorded after it.

        Args: state: `finished`, `diverged`, `interrupted` or `failed`. reason: for the last two,
            a key of `EXIT_CODES`. message: what happened, for people. state_sha256: digest of
            model and optimizer. train_s: seconds of training, evaluations left out.
            parameters: those of the model that are trained.
        """
        assert state in STATES[2:]
        # A run that fails because the disk is full must still be able to say so.
        endured = (MachineError,) if state == "failed" else ()
        with suppress(*endured):
            self._close(state)
        default = 130 if state == "interrupted" else 1
        changes: dict[str, Any] = {
            "state": state,
            "reason": reason,
            "message": message and message[:MESSAGE],
            "state_sha256": state_sha256,
            "exit_code": 0 if state in FINAL else EXIT_CODES.get(reason or "", default),
            "finished_at": _now(),
        }
        if state in FINAL:
            last = self._last
            changes["train_s"], changes["parameters"] = train_s, parameters
            with suppress(FileRefused):  # it has been removed: the write of the status says so
                changes["metrics_sha256"] = storage.digest(self.directory / METRICS)
            changes["final"] = {name: finite(last[name]) for name in sorted(last) if "/" in name}
        if state == "diverged":
            changes |= {name: self._last.get(name) for name in ("bad_step", "bad_quantity")}
        self._save(**changes)

    def _measured(self, row: Row) -> None:
        self._metrics.write(to_json(row).encode() + b"\n")
        if row.kind not in MANY:
            self._last.update(row.values)
        if row.kind != "pretrain":  # which has steps of its own
            self._status["step"], self._status["epoch"] = row.step, row.epoch

    def _fail(self, error: BaseException) -> None:
        """Write why a run failed; a second failure while writing must not hide the first."""
        reason = "oom" if machine.out_of_memory(error) else getattr(error, "reason", "error")
        with suppress(NormbenchError, OSError):
            if reason == "error":
                write_error(self.directory, "".join(traceback.format_exception(error)))
            self.finish("failed", reason=reason, message=first_line(error))

    def _start(self, stack: ExitStack) -> None:
        """Write what is known before the first step; the status comes last, then the old goes."""
        before = read_status(self.directory)
        config = json.loads(json.dumps(self.config, allow_nan=False))
        if before:
            self._check(before, config["experiment"])
        storage.remove_stale(self.directory)
        text = storage.write_yaml(self.directory / CONFIG, {"layout": LAYOUT, **config})
        entries = json.dumps([self.environment], indent=1, allow_nan=False)
        storage.write_atomic(self.directory / ENVIRONMENT, entries + "\n")
        self._process = secrets.token_hex(8)
        self._last: dict[str, Value] = {}
        self._status = self._first_status(before)
        self._save()
        for name in filter(is_of_attempt, storage.names(self.directory)):
            storage.remove(self.directory / name)
        self._metrics = self._append(stack, METRICS)
        self._timing = self._append(stack, TIMING)
        self._events: Events | None = None
        if self.tb:
            # Named by attempt: a running TensorBoard goes on to the next name, never back.
            file = self._append(stack, f"{EVENTS}{self._status['attempts']:06d}.normbench")
            self._events = Events(file, self.tb_axis)
            layers = config["execution"].get("diagnose") == "full"
            self._events.begin(self.hparams, text, layers)

    def _check(self, before: Mapping[str, Any], experiment: Mapping[str, Any]) -> None:
        """Refuse a folder that is final or of another configuration."""
        stored = dict(leaves(read_config(self.directory)["experiment"]))
        mine = dict(leaves(experiment))
        # A setting that came after the folder was written is at its default: the name says so.
        differing = [
            f"{key} is {shown(stored[key])} there and {shown(mine.get(key))} here"
            for key in stored
            if key not in mine or stored[key] != mine[key]
        ]
        if differing:
            why = f"is of another configuration: {', '.join(differing[:4])}"
            raise storage.damaged(self.directory / CONFIG, why)
        if before["state"] in FINAL and not self.config["execution"].get("force"):
            raise InUse(str(self.directory), f"is {before['state']} already", "force=true")

    def _first_status(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            "schema": 1,
            "state": "running",
            "reason": None,
            "message": None,
            "config_sha256": digest_of(self.config["experiment"]),
            "state_sha256": None,
            "step": 0,
            "epoch": 0,
            "steps_total": self.steps_total,
            "attempts": before["attempts"] + 1 if before else 1,
            "resumed_at": [*before["resumed_at"], 0] if before else [],
            "exit_code": None,
            "started_at": before["started_at"] if before else _now(),
            "updated_at": None,
            "finished_at": None,
            "final": None,
            "warnings": [],
        }

    def _append(self, stack: ExitStack, name: str) -> storage.Appended:
        file = storage.Appended(self.directory / name)
        stack.callback(file.close)
        return file

    def _close(self, state: str) -> None:
        self._metrics.close()
        self._timing.close()
        events, self._events = self._events, None
        if events:
            events.end(state)

    def _save(self, **changes: Any) -> None:
        self._status.update(changes)
        _save_status(self.directory, self._status)
        self._due = time.monotonic() + STATUS_EVERY_S


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
                "finished_at": _now(),
            }
            _save_status(directory, {**status, **ended})


def write_error(directory: Path, text: str) -> None:
    """Write a traceback to the run's `error.txt`."""
    storage.write_atomic(directory / ERROR, text.encode(errors="backslashreplace"))


def _save_status(directory: Path, status: dict[str, Any]) -> None:
    status["updated_at"] = _now()
    text = json.dumps(status, indent=1, allow_nan=False)
    storage.write_atomic(directory / STATUS, text + "\n")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
