"""Calls a function of several models for all of them at once, as soon as that is known to do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from normbench.engine.capture.captured import Before, Captured, Function, Inputs, owners
from normbench.engine.capture.clean import clean
from normbench.engine.capture.joint import Joint, Unlike
from normbench.engine.capture.program import Program, Recorder
from normbench.engine.capture.replay import Replay, replay
from normbench.errors import first_line

LEAST = 0.5  # share of the operators that are called once for all lanes, below which it costs
Outputs = list[tuple[Tensor, ...]]


class Laned:
    """One function of each of several models, called for all these lanes in one program.

    Each lane's function is called for itself until it has been recorded, and wherever its recording
    does not hold; `reason` says why it is so ever after, if it is. What comes of a call has the
    same bits in all these ways, and depends on no other lane.
    """

    def __init__(self, functions: Sequence[Function]) -> None:
        self.functions = functions
        self.each = [each for each in functions if isinstance(each, Captured)]
        self.reason = "" if len(self.each) == len(functions) else "steps are not replayed"
        self.programs: list[Program] = []
        self.made: Replay | None = None

    def __call__(self, inputs: Sequence[Inputs]) -> Outputs:
        """Call with the inputs of each lane; return the outputs of each."""
        if self.reason:
            return self._apart(inputs)
        found = [lane.standing(given) for lane, given in zip(self.each, inputs, strict=True)]
        programs = [program for program in found if program]
        if len(programs) < len(found):
            return self._apart(inputs)
        if self.made is None or any(map(_differ, programs, self.programs)):
            return self._learn(programs, inputs)
        return _cut(self.made(*itertools.chain.from_iterable(inputs)), len(self.each))

    def _apart(self, inputs: Sequence[Inputs]) -> Outputs:
        return [each(*given) for each, given in zip(self.functions, inputs, strict=True)]

    def _learn(self, programs: list[Program], inputs: Sequence[Inputs]) -> Outputs:
        """Find out how the programs of the lanes can be called together, and call them."""
        model = nn.ModuleList([lane.model for lane in self.each])
        changing = [tensor for lane in self.each for tensor in lane.changing]
        before, flat = Before(model, changing), tuple(itertools.chain.from_iterable(inputs))
        self.programs, self.made = programs, None
        try:
            known = [lane.known for lane in self.each]
            pairs = zip(programs, self.each, strict=True)
            joint = Joint(programs, known, [owners(one, lane.model) for one, lane in pairs])
        except Unlike as error:
            self.reason = str(error)
            return self._apart(inputs)
        outputs, truths = joint.alone(flat)
        after = Before(model, changing)
        try:
            before.restore()
            joint.decide(flat, truths)
            if joint.share() < LEAST:
                raise Unlike("most of their operators would be called for each lane")
            before.restore()
            recorder = Recorder(itertools.chain.from_iterable(known), flat)
            with recorder:
                program = recorder.program(joint(*flat))
            before.restore()
            made = replay(
                clean(program), [*itertools.chain.from_iterable(known)], owners(program, model)
            )
            if not after.holds(made(*flat), outputs):
                raise Unlike("they give other bits together")
            self.made = made
        except Exception as error:
            self.reason = first_line(error)
            after.restore()
        return _cut(outputs, len(self.each))


def _differ(one: object, other: object) -> bool:
    return one is not other


def _cut(outputs: tuple[Tensor, ...], lanes: int) -> Outputs:
    size = len(outputs) // lanes
    return [outputs[start : start + size] for start in range(0, len(outputs), size)]
