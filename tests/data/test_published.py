"""What is said and done when downloaded files are missing, damaged, hostile, or cannot be had.

Rows 30 to 33 of the fault table, for the sets that are downloaded.
"""

import gzip
import hashlib
import io
import os
import pickle
import runpy
import socket
import sys
import tarfile
import threading
import tracemalloc
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from normbench.data import _remote
from normbench.data._archive import records
from normbench.data._known import Known, Store
from normbench.data._remote import Remote
from normbench.data.cifar10 import CIFAR10
from normbench.data.fashion_mnist import FashionMNIST
from normbench.errors import FileRefused, InUse, MachineError, NormbenchError
from normbench.parts import registry
from normbench.runtime.lock import Lock

MIB = 1 << 20
ORACLES = Path(__file__).parents[1] / "oracles/data"
PUBLISHED = [name for name in registry.names("data") if registry.find("data", name)().downloads()]


def refusal(error, action):
    """The message and exit code of what an action raises."""
    with pytest.raises(error) as caught:
        action()
    assert str(caught.value).count("\n") == 1
    return str(caught.value), caught.value.code


def small(name, folder):
    """A part of which `folder` holds a small version: its class, ready to be made, and its root."""
    oracle = runpy.run_path(str(ORACLES / f"{name}.py"))
    options = oracle["prepare"](folder)
    kind = registry.find("data", name)
    kind = type(kind.__name__, (kind,), oracle["constants"](folder))
    return partial(kind, **options), Path(options["root"])


@pytest.fixture(params=PUBLISHED)
def part(request, tmp_path):
    """Each published set, small, with all its files here."""
    return small(request.param, tmp_path)[0]


@pytest.fixture
def cifar(tmp_path):
    """The small CIFAR-10, and its archive."""
    make, root = small("cifar10", tmp_path)
    return make, root / "cifar10/cifar-10-binary.tar.gz"


# files that are here, or not


def test_a_set_that_is_not_here_is_known_all_the_same(tmp_path):
    about = CIFAR10(root=str(tmp_path)).about()
    assert not about.here
    assert (about.shape, about.classes, about.sizes) == ((3, 32, 32), 10, (45_000, 5_000, 10_000))
    assert about.fix == f"normbench data download cifar10 --root {tmp_path}"


def test_a_set_that_is_not_here_is_refused_with_the_command_that_gets_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NORMBENCH_DATA", raising=False)
    message, code = refusal(FileRefused, CIFAR10().load)
    assert message == (
        "normbench: error: cifar10: is not here: "
        "there is no cifar-10-binary.tar.gz in data/cifar10\n"
        "  try: normbench data download cifar10"
    )
    assert code == 3
    assert not any(tmp_path.iterdir())


