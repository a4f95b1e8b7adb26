"""Interactions and shares of the variance against hand-worked and scipy's values."""

import numpy as np
import pytest
from results.samples import seeded, texts
from scipy.stats import ttest_1samp

from normbench.results import factors
from normbench.results.layout import Layout

SEEDS = 7


def grid(effect, seeds=SEEDS, noise=0.001, inits=("default", "xavier")):
    """Accuracies 0.5 + an effect of norm and init + noise, and their runs."""
    generator = np.random.default_rng(5)
    values = {
        (norm, init): 0.5 + effect(norm, init) + noise * generator.standard_normal(seeds)
        for norm in ("none", "bn", "gn")
        for init in inits
    }
    runs = [
        result
        for (norm, init), accuracies in values.items()
        for result in seeded([*map(float, accuracies)], norm=norm, init=init)
    ]
    return values, Layout(runs, ["norm", "init"], "test/accuracy", "norm")


def bonus(norm, init):
    return 0.1 * (norm == "bn") + 0.05 * (init == "xavier") + 0.04 * (norm == init == "x")


def test_a_change_is_the_difference_of_the_differences():
    values, laid = grid(lambda norm, init: 0.1 * (norm == "bn") * (1 + (init == "xavier")))
    bn, gn = factors.changes(laid, "init")
    for change, norm in ((bn, "bn"), (gn, "gn")):
        d = values[norm, "xavier"] - values["none", "xavier"]
        d = d - (values[norm, "default"] - values["none", "default"])
        reference = ttest_1samp(d, 0)
        one = change.comparison
        assert one.d == pytest.approx(d)
        assert one.p_t == pytest.approx(reference.pvalue)
        ends = [one.difference.low, one.difference.high]
        assert ends == pytest.approx([*reference.confidence_interval()])
        assert (change.arm, change.base, change.there, change.here) == (
            norm,
            "none",
            "xavier",
            "default",
        )
    table, sentences = factors.interaction(laid, "init")
    assert table.title == "test accuracy, points: norm x init"
    assert [row[0] for row in texts(table)] == ["bn above none", "gn above none"]
    (sentence,) = sentences
    assert sentence.startswith("what bn is above none changes by +1")
    assert sentence.endswith("from default to xavier")


def test_changes_stand_apart_for_each_further_setting():
    _, laid = grid(bonus)
    runs = [
        type(each)(
            f"{each.directory}-{batch}", {**each.settings, "batch": batch}, each.state, each.final
        )
        for batch in (2, 8)
        for each in laid.results
    ]
    wide = Layout(runs, ["norm", "init", "batch"], "test/accuracy", "norm")
    assert [change.at for change in factors.changes(wide, "init")] == [
        *["batch 2"] * 2,
        *["batch 8"] * 2,
    ]
    over_batch = factors.changes(wide, "batch")
    assert [change.at for change in over_batch] == ["default", "default", "xavier", "xavier"]


def test_shares_are_those_of_a_two_way_analysis_with_seeds():
    values, laid = grid(bonus, noise=0.02)
    y = np.array(
        [[values[norm, init] for init in ("default", "xavier")] for norm in ("none", "bn", "gn")]
    )
    grand = y.mean()
    total = ((y - grand) ** 2).sum()
    norm = 2 * SEEDS * ((y.mean((1, 2)) - grand) ** 2).sum()
    init = 3 * SEEDS * ((y.mean((0, 2)) - grand) ** 2).sum()
    seed = 6 * ((y.mean((0, 1)) - grand) ** 2).sum()
    both = SEEDS * ((y.mean(2) - grand) ** 2).sum() - norm - init
    expected = np.array([norm, init, both, seed, total - norm - init - both - seed]) / total
    found = factors.shares(laid)
    assert [one.source for one in found] == ["norm", "init", "norm x init", "seed", "rest"]
    assert [one.share for one in found] == pytest.approx(expected)
    assert sum(one.share for one in found) == pytest.approx(1.0)


def test_the_interval_of_a_share_covers_what_more_seeds_come_to():
    _, many = grid(bonus, seeds=400, noise=0.03)
    truth = factors._split(*factors.cells(many), [*range(400)])["norm"]
    _, few = grid(bonus, seeds=8, noise=0.03)
    interval = factors.shares(few)[0].interval
    assert interval.low < truth < interval.high


def test_a_seed_that_fails_in_one_cell_is_left_out_of_all():
    values, laid = grid(bonus, noise=0.02)
    runs = [*laid.results]
    runs[0].final["test/accuracy"] = 0.1  # stuck
    table = factors.anova(Layout(runs, ["norm", "init"], "test/accuracy", "norm"))
    assert table.title == f"variance of test accuracy over {SEEDS - 1} seeds"


def test_a_missing_combination_is_no_analysis():
    _, laid = grid(bonus)
    few = [run for run in laid.results if run.settings != {**run.settings, "norm": "gn"}]
    runs = [run for run in few if run.settings["init"] != "xavier" or run.settings["norm"] != "bn"]
    with pytest.raises(factors.Unbalanced):
        factors.shares(Layout(runs, ["norm", "init"], "test/accuracy", "norm"))
