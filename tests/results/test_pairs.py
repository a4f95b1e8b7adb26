"""Two configurations held against each other, against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy.stats import nct, permutation_test, t, ttest_rel

from normbench.results import pairs
from normbench.results.pairs import Arm

A = [0.958, 0.962, 0.954, 0.961, 0.957, 0.965, 0.960]
B = [0.951, 0.957, 0.953, 0.950, 0.955, 0.956, 0.949]


def arm(values, failed=0):
    return Arm(dict(enumerate(values)), failed, len(values) + failed)


def against(a, b, **words):
    (found,) = pairs.comparisons([(a, b)], **words)
    return found


def test_a_comparison_agrees_with_scipy():
    found, reference = against(arm(A), arm(B)), ttest_rel(A, B)
    low, high = reference.confidence_interval()
    assert found.p_t == found.adjusted == pytest.approx(reference.pvalue)
    assert [found.interval.low, found.interval.high] == pytest.approx([low, high])
    assert found.better == pytest.approx(t.cdf(reference.statistic, len(A) - 1))
    flipped = permutation_test(
        (A, B),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        permutation_type="samples",
        n_resamples=math.inf,
    )
    assert found.p_flip == pytest.approx(flipped.pvalue)
    assert found.missing is None


def test_a_smaller_loss_is_the_better_one():
    assert against(arm(B), arm(A), largest=False).missing is None
    assert against(arm(A), arm(B), largest=False).missing == "difference"


def test_only_seeds_with_which_both_trained_are_paired():
    a, b = Arm({0: 0.9, 2: 0.8, 3: 0.7}, 1, 4), Arm({0: 0.8, 1: 0.5, 3: 0.5}, 1, 4)
    assert against(a, b).d == pytest.approx((0.1, 0.2))


def test_below_six_seeds_nothing_is_better_since_the_exact_test_cannot_say_so():
    found = against(arm([0.97, 0.98, 0.99, 0.97, 0.98]), arm([0.1, 0.11, 0.1, 0.12, 0.1]))
    assert found.p_t < 1e-6
    assert (found.p_flip, found.missing) == (2 / 32, "seeds")
    assert against(arm(A[:6]), arm(B[:6])).p_flip == 2 / 64 <= pairs.ALPHA


def test_differences_of_0_favour_neither():
    found = against(arm(A), arm(A))
    assert (found.p_t, found.p_flip, found.better, found.missing) == (1, 1, 0.5, "difference")


def test_nothing_in_common_is_no_difference():
    found = against(Arm({0: 0.9}, 0, 1), Arm({1: 0.1}, 0, 1))
    assert (found.d, found.interval, found.mean, found.missing) == ((), None, -math.inf, "seeds")


def test_the_family_decides_where_single_tests_would_not():
    """Holm by hand: the smallest of two p counts twice."""
    near = [value - 0.003 * (1 + seed % 3) + 0.006 * (seed == 4) for seed, value in enumerate(A)]
    one, two = pairs.comparisons([(arm(A), arm(near)), (arm(A), arm(near))])
    assert one.adjusted == two.adjusted == pytest.approx(2 * ttest_rel(A, near).pvalue)


def test_the_exact_test_must_agree():
    """One difference of the other sign: the t test is at 4 %, 4 of 64 patterns are as extreme."""
    d = [0.02, 0.02, 0.02, 0.02, 0.02, -0.004]
    found = against(arm([0.9 + x for x in d]), arm([0.9] * 6))
    assert found.p_t < 0.05 < found.p_flip == 4 / 64
    assert found.missing == "difference"


def test_an_arm_that_fails_more_often_is_not_better():
    assert against(arm(A, failed=1), arm(B)).missing == "failures"
    assert against(arm(A, failed=1), arm(B, failed=1)).missing is None
    assert against(arm(A), arm(B, failed=2)).missing is None


def test_the_best_has_the_largest_mean_of_the_runs_that_trained():
    arms = {"a": arm([0.9, 0.91], failed=5), "b": arm([0.8, 0.81]), "failed": Arm({}, 3, 3)}
    assert pairs.best(arms) == "a"
    assert pairs.best(arms, largest=False) == "b"
    assert pairs.best({"failed": Arm({}, 3, 3)}) is None


def test_pairing_is_told_by_the_correlation_of_the_seeds_in_common():
    a, b = dict(enumerate(A)), {seed: value for seed, value in enumerate(B) if seed != 3}
    both = [seed for seed in a if seed in b]
    expected = np.corrcoef([a[seed] for seed in both], [b[seed] for seed in both])[0, 1]
    assert pairs.correlation(a, b) == pytest.approx(expected)
    assert pairs.correlation(a, dict.fromkeys(a, 0.5)) is None
    assert pairs.correlation({0: 0.1}, {1: 0.1}) is None


@pytest.mark.parametrize(("n", "sd"), [(6, 0.004), (8, 1.0), (17, 0.3), (40, 2.0)])
def test_what_is_resolvable_is_found_in_four_of_five_experiments(n, sd):
    difference = pairs.resolvable(n, sd)
    bound = t.ppf(0.975, n - 1)
    power = nct.sf(bound, n - 1, difference * math.sqrt(n) / sd)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_half_the_difference_takes_about_four_times_the_seeds():
    """By hand, from a table of the power of the paired t test: 1 sd takes 10, half a sd 34."""
    assert pairs.seeds_for(1.0, 1.0) == 10
    assert pairs.seeds_for(0.5, 1.0) == 34
    assert pairs.seeds_for(9.0, 1.0) == pairs.ENOUGH
    assert pairs.seeds_for(1e-6, 1.0) is None
