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
ENOUGH = 6  # seeds from which the exact test can reach it: 2 of 2**6 sign patterns

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True)
class Arm:
    """One configuration in a comparison.

    Args: values: by seed, of the runs that trained; failed: the runs that did not; n: all runs.
    """

    values: Mapping[int, float]
    failed: int = 0
    n: int = 0


@dataclass(frozen=True)
class Comparison:
    """One arm held against another on the seeds with which both trained.

    Args: d: the paired differences, positive where the first is better; interval: of their mean,
    None below 3; p_t, p_flip: two-sided, by paired t and by exact sign flip; adjusted: `p_t`
    after Holm over the family; better: P(the first is better), the t distribution read as a
    posterior; failures: whether the first failed in a larger share of its runs.
    """

    d: tuple[float, ...]
    interval: stats.Interval | None
    p_t: float
    p_flip: float
    adjusted: float
    better: float
    failures: bool

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
        return "failures" if self.failures else None


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
    d = tuple(sign * x for x in stats.paired_difference(arm.values, other.values))
    failures = arm.failed * other.n > other.failed * arm.n
    if len(d) < 2:
        return Comparison(d, None, 1.0, 1.0, 1.0, 0.5, failures)
    generator = None
    if len(d) > stats.EXACT:
        import numpy as np

        generator = np.random.default_rng(0)
    t, flip = stats.t_test(d), stats.sign_flip(d, generator=generator)
    return Comparison(d, stats.interval(d), t.both, flip.both, t.both, 1 - t.greater, failures)
