"""`normbench data`: what is listed, downloaded, verified and shown, and `download=true`."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from commands import LIMIT_S
from PIL import Image

from normbench.cli import data
from normbench.cli.main import main
from normbench.data.cifar10 import CIFAR10
from normbench.data.mnist import MNIST
from normbench.display import pictures
from normbench.display.screen import Screen

ORACLE = runpy.run_path(str(Path(__file__).parents[1] / "oracles/data/cifar10.py"))
ARCHIVE = "cifar10/cifar-10-binary.tar.gz"
ALL = "    (all sets: normbench data list)"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test begins in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NORMBENCH_DATA", raising=False)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path_factory, monkeypatch):
    """A small CIFAR-10 that a server on this machine gives; returns the folder it serves."""
    folder = tmp_path_factory.mktemp("served")
    ORACLE["prepare"](folder)
    for name, value in ORACLE["constants"](folder).items():
        monkeypatch.setattr(CIFAR10, name, value)
    place = folder / "root/cifar10"
    handler = partial(Quiet, directory=str(place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(CIFAR10, "address", f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield place
        server.shutdown()
        thread.join()


@pytest.fixture
def here(served, tmp_path):
    """The small CIFAR-10, downloaded already."""
    shutil.copytree(served, tmp_path / "data/cifar10")
    return tmp_path / "data" / ARCHIVE


@pytest.fixture
def pets(tmp_path):
    """A folder of images in two classes, without a test part."""
    for name, colour in (("cat", (200, 80, 40)), ("dog", (20, 60, 90))):
        for index in range(12):
            place = tmp_path / "my pets/train" / name
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (*colour[:2], colour[2] + index)).save(place / f"{index}.png")
    return tmp_path / "my pets"


def said(capsys, *words, code=0):
    """What a command writes on stdout, after a look at its exit code."""
    assert main(["data", *words]) == code
    return capsys.readouterr().out


def document(capsys, *words):
    found = json.loads(said(capsys, *words, "--json"))
    assert (found.pop("schema"), found.pop("command"), found.pop("what")) == (1, "data", words[0])
    return found


def refused(capsys, *words, code):
    """The message of a command that is refused, after a look at its exit code."""
    assert main(["data", *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


# list


def row(text, name):
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{name} ")]
    return line.split(maxsplit=5)


def test_the_list_says_what_is_here_and_how_to_get_the_rest(capsys):
    text = said(capsys, "list")
    assert row(text, "mnist")[1:] == [
        *("70,000", "1x28x28", "10", "55000/5000/10000"),
        "yes, part of the package",
    ]
    assert row(text, "cifar100")[1:] == [
        *("60,000", "3x32x32", "100", "45000/5000/10000"),
        "no    normbench data download cifar100",
    ]
    assert row(text, "synthetic")[5] == "yes, made when it is used"
    assert row(text, "imagefolder")[5].startswith("no    data.path=DIR with DIR/train/")


def test_the_list_says_where_a_downloaded_set_lies(here, capsys):
    assert row(said(capsys, "list"), "cifar10")[5] == "yes, in data/cifar10"


def test_the_list_looks_where_it_is_told_to(here, capsys):
    assert row(said(capsys, "list", "--root", "nowhere"), "cifar10")[5] == (
        "no    normbench data download cifar10 --root nowhere"
    )


def test_the_list_gives_a_folder_of_images_its_label_and_says_what_is_cut(pets, capsys):
    (pets / "more").mkdir()
    text = said(capsys, "list", "imagefolder", f"data.path='{pets}'")
    assert " my_pets: more/ is not used\n" in text
    assert "imagefolder (my_pets)   24       3x8x8   2         20/2/2   yes, in " in text
    assert " my_pets: val and test are cut from the training images\n" in text


def test_the_list_tells_the_file_and_the_fault(pets, here, capsys):
    (pets / "train/cat/notes.txt").write_text("mine")
    here.write_bytes(here.read_bytes()[:-1])
    asked = ("list", f"data.path='{pets}'")
    faults = {each["name"]: each["fault"] for each in document(capsys, *asked)["sets"]}
    assert "train/cat/notes.txt is not an image (.jpg" in faults["imagefolder"]
    assert faults["cifar10"].startswith(f"{here.name}: has ")
    assert "there is no cifar-100-binary.tar.gz in" in faults["cifar100"]
    assert faults["mnist"] is None
    text = said(capsys, *asked)
    assert faults["imagefolder"] in text and faults["cifar10"] in text
    assert faults["cifar100"] not in text


def test_an_option_in_the_list_is_taken_by_the_sets_that_have_it(pets, capsys):
    text = said(capsys, "list", f"data.path='{pets}'")
    assert "imagefolder (my_pets)" in text
    assert "55000/5000/10000" in text


def test_an_option_that_no_set_has_is_refused_by_the_list(capsys):
    message = refused(capsys, "list", "data.pth=x", code=2)
    assert message.startswith("normbench: error: data.pth=x: data=cifar10 has no such option\n")


def test_the_list_as_json(capsys):
    found = document(capsys, "list")
    keys = {
        *("name", "label", "images", "shape", "classes", "split"),
        "cut",
        "notes",
        "here",
        "where",
    }
    assert all(set(each) == {*keys, "fix", "fault"} for each in found["sets"])
    sets = {each["name"]: each for each in found["sets"]}
    assert sets["mnist"]["here"] is True and sets["mnist"]["fix"] is None
    assert sets["cifar10"]["here"] is False
    assert sets["cifar10"]["fix"] == "normbench data download cifar10"
    assert sets["imagefolder"]["images"] is None


# download


def test_a_set_is_downloaded_and_said_to_be_here(served, tmp_path, capsys):
    assert main(["data", "download", "cifar10"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "cifar10 is here: in data/cifar10\n"
    size = (served / "cifar-10-binary.tar.gz").stat().st_size
    assert shown.err == f"downloading cifar-10-binary.tar.gz, {size:,} bytes\n"
    assert (tmp_path / "data" / ARCHIVE).read_bytes() == (tmp_path / served).joinpath(
        "cifar-10-binary.tar.gz"
    ).read_bytes()


def test_a_set_that_is_here_is_not_downloaded_again(here, served, capsys):
    (served / here.name).unlink()
    assert said(capsys, "download", "cifar10") == "cifar10 is here already: in data/cifar10\n"


def test_a_set_is_downloaded_to_the_root_that_is_given(served, tmp_path, capsys):
    assert said(capsys, "download", "cifar10", "--root", "a (b)") == (
        "cifar10 is here: in a (b)/cifar10\n"
    )
    assert (tmp_path / "a (b)" / ARCHIVE).is_file()
    assert said(capsys, "download", "cifar10", "data.root='a (b)'").startswith(
        "cifar10 is here already"
    )


def test_a_damaged_file_is_downloaded_again(here, capsys):
    right = here.read_bytes()
    here.write_bytes(bytes(len(right)))
    assert said(capsys, "download", "cifar10") == "cifar10 is here: in data/cifar10\n"
    assert here.read_bytes() == right


def test_quiet_downloads_say_the_result_only(served, capsys):
    assert main(["data", "download", "cifar10", "-q"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "where"), [("mnist", "part of the package"), ("synthetic", "made when it is used")]
)
def test_a_set_that_needs_no_download_is_here_already(name, where, capsys):
    assert said(capsys, "download", name) == f"{name} is here already: {where}\n"


def test_a_folder_of_images_cannot_be_downloaded(capsys):
    message = refused(capsys, "download", "imagefolder", code=2)
    assert message.startswith("normbench: error: data.path=null: no folder is given\n  try: data.")


def test_a_file_that_the_server_lacks_is_said_and_leaves_nothing(served, tmp_path, capsys):
    (served / "cifar-10-binary.tar.gz").unlink()
    assert main(["data", "download", "cifar10", "-q"]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        f"normbench: error: cifar-10-binary.tar.gz: cannot be had from {CIFAR10.address}"
        "cifar-10-binary.tar.gz: the answer is 404 File not found\n"
        "  try: the same command with a network, or a copy of it in data/cifar10\n"
    )
    assert not any(tmp_path.iterdir())


def test_a_wrong_file_is_said_and_leaves_nothing(served, tmp_path, capsys):
    path = served / "cifar-10-binary.tar.gz"
    path.write_bytes(bytes(path.stat().st_size))
    message = refused(capsys, "download", "cifar10", "-q", code=3)
    assert "cifar-10-binary.tar.gz: what http://127.0.0.1:" in message
    assert " gives has SHA-256 " in message
    assert not [path for path in tmp_path.rglob("cifar-10*")]


def test_a_download_as_json(served, capsys):
    found = document(capsys, "download", "cifar10")
    assert found["downloaded"] == ["cifar-10-binary.tar.gz"]
    assert found["where"] == "in data/cifar10"
    url = f"{CIFAR10.address}cifar-10-binary.tar.gz"
    assert found["files"] == [{"file": f"data/{ARCHIVE}", "url": url}]
    assert document(capsys, "download", "cifar10")["downloaded"] == []


# verify


def test_mnist_is_verified_file_by_file(capsys):
    lines = said(capsys, "verify", "mnist").splitlines()
    assert lines[0].split() == ["mnist", "bytes", "SHA-256"]
    assert lines[1].split() == [
        *("train-images-idx3-ubyte.gz", "9,630,610", "71524e2cd1ad2968…"),
        "sound",
    ]
    assert len(lines) == 5


def test_a_damaged_file_is_named(here, capsys):
    data = bytearray(here.read_bytes())
    data[100] ^= 1
    here.write_bytes(data)
    message = refused(capsys, "verify", "cifar10", code=3)
    assert message.startswith("normbench: error: cifar-10-binary.tar.gz: has SHA-256 ")
    assert message.endswith("it is damaged\n  try: normbench data download cifar10\n")


@pytest.mark.parametrize("what", ["verify", "show"])
def test_a_set_that_is_not_here_is_refused(what, capsys):
    assert refused(capsys, what, "cifar10", code=3) == (
        "normbench: error: cifar10: is not here: "
        "there is no cifar-10-binary.tar.gz in data/cifar10\n"
        "  try: normbench data download cifar10\n"
    )


def test_files_and_the_decoded_copy_are_verified(here, capsys):
    assert len(said(capsys, "verify", "cifar10").splitlines()) == 2
    CIFAR10().load()
    text = said(capsys, "verify", "cifar10")
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        *("cifar-10-binary.tar.gz", "cifar10/images.npy", "cifar10/labels.npy"),
    ]


def test_a_set_without_files_is_verified_by_making_it(capsys):
    assert said(capsys, "verify", "synthetic") == "synthetic is sound: it is made when it is used\n"


def test_a_folder_of_images_is_verified_against_its_copy(pets, capsys):
    words = ["verify", "imagefolder", f"data.path='{pets}'"]
    assert said(capsys, *words).splitlines()[1].split()[:2] == ["24", "images"]
    again = said(capsys, *words).splitlines()
    assert again[1].split()[:2] == ["24", "images"]
    assert again[2].split()[0].endswith("/images.npy")


def test_an_image_that_changed_without_a_trace_is_named(pets, capsys, monkeypatch):
    words = ["imagefolder", f"data.path='{pets}'"]
    said(capsys, "verify", *words)
    from normbench.data import imagefolder

    folder = imagefolder.scan(pets)
    monkeypatch.setattr(imagefolder, "scan", lambda path: folder)  # as if no time had changed
    Image.new("RGB", (8, 8)).save(pets / "train/dog/7.png")
    message = refused(capsys, "verify", *words, code=3)
    assert "my pets: train/dog/7.png is not what was decoded\n" in message


def test_an_image_with_other_bytes_but_the_same_pixels_is_found(pets, capsys, monkeypatch):
    words = ["imagefolder", f"data.path='{pets}'"]
    said(capsys, "verify", *words)
    from normbench.data import imagefolder

    folder = imagefolder.scan(pets)
    monkeypatch.setattr(imagefolder, "scan", lambda path: folder)
    path = pets / "train/dog/7.png"
    path.write_bytes(path.read_bytes() + b"\0")
    message = refused(capsys, "verify", *words, code=3)
    assert "an image file is not the one that was decoded, though its pixels are\n" in message


def test_a_verification_as_json(capsys):
    found = document(capsys, "verify", "mnist")
    assert found["set"] == "mnist"
    assert len(found["files"]) == 4
    assert all(set(each) == {"file", "bytes", "sha256"} for each in found["files"])
    assert found["files"][3]["bytes"] == 4517


# show


def test_one_example_of_each_class_is_drawn_below_its_name(capsys):
    lines = said(capsys, "show", "mnist").splitlines()
    assert lines[0] == "mnist  1x28x28  10 classes  55000/5000/10000"
    assert lines[2].split() == ["0", "1", "2", "3"]
    assert lines[13].split() == ["4", "5", "6", "7"]
    assert max(map(len, lines)) <= 80
    assert "@" in "".join(lines[3:12])


def test_pictures_stand_abreast_as_far_as_the_terminal_is_wide():
    class Wide(io.StringIO):
        def isatty(self):
            return True

    for columns, abreast in ((17, 1), (58, 3), (200, 10)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            patch.setenv("TERM", "xterm")
            out = Wide()
            data.show("mnist", [], None, Screen(out=out, stream=io.StringIO(), color=False))
        assert out.getvalue().splitlines()[2].split() == list("0123456789")[:abreast]


def test_characters_go_from_blank_for_black_to_dense_for_white():
    ramp = np.linspace(0, 255, 10).astype("u1")
    image = np.tile(ramp.reshape(1, 10, 1), (2, 1, 1))
    assert pictures.characters(image, 10) == [" .:-=+*#%@"]


def test_an_image_without_contrast_is_blank():
    assert pictures.characters(np.full((4, 4, 3), 200, "u1"), 4) == ["    ", "    "]


def test_a_class_without_images_is_passed_over(capsys):
    lines = said(capsys, "show", "mnist", "data.train_size=3").splitlines()
    assert lines[2].split() == ["0", "1", "2"]
    assert len(lines) <= 13


def test_the_picture_has_a_row_of_ten_for_each_class(tmp_path, capsys):
    said(capsys, "show", "mnist", "-o", "digits.png")
    drawn = np.asarray(Image.open(tmp_path / "digits.png"))
    side = 2 * 28 + 2
    assert drawn.shape[0] == 10 * side
    loaded = MNIST().load().train
    margin = drawn.shape[1] - 10 * side
    for digit, column in ((0, 0), (7, 0), (3, 9)):
        index = (loaded.labels == digit).nonzero()[column].item()
        top, left = digit * side + 1, margin + column * side
        seen = drawn[top : top + 56 : 2, left : left + 56 : 2, 0]
        assert np.array_equal(seen, loaded.images[index, 0].numpy())


def test_the_picture_of_a_set_in_colour_is_in_colour(pets, tmp_path, capsys):
    said(capsys, "show", "imagefolder", f"data.path='{pets}'", "-o", "pets.PNG")
    drawn = np.asarray(Image.open(tmp_path / "pets.PNG"))
    assert (drawn == (20, 60, 95)).all(2).any()


def test_a_folder_of_images_is_shown_under_its_label(pets, capsys):
    text = said(capsys, "show", "imagefolder", f"data.path='{pets}'", "data.label=mine")
    assert text.startswith("mine  3x8x8  2 classes  20/2/2\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "x.jpg"], "-o x.jpg: is not the name of a PNG file\n  try: -o FILE.png\n"),
        (["-o", "no/x.png"], "-o no/x.png: there is no folder no\n  try: -o x.png\n"),
        (
            ["data.train_size=0"],
            "data.train_size=0: must be at least 1\n  try: data.train_size=1\n",
        ),
        (["batch=3"], "batch=3: is not an option of data\n  try: data.OPTION=VALUE\n"),
        (
            ["data.pth=x"],
            "data.pth=x: data=mnist has no such option\n"
            "  try: normbench list data mnist    (its options)\n",
        ),
        (["fashion"], "fashion: is one name too many\n  try: normbench data show mnist\n"),
    ],
)
def test_wrong_words_behind_a_set_are_refused(words, message, capsys, tmp_path):
    assert refused(capsys, "show", "mnist", *words, code=2) == f"normbench: error: {message}"
    assert not any(tmp_path.iterdir())


def test_an_example_of_each_class_as_json(here, capsys):
    found = document(capsys, "show", "cifar10")
    assert (found["set"], found["label"], found["shape"]) == ("cifar10", "cifar10", [3, 32, 32])
    assert sum(found["images"]["train"].values()) == 54
    assert found["images"]["test"]["frog"] == 2
    assert found["picture"] is None


# words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["download", "cifr10"],
            f"cifr10: no data set has this name\n  try: normbench data download cifar10{ALL}\n",
        ),
        (
            ["verify"],
            f"data verify: no data set is named\n  try: normbench data verify cifar10{ALL}\n",
        ),
        (
            ["list", "-o", "x.png"],
            "-o x.png: data list draws no picture\n  try: normbench data show NAME -o FILE.png\n",
        ),
        (
            ["download", "cifar10", "data.root=a", "--root", "b"],
            "data.root: is given twice\n"
            "  try: data.root=VALUE once, or data.root=A,B with -m for a sweep\n",
        ),
    ],
)
def test_wrong_words_are_refused(words, message, capsys, tmp_path):
    assert refused(capsys, *words, code=2) == f"normbench: error: {message}"
    assert not any(tmp_path.iterdir())


def test_no_verb_of_data_imports_torch_unless_it_reads_images():
    for words in (["list"], ["list", "imagefolder"], ["verify", "cifar10"], ["verify", "mnist"]):
        code = f"import sys; from normbench.cli.main import main; main({['data', *words]!r}); "
        code += "sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.returncode == 0, words


def test_a_download_on_a_terminal_is_followed_by_a_bar():
    class Wide(io.StringIO):
        def isatty(self):
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "90")
        patch.setenv("TERM", "xterm")
        err = Wide()
        with Screen(stream=err, color=False).transfer("set.gz", 4_000_000) as so_far:
            so_far(1_000_000)
            so_far(4_000_000)
    shown = err.getvalue()
    assert " set.gz " in shown
    assert "100% 4.0/4.0 MB " in shown
    assert "0:00:00" in shown


# before a training

TRAIN = """\
import runpy, sys
from pathlib import Path
from normbench.data.cifar10 import CIFAR10
from normbench.cli.main import main
oracle = runpy.run_path(sys.argv[1])
for name, value in oracle["constants"](Path(sys.argv[2])).items():
    setattr(CIFAR10, name, value)
