"""Fresh test sets, McNemar's test and churn, against simulation and reference values."""

import numpy as np
import pytest
from results.samples import seeded, texts
from scipy.stats import binomtest, ttest_1samp

from normbench.results import images
from normbench.results.images import Right
from normbench.results.layout import Layout


def draws(random, n, m, seed_sd, image_sd, noise):
    return (
        0.5
        + seed_sd * random.standard_normal((n, 1))
        + image_sd * random.standard_normal((1, m))
        + noise * random.standard_normal((n, m))
    )


@pytest.mark.parametrize(
    ("seed_sd", "image_sd", "noise"), [(0.02, 0.4, 0.2), (0.1, 0.1, 0.3), (0.0, 0.4, 0.1)]
)
def test_the_interval_covers_the_mean_over_all_seeds_and_images(seed_sd, image_sd, noise):
    random = np.random.default_rng(0)
    found = [images.fresh(draws(random, 6, 200, seed_sd, image_sd, noise)) for _ in range(1000)]
    covered = np.mean([one.low <= 0.5 <= one.high for one in found])
    assert covered >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 1000)


def test_where_images_are_alike_it_is_the_interval_over_seeds():
    random = np.random.default_rng(1)
    table = 0.5 + 0.1 * random.standard_normal((7, 1)) + np.zeros((1, 50))
    found = images.fresh(table)
    reference = ttest_1samp(table.mean(1), 0.5).confidence_interval()
    assert [found.low, found.high] == pytest.approx([*reference])


def test_few_seeds_have_none_and_equal_ones_a_point():
    assert images.fresh(np.ones((2, 9))) is None
    found = images.fresh(np.ones((3, 9)))
    assert (found.low, found.mean, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 3), (0, 6), (12, 3), (200, 150)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    one = np.array([1.0] * b + [0.0] * c + [1.0] * 7)
    other = np.array([0.0] * b + [1.0] * c + [1.0] * 7)
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert images.mcnemar(one, other) == pytest.approx(expected, rel=1e-9)


def test_churn_is_the_share_on_which_seeds_differ():
    table = np.array([[1.0, 1, 0, 0], [1.0, 0, 0, 1], [1.0, 1, 0, 0]])
    assert images.churn(table) == pytest.approx((0.5 + 0.0 + 0.5) / 3)
    assert images.churn(table[:1]) is None


def test_the_table_has_each_arm_and_its_difference():
    random = np.random.default_rng(2)
    hits = {
        norm: (random.random((4, 100)) < share).astype(np.uint8)
        for norm, share in (("none", 0.6), ("bn", 0.9))
    }
    runs = [
        run
        for norm, rows in hits.items()
        for run in seeded([float(row.mean()) for row in rows], norm=norm)
    ]
    right = {
        run.directory: Right(np.packbits(hits[run.settings["norm"]][run.seed]).tobytes(), 100)
        for run in runs
    }
    laid = Layout(runs, ["norm"], "test/accuracy", "norm")
    none, bn = texts(images.table(laid, right))
    one, other = (hits[norm].astype(float) for norm in ("bn", "none"))
    assert bn[1].startswith(f"{100 * one.mean():.2f} [")
    assert bn[3].startswith(f"{100 * (one - other).mean():+.2f} [")
    told = sum(images.mcnemar(a, b) <= 0.05 for a, b in zip(one, other, strict=True))
    assert bn[4] == f"{told} of 4 seeds"
    assert none[3:] == ["-", "-"]
