"""Turns the effect of each seed into a word on a claim: supported, refuted or inconclusive.

A claim says in which region R the true effect lies. It is supported if the interval of the mean
lies inside R, refuted if it does not meet R, and an exact sign-flip test has to agree.
Pure functions; source: studies.md, A.4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from normbench.results import stats
from normbench.results.distributions import t_quantile

ALPHA = 0.025  # per side
MOST = 100  # seeds that are looked at for one that would settle it
SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
DISAGREE = "tests disagree"
REGIONS = ("greater", "less", "equal", "not_worse", "band")
COMBINE = ("all", "any", "each")


@dataclass(frozen=True)
class Region:
    """The open interval in which a claim puts the true effect.

    Args: kind: one of REGIONS; delta: the smallest effect that matters, above 0; bounds: of `band`.
    """

    kind: str
    delta: float = 0.0
    bounds: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Give its two ends; a half-line ends at infinity."""
        return (
            self.bounds
            or {
                "greater": (self.delta, math.inf),
                "less": (-math.inf, -self.delta),
                "equal": (-self.delta, self.delta),
                "not_worse": (-self.delta, math.inf),
            }[self.kind]
        )

    @property
    def boundaries(self) -> list[float]:
        """List the ends that are finite."""
        return [end for end in self.ends if math.isfinite(end)]


