"""Claims judged while seeds come in: the words, and how often they are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from normbench.results import looks, sequential
from normbench.results.verdict import ALPHA, Effects, Judged, Region

CLEAR = [1.2, 0.9, 1.6, 0.8, 1.1, 1.4, 1.0, 1.3]


@pytest.mark.parametrize(
    ("kind", "shift", "word", "label"),
    [
        ("greater", 0, "supported", ""),
        ("greater", -2.3, "refuted", "reversed"),
        ("greater", -1.15, "refuted", "negligible"),
        ("less", -2.3, "supported", ""),
        ("equal", -1.15, "supported", ""),
        ("equal", 0, "refuted", ""),
        ("not_worse", -2.3, "refuted", ""),
        ("greater", -0.7, "inconclusive", ""),
    ],
)
def test_the_regions_at_one_look(kind: str, shift: float, word: str, label: str) -> None:
    found = looks.judge(Effects.of([x + shift for x in CLEAR]), Region(kind, 0.5))
    assert (found.verdict, found.label) == (word, label)


def test_what_was_said_stays_said_and_bounds_are_cut() -> None:
    before = looks.judge(Effects.of(CLEAR), Region("greater", 0.5), within=(-1.2, 1.2))
    later = looks.judge(Effects.of([*CLEAR, -1.0, -1.0]), Region("greater", 0.5), before)
    assert (later.verdict, later.p_sup, before.upper) == ("supported", before.p_sup, 1.2)
    early = looks.judge(Effects.of(CLEAR[:3]), Region("greater", 0.5))
    assert (early.verdict, early.lower, early.mean) == ("inconclusive", None, np.mean(CLEAR[:3]))


def test_censored_effects_are_judged_at_their_weaker_end() -> None:
    wide = Effects(tuple(CLEAR), tuple(x + 9 for x in CLEAR))
    assert looks.judge(wide, Region("less", 0.5)).verdict == "refuted"
    assert looks.judge(wide, Region("band", bounds=(0.5, 3.0))).verdict == "inconclusive"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["greater", "equal"])
def test_words_are_wrong_at_most_as_often_as_said(kind: str) -> None:
    """At a boundary neither word is true; a look after each round, 500 experiments."""
    region = Region(kind, 0.5)
    experiments, false = 500, {"supported": 0, "refuted": 0}
    for d in np.random.default_rng(0).normal(region.boundaries[0], 1, (experiments, 40)):
        found: Judged | None = None
        for n in sequential.looks(40):
            found = looks.judge(Effects.of([*map(float, d[:n])]), region, found)
            if found.verdict in false:
                false[found.verdict] += 1
                break
    error = 3 * np.sqrt(ALPHA * (1 - ALPHA) / experiments)
    assert max(false.values()) / experiments <= ALPHA + error
