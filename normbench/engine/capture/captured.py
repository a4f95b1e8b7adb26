"""Calls a function of a model by what was recorded of it, once that has given the same bits."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from normbench.engine.capture.clean import clean
from normbench.engine.capture.program import Program, Recorder, Slot, equal, mapped, where
from normbench.engine.capture.replay import Replay, replay
from normbench.errors import first_line

PATIENCE = 20  # calls before one is recorded, which takes the time of some tens of them
TRIES = 4  # recordings in a row that may differ from the one before
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
Key = tuple[torch.Size, tuple[int, ...]]
Inputs = tuple[Tensor, ...]


Function = Callable[..., tuple[Tensor, ...]]


def captured(
    function: Function, model: nn.Module, when: str, others: Iterable[Tensor] = ()
) -> Function:
    """Return what stands for a function of a model: see `Captured`.

    Args: when: `off`, the function itself; `on`, a recording from the first calls on; `auto`, one
        after some calls. others: tensors beside parameters and buffers that it changes in place.
    """
    if when == "off":
        return function
    return Captured(function, model, others, PATIENCE if when == "auto" else 0)


def doubt(function: Function) -> None:
    """Let the next call see whether all modules are still as they were when it was recorded."""
    if isinstance(function, Captured):
        function.certain = False


def obstacle(function: Function) -> str:
    """Say why a function cannot be replayed, as far as is known, or nothing."""
    return function.reason if isinstance(function, Captured) else ""


class Captured:
    """A function of tensors that changes a model, called without autograd and without modules.

    What the function does may depend on the shape and strides of its first argument, on the plain
    attributes of the model's modules, and on no value. So two recordings in a row must be equal
    and leave the attributes as they were, and a replay of the second must give its bits; else the
    function itself is called ever after, and `reason` says why. `doubt` has the attributes compared
    again.

    Args: function: takes tensors and returns tensors. others: tensors beside parameters and
        buffers that it changes in place. patience: calls with each shape before it is recorded.
    """

    def __init__(
        self,
        function: Function,
        model: nn.Module,
        others: Iterable[Tensor] = (),
        patience: int = 0,
    ) -> None:
        self.function, self.model, self.patience = function, model, patience
        self.changing = [*model.buffers(), *others]
        self.reason = ""
        self._forget()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call the function, or what stands for it."""
        if self.certain:
            found = self.replays.get((inputs[0].shape, inputs[0].stride()))
            if found is not None:
                return found(*inputs)
        return self._learn(inputs)

    def _forget(self) -> None:
        self.certain, self.tries = True, 0
        self.state: list[Any] = []  # under which the replays hold
        self.replays: dict[Key, Replay] = {}
        self.recorded: dict[Key, Program] = {}
        self.calls: Counter[Key] = Counter()

    @property
    def known(self) -> list[Tensor]:
        """The tensors that stay from call to call: parameters, buffers and others."""
        return [*(parameter.detach() for parameter in self.model.parameters()), *self.changing]

    def _state(self) -> list[Any]:
        """Return what replays depend on besides values: attributes, and where tensors lie."""
        return [*attributes(self.model), [tensor.data_ptr() for tensor in self.known]]

    def standing(self, inputs: Inputs) -> Program | None:
        """Return what was recorded with inputs like these, if it stands for the function."""
        self._ascertain()
        key = _key(inputs)
        return self.recorded[key] if key in self.replays else None

    def _ascertain(self) -> None:
        """Forget what was recorded if attributes have changed since, where there is a doubt."""
        if not self.certain:
            if self.replays and not same(self.state, self._state()):
                self._forget()
            self.certain = True

    def _learn(self, inputs: Inputs) -> tuple[Tensor, ...]:
        if not self.certain:
            self._ascertain()
            return self(*inputs)
        key = _key(inputs)
        self.calls[key] += 1
        if self.reason or self.calls[key] <= self.patience:
            return self.function(*inputs)
        return self._record(key, inputs)

    def _record(self, key: Key, inputs: Inputs) -> tuple[Tensor, ...]:
        before, state = Before(self.model, self.changing), self._state()
        recorder = Recorder(self.known, inputs)
        try:
            with recorder.escapes, recorder:
                outputs = self.function(*inputs)
        except Exception as error:  # perhaps not of the function: then it succeeds unwatched
            self.reason = f"it cannot be watched: {first_line(error)}"
            before.restore()
            return self.function(*inputs)
        program = recorder.program(outputs)
        last, self.recorded[key] = self.recorded.get(key), program
        self.reason = recorder.reason or _objection(program, self.model)
        if self.reason or last is None:
            return outputs
        if last.same_as(program) and same(state, self._state()):
            if not same(self.state, state):
                self._forget()
                self.recorded[key] = program
            self.state = state
            self._try(program, inputs, outputs, before)
        else:
            self.tries += 1
            if self.tries == TRIES:
                self.reason = "what it calls changes from step to step"
        return outputs

    def _try(
        self, program: Program, inputs: Inputs, outputs: tuple[Tensor, ...], before: Before
    ) -> None:
        """Keep the replay of a recording if it does to the bit what the function has just done."""
        after = Before(self.model, self.changing)
        before.restore()
        try:
            made = replay(clean(program), self.known, owners(program, self.model))
            if after.holds(made(*inputs), outputs):
                self.replays[_key(inputs)] = made
                return
            self.reason = "its replay gives other bits"
        except Exception as error:  # of an operator that cannot be called like this
            self.reason = f"it cannot be replayed: {first_line(error)}"
        after.restore()


