"""A step as a flat list of operator calls, and the recorder that makes one of a step it watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

FRESH = torch.ops.aten.lift_fresh.default  # torch calls it on a tensor made of Python's numbers
STATISTICS = ("running_mean", "running_var")
# Operators that give values to Python, and what takes them out of tensors without an operator.
DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
ESCAPES = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr)


@dataclass(frozen=True)
class Slot:
    """The place of a tensor, or of a random number generator, among the values of a program."""

    number: int


class Layout(NamedTuple):
    """Where a tensor lies: tensors with the same layout are the same tensor."""

    memory: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Call:
    """One operator call; in its arguments and results a slot stands for each tensor."""

    op: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: Any

    @cached_property
    def reads(self) -> frozenset[Slot]:
        """The slots that it is called with."""
        return frozenset((*slots(self.args), *slots(self.kwargs)))

    @cached_property
    def gives(self) -> frozenset[Slot]:
        """The slots of its results."""
        return frozenset(slots(self.outs))

    @cached_property
    def writes(self) -> frozenset[Slot]:
        """The slots whose memory it changes."""
        schema, found = self.op._schema, list[Slot]()
        forward = not schema.name.endswith("_backward")
        for place, argument in enumerate(schema.arguments):
            # Batch norms change running statistics though their schemas do not say so.
            if argument.is_write or (forward and argument.name in STATISTICS):
                given = self.kwargs.get(argument.name)
                found += slots(self.args[place] if place < len(self.args) else given)
        return frozenset(found)

    def is_random(self) -> bool:
        """Tell whether it draws random numbers."""
        return torch.Tag.nondeterministic_seeded in self.op.tags

    def renamed(self, names: Mapping[Slot, Slot]) -> Call:
        """Return the same with other slots."""
        args, kwargs, outs = (
            mapped(given, lambda leaf: names.get(leaf, leaf) if isinstance(leaf, Slot) else leaf)
            for given in (self.args, self.kwargs, self.outs)
        )
        return Call(self.op, args, kwargs, outs)

    def run(self, values: Mapping[Slot, Any]) -> dict[Slot, Tensor]:
        """Call the operator and return its results by slot."""
        args, kwargs = (
            mapped(given, lambda leaf: values[leaf] if isinstance(leaf, Slot) else leaf)
            for given in (self.args, self.kwargs)
        )
        result = self.op(*args, **kwargs)
        outs, results = (
            (self.outs, result) if isinstance(result, list | tuple) else ([self.outs], [result])
        )
        return {
            slot: tensor
            for slot, tensor in zip(outs, results, strict=True)
            if isinstance(slot, Slot)
        }


@dataclass
class Program:
    """What a step calls, in order.

    Tensors with the same layout share a slot: what is written through one view is read through
    another, and equal views are one.

    known: slots of the tensors that stay, as they were given; inputs: of those that are new at each
    step; outputs: of what it returns; strangers: tensors that were there before, by slot;
    constants: those that Python made of numbers; layouts, generators: where each lies.
    """

    known: list[Slot]
    inputs: list[Slot]
    outputs: list[Slot]
    calls: list[Call]
    strangers: dict[Slot, Tensor]
    constants: dict[Slot, Tensor]
    layouts: dict[Slot, Layout]
    generators: dict[Slot, int]

    def memory(self, slots: Iterable[Slot]) -> set[int]:
        """Return which memory the tensors of some slots lie in."""
        return {self.layouts[slot].memory for slot in slots if slot in self.layouts}

    def new_slot(self, more: int = 0) -> Slot:
        """Return a slot that is not used, for each number of `more` another one."""
        return Slot(max(slot.number for slot in self.layouts) + 1 + more)

    def written(self) -> set[int]:
        """Return which memory is written to."""
        return self.memory(slot for call in self.calls for slot in call.writes)

    def same_as(self, other: Program) -> bool:
        """Tell whether both are the same calls, on the same strangers and constants."""
        mine, theirs = (
            (p.known, p.outputs, p.calls, [*p.constants], _addresses(p.strangers))
            for p in (self, other)
        )
        return mine == theirs and all(
            torch.equal(tensor, other.constants[slot]) for slot, tensor in self.constants.items()
        )


def _addresses(tensors: Mapping[Slot, Tensor]) -> dict[Slot, int]:
    return {slot: tensor.data_ptr() for slot, tensor in tensors.items()}


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the operator calls beneath autograd that are made while it is entered.

    What it watches runs as ever and needs no more memory. Afterwards `reason` tells why it cannot
    be called again without Python, if so.

    Args: known: the tensors that stay from step to step. inputs: those that are new at each.
    """

    def __init__(self, known: Iterable[Tensor], inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reason = ""
        self.escapes = _Escapes(self)
        self.numbers = count()
        self.calls: list[Call] = []
        self.slots: dict[Layout | int, Slot] = {}
        self.strangers: dict[Slot, Tensor] = {}
        self.constants: dict[Slot, Tensor] = {}
        self.storages: dict[int, StorageWeakRef] = {}  # while held, no other gets its number
        self.known = [self._slot(tensor) for tensor in known]
        self.inputs = [self._slot(tensor) for tensor in inputs]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes as long as to import torch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = mapped(args, self._given), mapped(kwargs or {}, self._given)
        result = func(*args, **(kwargs or {}))
        self.calls.append(Call(func, *given, mapped(result, self._slot)))
        if func is FRESH:
            (slot,) = self.calls[-1].reads
            self.constants[slot] = self.strangers.pop(slot)
        if func.namespace != "aten":
            self.reason = f"{func} is not one of torch's own operators"
        elif any(tag in func.tags for tag in DEPENDENT):
            self.reason = f"what it computes depends on values ({func})"
        return result

    def program(self, outputs: Iterable[Tensor]) -> Program:
        """Return what was seen, as a step that returns `outputs`."""
        returned = [self._slot(tensor) for tensor in outputs]
        layouts = {slot: at for at, slot in self.slots.items() if isinstance(at, Layout)}
        generators = {slot: at for at, slot in self.slots.items() if isinstance(at, int)}
        made = self.strangers, self.constants, layouts, generators
        return Program(self.known, self.inputs, returned, self.calls, *made)

    def _given(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            before = len(self.slots)
            slot = self._slot(value)
            if len(self.slots) > before:
                self.strangers[slot] = value
            return slot
        return self._slot(value)

    def _slot(self, value: Any) -> Any:
        """Return the slot of a tensor or generator, anything else as it is."""
        if isinstance(value, Tensor):
            at: Layout | int = self._layout(value)
        elif isinstance(value, torch.Generator):
            at = where(value)
        else:
            return value
        if at not in self.slots:
            self.slots[at] = Slot(next(self.numbers))
        return self.slots[at]

    def _layout(self, tensor: Tensor) -> Layout:
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number not in self.storages:
            self.storages[number] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        offset, stride = int(tensor.storage_offset()), tensor.stride()
        return Layout(number, offset, tuple(tensor.shape), stride, tensor.dtype, tensor.device)


class _Escapes(TorchFunctionMode):
    """Tells a recorder of values that leave tensors without an operator."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in ESCAPES:
            self.recorder.reason = f"what it computes may depend on values ({func.__name__})"
        return func(*args, **(kwargs or {}))


def where(generator: torch.Generator) -> int:
    """Return what tells a generator from others: torch wraps it anew for each operator."""
    return int(generator._cdata)  # type: ignore[attr-defined]


def slots(value: Any) -> Iterator[Slot]:
    """Yield the slots in nested arguments, in order."""
    if isinstance(value, Slot):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from slots(part)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested arguments with each leaf changed."""
    if isinstance(value, list | tuple):
        parts = [mapped(part, change) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {key: mapped(part, change) for key, part in value.items()}
    return change(value)


def equal(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors have the same values and type; NaN is equal to NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_floating_point():
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return torch.equal(one, other)
