"""Row 51: what commands do to a machine, by an audit hook: nothing that a file could have asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import started

AUDITED = Path(__file__).parents[1] / "audited.py"
TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=8", "device=cpu")
SHORT = (*TINY, "steps=5", "eval_every=1")
# How ctypes finds a library; the CUDA bindings that torch imports ask it to.
LDCONFIG = ["/sbin/ldconfig", "['/sbin/ldconfig', '-p']"]
CHANGING = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")


def audited(place: Path, *words: str) -> tuple[int, list[list[str]]]:
    """Run a command; return its exit code and the events."""
    log = place / "events.log"
    log.unlink(missing_ok=True)
    return started(*words, cwd=place, audit=str(log), path=str(place)).wait(), read(log)


def read(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def offences(place: Path, events: list[list[str]], *allowed: str) -> Iterator[list[str]]:
    """The events that change anything outside of `outputs`, or start, load or call something."""
    roots = [(place / root).resolve() for root in ("outputs", *allowed)]
    for event, *args in events:
        if [event, *args][:2] == ["os.mkdir", "."]:
            continue  # Hydra makes the folder it is in, which is there
        if event in CHANGING:
            targets = args[: 2 if event == "os.rename" else 1]
            paths = [(place / path).resolve() for path in targets if not path.isdecimal()]
            if any(
                path != Path("/dev/null") and not any(path.is_relative_to(root) for root in roots)
                for path in paths
            ):
                yield [event, *args]
        elif event == "ctypes.dlopen":  # torch's own, by name or in its package
            if "/" in args[0] and not Path(args[0]).resolve().is_relative_to(sys.prefix):
                yield [event, *args]
        elif event != "subprocess.Popen" or args[:2] != LDCONFIG:
            yield [event, *args]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """A folder with a trap to import and a sweep, and the events of that sweep."""
    place = tmp_path_factory.mktemp("audit")
    (place / "trap.py").write_text("raise SystemExit('trapped')\n")
    log, words = place / "events.log", ("norm=bn,gn", "eval_stats=running,batch", "seeds=2")
    # In a process of its own, since what it imports is watched as well.
    done = subprocess.run(
        [sys.executable, str(AUDITED), str(log), "train", "-m", *SHORT, *words],
        cwd=place,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(place)},
        capture_output=True,
    )
    assert done.returncode == 0
    return place, read(log)


def test_a_sweep(swept: tuple[Path, list[list[str]]]) -> None:
    place, events = swept
    assert [event for event, *_ in events].count(
        "os.rename"
    ) >= 4 * 6  # the hook was heard in forks
    assert list(offences(place, events)) == []


@pytest.mark.parametrize(
    "words",
    [
        ("train", "-m", *SHORT, "norm=bn,gn", "shifts=[invert]", "seeds=3", "tune=lr"),
        ("eval", "outputs", "shifts=[noise+0.1]", "train_acc=true"),
        ("eval", "outputs", "eval_stats=dataset", "--json"),
        ("compare", "--by", "norm", "--metric", "val/accuracy"),
        ("train", *TINY, "steps=5", "init=autoencoder", "optimizer=adam"),
    ],
)
def test_other_commands(swept: tuple[Path, list[list[str]]], words: tuple[str, ...]) -> None:
    place, _ = swept
    code, events = audited(place, *words)
    assert code == 0
    assert list(offences(place, events)) == []


def test_a_run_that_goes_on(swept: tuple[Path, list[list[str]]]) -> None:
    place, _ = swept
    status = sorted(place.glob("outputs/runs/*-bn-*/seed0/status.json"))[0]
    status.write_text(status.read_text().replace('"finished"', '"running"', 1))
    code, events = audited(place, "train", *SHORT, "norm=bn")
    assert code == 0
    assert list(offences(place, events)) == []


def test_weights_are_exported_to_the_file_that_was_named(
    swept: tuple[Path, list[list[str]]],
) -> None:
    place, _ = swept
    run = sorted(place.glob("outputs/runs/*-gn-*/seed0"))[0]
    code, events = audited(place, "export", str(run), "-o", "mine/weights.safetensors")
    assert code == 4  # no such folder: none is made
    (place / "mine").mkdir()
    code, events = audited(place, "export", str(run), "-o", "mine/weights.safetensors")
    assert code == 0
    assert list(offences(place, events, "mine")) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.yaml", "  batch: 64", "  batch: {_target_: trap.run}"),
        ("config.yaml", "  batch: 64", "  batch: !!python/object/apply:trap.run []"),
        ("config.yaml", "name: gn", "name: trap"),
        ("config.yaml", "name: gn", "name: ..trap"),
        ("status.json", '"state_sha256": "', '"state_sha256": "trap.run'),
        ("weights.safetensors", None, b"\x80\x04\x8c\x04trap\x8c\x03run\x93."),
        ("weights.safetensors", None, b"PK\x03\x04trap.pkl"),
    ],
)
def test_what_a_file_names_is_not_imported(
    swept: tuple[Path, list[list[str]]], name: str, old: str | None, new: str | bytes
) -> None:
    place, _ = swept
    path = sorted(place.glob("outputs/runs/*-gn-*/seed1"))[0] / name
    before = path.read_bytes()
    changed = before.replace(old.encode(), str(new).encode(), 1) if old else new
    assert changed != before
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    try:
        code, events = audited(place, "eval", str(path.parent), "shifts=[contrast*0.9]")
    finally:
        path.write_bytes(before)
    assert code == 3
    assert list(offences(place, events)) == []