@dataclass(frozen=True)
class Effects:
    """The effect of each seed, as a pair of bounds where a value is censored.

    Args: low, high: the least and the largest possible effect, n each and equal where all is known.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, d: Sequence[float]) -> Effects:
        """Take effects that are known."""
        return cls(tuple(d), tuple(d))

    @property
    def n(self) -> int:
        """Count the seeds."""
        return len(self.low)


@dataclass(frozen=True)
class Judged:
    """What the effects say of one claim.

    Args: mean, sd: of the effects, of their middles where they are censored; lower, upper: the
    95 % interval; p_sup, p_ref: the larger of t and sign-flip p, against outside and inside R;
    signflip_p: that of the exact test in the direction nearer to a decision; adjusted: after
    Holm, of the smaller of both; verdict: one of the three words; label: how it is refuted; seeds:
    that would probably settle it, MOST + 1 for more, None where it is settled.
    """

    region: Region
    n: int
    mean: float | None
    sd: float | None
    lower: float | None
    upper: float | None
    p_sup: float
    p_ref: float
    signflip_p: float
    adjusted: float = 1.0
    verdict: str = INCONCLUSIVE
    label: str = ""
    notes: tuple[str, ...] = ()
    seeds: int | None = None
    stopped: bool = False  # whether something else than the tests stands against a word


def fewest_seeds(hypotheses: int) -> int:
    """Count the seeds with which the exact test can decide K hypotheses under Holm.

    The smallest n with 2**-n <= alpha / K.
    """
    return math.ceil(math.log2(max(1, hypotheses) / ALPHA))


def judge(effects: Effects, region: Region) -> Judged:
    """Judge one claim alone.

    Of censored effects both extreme cases are judged: the word stands only if both say it.
    Below 3 seeds there is no interval and no decision.
    """
    if effects.n < stats.FEWEST:
        known = stats.mean(effects.low) if effects.n and effects.low == effects.high else None
        return Judged(region, effects.n, known, None, None, None, 1.0, 1.0, 1.0)
    cases = [_tested(d, region) for d in dict.fromkeys((effects.low, effects.high))]
    middle = [(low + high) / 2 for low, high in zip(effects.low, effects.high, strict=True)]
    bounds = [stats.interval(d) for d in (effects.low, effects.high)]
    lows, highs = zip(*((each.low, each.high) for each in bounds if each), strict=True)
    sup, ref, flip, t_sup, t_ref = (
        max(case[place] for case in cases) for place in range(len(cases[0]))
    )
    found = Judged(
        region,
        effects.n,
        stats.mean(middle),
        statistics.stdev(middle),
        min(lows),
        max(highs),
        p_sup=sup,
        p_ref=ref,
        signflip_p=flip,
        adjusted=min(sup, ref),
    )
    t_alone = min(t_sup, t_ref) <= ALPHA < min(sup, ref)
    if t_alone:
        found = replace(found, notes=(DISAGREE,))
    return worded(found, sup <= ALPHA, ref <= ALPHA)


def combined(judged: Sequence[Judged], combine: str) -> tuple[str, list[Judged]]:
    """Join the primary hypotheses of a study into its word.

    all: supported if every p_sup <= alpha, refuted if Holm over the p_ref rejects one; any: the
    reverse; each: a word each, with Holm over both families, and a summary in place of one word.
    """
    all_sup, all_ref = (
        [1.0 if one.stopped else getattr(one, p) for one in judged] for p in ("p_sup", "p_ref")
    )
    sups, refs = stats.holm(all_sup), stats.holm(all_ref)
    adjusted = [
        replace(one, adjusted=min(sup, ref))
        for one, sup, ref in zip(judged, sups, refs, strict=True)
    ]
    if combine == "each":
        each = [
            worded(one, sup <= ALPHA, ref <= ALPHA, len(judged))
            for one, sup, ref in zip(adjusted, sups, refs, strict=True)
        ]
        return summary([one.verdict for one in each]), each
    needs_all = combine == "all"
    for_all = all_sup if needs_all else all_ref
    for_one = refs if needs_all else sups
    if all(p <= ALPHA for p in for_all):
        return (SUPPORTED if needs_all else REFUTED), adjusted
    if any(p <= ALPHA for p in for_one):
        return (REFUTED if needs_all else SUPPORTED), adjusted
    return INCONCLUSIVE, adjusted


def summary(verdicts: Sequence[str]) -> str:
    """Count the words: the word itself where it is one, else `2 supported, 1 refuted`."""
    counts = {word: verdicts.count(word) for word in (SUPPORTED, REFUTED, INCONCLUSIVE)}
    present = [(word, count) for word, count in counts.items() if count]
    if len(present) == 1:
        return present[0][0]
    return ", ".join(f"{count} {word}" for word, count in present)


def withheld(judged: Judged, note: str) -> Judged:
    """Take a word back, with the reason for it."""
    notes = tuple(dict.fromkeys((*judged.notes, note)))
    return replace(judged, verdict=INCONCLUSIVE, label="", notes=notes, stopped=True)


def worded(judged: Judged, supported: bool, refuted: bool, among: int = 1) -> Judged:
    """Put the word on it, how it is refuted, or how many seeds would settle it among others."""
    if supported or refuted:
        word = SUPPORTED if supported else REFUTED
        label = "" if supported else _label(judged)
        return replace(judged, verdict=word, label=label, seeds=None)
    seeds = None if judged.stopped else _settling(judged, among)
    return replace(judged, verdict=INCONCLUSIVE, label="", seeds=seeds)


def _label(judged: Judged) -> str:
    """Say how a claim that one arm is ahead is refuted: reversed, negligible, or by too little."""
    lower = -math.inf if judged.lower is None else judged.lower
    upper = math.inf if judged.upper is None else judged.upper
    kind, delta = judged.region.kind, judged.region.delta
    if kind not in ("greater", "less"):
        return ""
    if upper < -delta if kind == "greater" else lower > delta:
        return "reversed"
    inside = -delta < lower and upper < delta
    return "negligible" if inside else "smaller than delta"


def _settling(judged: Judged, among: int) -> int | None:
    """Count the seeds at which the half-width is below the distance to the nearest boundary.

    With `among` hypotheses the half-width is that of the first step of Holm.
    """
    if judged.mean is None or judged.sd is None:
        return None
    far = min(abs(judged.mean - end) for end in judged.region.boundaries)
    for n in range(fewest_seeds(among), MOST + 1):
        if t_quantile(1 - ALPHA / among, n - 1) * judged.sd / math.sqrt(n) < far:
            return n
    return MOST + 1


def _tested(d: Sequence[float], region: Region) -> tuple[float, float, float, float, float]:
    """Give p_sup, p_ref, the sign-flip p nearer to a decision, and both p of t alone."""
    low, high = region.ends
    generator = None
    if len(d) > stats.EXACT:
        import numpy as np  # so that the exact test, the usual one, does without

        generator = np.random.default_rng(0)
    inside, outside = [], []
    for end in region.boundaries:
        t, flip = stats.t_test(d, end), stats.sign_flip(d, end, generator)
        above, below = (t.greater, flip.greater), (t.less, flip.less)
        inside.append(above if end == low else below)
        outside.append(below if end == low else above)
    sup = max(max(pair) for pair in inside)
    ref = min(max(pair) for pair in outside)
    flips = max(flip for _, flip in inside), min(flip for _, flip in outside)
    t_sup, t_ref = max(t for t, _ in inside), min(t for t, _ in outside)
    return sup, ref, flips[sup > ref], t_sup, t_ref
