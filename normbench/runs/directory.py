"""The directory of one run: its configuration, state, rows, and TensorBoard's view of the rows."""

from __future__ import annotations

import json
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from normbench.errors import FileRefused, MachineError, NormbenchError, first_line
from normbench.rows import Row, TimeRow, Value, finite, to_json
from normbench.runs import attempt, kept, tensorboard
from normbench.runs.reader import (
    CHECKPOINT,
    CONFIG,
    ENVIRONMENT,
    ERROR,
    EVENTS,
    FINAL,
    MANY,
    METRICS,
    STATES,
    STATUS_BYTES,
    TIMING,
    digest_of,
    is_of_attempt,
    read_status,
)
from normbench.runs.tensorboard import Events, load_tensorboard
from normbench.runtime import machine, storage
from normbench.runtime.lock import Lock
from normbench.settings.schema import LAYOUT

if TYPE_CHECKING:
    from torch import Tensor

STATUS_EVERY_S = 5.0  # so that, with rows that come this often too, no status is older than 10 s
MESSAGE = 1000  # characters of a message in a status


@dataclass
class RunDirectory:
    """Writes one run's folder while it holds the folder's lock: a context manager.

    Entering makes the folder. What an earlier attempt left unfinished there goes on from what it
    `kept`; without a checkpoint, or with one of other rows, it is started over.
    Leaving by an exception records it, as interrupted or failed. Leaving without `finish` leaves
    the state `running`, as a process that was killed does.

    Args: directory: the run's folder. config: the maps `experiment` and `execution`, resolved;
        `force` in the latter lets a finished run start over. environment: what the run depends on
        besides. tb: write TensorBoard events. tb_axis: their axis, `examples` or `step`. hparams:
        the run's columns in TensorBoard's table. steps_total: planned optimizer steps. recorded:
        settings by which rows are recorded. fits: refuses a state that is none of this run.
    Raises: FileRefused if the folder is in use, finished, damaged or of another configuration;
        MachineError if the storage fails or TensorBoard is asked for and missing.
    """

    directory: Path
    config: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    _: KW_ONLY
    tb: bool
    tb_axis: str
    hparams: Mapping[str, float | str | bool | None]
    steps_total: int | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    fits: Callable[[kept.Kept], None] = lambda state: None

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
                self.fail(error)

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

    def keep(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Keep a state from which the run goes on, with the records up to here.

        Raises: MachineError if the storage fails.
        """
        records = {}
        for name, file in ((METRICS, self._metrics), (TIMING, self._timing)):
            file.sync()
            path = self.directory / name
            records[name] = {"size": path.stat().st_size, "sha256": storage.digest(path)}
        facts = {**about, "recorded": self.recorded, "records": records}
        kept.write(self.directory, tensors, facts, self._belongs())
        self._save()

    def show(self, tag: str, picture: bytes) -> None:
        """Give TensorBoard a picture of how the run begins."""
        if self._events:
            self._events.show(tag, picture)

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
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Bring everything to the disk and write the final state; nothing is recorded after it.

        Args: state: `finished`, `diverged`, `interrupted` or `failed`. reason: for the last two,
            a key of `attempt.EXIT_CODES`. message: what happened, for people. state_sha256:
            digest of model and optimizer. figures: `train_s`, seconds of training, evaluations left
            out; `cpu_s`, CPU seconds of worker 0, with evaluations; `parameters` that are trained;
            `shared`, whether both are shares of what runs in one process took.
        """
        assert state in STATES[2:]
        # A run that fails because the disk is full must still be able to say so.
        with suppress(*([MachineError] if state == "failed" else [])):
            self._close(state)
        changes: dict[str, Any] = {
            "state": state,
            "reason": reason,
            "message": message and message[:MESSAGE],
            "state_sha256": state_sha256,
            "exit_code": 0 if state in FINAL else attempt.exit_code(state, reason),
            "finished_at": attempt.now(),
        }
        if state in FINAL:
            last = self._last
            changes |= figures or {}
            with suppress(FileRefused):  # it has been removed: the write of the status says so
                changes["metrics_sha256"] = storage.digest(self.directory / METRICS)
            changes["final"] = {name: finite(last[name]) for name in sorted(last) if "/" in name}
        if state == "diverged":
            changes |= {name: self._last.get(name) for name in ("bad_step", "bad_quantity")}
        self._save(**changes)
        if state in FINAL:
            storage.remove(self.directory / CHECKPOINT)

    def _measured(self, row: Row) -> None:
        self._metrics.write(to_json(row).encode() + b"\n")
        self._count(row)

    def _count(self, row: Row | TimeRow) -> None:
        """Take over what a row says of the run as a whole."""
        if isinstance(row, TimeRow):
            return
        if row.kind not in MANY:
            self._last.update(row.values)
        if row.kind != "pretrain":  # which has steps of its own
            self._status["step"], self._status["epoch"] = row.step, row.epoch

    def fail(self, error: BaseException) -> None:
        """Write why a run failed; a second failure while writing must not hide the first."""
        reason = "oom" if machine.out_of_memory(error) else getattr(error, "reason", "error")
        with suppress(NormbenchError, OSError):
            if reason == "error":
                write_error(self.directory, "".join(traceback.format_exception(error)))
            self.finish("failed", reason=reason, message=first_line(error))

    def _start(self, stack: ExitStack) -> None:
        """Write what is known before the first step; the status comes last, then the old goes."""
        before = read_status(self.directory)
        config = attempt.plain(self.config)
        if before:
            attempt.check(self.directory, before, config)
        self.kept = self._read_kept() if before and before["state"] not in FINAL else None
        storage.remove_stale(self.directory)
        text = storage.write_yaml(self.directory / CONFIG, {"layout": LAYOUT, **config})
        entries = json.dumps([*self._environments(), self.environment], indent=1, allow_nan=False)
        storage.write_atomic(self.directory / ENVIRONMENT, entries + "\n")
        self._process = secrets.token_hex(8)
        self._last: dict[str, Value] = {}
        self._status = attempt.first_status(
            config["experiment"],
            before,
            self.kept.about["step"] if self.kept else 0,
            self.steps_total,
        )
        changed = [*(before or {}).get("changed", []), *self.kept.changed] if self.kept else []
        self._status.update({"changed": changed} if changed else {})
        rows = self.kept.rows() if self.kept else []
        for row in rows:
            self._count(row)
        self._save()
        stays = {CHECKPOINT, *self.kept.records} if self.kept else set()
        for name in filter(is_of_attempt, storage.names(self.directory)):
            if name not in stays:
                storage.remove(self.directory / name)
        self._metrics = self._append(stack, METRICS)
        self._timing = self._append(stack, TIMING)
        self._events = self._begun(stack, text, rows) if self.tb else None

    def _read_kept(self) -> kept.Kept | None:
        """Read what the run goes on from.

        Raises: FileRefused if it is damaged, of another run, or from another machine or code.
        """
        found = kept.read(
            self.directory,
            self._belongs(),
            attempt.plain(self.recorded),
            bool(self.config["execution"].get("allow_changed")),
        )
        if found:
            self.fits(found)
        return found

    def _begun(self, stack: ExitStack, text: str, rows: Iterable[Row | TimeRow]) -> Events:
        """Begin TensorBoard's file, with the rows of a run that goes on."""
        # Named by attempt: a running TensorBoard goes on to the next name, never back.
        file = self._append(stack, f"{EVENTS}{self._status['attempts']:06d}.normbench")
        events = Events(file, self.tb_axis)
        full = self.config["execution"].get("diagnose") == "full"
        charts = {**tensorboard.CHARTS, **(tensorboard.LAYER_CHARTS if full else {})}
        events.begin(self.hparams, text, charts, self.directory.parent.name)
        for row in rows:
            events.add(row)
        return events

    def _belongs(self) -> dict[str, Any]:
        """Give what must be the same where the run goes on."""
        run = f"{self.directory.parent.name}/{self.directory.name}"
        same = {key: self.environment.get(key) for key in kept.SAME}
        return attempt.plain(
            {"run": run, "config_sha256": digest_of(self.config["experiment"]), **same}
        )

    def _environments(self) -> list[Any]:
        """Give the entries of the attempts from which the run goes on."""
        if not self.kept:
            return []
        entries = storage.read_json(self.directory / ENVIRONMENT, STATUS_BYTES)
        return entries if isinstance(entries, list) else []

    def _append(self, stack: ExitStack, name: str) -> storage.Appended:
        before = self.kept.records.get(name, b"") if self.kept else b""
        file = storage.Appended(self.directory / name, len(before))
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
        attempt.save_status(self.directory, self._status)
        self._due = time.monotonic() + STATUS_EVERY_S


def write_error(directory: Path, text: str) -> None:
    """Write a traceback to the run's `error.txt`."""
    storage.write_atomic(directory / ERROR, text.encode(errors="backslashreplace"))
