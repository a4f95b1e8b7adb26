"""Says below a table what its intervals are over, what is better, and what failed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from normbench.errors import shown
from normbench.parts.options import written
from normbench.results import pairs, stats
from normbench.results.groups import Group, Key, Result, labels_of
from normbench.results.layout import Block, Layout, word
from normbench.results.metrics import Metric
from normbench.results.pairs import Comparison
from normbench.results.stats import Interval

LISTED = 5  # lines of one kind under a table
PAIRS = 5  # seeds from which the correlation of two arms is told
EQUAL = "an interval without width is of equal values, and tells nothing of how sure they are"
LATE = "> at least: a run that did not reach it counts with its whole length"
FIXED = "seeds do not vary the test images, the split or the training images"
RESAMPLED = "seeds vary the split and the training images too, but not the test images"
PAIRED = (
    "difference and 95 % interval, paired by seed where both train; p: the larger of paired t "
    "(Holm) and exact sign flip"
)

DECIDED = {
    "better": "better",
    "worse": "worse",
    "failures": "better when both train, but fails more often,",
    "fails": "fails too often to compare",
    "skewed": "inconclusive, differences too skewed,",
    "undecided": "undecided",
    "open": "open",
}  # by verdict of a sequential test


def span(counts: Sequence[int]) -> str:
    """Say a range of counts: `3`, `3 to 5`."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def difference_digits(found: Sequence[Comparison], metric: Metric) -> int:
    """Choose the decimals of some differences by the smallest of them."""
    return metric.digits(min([abs(one.mean) for one in found if one.interval], default=1.0))


def signed(interval: Interval, metric: Metric, digits: int) -> tuple[str, str, str]:
    """Write a difference and its bounds with their signs."""
    mean, low, high = (
        metric.signed(value, digits) for value in (interval.mean, interval.low, interval.high)
    )
    return mean, low, high


def sequences(most: int) -> list[str]:
    """Say what the intervals of `seeds=auto` are, and what those of single cells are not."""
    return [
        "difference and 95 % confidence sequence (not a t interval), paired by seed where both "
        f"train; seeds were added until it excluded 0, at most {most}: it holds wherever that "
        "ends, for all differences to one baseline together",
        "intervals of single cells are for a number of seeds fixed before, and compare nothing",
    ]


def verdicts(laid: Layout) -> list[str]:
    """Say what a star means or, block by block, why there is none."""
    blocks = [block for block in laid.blocks.values() if block.rivals]
    noun = word(laid.by)
    keys = [word(key) for key in (*laid.down, *laid.across)]
    where = f" at the same {' and '.join(keys)}" if keys else ""
    star = f"* better than every other {noun}{where} (paired by seed, Holm, 5 %)"
    lines = [star] * any(block.star for block in blocks)
    few = [
        len(comparison.d)
        for block in blocks
        for comparison in block.rivals.values()
        if comparison.missing == "seeds"
    ]
    if few and max(few) >= stats.FEWEST:
        lines.append(
            f"no {noun} can be called better on {span(few)} seeds: the exact sign-flip test "
            f"has p >= {2 / 2 ** max(few):.2g}, {pairs.ENOUGH} seeds are needed"
        )
    found = [_reason(laid, block) for block in blocks if block.star is None]
    reasons = listed([reason for reason in found if reason])
    return [*lines, *reasons, *_pairing(blocks), *_power(blocks, laid.measured)]


def _pairing(blocks: Sequence[Block]) -> list[str]:
    """Say how much the pairing of the best arms with the nearest others helped, from 5 seeds on."""
    found = []
    for block in blocks:
        assert block.best
        nearest, comparison = next(iter(block.rivals.items()))
        pair = [block.trained[row].values for row in (block.best, nearest)]
        r = pairs.correlation(*pair) if len(comparison.d) >= PAIRS else None
        if r is not None:
            found.append(r)
    if not found:
        return []
    low, high = min(found), max(found)
    rs, factors = (
        " to ".join(dict.fromkeys(texts))
        for texts in ([f"{low:.2f}", f"{high:.2f}"], [_factor(low), _factor(high)])
    )
    return [
        f"pairing by seed: r = {rs} between best and next, as good as {factors} times the seeds"
    ]


def _factor(r: float) -> str:
    return f"{min(1 / max(1 - r, 1e-9), 99):.1f}"


def _power(blocks: Sequence[Block], metric: Metric) -> list[str]:
    """Say which differences of the best and the next so many seeds can tell, by their spread."""
    nearest = [next(iter(block.rivals.values())) for block in blocks]
    paired = [comparison.d for comparison in nearest if comparison.interval]
    squares = [statistics.variance(d) for d in paired]
    if not squares or max(squares) <= stats.TIE**2:
        return []
    n, sd = min(map(len, paired)), math.sqrt(stats.mean(squares))
    least = pairs.resolvable(max(n, pairs.ENOUGH), sd)
    more = pairs.seeds_for(least / 2, sd)
    half = f"; {metric.rough(least / 2).removesuffix(metric.points)} would take {more}"
    seeds = f"with {n} seeds" if n >= pairs.ENOUGH else f"with {pairs.ENOUGH} seeds either"
    told = f"differences below {metric.rough(least)} are not resolvable {seeds} (80 % power)"
    return [f"between best and next, {told}{half if more else ''}"]


def equal(found: Iterable[Interval | None]) -> list[str]:
    """Say what an interval without width means, where there is one."""
    return [EQUAL] * any(one and one.high - one.low <= stats.TIE for one in found)


