"""The pages of docs/: a sample of their commands is run, and prints what stands below them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    """The script, which has no ending."""
    loader = importlib.machinery.SourceFileLoader("docs_script", str(ROOT / "scripts/docs"))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("docs_script", loader) or pytest.fail("no script")
    )
    loader.exec_module(module)
    return module


PAGE = """\
```console
$ normbench train norm=gm
old
$ normbench power --sd 0.5 --difference 1
```
```console 2min
$ normbench train norm=gm
old
```
```console quiet
$ normbench train norm=gm
kept
```
"""


def test_a_command_gets_what_it_prints(docs: ModuleType, tmp_path: Path) -> None:
    found = docs.remade(PAGE, tmp_path, within=60)
    first, dear, quiet = re.findall(r"```console.*?```\n", found, re.DOTALL)
    assert first.startswith("```console\n$ normbench train norm=gm\nnormbench: error: norm=gm: ")
    assert "old" not in first
    assert first.count("\n$ ") == 2
    assert dear == "```console 2min\n$ normbench train norm=gm\nold\n```\n"
    assert quiet.endswith("kept\n```\n")
    assert docs.remade(found, tmp_path, within=60) == found


def test_what_a_block_takes_is_read(docs: ModuleType) -> None:
    assert [docs.seconds(words.split()) for words in ("", "quiet 40s", "3min")] == [0, 40, 180]


TRAINED = """\
```console quiet 20s
$ normbench train -m data=synthetic data.shape=[1,8,8] model=mlp norm=none,bn steps=30 seeds=3
```
```console 20s
$ normbench compare --baseline none
```
```console times 20s
$ normbench compare --metric seconds --target 0.2
 seconds to the target by norm   3 seeds
 none                            of another day
```
"""


@pytest.mark.slow
def test_tables_of_trainings_come_again_and_times_need_not(
    docs: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = docs.remade(TRAINED, tmp_path / "a", check=True)
    assert "points above none" in found
    assert "of another day" in found
    assert docs.remade(found, tmp_path / "b", check=True) == found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_costs_nothing_is_as_the_page_has_it(
    page: Path, docs: ModuleType, tmp_path: Path
) -> None:
    text = page.read_text()
    assert docs.remade(text, tmp_path, within=9, check=True) == text
