"""The words on claims: reference cases to four digits, Holm, censoring, and false verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normbench.results import stats, verdict
from normbench.results.verdict import Effects, Region

NO_2 = "0.1 -0.3 0.4 0 0.2 -0.1 0.3 0.1"
BAND = Region("band", bounds=(math.log(1.15), math.log(1.25)))
# Region, effects, mean, lower, upper, p_sup, p_ref, verdict: studies.md, A.8.
CASES = [
    (Region("greater", 0.5), "1.2 0.9 1.6 0.8 1.1 1.4 1.0 1.3")
    + (1.1625, 0.9393, 1.3857, 0.0039, 1, "supported"),
    (Region("greater", 0.5), NO_2, 0.0875, -0.0991, 0.2741, 1, 0.0039, "refuted negligible"),
    (Region("greater", 0.5), "-1.2 -0.8 -1.9 -1.1 -0.7 -1.5 -1.0 -1.3")
    + (-1.1875, -1.5111, -0.8639, 1, 0.0039, "refuted reversed"),
    (Region("greater", 0.5), "0.2 1.9 -0.4 1.1 0.6 2.3 -0.2 0.9")
    + (0.8, 0.0006, 1.5994, 0.2109, 0.8086, "inconclusive"),
    (Region("equal", 0.5), NO_2, 0.0875, -0.0991, 0.2741, 0.0039, 1, "supported"),
    (Region("equal", 0.5), "0.9 0.8 1.1 0.7 1.0 0.9 1.2 0.8")
    + (0.925, 0.7855, 1.0645, 1, 0.0039, "refuted"),
    (Region("not_worse", 0.5), "3.1 1.2 2.4 0.3 4.0 1.8 2.9 0.9")
    + (2.075, 1.0310, 3.1190, 0.0039, 1, "supported"),
    (Region("less", 0.223), "-0.71 -0.34 -0.88 -0.42 -0.63 -0.51")
    + (-0.5817, -0.7902, -0.3731, 0.0156, 1, "supported"),
    (BAND, "0.186 0.184 0.189 0.185 0.187 0.183")
    + (0.1857, 0.1834, 0.1879, 0.0156, 1, "supported"),
    (Region("greater", 0.5), "0.6 0.6 0.6 0.6 0.6 0.6 0.6 9.0")
    + (1.65, -0.8329, 4.1329, 0.1548, 1, "inconclusive"),
    (Region("greater", 0.1), "-0.1 0.6 1.1 0.4 0.7 0.9")
    + (0.6, 0.1597, 1.0403, 0.0313, 0.9844, "inconclusive tests disagree"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].kind} {case[-1]}")
def test_reference_cases_to_four_digits(case: tuple) -> None:
    region, d, *numbers, word = case
    found = verdict.judge(Effects.of([float(x) for x in d.split()]), region)
    told = (found.mean, found.lower, found.upper, found.p_sup, found.p_ref)
    assert told == pytest.approx(numbers, abs=5.1e-5)
    assert " ".join(filter(None, (found.verdict, found.label, *found.notes))) == word


def test_censored_times_are_judged_in_both_extreme_cases() -> None:
    a = [120, 140, 140, 160, 140, 240]
    late = [(600, 2400)] * 2 + [(600, 600)] + [(600, 2400)] * 3
    low = tuple(math.log(x) - math.log(most) for x, (_, most) in zip(a, late, strict=True))
    high = tuple(math.log(x) - math.log(least) for x, (least, _) in zip(a, late, strict=True))
    found = verdict.judge(Effects(low, high), Region("less", 0.223))
    cases = [verdict.judge(Effects.of(d), Region("less", 0.223)) for d in (low, high)]
    told = [value for case in cases for value in (case.mean, case.lower, case.upper, case.p_sup)]
    expected = [-2.5241, -3.1269, -1.9214, 0.0156, -1.3689, -1.6205, -1.1173, 0.0156]
    assert told == pytest.approx(expected, abs=5.1e-5)
    assert (found.verdict, found.lower, found.upper) == ("supported", *[told[1], told[6]])


def test_holm_and_the_words_of_several_hypotheses() -> None:
    some = [0.004, 0.011, 0.03, 0.0081]
    assert [p <= verdict.ALPHA for p in stats.holm(some)] == [True, True, False, True]
    assert min(stats.holm([0.0069, 0.0081, 0.011, 0.2])) > verdict.ALPHA
    region = Region("greater", 0.5)
    good, bad = (
        verdict.judge(Effects.of([float(x) for x in CASES[place][1].split()]), region)
        for place in (0, 1)
    )
    assert verdict.combined([good, bad], "all")[0] == "refuted"
    assert verdict.combined([good, bad], "any")[0] == "supported"
    assert verdict.combined([good, good], "all")[0] == "supported"
    assert verdict.combined([good, bad], "each")[0] == "1 supported, 1 refuted"


def test_regions_end_at_the_smallest_effect_that_matters() -> None:
    ends = {kind: Region(kind, 0.5).ends for kind in verdict.REGIONS if kind != "band"}
    assert ends == {
        "greater": (0.5, math.inf),
        "less": (-math.inf, -0.5),
        "equal": (-0.5, 0.5),
        "not_worse": (-0.5, math.inf),
    }
    assert Region("band", bounds=(0.1, 0.2)).ends == (0.1, 0.2)


def test_how_many_seeds_can_decide_and_would_settle() -> None:
    counts = [verdict.fewest_seeds(k) for k in (0, 1, 2, 3, 4, 6, 7, 12, 13, 25)]
    assert counts == [6, 6, 7, 7, 8, 8, 9, 9, 10, 10]
    region = Region("greater", 0.5)
    found = verdict.judge(Effects.of([0.2, 1.9, -0.4, 1.1, 0.6, 2.3, -0.2, 0.9]), region)
    assert found.seeds == 42  # t(0.975, 41) 0.9562 / sqrt(42) = 0.298 < 0.3
    # 0.1 beyond the boundary: t(0.975, 99) / sqrt(100) is 0.0998 of 0.503, and 0.1002 of 0.505.
    assert verdict.judge(Effects.of([0.097, 0.6, 1.103]), region).seeds == 100
    assert verdict.judge(Effects.of([0.095, 0.6, 1.105]), region).seeds == 101
    assert verdict.judge(Effects.of([0.4, 0.6, 0.5]), region).seeds == 101  # more than that
    too_few = verdict.judge(Effects.of([0.9, 0.9]), region)
    assert (too_few.verdict, too_few.lower) == ("inconclusive", None)


def test_false_verdicts_at_the_boundary_are_within_alpha() -> None:
    """Draws whose true mean is a boundary of R: neither word comes more often than alpha."""
    generator, experiments = np.random.default_rng(16), 600
    error = 3 * math.sqrt(verdict.ALPHA * (1 - verdict.ALPHA) / experiments)
    for region, mean in [(Region("greater", 0.5), 0.5), (Region("equal", 0.5), -0.5)]:
        for n, sd in [(6, 0.1), (8, 1.0), (8, 10.0)]:
            draws = generator.normal(mean, sd, (experiments, n)).tolist()
            words = [verdict.judge(Effects.of(d), region).verdict for d in draws]
            for word in ("supported", "refuted"):
                assert words.count(word) / experiments <= verdict.ALPHA + error
