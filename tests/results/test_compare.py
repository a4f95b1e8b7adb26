"""Tables of results, by their text."""

import subprocess
import sys

import pytest
from results.samples import SWEEP, further, run, seeded, texts

from normbench.results import compare
from normbench.results.groups import Result
from normbench.results.tables import TableCell


def test_nothing_heavy_is_imported():
    code = (
        "import sys, normbench.display.progress;"
        "import normbench.results.compare, normbench.results.export;"
        "print({'torch', 'rich', 'scipy', 'numpy'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_the_last_key_stands_across_and_the_others_down():
    table = compare.table(SWEEP, ["norm", "batch"])
    assert table.title == "test accuracy, %"
    assert table.head == ("norm", "batch 2", "batch 32")
    assert texts(table) == [
        ["bn", "84.0 [74.1, 94.0]", "97.0 [96.5, 97.5]"],
        ["gn", "95.8 [94.8, 96.8] *", "96.7 [96.5, 96.9]"],  # p = 0.044 at batch 2
    ]
    assert table.notes == (compare.STAR, "mean and 95 % interval of 3 seeds")


def test_values_are_in_the_order_in_which_they_come():
    table = compare.table(SWEEP[::-1], ["batch", "norm"])
    assert table.head == ("batch", "gn", "bn")
    assert [row[0].text for row in table.rows] == ["batch 32", "batch 2"]


def test_with_one_key_its_values_are_rows():
    table = compare.table(SWEEP[:3] + SWEEP[6:9], ["norm"])
    assert table.head == ("norm", "3 seeds")
    assert [row[0].text for row in table.rows] == ["bn", "gn"]


def test_without_keys_there_is_one_row():
    table = compare.table([run(0.9876, model="cnn", norm="gn", seed=4)], [])
    assert table.head == ("model", "norm", "seed 4")
    assert texts(table) == [["cnn", "gn", "98.76"]]


def test_more_than_six_values_do_not_stand_across():
    results = [run(0.5, norm="bn", batch=2**i) for i in range(7)]
    table = compare.table(results, ["norm", "batch"])
    assert table.head == ("norm", "batch", "seed 0")
    assert [row[1].text for row in table.rows] == [f"batch {2**i}" for i in range(7)]
    assert compare.table(results[:6], ["norm", "batch"]).head[1:] == tuple(
        f"batch {2**i}" for i in range(6)
    )


def test_two_decimals_show_differences_of_less_than_two_points():
    close = [run(0.9871, norm="bn"), run(0.9868, norm="gn")]
    assert texts(compare.table(close, ["norm"])) == [["bn", "98.71"], ["gn", "98.68"]]
    far = [run(0.9871, norm="bn"), run(0.1135, norm="gn")]
    assert texts(compare.table(far, ["norm"])) == [["bn", "98.7"], ["gn", "11.3"]]


def test_numbers_of_a_column_stand_below_each_other():
    results = [run(1.0, norm="bn"), run(0.09, norm="gn")]
    assert texts(compare.table(results, ["norm"])) == [["bn", "100.0"], ["gn", "  9.0"]]


def test_two_seeds_have_a_mean_and_one_note_instead_of_intervals():
    table = compare.table(seeded([0.9, 0.8], norm="bn") + seeded([0.4, 0.6], norm="gn"), ["norm"])
    assert texts(table) == [["bn", "85.0"], ["gn", "50.0"]]
    assert table.notes == ("too few seeds for an interval: 2, 3 give one",)


def test_where_only_some_cells_have_too_few_seeds_the_note_says_how_many():
    table = compare.table(SWEEP[:4], ["norm", "batch"])
    assert table.notes == (
        "mean and 95 % interval of 3 seeds",
        "too few seeds for an interval in 1 of 2 cells: 1, 3 give one",
    )


def test_the_star_marks_what_is_better_than_every_other_in_its_column():
    rows = {"bn": [0.84, 0.83, 0.85], "gn": [0.958, 0.962, 0.954], "ln": [0.9, 0.91, 0.905]}
    results = [each for norm, values in rows.items() for each in seeded(values, norm=norm)]
    table = compare.table(results, ["norm"])
    assert [cell.text.endswith(" *") for _, cell in table.rows] == [False, True, False]
    assert table.rows[1][1].style == "best"
    assert table.notes[0] == "* better than every other in its column (Holm, 5 %)"


def test_a_smaller_loss_is_better_and_is_no_percentage():
    def lossy(norm, losses):
        return [
            Result(f"{norm}/seed{seed}", {"norm": norm, "seed": seed}, "finished", {"val/loss": x})
            for seed, x in enumerate(losses)
        ]

    results = lossy("bn", [0.51, 0.52, 0.53]) + lossy("gn", [0.21, 0.22, 0.23])
    table = compare.table(results, ["norm"], "val/loss")
    assert table.title == "val loss"
    assert table.rows[1][1].text == "0.220 [0.195, 0.245] *"


def test_a_gap_has_no_best():
    results = [
        Result(f"{norm}/{s}", {"norm": norm, "seed": s}, "finished", {"gap/accuracy": gap})
        for norm, gap in (("bn", 0.5), ("gn", 0.0))
        for s in range(3)
    ]
    table = compare.table(results, ["norm"], "gap/accuracy")
    assert table.title == "train-eval gap, %"
    assert not any("*" in cell.text for row in table.rows for cell in row)


def test_a_diverged_run_counts_as_chance_and_is_marked():
    table = compare.table([run(None, "diverged", norm="none"), run(0.95, norm="bn")], ["norm"])
    assert table.rows[0][1] == TableCell("10.0 diverged", "diverged")
    assert "diverged runs count as chance, 10.0" in table.notes


def test_some_diverged_seeds_are_counted_in_their_cell():
    results = [*seeded([0.9, 0.9], norm="bn"), run(None, "diverged", norm="bn", seed=2)]
    (row,) = compare.table(results, ["norm"]).rows
    assert row[1].text == "63.33 [-51.40, 178.07] 1 diverged"


def test_a_failed_run_says_so_and_its_first_line_stands_below():
    failed = run(None, "failed", "ValueError: [red]bad\x1b[31m\nmore", norm="gn", batch=2, seed=1)
    table = compare.table([run(0.5, norm="bn", batch=2, seed=1), failed], ["norm", "batch"])
    assert table.rows[1][1] == TableCell("failed", "failed")
    assert table.notes[-1] == "failed:  gn  batch 2  seed 1: ValueError: [red]bad\\x1b[31m"


def test_a_cell_of_which_some_seeds_failed_keeps_the_others():
    results = [*seeded([0.5, 0.6, 0.7], norm="bn"), run(None, "failed", norm="bn", seed=3)]
    (row,) = compare.table(results, ["norm"]).rows
    assert row[1] == TableCell("60.00 [35.16, 84.84] 1 failed", "failed")


def test_many_failures_are_listed_up_to_five():
    results = [run(None, "failed", f"error {i}", norm="bn", batch=i) for i in range(9)]
    notes = compare.table(results, ["norm", "batch"]).notes
    assert len(notes) == 6
    assert notes[-1] == "and 4 more of this kind"


def test_cells_without_a_result_say_why():
    results = [
        run(0.5, norm="bn", batch=2),
        run(None, "does not apply", "one value per channel", norm="in", batch=2),
        run(None, "interrupted", norm="gn", batch=2),
        run(0.5, norm="bn", batch=4),
    ]
    table = compare.table(results, ["norm", "batch"])
    assert texts(table)[1:] == [
        ["in", "does not apply", "missing"],
        ["gn", "interrupted", "missing"],
    ]
    assert table.rows[1][1].style == "faint"
    assert "does not apply:  in  batch 2: one value per channel" in table.notes


def test_one_run_listed_twice_counts_once():
    table = compare.table([*SWEEP[:3], *SWEEP[:3]], ["norm"])
    assert table.notes == ("mean and 95 % interval of 3 seeds",)


def test_two_runs_with_one_seed_in_a_cell_are_refused():
    with pytest.raises(ValueError, match="two runs of one cell have seed 0: bn-32/seed0"):
        compare.table(SWEEP[:6], ["norm"])


def test_the_table_of_seeds_has_a_column_each_with_mean_and_interval():
    table = compare.seeds(seeded([0.958, 0.982, 0.934], norm="gn")[::-1])
    assert table.head == ("", "seed 0", "seed 1", "seed 2", "mean", "95 % interval")
    assert texts(table) == [
        ["test accuracy", "95.8", "98.2", "93.4", "95.8", "89.8 .. 101.8"],
        ["train-eval gap", "0.0", "0.0", "0.0", "0.0", ""],
    ]
    assert table.notes == ()


def test_a_gap_has_its_sign():
    settings = [{"seed": seed} for seed in range(3)]
    results = [
        Result(f"x/seed{i}", s, "finished", {"test/accuracy": 0.5 + i / 10, "gap/accuracy": gap})
        for i, (s, gap) in enumerate(zip(settings, (0.02, -0.01, 0.0), strict=True))
    ]
    row = texts(compare.seeds(results))[1]
    assert row == ["train-eval gap", "+2.0", "-1.0", "0.0", "+0.3", "-3.5 .. +4.1"]


def test_one_seed_has_neither_mean_nor_note():
    table = compare.seeds(seeded([0.9876], norm="gn"))
    assert table.head == ("", "seed 0")
    assert texts(table) == [["test accuracy", "98.76"], ["train-eval gap", "0.00"]]
    assert table.notes == ()


def test_two_seeds_are_too_few_for_the_interval():
    table = compare.seeds(seeded([0.9, 0.8], norm="gn"))
    assert texts(table)[0] == ["test accuracy", "90.0", "80.0", "85.0", ""]
    assert table.notes == ("too few seeds for an interval: 2, 3 give one",)


def test_many_seeds_are_told_by_their_extremes():
    table = compare.seeds(seeded([0.5 + i / 10 for i in range(5)] + [0.6], norm="gn"))
    assert table.head == ("", "lowest", "highest", "mean", "95 % interval")
    assert texts(table)[0][:4] == ["test accuracy", "50.0", "90.0", "68.3"]


def test_seeds_without_a_result_stand_in_their_column():
    diverged, failed = run(None, "diverged", seed=1), run(None, "failed", "oops", seed=2)
    table = compare.seeds([run(0.9, seed=0), diverged, failed])
    assert texts(table)[0] == ["test accuracy", "90.0", "diverged", "failed", "50.0", ""]
    assert table.notes[1:] == ("diverged runs count as chance, 10.0", "failed:  seed 2: oops")


def test_a_further_test_has_a_table_like_that_of_the_test():
    found = [
        further({"invert": share / 10 + seed / 100}, norm=norm, seed=seed)
        for norm, share in (("bn", 3), ("gn", 5))
        for seed in range(3)
    ]
    table = compare.table(found, ["norm"], "test/accuracy/invert")
    assert table.title == "test accuracy (invert), %"
    assert texts(table) == [["bn", "31.0 [28.5, 33.5]"], ["gn", "51.0 [48.5, 53.5] *"]]


def test_cells_without_a_further_test_are_not_in_its_table():
    diverged = run(None, "diverged", mix="none", norm="gn")
    found = [run(0.9, mix="none", norm="bn"), diverged, further({"plain": 0.8}, mix="inverted")]
    table = compare.table(found, ["mix"], "test/accuracy/plain")
    assert texts(table) == [["mix inverted", "80.00"]]
    assert len(compare.table(found, ["mix", "norm"]).rows) == 2


def test_the_table_of_seeds_has_a_row_for_each_further_test():
    table = compare.seeds([further({"invert": 0.25, "blank3": 0.5}, norm="bn", seed=4)])
    assert texts(table) == [
        ["test accuracy", "90.00"],
        ["test accuracy (blank3)", "50.00"],
        ["test accuracy (invert)", "25.00"],
        ["train-eval gap", "0.00"],
    ]
