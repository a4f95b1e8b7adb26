"""TensorBoard's view of a run, read back with TensorBoard's own reader."""

import math
import subprocess
import sys
import warnings

import pytest

from normbench.rows import Row, TimeRow
from normbench.runs.tensorboard import CHARTS, Events, load_tensorboard
from normbench.runtime.storage import Appended

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
