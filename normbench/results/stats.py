"""Statistics over seeds: means with intervals, paired tests, several comparisons at once.

Pure functions. Values of one configuration come as one number per seed; two configurations are
compared on the seeds they have in common, since runs with one seed share data order and weights.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normbench.results.distributions import beta_quantile, t_cdf, t_quantile

if TYPE_CHECKING:
    import numpy as np

FEWEST = 3  # seeds below which there is no interval
LEARNED = 0.05  # accuracy above chance from which a run has learned something
EXACT = 14  # seeds up to which all 2**n sign patterns are tried
PATTERNS = 50_000  # sign patterns tried beyond that
TIE = 1e-12  # differences of means below this are rounding


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values with the bounds of its interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Time:
    """How long something took to happen or, if it did not, how long it was waited for."""

    value: float
    reached: bool


@dataclass(frozen=True)
class MeanTime:
    """The mean of `n` times, of which `reached` came to an end: below `n` a lower bound."""

    mean: float
    interval: Interval | None
    reached: int
    n: int


@dataclass(frozen=True)
class PValues:
    """The p-values of one test: that the true mean is above r, below r, or different from r."""

    greater: float
    less: float
    both: float


@dataclass(frozen=True)
class Outcome:
    """What came of a run: its value, and whether it `trained`, was `stuck` or `diverged`.

    Args: value: nan where a run that failed has none; late: whether it is a time that the run did
    not reach, so that the value is a lower bound.
    """

    value: float
    kind: str = "trained"
    late: bool = False

    @property
    def failed(self) -> bool:
        """Tell whether the run counts as failed."""
        return self.kind != "trained"


def outcome(accuracy: float | None, chance: float, diverged: bool = False) -> Outcome:
    """Say what came of a run by its final accuracy on the set that is judged.

    It is stuck where that is at most 5 points above chance. The value of a run that diverged is
    chance; that of one that is stuck is its own.

    Args: accuracy: None or not finite where nothing could be measured, which is a divergence;
    chance: the share of the largest class of that set; diverged: whether the run ended so.
    Source: statistics.md, section 1.
    """
    if diverged or accuracy is None or not math.isfinite(accuracy):
        return Outcome(chance, "diverged")
    return Outcome(accuracy, "trained" if accuracy > chance + LEARNED + TIE else "stuck")


def failure_bound(failed: int, n: int, level: float = 0.95) -> float:
    """Give the one-sided upper bound of the rate of failure, of `failed` in `n` runs.

    The largest rate q at which so few failures still come with probability 1 - level:
    P(K <= failed | n, q) = 1 - level, that is q = Beta^-1(level; failed + 1, n - failed).

    Source: Clopper & Pearson 1934.
    """
    if failed >= n:
        return 1.0
    return beta_quantile(level, failed + 1, n - failed)


def mean(values: Sequence[float]) -> float:
    """Give the arithmetic mean, m = sum(x) / n."""
    return float(statistics.mean(values))  # exact: equal values give that value


def interval(
    values: Sequence[float],
    level: float = 0.95,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Interval | None:
    """Give the Student t interval of a mean, None below 3 values.

    m -/+ t(1 - (1 - level) / 2, n - 1) * s / sqrt(n), with s of divisor n - 1. Equal values
    give a point.

    Args: values: n finite numbers, one per seed; level: coverage, in 0 .. 1; within: the range
    of the metric, at which the bounds are cut.
    """
    n = len(values)
    if n < FEWEST:
        return None
    m = mean(values)
    half = t_quantile(1 - (1 - level) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(m, max(m - half, within[0]), min(m + half, within[1]), n)


def mean_time(times: Sequence[Time]) -> MeanTime:
    """Give the mean of times; a lower bound without interval where one was not reached.

    Those that were not reached count with the time they were waited for, so that the mean is too
    small rather than a choice of the lucky ones. No interval goes below 0.

    Args: times: at least one.
    """
    values = [time.value for time in times]
    reached = sum(time.reached for time in times)
    exact = reached == len(times)
    bounds = interval(values, within=(0.0, math.inf)) if exact else None
    return MeanTime(mean(values), bounds, reached, len(times))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """Give d_i = a_i - b_i for every seed i that both have, in the order of the seeds."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def t_test(d: Sequence[float], r: float = 0.0) -> PValues:
    """Test the mean of paired differences against r with Student's t.

    t = (m - r) / (s / sqrt(n)) with n - 1 degrees of freedom; greater: P(T >= t); less:
    P(T <= t); both: P(|T| >= |t|). Where all differences are equal there is no t: p is that of the
    exact sign-flip test, 2 / 2**n two-sided.

    Args: d: at least 2 finite numbers.
    """
    n, m, s = len(d), mean(d), statistics.stdev(d)
    if s <= TIE:
        above, below, pattern = m - r > TIE, r - m > TIE, 2.0**-n
        both = 2 * pattern if above or below else 1.0
        return PValues(pattern if above else 1.0, pattern if below else 1.0, both)
    t = (m - r) / (s / math.sqrt(n))
    less, greater = t_cdf(t, n - 1), t_cdf(-t, n - 1)
    return PValues(greater, less, min(1.0, 2 * min(greater, less)))


def sign_flip(
    d: Sequence[float], r: float = 0.0, generator: np.random.Generator | None = None
) -> PValues:
    """Test the mean of paired differences against r by flipping the signs of d - r.

    p is the share of sign patterns whose mean is at least as extreme as the observed one, ties
    (within 1e-12) and the observed pattern included: all 2**n patterns for n <= 14, else 50,000.

    Args: d: finite numbers; generator: draws the patterns for n > 14.
    Raises: ValueError for n > 14 without a generator.
    """
    n = len(d)
    shifted = [x - r for x in d]
    if n <= EXACT:
        sums = [0.0]
        for x in shifted:
            sums = [*(total + x for total in sums), *(total - x for total in sums)]
        observed, tie = sum(shifted), n * TIE
        shares = (
            sum(total >= observed - tie for total in sums),
            sum(total <= observed + tie for total in sums),
            sum(abs(total) >= abs(observed) - tie for total in sums),
        )
        greater, less, both = (share / 2**n for share in shares)
        return PValues(greater, less, both)
    if generator is None:
        raise ValueError(f"sign_flip: {n} values need a generator; up to {EXACT} need none")
    signs = 2 * generator.integers(0, 2, size=(PATTERNS, n), dtype="int8") - 1
    signs[0] = 1  # the observed pattern
    means, observed = (signs @ shifted) / n, mean(shifted)
    return PValues(
        float((means >= observed - TIE).mean()),
        float((means <= observed + TIE).mean()),
        float((abs(means) >= abs(observed) - TIE).mean()),
    )


def holm(pvalues: Sequence[float]) -> list[float]:
    """Adjust the p-values of K tests by Holm's procedure, in the order given.

    With p sorted ascending, adjusted_j = max over i <= j of min(1, (K - i + 1) * p_i). A test is
    rejected at level alpha where its adjusted p is at most alpha.

    Source: Holm 1979.
    """
    adjusted = [0.0] * len(pvalues)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        highest = max(highest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = highest
    return adjusted
