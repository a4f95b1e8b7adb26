"""The tensors of all lanes while their programs are called, and the ways to call an operator."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normbench.engine.capture.program import Call, Layout, Program, Slot, mapped
from normbench.engine.capture.rules import Case, NoRule, narrow

LARGE = 2**16  # values of a lane that take longer to put beside others than a call saves
WIDE = 2**15  # values of a gradient from which its memory, and not the call, is what it costs


@dataclass
class Fixed:
    """What stays from call to call.

    program: of the first lane; lanes, owners: of each lane the tensors that stay, and the modules
    that have the generators; stacks: of constants; targets: where gradients go; written: which
    memory of the program is written to.
    """

    program: Program
    lanes: dict[Slot, list[Tensor]]
    owners: dict[Slot, list[Any]]
    stacks: dict[Slot, Tensor]
    targets: dict[Slot, Slot]
    written: set[int]


class Values:
    """The tensors of all lanes in the course of a call: one for each, or in a stack, or both."""

    def __init__(self, fixed: Fixed, inputs: tuple[Tensor, ...]) -> None:
        self.fixed, self.layouts = fixed, fixed.program.layouts
        own = {slot: [each.generator for each in all_] for slot, all_ in fixed.owners.items()}
        size = len(fixed.program.inputs)
        self.count = len(inputs) // size
        given = {slot: [*inputs[n::size]] for n, slot in enumerate(fixed.program.inputs)}
        self.apart: dict[Slot, list[Any]] = {**fixed.lanes, **own, **given}
        self.stacks = dict(fixed.stacks)
        self.copies: set[Slot] = set()
        self.placed: set[Slot] = set()

    def fork(self) -> Values:
        """Return a copy that may go on otherwise."""
        other = object.__new__(Values)
        vars(other).update(vars(self))
        other.apart, other.stacks = dict(self.apart), dict(self.stacks)
        other.copies, other.placed = set(self.copies), set(self.placed)
        return other

    def drawn(self, call: Call, random: torch.Generator) -> tuple[Values, list[dict[Slot, Tensor]]]:
        """Return random numbers for what a call reads: for all lanes, and as each has them alone.

        Numbers that stand alone, and those that are no real numbers, stay as they are.
        Raises: NoRule if some cannot be put beside each other.
        """
        other, lanes = self.fork(), [dict[Slot, Tensor]() for _ in range(self.count)]
        for slot in call.reads:
            stack, at = self.stack(slot), self.layouts[slot]
            made = stack.clone()
            if at.shape and stack.is_floating_point():
                pairs = zip(stack.shape, stack.stride(), strict=True)
                base = [size if step else 1 for size, step in pairs]
                made = torch.empty_strided(base, stack.stride(), dtype=stack.dtype)
                made = made.normal_(generator=random).expand(stack.shape)
            other._give(slot, made)
            for lane, value in zip(lanes, made, strict=True):
                lane[slot] = value.new_empty_strided(at.shape, at.stride).copy_(value)
        return other, lanes

    def outputs(self) -> tuple[Tensor, ...]:
        """Return the outputs of one lane after those of the other."""
        found = [self.each(slot) for slot in self.fixed.program.outputs]
        return tuple(itertools.chain.from_iterable(zip(*found, strict=True)))

    def each(self, slot: Slot) -> list[Any]:
        """Return the tensor, or generator, of each lane."""
        if slot not in self.apart:
            self.apart[slot] = [*self.stacks[slot].unbind()]
        return self.apart[slot]

    def stack(self, slot: Slot) -> Tensor:
        """Return the tensors of all lanes in one, which may be a copy.

        Raises: NoRule if it would be a large copy, or they are generators.
        """
        if slot not in self.stacks:
            if slot not in self.layouts:  # a generator
                raise NoRule
            tensors = self.apart[slot]
            made = beside(tensors)
            if made is None:
                if tensors[0].numel() > LARGE:
                    raise NoRule
                made = _put_beside(tensors)
                self.copies.add(slot)
            self.stacks[slot] = made
        return self.stacks[slot]

    def together(self, calls: list[Call]) -> None:
        """Call once for all lanes."""
        call = calls[0]
        seen = (call.reads | call.gives) & self.layouts.keys()
        case = Case(call.op, any(_is_last(self.layouts[slot]) for slot in seen))
        rule = case.rule()
        if rule is None:
            raise NoRule
        args, kwargs = (
            mapped(given, lambda leaf: self.stack(leaf) if isinstance(leaf, Slot) else leaf)
            for given in (call.args, call.kwargs)
        )
        if call.writes & self.copies:
            raise NoRule
        result = rule(case, *args, **kwargs)
        self._changed(call)
        several = isinstance(call.outs, list | tuple)
        outs, results = (call.outs, result) if several else ([call.outs], [result])
        for slot, tensor in zip(outs, results, strict=True):
            if isinstance(slot, Slot) and slot not in call.writes:
                self._give(slot, tensor)

    def gradient(self, calls: list[Call]) -> None:
        """Multiply matrices into where the gradients of the lanes lie."""
        call, target = calls[0], self.fixed.targets[calls[0].outs]
        rows = self.each(target)
        into = beside(rows)
        if call.op is not torch.ops.aten.mm.default or into is None or call.outs in self.placed:
            raise NoRule
        if rows[0].numel() < WIDE:
            torch.bmm(*map(self.stack, call.args), out=into)
        else:
            for a, b, row in zip(*map(self.each, call.args), rows, strict=True):
                torch.mm(a, b, out=row)
        self._give(call.outs, into)
        self.placed.add(call.outs)

    def one_by_one(self, calls: list[Call]) -> None:
        """Call for each lane, with tensors that lie as they do where it runs alone."""
        own = {slot: self._laid_out(slot) for slot in calls[0].reads}
        results = [
            call.run({slot: each[k] for slot, each in own.items()}) for k, call in enumerate(calls)
        ]
        self._changed(calls[0])
        for slot in calls[0].gives - calls[0].writes:
            self.apart[slot] = [result[slot] for result in results]
            self.stacks.pop(slot, None)

    def list_by_list(self, calls: list[Call]) -> None:
        """Write or add one list of tensors to another, in one call for all lanes."""
        targets, sources = list[Tensor](), list[Tensor]()
        for target, source in zip(*calls[0].args[:2], strict=True):
            if source in self.placed:
                continue
            into = beside(self.each(target)) if source in self.stacks else None
            targets += self.each(target) if into is None else [into]
            sources += self.each(source) if into is None else [self.stacks[source]]
        if targets:
            calls[0].op(targets, sources, *calls[0].args[2:], **calls[0].kwargs)
        self._changed(calls[0])

    def _give(self, slot: Slot, tensor: Tensor) -> None:
        self.stacks[slot] = tensor
        self.apart.pop(slot, None)
        self.copies.discard(slot)

    def _changed(self, call: Call) -> None:
        """Forget copies of tensors that have been changed in place."""
        memory = self.fixed.program.memory(call.writes)
        for slot in [slot for slot in self.copies if self.layouts[slot].memory in memory]:
            self.copies.remove(slot)
            del self.stacks[slot]

    def _laid_out(self, slot: Slot) -> list[Any]:
        """Return the tensor of each lane, with the strides that it has where that runs alone."""
        at = self.layouts.get(slot)
        if (
            at is None
            or at.memory in self.fixed.written
            or self.each(slot)[0].stride() == at.stride
        ):
            return self.each(slot)
        span = 1 + sum(s * (n - 1) for n, s in zip(at.shape, at.stride, strict=True))
        tensors = self.each(slot)
        made = tensors[0].new_empty_strided((len(tensors), *at.shape), (span, *at.stride))
        return [*made.copy_(self.stack(slot)).unbind()]


def beside(tensors: list[Tensor]) -> Tensor | None:
    """Return a stack in the same memory, where the tensors lie at equal steps in it."""
    first, second = tensors[:2]
    start, step = first.storage_offset(), second.storage_offset() - first.storage_offset()
    storage = first.untyped_storage()._cdata
    for place, each in enumerate(tensors):
        same = each.untyped_storage()._cdata == storage and each.stride() == first.stride()
        if step <= 0 or not same or each.storage_offset() != start + place * step:
            return None
    shape, stride = (len(tensors), *first.shape), (step, *first.stride())
    return torch.as_strided(first, shape, stride, start)


def _put_beside(tensors: list[Tensor]) -> Tensor:
    """Copy the tensors of all lanes into one, in which the lanes are like channels.

    Images of one channel would lie as those of as many channels do, every pixel apart.
    """
    if tensors[0].dim() < 2 or tensors[0].shape[1] == 1:
        return torch.stack(tensors)
    return narrow(torch.cat(tensors, 1), len(tensors))


def _is_last(at: Layout) -> bool:
    """Tell whether a feature map is channels-last."""
    return (
        len(at.shape) == 4 and at.shape[1] > 1 and at.stride[1] == 1 and math.prod(at.shape[2:]) > 1
    )
