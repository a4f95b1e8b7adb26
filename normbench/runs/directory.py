"""The folder of one run: its configuration, state, rows, and TensorBoard's view of the rows.

What is read back from a folder is untrusted: size-limited, checked, plain data.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from normbench.errors import InUse, MachineError, shown
from normbench.parts.options import leaves
from normbench.rows import Row, TimeRow, Value, finite, from_json, to_json
from normbench.runs.tensorboard import Events, load_tensorboard
from normbench.runtime import storage

CONFIG, ENVIRONMENT, STATUS = "config.yaml", "environment.json", "status.json"
METRICS, TIMING, ERROR = "metrics.jsonl", "timing.jsonl", "error.txt"
EVENTS = "events.out.tfevents."
ATTEMPT = (
    "checkpoint.safetensors",
    METRICS,
    TIMING,
    ERROR,
)  # and events: what a run that began left

FINAL = ("finished", "diverged")
MANY = ("layers", "pretrain")  # rows of numbers for each layer, which are not among the results
STATES = ("planned", "running", *FINAL, "interrupted", "failed")
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
CONFIG_BYTES, STATUS_BYTES, METRICS_BYTES = 2**16, 2**20, 2**28  # more is not read back
MESSAGE = 1000  # characters of a message in a status
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # so none that Hydra or OmegaConf give a meaning
_PLAIN = (str, int, float, bool, type(None))


@dataclass
class Record:
    """Writes one run's folder while it holds the folder's lock: a context manager.

    Entering makes the folder; what an earlier attempt left unfinished there is started over.
    Leaving without `finish` leaves the state `running`, as a process that was killed does.

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
            stack.enter_context(storage.Lock(self.directory))
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, row: Row) -> None:
        """Record one row in `metrics.jsonl` and TensorBoard, and in `status.json` now and then."""
        self._metrics.write(to_json(row).encode() + b"\n")
        if row.kind not in MANY:
            self._last.update(row.values)
        if row.kind != "pretrain":  # which has steps of its own
            self._status["step"], self._status["epoch"] = row.step, row.epoch
        if self._events:
            self._events.add(row)
        if time.monotonic() >= self._due:
            self._save()

    def time(self, row: TimeRow) -> None:
        """Record one row in `timing.jsonl` and TensorBoard, marked with this process."""
        marked = TimeRow(row.step, row.examples, {**row.values, "process": self._process})
        self._timing.write(to_json(marked).encode() + b"\n")
        if self._events:
            self._events.add(marked)

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
    ) -> None:
        """Bring everything to the disk and write the final state; nothing is recorded after it.

        Args: state: `finished`, `diverged`, `interrupted` or `failed`. reason: for the last two,
            a key of `EXIT_CODES`. message: what happened, for people. state_sha256: digest of
            model and optimizer. train_s: seconds of training, evaluations left out.
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
            changes["train_s"] = train_s
            changes["final"] = {name: finite(last[name]) for name in sorted(last) if "/" in name}
        if state == "diverged":
            changes |= {name: self._last.get(name) for name in ("bad_step", "bad_quantity")}
        self._save(**changes)

    def _start(self, stack: ExitStack) -> None:
        """Write what is known before the first step; the status comes last, then the old goes."""
        before = read_status(self.directory)
        config = json.loads(json.dumps(self.config, allow_nan=False))
        if before:
            self._check(before, config["experiment"])
        storage.remove_stale(self.directory)
        text = storage.write_yaml(self.directory / CONFIG, config)
        entries = json.dumps([self.environment], indent=1, allow_nan=False)
        storage.write_atomic(self.directory / ENVIRONMENT, entries + "\n")
        self._process = secrets.token_hex(8)
        self._last: dict[str, Value] = {}
        self._status = self._first_status(before)
        self._save()
        for name in filter(_is_of_attempt, storage.names(self.directory)):
            storage.remove(self.directory / name)
        self._metrics = self._append(stack, METRICS)
        self._timing = self._append(stack, TIMING)
        self._events: Events | None = None
        if self.tb:
            # Named by attempt: a running TensorBoard goes on to the next name, never back.
            file = self._append(stack, f"{EVENTS}{self._status['attempts']:06d}.normbench")
            self._events = Events(file, self.tb_axis)
            layers = config["experiment"].get("diagnose") == "full"
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
        experiment = json.dumps(self.config["experiment"], sort_keys=True)
        return {
            "schema": 1,
            "state": "running",
            "reason": None,
            "message": None,
            "config_sha256": storage.digest(experiment.encode()),
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
        self._status.update(changes, updated_at=_now())
        text = json.dumps(self._status, indent=1, allow_nan=False)
        storage.write_atomic(self.directory / STATUS, text + "\n")
        self._due = time.monotonic() + STATUS_EVERY_S


def read_status(directory: Path) -> dict[str, Any] | None:
    """Read a run's state without taking its lock; None if no run began in the folder.

    Raises: FileRefused if the status is malformed, a link, or missing beside other files of a run.
    """
    path = directory / STATUS
    names = storage.names(directory)
    if STATUS not in names:
        if any(map(_is_of_attempt, names)):
            raise storage.damaged(path, "is missing")
        return None
    status = storage.read_json(path, STATUS_BYTES)
    why = _unlike_status(status)
    if why:
        raise storage.damaged(path, why)
    return dict(status)


def read_config(directory: Path) -> dict[str, dict[str, Any]]:
    """Read the maps `experiment` and `execution` of a run.

    Raises: FileRefused if the file is missing, no plain YAML of these two maps, nested too deep,
        or holds an alias, a tag, an interpolation or a key with a meaning to Hydra.
    """
    path = directory / CONFIG
    tree = storage.read_yaml(path, CONFIG_BYTES)
    if not isinstance(tree, dict) or set(tree) != {"experiment", "execution"}:
        raise storage.damaged(path, "has not the two maps experiment and execution")
    for name, settings in tree.items():
        why = _unlike_setting(name, settings) if isinstance(settings, dict) else f"{name} is no map"
        if why:
            raise storage.damaged(path, why)
    return tree


def read_rows(directory: Path) -> list[Row]:
    """Read the rows of a run; a last line that was cut off is left out.

    Raises: FileRefused if the file is missing or a line is no row.
    """
    path = directory / METRICS
    rows = []
    for number, line in enumerate(storage.read_bytes(path, METRICS_BYTES).split(b"\n")[:-1], 1):
        try:
            row = from_json(line.decode())
        except ValueError as error:
            raise storage.damaged(path, f"line {number} is no row: {error}") from None
        if not isinstance(row, Row):
            raise storage.damaged(path, f"line {number} is a row of times")
        rows.append(row)
    return rows


def write_error(directory: Path, text: str) -> None:
    """Write a traceback to the run's `error.txt`."""
    storage.write_atomic(directory / ERROR, text.encode(errors="backslashreplace"))


