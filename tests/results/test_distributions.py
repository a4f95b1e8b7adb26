"""The distributions of the tests against scipy's."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from normbench.results import distributions, pairs, stats

DEGREES = (1, 2, 3, 5, 7, 11, 29, 99, 999)


@pytest.mark.parametrize("n", DEGREES)
def test_students_t(n):
    for t in (-30.0, -5.0, -2.1, -0.3, 0.0, 0.5, 3.0, 40.0):
        assert distributions.t_cdf(t, n) == pytest.approx(scipy.special.stdtr(n, t), rel=1e-12)
    for p in (0.01, 0.5, 0.8, 0.95, 0.975, 0.995, 0.9999):
        expected = scipy.special.stdtrit(n, p)
        assert distributions.t_quantile(p, n) == pytest.approx(expected, rel=1e-10, abs=1e-7)


@pytest.mark.parametrize("failed", range(6))
@pytest.mark.parametrize("n", [6, 7, 20, 300])
def test_the_bound_of_clopper_and_pearson(failed, n):
    result = scipy.stats.binomtest(failed, n, alternative="less")
    expected = result.proportion_ci(0.95, "exact").high
    assert stats.failure_bound(failed, n) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", DEGREES[1:])
def test_the_power_of_a_t_test(n):
    bound = scipy.special.stdtrit(n, 0.975)
    for delta in (0.0, 1.0, 2.8, 6.0):
        expected = scipy.stats.nct.sf(bound, n, delta) if delta else 0.025
        assert distributions.noncentral_t_tail(bound, n, delta) == pytest.approx(expected, rel=1e-6)
    delta = distributions.noncentrality(0.8, bound, n)
    assert scipy.stats.nct.sf(bound, n, delta) == pytest.approx(0.8, rel=1e-7)


def test_with_one_degree_of_freedom_power_is_that_of_simulation():
    generator = np.random.default_rng(0)
    z, w = generator.standard_normal((2, 400_000))
    for delta in (1.0, 16.0):
        share = np.mean((z + delta) / abs(w) > 12.706)
        found = distributions.noncentral_t_tail(12.706, 1, delta)
        assert found == pytest.approx(share, abs=4 * math.sqrt(0.25 / z.size))


def test_the_seeds_for_a_difference_are_the_first_that_resolve_it():
    for sd in (0.3, 1.0, 4.0):
        n = pairs.seeds_for(1.0, sd)
        assert pairs.resolvable(n, sd) <= 1.0
        assert n == pairs.ENOUGH or pairs.resolvable(n - 1, sd) > 1.0
    assert pairs.seeds_for(0.001, 1.0) is None
