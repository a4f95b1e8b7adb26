"""TensorBoard's view of a run, read back with TensorBoard's own reader."""

import math
import subprocess
import sys
import warnings

import pytest

from normbench.parts.options import leaves
from normbench.rows import Row, TimeRow
from normbench.runs import columns
from normbench.runs.tensorboard import CHARTS, Events, load_tensorboard
from normbench.runtime.storage import Appended
from normbench.settings.compose import Grid, loader

HPARAMS = {"norm": "gn", "batch": 2, "lr": 0.1, "bias": True, "placement": "none"}
VAL = Row("val", 100, 200, 1.0, {"val/loss": 0.5, "val/accuracy": 0.75})


def written(path, *rows, axis="examples", state="finished"):
    events = Events(Appended(path), axis)
    events.begin(HPARAMS, "experiment:\n  batch: 2\n")
    for row in rows:
        events.add(row)
    if state:
        events.end(state)
    return loaded(path)


def loaded(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard's reader, which no part of normbench uses
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

        return list(LegacyEventFileLoader(str(path)).Load())


def scalars(events):
    return [
        (value.tag, event.step, value.simple_value)
        for event in events
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]


def summaries(events):
    return {value.tag: value for event in events for value in event.summary.value}


def hparams(events, tag):
    tb = load_tensorboard()
    content = summaries(events)[f"_hparams_/{tag}"].metadata.plugin_data.content
    return tb.HParamsPluginData.FromString(content)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.out.tfevents.000001.normbench"


def test_scalars_lie_over_examples_seen(path):
    assert scalars(written(path, VAL)) == [("val/loss", 200, 0.5), ("val/accuracy", 200, 0.75)]


def test_scalars_lie_over_steps_where_the_run_asks_for_it(path):
    assert scalars(written(path, VAL, axis="step"))[0] == ("val/loss", 100, 0.5)


def test_times_are_shown_by_their_tag(path):
    row = TimeRow(100, 200, {"speed/examples_per_s": 1024.0, "wall_s": 1.0, "process": "0a"})
    assert scalars(written(path, row)) == [("speed/examples_per_s", 200, 1024.0)]


def test_words_and_what_is_not_finite_are_no_scalars(path):
    values = {"a/nan": math.nan, "a/inf": math.inf, "a/null": None, "a/word": "x", "state": "x"}
    assert scalars(written(path, Row("end", 1, 2, 0.1, values))) == []


def test_a_number_too_large_for_the_file_does_not_stop_the_run(path):
    row = Row("train", 1, 2, 0.1, {"train/loss": 1e300})
    assert scalars(written(path, row)) == [("train/loss", 2, math.inf)]


def test_a_row_can_be_seen_while_the_run_goes_on(path):
    assert len(scalars(written(path, VAL, state=None))) == 2


def test_the_columns_of_the_run_are_in_its_own_file(path):
    start = hparams(written(path), "session_start_info").session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    assert values == HPARAMS


def test_the_table_of_runs_shows_test_accuracy_and_gap(path):
    experiment = hparams(written(path), "experiment").experiment
    tags = [(info.name.group, info.name.tag) for info in experiment.metric_infos]
    assert tags == [("", "test/accuracy"), ("", "gap/accuracy")]
    assert {info.name: info.type for info in experiment.hparam_infos} == {
        "norm": 1,
        "batch": 3,
        "lr": 3,
        "bias": 2,
        "placement": 1,
    }


def test_runs_that_differ_in_the_seed_are_one_group_of_the_table(path):
    events = Events(Appended(path), "examples")
    events.begin(HPARAMS, "", group="mlp-gn-b2-0123456789ab")
    events.end("finished")
    start = hparams(loaded(path), "session_start_info").session_start_info
    assert start.group_name == "mlp-gn-b2-0123456789ab"


def test_what_is_constant_is_a_text_and_no_chart(path):
    row = Row("val", 0, 0, 0.0, {"batch/worker": 8, "chance/val": 0.1, "val/loss": 2.0})
    events = written(path, row)
    assert scalars(events) == [("val/loss", 0, 2.0)]
    text = summaries(events)["constants"].tensor.string_val[0]
    assert text == b"    batch/worker: 8\n    chance/val: 0.1\n"


@pytest.mark.parametrize("words", ["", "norm=gn", "norm=ws+gn norm.gn.groups=4", "model=lstm"])
def test_every_run_has_the_same_columns_of_the_same_types(words):
    (cell,) = Grid(loader()).cells(words.split(), False)
    values = columns.hparams(cell.config)
    assert list(values) == list(columns.columns())
    for name, numbers in columns.columns().items():
        kinds = (int, float, type(None)) if numbers else (str,)
        assert type(values[name]) in kinds, name
    settings = {key.removesuffix(".name") for key, _ in leaves(cell.config.plain())}
    chained = {key for key in settings if key.startswith(("norm.gn.", "norm.ws."))}
    assert settings - chained <= values.keys()


def test_a_column_that_a_run_has_not_is_none_in_words_and_blank_in_numbers(path):
    (cell,) = Grid(loader()).cells(["norm=none"], False)
    events = Events(Appended(path), "examples")
    events.begin(columns.hparams(cell.config), "")
    events.end("finished")
    found = loaded(path)
    start = hparams(found, "session_start_info").session_start_info.hparams
    assert start["norm.momentum_per"].string_value == "none"
    assert "norm.groups" not in start
    infos = {info.name: info.type for info in hparams(found, "experiment").experiment.hparam_infos}
    assert infos["norm.groups"] == 3  # DATA_TYPE_FLOAT64


@pytest.mark.parametrize(("state", "status"), [("finished", 1), ("diverged", 2), ("failed", 2)])
def test_the_table_of_runs_knows_how_a_run_ended(path, state, status):
    events = written(path, state=state)
    assert hparams(events, "session_end_info").session_end_info.status == status


def test_there_is_one_layout_with_the_charts_of_the_page(path):
    events = written(path, VAL)
    found = [
        value.tensor.string_val[0]
        for event in events
        for value in event.summary.value
        if value.tag == "custom_scalars__config__"
    ]
    assert len(found) == 1
    layout = load_tensorboard().Layout.FromString(found[0])
    assert [category.title for category in layout.category] == list(CHARTS)
    tags = [
        tag for group in layout.category for chart in group.chart for tag in chart.multiline.tag
    ]
    expected = "train/accuracy val/accuracy gap/accuracy optim/lr optim/grad_norm"
    assert tags == expected.split()


def test_the_configuration_stands_in_the_file_as_text(path):
    text = summaries(written(path))["config"]
    assert text.metadata.plugin_data.plugin_name == "text"
    assert text.tensor.string_val[0] == b"    experiment:\n      batch: 2\n"


def test_writing_events_does_not_import_torch():
    code = "import sys; from normbench.runs import tensorboard; tensorboard.load_tensorboard(); "
    code += "print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
