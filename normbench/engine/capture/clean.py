"""Makes a recorded program shorter, with the same bits: fewer calls, and less memory moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from normbench.engine.capture.program import Call, Layout, Program, Slot, slots

aten = torch.ops.aten
RELU, RELU_BACK = aten.relu.default, aten.threshold_backward.default
# Elementwise operators, by those that write the result over their first argument.
IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.neg.default: aten.neg_.default,
    aten.sqrt.default: aten.sqrt_.default,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    RELU_BACK: aten.threshold_backward.grad_input,
}
# Operators, by those that write the result into a given tensor.
OUT = {aten.mm.default: aten.mm.out, aten.sum.dim_IntList: aten.sum.IntList_out}
LIKE = {aten.ones_like.default: 1, aten.zeros_like.default: 0}
SLICE, MAXIMUM, END = aten.slice.Tensor, aten.maximum.default, 2**63 - 1
COPY, VIEW = aten._foreach_copy_.default, aten.as_strided.default
EMPTY = aten.new_empty.default
WINDOWS = [[2, 2]], [[2, 2], [2, 2]]  # with the steps that they take if none are given
POOL = aten.max_pool2d_with_indices.default
POOL_BACK = aten.max_pool2d_with_indices_backward.default


def clean(program: Program) -> Program:
    """Return an equal program with fewer calls, some of which write over what is there."""
    program = tidy(program)
    for change in (halved, written_through, without_dead, without_twins, in_place, reused):
        program = change(program)
    return program


def tidy(program: Program) -> Program:
    """Return an equal program with fewer calls."""
    for change in (without_repeats, without_dead, folded, pool_first, without_dead):
        program = change(program)
    return program


def without_repeats(program: Program) -> Program:
    """Leave out what only gives tensors that are there already, such as `detach`."""
    there = {*program.known, *program.inputs, *program.strangers, *program.constants}
    calls = []
    for call in program.calls:
        if call.writes or not call.gives <= there:
            calls.append(call)
        there |= call.gives
    return replace(program, calls=calls)


def without_twins(program: Program) -> Program:
    """Compute once what is computed twice from tensors that nothing writes to in between."""
    written, calls, names = program.written(), list[Call](), dict[Slot, Slot]()
    seen = dict[str, Call]()
    for old in program.calls:
        call = old.renamed(names)
        fixed = not call.is_random() and not program.memory([*call.gives, *call.reads]) & written
        twin = seen.setdefault(f"{call.op} {call.args} {call.kwargs}", call) if fixed else call
        if twin is call:
            calls.append(call)
        else:
            names |= dict(zip(slots(call.outs), slots(twin.outs), strict=True))
    return replace(program, calls=calls, outputs=[names.get(o, o) for o in program.outputs])


def reused(program: Program) -> Program:
    """Keep from step to step the memory that is asked for to write to, unless it is returned."""
    returned, constants, calls = program.memory(program.outputs), dict(program.constants), []
    for call in program.calls:
        if call.op is EMPTY and not program.memory(call.gives) & returned:
            at = program.layouts[call.outs]
            made = torch.empty_strided(at.shape, at.stride, dtype=at.dtype, device=at.device)
            constants[call.outs] = made
        else:
            calls.append(call)
    return replace(program, calls=calls, constants=constants)


def folded(program: Program) -> Program:
    """Compute once what depends on nothing but constants, and is not written to."""
    written, constants, calls = program.written(), dict(program.constants), []
    for call in program.calls:
        alone = call.reads <= constants.keys() or call.op in LIKE
        if not alone or call.is_random() or program.memory(call.gives) & written:
            calls.append(call)
        elif call.op in LIKE:
            at = program.layouts[call.outs]
            tensor = torch.empty_strided(at.shape, at.stride, dtype=at.dtype, device=at.device)
            constants[call.outs] = tensor.fill_(LIKE[call.op])
        else:
            constants |= call.run(constants)
    return replace(program, calls=calls, constants=constants)


def pool_first(program: Program) -> Program:
    """Take the maximum of a window before relu, not after it: the same, with less to relu.

    Where the maximum is not positive it may stand elsewhere, but no gradient passes there.
    """
    written = program.written()
    for relu in [call for call in program.calls if call.op is RELU]:
        users = [place for place, call in enumerate(program.calls) if relu.outs in call.reads]
        kinds = [program.calls[place].op for place in users]
        backward = kinds == [POOL, POOL_BACK, RELU_BACK] and _joined(program, *users[1:])
        if (kinds == [POOL] or backward) and not program.memory([*relu.reads]) & written:
            program = _pool_then_relu(program, relu, users)
    return program


def halved(program: Program) -> Program:
    """Take the maximum of 2x2 windows by rows, then by columns, where nobody asks where it stands.

    The same, and in channels-last, where these are long pieces of memory, in half of the time.
    """
    asked = {*program.outputs, *(slot for call in program.calls for slot in call.reads)}
    calls, layouts, new = list[Call](), dict(program.layouts), program.new_slot().number
    for call in program.calls:
        if call.op is not POOL or call.outs[1] in asked or not _halves(call, layouts):
            calls.append(call)
            continue
        x, places = call.args[0], [Slot(new + more) for more in range(5)]
        new += len(places)
        for axis, larger in ((2, places.pop()), (3, call.outs[0])):
            pair = places.pop(), places.pop()
            for first, half in enumerate(pair):
                calls.append(Call(SLICE, (x, axis, first, END, 2), {}, half))
                layouts[half] = _every_second(layouts[x], axis, first)
            calls.append(Call(MAXIMUM, pair, {}, larger))
            x, at = larger, layouts[half]
            c, h, w = at.shape[1:]
            dense = at._replace(memory=-x.number, offset=0, stride=(h * w * c, 1, w * c, c))
            layouts.setdefault(x, dense)
    return replace(program, calls=calls, layouts=layouts)


def _halves(call: Call, layouts: Mapping[Slot, Layout]) -> bool:
    """Tell whether a pool has windows of 2x2 that cover images in channels-last."""
    shape, stride = layouts[call.args[0]][2:4]
    last = len(shape) == 4 and stride[1] == 1
    return last and not any(size % 2 for size in shape[2:]) and [*call.args[1:]] in WINDOWS


def _every_second(at: Layout, axis: int, first: int) -> Layout:
    """Return where every second row or column lies, from the first or the second on."""
    shape, stride = [*at.shape], [*at.stride]
    shape[axis], stride[axis] = shape[axis] // 2, 2 * stride[axis]
    offset = at.offset + first * at.stride[axis]
    return at._replace(offset=offset, shape=tuple(shape), stride=tuple(stride))


def _joined(program: Program, pool_back: int, relu_back: int) -> bool:
    """Tell whether the gradient of a pool goes to that of a relu, and nowhere else."""
    passed = program.calls[pool_back].outs
    users = [place for place, call in enumerate(program.calls) if passed in call.reads]
    return users == [relu_back] and passed not in program.outputs


def _pool_then_relu(program: Program, relu: Call, users: list[int]) -> Program:
    calls, (x, (largest, index)) = list(program.calls), (relu.args[0], program.calls[users[0]].outs)
    layouts = dict(program.layouts)
    before, upstream = (program.new_slot(more) for more in range(2))
    for slot in (before, upstream):
        layouts[slot] = layouts[largest]._replace(memory=-slot.number)
    pool, *back = (calls[place] for place in users)
    changes = {
        id(relu): [],
        id(pool): [
            replace(pool, args=(x, *pool.args[1:]), outs=(before, index)),
            replace(relu, args=(before,), outs=largest),
        ],
    }
    if back:
        changes[id(back[0])] = [
            replace(back[1], args=(back[0].args[0], largest, 0), outs=upstream),
            replace(back[0], args=(upstream, x, *back[0].args[2:]), outs=back[1].outs),
        ]
        changes[id(back[1])] = []
    changed = [new for call in calls for new in changes.get(id(call), [call])]
    return replace(program, calls=changed, layouts=layouts)


def written_through(program: Program) -> Program:
    """Let what computes a gradient write it to where it is copied."""
    copies = [call for call in program.calls if call.op is COPY]
    others = {slot for call in program.calls if call.op is not COPY for slot in call.reads}
    if len(copies) != 1 or program.memory(others) & program.memory(copies[0].args[0]):
        return program
    at, into, calls, left = dict(program.layouts), {}, [], []
    names: dict[Slot, Slot] = {}
    makers = {at[call.outs].memory: call.outs for call in program.calls if call.op in OUT}
    for target, source in zip(*copies[0].args, strict=True):
        made = makers.pop(at[source].memory, None)
        if made is None or not _same_place(at[target], at[source], at[made]):
            left.append((target, source))
            continue
        place, to, of = program.new_slot(len(names)), at[target], at[made]
        at[place] = to._replace(shape=of.shape, stride=of.stride)
        calls.append(Call(VIEW, (target, of.shape, of.stride, to.offset), {}, place))
        names[made], into[of.memory] = place, to.memory
    for call in program.calls:
        if call.op in OUT and call.outs in names:
            call = replace(call, op=OUT[call.op], kwargs={**call.kwargs, "out": call.outs})
        if call.op is COPY:
            call = replace(call, args=tuple(map(list, zip(*left, strict=True))))
        if call.op is not COPY or left:
            calls.append(call.renamed(names))
    return replace(program, calls=calls, layouts=_moved(at, into))


def _same_place(target: Layout, source: Layout, made: Layout) -> bool:
    """Tell whether `source` is all of what was `made`, its elements in the order of `target`."""
    steps = {
        tuple((size, step) for size, step in zip(at.shape, at.stride, strict=True) if size > 1)
        for at in (target, source)
    }
    whole = math.prod(source.shape) == math.prod(made.shape)
    return whole and source.offset == made.offset and len(steps) == 1


def _moved(at: dict[Slot, Layout], into: dict[int, int]) -> dict[Slot, Layout]:
    """Let what lay in some memory lie in another."""
    return {
        slot: layout._replace(memory=into.get(layout.memory, layout.memory))
        for slot, layout in at.items()
    }


def without_dead(program: Program) -> Program:
    """Leave out calls without random numbers whose results nobody uses."""
    live, calls = {*program.outputs}, []
    needed = program.memory([*program.known, *program.strangers, *live])
    for call in reversed(program.calls):
        if call.is_random() or call.gives & live or program.memory(call.writes) & needed:
            live |= call.reads
            needed |= program.memory(call.reads)
            calls.append(call)
    return replace(program, calls=calls[::-1])


def in_place(program: Program) -> Program:
    """Let elementwise operators overwrite an argument that nobody uses any more."""
    at, calls, names = program.layouts, [], dict[Slot, Slot]()
    into = {layout.memory: layout.memory for layout in at.values()}  # what lies where by now
    kept = program.known, program.inputs, program.outputs, program.strangers, program.constants
    stays = program.memory(slot for each in kept for slot in each)
    last = {m: n for n, call in enumerate(program.calls) for m in program.memory(call.reads)}
    for place, old in enumerate(program.calls):
        call = old.renamed(names)
        if call.op in IN_PLACE:
            over, result = at[call.args[0]], at[call.outs]
            memory = into[over.memory]
            alone = memory not in {into[at[slot].memory] for slot in slots(call.args[1:])}
            free = not {memory, result.memory} & stays and last[memory] == place
            if alone and free and over[2:] == result[2:]:
                names[call.outs] = call.args[0]
                last[memory], into[result.memory] = last.get(result.memory, place), memory
                into_first = {"grad_input": call.args[0]} if call.op is RELU_BACK else {}
                call = replace(call, op=IN_PLACE[call.op], kwargs={**call.kwargs, **into_first})
                call = call.renamed(names)
        calls.append(call)
    return replace(program, calls=calls, layouts=_moved(at, into))
