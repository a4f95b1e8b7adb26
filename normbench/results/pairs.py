"""Compares configurations, paired by seed: differences, and whether one is better.

Runs with one seed share data order and weights, so that their difference varies less than they do.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from normbench.results import stats
from normbench.results.distributions import noncentrality, t_quantile

ALPHA = 0.05
POWER = 0.8
LATEST = 4  # times the waiting by which a target counts as reached at last
ENOUGH = 6  # seeds from which the exact test can reach it: 2 of 2**6 sign patterns

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True)
class Arm:
    """One configuration in a comparison.

    Args: values: by seed, of the runs that trained; failed: the runs that did not; n: all runs;
    late: the seeds whose value is a time that was waited for in vain.
    """

    values: Mapping[int, float]
    failed: int = 0
    n: int = 0
    late: frozenset[int] = frozenset()

    def bounds(self) -> tuple[Mapping[int, float], Mapping[int, float]]:
        """Give the least and the largest values it may have: a late time, and four times that."""
        most = {seed: LATEST * value for seed, value in self.values.items() if seed in self.late}
        return self.values, {**self.values, **most}


@dataclass(frozen=True)
class Comparison:
    """One arm held against another on the seeds with which both trained.

    Args: d: the paired differences, positive where the first is better; interval: of their mean,
    None below 3; p_t, p_flip: two-sided, by paired t and by exact sign flip; adjusted: `p_t`
    after Holm over the family; better: P(the first is better), the t distribution read as a
    posterior; failures: 1 where the first failed in a larger share of its runs than the second, -1
    where in a smaller one, else 0. Where a value is late, `d` has the least times, `interval`
    reaches over all that is possible, and p is the largest, 1 if the sign is not certain; sign: -1
    where smaller values are better, so that `d` is the second minus the first.
    """

    d: tuple[float, ...]
    interval: stats.Interval | None
    p_t: float
    p_flip: float
    adjusted: float
    better: float
    failures: int
    sign: int = 1

    @property
    def difference(self) -> stats.Interval | None:
        """Give the interval of the first minus the second, whichever is better."""
        if self.interval is None or self.sign > 0:
            return self.interval
        mean, low, high = self.interval.mean, self.interval.low, self.interval.high
        return stats.Interval(-mean, -high, -low, self.interval.n)

    @property
    def mean(self) -> float:
        """Give the mean difference, below all where no seeds are in common."""
        return stats.mean(self.d) if self.d else -math.inf

    @property
    def missing(self) -> str | None:
        """Say what is missing for the first arm to be called better; None where nothing is.

        `seeds`: too few for the exact test to reach 5 %; `difference`: the interval holds 0 after
        Holm, or the sign-flip test does not agree; `failures`: it failed more often.
        """
        if len(self.d) < ENOUGH:
            return "seeds"
        if self.mean <= 0 or max(self.adjusted, self.p_flip) > ALPHA:
            return "difference"
        return "failures" if self.failures > 0 else None

    @property
    def verdict(self) -> str:
        """Say what can be said: `better`, `worse`, or what of it is missing, as in `missing`."""
        other = replace(self, d=tuple(-x for x in self.d), failures=-self.failures)
        if self.missing is None or other.missing is None:
            return "worse" if self.missing else "better"
        return self.missing if self.mean > 0 else other.missing


def comparisons(family: Sequence[tuple[Arm, Arm]], largest: bool = True) -> list[Comparison]:
    """Hold the first of each pair of arms against the second, paired by seed.

    Args: family: what Holm's procedure is over; largest: whether a larger value is better.
    Source: statistics.md, section 2.
    """
    found = [_compared(arm, other, 1 if largest else -1) for arm, other in family]
    adjusted = stats.holm([comparison.p_t for comparison in found])
    return [replace(one, adjusted=p) for one, p in zip(found, adjusted, strict=True)]


def best(arms: Mapping[Label, Arm], largest: bool = True) -> Label | None:
    """Name the arm with the best mean over the runs that trained, None if none did."""
    sign = 1 if largest else -1
    trained = {label: [*arm.values.values()] for label, arm in arms.items() if arm.values}
    means = {label: sign * stats.mean(values) for label, values in trained.items()}
    return max(means, key=means.__getitem__, default=None)


def correlation(a: Mapping[int, float], b: Mapping[int, float]) -> float | None:
    """Give Pearson's r of the paired values of two arms, None where one does not vary.

    Pairing saves a factor 1 / (1 - r) of the seeds where both spread equally.
    """
    seeds = sorted(a.keys() & b.keys())
    pairs = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
    if len(seeds) < 2 or min(map(statistics.stdev, pairs)) <= stats.TIE:
        return None
    return statistics.correlation(*pairs)


def resolvable(n: int, sd: float) -> float:
    """Give the smallest true difference that n seeds tell from 0 in four of five experiments.

    It is delta = nc * sd / sqrt(n), with nc the noncentrality at which Student's t of n - 1 degrees
    of freedom exceeds t(1 - 5 % / 2, n - 1) with probability 80 %: a two-sided paired t test.

    Args: n: at least 2; sd: of the paired differences.
    """
    bound = t_quantile(1 - ALPHA / 2, n - 1)
    return noncentrality(POWER, bound, n - 1) * sd / math.sqrt(n)


def seeds_for(difference: float, sd: float) -> int | None:
    """Count the seeds that tell a difference from 0 in four of five experiments, None above 1,000.

    They are at least the 6 without which the exact test cannot agree.
    """
    counts = range(ENOUGH, 1001)
    found = bisect.bisect_left(counts, True, key=lambda n: resolvable(n, sd) <= difference)
    return counts[found] if found < len(counts) else None


def _compared(arm: Arm, other: Arm, sign: int) -> Comparison:
    """Compare two arms; of times that were not reached, in both extreme cases, of which the one
    that says less counts."""
    (least, most), (other_least, other_most) = arm.bounds(), other.bounds()
    failures = arm.failed * other.n - other.failed * arm.n
    found = _tested(least, other_least, sign, (failures > 0) - (failures < 0))
    if not (arm.late or other.late) or found.interval is None:
        return found
    cases = [_tested(least, other_most, sign, 0), _tested(most, other_least, sign, 0)]
    low, high = (pick(case.mean for case in cases) for pick in (min, max))
    certain = low * high > 0
    ends = [(case.interval.low, case.interval.high) for case in cases if case.interval]
    reach = stats.Interval(found.mean, min(ends)[0], max(end[1] for end in ends), len(found.d))
    p_t, p_flip = (
        max(getattr(case, p) for case in cases) if certain else 1.0 for p in ("p_t", "p_flip")
    )
    better = min((case.better for case in cases), key=lambda p: abs(p - 0.5)) if certain else 0.5
    return replace(found, interval=reach, p_t=p_t, adjusted=p_t, p_flip=p_flip, better=better)


def _tested(
    values: Mapping[int, float], others: Mapping[int, float], sign: int, failures: int
) -> Comparison:
    d = tuple(sign * x for x in stats.paired_difference(values, others))
    if len(d) < 2:
        return Comparison(d, None, 1.0, 1.0, 1.0, 0.5, failures, sign)
    generator = None
    if len(d) > stats.EXACT:
        import numpy as np

        generator = np.random.default_rng(0)
    t, flip = stats.t_test(d), stats.sign_flip(d, generator=generator)
    better = 0.5 if t.greater == t.less else 1 - t.greater  # differences of 0 favour neither
    return Comparison(d, stats.interval(d), t.both, flip.both, t.both, better, failures, sign)
