"""Holds every arm against a baseline in full: difference, interval, tests, failures, a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from normbench.results import notes, pairs
from normbench.results.groups import Key
from normbench.results.layout import Block, Layout, word
from normbench.results.notes import difference_digits, signed
from normbench.results.pairs import Comparison
from normbench.results.tables import Estimate, Table, TableCell, column, state_cell

COLUMNS = ("difference", "p t", "p flip", "P(better)", "seeds", "failed")
NOTES = (
    "difference and 95 % interval over the seeds with which both train; p t: paired t, Holm over "
    "the arms at the same settings; p flip: exact sign flip; P(better): the same t as a posterior",
)
MOST = 8  # settings that a sentence names
LATE = (
    f"a run that did not reach its target counts from its length to {pairs.LATEST} times it: "
    "intervals reach over both, and both must agree"
)
SAID = {
    "seeds": "too few pairs",
    "difference": "not distinguishable",
    "failures": "better when both train, but fails more often",
}
UNJUDGED = {"better": "higher", "worse": "lower"}  # where neither is better, as for a gap


def table(laid: Layout) -> Table | None:
    """Lay out each arm against the baseline, block by block; None where it stands nowhere."""
    found = [*_found(laid)]
    if not found:
        return None
    digits = difference_digits([one for *_, one in found], laid.measured)
    columns = [
        column([_estimate(one, laid, digits) for *_, one in found]),
        *zip(*(_tests(block, row, laid, one) for block, row, one in found), strict=True),
    ]
    at = any(block.at for block, *_ in found)
    rows = tuple(
        (TableCell(_name(laid, row)), *[TableCell(block.at)] * at, *cells)
        for (block, row, _), cells in zip(found, zip(*columns, strict=True), strict=True)
    )
    unit = f"{laid.measured.points} ".lstrip() if laid.measured.percent else ""
    head = (word(laid.by), *["at"] * at, *COLUMNS)
    late = any(group.arm.late for block in laid.blocks.values() for group in block.groups.values())
    below = (*NOTES, *notes.equal(one.interval for *_, one in found), *(LATE,) * late)
    return Table(f"{unit}above {laid.baseline}", head, rows, 1 + at, notes=below)


def sentences(laid: Layout) -> list[str]:
    """Say of each arm where it is better than the baseline, where worse, and where neither."""
    said: dict[str, dict[str, list[str]]] = {}
    for block in laid.blocks.values():
        above = block.above(laid.baseline)
        for row, group in block.groups.items():
            if row in above or (group.n and group.failed == group.n):
                word = (
                    _word(laid, block, row, above[row]) if row in above else f"all {group.n} failed"
                )
                told = said.setdefault(_name(laid, row), {})
                told.setdefault(word, []).append(block.at)
    return [
        (f"{name}: " if name == laid.baseline else f"{name} against {laid.baseline}: ")
        + "; ".join(
            f"{text} at {_places(places)}" if any(places) else text for text, places in told.items()
        )
        for name, told in said.items()
    ]


def _found(laid: Layout) -> Iterator[tuple[Block, Key, Comparison]]:
    for block in laid.blocks.values():
        for row, comparison in block.above(laid.baseline).items():
            yield block, row, comparison


def _word(laid: Layout, block: Block, row: Key, comparison: Comparison) -> str:
    verdict = SAID.get(comparison.verdict, comparison.verdict)
    if comparison.verdict == "seeds":
        more = f", {_failed(block, row, laid).replace(':', ' against ')} failed"
        return verdict + more * bool(comparison.failures)
    if laid.measured.larger is None:
        return UNJUDGED.get(verdict, verdict)
    if comparison.verdict == "failures" and comparison.failures < 0:
        return "worse when both train, but fails less often"
    return verdict


def _places(places: Sequence[str]) -> str:
    """Say several settings of one key once: `batch 2, 8`; of many their number."""
    if len(places) > MOST:
        return f"{len(places)} settings"
    firsts = {place.partition(" ")[0] for place in places}
    if len(firsts) == 1 and all(len(place.split()) == 2 for place in places):
        return f"{firsts.pop()} {', '.join(place.split()[1] for place in places)}"
    return ", ".join(places)


def _name(laid: Layout, row: Key) -> str:
    return laid.names[row][-1]


def _estimate(comparison: Comparison, laid: Layout, digits: int) -> TableCell | Estimate:
    if comparison.difference is None:
        return state_cell("-")
    mean, low, high = signed(comparison.difference, laid.measured, digits)
    style = "best" if comparison.verdict == "better" else ""
    return Estimate(mean, (low, high), style=style)


def _tests(block: Block, row: Key, laid: Layout, comparison: Comparison) -> list[TableCell]:
    """Write both p, P(better), the paired seeds and the failures of both arms."""
    n, failed = TableCell(str(len(comparison.d))), TableCell(_failed(block, row, laid))
    if comparison.interval is None:
        return [*[state_cell("-")] * 3, n, failed]
    ps = [TableCell(p_text(p)) for p in (comparison.adjusted, comparison.p_flip)]
    return [*ps, TableCell(_probability(comparison.better)), n, failed]


def _failed(block: Block, row: Key, laid: Layout) -> str:
    base = next(arm for key, arm in block.trained.items() if key[-1] == laid.baseline)
    return ":".join(f"{arm.failed}/{arm.n}" for arm in (block.trained[row], base))


def p_text(p: float) -> str:
    """Write a p value with three decimals."""
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def _probability(p: float) -> str:
    return ">0.99" if p > 0.995 else "<0.01" if p < 0.005 else f"{p:.2f}"
