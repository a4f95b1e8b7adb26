"""Every arm against a baseline: the table in full, a sentence each, times that were not reached."""

from dataclasses import replace

import pytest
from results.samples import run, seeded, texts
from scipy.stats import ttest_rel

from normbench.results import against, pairs
from normbench.results.groups import Result
from normbench.results.layout import Layout
from normbench.results.pairs import Arm

NONE = [0.90, 0.91, 0.905, 0.90, 0.904, 0.91]
BN = [0.95, 0.961, 0.955, 0.949, 0.954, 0.961]
GN = [0.90, 0.911, 0.904, 0.90, 0.905, 0.909]
LOW = [0.85, 0.86, 0.855, 0.85, 0.854, 0.861]


def sweep(**arms):
    """Arms by name and batch: `bn_2=[...]`."""
    return [
        result
        for name, values in arms.items()
        for norm, batch in [name.split("_")]
        for result in seeded(values, norm=norm, batch=int(batch))
    ]


def measured(metric, **arms):
    """Runs that trained, with values of another metric."""
    return [
        Result(
            f"outputs/runs/{norm}/seed{seed}",
            {"norm": norm, "seed": seed},
            "finished",
            {"test/accuracy": 0.9, "val/accuracy": 0.9, metric: value},
        )
        for norm, values in arms.items()
        for seed, value in enumerate(values)
    ]


def test_a_row_has_difference_interval_both_tests_probability_seeds_and_failures():
    laid = Layout(sweep(none_2=NONE, bn_2=[*BN[:5], 0.11]), ["norm"], "test/accuracy", "norm")
    table = against.table(laid)
    reference = ttest_rel(BN[:5], NONE[:5])
    low, high = reference.confidence_interval()
    assert (table.title, table.head[1:]) == (
        "points above none",
        against.COLUMNS,
    )
    assert texts(table) == [
        [
            "bn",
            f"+5.0 [{100 * low:+.1f}, {100 * high:+.1f}]",
            "<0.001",
            f"{2 / 2**5:.3f}",
            ">0.99",
            "5",
            "1/6:0/6",
        ]
    ]


def test_a_sentence_says_where_an_arm_is_better_worse_and_neither():
    cells = sweep(
        none_2=NONE, bn_2=BN, none_8=NONE, bn_8=BN, none_32=NONE, bn_32=GN, none_64=NONE, bn_64=LOW
    )
    laid = Layout(cells, ["norm", "batch"], "test/accuracy", "norm")
    assert against.sentences(laid) == [
        "bn against none: better at batch 2, 8; not distinguishable at batch 32; worse at batch 64"
    ]


def test_settings_of_several_keys_are_written_out():
    cells = [
        replace(each, settings={**each.settings, "model": model})
        for model in ("mlp", "cnn")
        for each in sweep(none_2=NONE, bn_2=BN)
    ]
    laid = Layout(cells, ["norm", "model", "batch"], "test/accuracy", "norm")
    (sentence,) = against.sentences(laid)
    assert sentence == "bn against none: better at mlp  batch 2, cnn  batch 2"


def test_more_failures_keep_an_arm_from_being_called_better():
    laid = Layout(sweep(none_2=[*NONE, 0.9], bn_2=[*BN, 0.1]), ["norm"], "test/accuracy", "norm")
    assert against.sentences(laid) == [
        "bn against none: better when both train, but fails more often"
    ]
    laid = Layout(laid.results, ["norm"], "test/accuracy", "norm", "bn")
    assert against.sentences(laid) == [
        "none against bn: worse when both train, but fails less often"
    ]


def test_too_few_pairs_are_told_with_the_failures_that_left_so_few():
    laid = Layout(sweep(none_2=NONE, bn_2=[*BN[:4], 0.1, 0.1]), ["norm"], "test/accuracy", "norm")
    assert against.sentences(laid) == ["bn against none: too few pairs, 2/6 against 0/6 failed"]


def test_of_a_loss_the_smaller_is_better_and_the_difference_has_its_own_sign():
    laid = Layout(
        measured("test/loss", none=[2 - x for x in NONE], bn=[2 - x for x in BN]),
        ["norm"],
        "test/loss",
        "norm",
    )
    assert against.sentences(laid) == ["bn against none: better"]
    (row,) = texts(against.table(laid))
    assert row[1].startswith("-0.050 [-0.05")
    assert row[4] == ">0.99"


def test_of_a_gap_neither_is_better():
    laid = Layout(
        measured("gap/accuracy", none=[0.0] * 6, bn=[-0.05, -0.06, -0.055, -0.05, -0.054, -0.06]),
        ["norm"],
        "gap/accuracy",
        "norm",
    )
    assert against.sentences(laid) == ["bn against none: lower"]


def test_equal_arms_are_as_probably_better_as_worse():
    laid = Layout(sweep(none_2=NONE, bn_2=NONE), ["norm"], "test/accuracy", "norm")
    (row,) = texts(against.table(laid))
    assert row[1:5] == ["+0.00 [+0.00, +0.00]", "1.000", "1.000", "0.50"]


def test_without_the_baseline_there_is_no_table():
    laid = Layout(sweep(bn_2=BN), ["norm"], "test/accuracy", "norm", "none")
    assert against.table(laid) is None


FAST = {seed: 1000.0 + 10 * seed for seed in range(8)}


def test_a_late_time_counts_from_its_waiting_to_four_times_it():
    slow = {seed: 3000.0 + 11 * seed for seed in range(8)}
    late = Arm({**slow, 7: 5000.0}, 0, 8, frozenset({7}))
    (found,) = pairs.comparisons([(late, Arm(FAST, 0, 8))], largest=False)
    highest = [20000.0 - FAST[7] if seed == 7 else slow[seed] - FAST[seed] for seed in slow]
    reference = ttest_rel(highest, [0.0] * 8)
    lowest = [(5000.0 if seed == 7 else slow[seed]) - FAST[seed] for seed in slow]
    narrow = ttest_rel(lowest, [0.0] * 8)
    assert found.verdict == "difference"  # the late run alone makes the upper case unclear
    assert found.p_t == pytest.approx(max(reference.pvalue, narrow.pvalue))
    assert found.difference.high == pytest.approx(reference.confidence_interval().high)
    assert found.difference.low == pytest.approx(reference.confidence_interval().low)


def test_two_late_arms_say_nothing_of_each_other():
    waited = dict.fromkeys(range(8), 5000.0)
    arms = [Arm(waited, 0, 8, frozenset(waited)) for _ in range(2)]
    (found,) = pairs.comparisons([(arms[0], arms[1])], largest=False)
    assert (found.p_t, found.p_flip, found.better) == (1.0, 1.0, 0.5)
    assert (found.difference.low, found.difference.high) == (-15000.0, 15000.0)


def test_an_arm_that_always_arrives_is_faster_than_one_that_never_does():
    never = Arm(dict.fromkeys(range(8), 5000.0), 0, 8, frozenset(range(8)))
    (found,) = pairs.comparisons([(Arm(FAST, 0, 8), never)], largest=False)
    assert found.verdict == "better"
    assert found.difference.high < 1100 - 5000


def test_failures_can_be_counted_as_guesses():
    cells = [*seeded([0.9, 0.8, 0.12], norm="bn"), run(None, "diverged", norm="bn", seed=3)]
    laid = Layout(cells, ["norm"], "test/accuracy", "norm", as_chance=True)
    (block,) = laid.blocks.values()
    (group,) = block.groups.values()
    assert group.mean == pytest.approx((0.9 + 0.8 + 0.1 + 0.1) / 4)
    assert (group.failed, group.arm.failed) == (2, 0)
