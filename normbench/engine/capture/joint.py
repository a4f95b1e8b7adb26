"""One function of several lanes, made of the programs that were recorded of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from normbench.engine.capture.clean import COPY, tidy
from normbench.engine.capture.program import Call, Program, Slot, equal, slots
from normbench.engine.capture.rules import NoRule
from normbench.engine.capture.values import Fixed, Values

LISTS = (COPY, torch.ops.aten._foreach_add_.List)  # operators that write or add one list to another
PROOFS = 2  # draws of random numbers for each operator
Truth = list[dict[Slot, Tensor]]  # of each lane, what a call gives and what it changes
Way = Callable[[Values, list[Call]], None]


class Unlike(Exception):
    """The lanes cannot be called together."""


class Joint:
    """Calls what several programs call, an operator for all lanes at once where bits allow.

    `decide` finds for each operator a way that gives each lane the bits that it has alone.

    Args: programs: recorded of models that are alike, `known`: their tensors in the order in which
        each program knows them; owners: for each generator of a program the module that has it.
    Raises: Unlike if the programs are not the same calls but for their numbers.
    """

    def __init__(
        self, programs: list[Program], known: list[list[Tensor]], owners: list[dict[Slot, Any]]
    ) -> None:
        programs = [tidy(program) for program in programs]
        self.program, self.count = programs[0], len(programs)
        if any(_shape(program) != _shape(self.program) for program in programs):
            raise Unlike("they do not call the same operators")
        if any(each.is_random() and not _generator(each) for each in self.program.calls):
            raise Unlike("they draw from torch's own generator")
        self.calls = [*map(list, zip(*(program.calls for program in programs), strict=True))]
        lanes = [
            dict(zip(program.known, tensors, strict=True)) | program.strangers | program.constants
            for program, tensors in zip(programs, known, strict=True)
        ]
        tensors = {slot: [lane[slot] for lane in lanes] for slot in lanes[0]}
        self.fixed = Fixed(
            program=self.program,
            lanes=tensors,
            owners={slot: [owner[slot] for owner in owners] for slot in owners[0]},
            stacks={slot: torch.stack(tensors[slot]) for slot in self.program.constants},
            targets=_targets(self.program),
            written=self.program.written(),
        )
        self.ways: list[Way] = []

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Map the inputs of the lanes, one lane after the other, to their outputs likewise."""
        values = Values(self.fixed, inputs)
        for way, calls in zip(self.ways, self.calls, strict=True):
            way(values, calls)
        return values.outputs()

    @torch.no_grad()
    def alone(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], list[Truth]]:
        """Run each program for itself; return the outputs, and what came of each call."""
        values, truths = Values(self.fixed, inputs), []
        lanes = [{slot: each[k] for slot, each in values.apart.items()} for k in range(self.count)]
        for calls in self.calls:
            for lane, call in zip(lanes, calls, strict=True):
                lane |= call.run(lane)
            seen = [slot for slot in calls[0].gives | calls[0].writes]
            truths.append([{slot: lane[slot].clone() for slot in seen} for lane in lanes])
        return tuple(lane[slot] for lane in lanes for slot in self.program.outputs), truths

    @torch.no_grad()
    def decide(self, inputs: tuple[Tensor, ...], truths: list[Truth]) -> None:
        """Call, and find for each operator a way that gives what it gave to each lane alone.

        Raises: Unlike if an operator has none.
        """
        self.ways, values = [], Values(self.fixed, inputs)
        for calls, truth in zip(self.calls, truths, strict=True):
            written = calls[0].writes
            before = [(each, each.clone()) for slot in written for each in values.each(slot)]
            for way in self._ways(calls):
                trial = values.fork()
                if self._proven(way, calls, values) and _gives(way, calls, trial, truth):
                    self.ways.append(way)
                    values = trial
                    break
                for tensor, value in before:
                    tensor.copy_(value)
            else:
                raise Unlike(f"{calls[0].op} gives other bits")

    def share(self) -> float:
        """Return which share of the operators is called once for all lanes, views left out."""
        ways = [
            way is not Values.one_by_one
            for way, (call, *_) in zip(self.ways, self.calls, strict=True)
            if not self.is_view(call)
        ]
        return sum(ways) / len(ways)

    def is_view(self, call: Call) -> bool:
        """Tell whether a call only gives a view of what it reads."""
        return not call.writes and self.program.memory(call.gives) <= self.program.memory(
            call.reads
        )

    def _proven(self, way: Way, calls: list[Call], values: Values) -> bool:
        """Tell whether a way gives each lane its own bits for random numbers too.

        Those of one batch may agree by chance, such as sums of few numbers that are not 0.
        """
        if way in (Values.one_by_one, Values.list_by_list) or self.is_view(calls[0]):
            return True
        try:
            for seed in range(PROOFS):
                drawn, lanes = values.drawn(calls[0], torch.Generator().manual_seed(seed))
                truth = [lane | call.run(lane) for call, lane in zip(calls, lanes, strict=True)]
                seen = calls[0].gives | calls[0].writes
                kept = [{slot: lane[slot] for slot in seen} for lane in truth]
                if not _gives(way, calls, drawn, kept):
                    return False
        except NoRule:
            return False
        return True

    def _ways(self, calls: list[Call]) -> Iterator[Way]:
        """Yield the ways in which a call may be made, the fastest first."""
        call, alike = calls[0], all(call == calls[0] for call in calls)
        if call.op in LISTS:
            yield Values.list_by_list
            return
        aliased = self.is_view(call) and self.program.memory(call.gives) & self.fixed.written
        if alike and not aliased:
            if call.outs in self.fixed.targets:
                yield Values.gradient
            yield Values.together
        yield Values.one_by_one


def _shape(program: Program) -> tuple[Any, ...]:
    """Return what programs that may be called together have in common: all but numbers."""
    layouts = {slot: layout[2:] for slot, layout in program.layouts.items()}
    calls = [
        (call.op, [*slots(call.args)], [*slots(call.kwargs)], call.outs) for call in program.calls
    ]
    return program.known, program.inputs, program.outputs, [*program.constants], layouts, calls


def _generator(call: Call) -> bool:
    return call.kwargs.get("generator") is not None


def _targets(program: Program) -> dict[Slot, Slot]:
    """Say where what is a gradient goes, if nothing reads it before."""
    copies = [call for call in program.calls if call.op is COPY]
    pairs = {source: target for copy in copies for target, source in zip(*copy.args, strict=True)}
    others = {slot for call in program.calls if call.op is not COPY for slot in call.reads}
    free = program.memory(pairs.values()) - program.memory(others)
    return {s: t for s, t in pairs.items() if program.layouts[t].memory in free}


def _gives(way: Way, calls: list[Call], values: Values, truth: Truth) -> bool:
    """Tell whether a call made in a way gives each lane what it gets alone."""
    try:
        way(values, calls)
    except (RuntimeError, TypeError, ValueError, IndexError, NoRule):
        return False
    undefined = "empty" in calls[0].op._schema.name  # memory that others fill
    return undefined or all(
        equal(values.each(slot)[k], tensor)
        for k, lane in enumerate(truth)
        for slot, tensor in lane.items()
    )
