"""Decides a comparison while its seeds come in: a test that holds wherever one stops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from normbench.results import stats
from normbench.results.stats import Interval, Outcome

LEAST = 4  # seeds before the first look
SPREAD = 1.0  # g: variance of the standardized effect under the prior
EARLY = 6  # seeds of which at most a third may fail
SURE = NormalDist().inv_cdf(1 - 0.01 / 2)
# Skewness beyond which 1 of 100 normal samples is, of 1,000,000 drawn; then D'Agostino's formula.
SKEWNESS = {4: 1.137, 5: 1.396, 6: 1.532, 7: 1.590}

Pair = tuple[Outcome | None, Outcome | None]  # of one seed: what came of the two arms


@dataclass(frozen=True)
class Decision:
    """What is known of two arms after some seeds.

    Args: n: the seeds; d: the differences, first minus second, of those with which both trained;
    interval: the confidence sequence of their mean; failed: runs of both that failed; verdict:
    `better`, `worse`, `failures` (better, but it fails more often), `fails` (too often to
    compare), `skewed` or `undecided` at the last seed, `open` before it; wanted: the seeds of the
    next look, None where there is none.
    """

    n: int
    d: tuple[float, ...]
    interval: Interval | None
    failed: tuple[int, int]
    verdict: str
    wanted: int | None = None


def looks(most: int) -> Iterator[int]:
    """Give the numbers of seeds after which to look: 4, 5, 6, 7, 8, 10, 12, 15, .., most."""
    n = LEAST
    while n < most:
        yield n
        n += max(1, n // 4)
    yield most


def e_value(d: Sequence[float], r: float = 0.0, g: float = SPREAD) -> float:
    """Give the e-value against a mean difference of r, whatever the deviation.

    E = (1 + n g)^(-1/2) [(1 + t^2 / (n - 1)) / (1 + t^2 / ((1 + n g)(n - 1)))]^(n/2) with
    t = (m - r) / (s / sqrt(n)), the mean likelihood ratio of t under effects delta ~ N(0, g) in
    units of the deviation. Under the null, E reaches 1 / alpha at any n with a probability of at
    most alpha. Equal differences have no t: their E is at most 2^(n-1), with which n signs agree.

    Args: d: at least 2 finite differences.
    Source: Perez-Ortiz, Lardy, de Heide & Grunwald 2024; Wang & Ramdas 2024.
    """
    n, squares = len(d), _squares(d)
    far = n * (stats.mean(d) - r) ** 2
    if far <= n * stats.TIE**2:
        return _e(n, 0.0, g)
    return _e(n, far / squares, g) if squares else min(_e(n, math.inf, g), _of_signs(n))


def skewness(d: Sequence[float]) -> float:
    """Give the adjusted skewness, 0 where nothing deviates.

    n / ((n - 1) (n - 2)) sum (d - m)^3 / s^3 with s of divisor n - 1.

    Args: d: at least 3 finite differences.
    """
    n, m, s = len(d), stats.mean(d), math.sqrt(_squares(d) / (len(d) - 1))
    if not s:
        return 0.0
    return n / ((n - 1) * (n - 2)) * math.fsum(((x - m) / s) ** 3 for x in d)


def evidence(d: Sequence[float], r: float = 0.0) -> float:
    """Give the smaller of two e-values against a mean of r: of t, and of t less its skewness.

    A few values of a skewed distribution lie close together far from its mean, which t takes for an
    effect. Hall's transformation of u = (m - r) / s with the skewness k,
    w = u + k u^2 / 3 + k^2 u^3 / 27 + k / (6 n), is nearer to normal; where w has the other sign,
    there is no evidence. As it is never above `e_value`, no bound of that is lost.

    Args: d: at least 4 finite differences.
    Source: Hall 1992, On the removal of skewness by transformation.
    """
    n, far = len(d), _far(d, r)
    return min(_e(n, far), _of_signs(n)) if math.isinf(far) else _e(n, far)


def evidence_above(d: Sequence[float], r: float) -> float:
    """Give the e-value against a mean of at most r, as `evidence` with one-sided effects.

    The prior of `e_value` is restricted to delta > 0, so that the e-values of both sides have it as
    their mean: E+ is the sum over k of Gamma((n+k)/2) / Gamma(n/2) z^k / k! E|delta|^k e^(-n
    delta^2 / 2), z = t sqrt(2 n / (t^2 + n - 1)), whose even terms make E.

    Args: d: at least 4 finite differences.
    """
    n, far = len(d), _far(d, r)
    if stats.mean(d) <= r:
        return 0.0
    e = _e(n, far) + _odd(n, far)
    return min(e, 2.0**n) if math.isinf(far) else e  # n signs agree by chance once in 2^n


def confidence_sequence(d: Sequence[float], alpha: float, within: tuple[float, float]) -> Interval:
    """Give the means r against which `evidence` is too small: they hold the true one at all n.

    With c = (sqrt(1 + n g) / alpha)^(2/n), `e_value` rejects (m - r) / s beyond -/+ h,
    h^2 = (n - 1) (c - 1) / (n (1 - c / (1 + n g))); nothing while c >= 1 + n g. Hall's
    transformation, which rises, is undone: u = 3 / k (cbrt(1 + k (w - k / (6 n))) - 1).

    Args: d: at least 4 finite differences; alpha: 1 - coverage; within: where bounds are cut.
    """
    n, m, k, g = len(d), stats.mean(d), skewness(d), SPREAD
    s = math.sqrt(_squares(d) / (n - 1))
    c = (math.sqrt(1 + n * g) / alpha) ** (2 / n)
    room = 1 - c / (1 + n * g)
    if room <= 0 or not (s or _of_signs(n) * alpha >= 1):
        return Interval(m, *within, n)
    h = math.sqrt((n - 1) * (c - 1) / (n * room))

    def back(w: float) -> float:
        if abs(k) < stats.TIE**0.5:  # where the cube root has no digits left
            return w
        return 3 / k * (math.cbrt(1 + k * (w - k / (6 * n))) - 1)

    low, high = m - s * max(h, back(h)), m - s * min(-h, back(-h))
    return Interval(m, max(low, within[0]), min(high, within[1]), n)


def skewness_bound(n: int) -> float:
    """Give the size of the skewness that 1 of 100 samples of n normal values exceeds, n >= 4.

    Source: D'Agostino 1970, from 8 values on.
    """
    if n in SKEWNESS:
        return SKEWNESS[n]
    top = 3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3)
    kurtosis = top / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w2 = math.sqrt(2 * (kurtosis - 1)) - 1
    unit = math.sqrt(2 / (w2 - 1)) * math.sqrt(6 * (n - 2) / ((n + 1) * (n + 3)))
    return unit * math.sinh(SURE * math.sqrt(math.log(w2) / 2))


def too_skewed(d: Sequence[float]) -> bool:
    """Tell whether at least 4 differences are more skewed than normal ones are.

    Their skewness is here sum (d - m)^3 / n / (sum (d - m)^2 / n)^(3/2).
    """
    n = len(d)
    return abs(skewness(d)) * (n - 2) / math.sqrt(n * (n - 1)) > skewness_bound(n)


def decide(
    runs: Sequence[Pair], most: int, alpha: float, within: tuple[float, float] = (-1.0, 1.0)
) -> Decision:
    """Look at two arms after each round of seeds, until one is better or the seeds are spent.

    Args: runs: by seed, None of what has no result yet; most: the largest number of seeds; alpha:
    probability of a wrong decision between equal arms; within: where differences lie.
    Source: statistics.md, section 4.
    """
    before = Decision(0, (), None, (0, 0), "open", LEAST)
    for n in looks(most):
        known = [(a, b) for a, b in runs[:n] if a and b]
        if len(known) < n:
            return before
        failed = (sum(a.failed for a, _ in known), sum(b.failed for _, b in known))
        d = tuple(a.value - b.value for a, b in known if not (a.failed or b.failed))
        interval = confidence_sequence(d, alpha, within) if len(d) >= LEAST else None
        verdict = _verdict(known, d, failed, alpha)
        if verdict not in ("open", "skewed"):
            return Decision(n, d, interval, failed, verdict)
        if n < most:
            following = next(look for look in looks(most) if look > n)
            before = Decision(n, d, interval, failed, "open", following)
    return Decision(n, d, interval, failed, "undecided" if verdict == "open" else verdict)


def _verdict(
    known: Sequence[tuple[Outcome, Outcome]],
    d: Sequence[float],
    failed: tuple[int, int],
    alpha: float,
) -> str:
    """Say what one look tells: a verdict, `skewed` where it is withheld, or `open`."""
    early = [sum(pair[arm].failed for pair in known[:EARLY]) for arm in (0, 1)]
    if len(known) >= EARLY and max(early) > EARLY // 3:
        return "fails"
    if len(d) < LEAST or evidence(d) < 1 / alpha:
        return "open"
    if too_skewed(d):
        return "skewed"
    better = stats.mean(d) > 0
    if failed[0] != failed[1] and better == (failed[0] > failed[1]):
        return "failures"
    return "better" if better else "worse"


def _e(n: int, far: float, g: float = SPREAD) -> float:
    """Give the e-value of n values by t^2 / (n - 1)."""
    spread = 1 + n * g
    ratio = spread if math.isinf(far) else (1 + far) / (1 + far / spread)
    return float(ratio ** (n / 2) / math.sqrt(spread))


def _far(d: Sequence[float], r: float) -> float:
    """Give t^2 / (n - 1) against a mean of r, less what skewness explains of it."""
    n, squares = len(d), _squares(d)
    far = n * (stats.mean(d) - r) ** 2
    if far <= n * stats.TIE**2:
        return 0.0
    if not squares:
        return math.inf
    k, u = skewness(d), (stats.mean(d) - r) / math.sqrt(squares / (n - 1))
    w = u + k * u**2 / 3 + k**2 * u**3 / 27 + k / (6 * n)
    return min(far / squares, n * w**2 / (n - 1) if u * w > 0 else 0.0)


def _odd(n: int, far: float, g: float = SPREAD) -> float:
    """Give the odd terms of the one-sided e-value, those in which both sides differ."""
    share = 1.0 if math.isinf(far) else far / (1 + far)
    rate = n * share / (n + 1 / g)
    log = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - math.log(n + 1 / g)
    term, total, k = math.exp(log) * math.sqrt(4 * n * share / (math.pi * g)), 0.0, 1
    while term > total * 1e-15:
        total += term
        term *= rate * (n + k) / (k + 2)
        k += 2
    return total


def _of_signs(n: int) -> float:
    """Give the e-value of n differences of one sign, which chance gives 2 of 2^n times."""
    return 2.0 ** (n - 1)


def _squares(d: Sequence[float]) -> float:
    """Give the sum of squared deviations from the mean, 0 where they are rounding."""
    squares = (len(d) - 1) * statistics.variance(d)
    return squares if squares > len(d) * stats.TIE**2 else 0.0
