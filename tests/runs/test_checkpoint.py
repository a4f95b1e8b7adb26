"""The file of a checkpoint: what is written is read, and nothing else is."""

import json
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from normbench.errors import FileRefused
from normbench.runs import checkpoint
from normbench.runtime import storage

TENSORS = {
    "model.weight": torch.arange(6.0).reshape(2, 3),
    "model.running": torch.tensor([1e300], dtype=torch.float64),
    "optimizer.steps": torch.tensor(7),
    "generator": torch.arange(16, dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}
ABOUT = {"step": 12, "stage": "training", "text": 'a "quoted" \\ word', "sha256": "0" * 64}


@pytest.fixture
def path(tmp_path):
    checkpoint.write(tmp_path / checkpoint.NAME, TENSORS, ABOUT)
    return tmp_path / checkpoint.NAME


def crafted(path, header, body=b"", signed=True):
    """A file with this header; `signed` ones have the right digest, as an attacker's would."""
    header["__metadata__"] = {"normbench": json.dumps(header["__metadata__"])}
    text = json.dumps(header, separators=(",", ":")).encode()
    data = struct.pack("<Q", len(text)) + text + body
    if signed:
        data = data.replace(b"0" * 64, storage.digest(data).encode(), 1)
    path.write_bytes(data)


def test_reads_what_was_written(path):
    tensors, about = checkpoint.read(path)
    assert about == ABOUT == checkpoint.read_about(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_the_library_alone_reads_the_tensors(path):
    assert torch.equal(load_file(path)["model.weight"], TENSORS["model.weight"])


def test_equal_content_gives_equal_bytes(path):
    before = path.read_bytes()
    checkpoint.write(path, TENSORS, ABOUT)
    assert path.read_bytes() == before


def test_says_both_lengths_of_a_file_that_was_cut(path):
    data = path.read_bytes()
    for size in range(len(data)):  # every cut there is
        path.write_bytes(data[:size])
        with pytest.raises(FileRefused, match=f"{size:,} bytes"):
            checkpoint.read_about(path)
    path.write_bytes(data[:-1])
    with pytest.raises(FileRefused, match=f"has {len(data) - 1:,} bytes, .* says {len(data):,}"):
        checkpoint.read(path)


def test_a_flipped_bit_in_any_byte_is_found(path):
    data = path.read_bytes()
    for place in range(len(data)):
        torn = bytearray(data)
        torn[place] ^= 1 << place % 8
        path.write_bytes(torn)
        with pytest.raises(FileRefused):
            checkpoint.read_about(path)


def test_refuses_what_is_no_checkpoint(path):
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FileRefused, match="not a safetensors file"):
        checkpoint.read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"x" * 100)
    with pytest.raises(FileRefused, match="not a safetensors file"):
        checkpoint.read(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(FileRefused, match="not a safetensors file"):
        checkpoint.read(path)


def test_refuses_crafted_layouts_that_carry_a_right_digest(path):
    meta = {"sha256": "0" * 64, "format": 1, "about": {}}
    whole = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    crafted(path, {"__metadata__": meta, "a": whole}, bytes(8))
    assert checkpoint.read(path).tensors["a"].tolist() == [0, 0]
    for header in (
        {"__metadata__": meta, "a": whole, "b": whole},  # overlapping
        {"__metadata__": meta, "a": {**whole, "shape": [3]}},
        {"__metadata__": meta, "a": {**whole, "shape": [2**62]}},
        {"__metadata__": {**meta, "about": []}, "a": whole},
        {"__metadata__": {**meta, "about": 3}, "a": whole},
    ):
        crafted(path, header, bytes(8))
        with pytest.raises(FileRefused):
            checkpoint.read(path)


def test_refuses_another_format_and_endless_nesting(path):
    meta = {"sha256": "0" * 64, "format": 2, "about": {}}
    crafted(path, {"__metadata__": meta})
    with pytest.raises(FileRefused, match="has format 2, this normbench reads 1"):
        checkpoint.read(path)
    deep = "[" * 100_000 + "]" * 100_000
    crafted(path, {"__metadata__": {**meta, "format": 1, "about": "DEEP"}}, signed=False)
    text = path.read_bytes()[8:].replace(rb"\"DEEP\"", deep.encode())
    data = struct.pack("<Q", len(text)) + text
    path.write_bytes(data.replace(b"0" * 64, storage.digest(data).encode(), 1))
    with pytest.raises(FileRefused, match="is not a checkpoint"):
        checkpoint.read(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(FileRefused, match="no digest"):
        checkpoint.read(path)