_STATUS_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("config_sha256", "started_at", "updated_at"), (str,)),
    **dict.fromkeys(("reason", "message", "state_sha256", "finished_at"), (str, type(None))),
    **dict.fromkeys(("step", "attempts"), (int,)),
    **dict.fromkeys(("steps_total", "exit_code"), (int, type(None))),
    "epoch": (int, float),
    "final": (dict, type(None)),
    **dict.fromkeys(("resumed_at", "warnings"), (list,)),
}


def _unlike_status(status: Any) -> str | None:
    """Say what of a status is not as `Record` writes it."""
    if not isinstance(status, dict):
        return "is no JSON object"
    if status.get("schema") != 1:
        return f"has schema {shown(status.get('schema'))}, this normbench reads 1"
    if status.get("state") not in STATES:
        return f"has the state {shown(status.get('state'))}, which is none of {', '.join(STATES)}"
    for name, types in _STATUS_TYPES.items():
        if name not in status or type(status[name]) not in types:
            return f"{name} is {shown(status.get(name, 'missing'))}"
    if not all(type(step) is int for step in status["resumed_at"]):
        return "resumed_at is no list of steps"
    if not all(type(text) is str for text in status["warnings"]):
        return "warnings is no list of texts"
    took = status.get("train_s")
    if type(took) not in (int, float, type(None)) or finite(took) != took:
        return f"train_s is {shown(took)}"
    final = (status["final"] or {}).values()
    if not all(type(value) in _PLAIN and finite(value) == value for value in final):
        return "final holds more than numbers"
    return None


def _unlike_setting(key: Any, value: Any) -> str | None:
    """Say why a key with its value is no setting, or no map of settings."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key in ("hydra", "defaults"):
        return f"holds the key {shown(key)}, which is no setting"
    if isinstance(value, dict):
        return next(filter(None, (_unlike_setting(*item) for item in value.items())), None)
    for each in value if isinstance(value, list) else [value]:
        if type(each) not in _PLAIN:
            return f"{key} is no number, word or null"
        if isinstance(each, str) and "${" in each:
            return f"{key} holds an interpolation"
    return None


def _is_of_attempt(name: str) -> bool:
    """Whether a file holds something of an attempt, so that it goes when the run starts over."""
    return name in ATTEMPT or name.startswith(EVENTS)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
