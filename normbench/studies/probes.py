"""Studies that train nothing: what a probe measures of each arm and seed, kept as JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.parts.options import quoted
from normbench.results.groups import Result
from normbench.results.lr_search import Choice, LRSearch
from normbench.runtime import storage
from normbench.settings.compose import Grid
from normbench.studies.form import calls
from normbench.studies.study import FIRST_SEED, Arm, Study
from normbench.studies.values import Value, mean

if TYPE_CHECKING:
    from normbench.settings.schema import Config

FILE, BYTES = "probes.json", 2**24
NET_S = 0.5  # seconds that measuring a net takes, roughly


class ProbePlan:
    """The nets that a study measures, with the methods of `plan.Plan`.

    Args: study: of kind `probe`; folder: where its measurements are kept.
    Raises: FileRefused if these are damaged; Refused if the settings of an arm do not fit.
    """

    searches: Mapping[str, LRSearch] = {}

    def __init__(self, study: Study, grid: Grid, outputs: str, folder: Path) -> None:
        self.study, self.file = study, folder / FILE
        self.seeds, self.looks = study.seeds, [study.seeds]
        self.configs: dict[str, list[Config]] = {}
        seeds = [f"seed={FIRST_SEED[study.stage]}", f"seeds={study.seeds}"]
        for arm in study.arms:
            words = [*arm.words, *seeds, quoted("outputs", outputs)]
            (cell,) = grid.cells(words, multirun=False)
            assert cell.config is not None
            self.configs[arm.name] = cell.config.with_seeds()

    @cached_property
    def found(self) -> dict[str, dict[str, dict[str, float]]]:
        """Give what was measured, by arm, seed and metric."""
        kept = storage.read_json(self.file, BYTES) if self.file.is_file() else {}
        whole = isinstance(kept, dict) and all(
            isinstance(value, int | float)
            for seeds in kept.values()
            for metrics in _inner(seeds)
            for value in metrics.values()
        )
        if not whole:
            raise storage.damaged(self.file, "does not hold numbers by arm, seed and metric")
        return dict(kept)

    @property
    def runs(self) -> int:
        """Count the nets."""
        return len(self.study.arms) * self.study.seeds

    @property
    def left(self) -> int:
        """Count the nets that are not measured yet."""
        return self.runs - sum(map(len, self.found.values()))

    @property
    def seconds(self) -> float:
        """Estimate what is left in core-seconds."""
        return NET_S * self.left

    def done(self) -> int:
        """Count the seeds that are measured of every arm."""
        return min(len(self.found.get(arm.name, {})) for arm in self.study.arms)

    def rate(self, role: str, arm: Arm) -> float | None:
        """Give no learning rate: nothing is trained."""

    def choice(self, arm: Arm) -> Choice | None:
        """Give no choice of a learning rate."""

    def results(self, role: str, arm: Arm) -> list[Result]:
        """Give no runs."""
        return []

    def measure(self) -> None:
        """Measure what is missing, and keep it after each arm."""
        from normbench.runs import probe, timing  # import torch

        options = self.study.tree["probe"]
        span = options.get("span")
        asked = probe.Asked(
            (span[0], span[1]) if span else None,
            bool(options.get("rank")),
            bool(options.get("sampling")),
            any("gradient" in each.metric for each in self.study.hypotheses),
            int(options.get("along", 0)),
        )
        for arm in self.study.arms:
            known = self.found.setdefault(arm.name, {})
            for config in self.configs[arm.name]:
                if str(config.seed) not in known:
                    begun = time.process_time()
                    timed = timing.throughput(config) if options.get("timing") else None
                    metrics = timed or probe.measure(config, asked).metrics
                    kept = {name: value for name, value in metrics.items() if math.isfinite(value)}
                    known[str(config.seed)] = {**kept, "core_s": time.process_time() - begun}
            storage.write_atomic(self.file, json.dumps(self.found, indent=1) + "\n")

    @property
    def spent(self) -> dict[str, float]:
        """Give the core-seconds of each net."""
        return {
            f"{name} {seed}": metrics.get("core_s", 0.0)
            for name, seeds in self.found.items()
            for seed, metrics in seeds.items()
        }

    def rows(self) -> Iterator[list[object]]:
        """Yield a table of all that was measured."""
        names = sorted(
            {name for seeds in self.found.values() for one in seeds.values() for name in one}
        )
        yield [*self.study.arms[0].levels, "seed", *names]
        for arm in self.study.arms:
            for seed, metrics in sorted(self.found.get(arm.name, {}).items()):
                yield [*arm.levels.values(), seed, *(metrics.get(name) for name in names)]


class ProbeMeasures:
    """Reads the metrics of a study that trains nothing, with the methods of `measure.Measures`."""

    role = "fixed"

    def __init__(self, plan: ProbePlan) -> None:
        self.plan, self.seeds = plan, plan.seeds

    def results(self, arm: Arm, metric: str = "") -> dict[int, Result]:
        """Give no runs."""
        return {}

    def outcomes(self, arms: Sequence[Arm]) -> tuple[int, int]:
        """Count no failures."""
        return 0, sum(len(self.plan.found.get(arm.name, {})) for arm in arms)

    def of(self, metric: str, arms: Sequence[Arm]) -> dict[int, Value]:
        """Give a metric of some arms by seed, their mean; it fails where it was not finite."""
        known = [self.plan.found.get(arm.name, {}) for arm in arms]
        seeds = set.intersection(*(set(each) for each in known))
        return {int(seed): mean([_value(metric, each[seed]) for each in known]) for seed in seeds}


def _value(metric: str, metrics: Mapping[str, float]) -> Value:
    called, argument = calls(metric)
    if called == "abs":
        inner = _value(argument, metrics)
        return Value(abs(inner.low), abs(inner.high), inner.failed)
    value = metrics.get(argument)
    return Value(0.0, 0.0, failed=True) if value is None else Value(value, value)


def _inner(seeds: Any) -> list[Any]:
    """Give the maps of metrics of all seeds, a wrong one where there are none."""
    kept = list(seeds.values()) if isinstance(seeds, dict) else [{"": None}]
    return [each if isinstance(each, dict) else {"": None} for each in kept]
