"""The processes that train one run together: what they tell, and what becomes of a loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import until

from normbench.errors import FileRefused, NormbenchError
from normbench.runtime import collectives, machine, signs, workers
from normbench.runtime.processes import Message

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


def hear(work: Callable[[workers.Send], None], count: int = 3) -> list[Message]:
    return list(workers.together(count, "cpu", work))


def forever(say: workers.Send) -> None:
    """What each worker does until one is lost: talk to the others."""
    say({"pid": os.getpid()})
    while True:
        collectives.average(torch.ones(1))
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def await_gone(*pids: int) -> None:
    until(lambda: all(map(gone, pids)))


def children() -> list[int]:
    """The processes that were forked here: those with the command line of this one."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    here = Path("/proc/self/cmdline").read_bytes()
    return [int(pid) for pid in listed if Path(f"/proc/{pid}/cmdline").read_bytes() == here]


def test_worker_0_tells_what_all_did_together():
    def work(say: workers.Send) -> None:
        x = torch.arange(3.0) + collectives.rank()
        collectives.average(x)
        say({"mean": x.tolist(), "rank": collectives.rank(), "workers": collectives.world_size()})

    assert hear(work) == [{"mean": [1.0, 2.0, 3.0], "rank": 0, "workers": 3}]


def test_tensors_of_worker_0_reach_the_others():
    def work(say: workers.Send) -> None:
        x = torch.full((2,), float(collectives.rank()))
        collectives.from_first([x])
        say({"sum": collectives.total(x).tolist()})

    assert hear(work) == [{"sum": [0.0, 0.0]}]


def test_other_digests_are_found():
    def work(say: workers.Send) -> None:
        say(
            {
                "unlike": collectives.unlike_first(
                    "ab12" if collectives.rank() != 1 else "ab13", "cpu"
                )
            }
        )

    assert hear(work) == [{"unlike": [1]}]


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (4, 14), (3, 5)])
def test_shares_are_disjoint_and_complete(start, stop):
    def work(say: workers.Send) -> None:
        mine = torch.zeros(20)
        first, last = collectives.share(start, stop)
        mine[first:last] = 1
        say({"covered": collectives.total(mine).tolist()})

    (news,) = hear(work)
    assert news["covered"] == [1.0 if start <= k < stop else 0.0 for k in range(20)]


@pytest.mark.parametrize("rank", range(3))
def test_a_killed_worker_is_named_and_no_process_is_left(rank):
    def work(say: workers.Send) -> None:
        if collectives.rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        forever(say)

    with pytest.raises(workers.RankLost, match=f"worker {rank}: was killed by SIGKILL"):
        hear(work)
    assert not children()


def test_a_loss_is_told_within_30_seconds():
    assert signs.SILENCE_S + signs.LAST_WORDS_S + 2 * signs.BEAT_S < 30


@pytest.fixture
def impatient(monkeypatch):
    """Wait 4 s instead of 15; one that gets too little of the CPU is given 45 s all the same."""
    monkeypatch.setattr(signs, "SILENCE_S", 4.0)


def test_a_stopped_worker_is_noticed_and_killed_too(impatient):
    def work(say: workers.Send) -> None:
        if collectives.rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        forever(say)

    with pytest.raises(workers.RankLost, match="worker 1: gave no sign of life for [0-9]+ s"):
        hear(work)
    assert not children()


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_that_lives_and_does_not_come_on_is_noticed(rank, impatient):
    def work(say: workers.Send) -> None:
        collectives.meet()
        if collectives.rank() == rank:
            time.sleep(1000)
        forever(say)

    with pytest.raises(
        workers.RankLost, match=rf"worker {rank}: hangs: the others have waited \d+ s"
    ):
        hear(work)
    assert not children()


def test_workers_that_all_need_long_are_not_taken_for_lost(monkeypatch):
    monkeypatch.setattr(signs, "SILENCE_S", 1.5)
    monkeypatch.setattr(signs, "BEAT_S", 0.1)

    def work(say: workers.Send) -> None:
        for seconds in (0.0, 0.9, 0.0, 0.9):
            # Worker 1 takes three times as long as the others, which then wait for it.
            time.sleep(seconds * (3 if collectives.rank() == 1 else 1))
            collectives.meet()
        say({"state": "finished"})

    assert hear(work) == [{"state": "finished"}]


def test_an_error_of_a_worker_comes_with_its_trace():
    def work(say: workers.Send) -> None:
        if collectives.rank() == 1:
            raise ZeroDivisionError("by nothing")
        forever(say)

    with pytest.raises(
        workers.WorkFailed, match="worker 1: ZeroDivisionError: by nothing"
    ) as error:
        hear(work)
    assert "raise ZeroDivisionError" in error.value.__notes__[0]
    assert not children()


def test_an_expected_error_keeps_its_message_and_code():
    def work(say: workers.Send) -> None:
        raise FileRefused("images.npy", "is another one", "the same data everywhere")

    with pytest.raises(NormbenchError) as error:
        hear(work)
    assert str(error.value) == str(
        FileRefused("images.npy", "is another one", "the same data everywhere")
    )
    assert error.value.code == 3


def test_a_worker_without_memory_is_told_as_such():
    def work(say: workers.Send) -> None:
        raise MemoryError("1 GiB")

    with pytest.raises(MemoryError, match="1 GiB") as error:
        hear(work)
    assert machine.out_of_memory(error.value)


def test_workers_end_when_their_parent_stops_listening():
    news = workers.together(2, "cpu", forever)
    next(news)
    assert len(children()) == 2
    news.close()
    assert not children()


PARENT = """
import sys
from runtime.test_workers import forever
from normbench.runtime import workers
for news in workers.together(2, "cpu", forever):
    print(*open(f"/proc/self/task/{__import__('os').getpid()}/children").read().split(), flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(sent):
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with parent:
        assert parent.stdout
        pids = [int(each) for each in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(sent)
        await_gone(*pids)
