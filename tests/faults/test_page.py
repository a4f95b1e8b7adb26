"""docs/reliability.md names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_test_of_the_page_exists() -> None:
    page = (TESTS.parent / "docs/reliability.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 30
    missing = [each for each in named if f"def {each[1]}(" not in (TESTS / each[0]).read_text()]
    assert not missing
