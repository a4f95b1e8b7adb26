"""Runs pytest on the tests that need a GPU and appends a line of JSON for each that ends."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

LINES = 12  # of a failure that are kept


class Reporter:
    """A plugin of pytest; with pytest-xdist it sits in the process that starts the others."""

    def __init__(self, log: str) -> None:
        self.log = log

    def note(self, **what: Any) -> None:
        """Append a line."""
        with open(self.log, "a") as log:
            log.write(json.dumps(what) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note how many tests there are."""
        self.note(collected=len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note how many tests there are, which each of the processes has found."""
        self.note(collected=len(ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended."""
        if report.when != "call" and report.outcome == "passed":
            return
        what: dict[str, Any] = {"measured": dict(report.user_properties)}
        if report.outcome == "skipped":
            assert isinstance(report.longrepr, tuple)
            what["why"] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.outcome == "failed":
            what["lines"] = report.longreprtext.splitlines()[-LINES:]
        known = {"test": report.nodeid, "outcome": report.outcome, "s": round(report.duration, 2)}
        self.note(**known, **what)


def main() -> int:
    log, *words = sys.argv[1:]
    # Warnings of whatever else is installed there are none of ours; the suite looks at ours.
    how = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-W", "default"]
    return int(pytest.main([*how, *words], plugins=[Reporter(log)]))


if __name__ == "__main__":
    sys.exit(main())
