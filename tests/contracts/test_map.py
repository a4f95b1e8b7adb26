"""The drawing of the rooms in the documentation is that of today's imports."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_on_architecture_shows_the_rooms_as_they_are():
    drawing = runpy.run_path(str(ROOT / "scripts/map"))["drawing"]()
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{drawing}```" in page, "scripts/map --write draws it again"
