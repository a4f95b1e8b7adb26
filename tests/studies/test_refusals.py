"""What is refused: studies that cannot be judged, files that are none, books without a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import normbench
from made_up import MINE

from normbench.errors import NormbenchError, Refused
from normbench.studies import card as cards
from normbench.studies import resolve as studies

WRONG = [  # a change of MINE, and what the refusal names
    ({"factor": {}}, "factor: is not a key of a study\n  try: factors"),
    ({"combine": "both"}, "combine=both: is none of all, any, each"),
    ({"seeds": {"screen": 6}}, "cannot decide 3 primary hypotheses"),
    ({"hypotheses.0.metric": "test_ac"}, "true.metric=test_ac: is none of"),
    (
        {"hypotheses.0.metric": "steps_to(x)"},
        "x is no number from 1 on\n  try: metric: steps_to(88)",
    ),
    ({"hypotheses.0.region": "bigger"}, "true.region=bigger: is none of greater"),
    ({"hypotheses.0.a": {"arm": "tall"}}, "levels of arm are long, short, same"),
    ({"hypotheses.0.a": {"size": "tall"}}, "size: is not a factor: arm"),
    ({"hypotheses.0.delta": 0}, "above 0"),
    ({"sizes": {"cpu": {}}}, "has no quick"),
    ({"sizes": {"quick": {"seeds": {"scren": 9}}}}, "seeds.scren: is not a key of a study"),
    ({"sizes": {"quick": 3}}, "sizes.quick=3: is not a map"),
    ({"sizes": {"quick": {"lr": 3}}}, "lr=3: is not a map\n  try: lr: {shared: 0.03}"),
    ({"sizes": {"quick": {"delta": {"true": "x"}}}}, "delta.true=x: is no number"),
    ({"sizes": {"quick": {"without": ["tru"]}}}, "without: tru: is not a key of a study\n  try: "),
    ({"arms": {}}, "arm={}: has no levels"),
    ({"arms.long": 3}, "arm.long=3: is not a map of settings"),
    ({"fixed.seed": 3}, "seed=3: is said otherwise in a study\n  try: seeds.screen=12"),
    ({"lr.per": 3}, "lr.per=3: is not a list"),
    ({"lr.grid": []}, "lr.grid=[]: is no list of rates"),
    ({"hypotheses.0.metric": "abs(probe(ranc))"}, "try: true.metric=probe(rank)"),
    ({"probe": {"span": 3}}, "probe.span=3: is no span of layers"),
]

FILES = [  # what a user's file holds, what is said of it, and the exit code
    (b"", "is not a map of settings", 2),
    (b"- a\n", "is not a map of settings", 2),
    (b"[" * 500 + b"]" * 500, "is nested too deep", 3),
    (b"id: caf\xe9\n", "is not YAML", 3),
    (b"id: [a\n", "is not YAML", 3),
    (b"id: &a mine\nclaim: *a\n", "holds an alias or a tag", 3),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=lambda value: str(value)[:30])
def test_a_study_that_cannot_be_judged_is_refused(change: dict[str, Any], told: str) -> None:
    tree = json.loads(json.dumps(MINE))
    for key, value in change.items():
        *path, last = key.split(".")
        inner = tree
        for name in path:
            inner = inner[int(name)] if name.isdigit() else inner[name]
        inner[last] = value
    with pytest.raises(Refused) as refused:
        studies.resolve(cards.checked(tree, "mine.yaml"), "quick")
    assert told in str(refused.value)


@pytest.mark.parametrize(("content", "told", "code"), FILES)
def test_a_file_that_is_no_study_is_refused_and_stays(
    content: bytes, told: str, code: int, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(NormbenchError, match=told) as refused:
        cards.read(str(path))
    assert refused.value.code == code
    assert "rm " not in str(refused.value)


BOOKS = [  # words, what is said, and the exit code
    (("stat-noise", "nosuch"), "nosuch: no study has this name\n  try: normbench study list", 2),
    (("stat-noise", "--size", "huge"), "--size huge: there are quick\n  try: --size quick", 2),
    (("stat-noise", "-o", "claims.txt"), "does not end in .md\n  try: -o claims.md", 2),
    (("stat-noise", "-o", "file/claims.md"), "its folder file is not here", 3),
    (("stat-noise", "--outputs", "file"), "cannot be written", 4),
]


@pytest.mark.parametrize(("words", "told", "code"), BOOKS)
def test_a_book_that_cannot_be_written_is_refused_before_anything_runs(
    words: tuple[str, ...], told: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = normbench("book", *words, cwd=tmp_path)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
