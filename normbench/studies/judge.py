"""Judges a study by what its runs came to: each hypothesis, then the study. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from normbench.results import looks, stats, verdict
from normbench.results.lr_search import EDGE, UNSTABLE
from normbench.results.sequential import EARLY
from normbench.results.verdict import INCONCLUSIVE, SUPPORTED, Effects, Judged, withheld
from normbench.studies.measure import AnyMeasures, AnyPlan, favoured, measures_of
from normbench.studies.plan import Plan
from normbench.studies.study import POINTS, Arm, Hypothesis, scale_of
from normbench.studies.values import Value

CEILING = {"mnist": 0.993, "mnist5k": 0.975}  # test accuracy above which arms crowd
OFTEN, OUT_OF_REACH = "fails more often", "target out of reach"
MOST = {"difference": 1.0, "interaction": 2.0}  # size of an effect on accuracies
NO_LOGARITHM = "a value of 0 has no logarithm"
TOO_OFTEN = "fails too often to compare"
Seeds = Mapping[int, Value]
Counts = Callable[[Value], bool]  # whether a value counts


@dataclass(frozen=True)
class Finding:
    """What came of one hypothesis.

    Args: effects: of each seed that counts; failures: of the two sides, failed and all; censored:
    values of which only bounds are known; decided: seeds at which it had its word.
    """

    hypothesis: Hypothesis
    judged: Judged
    effects: Effects
    failures: tuple[tuple[int, int], ...]
    censored: int = 0
    diverged: int = 0
    decided: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of a study by one way of choosing its learning rates.

    Args: role: shared, tuned or fixed; word: supported, refuted, inconclusive, or a count of them;
    notes: what is to be said of the whole.
    """

    role: str
    word: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def of(self, role: str) -> list[Finding]:
        """List the findings of the hypotheses in a role."""
        return [each for each in self.findings if each.hypothesis.role == role]


def judge(plan: AnyPlan, role: str) -> Verdict:
    """Judge a study whose runs are all done, by one way of choosing its learning rates.

    With `seeds: auto` it is looked at after each round of seeds; what was said stays said.
    """
    measures = measures_of(plan, role)
    asked = [each for each in plan.study.hypotheses if each.under in (None, role)]
    found: list[Finding] = []
    for measures.seeds in plan.looks:
        before: list[Finding | None] = [*found] or [None] * len(asked)
        found = [_finding(*pair, plan, measures) for pair in zip(asked, before, strict=True)]
        word, found = _joined(found, plan.study.tree["combine"])
        if plan.study.automatic:
            found = [
                replace(one, decided=_decided(one, old, measures.seeds))
                for one, old in zip(found, before, strict=True)
            ]
    failing = [each.hypothesis.id for each in found if _fails(each)]
    notes = [f"check {name} fails" for name in failing]
    if failing:
        word = INCONCLUSIVE
    notes += _about(plan, role, measures)
    return Verdict(role, word, tuple(found), tuple(notes))


def settle(plan: AnyPlan) -> None:
    """Ask for more seeds while all that were asked for are done and the study is not decided.

    It is decided by the learning rates of its verdict: one word, or with `combine: each` one for
    every hypothesis.
    """
    while plan.study.automatic and isinstance(plan, Plan) and not plan.left:
        found = judge(plan, plan.study.headline)
        words = [each.judged for each in found.of("primary")]
        words = [each for each in words if TOO_OFTEN not in each.notes]
        each = plan.study.tree["combine"] == "each"
        undecided = any(one.verdict == INCONCLUSIVE for one in words)
        if not (undecided if each else found.word == INCONCLUSIVE) or not plan.grow():
            return


def _joined(found: Sequence[Finding], combine: str) -> tuple[str, list[Finding]]:
    """Join the primary hypotheses into the word of the study."""
    primary = [each for each in found if each.hypothesis.role == "primary"]
    word, judged = verdict.combined([each.judged for each in primary], combine)
    words = dict(zip((each.hypothesis.id for each in primary), judged, strict=True))
    return word, [
        replace(each, judged=words.get(each.hypothesis.id, each.judged)) for each in found
    ]


def _decided(found: Finding, before: Finding | None, seeds: int) -> int | None:
    """Give the seeds of the look at which a hypothesis had its word."""
    if found.judged.verdict == INCONCLUSIVE:
        return None
    return before.decided if before and before.decided else seeds


def _finding(
    hypothesis: Hypothesis, before: Finding | None, plan: AnyPlan, measures: AnyMeasures
) -> Finding:
    """Judge one hypothesis alone, and say what stands against its word."""
    values = {
        letter: measures.of(hypothesis.metric, arms) for letter, arms in hypothesis.arms.items()
    }
    apart = plan.study.tree["failures"] == "apart"
    every = _effects(hypothesis, measures, values, lambda value: not (apart and value.failed))
    judged = _tested(every, hypothesis, before, plan)
    diverged = sum(value.diverged for each in values.values() for value in each.values())
    if diverged and not apart:
        without = _effects(hypothesis, measures, values, lambda value: not value.diverged)
        if _tested(without, hypothesis, None, plan).verdict != judged.verdict:
            note = f"rests on {diverged} diverged runs"
            judged = replace(judged, notes=(*judged.notes, note))
    sides = [arms for letter, arms in hypothesis.arms.items() if letter in "ab"]
    failures = tuple(measures.outcomes(arms) for arms in sides)
    late_enough = apart and plan.study.automatic and measures.seeds >= EARLY
    if late_enough and any(3 * failed > n for failed, n in failures):
        judged = withheld(judged, TOO_OFTEN)
    lowest = [
        value.low
        for each in values.values()
        for value in each.values()
        if not (apart and value.failed)
    ]
    if hypothesis.effect == "log_ratio" and min(lowest, default=1.0) <= 0:
        judged = withheld(judged, NO_LOGARITHM)
    late = {key: [value.censored for value in each.values()] for key, each in values.items()}
    if late and all(2 * sum(each) > len(each) for each in late.values()):
        judged = withheld(judged, OUT_OF_REACH)
    if judged.verdict == SUPPORTED and (sides_ := favoured(hypothesis)):
        judged = _against(judged, hypothesis, plan, measures, sides_)
    return Finding(hypothesis, judged, every, failures, sum(map(sum, late.values())), diverged)


