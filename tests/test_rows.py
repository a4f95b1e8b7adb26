"""Rows and their JSON."""

import json
import math

import pytest

from normbench.rows import Row, TimeRow, from_json, to_json

TRAIN = Row("train", 50, 100, 0.002, {"train/loss": 0.1 + 0.2, "optim/lr": 1e-5, "batch/global": 2})


def test_a_row_comes_back_as_it_was():
    assert from_json(to_json(TRAIN)) == TRAIN


def test_a_timing_row_comes_back_as_it_was():
    row = TimeRow(50, 100, {"wall_s": 1.5, "process": "0a1b"})
    assert from_json(to_json(row)) == row


def test_the_fields_of_a_row_are_those_of_the_page():
    assert to_json(TRAIN) == (
        '{"kind": "train", "step": 50, "examples": 100, "epoch": 0.002, '
        '"batch/global": 2, "optim/lr": 1e-05, "train/loss": 0.30000000000000004}'
    )


def test_the_order_in_which_values_were_put_in_makes_no_difference():
    reverse = dict(reversed(TRAIN.values.items()))
    assert to_json(Row("train", 50, 100, 0.002, reverse)) == to_json(TRAIN)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(value):
    line = to_json(Row("train", 1, 2, 0.1, {"train/loss": value}))
    assert json.loads(line)["train/loss"] is None


def test_a_line_has_no_newline_and_only_ascii():
    line = to_json(Row("end", 1, 2, 0.1, {"bad_quantity": "a\nb\u202e"}))
    assert "\n" not in line and line.isascii()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "."),  # the words are those of the json module
        ('{"kind": ', "."),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000, "nested too deep"),
        ('{"step": 1, "examples": 1}', "none of the kinds"),
        ('{"kind": "tain", "step": 1, "examples": 1}', "none of the kinds"),
        ('{"kind": "val", "step": -1, "examples": 1, "epoch": 0}', "step is not an integer"),
        ('{"kind": "val", "step": true, "examples": 1, "epoch": 0}', "step is not an integer"),
        ('{"kind": "val", "step": 1, "examples": 1.5, "epoch": 0}', "examples is not an integer"),
        ('{"kind": "val", "step": 1, "examples": 1}', "epoch is not a number"),
        ('{"kind": "val", "step": 1, "examples": 1, "epoch": NaN}', "epoch is not a number"),
        ('{"kind": "val", "step": 1, "examples": 1, "epoch": 0, "a": NaN}', "'a' is not a finite"),
        (
            '{"kind": "val", "step": 1, "examples": 1, "epoch": 0, "a": 1e999}',
            "'a' is not a finite",
        ),
        ('{"kind": "val", "step": 1, "examples": 1, "epoch": 0, "a": [1]}', "'a' is not a finite"),
        ('{"kind": "time", "step": 1, "examples": 1, "a": true}', "'a' is not a finite"),
    ],
)
def test_what_is_no_row_is_refused(line, text):
    with pytest.raises(ValueError, match=text):
        from_json(line)
