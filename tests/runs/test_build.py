"""What runs of one process share: the images of a data set, whatever part of it they train on."""

from normbench.runs import build
from normbench.settings import compose


def loaded(*words):
    (cell,) = compose.Grid(compose.loader()).cells(["data=synthetic", "steps=1", *words], False)
    return build.data(cell.config)


def test_runs_that_differ_in_train_size_share_the_images():
    small, large = loaded("data.train_size=200"), loaded("data.train_size=300")
    assert (len(small.train), len(large.train)) == (200, 300)
    starts = {data.train.images.untyped_storage().data_ptr() for data in (small, large)}
    assert starts == {loaded().train.images.untyped_storage().data_ptr()}


def test_the_same_configuration_is_loaded_once():
    assert loaded("data.train_size=200") is loaded("data.train_size=200", "seed=3")
    assert loaded("mix=inverted") is loaded("mix=inverted", "seed=3")
