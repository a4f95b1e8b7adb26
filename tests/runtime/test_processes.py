"""Forked children: messages both ways, exit codes, signals."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from normbench.runtime.processes import Channel, Child, fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")


def started(main, siblings=()) -> Child:
    return fork(main, siblings, dies_by=signal.SIGTERM)


def doubled(channel: Channel) -> int:
    for message in channel.messages():
        channel.send({"double": 2 * message["number"]})
    return 3


def test_messages_go_both_ways_and_the_code_comes_back():
    child = started(doubled)
    for number in (4, 10**6):
        child.channel.send({"number": number})
        assert child.channel.receive() == [{"double": 2 * number}]
    child.channel.finish()
    assert child.channel.receive() is None
    assert child.reap() == 3
    assert child.reap() == 3  # once is enough


def test_a_message_longer_than_a_pipe_arrives_whole():
    child = started(lambda channel: channel.send({"text": "x" * 300_000}) or 0)
    (message,) = child.channel.messages()
    assert message == {"text": "x" * 300_000}
    assert child.reap() == 0


def test_an_error_or_an_exit_in_a_child_ends_it_alone(capfd):
    def fails(channel: Channel) -> int:
        raise ValueError("no")

    assert started(fails).reap() == 1
    assert started(lambda channel: sys.exit(7)).reap() == 7
    assert capfd.readouterr().err == ""


def test_a_child_that_is_killed_has_the_signal_as_its_code():
    child = started(lambda channel: time.sleep(60) or 0)
    child.kill(signal.SIGKILL)
    assert child.channel.receive() is None
    assert child.reap() == -signal.SIGKILL
    child.kill(signal.SIGTERM)  # nobody, whose number another process may have by now


def test_a_child_sees_that_its_parent_has_no_more_to_say_although_it_has_siblings():
    first = started(doubled)
    second = started(doubled, [first])
    first.channel.finish()
    assert first.channel.receive() is None
    second.channel.finish()
    assert (first.reap(), second.reap()) == (3, 3)


def test_the_terminal_interrupts_no_child():
    child = started(doubled)
    child.channel.send({"number": 1})
    assert child.channel.receive() == [{"double": 2}]
    os.kill(child.pid, signal.SIGINT)
    child.channel.send({"number": 2})
    assert child.channel.receive() == [{"double": 4}]
    child.channel.finish()
    assert child.reap() == 3


@pytest.mark.parametrize("call", ["close", "waitpid"])
def test_an_interrupt_at_any_moment_leaves_a_child_that_can_be_reaped(call, monkeypatch):
    child, real, pending = started(doubled), getattr(os, call), [KeyboardInterrupt]

    def interrupted(*args):
        """Do it, and be interrupted before the caller can note that."""
        done = real(*args)
        if pending:
            raise pending.pop()
        return done

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.reap()
    child.kill(signal.SIGKILL)
    assert child.reap() in (0, 1, -signal.SIGKILL)
