"""The folder of a run: what it says, what survives, and what is refused when it is read back."""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import pytest
from runtime.test_storage import file_limit

from normbench.errors import FileRefused, InUse, MachineError
from normbench.rows import Row, TimeRow
from normbench.runs import tensorboard
from normbench.runs.directory import RunDirectory, write_error
from normbench.runs.reader import read_config, read_rows, read_status
from normbench.runtime import storage

FIELDS = (
    "schema state reason message config_sha256 state_sha256 step epoch steps_total attempts "
    "resumed_at exit_code started_at updated_at finished_at final warnings"
)
ROWS = [
    Row("val", 0, 0, 0.0, {"val/loss": 2.3, "val/accuracy": 0.1, "gap/accuracy": 0.0}),
    Row("train", 50, 100, 0.5, {"train/loss": 1.5, "train/accuracy": 0.4, "optim/lr": 0.1}),
    Row("val", 100, 200, 1.0, {"val/loss": 0.9, "val/accuracy": 0.7, "gap/accuracy": -0.1}),
    Row("test", 100, 200, 1.0, {"test/loss": 0.8, "test/accuracy": 0.75}),
    Row("end", 100, 200, 1.0, {"state": "finished"}),
]


def begin(directory, experiment=None, tb=False, **execution):
    experiment = {"norm": {"name": "gn", "groups": 4}, "batch": 2, "seed": 0, **(experiment or {})}
    return RunDirectory(
        directory,
        {"experiment": experiment, "execution": {"outputs": "outputs", **execution}},
        {"python": "3.11"},
        tb=tb,
        tb_axis="examples",
        hparams={"norm": "gn", "batch": 2},
        steps_total=100,
    )


def finished(directory, **options):
    with begin(directory, **options) as run:
        for row in ROWS:
            run.write(row)
        run.finish("finished", state_sha256="ab" * 32)
    return directory


def abandoned(directory, **options):
    """Leave a run half done, as a process that is killed does."""
    with begin(directory, **options) as run:
        run.write(ROWS[0])
        run.write(TimeRow(0, 0, {"wall_s": 0.0}))
        write_error(directory, "an old trace")
    return directory


