"""Intervals, paired tests and several comparisons, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from normbench.results import stats

# d, boundary, mean, bounds of the 95 % interval, larger p of t test and sign flip above and below
WELL = [1.2, 0.9, 1.6, 0.8, 1.1, 1.4, 1.0, 1.3]
WORSE = [-1.2, -0.8, -1.9, -1.1, -0.7, -1.5, -1.0, -1.3]
NOTHING = [0.1, -0.3, 0.4, 0.0, 0.2, -0.1, 0.3, 0.1]
NOISY = [0.2, 1.9, -0.4, 1.1, 0.6, 2.3, -0.2, 0.9]
REFERENCE = [
    (WELL, 0.5, 1.1625, 0.9393, 1.3857, 0.0039, 1),
    (NOTHING, 0.5, 0.0875, -0.0991, 0.2741, 1, 0.0039),
    (WORSE, 0.5, -1.1875, -1.5111, -0.8639, 1, 0.0039),
    (NOISY, 0.5, 0.8, 0.0006, 1.5994, 0.2109, 0.8086),
    ([3.1, 1.2, 2.4, 0.3, 4.0, 1.8, 2.9, 0.9], -0.5, 2.075, 1.0310, 3.1190, 0.0039, 1),
    ([-0.71, -0.34, -0.88, -0.42, -0.63, -0.51], -0.223, -0.5817, -0.7902, -0.3731, 1, 0.0156),
    ([0.6] * 7 + [9.0], 0.5, 1.65, -0.8329, 4.1329, 0.1548, 1),
    ([-0.1, 0.6, 1.1, 0.4, 0.7, 0.9], 0.1, 0.6, 0.1597, 1.0403, 0.0313, 0.9844),
]


@pytest.mark.parametrize("d, r, mean, low, high, above, below", REFERENCE)
def test_the_reference_cases_come_out_to_four_digits(d, r, mean, low, high, above, below):
    found, t, flip = stats.interval(d), stats.t_test(d, r), stats.sign_flip(d, r)
    assert [found.mean, found.low, found.high] == pytest.approx([mean, low, high], abs=5.1e-5)
    assert max(t.greater, flip.greater) == pytest.approx(above, abs=5.1e-5)
    assert max(t.less, flip.less) == pytest.approx(below, abs=5.1e-5)


def test_the_interval_of_1_2_3_is_worked_out_by_hand():
    half = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2), s = 1
    assert stats.interval([1.0, 2.0, 3.0]) == stats.Interval(
        2.0, pytest.approx(2 - half), pytest.approx(2 + half), 3
    )


def test_a_lower_level_uses_its_own_quantile():
    found = stats.interval([1.0, 2.0, 3.0, 4.0, 5.0], level=0.9)
    half = 2.131846786326649 * math.sqrt(2.5 / 5)  # t(0.95, 4), s squared = 2.5
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.7]])
def test_below_three_values_there_is_no_interval(values):
    assert stats.interval(values) is None


def test_equal_values_give_a_point():
    assert stats.interval([0.1, 0.1, 0.1]) == stats.Interval(0.1, 0.1, 0.1, 3)


def test_only_seeds_in_common_are_paired_and_in_their_order():
    a, b = {2: 0.9, 0: 0.5, 7: 0.1}, {0: 0.25, 2: 0.4, 3: 0.0}
    assert stats.paired_difference(a, b) == [0.25, 0.5]


def test_the_two_sided_t_test_agrees_with_the_interval():
    d = [0.5, 1.0, 1.5, 2.0]
    found = stats.interval(d)
    assert stats.t_test(d, found.low).both == pytest.approx(0.05)
    assert stats.t_test(d, found.high).both == pytest.approx(0.05)


@pytest.mark.parametrize(
    "r, greater, less, both", [(0.0, 1 / 16, 1, 2 / 16), (0.5, 1, 1 / 16, 2 / 16), (0.25, 1, 1, 1)]
)
def test_of_equal_differences_the_exact_test_decides(r, greater, less, both):
    assert stats.t_test([0.25] * 4, r) == stats.PValues(greater, less, both)
    assert stats.sign_flip([0.25] * 4, r) == stats.PValues(greater, less, both)


def test_differences_that_differ_by_rounding_are_equal():
    d = [0.3 - 0.2, 0.4 - 0.3, 0.9 - 0.8]
    assert len(set(d)) > 1
    assert stats.t_test(d).both == 2 / 8


@pytest.mark.parametrize("d", [WELL, WORSE, NOTHING, NOISY])
def test_both_tests_agree_with_scipy(d):
    from scipy.stats import permutation_test, ttest_1samp

    assert stats.t_test(d).both == pytest.approx(ttest_1samp(d, 0).pvalue)
    exact = permutation_test(
        (np.array(d),), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=np.inf
    )
    assert stats.sign_flip(d).both == pytest.approx(exact.pvalue)


def test_all_sign_patterns_are_counted_by_hand():
    found = stats.sign_flip([1.0, 2.0, 3.0])  # sums: 6 4 2 0 0 -2 -4 -6
    assert found == stats.PValues(1 / 8, 1.0, 2 / 8)
    assert stats.sign_flip([1.0, 2.0, -3.0]).greater == 5 / 8  # the observed 0 ties with another


def test_ties_within_rounding_count_as_ties():
    d = [0.1, 0.2, -0.3]  # the sum is 5.6e-17, not 0
    assert stats.sign_flip(d) == stats.PValues(5 / 8, 5 / 8, 1.0)


def test_fourteen_values_are_still_exact():
    assert stats.sign_flip([1.0] * 14).greater == 2**-14


def test_drawn_patterns_repeat_with_their_generator_and_hold_the_observed_one():
    d = [1.0] * 40
    first = stats.sign_flip(d, generator=np.random.default_rng(3))
    assert first == stats.sign_flip(d, generator=np.random.default_rng(3))
    assert first.greater == 1 / stats.PATTERNS


def test_drawn_patterns_agree_with_the_exact_test(monkeypatch):
    d = [0.3, -0.1, 0.4, 0.2, -0.2, 0.5, 0.1, 0.3]
    exact = stats.sign_flip(d)
    monkeypatch.setattr(stats, "EXACT", 4)
    drawn = stats.sign_flip(d, generator=np.random.default_rng(0))
    assert drawn.greater == pytest.approx(exact.greater, abs=0.005)
    assert drawn.both == pytest.approx(exact.both, abs=0.005)


def test_many_values_without_a_generator_are_refused():
    with pytest.raises(ValueError, match="15 values need a generator; up to 14 need none"):
        stats.sign_flip([1.0] * 15)


def test_holm_rejects_as_in_the_worked_example():
    adjusted = stats.holm([0.004, 0.011, 0.03, 0.0081])
    assert adjusted == pytest.approx([0.016, 0.0243, 0.03, 0.0243])
    assert [p <= 0.025 for p in adjusted] == [True, True, False, True]
    assert min(stats.holm([0.0069, 0.0081, 0.011, 0.2])) > 0.025


def test_holm_never_exceeds_one_and_takes_no_tests():
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_finite_has_diverged_and_counts_as_chance(value):
    assert stats.outcome(value, 0.1) == stats.Outcome(0.1, "diverged")


def test_a_diverged_run_counts_as_chance_whatever_it_reached():
    assert stats.outcome(0.7, 0.1, diverged=True) == stats.Outcome(0.1, "diverged")
    assert stats.outcome(0.7, 0.1) == stats.Outcome(0.7, "trained")


@pytest.mark.parametrize(
    ("accuracy", "chance", "kind"),
    [
        (0.15, 0.1, "stuck"),  # 0.1 + 0.05 is 0.15000000000000002
        (0.151, 0.1, "trained"),
        (0.02, 0.1, "stuck"),
        (0.94, 0.9, "stuck"),
        (0.06, 0.01, "stuck"),
        (0.061, 0.01, "trained"),
    ],
)
def test_at_most_five_points_above_chance_is_stuck(accuracy, chance, kind):
    found = stats.outcome(accuracy, chance)
    assert (found.kind, found.value, found.failed) == (kind, accuracy, kind == "stuck")


@pytest.mark.parametrize(("failed", "n", "percent"), [(0, 3, 63), (0, 5, 45), (0, 8, 31)])
def test_the_bound_of_the_rate_of_failure_is_that_of_the_page(failed, n, percent):
    assert round(100 * stats.failure_bound(failed, n)) == percent


@pytest.mark.parametrize(("failed", "n"), [(0, 1), (1, 3), (2, 10), (3, 3), (9, 10)])
def test_the_bound_of_the_rate_of_failure_is_clopper_and_pearson_s(failed, n):
    from scipy.stats import binomtest

    exact = binomtest(failed, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert stats.failure_bound(failed, n) == pytest.approx(exact)


def test_bounds_are_cut_at_the_range_of_the_metric():
    plain, cut = stats.interval([0.9, 1.0, 1.0]), stats.interval([0.9, 1.0, 1.0], within=(0, 1))
    assert plain.high > 1 == cut.high
    assert (cut.mean, cut.low) == (plain.mean, plain.low)


def test_the_mean_of_times_counts_what_was_not_reached_with_what_was_waited():
    times = [stats.Time(10.0, True), stats.Time(20.0, True), stats.Time(60.0, False)]
    assert stats.mean_time(times) == stats.MeanTime(30.0, None, reached=2, n=3)


def test_times_that_were_all_reached_have_an_interval_that_begins_at_0():
    found = stats.mean_time([stats.Time(value, True) for value in (1.0, 2.0, 9.0)])
    plain = stats.interval([1.0, 2.0, 9.0])
    assert plain.low < 0
    assert found.interval == stats.Interval(4.0, 0.0, plain.high, 3)
