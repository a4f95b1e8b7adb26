"""TensorBoard's view of a run: its rows as scalars, its columns, its layout of charts."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from normbench.errors import MachineError, shown
from normbench.results.depth import HISTOGRAM
from normbench.rows import Row, TimeRow

if TYPE_CHECKING:
    from normbench.runtime.storage import Appended


class Band(NamedTuple):
    """The tags of a curve and of its bounds, which one chart shows."""

    value: str
    lower: str
    upper: str


Charts = Mapping[str, Mapping[str, Sequence[str]]]  # by category and title: tags, or a band
DT_DOUBLE, DT_STRING = 2, 7  # of TensorFlow's types
METRICS = ("test/accuracy", "gap/accuracy")  # columns of TensorBoard's table of runs
VARIED = ("model", "norm", "init", "batch", "lr")  # it shows five settings at first: these
# Tags of what holds for a whole run: a text, not charts.
CONSTANT = ("batch/global", "batch/worker", "batch/statistics", "chance/")
MOVED = {"batch/classes": "train/batch_classes"}  # which would stand first of all charts
CHARTS: Charts = {
    "Accuracy": {"train and val": ("train/accuracy", "val/accuracy")},
    "Gap": {"training mode minus evaluation mode": ("gap/accuracy",)},
    "Learning rate and gradient": {
        "learning rate": ("optim/lr",),
        "gradient norm": ("optim/grad_norm",),
    },
}  # category, title and tags of the charts on the page of custom scalars
LAYER_CHARTS: Charts = {
    "Layers": {
        "deviation after the activation": ("layer/.*/act_std",),
        "share of saturated units": ("layer/.*/saturated",),
        "gradient norm of the weight": ("layer/.*/grad_norm",),
        "error of the running mean": ("layer/.*/stat_error",),
    },
}  # of runs with `diagnose=full`; a line for each layer


class Events:
    """TensorBoard's view of a run: one file, derived from the rows and never read back.

    Args: file: where the events go. axis: `examples` or `step`, the horizontal axis.
    """

    def __init__(self, file: Appended, axis: str) -> None:
        self.file, self.axis, self.tb = file, axis, load_tensorboard()
        self.records = self.tb.RecordWriter(file)
        self.layers: list[Row] = []  # the first and the last of these rows

    def begin(
        self,
        hparams: Mapping[str, float | str | bool | None],
        config: str,
        charts: Charts = CHARTS,
        group: str = "",
        metrics: Sequence[str] = METRICS,
    ) -> None:
        """Write the version, the run's columns, the layout of the charts and the configuration.

        What files before this one have shown is not shown any more.

        Args: hparams: None stands for a number that there is not; group: of runs that differ in
        the seed alone, whose mean TensorBoard's table shows; metrics: its tags.
        """
        tb = self.tb
        self._event(file_version="brain.Event:2")
        self._event(step=0, session_log=tb.SessionLog(status=tb.SessionLog.START))
        infos = [
            tb.HParamInfo(name=name, type=_hparam_type(value), differs=name in VARIED)
            for name, value in hparams.items()
        ]
        metrics = [
            tb.MetricInfo(name=tb.MetricName(tag=tag), display_name=tag.lstrip("~"))
            for tag in metrics
        ]
        experiment = tb.Experiment(hparam_infos=infos, metric_infos=metrics)
        start = tb.SessionStartInfo(start_time_secs=time.time(), group_name=group)
        for name, value in hparams.items():
            if value is not None:
                setattr(start.hparams[name], _hparam_field(value), value)
        self._hparams(tb.hparams.EXPERIMENT_TAG, experiment=experiment)
        self._hparams(tb.hparams.SESSION_START_INFO_TAG, session_start_info=start)
        layout = tb.layout.CONFIG_SUMMARY_TAG, tb.layout.create_summary_metadata()
        self._bytes(*layout, _layout(tb, charts).SerializeToString())
        self._text("config", config)

    def add(self, row: Row | TimeRow) -> None:
        """Write the finite numbers and the histograms among a row's values whose name is a tag."""
        step = row.examples if self.axis == "examples" else row.step
        if isinstance(row, Row) and row.kind == "layers":
            self.layers[1:] = [row]
        event = self.tb.Event(wall_time=time.time(), step=step)
        add = event.summary.value.add
        constant = ""
        for known, value in row.values.items():
            tag = MOVED.get(known, known)
            if tag.startswith(CONSTANT):
                constant += f"{tag}: {value}\n"
            elif "/" in tag and isinstance(value, int | float) and math.isfinite(value):
                add(tag=tag, simple_value=value)
            elif tag.endswith(HISTOGRAM) and isinstance(value, str):
                self._histogram(tag.removesuffix(HISTOGRAM), value, step)
        if event.summary.value:
            self.records.write(event.SerializeToString())
        if constant:
            self._text("constants", constant)

    def show(self, tag: str, picture: bytes, step: int = 0) -> None:
        """Write a picture, the bytes of a PNG file."""
        side = [struct.unpack(">I", picture[at : at + 4])[0] for at in (16, 20)]  # of its header
        tensor = self.tb.TensorProto(dtype=DT_STRING)
        tensor.string_val.extend([*(str(length).encode() for length in side), picture])
        tensor.tensor_shape.dim.add(size=3)
        metadata = self.tb.image.create_summary_metadata(tag, "")
        self._summary(tag, metadata, tensor, step)

    def end(self, state: str) -> None:
        """Write how the run ended, with its layers over depth, and close the file."""
        if state == "finished" and self.layers:
            from normbench.display import depth, drawing  # imports matplotlib

            first, last = self.layers[0], self.layers[-1]
            at = last.examples if self.axis == "examples" else last.step
            for name, figure in depth.of_run(first.values, last.values).items():
                self.show(f"layers/{name}", drawing.encoded(figure, "png"), at)
        status = 1 if state == "finished" else 2  # STATUS_SUCCESS, STATUS_FAILURE
        end = self.tb.SessionEndInfo(status=status, end_time_secs=time.time())
        self._hparams(self.tb.hparams.SESSION_END_INFO_TAG, session_end_info=end)
        self.file.close()

    def _hparams(self, tag: str, **content: Any) -> None:
        tb = self.tb
        metadata = tb.hparams.create_summary_metadata(tb.HParamsPluginData(**content))
        self._summary(tag, metadata, tb.hparams.NULL_TENSOR)

    def _text(self, tag: str, text: str) -> None:
        """Write lines that TensorBoard shows as they are."""
        code = "".join(f"    {line}\n" for line in text.splitlines())
        self._bytes(tag, self.tb.text.create_summary_metadata(tag, ""), code.encode())

    def _histogram(self, tag: str, words: str, step: int) -> None:
        """Write counts in equal parts of a range, from `low high n n ...`."""
        low, high, *counts = map(float, words.split())
        width = (high - low) / len(counts)
        tensor = self.tb.TensorProto(dtype=DT_DOUBLE)
        for place, count in enumerate(counts):
            tensor.double_val.extend([low + place * width, low + (place + 1) * width, count])
        for size in (len(counts), 3):
            tensor.tensor_shape.dim.add(size=size)
        self._summary(tag, self.tb.histogram.create_summary_metadata(tag, ""), tensor, step)

    def _bytes(self, tag: str, metadata: Any, content: bytes) -> None:
        tensor = self.tb.TensorProto(dtype=DT_STRING, string_val=[content])
        tensor.tensor_shape.SetInParent()  # a scalar, not of unknown shape
        self._summary(tag, metadata, tensor)

    def _summary(self, tag: str, metadata: Any, tensor: Any, step: int = 0) -> None:
        value = self.tb.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._event(step=step, summary=self.tb.Summary(value=[value]))

    def _event(self, **content: Any) -> None:
        event = self.tb.Event(wall_time=time.time(), **content)
        self.records.write(event.SerializeToString())