def contents(directory):
    """Names and digests of all files but the lock, which is no record."""
    return {name: storage.digest(directory / name) for name in storage.names(directory)[1:]}


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A short relative path, so that no message is cut."""
    monkeypatch.chdir(tmp_path)
    return Path("runs/mlp-gn-b2-0123456789ab/seed0")


# What is written


def test_a_folder_without_a_run_has_no_status(directory):
    assert read_status(directory) is None
    directory.mkdir(parents=True)
    assert read_status(directory) is None


def test_a_run_that_began_is_running(directory):
    with begin(directory):
        status = read_status(directory)
    assert set(status) == set(FIELDS.split())
    assert (status["state"], status["attempts"], status["steps_total"]) == ("running", 1, 100)
    assert status["final"] is None and status["exit_code"] is None


def test_the_files_of_a_finished_run_are_those_of_the_page(directory):
    finished(directory, tb=True)
    names = ["config.yaml", "environment.json", "metrics.jsonl", "status.json", "timing.jsonl"]
    events_file = "events.out.tfevents.000001.normbench"
    assert storage.names(directory) == sorted([".lock", events_file, *names])


def test_a_finished_run_ends_with_the_last_value_of_each_tag(directory):
    status = read_status(finished(directory))
    assert (status["state"], status["exit_code"], status["step"]) == ("finished", 0, 100)
    assert status["epoch"] == 1.0 and status["state_sha256"] == "ab" * 32
    assert status["final"] == {
        "gap/accuracy": -0.1,
        "optim/lr": 0.1,
        "test/accuracy": 0.75,
        "test/loss": 0.8,
        "train/accuracy": 0.4,
        "train/loss": 1.5,
        "val/accuracy": 0.7,
        "val/loss": 0.9,
    }


def test_rows_come_back_as_they_were_written(directory):
    assert read_rows(finished(directory)) == ROWS


def test_a_row_can_be_read_as_soon_as_it_is_written(directory):
    with begin(directory) as run:
        run.write(ROWS[0])
        assert read_rows(directory) == ROWS[:1]


def test_equal_runs_write_equal_metrics(directory):
    other = directory.parent / "again"
    one, two = finished(directory), finished(other)
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_times_are_kept_apart_and_marked_with_the_process(directory):
    with begin(directory) as run:
        run.write(TimeRow(50, 100, {"wall_s": 1.5}))
        run.write(TimeRow(60, 120, {"wall_s": 1.6}))
    lines = list(map(json.loads, (directory / "timing.jsonl").read_text().splitlines()))
    assert [line["wall_s"] for line in lines] == [1.5, 1.6]
    assert len({line["process"] for line in lines}) == 1
    assert (directory / "metrics.jsonl").read_bytes() == b""


def test_the_configuration_comes_back_as_it_was(directory):
    shared = [3, 32, 32]
    experiment = {"data": {"name": "synthetic", "shape": shared}, "bias": "off", "lr": 1e-5}
    with begin(directory, experiment, shape=shared, steps=None) as run:
        assert read_config(directory) == run.config
    assert "&" not in (directory / "config.yaml").read_text()


def test_the_environment_is_a_list_of_starts(directory):
    finished(directory)
    assert json.loads((directory / "environment.json").read_text()) == [{"python": "3.11"}]


def test_the_digest_of_the_configuration_looks_at_the_experiment_only(directory):
    digests = []
    for number, (experiment, outputs) in enumerate([({}, "a"), ({}, "b"), ({"batch": 4}, "a")]):
        with begin(directory / str(number), experiment, outputs=outputs):
            digests.append(read_status(directory / str(number))["config_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_the_status_follows_the_rows(directory, monkeypatch):
    monkeypatch.setattr("normbench.runs.directory.STATUS_EVERY_S", 0)
    with begin(directory) as run:
        run.write(ROWS[0])
        run.write(ROWS[1])
        status = read_status(directory)
    assert (status["step"], status["epoch"], status["state"]) == (50, 0.5, "running")


def test_a_warning_is_kept(directory):
    with begin(directory) as run:
        run.warn("batch=2: one statistic covers two values")
        run.finish("finished")
    assert read_status(directory)["warnings"] == ["batch=2: one statistic covers two values"]


def test_a_diverged_run_is_a_result_with_its_first_bad_step(directory):
    bad = {"state": "diverged", "bad_step": 7, "bad_quantity": "train/loss"}
    with begin(directory, tb=True) as run:
        run.write(ROWS[0])
        run.write(Row("train", 50, 100, 0.5, {"train/loss": math.nan}))
        run.write(Row("end", 50, 100, 0.5, bad))
        run.finish("diverged")
    status = read_status(directory)
    assert (status["state"], status["exit_code"]) == ("diverged", 0)
    assert (status["bad_step"], status["bad_quantity"]) == (7, "train/loss")
    assert status["final"]["train/loss"] is None and status["final"]["val/accuracy"] == 0.1
    assert '"train/loss": null' in (directory / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        ("failed", "error", 1),
        ("failed", "oom", 4),
        ("failed", "storage", 4),
        ("failed", "data", 3),
        ("failed", "worker_killed", 1),
        ("interrupted", "sigint", 130),
        ("interrupted", "sigterm", 143),
    ],
)
def test_a_run_that_stopped_says_why(directory, state, reason, code):
    with begin(directory) as run:
        run.write(ROWS[0])
        run.finish(state, reason=reason, message="why")
    status = read_status(directory)
    found = [status[name] for name in ("state", "reason", "message", "exit_code", "final")]
    assert found == [state, reason, "why", code, None]


def test_a_message_of_any_length_leaves_a_status_that_can_be_read(directory):
    with begin(directory) as run:
        run.warn("w" * 10**7)
        run.finish("failed", reason="error", message="m" * 10**7)
    status = read_status(directory)
    assert [len(text) for text in (status["message"], *status["warnings"])] == [1000, 1000]


def test_the_trace_of_an_error_may_hold_any_text(directory):
    abandoned(directory)
    write_error(directory, "Traceback: \udcff Übung")
    assert (directory / "error.txt").read_text(encoding="utf-8") == "Traceback: \\udcff Übung"


# Starting again


@pytest.mark.parametrize("stopped", [None, "interrupted", "failed"])
def test_an_unfinished_run_starts_over(directory, stopped):
    with begin(abandoned(directory, tb=True), tb=True) as run:
        if stopped:
            run.finish(stopped)
    with begin(directory, tb=True) as run:
        run.write(ROWS[1])
    status = read_status(directory)
    assert (status["attempts"], status["resumed_at"]) == (3, [0, 0])
    assert read_rows(directory) == [ROWS[1]]
    assert (directory / "timing.jsonl").read_bytes() == b""
    assert not (directory / "error.txt").exists()
    assert [path.name[-16:] for path in directory.glob("events*")] == ["000003.normbench"]


def test_what_cut_off_writes_left_behind_is_removed(directory):
    abandoned(directory)
    (directory / "status.json.tmp-1").write_text("{")
    with begin(directory):
        assert not (directory / "status.json.tmp-1").exists()


def test_a_finished_run_says_how_long_it_trained(directory):
    with begin(directory) as run:
        run.finish("finished", figures={"train_s": 1.25, "cpu_s": 2.5})
    status = read_status(directory)
    assert (status["train_s"], status["cpu_s"]) == (1.25, 2.5)
    (directory / "status.json").write_text(json.dumps({**status, "cpu_s": "2.5"}))
    with pytest.raises(FileRefused, match=r"cpu_s is 2\.5"):
        read_status(directory)


def test_pretraining_is_none_of_the_steps_and_results_of_a_run(directory):
    with begin(directory) as run:
        run.write(Row("pretrain", 400, 25600, 7.3, {"pretrain/layer1/loss": 0.5}))
        run.write(ROWS[0])
        run.finish("finished")
    status = read_status(directory)
    assert (status["step"], status["epoch"]) == (0, 0.0)
    assert sorted(status["final"]) == ["gap/accuracy", "val/accuracy", "val/loss"]
    assert read_rows(directory)[0].step == 400


@pytest.mark.parametrize("state", ["finished", "diverged"])
def test_a_run_with_a_result_is_left_alone(directory, state):
    with begin(directory) as run:
        run.finish(state)
    before = contents(directory)
    with pytest.raises(InUse, match=f"is {state} already\n  try: force=true"), begin(directory):
        pass
    assert contents(directory) == before


def test_force_trains_a_finished_run_again(directory):
    with begin(finished(directory), force=True):
        status = read_status(directory)
    assert (status["state"], status["attempts"], status["final"]) == ("running", 2, None)
    assert read_rows(directory) == []


def test_a_run_in_progress_is_refused_and_not_disturbed(directory):
    with begin(directory) as run:
        run.write(ROWS[0])
        before = contents(directory)
        with pytest.raises(InUse, match=f"is in use by process {os.getpid()}"), begin(directory):
            pass
        assert contents(directory) == before
        run.write(ROWS[1])
    assert read_rows(directory) == ROWS[:2]


def test_a_run_of_another_configuration_is_refused_with_both_values(directory):
    abandoned(directory)
    before = contents(directory)
    text = "norm.groups is 4 there and 8 here, seed is 0 there and 1 here"
    other = {"norm": {"name": "gn", "groups": 8}, "seed": 1}
    with pytest.raises(FileRefused, match=text), begin(directory, other):
        pass
    assert contents(directory) == before


def test_a_setting_that_came_later_does_not_make_a_run_another_one(directory):
    abandoned(directory)
    with begin(directory, {"new_setting": 1}):
        assert read_config(directory)["experiment"]["new_setting"] == 1


def test_a_start_that_was_killed_before_its_status_does_not_stop_the_next(directory):
    abandoned(directory)
    for name in storage.names(directory):
        if name not in ("config.yaml", ".lock"):
            (directory / name).unlink()
    assert read_status(directory) is None
    with begin(directory):
        assert read_status(directory)["attempts"] == 1


# Faults of the storage and the machine


def test_a_full_disk_stops_the_run_and_the_status_says_so(directory):
    with begin(directory, tb=True) as run, file_limit(4000):
        with pytest.raises(MachineError, match=r"metrics\.jsonl: cannot be written"):
            for _ in range(100):
                run.write(ROWS[1])
        run.finish("failed", reason="storage", message="no space")
    status = read_status(directory)
    assert (status["state"], status["reason"], status["exit_code"]) == ("failed", "storage", 4)
    assert read_rows(directory) == [ROWS[1]] * len(read_rows(directory))


def test_a_folder_removed_during_the_run_is_not_made_anew(directory):
    with begin(directory) as run:
        run.write(ROWS[0])
        shutil.rmtree("runs")
        with pytest.raises(MachineError, match="no such file or directory"):
            run.finish("finished")
    assert os.listdir() == []


def test_outputs_below_a_file_are_refused_and_nothing_is_left(directory):
    Path("runs").write_text("mine")
    assert read_status(directory) is None
    with pytest.raises(MachineError, match="not a directory"), begin(directory):
        pass
    assert os.listdir() == ["runs"] and Path("runs").read_text() == "mine"


def test_a_missing_tensorboard_is_named_before_anything_is_created(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    tensorboard.load_tensorboard.cache_clear()
    text = r"tb=true: the package tensorboard cannot be imported .*\n  try: tb=false"
    with pytest.raises(MachineError, match=text), begin(directory, tb=True):
        pass
    assert os.listdir() == []
    with begin(directory) as run:
        run.finish("finished")


def test_a_start_that_fails_gives_the_lock_back(directory):
    directory.mkdir(parents=True)
    (directory / "environment.json").mkdir()
    for _ in range(2):
        with pytest.raises(MachineError, match="is a directory"), begin(directory):
            pass


# Reading what others may have written


@pytest.mark.parametrize("name", ["seed0", "mlp-gn-b2-0123456789ab"])
def test_a_link_as_the_folder_of_a_run_is_refused(directory, name):
    link = directory if name == "seed0" else directory.parent
    link.parent.mkdir(parents=True)
    Path("elsewhere").mkdir()
    link.symlink_to(Path("elsewhere").resolve())
    for attempt in (lambda: read_status(directory), lambda: begin(directory).__enter__()):
        with pytest.raises(FileRefused, match=f"{name}: is a symbolic link"):
            attempt()
    assert os.listdir("elsewhere") == []


@pytest.mark.parametrize("name", ["status.json", "config.yaml"])
@pytest.mark.parametrize("content", [None, "", "{", "!!python/object/apply:os.getcwd []", "[]"])
def test_a_damaged_folder_is_never_taken_for_a_new_run(directory, name, content):
    path = abandoned(directory) / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    before = contents(directory)
    with pytest.raises(FileRefused, match=str(path)) as caught, begin(directory):
        pass
    assert caught.value.code == 3
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("schema", 2, "has schema 2, this normbench reads 1"),
        ("state", "done", "has the state done, which is none of planned, running"),
        ("state", [], "has the state"),
        ("step", True, "step is True"),
        ("step", "\x1b[2J", r"step is \\x1b\[2J"),
        ("attempts", None, "attempts is None"),
        ("resumed_at", ["x"], "resumed_at is not a list of steps"),
        ("warnings", [1], "warnings is not a list of texts"),
        ("final", {"a": {}}, "final holds more than numbers"),
        ("final", {"test/accuracy": "0.9"}, "final holds more than numbers"),
        ("final", {"test/accuracy": 90}, "test/accuracy is 90, and no share"),
        ("train_s", "long", "train_s is long"),
    ],
)
def test_a_status_with_a_strange_field_is_refused(directory, field, value, text):
    path = finished(directory) / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(FileRefused, match=text):
        read_status(directory)


def test_a_status_without_a_field_is_refused(directory):
    path = finished(directory) / "status.json"
    status = json.loads(path.read_text())
    del status["final"]
    path.write_text(json.dumps(status))
    with pytest.raises(FileRefused, match="final is missing"):
        read_status(directory)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, " " * 2**21])
def test_a_status_made_to_harm_is_refused(directory, content):
    (finished(directory) / "status.json").write_text(content)
    with pytest.raises(FileRefused, match=r"status\.json"):
        read_status(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment: {}", "does not consist of the two maps"),
        ("experiment: {}\nexecution: {}\nhydra: {}", "does not consist of the two maps"),
        ("experiment: 1\nexecution: {}", "experiment is not a map"),
        ("experiment: {hydra: {}}\nexecution: {}", "holds the key hydra"),
        ("experiment: {defaults: []}\nexecution: {}", "holds the key defaults"),
        ("experiment: {hydra.searchpath: [x]}\nexecution: {}", "holds the key hydra.searchpath"),
        ("experiment: {norm: {_target_: os.system}}\nexecution: {}", "holds the key _target_"),
        ("experiment: {1: 2}\nexecution: {}", "holds the key 1"),
        ("experiment: {lr: '${oc.env:HOME}'}\nexecution: {}", "lr holds an interpolation"),
        ("experiment: {a: [[1]]}\nexecution: {}", "a is not a number, word or null"),
        ("experiment: {a: 2020-01-01}\nexecution: {}", "a is not a number, word or null"),
        ("[" * 10_000, "nested too deep"),
    ],
)
def test_a_configuration_that_is_more_than_settings_is_refused(directory, text, message):
    (finished(directory) / "config.yaml").write_text(text)
    with pytest.raises(FileRefused, match=message):
        read_config(directory)


def test_a_torn_last_row_is_left_out(directory):
    path = abandoned(directory) / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"kind": "train", "step": 5')
    assert read_rows(directory) == ROWS[:1]


def test_a_damaged_row_is_refused_with_its_line(directory):
    path = finished(directory) / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"50", b"5x"), *lines[2:]]))
    with pytest.raises(FileRefused, match=r"metrics\.jsonl: line 2 is not a row"):
        read_rows(directory)


def test_rows_of_times_are_no_metrics(directory):
    path = finished(directory) / "metrics.jsonl"
    path.write_text('{"kind": "time", "step": 1, "examples": 2}\n')
    with pytest.raises(FileRefused, match="line 1 is a row of times"):
        read_rows(directory)