def intervals(groups: Sequence[Group]) -> list[str]:
    """Say what the intervals are over, and what no failures mean."""
    counts = [len(group.arm.values) or group.n for group in groups if group.n]
    enough = [group.n for group in groups if group.interval]
    few = [count for count in counts if count < stats.FEWEST]
    lines = []
    if enough:
        bound = 100 * stats.failure_bound(0, min(enough))
        lines = [
            f"mean and 95 % interval (Student t) of {span(enough)} seeds, given that a run trains; "
            f"0 of {min(enough)} failures means at most {bound:.0f} %",
            RESAMPLED if _resampled(groups) else FIXED,
        ]
    lines += equal(group.interval for group in groups)
    if any(group.arm.late for group in groups):
        lines.append(LATE)
    if few:
        where = f" in {len(few)} of {len(counts)} cells" if enough else ""
        seeds = "seed" if set(few) == {1} else "seeds"
        lines.append(f"{span(few)} {seeds}{where}: an interval needs {stats.FEWEST}")
    return lines


def _resampled(groups: Sequence[Group]) -> bool:
    """Tell whether each seed of all runs drew its training images anew."""
    return all(
        written(run.settings.get("data.resample", False)) == "true"
        for group in groups
        for run in group.results
    )


def failures(groups: Sequence[Group]) -> list[str]:
    """Say how many runs failed, and how: stuck near chance, or diverged."""
    ends = [
        (group.outcomes[run.seed].kind, run)
        for group in groups
        for run in group.results
        if run.seed in group.outcomes
    ]
    stuck = [run for kind, run in ends if kind == "stuck"]
    diverged = [run for kind, run in ends if kind == "diverged"]
    if not stuck and not diverged:
        return []
    part = groups[0].metric.part
    levels = sorted({f"{100 * run.chance(part):.1f}" for run in (*stuck, *diverged)})
    chance = f"chance, {' or '.join(levels)} %: the share of the largest class"
    said = [f"{len(stuck)} stuck at most 5 points above {chance}"] * bool(stuck)
    said += [f"{len(diverged)} diverged" + f", which counts as {chance}" * (not stuck)] * bool(
        diverged
    )
    return [f"failures: {'; '.join(said)}"]


def shared(groups: Sequence[Group]) -> list[str]:
    """Say of how many runs the seconds are shares."""
    runs = [run for group in groups for run in group.results if run.train_s is not None]
    count = sum(run.shared for run in runs)
    who = "the runs" if count == len(runs) else f"{count} of {len(runs)} runs"
    return [f"{who} trained with others in a process: seconds are shares of it"] * bool(count)


def messages(results: Sequence[Result], keys: Sequence[str]) -> list[str]:
    """Give the first line of the message of each run that failed or does not apply."""
    lines: dict[str, None] = {}
    for result in results:
        if result.state in ("failed", "does not apply"):
            where = [f"{result.state}:", *filter(None, labels_of(result.settings, keys, keys))]
            if result.state == "failed":
                where.append(f"seed {result.seed}")
            why = (result.message or "no message").strip().partition("\n")[0]
            lines[f"{'  '.join(where)}: {shown(why)}"] = None
    return listed([*lines])


def listed(lines: Sequence[str]) -> list[str]:
    """Cut a list of lines that is too long for a note."""
    more = len(lines) - LISTED
    return [*lines[:LISTED], *[f"and {more} more of this kind"] * (more > 0)]


def _reason(laid: Layout, block: Block) -> str | None:
    """Say of what the best arm of a block cannot be told, and that it beats the baseline."""
    assert block.best
    against = next(((row, one) for row, one in block.rivals.items() if one.missing), None)
    if against is None or against[1].interval is None or against[1].missing == "seeds":
        return None
    rival, comparison = against
    name, other = _name(laid, block.best), _name(laid, rival)
    said = _said(comparison, laid)
    at = f"{block.at}: " if block.at else ""
    if comparison.missing == "failures":
        rates = [
            f"{group.failed}/{group.n}"
            for group in map(block.groups.get, (block.best, rival))
            if group
        ]
        return (
            f"{at}{name} {said} above {other} when both train, but {' against '.join(rates)} failed"
        )
    base = next((row for row in block.rivals if row[-1] == laid.baseline), None)
    if base and not block.rivals[base].missing:
        above = f"is better than {_name(laid, base)} ({_said(block.rivals[base], laid)}) but"
        return f"{at}{name} {above} not distinguishable from {other} ({said})"
    return f"{at}{name} is best but not distinguishable from {other} ({said})"


def _said(comparison: Comparison, laid: Layout) -> str:
    """Write a difference of the best arm: `+1.5 [+0.9, +2.1]`."""
    if comparison.interval is None:
        return ""
    digits = difference_digits([comparison], laid.measured)
    mean, low, high = signed(comparison.difference or comparison.interval, laid.measured, digits)
    return f"{mean} [{low}, {high}]"


def _name(laid: Layout, row: Key) -> str:
    return laid.names[row][-1]


def stopped(automatic: bool) -> list[str]:
    """Say what no test for a fixed number of seeds knows: that the results decided on it."""
    said = (
        "seeds=auto stopped where the runs told it to: intervals, p and stars here take the number "
        "of seeds as fixed before; the sweep's own table.md has the test that holds"
    )
    return [said] * automatic
