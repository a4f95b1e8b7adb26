"""The sequential test: against numeric integration, and how often it decides wrongly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from normbench.results import sequential
from normbench.results.stats import Outcome

EXPERIMENTS, MOST = 10_000, 40
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
SHAPES: dict[str, Draw] = {
    "normal": lambda random, size: random.normal(size=size),
    "exponential": lambda random, size: random.exponential(size=size) - 1,
}


def decided(draw: Draw, effect: float = 0.0, sound: bool = True) -> np.ndarray:
    """The seeds at which each simulated pair is decided, a look after each; 0 if none is.

    Args: sound: whether skewness is corrected for, and a verdict on too skewed ones withheld.
    """
    x = draw(np.random.default_rng(0), (EXPERIMENTS, MOST)) + effect
    found = np.zeros(EXPERIMENTS, dtype=int)
    for n in range(sequential.LEAST, MOST + 1):
        d = x[:, :n]
        u, k = d.mean(1) / d.std(1, ddof=1), scipy_stats.skew(d, axis=1)
        tells = e_values(u, n) >= 20
        if sound:
            k_adjusted = k * math.sqrt(n * (n - 1)) / (n - 2)
            w = ((1 + k_adjusted * u / 3) ** 3 - 1) / k_adjusted + k_adjusted / (6 * n)
            tells &= (e_values(w, n) >= 20) & (u * w > 0) & (abs(k) <= sequential.skewness_bound(n))
        found = np.where((found == 0) & tells, n, found)
    return found


def e_values(u: np.ndarray, n: int) -> np.ndarray:
    """The e-values of standardized means, by t as the specification writes it."""
    t2 = n * u**2
    ratio = (1 + t2 / (n - 1)) / (1 + t2 / ((1 + n) * (n - 1)))
    return np.asarray(ratio ** (n / 2) / math.sqrt(1 + n))


def outcomes(values: list[float], failed: tuple[int, ...] = ()) -> list[Outcome | None]:
    return [Outcome(x, "stuck" if k in failed else "trained") for k, x in enumerate(values)]


def pair(first: list[Outcome | None], second: list[Outcome | None]) -> list[sequential.Pair]:
    return list(zip(first, second, strict=True))


@pytest.mark.parametrize("g", [0.25, 1.0, 4.0])
@pytest.mark.parametrize(
    "d", [[1.0, 2.0, 1.5, 0.2], [0.1, -0.3, 0.2, 0.0, 0.4, -0.1], [-3.0, -2.5, -3.5, -2.8, -3.1]]
)
@pytest.mark.parametrize("r", [0.0, 0.5])
def test_the_e_value_is_the_integral_of_the_likelihood_ratio(
    d: list[float], r: float, g: float
) -> None:
    n = len(d)
    t = (np.mean(d) - r) / (np.std(d, ddof=1) / math.sqrt(n))

    def weighed(delta: float) -> float:
        density = scipy_stats.nct.pdf(t, n - 1, math.sqrt(n) * delta)
        return float(density * scipy_stats.norm.pdf(delta, scale=math.sqrt(g)))

    total, _ = integrate.quad(weighed, -12 * math.sqrt(g), 12 * math.sqrt(g), limit=200)
    expected = total / scipy_stats.t.pdf(t, n - 1)
    assert sequential.e_value(d, r, g) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "d",
    [
        [0.8, 1.1, 0.4, 0.9, 1.3, 0.7],
        [0.1, 0.1, 0.15, 0.2, 0.2, 0.4],
        [-0.4, -0.2, -0.2, -0.15, -0.1, -0.1],
    ],
)
def test_the_confidence_sequence_ends_where_the_evidence_is_enough(d: list[float]) -> None:
    found = sequential.confidence_sequence(d, 0.05, (-math.inf, math.inf))
    assert found.mean == pytest.approx(np.mean(d))
    for bound in (found.low, found.high):
        assert sequential.evidence(d, bound) == pytest.approx(20)
    symmetric = [*d, *(2 * np.mean(d) - x for x in d)]
    found = sequential.confidence_sequence(symmetric, 0.05, (-math.inf, math.inf))
    assert sequential.e_value(symmetric, found.low) == pytest.approx(20)


def test_the_skewness_is_that_of_scipy() -> None:
    d = [0.1, 0.1, 0.15, 0.2, 0.2, 0.4]
    assert sequential.skewness(d) == pytest.approx(scipy_stats.skew(d, bias=False))
    assert sequential.skewness([0.1] * 5) == 0


def test_evidence_is_less_where_the_tail_would_reach_back() -> None:
    """Of d and -d the t test says the same; a tail away from 0 is no reason for doubt."""
    d = [0.1, 0.1, 0.15, 0.2, 0.2, 0.4]
    away, back = [0.3 + x for x in d], [x - 0.5 for x in d]
    assert sequential.evidence(away) == pytest.approx(sequential.e_value(away))
    assert sequential.evidence(back) < 0.2 * sequential.e_value(back)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_evidence_is_what_the_simulation_takes(at: int) -> None:
    d = np.random.default_rng(at).exponential(size=7) - 1.6
    u, k, n = d.mean() / d.std(ddof=1), scipy_stats.skew(d, bias=False), len(d)
    w = ((1 + k * u / 3) ** 3 - 1) / k + k / (6 * n)
    expected = min(e_values(np.array([u, w]), n)) if u * w > 0 else 8**-0.5
    assert sequential.evidence([*map(float, d)]) == pytest.approx(expected)


def test_on_4_seeds_nothing_is_excluded_and_bounds_are_cut_at_the_range() -> None:
    found = sequential.confidence_sequence([0.1, 0.1001, 0.1, 0.0999], 0.05, (-1, 1))
    assert (found.low, found.high) == (-1, 1)


def test_equal_differences_have_no_deviation_but_a_value() -> None:
    assert sequential.e_value([0.0] * 5) == pytest.approx(6**-0.5)
    assert sequential.e_value([0.1] * 3) == pytest.approx(4)  # 16 by t alone
    assert not sequential.too_skewed([0.1] * 5)


@pytest.mark.parametrize("n", [4, 5, 6, 8])
def test_equal_differences_are_decided_where_their_signs_alone_tell(n: int) -> None:
    """Of equal arms that are one image apart, n have the same sign with probability 2 / 2^n."""
    first, second = [outcomes([level - k / 100 for k in range(n)]) for level in (0.95, 0.9)]
    found = sequential.decide(pair(first, second), 40, 0.05)
    assert (found.verdict == "better") == (2 / 2**n <= 0.05)
    assert found.interval and (found.interval.low > 0) == (2 / 2**n <= 0.05)


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8, 12, 40])
def test_one_normal_sample_in_100_is_too_skewed(n: int) -> None:
    x = np.random.default_rng(1).normal(size=(100_000, n))
    share = np.mean(abs(scipy_stats.skew(x, axis=1)) > sequential.skewness_bound(n))
    assert 0.0085 < share < 0.0135  # D'Agostino's formula is exact from some 20 on
    told = [sequential.too_skewed([*map(float, row)]) for row in x[:200]]
    expected = abs(scipy_stats.skew(x[:200], axis=1)) > sequential.skewness_bound(n)
    assert told == [*expected]


def test_looks_begin_at_4_seeds_and_end_at_the_most() -> None:
    assert [*sequential.looks(40)] == [4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 40]
    assert [*sequential.looks(4)] == [4]
    assert [*sequential.looks(11)] == [4, 5, 6, 7, 8, 10, 11]


def test_a_pair_is_decided_at_the_first_look_that_tells_and_later_runs_change_nothing() -> None:
    first = outcomes([0.91, 0.92, 0.915, 0.918, 0.922, 0.5])
    second = outcomes([0.81, 0.825, 0.81, 0.815, 0.83, 0.9])
    found = sequential.decide(pair(first, second), 40, 0.05)
    assert (found.verdict, found.n, found.wanted) == ("better", 5, None)
    assert found.interval and found.interval.low > 0
    assert found == sequential.decide(pair(first[:5], second[:5]), 40, 0.05)
    assert sequential.decide(pair(second, first), 40, 0.05).verdict == "worse"
    early = sequential.decide(pair(first[:4], second[:4]), 40, 0.05)
    assert (early.verdict, early.n, early.wanted) == ("open", 4, 5)
    waiting = sequential.decide(pair([*first[:4], None], second[:5]), 40, 0.05)
    assert waiting == early


def test_equal_arms_are_undecided_when_the_seeds_are_spent() -> None:
    random = np.random.default_rng(3)
    arms = [outcomes([*map(float, random.normal(0.9, 0.01, 12))]) for _ in range(2)]
    found = sequential.decide(pair(*arms), 12, 0.05)
    assert (found.verdict, found.n) == ("undecided", 12)
    assert sequential.decide(pair(*arms), 40, 0.05).wanted == 15


def test_failures_are_told() -> None:
    values = [0.91, 0.92, 0.915, 0.918, 0.922, 0.91, 0.913, 0.925]
    good = outcomes([x - 0.1 - 0.002 * (k % 3) for k, x in enumerate(values)])
    often = sequential.decide(pair(outcomes(values, (0, 2, 4)), good), 40, 0.05)
    assert (often.verdict, often.n, often.failed) == ("fails", 6, (3, 0))
    once = sequential.decide(pair(outcomes(values, (1,)), good), 40, 0.05)
    assert (once.verdict, once.failed) == ("failures", (1, 0))
    other = sequential.decide(pair(good, outcomes(values, (1,))), 40, 0.05)
    assert other.verdict == "failures"


def test_a_verdict_on_skewed_differences_is_withheld() -> None:
    values = [0.01, 0.01, 0.01, 0.0104]
    arms = outcomes([0.9 + x for x in values]), outcomes([0.9] * 4)
    assert sequential.e_value(values) > 5
    last = sequential.decide(pair(*arms), 4, 0.2)
    assert (last.verdict, last.n) == ("skewed", 4)
    earlier = sequential.decide(pair(*arms), 40, 0.2)
    assert (earlier.verdict, earlier.wanted) == ("open", 5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_few_of_10_000_equal_arms_are_decided(shape: str) -> None:
    assert np.mean(decided(SHAPES[shape]) > 0) <= 0.05


@pytest.mark.slow
def test_few_of_10_000_normal_nulls_are_decided_by_t_alone() -> None:
    assert np.mean(decided(SHAPES["normal"], sound=False) > 0) <= 0.05


@pytest.mark.parametrize("g_n", [4, 8, 40])
def test_the_one_sided_e_value_is_that_of_a_half_normal_prior(g_n: int) -> None:
    """By numeric integration of the noncentral t over effects above 0; both sides average to E."""
    d = np.random.default_rng(g_n).normal(0.4, 1, g_n)
    d = np.concatenate([d, 2 * d.mean() - d])  # symmetric: no skewness to correct for
    n, r = len(d), float(d.mean() - 0.3 * d.std(ddof=1))
    t = (d.mean() - r) / d.std(ddof=1) * math.sqrt(n)

    def prior(delta: float) -> float:
        ratio = scipy_stats.nct.pdf(t, n - 1, delta * math.sqrt(n)) / scipy_stats.t.pdf(t, n - 1)
        return float(2 * scipy_stats.norm.pdf(delta) * ratio)

    expected, _ = integrate.quad(prior, 0, 6, limit=200)
    above = sequential.evidence_above(list(d), r)
    assert above == pytest.approx(expected, rel=1e-6)
    assert sequential.evidence(list(d), r) < above < 2 * sequential.evidence(list(d), r)
    assert sequential.evidence_above(list(d), float(d.mean())) == 0
