"""Atomic writes, locks and checked reads, with the faults injected for real."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from normbench.errors import FileRefused, InUse, MachineError
from normbench.runtime import storage
from normbench.runtime.lock import Lock

HOLD = """
import sys
from pathlib import Path
from normbench.runtime.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def file_limit(size):
    """Let no file of this process grow beyond `size` bytes: the code path of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def holder(directory):
    """Another process that holds the lock of a directory."""
    command = [sys.executable, "-c", HOLD, str(directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "status.json"
    storage.write_atomic(path, "old")
    storage.write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["status.json"]


def test_files_and_folders_get_the_rights_of_the_page_less_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        storage.make_directory(tmp_path / "a/b")
        storage.write_atomic(tmp_path / "a/b/c", "")
    finally:
        os.umask(mask)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/c")]
    assert modes == [0o750, 0o750, 0o640]


def test_a_reader_never_sees_a_mix_of_two_writes(tmp_path):
    path = tmp_path / "status.json"
    contents = [b"[" + bytes([48 + k]) * 5000 + b"]" for k in range(10)]
    storage.write_atomic(path, contents[0])
    writer = threading.Thread(
        target=lambda: [storage.write_atomic(path, contents[k % 10]) for k in range(200)]
    )
    writer.start()
    while writer.is_alive():
        assert path.read_bytes() in contents
    writer.join()


def test_an_atomic_write_that_fails_keeps_the_old_file(tmp_path):
    path = tmp_path / "status.json"
    storage.write_atomic(path, "old")
    with file_limit(1000), pytest.raises(MachineError):
        storage.write_atomic(path, "x" * 5000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_failed_write_names_the_file_the_bytes_needed_and_the_bytes_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a short path is not cut in a message
    path = Path("status.json")
    text = r"status\.json: cannot be written: file too large \(5,000 bytes needed, [\d,]+ free\)"
    with file_limit(1000), pytest.raises(MachineError, match=text) as caught:
        storage.write_atomic(path, "x" * 5000)
    assert caught.value.code == 4


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT, errno.EIO])
def test_space_is_advised_only_where_it_lacks(number):
    told = str(storage.cannot_write(Path("x"), 10, OSError(number, os.strerror(number))))
    assert "bytes needed" not in told and "a folder in which you may write" in told
    full = str(storage.cannot_write(Path("x"), 10, OSError(errno.EDQUOT, "Quota exceeded")))
    assert "quota exceeded (10 bytes needed, " in full and "a folder with more space" in full


def test_a_write_into_a_folder_that_is_gone_makes_nothing(tmp_path):
    with pytest.raises(MachineError, match="no such file or directory"):
        storage.write_atomic(tmp_path / "gone/status.json", "x")
    assert os.listdir(tmp_path) == []


def test_a_symbolic_link_is_not_written_through(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(target)
    with pytest.raises(FileRefused, match="link: is a symbolic link"):
        storage.write_atomic(link, "x")
    with pytest.raises(FileRefused, match="link: is a symbolic link"):
        storage.Appended(link)
    assert target.read_text() == "mine"
    assert link.is_symlink()


def test_a_temporary_file_that_is_a_link_is_not_written_through(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / f"a.tmp-{os.getpid()}").symlink_to(target)
    with pytest.raises(FileRefused, match="is a symbolic link"):
        storage.write_atomic(tmp_path / "a", "x")
    assert target.read_text() == "mine"


def test_appended_bytes_can_be_read_at_once(tmp_path):
    file = storage.Appended(tmp_path / "a")
    file.write(b"one\n")
    assert (tmp_path / "a").read_bytes() == b"one\n"
    file.close()
    file.close()
    storage.Appended(tmp_path / "a").close()
    assert (tmp_path / "a").read_bytes() == b"one\n"


def test_an_append_that_does_not_fit_says_how_much_is_missing(tmp_path):
    file = storage.Appended(tmp_path / "a")
    with file_limit(1000), pytest.raises(MachineError, match=r"500 bytes needed"):
        file.write(b"x" * 1500)
    file.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_may_not_be_written_is_refused(tmp_path, mode):
    tmp_path.chmod(mode)
    try:
        with pytest.raises(MachineError, match="permission denied"):
            storage.make_directory(tmp_path / "a/b")
        with pytest.raises(MachineError, match="permission denied"):
            storage.write_atomic(tmp_path / "a", "x")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path):
    tmp_path.chmod(0o000)
    try:
        for path in (tmp_path, tmp_path / "run/seed0"):
            with pytest.raises(FileRefused, match="permission denied"):
                storage.names(path)
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_below_a_file_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MachineError, match="not a directory"):
        storage.make_directory(tmp_path / "file/a/b")
    assert os.listdir(tmp_path) == ["file"]


def test_a_second_process_is_refused_with_the_id_of_the_first(tmp_path):
    with (
        holder(tmp_path) as process,
        pytest.raises(InUse, match=f"is in use by process {process.pid}") as caught,
        Lock(tmp_path),
    ):
        pass
    assert caught.value.code == 3


def test_a_lock_ends_with_its_process_even_when_it_is_killed(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    with Lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_is_free_again_afterwards_and_its_file_stays(tmp_path):
    with Lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == [".lock"]
    with Lock(tmp_path):
        pass


def test_a_child_that_only_forked_does_not_need_to_end_for_a_new_lock(tmp_path):
    with Lock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with Lock(tmp_path):
            pass
    finally:
        child.communicate()


def test_a_lock_file_full_of_nonsense_is_not_repeated_in_the_message(tmp_path):
    with Lock(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\x1b[2J evil")
        with pytest.raises(InUse, match="in use by another process"), Lock(tmp_path):
            pass


def test_stale_temporary_files_are_removed_and_nothing_else(tmp_path):
    kept = ["metrics.jsonl", "notes.tmp", "notes.tmp-x"]
    for name in [*kept, "checkpoint.safetensors.tmp-1", "status.json.tmp-99999"]:
        (tmp_path / name).write_text("")
    storage.remove_stale(tmp_path)
    assert storage.names(tmp_path) == kept


def test_names_of_no_directory_are_none(tmp_path):
    (tmp_path / "file").write_text("")
    assert storage.names(tmp_path / "gone") == []
    assert storage.names(tmp_path / "file/below") == []


def test_a_link_as_directory_parent_or_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = Path("run/seed0")
    inside.mkdir(parents=True)
    Path("link").symlink_to("run")
    for path in (Path("link"), Path("link/seed0")):
        with pytest.raises(FileRefused, match="link: is a symbolic link"):
            storage.names(path)
    (inside / "config.yaml").symlink_to("/nowhere")
    with pytest.raises(FileRefused, match=r"config\.yaml: is a symbolic link"):
        storage.names(inside)


def test_a_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert storage.digest(b"abc") == storage.digest(tmp_path / "a") == expected


def test_a_file_of_a_gibibyte_is_refused_by_its_size(tmp_path):
    path = tmp_path / "status.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(FileRefused, match="has 1,073,741,824 bytes, more than the 1,000"):
        storage.read_json(path, 1000)


def test_a_pipe_in_the_place_of_a_file_does_not_make_us_wait(tmp_path):
    os.mkfifo(tmp_path / "status.json")
    with pytest.raises(FileRefused, match="is not a plain file"):
        storage.read_bytes(tmp_path / "status.json", 1000)


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileRefused, match=r"status\.json: is missing"):
        storage.read_json(Path("status.json"), 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ("[" * 100_000, "nested too deep"),
        ("9" * 10_000, "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path, text, message):
    path = tmp_path / "status.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileRefused, match=message):
        storage.read_json(path, 2**20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system [touch /tmp/normbench-was-here]", "an alias or a tag"),
        ("a: !!int '3'", "an alias or a tag"),
        ("a: &a [1]\nb: *a", "an alias or a tag"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]", "an alias or a tag"),
        ("[" * 10_000, "nested too deep"),
        ("[" * 11 + "]" * 11, "nested too deep"),
        ("a: " + "{a: " * 2_000, "nested too deep"),
        ("a: 1\n" * 100 + "[" * 5_000, "nested too deep"),  # too deep after much that is not
        ("- " * 2_000, "nested too deep"),
        ("\n".join(" " * k + "a:" for k in range(300)), "nested too deep"),
        ("a: [", "is not YAML"),
        ("a: '[[[[[[[[[[[['\nb: [", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("a: 2020-99-99", "is not YAML"),
        (b"\xff\xfe\xfd", "is not YAML"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_yaml_that_wants_more_than_to_be_read_is_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileRefused, match=message):
        storage.read_yaml(path, 2**16)


@pytest.mark.parametrize("text", ["[" * 10_000, "[" * 10_000 + "]" * 10_000, "{a: " * 5_000])
def test_the_depth_is_refused_in_the_same_words_without_libyaml(tmp_path, text, monkeypatch):
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    test_yaml_that_wants_more_than_to_be_read_is_refused(tmp_path, text, "nested too deep")


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("", 0),
        ("batch=2", 0),
        ("[[]][]", 2),
        ("a=[{b:(1)}]", 3),
        ("]]][", 0),
        ("data.path='((('", 0),
        (r"data.path='it\'s (((' x=[1]", 1),
        (r"data.path=a\(\(", 0),
        ('data.path="[[" [', 1),
        ("data.path='[[", 2),  # a quote that does not close is none
    ],
)
def test_nesting_counts_brackets_outside_quotes(text, depth):
    assert storage.nesting(text) == depth


def test_yaml_comes_back_as_it_was(tmp_path):
    tree = {"bias": "off", "a": {"b": [1, 2.5e-5, None, True, "null", "1e5", "Übung\x1b"]}}
    text = storage.write_yaml(tmp_path / "a.yaml", tree)
    assert storage.read_yaml(tmp_path / "a.yaml", 1000) == tree
    assert text.isascii()


def test_importing_the_files_of_a_run_costs_neither_torch_nor_tensorboard():
    code = "import sys, normbench.runs.directory; print([m for m in LATE if m in sys.modules])"
    late = "LATE = ('torch', 'tensorboard', 'numpy', 'yaml', 'google.protobuf'); "
    assert subprocess.check_output([sys.executable, "-c", late + code], text=True) == "[]\n"