def test_one_of_several_files_that_is_missing_is_named(tmp_path):
    make, root = small("fashion_mnist", tmp_path)
    (root / "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    message, _ = refusal(FileRefused, make().require)
    assert "fashion_mnist: is not here: there is no t10k-labels-idx1-ubyte.gz in " in message


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_cut_file_is_found_before_loading(part, share):
    path = part().downloads()[0].path
    size = path.stat().st_size
    os.truncate(path, int(share * size))
    message, code = refusal(FileRefused, part().require)
    assert f"{path.name}: has {int(share * size):,} bytes instead of {size:,} in " in message
    assert not part().about().here
    assert code == 3


@pytest.mark.parametrize("place", [0, 3, 1000, -1])
def test_a_flipped_bit_is_found_when_the_file_is_read(part, place):
    path = part().downloads()[0].path
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    message, code = refusal(FileRefused, part().load)
    assert f"{path.name}: has SHA-256 " in message and ": it is damaged\n" in message
    assert code == 3


def test_test_files_under_the_names_of_train_files_are_found(tmp_path):
    make, root = small("fashion_mnist", tmp_path)
    raw = root / "FashionMNIST/raw"
    for kind in ("images-idx3", "labels-idx1"):
        (raw / f"t10k-{kind}-ubyte.gz").replace(raw / f"train-{kind}-ubyte.gz")
    refusal(FileRefused, make().load)


def test_a_file_is_read_through_a_link_since_its_bytes_are_checked(cifar, tmp_path):
    make, archive = cifar
    archive.rename(tmp_path / "elsewhere.tar.gz")
    archive.symlink_to(tmp_path / "elsewhere.tar.gz")
    assert len(make().load().train) == 54


def test_a_link_to_nothing_is_a_missing_file(cifar):
    make, archive = cifar
    archive.unlink()
    archive.symlink_to("nothing")
    message, _ = refusal(FileRefused, make().load)
    assert "cifar10: is not here" in message


# hostile archives whose digests are called right


def crafted(folder, members, packed=None):
    """An archive of (name, content or TarInfo) that its digest calls right, and where it lies."""
    data = packed or archived(members)
    (folder / "crafted.tar.gz").write_bytes(data)
    known = Known("crafted.tar.gz", len(data), hashlib.sha256(data).hexdigest())
    return Store(folder, "get it again"), known


def archived(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return stream.getvalue()


def taken(store, archive, counts=None):
    return records(store, archive, counts or {"in/a": 2}, 3)


def test_records_are_taken_by_the_names_of_their_members(tmp_path):
    held = [("in/b", b"ghi"), ("in/read.me", b"?"), ("in/a", b"abcdef")]
    found = taken(*crafted(tmp_path, held), {"in/a": 2, "in/b": 1})
    assert [bytes(row) for row in found] == [b"abc", b"def", b"ghi"]


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/normbench-escaped", "in/../../escaped"])
def test_a_member_that_would_lead_elsewhere_is_passed_over(tmp_path, name):
    inner = tmp_path / "one/two"
    inner.mkdir(parents=True)
    found = taken(*crafted(inner, [(name, b"outside"), ("in/a", b"abcdef")]))
    assert found.shape == (2, 3)
    assert [path.name for path in tmp_path.rglob("*")] == ["one", "two", "crafted.tar.gz"]
    assert not Path("/tmp/normbench-escaped").exists()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("in/b", b"abcdef")], "has no member in/a, in "),
        ([("./in/a", b"abcdef")], "has no member in/a, in "),
        ([("in/a", b"abcde")], "has a member in/a of 5 bytes instead of 6, in "),
        ([("in/a", bytes(7))], "has a member in/a of 7 bytes instead of 6, in "),
        (
            [("in/a", (tarfile.SYMTYPE, "/etc/passwd"))],
            "has a member in/a that is not a plain file",
        ),
        ([("in/a", (tarfile.LNKTYPE, "in/b"))], "has a member in/a that is not a plain file"),
        ([("in/a", (tarfile.CHRTYPE, ""))], "has a member in/a that is not a plain file"),
        ([("in/a", (tarfile.DIRTYPE, ""))], "has a member in/a that is not a plain file"),
    ],
)
def test_an_archive_that_holds_something_else_is_refused(tmp_path, members, said):
    store, archive = crafted(tmp_path, members)
    message, code = refusal(FileRefused, lambda: taken(store, archive))
    assert f"crafted.tar.gz: {said}" in message
    assert code == 3


def test_a_member_that_claims_to_be_huge_is_refused(tmp_path):
    info = tarfile.TarInfo("in/a")
    info.size = 2**40
    packed = gzip.compress(info.tobuf() + bytes(1024))
    store, archive = crafted(tmp_path, [], packed)
    message, _ = refusal(FileRefused, lambda: taken(store, archive))
    assert "has a member in/a of 1,099,511,627,776 bytes instead of 6" in message


def bomb_of_zeros():
    return gzip.compress(tarfile.TarInfo("in/z").tobuf()[:124] + bytes(64 * MIB))


def bomb_of_a_member():
    info = tarfile.TarInfo("in/z")
    info.size = 64 * MIB
    return gzip.compress(info.tobuf() + bytes(64 * MIB + 1024))


def bomb_of_a_header():
    info = tarfile.TarInfo("in/z")
    info.size, info.type = 64 * MIB, tarfile.XHDTYPE
    return gzip.compress(info.tobuf() + bytes(64 * MIB + 1024))


