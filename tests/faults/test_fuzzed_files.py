"""Files of any content are read as what they are or refused: never a crash, never half believed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import normbench
from normbench.data._idx import Packed
from normbench.data._idx import read as read_idx
from normbench.data._known import Store
from normbench.data.imagefolder import ImageFolder
from normbench.errors import FileRefused, NormbenchError
from normbench.runs import checkpoint, evaluations, reader
from normbench.runs.stored import stored
from normbench.settings.schema import evaluation_name
from normbench.sweeps import records, traces

MIB = 1 << 20
EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
each_count = pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
TINY = ("data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=4", "device=cpu")
EVALUATION = f"evaluation-{evaluation_name({'eval_stats': 'batch'})}.json"
READERS: dict[str, Callable[[Path], object]] = {
    "config.yaml": reader.read_config,
    "status.json": reader.read_status,
    "metrics.jsonl": reader.read_rows,
    "timing.jsonl": lambda folder: list(traces.times(folder)),
    "weights.safetensors": lambda folder: checkpoint.read(folder / "weights.safetensors"),
    EVALUATION: lambda folder: evaluations.all_of(folder, None),
    "sweep.json": records.sweep,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The content of each file as a run and a sweep write it."""
    outputs = tmp_path_factory.mktemp("whole")
    words = {"norm": "bn,gn", "eval_stats": "running,batch", "steps": 3, "tb": False}
    results = normbench.sweep(*TINY, **words, outputs=outputs)
    assert [result.state for result in results] == ["finished"] * 4
    run = Path(results[0].directory)
    made = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    (sweep,) = outputs.glob("sweeps/*/sweep.json")
    return {**made, "sweep.json": sweep.read_bytes()}


@contextmanager
def sparing() -> Iterator[None]:
    """Fail where Python takes more than 100 MiB meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 100 * MIB
    finally:
        tracemalloc.stop()


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with bytes changed, cut off, doubled, put in or moved; or of any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        start, stop = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        kind = draw(st.sampled_from(["flip", "cut", "double", "put"]))
        if kind == "flip" and start < len(data):
            data[start] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[start : draw(st.sampled_from([stop, min(stop, start + 4), len(data)]))]
        elif kind == "double":
            data[start:start] = data[start:stop]
        else:
            data[start:start] = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
    return bytes(data)


TOKENS = [
    *(b"null", b"{", b"[" * 200, b"]}", b'"', b"\x00", b"1e999", b"-1", b"NaN", b"9" * 400, b"\n"),
    *(b"!!python/object/apply:os.system [x]", b"&a [*a]", b"${oc.env:HOME}", b": ", b"\xff\xfe"),
]


def refused_or_read(read: Callable[[], object]) -> None:
    try:
        with sparing():
            read()
    except NormbenchError as error:
        assert isinstance(error, FileRefused), error
        assert str(error).count("\n") == 1
        assert str(error).isprintable() or str(error).replace("\n", "").isprintable()


@each_count
@pytest.mark.parametrize("name", READERS)
def test_files_of_runs_and_sweeps(name: str, count: int, whole: dict[str, bytes]) -> None:
    @settings(EXAMPLES, max_examples=count)
    @given(damaged(whole[name]))
    def check(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "outputs/sweeps/x")
            place.mkdir(parents=True)
            (place / name).write_bytes(content)
            refused_or_read(lambda: READERS[name](place))

    check()


def test_a_changed_configuration_is_the_same_or_refused(whole: dict[str, bytes]) -> None:
    """The folder is named by what makes the weights, so nothing else is believed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = reader.storage.read_yaml
        first = Path(folder, "first")
        first.mkdir()
        (first / "config.yaml").write_bytes(whole["config.yaml"])
        text = tree(first / "config.yaml", 10**6)
        made = normbench.config(*TINY, norm="bn", steps=3)
        place = Path(folder, "runs", made.name, "seed0")
        place.mkdir(parents=True)
        assert text["experiment"] == made.experiment()

        @EXAMPLES
        @given(damaged(whole["config.yaml"]))
        def check(content: bytes) -> None:
            (place / "config.yaml").write_bytes(content)
            with suppress(FileRefused):
                assert stored(place).experiment() == made.experiment()

        check()


@st.composite
def json_like(draw: st.DrawFn) -> Any:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    keys = st.sampled_from(["schema", "state", "kind", "step", "values", "cells", "run", "final"])
    return draw(
        st.recursive(
            leaves,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
            max_leaves=12,
        )
    )


@each_count
@pytest.mark.parametrize("name", [name for name in READERS if "json" in name])
def test_documents_of_another_form(name: str, count: int, whole: dict[str, bytes]) -> None:
    lined = name.endswith(".jsonl")
    usual = json.loads(whole[name].splitlines()[0] if lined else whole[name])

    @settings(EXAMPLES, max_examples=count)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        changed = {**usual, data.draw(st.sampled_from([*usual])): data.draw(json_like())}
        if data.draw(st.booleans()):
            changed.pop(data.draw(st.sampled_from([*usual])), None)
        document = data.draw(st.sampled_from([changed, data.draw(json_like())]))
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "outputs/sweeps/x")
            place.mkdir(parents=True)
            (place / name).write_text(json.dumps(document) + "\n" * lined)
            refused_or_read(lambda: READERS[name](place))

    check()


def test_a_checkpoint_is_read_to_the_same_bits_or_refused() -> None:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.safetensors")
        checkpoint.write(path, tensors, {"step": 3})
        content = path.read_bytes()

        @EXAMPLES
        @given(damaged(content))
        def check(changed: bytes) -> None:
            path.write_bytes(changed)
            try:
                read = checkpoint.read(path)
            except FileRefused:
                return
            assert changed == content
            assert all(read.tensors[name].equal(tensors[name]) for name in tensors)

        check()


IDX = struct.pack(">4i", 0x803, 5, 4, 4) + bytes(range(80))


@EXAMPLES
@given(damaged(gzip.compress(IDX)) | damaged(IDX).map(gzip.compress))
def test_idx_files(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "images.gz").write_bytes(content)
        store = Store(Path(folder), "a whole one")
        digest = hashlib.sha256(content).hexdigest()
        try:
            with sparing():
                file = Packed("images.gz", len(content), digest, "", (5, 4, 4))
                array = read_idx(store, file)
        except FileRefused:
            return
        assert array.shape == (5, 4, 4)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    Image.fromarray(pixels).save(out := io.BytesIO(), "PNG")
    return out.getvalue()


@settings(EXAMPLES, max_examples=60)
@given(damaged(png(99)), st.sampled_from(["x.png", "x.jpg", "x.txt", "x"]))
def test_image_folders(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for part, label in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
            place = Path(folder, "pets", part, label)
            place.mkdir(parents=True)
            for seed in range(12):
                (place / f"{seed}.png").write_bytes(png(seed))
        Path(folder, "pets/train/cat", name).write_bytes(content)
        data = ImageFolder(path=str(Path(folder, "pets")), root=str(Path(folder, "root")))
        try:
            loaded = data.load()
        except FileRefused:
            return
        assert loaded.classes == ("cat", "dog")
        assert loaded.shape == (1, 6, 6)
