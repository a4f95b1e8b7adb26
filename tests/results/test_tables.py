"""Tables as text: narrow, as Markdown."""

from results.samples import run, texts

from normbench.results import compare, tables
from normbench.results.tables import Table, TableCell


def test_a_table_becomes_narrow_block_by_block():
    rows = (
        (TableCell("bn"), TableCell("1"), TableCell("2")),
        (TableCell("gn"), TableCell("3"), TableCell("4")),
    )
    table = Table("t", ("norm", "a", "b"), rows, notes=("of three seeds",))
    narrow = table.narrow()
    assert texts(narrow) == [["a", "bn", "1"], ["", "gn", "3"], ["b", "bn", "2"], ["", "gn", "4"]]
    assert (narrow.labels, narrow.head) == (2, ("", "norm", ""))
    assert narrow.notes == table.notes


def test_markdown_is_a_table_with_its_notes():
    rows = (
        (TableCell("bn"), TableCell("84.0 [74.1, 94.0]")),
        (TableCell("gn"), TableCell("95.8 [94.8, 96.8] *")),
    )
    table = Table("test accuracy, %", ("norm", "batch 2"), rows, notes=("* better", "3 seeds"))
    assert tables.markdown(table) == (
        "test accuracy, %\n"
        "\n"
        "| norm | batch 2 |\n"
        "| --- | --- |\n"
        "| bn | 84.0 [74.1, 94.0] |\n"
        "| gn | 95.8 [94.8, 96.8] * |\n"
        "\n"
        "- \\* better\n"
        "- 3 seeds\n"
    )


def test_markdown_sets_columns_of_numbers_to_the_right():
    table = Table(
        "", ("layer", "parameters"), ((TableCell("fc"), TableCell("7")),), right=frozenset({1})
    )
    assert tables.markdown(table) == "| layer | parameters |\n| --- | ---: |\n| fc | 7 |\n"


def test_text_of_the_user_is_no_markup():
    evil = "a|b <script> [x](http://e) `*c*`"
    (row,) = compare.table(compare.layout([run(0.5, norm=evil)], ["norm"])).rows
    line = tables.markdown(Table("", ("k", "v"), (row,))).splitlines()[2]
    assert line == "| a\\|b &lt;script> \\[x\\](http://e) \\`\\*c\\*\\` | 50.00 |"