def _tested(
    effects: Effects, hypothesis: Hypothesis, before: Finding | None, plan: AnyPlan
) -> Judged:
    """Judge effects by the test that the plan declares."""
    if plan.study.automatic:
        most = MOST.get(hypothesis.effect, math.inf)
        if scale_of(hypothesis.metric, hypothesis.effect) != POINTS:
            most = math.inf
        old = before.judged if before else None
        return looks.judge(effects, hypothesis.region, old, (-most, most))
    return verdict.judge(effects, hypothesis.region)


def _against(
    judged: Judged,
    hypothesis: Hypothesis,
    plan: AnyPlan,
    measures: AnyMeasures,
    sides: tuple[Sequence[Arm], Sequence[Arm]],
) -> Judged:
    """Withhold support from an arm that fails more often, or beats one tuned at a grid's edge."""
    (failed, n), (others, m) = map(measures.outcomes, sides)
    if failed * m > others * n and not hypothesis.metric.startswith(("steps_to", "max_lr")):
        return withheld(judged, OFTEN)
    choices = [plan.choice(arm) for arm in sides[1]] if measures.role == "tuned" else []
    if any(choice and EDGE in choice.notes for choice in choices):
        return withheld(judged, EDGE)
    return judged


def _effects(
    hypothesis: Hypothesis, measures: AnyMeasures, values: Mapping[str, Seeds], counts: Counts
) -> Effects:
    """Make the effect of each seed of which all values count."""
    if hypothesis.effect == "slope":
        return _slopes(hypothesis, measures, counts)
    seeds = sorted(set.intersection(*(set(each) for each in values.values())))
    kept = [seed for seed in seeds if all(counts(each[seed]) for each in values.values())]
    if hypothesis.effect == "log_ratio":  # judged without the others, and its word withheld
        kept = [seed for seed in kept if all(each[seed].low > 0 for each in values.values())]
    pairs = [
        _bounds(hypothesis, {key: each[seed] for key, each in values.items()}) for seed in kept
    ]
    return Effects(tuple(low for low, _ in pairs), tuple(high for _, high in pairs))


def _bounds(hypothesis: Hypothesis, at: Mapping[str, Value]) -> tuple[float, float]:
    """Give the least and the largest effect of one seed: difference, ratio, interaction, level."""
    a = at["a"]
    if hypothesis.effect == "level":
        return a.low - hypothesis.constant, a.high - hypothesis.constant
    b = at["b"]
    if hypothesis.effect == "log_ratio":
        return math.log(a.low / b.high), math.log(a.high / b.low)
    low, high = a.low - b.high, a.high - b.low
    if hypothesis.effect == "interaction":
        c, d = at["c"], at["d"]
        return low - (c.high - d.low), high - (c.low - d.high)
    return low, high


def _slopes(hypothesis: Hypothesis, measures: AnyMeasures, counts: Counts) -> Effects:
    """Fit by least squares, for each seed, a line over log2 of the levels of a factor."""
    assert hypothesis.over
    levels: dict[str, list[Arm]] = {}
    for arm in hypothesis.arms["a"]:
        levels.setdefault(arm.levels[hypothesis.over], []).append(arm)
    values = {level: measures.of(hypothesis.metric, arms) for level, arms in levels.items()}
    x = [math.log2(float(level)) for level in values]
    seeds = sorted(set.intersection(*(set(each) for each in values.values())))
    slopes = [
        statistics.linear_regression(x, [each[seed].low for each in values.values()]).slope
        for seed in seeds
        if all(counts(each[seed]) for each in values.values())
    ]
    return Effects.of(slopes)


def _fails(finding: Finding) -> bool:
    """Tell whether a check of the design is not met by its mean."""
    if finding.hypothesis.role != "check":
        return False
    low, high = finding.hypothesis.region.ends
    mean = finding.judged.mean
    return mean is None or not low < mean < high


def _about(plan: AnyPlan, role: str, measures: AnyMeasures) -> list[str]:
    """Say what is to be known of the whole: edges of grids, a ceiling, lagging buffers."""
    notes = []
    for arm in plan.study.arms:
        choice = plan.choice(arm) if role == "tuned" else None
        for note in choice.notes if choice else ():
            runs = plan.searches[plan.study.reference(arm).name].runs.values()
            calm = note == UNSTABLE and not any(
                run.state == "diverged" for at in runs for run in at
            )
            notes.append(f"{arm.name}: {'stuck at every lr' if calm else note}")
    means = []
    for arm in plan.study.arms:
        ends = [run.outcome() for run in measures.results(arm).values()]
        means += [stats.mean([end.value for end in ends if end])] if ends else []
    fixed = plan.study.tree["fixed"]
    name = "mnist5k" if fixed.get("data.train_size") == 3500 else str(fixed["data"])
    if means and max(means) > CEILING.get(name, math.inf):
        notes.append("near ceiling")
    return notes
