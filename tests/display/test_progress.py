"""What stands on the screen: on a terminal and elsewhere, quiet, as JSON, in colour or not."""

import errno
import io
import json
import re
import subprocess
import sys
import threading

import pytest

from normbench.display import console, progress, sweep_progress
from normbench.display.screen import Screen
from normbench.errors import MachineError, Mistake, Refused
from normbench.results import compare, groups
from normbench.results.tables import Table, TableCell
from normbench.rows import Row

METRIC = "test/accuracy"
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Stream(io.StringIO):
    """A stream that says whether it is a terminal and what it can encode."""

    def __init__(self, terminal=False, encoding="utf-8"):
        super().__init__()
        self.terminal, self.code = terminal, encoding

    @property
    def encoding(self):
        return self.code

    def isatty(self):
        return self.terminal


class Broken(Stream):
    """A stream on which every write fails."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, "No space left on device")


class Clock:
    """A clock that only tests move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def clock(monkeypatch):
    moved = Clock()
    for module in (console, progress, sweep_progress):
        monkeypatch.setattr(module, "monotonic", moved)
    return moved


@pytest.fixture
def plain():
    return Screen(stream=Stream(), out=Stream())


def said(shown):
    """What was written on stdout and on stderr."""
    return shown._out.sink.stream.getvalue(), shown._err.sink.stream.getvalue()


def on_terminal(**options):
    return Screen(stream=Stream(True), out=Stream(True), **options)


def frame(shown):
    """The last drawing of what is live on stderr, without its colours."""
    last = said(shown)[1].split("\x1b[2K")[-1]
    return [line.rstrip() for line in CODES.sub("", last).strip("\r\n").split("\n")]


def train(step, loss=0.184):
    return Row("train", step, 2 * step, step / 100, {"train/loss": loss, "optim/lr": 0.1})


def val(step, accuracy=0.952):
    values = {"val/accuracy": accuracy, "val/loss": 2.25, "gap/accuracy": 0.0}
    return Row("val", step, 2 * step, step / 100, values)


def table(**values):
    rows = [(TableCell(name), *map(TableCell, cells)) for name, cells in values.items()]
    return Table(
        "test accuracy, %", ("norm", "batch 2", "batch 32"), tuple(rows), notes=("a note",)
    )


RESULTS = table(bn=["84.1 [80.2, 88.0]", "97.0"], gn=["95.8 [95.1, 96.5] *", "96.6"])


def test_headings_go_to_stderr_and_results_to_stdout(plain):
    plain.heading(["normbench 0.1  cnn", "batch 2"])
    plain.text("sweep x")
    plain.note("done")
    assert said(plain) == ("sweep x\n", "normbench 0.1  cnn\nbatch 2\ndone\n")


def test_quiet_leaves_errors_and_the_result():
    quiet = Screen(quiet=True, stream=Stream(), out=Stream())
    quiet.heading(["a"])
    quiet.note("b")
    quiet.warn("c")
    with quiet.progress(10) as progress:
        progress.row(val(10))
    with quiet.sweep(["x"], [10]) as sweep:
        sweep.update(0, "finished")
    quiet.error(Refused(Mistake("a=1", "is wrong", "a=2")))
    quiet.table(RESULTS)
    out, err = said(quiet)
    assert err == "normbench: error: a=1: is wrong\n  try: a=2\n"
    assert out.startswith(" test accuracy, %")


def test_json_is_one_document_alone_on_stdout():
    screen = Screen(json=True, stream=Stream(), out=Stream())
    screen.table(RESULTS)
    screen.lines(["x"])
    screen.document({"command": "train", "runs": [{"mean": float("nan"), "interval": (1, 2.5)}]})
    assert json.loads(said(screen)[0]) == {
        "schema": 1,
        "command": "train",
        "runs": [{"mean": None, "interval": [1, 2.5]}],
    }


