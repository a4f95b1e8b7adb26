"""The tests that need a GPU, each noted as it ends, so that a lack of time loses none."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from __main__ import Task

ROOT = Path(__file__).resolve().parents[2]
REPORTER = Path(__file__).with_name("reporter.py")


def run(task: Task) -> dict[str, Any]:
    """Run the marked tests in several processes where pytest-xdist is there."""
    files = [str(path) for path in marked()]
    processes = min(10, task_cores()) if importlib.util.find_spec("xdist") else 0
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        words = [sys.executable, str(REPORTER), str(log), *files]
        spread = ["-n", str(processes)] if processes > 1 and task.device == "cuda" else []
        with (Path(folder) / "said").open("w+") as said:
            process = subprocess.Popen([*words, *spread], cwd=ROOT, stdout=said, stderr=said)
            try:
                code: int | None = process.wait(task.seconds)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(20)
                code = None
            said.seek(0)
            end = said.read()[-2000:]
        lines = log.read_text().splitlines() if log.exists() else []
        found = [json.loads(line) for line in lines]
    return {**told(found), "exit": code, **({} if code == 0 else {"said": end})}


def marked() -> list[Path]:
    """The files that have such tests, those of the GPU alone first."""
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
    return sorted(found, key=lambda path: (path.name != "test_gpu.py", path))


def task_cores() -> int:
    from normbench.runtime import machine

    return machine.cores()


def told(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, failures, reasons of skips, and what tests measured."""
    tests = [line for line in found if "test" in line]
    outcomes = [test["outcome"] for test in tests]
    skips: dict[str, int] = {}
    for test in tests:
        if test["outcome"] == "skipped":
            skips[test["why"]] = skips.get(test["why"], 0) + 1
    return {
        "collected": max((line["collected"] for line in found if "collected" in line), default=0),
        **{name: outcomes.count(name) for name in ("passed", "failed", "skipped")},
        "failures": [test for test in tests if test["outcome"] == "failed"],
        "skips": skips,
        "measured": {test["test"]: test["measured"] for test in tests if test.get("measured")},
        "slowest": sorted(((test["s"], test["test"]) for test in tests), reverse=True)[:10],
    }