@cache
def load_tensorboard() -> SimpleNamespace:
    """Import what writes TensorBoard's files; a process that forks many runs calls it first.

    Raises: MachineError if the package is missing.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.custom_scalar import layout_pb2
        from tensorboard.plugins.custom_scalar import metadata as layout
        from tensorboard.plugins.histogram import metadata as histogram
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
        from tensorboard.plugins.hparams import metadata as hparams
        from tensorboard.plugins.image import metadata as image
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
        SessionLog=SessionLog,
        Summary=Summary,
        TensorProto=TensorProto,
        RecordWriter=RecordWriter,
        histogram=histogram,
        hparams=hparams,
        image=image,
        layout=layout,
        text=text,
    )


def _layout(tb: SimpleNamespace, categories: Charts) -> Any:
    layout = tb.Layout()
    for title, charts in categories.items():
        category = layout.category.add(title=title)
        for name, tags in charts.items():
            chart = category.chart.add(title=name)
            if isinstance(tags, Band):
                chart.margin.series.add(**tags._asdict())
            else:
                chart.multiline.tag.extend(tags)
    return layout


def _hparam_field(value: float | str | bool | None) -> str:
    if isinstance(value, bool):
        return "bool_value"
    return "string_value" if isinstance(value, str) else "number_value"


def _hparam_type(value: float | str | bool | None) -> int:
    return {"string_value": 1, "bool_value": 2, "number_value": 3}[_hparam_field(value)]
