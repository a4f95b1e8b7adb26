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
LINES = 12  # of a failure that are kept


def run(task: Task) -> dict[str, Any]:
    """Run the marked tests in several processes where pytest-xdist is there."""
    files = [str(each) for each in marked()]
    processes = min(10, task_cores()) if importlib.util.find_spec("xdist") else 0
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        words = [sys.executable, __file__, str(log), *files]
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
    found = [each for each in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in each.read_text()]
    return sorted(found, key=lambda each: (each.name != "test_gpu.py", each))


def task_cores() -> int:
    from normbench import machine

    return machine.cores()


def told(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, failures, reasons of skips, and what tests measured."""
    tests = [each for each in found if "test" in each]
    outcomes = [each["outcome"] for each in tests]
    skips: dict[str, int] = {}
    for each in tests:
        if each["outcome"] == "skipped":
            skips[each["why"]] = skips.get(each["why"], 0) + 1
    return {
        "collected": max((each["collected"] for each in found if "collected" in each), default=0),
        **{name: outcomes.count(name) for name in ("passed", "failed", "skipped")},
        "failures": [each for each in tests if each["outcome"] == "failed"],
        "skips": skips,
        "measured": {each["test"]: each["measured"] for each in tests if each.get("measured")},
        "slowest": sorted(((each["s"], each["test"]) for each in tests), reverse=True)[:10],
    }


class Reporter:
    """A plugin of pytest that appends a line of JSON for each test."""

    def __init__(self, log: str) -> None:
        self.log = log

    def note(self, **what: Any) -> None:
        """Append a line."""
        with open(self.log, "a") as log:
            log.write(json.dumps(what) + "\n")

    def pytest_collection_finish(self, session: Any) -> None:
        """Note how many tests there are."""
        self.note(collected=len(session.items))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note how a test ended."""
        if report.when != "call" and report.outcome == "passed":
            return
        what: dict[str, Any] = {"measured": dict(report.user_properties)}
        if report.outcome == "skipped":
            what["why"] = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.outcome == "failed":
            what["lines"] = report.longreprtext.splitlines()[-LINES:]
        known = {"test": report.nodeid, "outcome": report.outcome, "s": round(report.duration, 2)}
        self.note(**known, **what)


def main() -> int:
    import pytest

    log, *words = sys.argv[1:]
    # Warnings of whatever else is installed there are none of ours; the suite looks at ours.
    how = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-W", "default"]
    return int(pytest.main([*how, *words], plugins=[Reporter(log)]))


if __name__ == "__main__":
    sys.exit(main())
