"""A book is killed, and goes on; a book over all that is there says it again to the byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import document, started, until
from made_up import MINE

ARMS = {key: {"steps": steps} for key, steps in (("long", 24), ("short", 6))}
FIXED = {key: value for key, value in MINE["fixed"].items() if key != "eval_every"}
PAIR = {"a": {"arm": "long"}, "b": {"arm": "short"}, "region": "greater", "delta": 0.5}
BOOK = ("book", "./ends.yaml", "./curves.yaml", "-o", "claims.md")


def card(name: str, metric: str) -> str:
    """Write a study of the same runs, whose metric may ask for more of their validations."""
    given = [{"id": "more", "metric": metric, **PAIR}]
    same = {"arms": ARMS, "fixed": FIXED, "lr": {"shared": 0.1}, "hypotheses": given}
    return json.dumps({**MINE, **same, "id": name, "sizes": {"quick": {}}})


def began(folder: Path) -> bool:
    return bool([*folder.glob("outputs/runs/*/seed*/status.json")])


def one_is_judged(folder: Path) -> bool:
    return bool([*folder.glob("outputs/studies/ends/*/verdict.json")])


def told(folder: Path) -> str:
    """Read the page without what was paid for it."""
    page = (folder / "claims.md").read_text()
    return re.sub(r"[\d.]+ core-", "core-", page)


def killed(point: Callable[[Path], bool], folder: Path) -> None:
    """Begin the book and kill it at a point."""
    process = started(*BOOK, cwd=folder)
    until(lambda: point(folder) or process.poll() is not None)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_killed_book_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def at_work(name: str, *points: Callable[[Path], bool]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "ends.yaml").write_text(card("ends", "test_acc"))
        (folder / "curves.yaml").write_text(card("curves", "auc"))
        for point in points:
            killed(point, folder)
        document(*BOOK, cwd=folder)
        return folder

    whole, twice = at_work("whole"), at_work("twice", began, one_is_judged)
    assert "auc: long - short > 1 (card: 0.5) pp" in told(whole)
    assert told(twice) == told(whole)
    for folder in (whole, twice):  # the curves had runs of the first study trained once more
        kept = [folder / "claims.md", *folder.glob("outputs/studies/*/*/verdict.json")]
        before = [path.read_bytes() for path in kept]
        document(*BOOK, cwd=folder)
        assert [path.read_bytes() for path in kept] == before
