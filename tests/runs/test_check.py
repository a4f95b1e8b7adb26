"""The check of a cell by a few images: it says what the whole batch would be refused for."""

import pytest
import torch

from normbench.runs.check import check_fit
from normbench.settings import compose


def checked(*words, seen=None):
    line = ["data=synthetic", "data.shape=[1,8,8]", "model=mlp", "model.width=40", *words]
    (cell,) = compose.Grid(compose.loader()).cells(line, False)
    return check_fit(cell.config, cell.config.shape, cell.config.classes, seen)


@pytest.fixture
def forwards(monkeypatch):
    """The number of images of each forward through a dense layer."""
    seen, plain = [], torch.nn.Linear.forward

    def forward(self, x):
        seen.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    return seen


def test_a_large_batch_is_checked_by_two_images(forwards):
    assert checked("batch=256", "norm=bn").error is None
    assert set(forwards) == {2}


def test_a_norm_that_needs_more_images_sees_the_whole_batch(forwards):
    assert checked("batch=64", "norm=dbn").error is None
    assert set(forwards) == {2, 64}


def test_what_a_batch_is_too_small_for_is_said_of_the_whole_batch():
    error = str(checked("batch=40", "norm=dbn", "norm.groups=1").error)
    assert "input (40, 40) leaves 40 values per channel" in error


def test_the_sets_that_a_batch_is_cut_into_are_those_of_the_whole_batch():
    error = str(checked("batch=33", "norm=ghostbn", "norm.size=2").error)
    assert "leaves 1 value per channel and chunk" in error
    assert checked("batch=34", "norm=ghostbn", "norm.size=2").error is None


def test_workers_whose_batches_make_up_a_set_are_counted_by_the_whole_batch(forwards):
    words = ("gpus=4", "device=cpu", "batch=256", "norm=bn", "norm_batch=128")
    assert checked(*words).error is None
    assert set(forwards) == {2, 64}


def test_cells_that_differ_in_numbers_alone_share_one_look(forwards):
    seen = {}
    first = checked("norm=frn", seen=seen)
    looked = len(forwards)
    second = checked("norm=frn", "optimizer.lr=0.5", "seed=3", "target=0.01", seen=seen)
    assert looked == len(forwards) and len(seen) == 1
    texts = [warning.subject for warning in second.warnings]
    assert texts == ["target=0.01", *(warning.subject for warning in first.warnings)]


def test_an_optimizer_that_does_not_fit_is_refused_although_its_model_is_known():
    seen = {}
    assert checked(seen=seen).error is None
    error = checked("optimizer.momentum=0", "optimizer.nesterov=true", seen=seen).error
    assert "optimizer.nesterov=true: needs a momentum above 0" in str(error)