@pytest.mark.parametrize("bomb", [bomb_of_zeros, bomb_of_a_member, bomb_of_a_header])
def test_an_archive_that_expands_without_end_takes_no_memory(tmp_path, bomb):
    store, archive = crafted(tmp_path, [], bomb())
    tracemalloc.start()
    refusal(FileRefused, lambda: taken(store, archive))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB


@pytest.mark.parametrize(
    "packed",
    [
        b"no archive at all",
        gzip.compress(b"no archive inside", mtime=0),
        archived([("in/a", b"abcdef")])[:-30],
        archived([("in/a", b"abcdef")])[:40],
        gzip.compress(b"in/a".ljust(512, b"\xff"), mtime=0),
    ],
    ids=["nothing", "no archive", "cut at its end", "cut at its start", "no header"],
)
def test_what_is_no_whole_archive_is_refused(tmp_path, packed):
    store, archive = crafted(tmp_path, [], packed)
    message, code = refusal(FileRefused, lambda: taken(store, archive))
    assert "crafted.tar.gz: is not a complete .tar.gz" in message or "has no member" in message
    assert code == 3


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_in_an_archive_is_never_opened(cifar, tmp_path):
    make, archive = cifar
    planted = pickle.dumps(Planted(tmp_path / "planted"))
    held = [("cifar-10-batches-py/data_batch_1", planted)]
    data = archived([*held, ("cifar-10-batches-bin/data_batch_1.bin", planted)])
    archive.write_bytes(data)
    make.func.files = (Known(archive.name, len(data), hashlib.sha256(data).hexdigest()),)
    message, _ = refusal(FileRefused, make().load)
    assert "has a member cifar-10-batches-bin/data_batch_1.bin of " in message
    assert not (tmp_path / "planted").exists()


def test_no_file_of_a_set_is_unpickled():
    folder = Path(_remote.__file__).parent
    assert not [path.name for path in folder.glob("*.py") if "import pickle" in path.read_text()]


def test_a_label_beyond_the_classes_is_refused(cifar):
    make, archive = cifar
    make.func.classes = 9
    message, _ = refusal(FileRefused, make().load)
    assert "cifar-10-binary.tar.gz: has labels above 8\n" in message


# the decoded copy


def same(one, other):
    return all(
        torch.equal(getattr(one, part).images, getattr(other, part).images)
        and torch.equal(getattr(one, part).labels, getattr(other, part).labels)
        for part in ("train", "val", "test")
    )


def test_files_are_decoded_once(part, monkeypatch):
    first = part().load()

    def read(self, store):
        raise AssertionError("decoded again")

    monkeypatch.setattr(part.func, "read", read)
    assert same(part().load(), first)


def test_a_copy_of_other_files_is_made_again(cifar, tmp_path):
    make, archive = cifar
    before = make().load()
    other = archive.read_bytes() + b"\0"  # what follows a gzip file is of no meaning
    archive.write_bytes(other)
    make.func.files = (Known(archive.name, len(other), hashlib.sha256(other).hexdigest()),)
    (tmp_path / "root/cache/cifar10/images.json").write_text("{}")
    assert same(make().load(), before)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "images.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_copy_is_made_again(cifar, tmp_path, name, how):
    make, _ = cifar
    first = make().load()
    path = tmp_path / "root/cache/cifar10" / name
    data = path.read_bytes()
    path.unlink()
    if how == "flip":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    assert same(make().load(), first)
    assert path.read_bytes() == data


def test_a_damaged_copy_does_not_pass_verification(cifar, tmp_path):
    make, _ = cifar
    make().load()
    path = tmp_path / "root/cache/cifar10/labels.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    message, code = refusal(FileRefused, lambda: list(make().verify()))
    assert "error: cifar10/labels.npy: is not what was decoded\n  try: rm -r " in message
    assert code == 3


def test_verification_reads_the_files_again_and_leaves_them_alone(part):
    part().load()
    before = {path: path.read_bytes() for path in Path(part().root).rglob("*") if path.is_file()}
    found = list(part().verify())
    names = {Path(each.name).name for each in found}
    assert names == {each.name for each in part().files} | {"images.npy", "labels.npy"}
    assert {path: path.read_bytes() for path in before} == before
    data = part().downloads()[0].path.read_bytes()
    assert (found[0].size, found[0].sha256) == (len(data), hashlib.sha256(data).hexdigest())


