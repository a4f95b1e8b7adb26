"""File systems without locks, fsync of folders or mapped files: runs work, with a warning."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from normbench.data.imagefolder import ImageFolder
from normbench.errors import NormbenchError
from normbench.runtime import lacking, storage
from normbench.runtime.lock import Lock


@pytest.fixture(autouse=True)
def _said_nothing() -> None:
    lacking.warn.cache_clear()


def failing(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_a_run_goes_on_with_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    for _ in range(2):
        with Lock(tmp_path):
            pass
    assert capsys.readouterr().err == (
        "normbench: warning: no locks on this file system: let one command at a time train here\n"
    )


def test_another_fault_of_a_lock_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(NormbenchError), Lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_without_fsync_of_folders_a_file_is_written_with_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sync = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.write_atomic(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"
    assert capsys.readouterr().err.startswith("normbench: warning: no fsync of folders here")


def test_without_mapped_files_pictures_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for name in "ab":
        for number in range(6):
            path = tmp_path / f"set/train/{name}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    data = ImageFolder(path=str(tmp_path / "set"), root=str(tmp_path / "data"))
    usual = data.load().train.images
    monkeypatch.setattr(np, "memmap", failing(errno.ENODEV))
    assert (data.load().train.images == usual).all()
