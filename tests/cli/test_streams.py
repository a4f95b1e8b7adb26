"""Standard streams in any state, a folder that is gone, Ctrl-C: the work is done, no trace."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import LIMIT_S, started, until

TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu")
RUN = ("train", *TINY, "steps=5")
SWEEP = ("train", "-m", *TINY, "norm=bn,gn", "steps=5")
CLOSED = "closed"  # a word for what the shell writes as >&-
STREAMS = [
    (CLOSED, CLOSED),
    ("/dev/full", None),
    (None, "/dev/full"),
    pytest.param(CLOSED, None, marks=pytest.mark.slow),
    pytest.param(None, CLOSED, marks=pytest.mark.slow),
    pytest.param("/dev/full", "/dev/full", marks=pytest.mark.slow),
    pytest.param(CLOSED, "/dev/full", marks=pytest.mark.slow),
]


def shell(
    place: Path, words: tuple[str, ...], out: str | None, err: str | None, more: str = ""
) -> tuple[int, str]:
    """Run a command with such streams: exit code, and what those say that are neither."""
    given = {"1": out, "2": err}
    redirected = [
        f"{number}>&-" if where == CLOSED else f"{number}>{where}"
        for number, where in given.items()
        if where
    ]
    line = shlex.join([sys.executable, "-m", "normbench", *words])
    done = subprocess.run(
        ["bash", "-c", f"{line} <&- {' '.join(redirected)} {more}"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout + done.stderr


def ended(place: Path) -> list[str]:
    found = sorted(place.glob("outputs/runs/*/*/status.json"))
    return [json.loads(path.read_text())["state"] for path in found]


@pytest.mark.parametrize(("out", "err"), STREAMS)
def test_a_run_is_trained_whatever_becomes_of_its_output(
    tmp_path: Path, out: str | None, err: str | None
) -> None:
    code, said = shell(tmp_path, RUN, out, err)
    assert code == 0 and "Traceback" not in said
    assert ended(tmp_path) == ["finished"]
    # What the libraries below print by number 1 or 2 must not land among the rows.
    (rows,) = tmp_path.glob("outputs/runs/*/*/metrics.jsonl")
    assert all(json.loads(line) for line in rows.read_text().splitlines())
    if out == "/dev/full" and err is None:
        assert "normbench: warning: output: cannot be written: No space left on device" in said


@pytest.mark.parametrize(
    ("out", "err"), [(CLOSED, CLOSED), pytest.param("/dev/full", None, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("words", [SWEEP, (*RUN, "gpus=2", "batch=16")], ids=["sweep", "workers"])
def test_sweeps_and_workers_do_without_streams(
    tmp_path: Path, words: tuple[str, ...], out: str | None, err: str | None
) -> None:
    code, said = shell(tmp_path, words, out, err)
    assert code == 0 and "Traceback" not in said
    assert set(ended(tmp_path)) == {"finished"}


@pytest.mark.parametrize(
    "words", [("--help",), ("train", "--help"), ("--version",), ("list", "norms")]
)
def test_a_command_that_only_prints_says_that_it_could_not(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    code, said = shell(tmp_path, words, "/dev/full", None)
    assert code == 4
    assert said.splitlines() == [
        "normbench: error: output: cannot be written: No space left on device",
        "  try: a place with space for it",
    ]
    assert shell(tmp_path, words, CLOSED, None) == (0, "")
    code, said = shell(tmp_path, words, None, None, "| head -1; exit ${PIPESTATUS[0]}")
    assert code == 0 and len(said.splitlines()) == 1


@pytest.mark.parametrize("err", [CLOSED, "/dev/full"])
def test_a_mistake_has_its_exit_code_if_nobody_can_read_of_it(tmp_path: Path, err: str) -> None:
    assert shell(tmp_path, ("train", "norm=gm"), None, err) == (2, "")


def test_a_working_directory_that_was_removed_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"rmdir {shlex.quote(str(gone))}; exec {shlex.quote(sys.executable)} -m normbench "
    for words, code in (
        ("train model=mlp", 3),
        ("summary", 3),
        ("train --help", 0),
        ("list norms", 0),
    ):
        gone.mkdir(exist_ok=True)
        done = subprocess.run(
            ["bash", "-c", line + words],
            cwd=gone,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == code, (words, done.stderr)
        assert "Traceback" not in done.stderr
        if code:
            head, fix = done.stderr.splitlines()
            assert head.endswith("the working directory does not exist any more")
            assert fix.startswith("  try: cd")


def interrupted(place: Path, words: tuple[str, ...], said: str) -> tuple[int, str, str]:
    """Press Ctrl-C once the command has said something."""
    out, err = place / "out", place / "err"
    process = started(*words, cwd=place, streams=[out, err], session=True)
    until(lambda: process.poll() is not None or (err.exists() and said in err.read_text()))
    assert process.poll() is None, err.read_text()
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(), out.read_text(), err.read_text()


def test_ctrl_c_prints_the_table_so_far_and_how_to_go_on(tmp_path: Path) -> None:
    # The first run is short; the second goes on for longer than any test waits.
    words = ("train", "-m", *TINY, "steps=5,100000000", "norm=bn", "jobs=2", "eval_every=100")
    code, out, err = interrupted(tmp_path, words, " done ")
    assert code == 130 and "Traceback" not in err, err
    assert "1 of 2 runs done" in err
    said, command = err.splitlines()[-2:]
    assert said.startswith("stopped: ") and said.endswith("the same command goes on:")
    assert shlex.split(command) == ["normbench", *words]
    assert "interrupted" in out or "planned" in out
    (about,) = tmp_path.glob("outputs/sweeps/*/sweep.json")
    assert json.loads(about.read_text())["state"] == "stopped"


def test_ctrl_c_in_a_run_says_at_which_step_it_was_kept(tmp_path: Path) -> None:
    words = ("train", *TINY, "steps=100000000", "eval_every=1", "log_every=10")
    code, out, err = interrupted(tmp_path, words, "epoch=1 ")
    assert code == 130 and not out and "Traceback" not in err
    (path,) = tmp_path.glob("outputs/runs/*/*/status.json")
    step = json.loads(path.read_text())["step"]
    assert f"stopped: at step {step} of 100000000, which is kept; the same command goes on:" in err


@pytest.mark.parametrize(
    "columns",
    ["", "60", *(pytest.param(each, marks=pytest.mark.slow) for each in ("0", "1", "x", "-5"))],
)
def test_a_terminal_of_any_width_shows_the_result(tmp_path: Path, columns: str) -> None:
    """The pty says that it has 0 columns; `COLUMNS` may say otherwise."""
    process, master = os.forkpty()
    if process == 0:
        os.chdir(tmp_path)
        os.environ["COLUMNS"] = columns
        os.execv(sys.executable, [sys.executable, "-m", "normbench", *RUN])
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # EIO: the program has ended
        pass
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "test accuracy" in text and "tensorboard --logdir outputs/runs" in text
    assert "loading torch …" in text
    lines = re.split(r"[\r\n]+", text)
    (path,) = (line for line in lines if line.startswith("outputs/runs/"))
    assert path.endswith("/seed0")  # whole, to be copied, where it is longer than the terminal
    rest = [line for line in lines if line != path]
    assert max(map(len, rest)) <= (60 if columns == "60" else 80), rest