# downloads


class Server(ThreadingHTTPServer):
    """Gives `content` at every address, in a way that tests choose."""

    daemon_threads = True
    content, status, location, claims, stall = b"", 200, "", None, threading.Event()
    asked = 0

    def handle_error(self, request, address):
        """Say nothing: a client that goes away is what is tested."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked += 1
        self.send_response(server.status)
        if server.location:
            self.send_header("Location", server.location)
        length = len(server.content) if server.claims is None else server.claims
        if length >= 0:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(server.content)
        self.wfile.flush()
        if server.claims is not None and server.claims > len(server.content):
            server.stall.wait(5)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as found:
        found.stall = threading.Event()
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.stall.set()
        found.shutdown()
        thread.join()


CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def remote(server, tmp_path):
    """A file that the server gives."""
    server.content = CONTENT
    known = Known("set.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    return Remote(known, tmp_path / "root/set", f"http://127.0.0.1:{server.server_port}/set.gz")


def left(remote):
    """What lies in the folder of a file, but for the lock."""
    if not remote.folder.exists():
        return []
    return sorted(path.name for path in remote.folder.iterdir() if path.name != ".lock")


def test_a_file_is_downloaded_and_checked(remote):
    heard = []
    remote.fetch(heard.append)
    assert remote.path.read_bytes() == CONTENT
    assert remote.here
    assert left(remote) == ["set.gz"]
    assert heard == sorted(heard) and heard[-1] == len(CONTENT)


WRONG = {
    "other bytes": ({"content": bytes(len(CONTENT))}, "gives has SHA-256 "),
    "fewer bytes": ({"content": CONTENT[:-1]}, "gives has 255999 bytes instead of 256,000"),
    "more bytes": ({"content": CONTENT + b"x"}, "gives has 256001 bytes instead of 256,000"),
    "more than it says": ({"content": CONTENT + b"x", "claims": -1}, "has more than 256,000"),
    "a page": ({"content": b"<html>sorry</html>"}, "gives has 18 bytes instead of 256,000"),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_file_is_refused_and_not_kept(remote, server, case):
    changes, said = WRONG[case]
    for name, value in changes.items():
        setattr(server, name, value)
    message, code = refusal(FileRefused, remote.fetch)
    assert said.removeprefix("gives ") in message
    assert message.endswith("\n  try: the same command later    (nothing was kept)")
    assert code == 3
    assert left(remote) == []


def test_after_a_failure_the_next_attempt_starts_clean(remote, server):
    server.content = bytes(len(CONTENT))
    refusal(FileRefused, remote.fetch)
    server.content = CONTENT
    remote.fetch()
    assert remote.here


@pytest.mark.parametrize("sent", [0, 1000, 255_999])
def test_a_connection_that_stalls_or_breaks_leaves_nothing(remote, server, monkeypatch, sent):
    monkeypatch.setattr(_remote, "PATIENCE_S", 0.2)
    server.content, server.claims = CONTENT[:sent], len(CONTENT)
    message, code = refusal(MachineError, remote.fetch)
    assert f"cannot be had from {remote.url}: timed out\n" in message
    assert code == 4
    assert left(remote) == []


@pytest.mark.parametrize("sent", [0, 1000])
def test_a_connection_that_breaks_leaves_nothing(remote, server, sent):
    server.content, server.claims = CONTENT[:sent], len(CONTENT)
    server.stall.set()
    message, code = refusal(MachineError, remote.fetch)
    assert f": it broke off after {sent:,} of 256,000 bytes\n" in message
    assert code == 4
    assert left(remote) == []


@pytest.mark.parametrize(("status", "said"), [(404, "404 Not Found"), (503, "503 Service")])
def test_an_answer_that_is_an_error_is_said(remote, server, status, said):
    server.status = status
    message, code = refusal(MachineError, remote.fetch)
    assert f"cannot be had from {remote.url}: the answer is {said}" in message
    assert "\n  try: the same command with a network, or a copy of it in " in message
    assert code == 4
    assert not remote.folder.exists()


@pytest.mark.parametrize("proxy", ["http://me:secret@localhost:{port}", "localhost:{port}"])
def test_a_proxy_that_refuses_is_named(proxy, remote, monkeypatch):
    with socket.socket() as taken:  # a port on which nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("http_proxy", proxy.format(port=port))
        monkeypatch.setenv("no_proxy", "")
        message, code = refusal(MachineError, remote.fetch)
    assert f" by the proxy localhost:{port}: Connection refused" in message
    assert code == 4
    assert "secret" not in message


def test_no_network_is_said_and_nothing_is_created(tmp_path):
    known = Known("set.gz", 3, "")
    nobody = Remote(known, tmp_path / "root", "http://127.0.0.1:9/set.gz")
    message, code = refusal(MachineError, nobody.fetch)
    assert "set.gz: cannot be had from http://127.0.0.1:9/set.gz: Connection refused\n" in message
    assert code == 4
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", ["http://example.org/set.gz", "ftp://example.org/set.gz", "file:///etc/passwd"]
)
def test_only_https_and_this_machine_are_asked(tmp_path, url):
    message, code = refusal(MachineError, Remote(Known("set.gz", 3, ""), tmp_path, url).fetch)
    assert f"{url}: is neither https nor on this machine\n" in message
    assert code == 4


@pytest.mark.parametrize("place", ["http://example.org/x", "ftp://127.0.0.1/x", "file:///etc/x"])
def test_a_redirection_to_any_other_address_is_refused(remote, server, place):
    server.status, server.location = 302, place
    message, _ = refusal(NormbenchError, remote.fetch)
    assert "is neither https nor on this machine" in message or "cannot be had" in message
    assert left(remote) == []
    assert server.asked == 1


def test_a_link_in_place_of_the_file_is_refused(remote, tmp_path):
    remote.folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("keep")
    remote.path.symlink_to(tmp_path / "precious")
    message, code = refusal(FileRefused, remote.fetch)
    assert "is a symbolic link" in message
    assert code == 3
    assert (tmp_path / "precious").read_text() == "keep"


def test_a_damaged_file_is_replaced(remote):
    remote.fetch()
    remote.path.write_bytes(bytes(len(CONTENT)))
    assert not remote.here
    remote.fetch()
    assert remote.here


def test_what_a_killed_download_left_is_removed(remote):
    remote.folder.mkdir(parents=True)
    (remote.folder / "set.gz.tmp-1").write_bytes(bytes(100))
    remote.fetch()
    assert left(remote) == ["set.gz"]


def test_two_downloads_of_a_file_do_not_run_at_once(remote):
    remote.folder.mkdir(parents=True)
    with Lock(remote.folder):
        message, code = refusal(InUse, remote.fetch)
    assert "is in use by process" in message
    assert code == 3


def test_a_folder_that_cannot_be_written_ends_with_the_reason(remote):
    remote.folder.parent.parent.joinpath("root").write_text("in the way")
    message, code = refusal(MachineError, remote.fetch)
    assert "cannot be written: not a directory" in message
    assert code == 4


# what is known of the real files


def test_the_files_of_fashion_mnist_are_those_that_torchvision_knows():
    from torchvision import datasets

    theirs = datasets.FashionMNIST
    assert [file.name for file in FashionMNIST.files] == [name for name, _ in theirs.resources]
    assert list(FashionMNIST.names) == theirs.classes
    assert FashionMNIST.place == f"{theirs.__name__}/raw"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_comes_from_where_torchvision_has_it(name):
    from torchvision import datasets

    theirs = getattr(datasets, name.upper())
    (ours,) = registry.find("data", name)().downloads()
    assert ours.url == theirs.url.replace("-python.", "-binary.")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_address_is_one_that_may_be_asked(name):
    for remote in registry.find("data", name)().downloads():
        assert remote.url.startswith("https://")
        assert len(remote.file.sha256) == 64


def test_the_network_is_not_loaded_to_plan_a_run():
    code = "from normbench.parts import registry; registry.find('data', 'cifar10')().about()"
    done = os.spawnv(
        os.P_WAIT,
        sys.executable,
        [sys.executable, "-c", f"import sys; {code}; sys.exit('urllib.request' in sys.modules)"],
    )
    assert done == 0
