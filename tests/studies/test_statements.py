"""The map from the statements of the sources to studies and tests names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from normbench.studies import card as cards
from normbench.studies import statements

ROOT = Path(__file__).parents[2]


def test_every_statement_has_a_study_a_test_or_a_reason() -> None:
    found = statements.read()
    assert (len(found), len({each["says"] for each in found}) > 90) == (104, True)
    files = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    tests = {name for text in files for name in re.findall(r"^def (test_\w+)", text, re.M)}
    for each in found:
        assert each.keys() <= {"source", "says", "studies", "tests", "note", "why"}, each
        assert each.keys() & {"studies", "tests", "why"}, each
        assert {*each.get("studies", ())} <= {*cards.packaged()}, each
        assert {*each.get("tests", ())} <= tests, each
    rows = statements.table({"bn-fig1": "supported"}).rows
    assert rows[0][2].text == "bn-fig1: supported"
