"""Tables of results, by their text."""

import subprocess
import sys
from dataclasses import replace

import pytest
from results.samples import BN2, BN32, GN2, GN32, SWEEP, further, run, seeded, texts

from normbench.results import compare, notes, seeds
from normbench.results.groups import Result
from normbench.results.layout import compared_key
from normbench.results.tables import TableCell

FIXED = notes.FIXED


def shown(results, keys, metric="test/accuracy"):
    return compare.table(compare.layout(results, keys, metric))


def over(seeds, bound):
    return (
        f"mean and 95 % interval (Student t) of {seeds} seeds, given that a run trains; "
        f"0 of {seeds} failures means at most {bound} %"
    )


def too_few(seeds, p):
    return (
        f"no norm can be called better on {seeds} seeds: the exact sign-flip test has p >= {p}, "
        "6 seeds are needed"
    )


def test_nothing_heavy_is_imported():
    code = (
        "import sys, normbench.display.progress;"
        "import normbench.results.compare, normbench.results.export;"
        "print({'torch', 'rich', 'scipy', 'numpy'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_the_compared_key_is_the_rows_and_the_other_stands_across():
    table = shown(SWEEP, ["norm", "batch"])
    assert table.title == "test accuracy, % by norm"
    assert table.head == ("norm", "batch 2", "batch 32")
    assert texts(table) == [
        ["bn", "84.0 [74.1, 94.0]", "97.0 [96.5, 97.5]"],
        ["gn", "95.8 [94.8, 96.8]", "96.7 [96.5, 96.9]"],
    ]
    power = (
        "between best and next, differences below 4.5 points are not resolvable with 6 seeds "
        "either (80 % power); 2.2 would take 18"
    )
    assert table.notes == (too_few(3, 0.25), power, over(3, 63), FIXED)


def test_what_is_resolvable_is_told_by_the_spread_of_the_paired_differences():
    """The differences of the best from each other, at both batch sizes, spread by sd together."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    pairs = [np.subtract(GN2, BN2), np.subtract(BN32, GN32)]
    sd = np.sqrt(np.mean([np.var(d, ddof=1) for d in pairs]))

    def power(difference, n):
        return nct.sf(t.ppf(0.975, n - 1), n - 1, difference * np.sqrt(n) / sd)

    least = brentq(lambda difference: power(difference, 6) - 0.8, 1e-3, 1)
    assert f"{100 * least:.2g}" == "4.5"
    assert power(least / 2, 17) < 0.8 < power(least / 2, 18)


def test_the_order_of_the_words_and_of_the_runs_changes_nothing():
    typed = [run for batch in (2, 32) for run in SWEEP if run.settings["batch"] == batch]
    assert shown(typed, ["batch", "norm"]) == shown(SWEEP, ["norm", "batch"])
    layout = compare.layout(typed, ["batch", "norm"])
    assert compare.differences(layout) == compare.differences(
        compare.layout(SWEEP, ["norm", "batch"])
    )


def test_values_are_in_the_order_in_which_they_come():
    table = shown(SWEEP[::-1], ["batch", "norm"])
    assert table.head == ("norm", "batch 32", "batch 2")
    assert [row[0].text for row in table.rows] == ["gn", "bn"]


@pytest.mark.parametrize(
    ("keys", "by"),
    [
        (["batch", "init", "norm"], "norm"),
        (["batch", "init"], "init"),
        (["batch", "model"], "model"),
        (["optimizer.lr", "batch"], "batch"),
        ([], ""),
    ],
)
def test_what_is_compared_is_the_norm_or_the_initializer_or_the_first(keys, by):
    assert compared_key(keys) == compared_key(keys[::-1]) == by


def test_another_key_can_be_compared():
    table = compare.table(compare.layout(SWEEP, ["norm", "batch"], by="batch"))
    assert (table.title, table.head) == ("test accuracy, % by batch", ("batch", "bn", "gn"))


def test_with_one_key_its_values_are_rows():
    table = shown(SWEEP[:3] + SWEEP[6:9], ["norm"])
    assert table.head == ("norm", "3 seeds")
    assert [row[0].text for row in table.rows] == ["bn", "gn"]


def test_without_keys_there_is_one_row():
    table = shown([run(0.9876, model="cnn", norm="gn", seed=4)], [])
    assert table.head == ("model", "norm", "seed 4")
    assert texts(table) == [["cnn", "gn", "98.76"]]


def test_more_than_six_values_do_not_stand_across():
    results = [run(0.5, norm=norm, batch=2**i) for norm in ("bn", "gn") for i in range(7)]
    table = shown(results, ["norm", "batch"])
    assert table.head == ("batch", "norm", "seed 0")
    assert [row[0].text for row in table.rows[::2]] == [f"batch {2**i}" for i in range(7)]
    assert shown(results[:6], ["norm", "batch"]).head[1:] == tuple(
        f"batch {2**i}" for i in range(6)
    )


def test_of_many_combinations_the_last_key_stands_across():
    words = [(norm, b, model) for model in "xyz" for norm in ("bn", "gn") for b in (2, 4, 8)]
    results = [run(0.5, norm=norm, batch=b, model=model) for norm, b, model in words]
    table = shown(results, ["model", "norm", "batch"])
    assert table.head == ("model", "norm", "batch 2", "batch 4", "batch 8")
    assert [row[0].text for row in table.rows] == ["x", "x", "y", "y", "z", "z"]
    few = [run for run in results if run.settings["model"] != "z"]
    assert shown(few, ["model", "norm", "batch"]).head[:3] == ("norm", "x  batch 2", "x  batch 4")


def test_two_decimals_show_differences_of_less_than_two_points():
    close = [run(0.9871, norm="bn"), run(0.9868, norm="gn")]
    assert texts(shown(close, ["norm"])) == [["bn", "98.71"], ["gn", "98.68"]]
    far = [run(0.9871, norm="bn"), run(0.1135, norm="gn")]
    assert texts(shown(far, ["norm"])) == [["bn", "98.7"], ["gn", "11.3 stuck"]]


def test_numbers_of_a_column_stand_below_each_other():
    results = [run(1.0, norm="bn"), run(0.09, norm="gn")]
    assert texts(shown(results, ["norm"])) == [["bn", "100.0"], ["gn", "  9.0 stuck"]]


def test_two_seeds_have_a_mean_and_one_note_instead_of_intervals():
    table = shown(seeded([0.9, 0.8], norm="bn") + seeded([0.4, 0.6], norm="gn"), ["norm"])
    assert texts(table) == [["bn", "85.0"], ["gn", "50.0"]]
    assert table.notes == ("2 seeds: an interval needs 3",)


def test_where_only_some_cells_have_too_few_seeds_the_note_says_how_many():
    table = shown(SWEEP[:4], ["norm", "batch"])
    assert table.notes == (
        over(3, 63),
        FIXED,
        "1 seed in 1 of 2 cells: an interval needs 3",
    )


SIX = {
    "none": [0.90, 0.91, 0.905, 0.90, 0.904, 0.91],
    "bn": [0.95, 0.96, 0.955, 0.95, 0.954, 0.961],
    "gn": [0.97, 0.98, 0.976, 0.97, 0.974, 0.981],
}


def sweep(arms):
    return [run for norm, values in arms.items() for run in seeded(values, norm=norm)]


def test_the_star_marks_what_is_better_than_every_other():
    table = shown(sweep(SIX), ["norm"])
    assert [cell.text.endswith(" *") for _, cell in table.rows] == [False, False, True]
    assert table.rows[2][1].style == "best"
    assert table.notes[0] == "* better than every other norm (paired by seed, Holm, 5 %)"


def test_the_star_says_at_which_same_settings():
    results = [*sweep(SIX)]
    results = [
        replace(run, settings={**run.settings, "batch": b}) for b in (2, 8) for run in results
    ]
    notes = shown(results, ["norm", "batch"]).notes
    assert (
        notes[0] == "* better than every other norm at the same batch (paired by seed, Holm, 5 %)"
    )


def test_equal_differences_on_three_seeds_have_no_star():
    """The exact test says p = 2 / 8, where the paired t test has no spread to divide by."""
    arms = {"bn": [0.97, 0.98, 0.99], "gn": [0.96, 0.97, 0.98]}
    table = shown(sweep(arms), ["norm"])
    assert not any("*" in cell.text for row in table.rows for cell in row)
    assert table.notes[0] == too_few(3, 0.25)


def test_the_best_that_is_not_alone_is_told_with_its_lead():
    arms = {**SIX, "bn": [0.97, 0.979, 0.977, 0.97, 0.973, 0.982]}
    notes = shown(sweep(arms), ["norm"]).notes
    assert notes[0] == (
        "bn is better than none (+7.0 [+6.9, +7.2]) but not distinguishable from gn "
        "(+0.00 [-0.09, +0.09])"
    )
    del arms["none"]
    assert shown(sweep(arms), ["norm"]).notes[0] == (
        "bn is best but not distinguishable from gn (+0.00 [-0.09, +0.09])"
    )


def test_an_arm_that_fails_more_often_is_not_called_better():
    arms = {"bn": [*SIX["bn"], 0.95], "gn": [*SIX["gn"], 0.11]}
    table = shown(sweep(arms), ["norm"])
    assert [row[1].text for row in table.rows] == [
        "95.4 [95.0, 95.9]",
        "97.5 [97.0, 98.0] 1/7 failed",
    ]
    assert table.notes[0] == (
        "gn +2.0 [+2.0, +2.1] above bn when both train, but 1/7 against 0/7 failed"
    )


def test_a_smaller_loss_is_better_and_is_no_percentage():
    results = [
        Result(f"{norm}/seed{seed}", {"norm": norm, "seed": seed}, "finished", {"val/loss": x})
        for norm in ("bn", "gn")
        for seed, x in enumerate(SIX[norm])
    ]
    table = shown(results, ["norm"], "val/loss")
    assert table.title == "val loss by norm"
    assert table.rows[0][1].text == "0.955 [0.950, 0.960] *"


def test_a_gap_has_no_best():
    results = [
        Result(f"{norm}/{s}", {"norm": norm, "seed": s}, "finished", {"gap/accuracy": gap + s / 99})
        for norm, gap in (("bn", 0.5), ("gn", 0.0))
        for s in range(6)
    ]
    table = shown(results, ["norm"], "gap/accuracy")
    assert table.title == "train-eval gap, % by norm"
    assert not any("*" in cell.text for row in table.rows for cell in row)


def test_a_diverged_run_counts_as_chance_and_is_marked():
    table = shown([run(None, "diverged", norm="none"), run(0.95, norm="bn")], ["norm"])
    assert table.rows[0][1] == TableCell("10.0 diverged", "diverged")
    assert table.notes[-1] == (
        "failures: 1 diverged, which counts as chance, 10.0 %: the share of the largest class"
    )


def test_an_end_at_chance_is_said():
    """With 90 % of the images in one class, 94 % is a run that has learned nothing."""
    stuck = replace(run(0.94, norm="none"), final={"test/accuracy": 0.94, "chance/test": 0.9})
    table = shown([stuck, run(0.96, norm="bn")], ["norm"])
    assert table.rows[0][1] == TableCell("94.0 stuck", "diverged")
    assert table.notes[-1] == (
        "failures: 1 stuck at most 5 points above chance, 90.0 %: the share of the largest class"
    )


def test_some_failed_seeds_are_counted_apart_from_the_values_of_the_others():
    results = [*seeded([0.9, 0.9, 0.12], norm="bn"), run(None, "diverged", norm="bn", seed=3)]
    (row,) = shown(results, ["norm"]).rows
    assert row[1].text == "90.00 2/4 failed"
    (row,) = shown([*results, run(0.9, norm="bn", seed=4)], ["norm"]).rows
    assert row[1].text == "90.00 [90.00, 90.00] 2/5 failed"


def test_a_cell_of_which_all_runs_fail_has_their_mean():
    (row,) = shown(seeded([0.1, 0.12, 0.08], norm="bn"), ["norm"]).rows
    assert row[1] == TableCell("10.00 3/3 failed", "diverged")


def test_bounds_stay_within_the_range_of_the_metric():
    (row,) = shown(seeded([0.99, 0.95, 0.999], norm="bn"), ["norm"]).rows
    assert row[1].text == "97.97 [91.49, 100.00]"


def test_a_failed_run_says_so_and_its_first_line_stands_below():
    failed = run(None, "failed", "ValueError: [red]bad\x1b[31m\nmore", norm="gn", batch=2, seed=1)
    table = shown([run(0.5, norm="bn", batch=2, seed=1), failed], ["norm", "batch"])
    assert table.rows[1][1] == TableCell("failed", "failed")
    assert table.notes[-1] == "failed:  gn  batch 2  seed 1: ValueError: [red]bad\\x1b[31m"


def test_a_cell_of_which_some_seeds_failed_keeps_the_others():
    results = [*seeded([0.5, 0.6, 0.7], norm="bn"), run(None, "failed", norm="bn", seed=3)]
    (row,) = shown(results, ["norm"]).rows
    assert row[1] == TableCell("60.00 [35.16, 84.84] 1 without result", "failed")


def test_many_failures_are_listed_up_to_five():
    results = [run(None, "failed", f"error {i}", norm="bn", batch=i) for i in range(9)]
    notes = shown(results, ["norm", "batch"]).notes
    assert len(notes) == 6
    assert notes[-1] == "and 4 more of this kind"


def test_cells_without_a_result_say_why():
    results = [
        run(0.5, norm="bn", batch=2),
        run(None, "does not apply", "one value per channel", norm="in", batch=2),
        run(None, "interrupted", norm="gn", batch=2),
        run(0.5, norm="bn", batch=4),
    ]
    table = shown(results, ["norm", "batch"])
    assert texts(table)[1:] == [
        ["in", "does not apply", "missing"],
        ["gn", "interrupted", "missing"],
    ]
    assert table.rows[1][1].style == "faint"
    assert "does not apply:  in  batch 2: one value per channel" in table.notes


def test_one_run_listed_twice_counts_once():
    table = shown([*SWEEP[:3], *SWEEP[:3]], ["norm"])
    assert table.notes == (over(3, 63), FIXED)


def test_two_runs_with_one_seed_in_a_cell_are_refused():
    with pytest.raises(ValueError, match="two runs of one cell have seed 0: bn-32/seed0"):
        shown(SWEEP[:6], ["norm"])


def test_the_table_of_seeds_has_a_column_each_with_mean_and_interval():
    table = seeds.seeds(seeded([0.958, 0.982, 0.934], norm="gn")[::-1])
    assert table.head == ("", "seed 0", "seed 1", "seed 2", "mean", "95 % interval")
    assert texts(table) == [
        ["test accuracy", "95.8", "98.2", "93.4", "95.8", "89.8 .. 100.0"],
        ["train-eval gap", "0.0", "0.0", "0.0", "0.0", ""],
    ]
    assert table.notes == (over(3, 63), FIXED)


def test_a_gap_has_its_sign():
    settings = [{"seed": seed} for seed in range(3)]
    results = [
        Result(f"x/seed{i}", s, "finished", {"test/accuracy": 0.5 + i / 10, "gap/accuracy": gap})
        for i, (s, gap) in enumerate(zip(settings, (0.02, -0.01, 0.0), strict=True))
    ]
    row = texts(seeds.seeds(results))[1]
    assert row == ["train-eval gap", "+2.0", "-1.0", "0.0", "+0.3", "-3.5 .. +4.1"]


def test_one_seed_has_neither_mean_nor_note():
    table = seeds.seeds(seeded([0.9876], norm="gn"))
    assert table.head == ("", "seed 0")
    assert texts(table) == [["test accuracy", "98.76"], ["train-eval gap", "0.00"]]
    assert table.notes == ()


def test_two_seeds_are_too_few_for_the_interval():
    table = seeds.seeds(seeded([0.9, 0.8], norm="gn"))
    assert texts(table)[0] == ["test accuracy", "90.0", "80.0", "85.0", ""]
    assert table.notes == ("2 seeds: an interval needs 3",)


def test_many_seeds_are_told_by_their_extremes():
    table = seeds.seeds(seeded([0.5 + i / 10 for i in range(5)] + [0.6], norm="gn"))
    assert table.head == ("", "lowest", "highest", "mean", "95 % interval")
    assert texts(table)[0][:4] == ["test accuracy", "50.0", "90.0", "68.3"]


def test_seeds_without_a_result_stand_in_their_column():
    diverged, failed = run(None, "diverged", seed=1), run(None, "failed", "oops", seed=2)
    table = seeds.seeds([run(0.9, seed=0), diverged, failed])
    assert texts(table)[0] == ["test accuracy", "90.0", "diverged", "failed", "90.0", ""]
    assert table.notes[1:] == (
        "failures: 1 diverged, which counts as chance, 10.0 %: the share of the largest class",
        "failed:  seed 2: oops",
    )


def test_a_seed_at_chance_says_so():
    table = seeds.seeds(seeded([0.9, 0.12], norm="gn"))
    assert [cell.text for cell in table.rows[0][1:4]] == ["90.0", "12.0 stuck", "90.0"]


def test_a_further_test_has_a_table_like_that_of_the_test():
    found = [
        further({"invert": share / 10 + seed / 100}, norm=norm, seed=seed)
        for norm, share in (("bn", 3), ("gn", 5))
        for seed in range(3)
    ]
    table = shown(found, ["norm"], "test/accuracy/invert")
    assert table.title == "test accuracy (invert), % by norm"
    assert texts(table) == [["bn", "31.0 [28.5, 33.5]"], ["gn", "51.0 [48.5, 53.5]"]]


def test_cells_without_a_further_test_are_not_in_its_table():
    diverged = run(None, "diverged", mix="none", norm="gn")
    found = [run(0.9, mix="none", norm="bn"), diverged, further({"plain": 0.8}, mix="inverted")]
    table = shown(found, ["mix"], "test/accuracy/plain")
    assert texts(table) == [["mix inverted", "80.00"]]
    assert len(shown(found, ["mix", "norm"]).rows) == 3


def test_the_table_of_seeds_has_a_row_for_each_further_test():
    table = seeds.seeds([further({"invert": 0.25, "blank3": 0.5}, norm="bn", seed=4)])
    assert texts(table) == [
        ["test accuracy", "90.00"],
        ["test accuracy (blank3)", "50.00"],
        ["test accuracy (invert)", "25.00"],
        ["train-eval gap", "0.00"],
    ]


def test_differences_to_the_baseline_have_their_interval_and_p():
    from scipy.stats import ttest_rel

    table = compare.differences(compare.layout(sweep(SIX), ["norm"]))
    assert (table.title, table.head) == (
        "test accuracy, points above none by norm",
        ("norm", "difference"),
    )
    found = ttest_rel(SIX["bn"], SIX["none"])
    low, high = (100 * bound for bound in found.confidence_interval())
    bn, gn = texts(table)
    assert bn == ["bn", f"+5.0 [{low:+.1f}, {high:+.1f}] p 0.031"]  # sign flip: 2 / 64
    assert gn[0] == "gn" and found.pvalue < 2 / 64
    assert table.notes == (notes.PAIRED,)


def test_differences_are_to_the_wanted_arm():
    layout = compare.layout(sweep(SIX), ["norm"], baseline="bn")
    assert [row[0].text for row in compare.differences(layout).rows] == ["none", "gn"]
    assert compare.differences(compare.layout(SWEEP, ["norm", "batch"])).rows[0][0].text == "gn"


def test_without_three_pairs_there_are_no_differences():
    arms = {"bn": [0.9, 0.91], "gn": [0.8, 0.85]}
    assert compare.differences(compare.layout(sweep(arms), ["norm"])) is None
    assert compare.differences(compare.layout(seeded([0.9] * 3, norm="bn"), [])) is None


def test_an_interval_of_equal_values_says_that_it_tells_nothing():
    assert notes.EQUAL in shown(seeded([0.95] * 3, norm="bn"), ["norm"]).notes
    assert notes.EQUAL not in shown(seeded([0.95, 0.95, 0.951], norm="bn"), ["norm"]).notes


def test_an_interval_of_equal_differences_says_so_too():
    arms = {"none": [0.96, 0.97, 0.98], "bn": [0.97, 0.98, 0.99]}
    table = compare.differences(compare.layout(sweep(arms), ["norm"]))
    assert "p 0.250" in " ".join(cell.text for cell in table.rows[0])
    assert notes.EQUAL in table.notes
    other = {**arms, "bn": [0.97, 0.98, 0.992]}
    assert notes.EQUAL not in compare.differences(compare.layout(sweep(other), ["norm"])).notes
