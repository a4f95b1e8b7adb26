"""Where one seed starts from other weights: a norm that brings an activation of another gain."""

from __future__ import annotations

import pytest

from normbench.settings.compose import Grid, loader
from normbench.sweeps.describe import unpaired


def told(*words: str) -> list[str]:
    cells = Grid(loader()).cells(words, True)
    return [mistake.text for mistake in unpaired(cell.config for cell in cells if cell.config)]


def test_frn_beside_another_norm_of_an_lstm_starts_from_other_weights() -> None:
    assert told("model=lstm", "norm=ln,frn,none", "init=kaiming_normal", "init.gain=null") == [
        "norm=frn: brings activation=tlu: with init=kaiming_normal its first weights are 0.849 "
        "times those of norm=ln with the same seed\n  try: activation=tlu or init.gain=1 for all"
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("model=cnn", "norm=bn,frn"),  # relu and tlu have one gain
        ("model=lstm", "norm=ln,frn", "activation=tlu"),
        ("model=lstm", "norm=ln,frn", "init=kaiming_normal", "init.gain=1"),
        ("model=mlp", "activation=relu,tanh"),  # which is what is compared
    ],
)
def test_other_runs_of_one_seed_start_from_the_same_weights(words: tuple[str, ...]) -> None:
    assert told(*words) == []
