"""Tables, Markdown, CSV and documents of runs, by their text."""

import csv
import dataclasses
import io
import math
import subprocess
import sys

import pytest

from normbench.results import tables
from normbench.results.tables import Cell, Result, Table


def run(accuracy, state="finished", message=None, classes=10, **settings):
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    name = "-".join(f"{value}" for key, value in settings.items() if key != "seed")
    final = {} if accuracy is None else {"test/accuracy": accuracy, "gap/accuracy": 0.0}
    directory = f"outputs/runs/{name}/seed{settings.get('seed', 0)}"
    return Result(directory, settings, state, final, message, classes)


def seeded(accuracies, **settings):
    return [run(each, **settings, seed=seed) for seed, each in enumerate(accuracies)]


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


BN2, BN32 = [0.841, 0.80, 0.88], [0.970, 0.968, 0.972]
GN2, GN32 = [0.958, 0.962, 0.954], [0.966, 0.968, 0.967]
SWEEP = (
    seeded(BN2, norm="bn", batch=2)
    + seeded(BN32, norm="bn", batch=32)
    + seeded(GN2, norm="gn", batch=2)
    + seeded(GN32, norm="gn", batch=32)
)


def test_nothing_heavy_is_imported():
    code = (
        "import sys, normbench.results.tables, normbench.display.progress, normbench.results.stats;"
        "print({'torch', 'rich', 'scipy', 'numpy'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_swept_keys_are_those_that_vary_in_the_order_asked_for():
    cells = [
        {"model": "mlp", "norm": norm, "norm.groups": 8, "batch": batch, "seed": seed}
        for norm in ("bn", "gn")
        for batch in (2, 32)
        for seed in (0, 1)
    ]
    assert tables.swept(cells) == ["norm", "batch"]
    assert tables.swept(cells, ["batch", "model", "norm", "seed", "lr"]) == ["batch", "norm"]


def test_an_option_that_only_some_cells_have_is_not_swept():
    assert tables.swept([{"norm": "bn"}, {"norm": "gn", "norm.groups": 8}]) == ["norm"]


def test_lists_and_numbers_count_by_how_they_are_written():
    assert tables.swept([{"shape": [1, 2]}, {"shape": [1, 2]}, {"lr": 1.0}]) == []
    assert tables.swept([{"shape": [1, 2]}, {"shape": [2, 1]}]) == ["shape"]


def test_a_part_is_named_by_its_value_and_other_settings_by_their_last_word():
    assert tables.label("norm", "bn") == "bn"
    assert tables.label("optimizer.lr", 0.1) == "lr 0.1"
    assert tables.label("compile", True) == "compile true"
    assert tables.label("norm.eps", 1e-5, ["norm.eps", "optimizer.eps"]) == "norm.eps 1e-05"


def test_labels_of_cells_stand_below_each_other():
    cells = [{"norm": "bn", "batch": 2}, {"norm": "none", "batch": 32}]
    assert tables.labels(cells, ["norm", "batch"]) == ["bn    batch 2", "none  batch 32"]


def test_hostile_values_are_escaped_and_cut():
    assert tables.label("norm", "\x1b[31m\u202e\n") == "\\x1b[31m\\u202e\\n"
    assert len(tables.label("norm", "x" * 10**6)) == 80


def test_the_last_key_stands_across_and_the_others_down():
    table = tables.table(SWEEP, ["norm", "batch"])
    assert table.title == "test accuracy, %"
    assert table.head == ("norm", "batch 2", "batch 32")
    assert texts(table) == [
        ["bn", "84.0 [74.1, 94.0]", "97.0 [96.5, 97.5]"],
        ["gn", "95.8 [94.8, 96.8] *", "96.7 [96.5, 96.9]"],  # p = 0.044 at batch 2
    ]
    assert table.notes == (tables.STAR, "mean and 95 % interval of 3 seeds")


def test_values_are_in_the_order_in_which_they_come():
    table = tables.table(SWEEP[::-1], ["batch", "norm"])
    assert table.head == ("batch", "gn", "bn")
    assert [row[0].text for row in table.rows] == ["batch 32", "batch 2"]


def test_with_one_key_its_values_are_rows():
    table = tables.table(SWEEP[:3] + SWEEP[6:9], ["norm"])
    assert table.head == ("norm", "3 seeds")
    assert [row[0].text for row in table.rows] == ["bn", "gn"]


def test_without_keys_there_is_one_row():
    table = tables.table([run(0.9876, model="cnn", norm="gn", seed=4)], [])
    assert table.head == ("model", "norm", "seed 4")
    assert texts(table) == [["cnn", "gn", "98.76"]]


def test_more_than_six_values_do_not_stand_across():
    results = [run(0.5, norm="bn", batch=2**i) for i in range(7)]
    table = tables.table(results, ["norm", "batch"])
    assert table.head == ("norm", "batch", "seed 0")
    assert [row[1].text for row in table.rows] == [f"batch {2**i}" for i in range(7)]
    assert tables.table(results[:6], ["norm", "batch"]).head[1:] == tuple(
        f"batch {2**i}" for i in range(6)
    )


def test_two_decimals_show_differences_of_less_than_two_points():
    close = [run(0.9871, norm="bn"), run(0.9868, norm="gn")]
    assert texts(tables.table(close, ["norm"])) == [["bn", "98.71"], ["gn", "98.68"]]
    far = [run(0.9871, norm="bn"), run(0.1135, norm="gn")]
    assert texts(tables.table(far, ["norm"])) == [["bn", "98.7"], ["gn", "11.3"]]


def test_numbers_of_a_column_stand_below_each_other():
    results = [run(1.0, norm="bn"), run(0.09, norm="gn")]
    assert texts(tables.table(results, ["norm"])) == [["bn", "100.0"], ["gn", "  9.0"]]


def test_two_seeds_have_a_mean_and_one_note_instead_of_intervals():
    table = tables.table(seeded([0.9, 0.8], norm="bn") + seeded([0.4, 0.6], norm="gn"), ["norm"])
    assert texts(table) == [["bn", "85.0"], ["gn", "50.0"]]
    assert table.notes == ("too few seeds for an interval: 2, 3 give one",)


def test_where_only_some_cells_have_too_few_seeds_the_note_says_how_many():
    table = tables.table(SWEEP[:4], ["norm", "batch"])
    assert table.notes == (
        "mean and 95 % interval of 3 seeds",
        "too few seeds for an interval in 1 of 2 cells: 1, 3 give one",
    )


def test_the_star_marks_what_is_better_than_every_other_in_its_column():
    rows = {"bn": [0.84, 0.83, 0.85], "gn": [0.958, 0.962, 0.954], "ln": [0.9, 0.91, 0.905]}
    results = [each for norm, values in rows.items() for each in seeded(values, norm=norm)]
    table = tables.table(results, ["norm"])
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
    table = tables.table(results, ["norm"], "val/loss")
    assert table.title == "val loss"
    assert table.rows[1][1].text == "0.220 [0.195, 0.245] *"


def test_a_gap_has_no_best():
    results = [
        Result(f"{norm}/{s}", {"norm": norm, "seed": s}, "finished", {"gap/accuracy": gap})
        for norm, gap in (("bn", 0.5), ("gn", 0.0))
        for s in range(3)
    ]
    table = tables.table(results, ["norm"], "gap/accuracy")
    assert table.title == "train-eval gap, %"
    assert not any("*" in cell.text for row in table.rows for cell in row)


def test_a_diverged_run_counts_as_chance_and_is_marked():
    table = tables.table([run(None, "diverged", norm="none"), run(0.95, norm="bn")], ["norm"])
    assert table.rows[0][1] == Cell("10.0 diverged", "diverged")
    assert "diverged runs count as chance, 10.0" in table.notes


def test_what_a_diverged_run_had_reached_does_not_count():
    result = run(0.7, "diverged", classes=4)
    assert result.outcome("test/accuracy").value == 0.25
    assert result.outcome("test/loss").value == math.log(4)
    assert result.outcome("gap/accuracy").value == 0.0


def test_some_diverged_seeds_are_counted_in_their_cell():
    results = [*seeded([0.9, 0.9], norm="bn"), run(None, "diverged", norm="bn", seed=2)]
    (row,) = tables.table(results, ["norm"]).rows
    assert row[1].text == "63.33 [-51.40, 178.07] 1 diverged"


def test_a_failed_run_says_so_and_its_first_line_stands_below():
    failed = run(None, "failed", "ValueError: [red]bad\x1b[31m\nmore", norm="gn", batch=2, seed=1)
    table = tables.table([run(0.5, norm="bn", batch=2, seed=1), failed], ["norm", "batch"])
    assert table.rows[1][1] == Cell("failed", "failed")
    assert table.notes[-1] == "failed:  gn  batch 2  seed 1: ValueError: [red]bad\\x1b[31m"


def test_a_cell_of_which_some_seeds_failed_keeps_the_others():
    results = [*seeded([0.5, 0.6, 0.7], norm="bn"), run(None, "failed", norm="bn", seed=3)]
    (row,) = tables.table(results, ["norm"]).rows
    assert row[1] == Cell("60.00 [35.16, 84.84] 1 failed", "failed")


def test_many_failures_are_listed_up_to_five():
    results = [run(None, "failed", f"error {i}", norm="bn", batch=i) for i in range(9)]
    notes = tables.table(results, ["norm", "batch"]).notes
    assert len(notes) == 6
    assert notes[-1] == "and 4 more of this kind"


def test_cells_without_a_result_say_why():
    results = [
        run(0.5, norm="bn", batch=2),
        run(None, "does not apply", "one value per channel", norm="in", batch=2),
        run(None, "interrupted", norm="gn", batch=2),
        run(0.5, norm="bn", batch=4),
    ]
    table = tables.table(results, ["norm", "batch"])
    assert texts(table)[1:] == [
        ["in", "does not apply", "missing"],
        ["gn", "interrupted", "missing"],
    ]
    assert table.rows[1][1].style == "faint"
    assert "does not apply:  in  batch 2: one value per channel" in table.notes


def test_one_run_listed_twice_counts_once():
    table = tables.table([*SWEEP[:3], *SWEEP[:3]], ["norm"])
    assert table.notes == ("mean and 95 % interval of 3 seeds",)


def test_two_runs_with_one_seed_in_a_cell_are_refused():
    with pytest.raises(ValueError, match="two runs of one cell have seed 0: bn-32/seed0"):
        tables.table(SWEEP[:6], ["norm"])


def test_a_table_becomes_narrow_block_by_block():
    rows = ((Cell("bn"), Cell("1"), Cell("2")), (Cell("gn"), Cell("3"), Cell("4")))
    table = Table("t", ("norm", "a", "b"), rows, notes=(tables.STAR,))
    narrow = table.narrow()
    assert texts(narrow) == [["a", "bn", "1"], ["", "gn", "3"], ["b", "bn", "2"], ["", "gn", "4"]]
    assert (narrow.labels, narrow.head) == (2, ("", "norm", ""))
    assert narrow.notes == ("* better than every other in its block (Holm, 5 %)",)


def test_the_table_of_seeds_has_a_column_each_with_mean_and_interval():
    table = tables.seeds(seeded([0.958, 0.982, 0.934], norm="gn")[::-1])
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
    row = texts(tables.seeds(results))[1]
    assert row == ["train-eval gap", "+2.0", "-1.0", "0.0", "+0.3", "-3.5 .. +4.1"]


def test_one_seed_has_neither_mean_nor_note():
    table = tables.seeds(seeded([0.9876], norm="gn"))
    assert table.head == ("", "seed 0")
    assert texts(table) == [["test accuracy", "98.76"], ["train-eval gap", "0.00"]]
    assert table.notes == ()


def test_two_seeds_are_too_few_for_the_interval():
    table = tables.seeds(seeded([0.9, 0.8], norm="gn"))
    assert texts(table)[0] == ["test accuracy", "90.0", "80.0", "85.0", ""]
    assert table.notes == ("too few seeds for an interval: 2, 3 give one",)


def test_many_seeds_are_told_by_their_extremes():
    table = tables.seeds(seeded([0.5 + i / 10 for i in range(5)] + [0.6], norm="gn"))
    assert table.head == ("", "lowest", "highest", "mean", "95 % interval")
    assert texts(table)[0][:4] == ["test accuracy", "50.0", "90.0", "68.3"]


def test_seeds_without_a_result_stand_in_their_column():
    diverged, failed = run(None, "diverged", seed=1), run(None, "failed", "oops", seed=2)
    table = tables.seeds([run(0.9, seed=0), diverged, failed])
    assert texts(table)[0] == ["test accuracy", "90.0", "diverged", "failed", "50.0", ""]
    assert table.notes[1:] == ("diverged runs count as chance, 10.0", "failed:  seed 2: oops")


def test_markdown_is_a_table_with_its_notes():
    table = tables.table(SWEEP, ["norm", "batch"])
    assert tables.markdown(table) == (
        "test accuracy, %\n"
        "\n"
        "| norm | batch 2 | batch 32 |\n"
        "| --- | --- | --- |\n"
        "| bn | 84.0 [74.1, 94.0] | 97.0 [96.5, 97.5] |\n"
        "| gn | 95.8 [94.8, 96.8] * | 96.7 [96.5, 96.9] |\n"
        "\n"
        "- \\* better than every other in its column (Holm, 5 %)\n"
        "- mean and 95 % interval of 3 seeds\n"
    )


def test_markdown_sets_columns_of_numbers_to_the_right():
    table = Table("", ("layer", "parameters"), ((Cell("fc"), Cell("7")),), right=frozenset({1}))
    assert tables.markdown(table) == "| layer | parameters |\n| --- | ---: |\n| fc | 7 |\n"


def test_text_of_the_user_is_no_markup():
    evil = "a|b <script> [x](http://e) `*c*`"
    (row,) = tables.table([run(0.5, norm=evil)], ["norm"]).rows
    line = tables.markdown(Table("", ("k", "v"), (row,))).splitlines()[2]
    assert line == "| a\\|b &lt;script> \\[x\\](http://e) \\`\\*c\\*\\` | 50.00 |"


def test_csv_has_a_line_per_run_sorted_by_name_with_plain_numbers():
    results = [run(0.958, norm="gn", batch=2, seed=1), run(0.1, norm="bn", batch=2, seed=0)]
    assert tables.csv(results, ["norm", "batch"]) == (
        "run,norm,batch,seed,state,gap/accuracy,test/accuracy,message\n"
        "bn-2/seed0,bn,2,0,finished,0.0,0.1,\n"
        "gn-2/seed1,gn,2,1,finished,0.0,0.958,\n"
    )
    assert tables.csv(results[::-1], ["norm", "batch"]) == tables.csv(results, ["norm", "batch"])


@pytest.mark.parametrize("root", ["outputs", "/elsewhere/with space"])
def test_csv_does_not_depend_on_where_the_runs_lie(root):
    result = Result(f"{root}/runs/bn-b2-3f9c/seed0", {"seed": 0}, "finished", {})
    assert tables.csv([result], []).splitlines()[1] == "bn-b2-3f9c/seed0,0,finished,"


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@sum", "-1e", "+1+1", "-inf"])
def test_csv_cells_are_never_formulas(text):
    line = tables.csv([run(0.5, message=text, norm=text)], ["norm"]).splitlines()[1]
    cells = next(csv.reader(io.StringIO(line)))
    assert cells[1] == cells[-1] == f"'{text}"


@pytest.mark.parametrize("value, text", [(-0.5, "-0.5"), (-1e-07, "-1e-07"), ("-3", "-3")])
def test_csv_leaves_negative_numbers_alone(value, text):
    assert tables.csv([run(0.5, norm=value)], ["norm"]).splitlines()[1].split(",")[1] == text


def test_csv_writes_what_is_not_finite_as_nothing():
    result = Result("a/seed0", {"seed": 0}, "diverged", {"x": None, "y": math.nan, "z": 0.25})
    assert tables.csv([result], []) == "run,seed,state,x,y,z,message\na/seed0,0,diverged,,,0.25,\n"


def test_csv_quotes_and_escapes_what_would_break_a_line():
    line = tables.csv([run(0.5, norm='a,"b"\n\x1b')], ["norm"]).splitlines()[1]
    assert next(csv.reader(io.StringIO(line)))[1] == 'a,"b"\\n\\x1b'


def test_runs_are_documents_per_configuration_with_unrounded_numbers():
    (document,) = tables.runs(seeded(GN2, norm="gn", batch=2))
    assert (document["dir"], document["state"]) == ("outputs/runs/gn-2", "finished")
    assert document["config"] == {"norm": "gn", "batch": 2}
    assert document["mean"] == pytest.approx(0.958, abs=1e-15)
    assert document["interval"] == pytest.approx([0.958 - 0.0099366, 0.958 + 0.0099366], abs=1e-6)
    assert document["seeds"][1] == {
        "seed": 1,
        "state": "finished",
        "final": {"test/accuracy": 0.962, "gap/accuracy": 0.0},
        "train_s": None,
        "message": None,
    }


def test_a_document_tells_the_state_most_in_need_of_being_seen():
    results = [run(0.5, seed=0), run(None, "failed", seed=1), run(None, "diverged", seed=2)]
    (document,) = tables.runs(results)
    assert (document["state"], document["interval"]) == ("failed", None)


def further(accuracies, **settings):
    """A run with further tests."""
    found = run(0.9, **settings)
    final = {f"test/accuracy/{name}": value for name, value in accuracies.items()}
    return dataclasses.replace(found, final={**found.final, **final}, tests=list(accuracies))


def test_further_tests_are_listed_by_name_and_number():
    found = [
        further({"blank12": 0.5, "blank3": 0.6, "contrast*2": 0.1}),
        further({"blank0": 0.9, "contrast*0.5": 0.4}),
    ]
    names = ["blank0", "blank3", "blank12", "contrast*0.5", "contrast*2"]
    assert tables.further(found) == [f"test/accuracy/{name}" for name in names]
    assert tables.further(SWEEP) == []


def test_a_further_test_has_a_table_like_that_of_the_test():
    found = [
        further({"invert": share / 10 + seed / 100}, norm=norm, seed=seed)
        for norm, share in (("bn", 3), ("gn", 5))
        for seed in range(3)
    ]
    table = tables.table(found, ["norm"], "test/accuracy/invert")
    assert table.title == "test accuracy (invert), %"
    assert texts(table) == [["bn", "31.0 [28.5, 33.5]"], ["gn", "51.0 [48.5, 53.5] *"]]


def test_cells_without_a_further_test_are_not_in_its_table():
    diverged = run(None, "diverged", mix="none", norm="gn")
    found = [run(0.9, mix="none", norm="bn"), diverged, further({"plain": 0.8}, mix="inverted")]
    table = tables.table(found, ["mix"], "test/accuracy/plain")
    assert texts(table) == [["mix inverted", "80.00"]]
    assert len(tables.table(found, ["mix", "norm"]).rows) == 2


def test_a_diverged_run_counts_at_chance_in_further_tests_too():
    found = run(None, "diverged", norm="bn", classes=10)
    assert found.outcome("test/accuracy/invert").value == 0.1
    assert found.outcome("test/loss/invert").value == pytest.approx(math.log(10))


def test_the_table_of_seeds_has_a_row_for_each_further_test():
    table = tables.seeds([further({"invert": 0.25, "blank3": 0.5}, norm="bn", seed=4)])
    assert texts(table) == [
        ["test accuracy", "90.00"],
        ["test accuracy (blank3)", "50.00"],
        ["test accuracy (invert)", "25.00"],
        ["train-eval gap", "0.00"],
    ]


def test_further_tests_are_columns_of_the_csv():
    (line,) = csv.DictReader(io.StringIO(tables.csv([further({"contrast*2": 0.5})], [])))
    assert line["test/accuracy/contrast*2"] == "0.5"
