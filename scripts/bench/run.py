#!/usr/bin/env python3
"""Run the benchmarks: normbench against a baseline written in the same file, in one run.

usage: scripts/bench/run.py [NAME ...] [--quick] [--check] [--json FILE]

Both sides run interleaved (A B A B ...) after a warm-up each and an agreement check; the figure is
the ratio of the medians. Single-process figures are CPU time of the process, on one core.
`--check` exits 1 if a figure misses its target.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# what this process may use before it keeps to one core
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@dataclass
class Case:
    """One comparison. `baseline` and `ours` do the work once and return its seconds.

    `most`: largest allowed ours / baseline (a tax); `least`: smallest baseline / ours (a gain);
    `below`: largest allowed ours in seconds; without any the figure is only reported.
    """

    name: str
    ours: Callable[[], float]
    baseline: Callable[[], float] | None = None
    agree: Callable[[], None] | None = None
    most: float | None = None
    least: float | None = None
    below: float | None = None
    repeats: int | None = None
    warm: bool = True  # each side runs once before
    unit: str = "s"
    note: str = ""


@dataclass
class Figure:
    """What came of a case."""

    name: str
    ours: list[float]
    baseline: list[float] = field(default_factory=list)
    value: float = 0.0
    text: str = ""
    passed: bool | None = None


def measure(case: Case, repeats: int) -> Figure:
    """Run both sides in turn and compare their medians."""
    if case.agree:
        case.agree()
    if case.warm:
        case.ours()
    if case.warm and case.baseline:
        case.baseline()
    figure = Figure(case.name, [])
    for _ in range(case.repeats or repeats):
        if case.baseline:
            figure.baseline.append(case.baseline())
        figure.ours.append(case.ours())
    ours = statistics.median(figure.ours)
    if case.baseline is None:
        figure.value = ours
        target = "" if case.below is None else f"target < {case.below:g} {case.unit}"
        figure.passed = None if case.below is None else ours < case.below
        figure.text = f"{ours:.4g} {case.unit}   {target}"
        return figure
    base = statistics.median(figure.baseline)
    if case.most is not None:
        figure.value, figure.passed = ours / base, ours / base <= case.most
        target = f"target <= {case.most:g}x"
    else:
        figure.value = base / ours
        figure.passed = None if case.least is None else base / ours >= case.least
        target = "" if case.least is None else f"target >= {case.least:g}x"
    figure.text = (
        f"baseline {base:.4g} {case.unit}   ours {ours:.4g} {case.unit}   "
        f"{figure.value:.3g}x   {target}"
    )
    return figure


def about(load: tuple[float, ...]) -> dict[str, Any]:
    """Describe the machine, its load before and now, and the page faults of this process."""
    from normbench.runtime import machine  # after the number of threads is set

    known = machine.environment("cpu", 1)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return {**known, "load": [load, os.getloadavg()], "minor_faults": faults}


def main() -> int:
    """Run the named benchmarks, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, less work")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    parser.add_argument("--json", metavar="FILE", help="write all samples here")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(HERE))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(CORES)})
    names = options.names or sorted(p.stem for p in HERE.glob("*.py") if p.stem != "run")
    figures, load = [], os.getloadavg()
    for name in names:
        for case in importlib.import_module(name).cases(options.quick):
            figure = measure(case, 3 if options.quick else 7)
            figures.append(figure)
            verdict = {True: "pass", False: "MISS", None: ""}[figure.passed]
            print(f"{figure.name:<44} {figure.text:<80} {verdict}  {case.note}", flush=True)
    if options.json:
        document = {"machine": about(load), "figures": [asdict(each) for each in figures]}
        Path(options.json).write_text(json.dumps(document, indent=1))
    return int(options.check and any(each.passed is False for each in figures))


if __name__ == "__main__":
    sys.modules["run"] = sys.modules["__main__"]  # the benchmarks import Case from here
    sys.exit(main())
