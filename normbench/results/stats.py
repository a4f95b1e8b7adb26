"""Statistics over seeds: means with intervals, paired tests, several comparisons at once.

Pure functions. Values of one configuration come as one number per seed; two configurations are
compared on the seeds they have in common, since runs with one seed share data order and weights.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

FEWEST = 3  # seeds below which there is no interval
EXACT = 14  # seeds up to which all 2**n sign patterns are tried
PATTERNS = 50_000  # sign patterns tried beyond that
TIE = 1e-12  # differences of means below this are rounding

Label = TypeVar("Label", bound=Hashable)


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
    """The number that counts for a run, and whether it stands in for a run that diverged."""

    value: float
    diverged: bool


def outcome(value: float | None, chance: float, diverged: bool = False) -> Outcome:
    """Give the number that counts for a run: its own, or chance level where it diverged.

    Args: value: as measured, None or not finite where nothing could be measured; chance: what
    guessing gives, such as 1 / classes; diverged: whether the run ended so. Diverged runs are
    a result: they are never dropped.
    """
    if diverged or value is None or not math.isfinite(value):
        return Outcome(chance, True)
    return Outcome(value, False)


def mean(values: Sequence[float]) -> float:
    """Give the arithmetic mean, m = sum(x) / n."""
    return float(statistics.mean(values))  # exact: equal values give that value


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Give the Student t interval of a mean, None below 3 values.

    m -/+ t(1 - (1 - level) / 2, n - 1) * s / sqrt(n), with s of divisor n - 1. Equal values
    give a point.

    Args: values: n finite numbers, one per seed; level: coverage, in 0 .. 1.
    """
    n = len(values)
    if n < FEWEST:
        return None
    from scipy.special import stdtrit

    m = mean(values)
    quantile = float(stdtrit(n - 1, 1 - (1 - level) / 2))
    half = quantile * statistics.stdev(values) / math.sqrt(n)
    return Interval(m, m - half, m + half, n)


def mean_time(times: Sequence[Time]) -> MeanTime:
    """Give the mean of times; a lower bound without interval where one was not reached.

    Those that were not reached count with the time they were waited for, so that the mean is too
    small rather than a choice of the lucky ones. No interval goes below 0.

    Args: times: at least one.
    """
    values = [time.value for time in times]
    reached = sum(time.reached for time in times)
    bounds = interval(values) if reached == len(times) else None
    if bounds:
        bounds = replace(bounds, low=max(0.0, bounds.low))
    return MeanTime(mean(values), bounds, reached, len(times))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """Give d_i = a_i - b_i for every seed i that both have, in the order of the seeds."""
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def t_test(d: Sequence[float], r: float = 0.0) -> PValues:
    """Test the mean of paired differences against r with Student's t.

    t = (m - r) / (s / sqrt(n)) with n - 1 degrees of freedom; greater: P(T >= t); less:
    P(T <= t); both: P(|T| >= |t|). Where all differences are equal, p is 0 on the side of the
    mean and 1 elsewhere: the sign-flip test then decides.

    Args: d: at least 2 finite numbers.
    """
    n, m, s = len(d), mean(d), statistics.stdev(d)
    if s <= TIE:
        above, below = m - r > TIE, r - m > TIE
        return PValues(float(not above), float(not below), float(not (above or below)))
    from scipy.special import stdtr

    t = (m - r) / (s / math.sqrt(n))
    less, greater = float(stdtr(n - 1, t)), float(stdtr(n - 1, -t))
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
    import numpy as np

    n = len(d)
    shifted = np.asarray(d, dtype=np.float64) - r
    if n <= EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    elif generator is None:
        raise ValueError(f"sign_flip: {n} values need a generator; up to {EXACT} need none")
    else:
        signs = 2 * generator.integers(0, 2, size=(PATTERNS, n), dtype=np.int8) - 1
        signs[0] = 1  # the observed pattern
    means, observed = (signs @ shifted) / n, shifted.mean()
    return PValues(
        float((means >= observed - TIE).mean()),
        float((means <= observed + TIE).mean()),
        float((np.abs(means) >= abs(observed) - TIE).mean()),
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


def best_of(
    column: Mapping[Label, Mapping[int, float]], *, alpha: float = 0.05, largest: bool = True
) -> Label | None:
    """Name the entry of a column that is better than every other, None where none is.

    The entry with the best mean is held against each other one by a paired two-sided t test on
    the seeds in common (at least 3); every p-value, adjusted by Holm, must be at most alpha.

    Args: column: by entry, its value per seed; entries without values are left out; largest:
    whether a larger value is better.
    """
    entries = {label: values for label, values in column.items() if values}
    if len(entries) < 2:
        return None
    sign = 1 if largest else -1
    best = max(entries, key=lambda label: sign * mean(list(entries[label].values())))
    others = [
        paired_difference(entries[best], entries[rival]) for rival in entries if rival != best
    ]
    if any(len(d) < FEWEST or sign * mean(d) <= 0 for d in others):
        return None
    return best if max(holm([t_test(d).both for d in others])) <= alpha else None