class Before:
    """What a step changes, as it was: tensors and the states of random number generators."""

    def __init__(self, model: nn.Module, changing: Iterable[Tensor]) -> None:
        self.tensors = [(tensor, tensor.clone()) for tensor in changing]
        having: list[Any] = [*_having(model).values()]
        generators = [torch.default_generator, *(module.generator for module in having)]
        if any(tensor.is_cuda for tensor, _ in self.tensors):
            generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
        self.generators = [(generator, generator.get_state()) for generator in generators]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        for tensor, value in self.tensors:
            tensor.copy_(value)
        for generator, state in self.generators:
            generator.set_state(state)

    def holds(self, results: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
        """Tell whether everything is as it was, and `results` are as `expected`."""
        pairs = [*self.tensors, *zip(results, expected, strict=True)]
        drawn = [(generator.get_state(), state) for generator, state in self.generators]
        return all(equal(*pair) for pair in (*pairs, *drawn))


def _key(inputs: Inputs) -> Key:
    return inputs[0].shape, inputs[0].stride()


def attributes(model: nn.Module) -> list[Any]:
    """Return the attributes of all modules, in copies of their containers.

    Left out are generators, which are looked up at each call, and what a module writes but does
    not read (`notes`).
    """
    return [
        {
            name: mapped(value, _copied)
            for name, value in vars(module).items()
            if name not in getattr(module, "notes", ()) and not isinstance(value, torch.Generator)
        }
        for module in model.modules()
    ]


def _copied(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, set | deque) else value


def same(one: Any, other: Any) -> bool:
    """Tell whether attributes are equal, tensors being the same ones."""
    try:
        return bool(one == other)
    except RuntimeError:  # two tensors have no single truth
        return False


def _having(model: nn.Module) -> dict[int, nn.Module]:
    """Find the modules with a `generator`, one for each of these, by where it lies."""
    return {
        where(generator): module
        for module in model.modules()
        if isinstance(generator := getattr(module, "generator", None), torch.Generator)
    }


def owners(program: Program, model: nn.Module) -> dict[Slot, nn.Module]:
    """Find a module that has it for each generator of a program."""
    having = _having(model)
    return {slot: having[at] for slot, at in program.generators.items() if at in having}


def _objection(program: Program, model: nn.Module) -> str:
    """Say why a program cannot stand for a step, or nothing."""
    if any(getattr(module, name) for module in model.modules() for name in HOOKS):
        return "a module has hooks"
    if len(owners(program, model)) < len(program.generators):
        return "it draws from a generator that no module has as `generator`"
    lasting = {*program.strangers, *program.known[: len([*model.parameters()])]}
    if program.written() & program.memory(lasting):
        return "it changes tensors that are no buffers"
    return ""
