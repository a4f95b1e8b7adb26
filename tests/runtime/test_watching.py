"""What lasts is shown, and who is waited for is named; nobody waits for what is stopped."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import normbench, until
from PIL import Image

from normbench.data._cache import Cache
from normbench.data.imagefolder import ImageFolder
from normbench.display import progress
from normbench.display.screen import Screen
from normbench.errors import InUse
from normbench.runtime import lock, watching

HOLD = """\
import sys
from pathlib import Path
from normbench.runtime.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: dict[str, list[int]] = defaultdict(list)
        self.totals: dict[str, int] = {}

    def note(self, line: str) -> None:
        self.notes.append(line)

    @contextmanager
    def work(self, what: str, total: int) -> Iterator:
        self.totals[what] = total
        yield self.done[what].append


@pytest.fixture
def told() -> Iterator[Told]:
    token = watching.watcher.set(Told())
    yield watching.watcher.get()
    watching.watcher.reset(token)


@contextmanager
def held(folder: Path, stopped: bool = False) -> Iterator[subprocess.Popen]:
    """Let another process hold the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        if stopped:
            process.send_signal(signal.SIGSTOP)
            until(lambda: "T" in Path(f"/proc/{process.pid}/stat").read_text().split()[2])
        yield process
        process.kill()


def test_a_stopped_process_is_named_and_left(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "NOTICE_S", 0.0)
    monkeypatch.setattr(lock, "STOPPED_S", 0.5)
    with (
        held(tmp_path, stopped=True) as process,
        pytest.raises(InUse) as caught,
        Cache(tmp_path).lock(),
    ):
        pass
    name = f"process {process.pid}, which is stopped ({Path(sys.executable).name} -c "
    assert told.notes[0].startswith(f"waiting for {name}")
    assert f"is in use by {name}" in str(caught.value)
    assert f"try: kill -CONT {process.pid} " in str(caught.value)


def test_one_that_goes_on_is_waited_for(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "NOTICE_S", 0.0)
    monkeypatch.setattr(lock, "STOPPED_S", 0.0)
    with held(tmp_path) as process:
        monkeypatch.setattr("time.sleep", lambda _: process.kill())
        with Cache(tmp_path).lock():
            assert told.notes[0].startswith(f"waiting for process {process.pid} (")


@pytest.mark.slow
def test_a_sweep_leaves_the_run_of_a_stopped_process(tmp_path: Path) -> None:
    words = ("train", "-m", "norm=bn,gn", "model=mlp", "steps=2", "data.train_size=100")
    assert normbench(*words, cwd=tmp_path).returncode == 0
    (name,) = [path.name for path in tmp_path.glob("outputs/runs/mlp-bn-*")]
    folder = tmp_path / "others/runs" / name / "seed0"
    folder.mkdir(parents=True)
    with held(folder, stopped=True) as process:
        done = normbench(*words, "outputs=others", cwd=tmp_path)
    assert done.returncode == 1
    assert f"waiting  for process {process.pid}, which is stopped" in done.stderr
    assert f"failed  is in use by process {process.pid}" in done.stderr
    assert "gn  done" in done.stderr


def test_reading_decoding_and_checking_pictures_is_told(tmp_path: Path, told: Told) -> None:
    for number in range(12):
        path = tmp_path / f"pets/train/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(path)
    ImageFolder(path=str(tmp_path / "pets"), root=str(tmp_path / "data")).load()
    assert list(told.totals) == ["reading pets", "decoding pets", "checking images.npy"]
    assert told.done["reading pets"] == told.done["decoding pets"] == list(range(1, 13))
    assert told.done["checking images.npy"][-1] == told.totals["checking images.npy"]


class Teletype(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("patience", "stream", "quiet", "shown"),
    [
        (0.0, Teletype, False, True),
        (1e6, Teletype, False, False),
        (0.0, Teletype, True, False),
        (0.0, io.StringIO, False, False),
    ],
    ids=["lasts", "is done soon", "quiet", "no terminal"],
)
def test_work_that_lasts_has_a_bar_on_a_terminal(
    patience: float, stream: type, quiet: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE_S", patience)
    err = stream()
    with Screen(stream=err, color=False, quiet=quiet).work("decoding pets", 4) as so_far:
        for number in range(4):
            so_far(number + 1)
    assert (" decoding pets " in err.getvalue() and "100%" in err.getvalue()) is shown
    assert shown or not err.getvalue()