def test_json_repeats_no_control_characters():
    screen = Screen(json=True, stream=Stream(), out=Stream())
    screen.document({"command": "\x1b[31m\u202eä"})
    assert said(screen)[0].isascii() and "\x1b" not in said(screen)[0]


def test_without_json_there_is_no_document(plain):
    plain.document({"command": "train"})
    assert said(plain) == ("", "")


def test_an_error_has_two_lines_and_no_trace(plain):
    plain.error(Refused(Mistake("norm=gm", "no norm has this name", "norm=gn")))
    assert said(plain) == (
        "",
        "normbench: error: norm=gm: no norm has this name\n  try: norm=gn\n",
    )


def test_verbose_puts_the_trace_above_the_error(plain):
    try:
        raise Refused(Mistake("a=1", "is wrong", "a=2"))
    except Refused as error:
        plain.error(error, verbose=True)
    lines = said(plain)[1].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == ["normbench: error: a=1: is wrong", "  try: a=2"]


def test_a_warning_has_the_form_of_an_error(plain):
    plain.warn("batch=2: statistics over 2 values\n  try: norm=gn")
    assert said(plain)[1] == (
        "normbench: warning: batch=2: statistics over 2 values\n  try: norm=gn\n"
    )


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", ":smile:", "[link=http://e]x[/link]"])
def test_text_is_never_markup(text):
    screen = on_terminal()
    screen.lines([text])
    screen.heading([text])
    screen.table(Table("", ("k", "v"), ((TableCell(text), TableCell("1")),), notes=(text,)))
    screen.error(Refused(Mistake(text, "is wrong", text)))
    out, err = (CODES.sub("", each) for each in said(screen))
    assert (out.count(text), err.count(text)) == (3, 3)


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b31m", "\u202e", "\r", "\x07"])
def test_control_characters_are_written_out(plain, text):
    plain.lines([f"a{text}b"])
    plain.heading([f"a{text}b"])
    plain.table(Table(text, ("k",), ((TableCell(text),),), notes=(text,)))
    with plain.sweep([text], [1]) as sweep:
        sweep.update(0, "failed", None, f"x{text}")
    assert all(text not in each for each in said(plain))


def test_elsewhere_a_run_has_one_line_per_validation(plain, clock):
    with plain.progress(500) as progress:
        progress.row(val(0, 0.098))
        clock.now = 6.0
        progress.row(train(300))
        progress.row(val(300))
        clock.now = 10.0
        progress.row(train(500, None))
        progress.row(val(500))
    assert said(plain)[1].splitlines() == [
        "epoch=0 examples=0 loss=2.250 val=9.8",
        "epoch=3 examples=600 loss=0.184 val=95.2 eta=4s",
        "epoch=5 examples=1000 val=95.2 eta=0s",
    ]


def test_time_left_counts_from_the_first_row_of_a_run_that_goes_on(plain, clock):
    with plain.progress(500) as progress:
        progress.row(train(400))
        clock.now = 1.0
        progress.row(train(410))
        progress.row(val(410))
    assert said(plain)[1].endswith("eta=9s\n")


def run_to(screen, clock, step, total=500):
    with screen.progress(total) as progress:
        progress.row(val(0, 0.098))
        clock.now = 10.0
        progress.row(train(step))
        progress.row(val(step))


def test_on_a_terminal_a_run_has_a_bar_in_one_line(clock):
    screen = on_terminal(color=False)
    run_to(screen, clock, 250)
    assert frame(screen) == [
        " epoch 3/5 ━━━━━━━╸         50%     50 ex/s  eta 0:00:10  loss 0.184  val 95.2"
    ]


def test_a_run_that_ends_before_its_time_fills_its_bar(clock):
    screen = on_terminal(color=False)
    with screen.progress(500) as progress:
        progress.row(val(0))
        clock.now = 10.0
        progress.row(train(250))
        progress.row(val(250))
        progress.row(Row("end", 250, 500, 2.5, {"state": "finished"}))
    assert " 100% " in frame(screen)[0]
    assert "in  0:00:10" in frame(screen)[0]


def pretrain(step, layer):
    return Row("pretrain", step, 64 * step, step / 10, {f"pretrain/{layer}/loss": 1 / step})


def test_elsewhere_each_pretrained_layer_has_a_line_once_it_is_done(plain, clock):
    with plain.progress(500) as progress:
        for row in (pretrain(2, "one"), pretrain(4, "one"), pretrain(3000, "two"), val(0, 0.1)):
            progress.row(row)
        clock.now = 10.0
        progress.row(train(250))
        progress.row(val(250))
    assert said(plain)[1].splitlines() == [
        "pretrain one examples=256 loss=0.25",
        "pretrain two examples=192000 loss=0.000333",
        "epoch=0 examples=0 loss=2.250 val=10.0",
        "epoch=2.5 examples=500 loss=0.184 val=95.2 eta=10s",
    ]


def test_quiet_says_nothing_of_pretrained_layers():
    quiet = Screen(quiet=True, stream=Stream(), out=Stream())
    with quiet.progress(10) as progress:
        progress.row(pretrain(2, "one"))
        progress.row(val(0))
    assert said(quiet) == ("", "")


def test_on_a_terminal_the_bar_waits_for_the_end_of_pretraining(clock):
    screen = on_terminal(color=False)
    with screen.progress(500) as progress:
        progress.row(pretrain(400, "layer1"))
        clock.now = 10.0
        progress.row(pretrain(450, "layer2"))
    assert frame(screen)[0].startswith(" pretrain layer2 ")
    assert "  0%  " in frame(screen)[0]


def test_in_a_sweep_steps_of_pretraining_are_none_of_the_run(clock):
    screen = on_terminal(color=False)
    with screen.sweep(["one"], [500]) as sweep:
        sweep.update(0, "running", pretrain(400, "layer1"))
    assert " 0%" in frame(screen)[1]


def test_a_wide_terminal_has_a_longer_bar(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    screen = on_terminal(color=False)
    run_to(screen, clock, 500)
    assert frame(screen) == [
        f" epoch 5/5 {'━' * 28} 100%    100 ex/s  in  0:00:10  loss 0.184  val 95.2"
    ]


@pytest.mark.parametrize("columns", [40, 50, 60, 70, 80, 100, 200])
@pytest.mark.parametrize("step", [0, 1, 250, 500])
def test_the_line_of_a_run_fits_the_terminal(clock, monkeypatch, columns, step):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = on_terminal()
    run_to(screen, clock, step)
    (line,) = frame(screen)
    assert len(line) <= columns
    assert f"{step // 5}%" in line and "val 95.2" in line


def test_bars_are_made_of_dashes_where_lines_cannot_be_encoded(clock):
    screen = Screen(stream=Stream(True, "ascii"), out=Stream(), color=False)
    run_to(screen, clock, 250)
    assert " epoch 3/5 -------          50% " in frame(screen)[0]


def test_what_an_encoding_lacks_is_written_out():
    screen = Screen(stream=Stream(), out=Stream(encoding="ascii"))
    screen.lines(["±ä"])
    assert said(screen)[0] == "\\xb1\\xe4\n"


def test_elsewhere_a_sweep_has_one_line_per_run_that_ended(plain, clock):
    with plain.sweep(["bn  batch 2", "bn  batch 32", "gn  batch 2", "none"], [500] * 4) as sweep:
        done = Row("test", 500, 1000, 5.0, {"test/accuracy": 0.97})
        sweep.update(1, "finished", done, "finished already")
        sweep.update(0, "running")
        sweep.update(0, "running", val(250))
        sweep.update(2, "running")
        clock.now = 52.0
        sweep.update(0, "running", Row("test", 500, 1000, 5.0, {"test/accuracy": 0.841}))
        sweep.update(0, "finished")
        sweep.update(2, "diverged")
        sweep.update(3, "failed", None, "ValueError: [red]bad\nmore")
    assert said(plain)[1].splitlines() == [
        "[2/4]  bn  batch 32  finished already  97.0",
        "[1/4]  bn  batch 2  done  0:00:52  84.1",
        "[3/4]  gn  batch 2  diverged  0:00:52",
        "[4/4]  none  failed  ValueError: [red]bad",
    ]


def swept(screen, clock):
    with screen.sweep(["bn  batch 2", "bn  batch 32", "gn  batch 2", "none"], [500] * 4) as sweep:
        done = Row("test", 500, 1000, 5.0, {"test/accuracy": 0.97})
        sweep.update(0, "running")
        sweep.update(2, "running")
        clock.now = 52.0
        sweep.update(1, "finished", done, "finished already")
        sweep.update(0, "running", Row("test", 500, 1000, 5.0, {"test/accuracy": 0.841}))
        sweep.update(0, "finished")
        sweep.update(2, "running", val(250))


def test_on_a_terminal_a_sweep_is_a_live_table(clock):
    screen = on_terminal(color=False)
    swept(screen, clock)
    assert frame(screen) == [
        "val, then test, %".rjust(
            len(f"[1/4] bn  batch 2   {'━' * 28} done          0:00:52   84.1")
        ),
        f"[1/4] bn  batch 2   {'━' * 28} done          0:00:52   84.1",
        f"[2/4] bn  batch 32  finished already{' ' * 34}   97.0",
        f"[3/4] gn  batch 2   {'━' * 14}{' ' * 14} 50%       eta 0:00:52   95.2",
        f"[4/4] none          {' ' * 28} waiting",
        "4 runs: 2 done, 1 running, 1 waiting   eta 0:00:52",
    ]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_lines_of_a_sweep_fit_the_terminal(clock, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = on_terminal()
    with screen.sweep(["a" * 30, "界" * 30], [500] * 2) as sweep:
        sweep.update(0, "failed", None, "x" * 500)
    for line in frame(screen):
        assert len(line) + line.count("界") <= columns


def test_a_tall_sweep_shows_what_runs_and_what_failed(clock, monkeypatch):
    monkeypatch.setenv("LINES", "10")
    screen = on_terminal(color=False)
    with screen.sweep([f"run{i}" for i in range(100)], [500] * 100) as sweep:
        for i in range(60):
            sweep.update(i, "running")
            sweep.update(i, "failed" if i == 5 else "finished")
        sweep.update(60, "running", train(250))
    _, *lines = frame(screen)
    assert len(lines) == 8
    assert lines[0].startswith("  [6/100] run5   ") and "failed" in lines[0]
    assert any("[61/100]" in line and "50%" in line for line in lines)
    assert lines[-1].startswith("100 runs: 59 done, 1 failed, 1 running, 39 waiting")


def test_times_of_a_sweep_go_on_when_it_is_refreshed(clock):
    screen = on_terminal(color=False)
    with screen.sweep(["bn"], [500]) as sweep:
        sweep.update(0, "running")
        clock.now = 10.0
        sweep.update(0, "running", train(100))
        assert "eta 0:00:40" in frame(screen)[1]
        clock.now = 20.0
        sweep.refresh()
        assert "eta 0:01:20" in frame(screen)[1]


def test_a_run_that_is_tried_again_starts_from_nothing(plain, clock):
    with plain.sweep(["bn"], [500]) as sweep:
        sweep.update(0, "running", train(400))
        sweep.update(0, "planned", None, "its process was killed")
        clock.now = 10.0
        sweep.update(0, "running")
        clock.now = 13.0
        sweep.update(0, "finished")
    assert said(plain)[1] == "[1/1]  bn  done  0:00:03\n"


def test_a_live_display_starts_no_thread(clock):
    before = threading.active_count()
    screen = on_terminal()
    with screen.sweep(["bn"], [500]) as sweep, screen.progress(5):
        sweep.update(0, "running")
        assert threading.active_count() == before


def test_the_cursor_comes_back_after_an_interrupt():
    screen = on_terminal()
    with pytest.raises(KeyboardInterrupt), screen.progress(5):
        raise KeyboardInterrupt
    assert said(screen)[1].rstrip().endswith("\x1b[?25h")


def test_elsewhere_a_table_is_whole_and_plain(plain, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    plain.table(RESULTS)
    assert said(plain)[0] == (
        " test accuracy, %   batch 2               batch 32\n"
        " bn                 84.1 [80.2, 88.0]     97.0\n"
        " gn                 95.8 [95.1, 96.5] *   96.6\n"
        " a note\n"
    )


def test_labels_of_several_keys_stand_below_one_title(plain):
    rows = tuple(
        tuple(map(TableCell, row)) for row in (("bn", "lr 0.1", "97"), ("none", "lr 1", "98"))
    )
    plain.table(Table("test accuracy, %", ("norm", "lr", "seed 0"), rows, labels=2))
    assert said(plain)[0] == (
        " test accuracy, %   seed 0\n"
        " bn    lr 0.1       97\n"
        " none  lr 1         98\n"
    )  # fmt: skip


def test_a_terminal_that_is_too_narrow_gets_one_value_per_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    screen = on_terminal(color=False)
    screen.table(RESULTS)
    assert said(screen)[0] == (
        " test accuracy, %\n"
        " batch 2   bn      84.1 [80.2, 88.0]\n"
        "           gn      95.8 [95.1, 96.5] *\n"
        " batch 32  bn      97.0\n"
        "           gn      96.6\n"
        " a note\n"
    )


def test_a_little_too_narrow_costs_blanks_only(monkeypatch):
    monkeypatch.setenv("COLUMNS", "48")
    screen = on_terminal(color=False)
    screen.table(RESULTS)
    assert said(screen)[0].splitlines()[0] == " test accuracy, %  batch 2              batch 32"


def test_the_text_of_a_last_column_is_wrapped_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    screen = on_terminal(color=False)
    rows = ((TableCell("bn"), TableCell("batch normalization, Ioffe & Szegedy 2015")),)
    screen.table(Table("", ("name", "description"), rows))
    assert said(screen)[0] == (
        " name  description\n"
        " bn    batch normalization, Ioffe &\n"
        "       Szegedy 2015\n"
    )  # fmt: skip


def test_the_widest_columns_of_text_give_way_first(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    screen = on_terminal(color=False)
    row = ("bn", "1,000,000", "word " * 12, "source " * 6)
    table = Table("", ("name", "n", "a", "b"), (tuple(map(TableCell, row)),), right=frozenset({1}))
    screen.table(table)
    lines = said(screen)[0].splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1] == " bn    1,000,000  word word word word  source source source"
    screen = on_terminal(color=False)
    row = ("mlp-bn-b2-93b0d3b1133f/seed0", "word " * 12)
    screen.table(Table("", ("run", "message"), (tuple(map(TableCell, row)),)))
    assert said(screen)[0].splitlines()[1].startswith(f" {row[0]}  word word ")  # a name is whole


def test_what_is_to_be_copied_is_in_one_piece(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    screen, path = on_terminal(color=False), "outputs/sweeps/norm-init-batch-603ef174/tensorboard"
    screen.command(f"tensorboard --logdir {path}")
    screen.heading([f"1 worker x 64 of a two-part name, all at {path}"])
    fix = f"normbench report {path}"
    screen.error(Refused(Mistake("norm=gm", "no norm has this name", f"{fix}    (all of it here)")))
    _, err = said(screen)
    assert err == (
        f"tensorboard --logdir {path}\n1 worker x 64 of a two-part name, all at\n  {path}\n"
        f"normbench: error: norm=gm: no norm has\n  this name\n  try: {fix}\n    (all of it here)\n"
    )


def test_a_list_that_is_too_wide_stands_below_its_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("a-set", "70,000", "3x32x32", "yes, in a folder"), ("bn", "1", "1x1", "no    now")]
    cells = tuple(tuple(map(TableCell, row)) for row in rows)
    screen = on_terminal(color=False)
    screen.table(Table("", ("name", "images", "shape", "here"), cells))
    assert said(screen)[0] == (
        " name   images  shape\n"
        " a-set  70,000  3x32x32\n"
        "    yes, in a folder\n"
        " bn     1       1x1\n"
        "    no    now\n"
    )  # fmt: skip
    monkeypatch.setenv("COLUMNS", "23")
    screen = on_terminal(color=False)
    factors = [TableCell(text) for text in ("   1.5", "1000.5")]  # set in columns by blanks
    numbers = tuple((*row[:2], factor) for row, factor in zip(cells, factors, strict=True))
    screen.table(Table("", ("name", "images", "factor"), numbers))
    assert said(screen)[0].splitlines()[1] == " a-set  70,000     1.5"
    monkeypatch.setenv("COLUMNS", "20")
    screen = on_terminal(color=False)
    screen.table(Table("", ("name", "images", "shape", "here"), cells[:1]))
    assert said(screen)[0] == (
        " a-set\n    images 70,000\n    shape 3x32x32\n    here yes, in a folder\n"
    ).replace("here yes, in a folder", "here yes, in a\n    folder")


LABELS = [
    "bn  batch 2   init xavier_normal   optimizer.lr 0.01",
    "bn  batch 32  init xavier_normal   optimizer.lr 0.03",
    "bn  batch 2   init xavier_uniform  optimizer.lr 0.03",
    "bn  batch 2   init xavier_normal   optimizer.lr 0.03",
]


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (120, LABELS),
        (80, ["bn  2   xavier_normal   0.01", "bn  32  xavier_normal   0.03"]),
        (66, ["bn  2   xavier_n…  0.01  ", "bn  2   xavier_u…  0.03  "]),
    ],
)
def test_labels_are_shortened_where_they_agree(columns, shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = on_terminal(color=False)
    with screen.sweep(LABELS, [10] * 4) as sweep:
        sweep.update(0, "running")
    assert all(any(name in line for line in frame(screen)) for name in shown), frame(screen)


def test_numbers_are_set_to_the_right(plain):
    rows = ((TableCell("conv"), TableCell("144")), (TableCell("fc"), TableCell("15,690")))
    plain.table(Table("", ("layer", "parameters"), rows, right=frozenset({1})))
    assert said(plain)[0] == (
        " layer   parameters\n"
        " conv           144\n"
        " fc          15,690\n"
    )  # fmt: skip


def test_wide_characters_keep_columns_below_each_other(plain):
    plain.table(
        Table(
            "", ("k", "v"), ((TableCell("界"), TableCell("1")), (TableCell("ab"), TableCell("2")))
        )
    )
    assert said(plain)[0] == " k    v\n 界   1\n ab   2\n"


@pytest.mark.parametrize(
    "terminal, variables, color, expected",
    [
        (True, {}, None, True),
        (True, {}, False, False),
        (True, {"NO_COLOR": "1"}, None, False),
        (True, {"NO_COLOR": ""}, None, True),
        (True, {"TERM": "dumb"}, None, False),
        (False, {}, None, False),
        (False, {"FORCE_COLOR": "1"}, None, True),
        (False, {"FORCE_COLOR": "0"}, None, False),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, None, False),
        (False, {"FORCE_COLOR": "1"}, False, False),
        (False, {}, True, True),
    ],
)
def test_colours_follow_terminal_and_surroundings(
    monkeypatch, terminal, variables, color, expected
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = Screen(color=color, stream=Stream(terminal), out=Stream(terminal))
    screen.table(Table("", ("k",), ((TableCell("x", "failed"),),)))
    assert ("\x1b[31mx" in said(screen)[0]) is expected


def test_a_dumb_terminal_gets_lines_instead_of_bars(monkeypatch, clock):
    monkeypatch.setenv("TERM", "dumb")
    screen = on_terminal()
    run_to(screen, clock, 500)
    assert said(screen)[1].splitlines()[-1] == ("epoch=5 examples=1000 loss=0.184 val=95.2 eta=0s")


def test_forced_colours_do_not_make_a_file_a_terminal(monkeypatch, clock):
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = Screen(stream=Stream(), out=Stream())
    run_to(screen, clock, 500)
    assert len(said(screen)[1].splitlines()) == 2


def test_the_bar_of_a_run_keeps_its_colours_apart(clock):
    screen = on_terminal()
    run_to(screen, clock, 250)
    assert re.search(
        r"\x1b\[36m━+\x1b\[0m\x1b\[36m╸\x1b\[0m\x1b\[2m━+\x1b\[0m  50%", said(screen)[1]
    )


def test_a_reader_who_leaves_is_no_error():
    code = (
        "from normbench.display.screen import Screen; import sys; screen = Screen()\n"
        "sys.stdin.read()\n"
        "for _ in range(3): screen.lines(['x'])\n"
        "screen.note('went on')"
    )
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"went on\n"
    assert process.returncode == 0


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.EBADF])
def test_output_that_nobody_can_read_is_dropped(number):
    screen = Screen(stream=Broken(number), out=Broken(number))
    screen.lines(["x", "y"])
    screen.heading(["x"])


def test_no_space_for_the_result_is_an_error_of_the_machine():
    screen = Screen(stream=Broken(errno.ENOSPC), out=Broken(errno.ENOSPC))
    screen.heading(["progress may be lost"])
    with pytest.raises(MachineError, match="output: cannot be written: No space left on device"):
        screen.lines(["a result may not"])


def test_closed_streams_are_no_error(monkeypatch):
    closed = Stream()
    closed.close()
    Screen(stream=closed, out=closed).lines(["x"])
    monkeypatch.setattr(sys, "stdout", None)
    Screen(stream=Stream()).lines(["x"])


def test_messages_of_others_stand_above_the_bar_of_a_run(monkeypatch, clock):
    stream = Stream(True)
    monkeypatch.setattr(sys, "stderr", stream)
    screen = Screen(out=Stream(), color=False)
    with screen.progress(500) as progress:
        progress.row(train(250))
        print("a warning of torch", file=sys.stderr)
        progress.row(val(250))
    assert sys.stderr is stream
    assert "\x1b[2Ka warning of torch\n epoch " in stream.getvalue()


def test_the_table_of_a_sweep_keeps_its_marks_on_the_screen(plain):
    values = {"bn": (0.84, 0.83, 0.85, 0.83, 0.85, 0.84)}
    values["gn"] = (0.958, 0.962, 0.954, 0.958, 0.962, 0.954)
    results = [
        groups.Result(f"{norm}/{seed}", {"norm": norm, "seed": seed}, "finished", {METRIC: x})
        for norm, each in values.items()
        for seed, x in enumerate(each)
    ]
    plain.table(compare.table(compare.layout(results, ["norm"])))
    assert said(plain)[0] == (
        " test accuracy, % by norm   6 seeds\n"
        " bn                         84.0 [83.1, 84.9]\n"
        " gn                         95.8 [95.4, 96.2] *\n"
        " * better than every other norm (paired by seed, Holm, 5 %)\n"
        " pairing by seed: r = -0.25 between best and next, as good as 0.8 times the seeds\n"
        " between best and next, differences below 1.5 points are not resolvable with 6 seeds "
        "(80 % power); 0.75 would take 18\n"
        " mean and 95 % interval (Student t) of 6 seeds, given that a run trains; "
        "0 of 6 failures means at most 39 %\n"
        " seeds do not vary the test images, the split or the training images\n"
    )
