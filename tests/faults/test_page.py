"""docs/reliability.md: each of the numbered faults has a row, and each row tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
FAULTS = 64


def test_every_fault_has_a_row_and_every_row_a_test_that_exists() -> None:
    page = (TESTS.parent / "docs/reliability.md").read_text()
    rows = re.findall(r"^\| (\d[\d, to]*) \|(.*)\|$", page, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| (?!---|# )", page, re.MULTILINE))
    numbers: set[int] = set()
    for row, text in rows:
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", row):
            numbers.update(range(int(first), int(last or first) + 1))
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
        assert named, row
        missing = [each for each in named if f"def {each[1]}(" not in (TESTS / each[0]).read_text()]
        assert not missing
    assert numbers == set(range(1, FAULTS + 1))
