"""Runs that start from the weights of another run, or of a file."""

from __future__ import annotations

import json

from commands import normbench

TINY = ("train", "data=synthetic", "data.shape=[1,6,6]", "model=mlp", "model.width=12", "tb=false")
MORE = (*TINY, "init=pretrained", "norm=bn", "steps=2")


def rows(folder):
    (path,) = folder.glob("runs/*/seed0/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def validations(folder):
    return [row for row in rows(folder) if "val/loss" in str(row)]


def test_a_run_begins_where_another_one_ended(tmp_path):
    done = normbench(*TINY, "norm=bn", "steps=40", "outputs=first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "first/runs").glob("*/seed0")
    words = (f"init.path={run}", "outputs=second")
    more = normbench(*MORE, *words, cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    last, first = validations(tmp_path / "first")[-1], validations(tmp_path / "second")[0]
    for key in ("val/loss", "val/accuracy"):
        assert value(first, key) == value(last, key)
    other = normbench(*MORE, f"init.path={run}", "data.classes=4", "outputs=third", cwd=tmp_path)
    assert other.returncode == 0, other.stderr  # the classifier alone is drawn anew
    deeper = normbench(*MORE, *words, "model.depth=4", cwd=tmp_path)
    assert deeper.returncode == 2
    assert "layer4.linear.weight is not there, and (12, 12) in this model" in deeper.stderr
    file = run / "weights.safetensors"
    exported = tmp_path / "w.safetensors"
    assert normbench("export", str(run), "-o", str(exported), cwd=tmp_path).returncode == 0
    again = normbench(*MORE, f"init.path={exported}", "outputs=fourth", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert value(validations(tmp_path / "fourth")[0], "val/loss") == value(last, "val/loss")
    exported.write_bytes(file.read_bytes()[:-9])
    for path, why in (("w.safetensors", "is no safetensors file"), ("nix", "is no file")):
        refused = normbench(*MORE, f"init.path={path}", "outputs=fifth", cwd=tmp_path)
        assert refused.returncode == 3 and why in refused.stderr and "\n  try: " in refused.stderr
    unnamed = normbench(*MORE, "outputs=fifth", cwd=tmp_path)
    assert unnamed.returncode == 2 and "init.path=null: names no run" in unnamed.stderr
    assert not (tmp_path / "fifth").exists()


def value(row, key):
    return row[key] if key in row else row["values"][key]
