"""The folder of one run: its configuration, state, rows, and TensorBoard's view of the rows.

What is read back from a folder is untrusted: size-limited, checked, plain data.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import yaml

from normbench import files
from normbench.errors import FileRefused, MachineError, shown
from normbench.rows import Row, TimeRow, finite, from_json, to_json

CONFIG, ENVIRONMENT, STATUS = "config.yaml", "environment.json", "status.json"
METRICS, TIMING, ERROR = "metrics.jsonl", "timing.jsonl", "error.txt"
EVENTS = "events.out.tfevents."
WORK = ("checkpoint.safetensors", METRICS, TIMING)  # only a run that began leaves one of these

FINAL = ("finished", "diverged")
STATES = ("planned", "running", *FINAL, "interrupted", "failed")
EXIT_CODES = {
    **{"sigint": 130, "sigterm": 143},
    **{"oom": 4, "storage": 4, "artifact": 3, "data": 3},
    **{"error": 1, "rank_lost": 1, "worker_killed": 1, "timeout": 1},
}  # by the reason of a run that was interrupted or failed

STATUS_EVERY_S = 5.0  # so that, with rows that come this often too, no status is older than 10 s
SMALL = 2**18  # bytes of a configuration or status at most
LARGE = 2**28  # bytes of all rows of a run at most
DEPTH = 10  # levels of nesting in a configuration at most
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
        files.refuse_links(self.directory)
        files.make_directory(self.directory)
        with ExitStack() as stack:
            stack.enter_context(files.Lock(self.directory))
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, row: Row) -> None:
        """Record one row in `metrics.jsonl` and TensorBoard, and in `status.json` now and then."""
        self._metrics.write(to_json(row).encode() + b"\n")
        self._last.update(row.values)
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
        self._save(warnings=[*self._status["warnings"], text])

    def finish(
        self,
        state: str,
        *,
        reason: str | None = None,
        message: str | None = None,
        state_sha256: str | None = None,
    ) -> None:
        """Bring everything to the disk and write the final state; nothing is recorded after it.

        Args: state: `finished`, `diverged`, `interrupted` or `failed`. reason: for the last two,
            a key of `EXIT_CODES`. message: what happened, for people. state_sha256: digest of
            model and optimizer.
        """
        assert state in STATES[2:]
        # A run that fails because the disk is full must still be able to say so.
        with suppress(*[MachineError] if state == "failed" else []):
            self._close(state)
        default = 130 if state == "interrupted" else 1
        changes: dict[str, Any] = {
            "state": state,
            "reason": reason,
            "message": message,
            "state_sha256": state_sha256,
            "exit_code": 0 if state in FINAL else EXIT_CODES.get(reason or "", default),
            "finished_at": _now(),
        }
        if state in FINAL:
            last = self._last
            changes["final"] = {name: finite(last[name]) for name in sorted(last) if "/" in name}
        if state == "diverged":
            changes |= {name: self._last.get(name) for name in ("bad_step", "bad_quantity")}
        self._save(**changes)

    def _start(self, stack: ExitStack) -> None:
        """Write what is known before the first step; the status comes last, then the old goes."""
        before = read_status(self.directory)
        text = yaml.dump(_plain(self.config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        if before:
            self._check(before, text)
        files.remove_stale(self.directory)
        files.write_atomic(self.directory / CONFIG, text)
        entries = json.dumps([self.environment], indent=1, allow_nan=False)
        files.write_atomic(self.directory / ENVIRONMENT, entries + "\n")
        self._process, self._last = secrets.token_hex(8), {}
        self._status = self._first_status(before)
        self._save()
        for name in (METRICS, TIMING, ERROR, *_events(self.directory)):
            files.remove(self.directory / name)
        self._metrics = self._append(stack, METRICS)
        self._timing = self._append(stack, TIMING)
        self._events = None
        if self.tb:
            # Named by attempt: a running TensorBoard goes on to the next name, never back.
            file = self._append(stack, f"{EVENTS}{self._status['attempts']:06d}.normbench")
            self._events = Events(file, self.tb_axis)
            self._events.begin(self.hparams, text)

    def _check(self, before: Mapping[str, Any], text: str) -> None:
        """Refuse a folder that is final or of another configuration."""
        stored = dict(_leaves(read_config(self.directory)["experiment"]))
        mine = dict(_leaves(_load_yaml(self.directory / CONFIG, text.encode())["experiment"]))
        # A setting that came after the folder was written is at its default: the name says so.
        differing = [
            f"{key} is {shown(stored[key])} there and {shown(mine.get(key))} here"
            for key in stored
            if key not in mine or stored[key] != mine[key]
        ]
        if differing:
            why = f"is of another configuration: {', '.join(differing[:4])}"
            raise files.damaged(self.directory / CONFIG, why)
        if before["state"] in FINAL and not self.config["execution"].get("force"):
            raise FileRefused(str(self.directory), f"is {before['state']} already", "force=true")

    def _first_status(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        experiment = json.dumps(self.config["experiment"], sort_keys=True)
        return {
            "schema": 1,
            "state": "running",
            "reason": None,
            "message": None,
            "config_sha256": files.digest(experiment.encode()),
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

    def _append(self, stack: ExitStack, name: str) -> files.Appended:
        file = files.Appended(self.directory / name)
        stack.callback(file.close)
        return file

    def _close(self, state: str) -> None:
        self._metrics.close()
        self._timing.close()
        if self._events:
            self._events.end(state)

    def _save(self, **changes: Any) -> None:
        self._status.update(changes, updated_at=_now())
        text = json.dumps(self._status, indent=1, allow_nan=False)
        files.write_atomic(self.directory / STATUS, text + "\n")
        self._due = time.monotonic() + STATUS_EVERY_S


class Events:
    """TensorBoard's view of a run: one file, derived from the rows and never read back.

    Args: file: where the events go. axis: `examples` or `step`, the horizontal axis.
    """

    def __init__(self, file: files.Appended, axis: str) -> None:
        self.file, self.axis, self.tb = file, axis, load_tensorboard()
        self.records = self.tb.RecordWriter(file)

    def begin(self, hparams: Mapping[str, float | str | bool], config: str) -> None:
        """Write the version, the run's columns, the layout of the charts and the configuration."""
        tb = self.tb
        self._event(file_version="brain.Event:2")
        infos = [tb.HParamInfo(name=name, type=_hparam_type(v)) for name, v in hparams.items()]
        metrics = [
            tb.MetricInfo(name=tb.MetricName(tag=tag), display_name=tag)
            for tag in ("test/accuracy", "gap/accuracy")
        ]
        experiment = tb.Experiment(hparam_infos=infos, metric_infos=metrics)
        start = tb.SessionStartInfo(start_time_secs=time.time())
        for name, value in hparams.items():
            setattr(start.hparams[name], _hparam_field(value), value)
        self._hparams(tb.hparams.EXPERIMENT_TAG, experiment=experiment)
        self._hparams(tb.hparams.SESSION_START_INFO_TAG, session_start_info=start)
        layout = tb.layout.CONFIG_SUMMARY_TAG, tb.layout.create_summary_metadata()
        self._bytes(*layout, _layout(tb).SerializeToString())
        code = "".join(f"    {line}\n" for line in config.splitlines())
        self._bytes("config", tb.text.create_summary_metadata("config", ""), code.encode())

    def add(self, row: Row | TimeRow) -> None:
        """Write the finite numbers among a row's values whose name is a tag."""
        step = row.examples if self.axis == "examples" else row.step
        event = self.tb.Event(wall_time=time.time(), step=step)
        add = event.summary.value.add
        for tag, value in row.values.items():
            if "/" in tag and isinstance(value, int | float) and math.isfinite(value):
                add(tag=tag, simple_value=value)
        self.records.write(event.SerializeToString())

    def end(self, state: str) -> None:
        """Write how the run ended, and close the file."""
        status = 1 if state == "finished" else 2  # STATUS_SUCCESS, STATUS_FAILURE
        end = self.tb.SessionEndInfo(status=status, end_time_secs=time.time())
        self._hparams(self.tb.hparams.SESSION_END_INFO_TAG, session_end_info=end)
        self.file.close()

    def _hparams(self, tag: str, **content: Any) -> None:
        tb = self.tb
        metadata = tb.hparams.create_summary_metadata(tb.HParamsPluginData(**content))
        self._summary(tag, metadata, tb.hparams.NULL_TENSOR)

    def _bytes(self, tag: str, metadata: Any, content: bytes) -> None:
        tensor = self.tb.TensorProto(dtype=7, string_val=[content])  # DT_STRING
        tensor.tensor_shape.SetInParent()  # a scalar, not of unknown shape
        self._summary(tag, metadata, tensor)

    def _summary(self, tag: str, metadata: Any, tensor: Any) -> None:
        value = self.tb.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._event(summary=self.tb.Summary(value=[value]))

    def _event(self, **content: Any) -> None:
        event = self.tb.Event(wall_time=time.time(), **content)
        self.records.write(event.SerializeToString())


@cache
def load_tensorboard() -> SimpleNamespace:
    """Import what writes TensorBoard's files; a process that forks many runs calls it first.

    Raises: MachineError if the package is missing.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata as layout
        from tensorboard.plugins.hparams import api_pb2, metadata as hparams, plugin_data_pb2
        from tensorboard.plugins.text import metadata as text
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        why = f"the package tensorboard cannot be imported ({shown(error)})"
        raise MachineError("tb=true", why, "tb=false, or: pip install tensorboard") from error
    messages = {
        name: getattr(module, name)
        for module in (api_pb2, plugin_data_pb2, layout_pb2)
        for name in module.DESCRIPTOR.message_types_by_name
    }
    return SimpleNamespace(
        **messages,
        Event=Event,
        Summary=Summary,
        TensorProto=TensorProto,
        RecordWriter=RecordWriter,
        hparams=hparams,
        layout=layout,
        text=text,
    )
