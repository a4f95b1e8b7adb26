"""What single test images add: an interval for a fresh test set, McNemar's test, churn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from normbench.errors import counted
from normbench.results import stats
from normbench.results.distributions import beta_cdf, t_quantile
from normbench.results.groups import Group
from normbench.results.layout import Layout, word
from normbench.results.metrics import Metric
from normbench.results.stats import Interval
from normbench.results.tables import Estimate, Table, TableCell, column, state_cell

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

NOTE = (
    "fresh: 95 % interval for other seeds and other test images, by variance components of seeds "
    "x images; churn: share of images that one of two seeds gets right and the other wrong; "
    "McNemar: seeds of which the exact test tells the two arms apart at 5 %, each by itself"
)


@dataclass(frozen=True)
class Right:
    """Which test images a run classified rightly, packed as `numpy.packbits` does, and how many
    images there are."""

    bits: bytes
    count: int


def fresh(table: Array) -> Interval | None:
    """Give the mean of a table (seeds, images) with its interval for fresh seeds and images.

    x_si = mu + a_s + b_i + e_si with independent a, b, e: the variance of the mean is estimated by
    (MS_seed + MS_image - MS_rest) / (n m), its degrees of freedom by Satterthwaite. None below 3
    seeds.

    Source: Satterthwaite 1946.
    """
    import numpy as np  # only for images: nothing else of results needs it

    n, m = table.shape
    if n < stats.FEWEST or m < 2:
        return None
    mean = float(table.mean())
    by_seed, by_image = table.mean(1), table.mean(0)
    seed = m * float(np.var(by_seed, ddof=1))
    image = n * float(np.var(by_image, ddof=1))
    rest = table - by_seed[:, None] - by_image + mean
    noise = float((rest**2).sum()) / ((n - 1) * (m - 1))
    total = max(seed + image - noise, seed, image)
    spread = seed**2 / (n - 1) + image**2 / (m - 1) + noise**2 / ((n - 1) * (m - 1))
    if not total:
        return Interval(mean, mean, mean, n)
    half = t_quantile(0.975, max(total**2 / spread, 1.0)) * math.sqrt(total / (n * m))
    return Interval(mean, mean - half, mean + half, n)


def churn(table: Array) -> float | None:
    """Give the share of images on which two seeds differ, on average over pairs of seeds."""
    shares = [float((one != other).mean()) for one, other in combinations(table, 2)]
    return stats.mean(shares) if shares else None


def mcnemar(one: Array, other: Array) -> float:
    """Test whether two classifiers get equally many of those images right that one alone does.

    Of b + c such images, b is Binomial(b + c, 1/2): p = 2 P(K <= min(b, c)), at most 1.

    Source: McNemar 1947, in its exact form.
    """
    b, c = int((one > other).sum()), int((one < other).sum())
    low, n = min(b, c), b + c
    return 1.0 if b == c else min(1.0, 2 * beta_cdf(0.5, n - low, low + 1))


def table(laid: Layout, right: Mapping[str, Right]) -> Table:
    """Lay out what the images of each arm say, and of its differences to the baseline.

    Args: right: by directory of a run.
    """
    rows, entries = [], []
    for block in laid.blocks.values():
        known = {row: _unpacked(group, right) for row, group in block.groups.items()}
        base = next((seeds for row, seeds in known.items() if row[-1] == laid.baseline), {})
        for row, seeds in known.items():
            rows.append((laid.names[row][-1], block.at))
            entries.append(_entries(seeds, base if row[-1] != laid.baseline else {}, laid))
    columns = [column(list(cells)) for cells in zip(*entries, strict=True)]
    at = any(place for _, place in rows)
    shown = tuple(
        (TableCell(name), *[TableCell(place)] * at, *cells)
        for (name, place), cells in zip(rows, zip(*columns, strict=True), strict=True)
    )
    heads = ("fresh", "churn", f"above {laid.baseline}, fresh", "McNemar")
    head = (word(laid.by), *["at"] * at, *heads)
    return Table(laid.measured.title, head, shown, 1 + at, notes=(NOTE,))


def _unpacked(group: Group, right: Mapping[str, Right]) -> dict[int, Array]:
    """Give the images that each seed which trained got right, as 0 and 1 (images,)."""
    import numpy as np  # as above

    found = {}
    for result in group.results:
        known = right.get(result.directory)
        if known and result.seed in group.arm.values:
            bits = np.unpackbits(np.frombuffer(known.bits, np.uint8))
            found[result.seed] = bits[: known.count].astype(np.float64)
    return found


def _entries(
    seeds: Mapping[int, Array], base: Mapping[int, Array], laid: Layout
) -> list[TableCell | Estimate]:
    """Make the cells of one arm: its own interval and churn, then those against the baseline."""
    import numpy as np  # as above

    rows = np.array([*seeds.values()])
    share = churn(rows) if len(rows) else None
    cells = [
        _estimate(fresh(rows) if len(rows) else None, laid.measured, signed=False),
        state_cell("-") if share is None else TableCell(f"{100 * share:.1f} %"),
    ]
    common = sorted(seeds.keys() & base.keys())
    if not common:
        return [*cells, state_cell("-"), state_cell("-")]
    pairs = [(seeds[seed], base[seed]) for seed in common]
    unlike = sum(mcnemar(*pair) <= 0.05 for pair in pairs)
    difference = fresh(np.array([one - other for one, other in pairs]))
    told = TableCell(f"{unlike} of {counted(len(pairs), 'seed')}")
    return [*cells, _estimate(difference, laid.measured, signed=True), told]


def _estimate(interval: Interval | None, metric: Metric, signed: bool) -> TableCell | Estimate:
    if interval is None:
        return state_cell("-")
    low, high = interval.low, interval.high
    if not signed:
        low, high = max(low, metric.within[0]), min(high, metric.within[1])
    write = metric.signed if signed else metric.text
    mean, *ends = (write(value, 2) for value in (interval.mean, low, high))
    return Estimate(mean, (ends[0], ends[1]))
