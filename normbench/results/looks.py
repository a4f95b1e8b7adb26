"""Judges a claim while its seeds come in: `verdict` with the test of `sequential`. Pure functions.

Source: statistics.md, section 4; studies.md, A.4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from normbench.results import sequential, stats
from normbench.results.verdict import ALPHA, Effects, Judged, Region, worded

SKEWED = "differences too skewed"


def judge(
    effects: Effects,
    region: Region,
    before: Judged | None = None,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Judged:
    """Judge one claim alone at one look.

    p is the least 1 / E of all looks so far, E being the e-value against the effect lying outside
    (`p_sup`) or inside (`p_ref`) the region: at most alpha with a probability of at most alpha at
    any look (Ville). Of censored effects the weaker of both extreme cases counts. A look at effects
    that are more skewed than normal ones tells nothing.

    Args: before: what the look before this one said; within: where effects lie.
    """
    old = (before.p_sup, before.p_ref) if before else (1.0, 1.0)
    known = stats.mean(effects.low) if effects.n and effects.low == effects.high else None
    if effects.n < sequential.LEAST:
        return Judged(region, effects.n, known, None, None, None, *old, min(old))
    cases = list(dict.fromkeys((effects.low, effects.high)))
    skewed = any(map(sequential.too_skewed, cases))
    sups, refs = zip(*(_p(d, region) for d in cases), strict=True)
    now = max(sups), max(refs)
    sup, ref = old if skewed else tuple(map(min, old, now))
    bounds = [sequential.confidence_sequence(d, 2 * ALPHA, within) for d in cases]
    ends = min(each.low for each in bounds), max(each.high for each in bounds)
    low, high = (end if math.isfinite(end) else None for end in ends)
    middle = [(a + b) / 2 for a, b in zip(effects.low, effects.high, strict=True)]
    numbers = (stats.mean(middle), statistics.stdev(middle), low, high)
    notes = (SKEWED,) if skewed else ()
    least = min(sup, ref)
    found = Judged(region, effects.n, *numbers, sup, ref, least, least, notes=notes)
    return worded(found, sup <= ALPHA, ref <= ALPHA)


def _p(d: Sequence[float], region: Region) -> tuple[float, float]:
    """Give 1 / E against the effect lying outside the region, and inside it."""
    low, high = region.ends
    turned, inside, outside = [-x for x in d], [], []
    for end in region.boundaries:
        above, below = sequential.evidence_above(d, end), sequential.evidence_above(turned, -end)
        inside.append(above if end == low else below)
        outside.append(below if end == low else above)
    return tuple(1 / max(1.0, e) for e in (min(inside), max(outside)))  # type: ignore[return-value]
