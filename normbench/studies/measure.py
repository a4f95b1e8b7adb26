"""What the metrics of a study read off its runs: one value, or bounds of it, per arm and seed.

Values are plain numbers: an accuracy is a fraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from normbench.results import curves, stats
from normbench.results.curves import Validation
from normbench.results.groups import Result
from normbench.runs.reader import read_rows
from normbench.studies.form import calls
from normbench.studies.plan import PLAIN, RECOMPUTED, Plan
from normbench.studies.probes import ProbeMeasures, ProbePlan
from normbench.studies.study import FIRST_SEED, LR, Arm, Hypothesis
from normbench.studies.values import Value, mean, spread
from normbench.sweeps import traces

LATE = 0.1  # share of the steps that `train_loss_late` is over
BEYOND = 4.0  # a time that was not reached lies between the budget and so many times it
LEARNS = 0.5  # training accuracy from which a run learns, for `max_lr`
OF_RUN = {  # metrics that stand among the last values of a run
    "test_acc": "test/accuracy",
    "test_acc_recomputed": "test/accuracy",
    "val_acc": "val/accuracy",
    "train_acc": "train_eval/accuracy",
    "gen_gap": "gen_gap/accuracy",
    "mode_gap": "gap/accuracy",
}
SMALLER = (
    "steps_to",
    "train_loss_late",
    "spread",
    "abs",
    "gen_gap",
    "shift_drop",
    "drop",
    "best_over_last",
    "wrong",
)  # is better


class Measures:
    """Reads the metrics of the runs of a plan under one role of the learning rate.

    Args: plan: whose runs are done as far as they are to be read; role: shared, tuned or fixed.
    `seeds`: so many are looked at, the first ones.
    """

    def __init__(self, plan: Plan, role: str) -> None:
        self.plan, self.role, self.seeds = plan, role, plan.seeds
        self._results: dict[tuple[str, tuple[str, ...]], dict[int, Result]] = {}
        self._read: dict[tuple[str, str], float | None] = {}

    def results(self, arm: Arm, metric: str = "test_acc") -> dict[int, Result]:
        """Give the runs of an arm by seed, as the metric wants them judged."""
        how = RECOMPUTED if "recomputed" in metric else PLAIN
        found = self._results.get((arm.name, how))
        if found is None:
            made = self.plan.results(self.role, arm, how)
            if how and not made:  # an arm without running statistics has nothing to recompute
                return self.results(arm)
            found = {result.seed: result for result in made if result.outcome()}
            self._results[arm.name, how] = found
        beyond = FIRST_SEED[self.plan.study.stage] + self.seeds
        return {seed: run for seed, run in found.items() if seed < beyond}

    def of(self, metric: str, arms: Sequence[Arm]) -> dict[int, Value]:
        """Give a metric of some arms by seed: their mean, or what the metric makes of them all."""
        called, argument = calls(metric)
        if called == "wrong":
            return self._wrong(int(float(argument.split(",")[0])), arms)
        seeds = set.intersection(*(set(self.results(arm, metric)) for arm in arms))
        found = {}
        for seed in sorted(seeds):
            runs = [self.results(arm, metric)[seed] for arm in arms]
            if called == "max_lr":
                rates = [float(arm.settings[LR]) for arm in arms]
                found[seed] = _max_lr(sorted(zip(rates, runs, strict=True), key=lambda it: it[0]))
                continue
            inner = argument.split(",")[0] if called == "spread" else metric
            values = [self._value(inner, run) for run in runs]
            found[seed] = spread(values) if called == "spread" else mean(values)
        return found

    def _wrong(self, count: int, arms: Sequence[Arm]) -> dict[int, Value]:
        """Tell for each group of seeds whether a comparison of one lucky arm names a wrong winner.

        The first arm shows its best of the group, the others their first seed; right is the arm
        that is best in the mean over all seeds.
        """
        values = [self.of("test_acc", [arm]) for arm in arms]
        seeds = sorted(set.intersection(*map(set, values)))
        means = [stats.mean([each[seed].low for seed in seeds]) for each in values]
        found = {}
        for at in range(0, len(seeds) - count + 1, count):
            group = seeds[at : at + count]
            shown = [max(values[0][seed].low for seed in group)]
            shown += [each[group[0]].low for each in values[1:]]
            wrong = float(shown.index(max(shown)) != means.index(max(means)))
            found[group[0]] = Value(wrong, wrong)
        return found

    def outcomes(self, arms: Sequence[Arm]) -> tuple[int, int]:
        """Count the runs of some arms that failed, and all of them."""
        ends = [run.outcome() for arm in arms for run in self.results(arm).values()]
        return sum(bool(end and end.failed) for end in ends), len(ends)

    def _value(self, metric: str, run: Result) -> Value:
        called, argument = calls(metric)
        if called == "abs":
            inner = self._value(argument, run)
            return Value(abs(inner.low), abs(inner.high), inner.failed, inner.diverged)
        outcome = run.outcome()
        failed = outcome is None or outcome.failed
        diverged = run.state == "diverged"
        if called == "steps_to":  # a run that failed has not arrived, which is its answer
            return self._steps_to(float(argument) / 100, run)
        key = (metric, f"{run.directory} {run.evaluation}")
        if key not in self._read:
            self._read[key] = _read(called, argument, run)
        value = self._read[key]
        if value is None or not math.isfinite(value) or diverged:
            value = run.chance() if called in ("test_acc", "val_acc", "train_acc", "auc") else 0.0
            value = run.chance() if called == "test_acc_recomputed" else value
            failed = True
        return Value(value, value, failed, diverged)

    def _steps_to(self, target: float, run: Result) -> Value:
        batch, budget = int(str(run.settings["batch"])), int(str(run.settings["steps"]))
        reached = curves.first(_curve(run), target)
        if reached is None:
            return Value(budget, BEYOND * budget)
        steps = reached.examples / batch
        return Value(steps, steps)


def _max_lr(runs: Sequence[tuple[float, Result]]) -> Value:
    """Give the largest learning rate at which a run learns, of runs by rising learning rate.

    At the top of the grid it lies between that and four times it; where none learns, it counts as
    half the smallest.
    """
    good = [lr for lr, run in runs if run.state != "diverged" and _learns(run)]
    lrs = [lr for lr, _ in runs]
    if not good:
        return Value(lrs[0] / 2, lrs[0] / 2)
    top = max(good)
    return Value(top, BEYOND * top if top == lrs[-1] else top)


def _learns(run: Result) -> bool:
    accuracy = run.final.get("train/accuracy")
    return accuracy is not None and accuracy >= LEARNS


AnyPlan = Plan | ProbePlan
AnyMeasures = Measures | ProbeMeasures


def measures_of(plan: AnyPlan, role: str) -> AnyMeasures:
    """Give what reads the metrics of a plan."""
    return ProbeMeasures(plan) if isinstance(plan, ProbePlan) else Measures(plan, role)


def favoured(hypothesis: Hypothesis) -> tuple[Sequence[Arm], Sequence[Arm]] | None:
    """Give the arms that a claim says are better, and the worse ones; None where it does not."""
    kind, arms = hypothesis.region.kind, hypothesis.arms
    if hypothesis.effect not in ("difference", "log_ratio") or kind in ("equal", "band"):
        return None
    called, _ = calls(hypothesis.metric)
    a_better = (kind != "less") != (called in SMALLER)
    return (arms["a"], arms["b"]) if a_better else (arms["b"], arms["a"])


def _read(called: str, argument: str, run: Result) -> float | None:
    """Read a metric of one run, None where it has none."""
    if called in OF_RUN:
        return run.final.get(OF_RUN[called])
    if called == "probe":
        return run.final.get(f"probe/{argument.replace('/', '_')}")
    if called == "test":
        return run.final.get(f"test/accuracy/{argument}")
    if called == "drop":
        before, after = (run.final.get(f"test/accuracy/{test}") for test in argument.split(","))
        return before - after if before is not None and after is not None else None
    folder, final = Path(run.directory), run.final.get("test/accuracy")
    if called == "train_loss_late":
        rows = [row for row in read_rows(folder) if row.kind == "train"]
        late = [row.values.get("train/loss") for row in rows if row.step > (1 - LATE) * run.steps]
        known = [value for value in late if isinstance(value, int | float)]
        return stats.mean(known) if known else None
    if called == "shift_drop":
        shifted = [run.final.get(name) for name in run.final if name.startswith("test/accuracy/")]
        known = [value for value in shifted if value is not None]
        return final - stats.mean(known) if final is not None and known else None
    curve = _curve(run)
    if called == "auc":
        return curves.area(curve)
    best = max((at.accuracy for at in curve), default=None)
    if called == "best_over_last":
        return best - curve[-1].accuracy if best is not None else None
    return final - best if final is not None and best is not None else None


def _curve(run: Result) -> list[Validation]:
    """Read the validations that the study asks for; another command may have asked for more."""
    every, batch = int(str(run.settings["eval_steps"])), int(str(run.settings["batch"]))
    curve = traces.validations(Path(run.directory))
    steps = [round(at.examples / batch) for at in curve]
    kept = zip(curve, steps, strict=True)
    return [at for at, step in kept if step % every == 0 or step == steps[-1]]
