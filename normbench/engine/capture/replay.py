"""Turns a program into a Python function that calls its operators, one after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from normbench.engine.capture.program import Call, Program, Slot, slots

Replay = Callable[..., tuple[Tensor, ...]]
# Where torch has the plain functions of operators: a call takes half the time of an OpOverload's.
HOMES = (
    torch._C._VariableFunctions,
    torch._C._nn,
    torch._C._linalg,  # type: ignore[attr-defined]
    torch._C.TensorBase,
)


def replay(program: Program, known: list[Tensor], owners: Mapping[Slot, Any]) -> Replay:
    """Return the function (inputs) -> outputs of a program; it works without autograd.

    Views of tensors that stay are made once; each other tensor is let go after its last use.
    Args: owners: for each generator of the program the module that has it as `generator`.
    """
    values = dict(zip(program.known, known, strict=True))
    values |= program.strangers | program.constants
    calls = []
    for call in program.calls:
        if call.reads <= values.keys() and _is_view(program, call):
            values |= call.run(values)
        else:
            calls.append(call)
    space: dict[str, Any] = {_name(slot): value for slot, value in values.items()}
    space |= {f"owner{slot.number}": owner for slot, owner in owners.items()}
    last = {slot: place for place, call in enumerate(calls) for slot in call.gives | call.reads}
    for slot in (*values, *owners, *program.outputs):
        last.pop(slot, None)
    done = defaultdict(list)
    for slot, place in last.items():
        done[place].append(_name(slot))
    lines = [f"{_name(slot)} = owner{slot.number}.generator" for slot in owners]
    for place, call in enumerate(calls):
        lines += [_line(call, space), *(f"del {name}" for name in done[place])]
    lines.append(f"return {', '.join(map(_name, program.outputs))},")
    arguments = ", ".join(map(_name, program.inputs))
    text = "\n  ".join([f"def step({arguments}):\n with without_autograd(True):", *lines])
    space["without_autograd"] = torch._C._InferenceMode
    exec(compile(text, "<captured step>", "exec"), space)  # of names and numbers made above
    made: Replay = space["step"]
    return made


def _is_view(program: Program, call: Call) -> bool:
    return not call.writes and program.memory(call.gives) <= program.memory(call.reads)


def _line(call: Call, space: dict[str, Any]) -> str:
    """Write one call as a line of Python; what has no name yet gets one in `space`."""

    def written(value: Any) -> str:
        if isinstance(value, Slot):
            return _name(value)
        if isinstance(value, list | tuple) and next(slots(value), None):
            return f"[{', '.join(map(written, value))}]"
        if value is None or isinstance(value, bool | int):
            return repr(value)
        name = f"given{len(space)}"
        space[name] = value
        return name

    function = f"{call.op._schema.name}.{call.op._overloadname}".translate(LETTERS)
    space[function] = plain(call.op)
    words = [*map(written, call.args), *(f"{k}={written(v)}" for k, v in call.kwargs.items())]
    new = not call.gives <= call.reads
    results = f"{written(call.outs).replace('None', '_')} = " if new else ""
    return f"{results}{function}({', '.join(words)})"


LETTERS = str.maketrans(".:", "__")


@cache
def plain(op: OpOverload) -> Callable[..., Any]:
    """Return torch's own function for an operator, or what is nearest to one."""
    name = op._schema.name.rpartition("::")[2]
    found = next((getattr(home, name) for home in HOMES if hasattr(home, name)), op._op)
    made: Callable[..., Any] = found
    return made


def _name(slot: Slot) -> str:
    return f"v{slot.number}"