CIFAR10.address = sys.argv[3]
sys.exit(main(["train", "data=cifar10", "model=mlp", "model.width=8", "batch=8", *sys.argv[4:]]))
"""


def train(served, *words):
    folder = served.parent.parent
    oracle = Path(__file__).parents[1] / "oracles/data/cifar10.py"
    command = [sys.executable, "-c", TRAIN, oracle, folder, CIFAR10.address, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)


def test_a_training_without_its_data_is_refused_and_creates_nothing(served, tmp_path):
    done = train(served, "steps=2")
    assert done.returncode == 3
    assert done.stderr.endswith(
        "there is no cifar-10-binary.tar.gz in data/cifar10\n"
        "  try: normbench data download cifar10\n"
    )
    assert not any(tmp_path.iterdir())


def test_a_training_may_download_its_data_first(served, tmp_path):
    done = train(served, "steps=2", "download=true")
    assert done.returncode == 0, done.stderr
    assert "downloading cifar-10-binary.tar.gz" in done.stderr
    assert (tmp_path / "data" / ARCHIVE).is_file()
    shutil.rmtree(tmp_path / "data")
    again = train(served, "steps=2")  # the finished run needs its data no more
    assert again.returncode == 0, again.stderr
    assert "finished already: outputs/runs/mlp-width8-bn-b8-" in again.stderr
    assert not (tmp_path / "data").exists()


def test_a_plan_downloads_nothing(served, tmp_path):
    done = train(served, "steps=2", "download=true", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "1 to train" in done.stdout
    assert not any(tmp_path.iterdir())


def test_a_mistake_is_found_before_anything_is_downloaded(served, tmp_path):
    done = train(served, "norm=in", "download=true")
    assert done.returncode == 2
    assert not any(tmp_path.iterdir())


def test_a_summary_needs_no_data(capsys):
    assert main(["summary", "data=cifar10", "model=mlp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]
