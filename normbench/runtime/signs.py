"""Signs of life: what each worker of a run tells of itself every second, and who is lost by them.

A sign says how far its worker is in the messages to the others and in its steps. So besides one
that died or was stopped, one that lives and does not come to the others is noticed, and a loop that
hangs in all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from normbench.errors import NormbenchError

BEAT_S = 1.0  # between two signs of life
SILENCE_S = 15.0  # without one, a worker is lost
FACTOR = 10  # likewise if it needs so many times longer than another to come to the next message
IDLE_S = 45.0  # likewise all of them if none comes on, or FACTOR times as long as ever before
LAST_WORDS_S = 5.0  # how long the others may take to report a loss that one has noticed
AGAIN = "the same command again"


@dataclass
class Sign:
    """How far a worker is.

    turns: into messages to the others and out of them, so odd while in one; all come to the same.
    steps: of training, pre-training and evaluation. away: at work outside of training for which
    the others wait, however long it takes. done: it has nothing more to do.
    """

    turns: int = 0
    steps: int = 0
    away: bool = False
    done: bool = False


OWN = Sign()  # of this process


@contextmanager
def away() -> Iterator[None]:
    """Let the others wait for this worker, during a `with` block, without taking it for lost."""
    OWN.away = True
    try:
        yield
    finally:
        OWN.away = False


class RankLost(NormbenchError):
    """A worker died, hangs, or was cut off from the others."""

    reason = "rank_lost"


class AllHang(RankLost):
    """No worker comes on."""

    reason = "timeout"


class Watch:
    """Hears the signs of all workers and tells who is lost; times are of `time.monotonic`.

    Args: busy: tells whether a silent worker computes, as one does that gets too little of the CPU:
        it is given `IDLE_S`.
    """

    def __init__(self, workers: int, busy: Callable[[int], bool] = lambda rank: False) -> None:
        self.workers, self.busy = workers, busy
        self.signs: dict[int, Sign] = {}
        self.heard: dict[int, float] = {}  # when; a worker counts from its first sign on
        self.looked = self.moved = self.stepped = time.monotonic()
        self.front, self.took = 0, 0.0  # turns of the foremost worker, and how long the last took
        self.longest = 0.0  # time without any progress since the first step

    def hear(self, rank: int, sign: Sign, now: float) -> None:
        """Take a sign of a worker."""
        before = self.signs.get(rank)
        self.signs[rank], self.heard[rank] = sign, now
        if sign.away or before is None or before.turns < sign.turns or before.steps < sign.steps:
            if any(each.steps for each in self.signs.values()):
                self.longest = max(self.longest, now - self.stepped)
            self.stepped = now

    def check(self, now: float) -> None:
        """See whether all are there and come on.

        Raises: RankLost, naming the worker.
        """
        if now - self.looked > 2 * BEAT_S + LAST_WORDS_S:  # this very process was stopped
            self.heard = dict.fromkeys(self.heard, now)
            self.moved = self.stepped = now
        self.looked = now
        front = max((sign.turns for sign in self.signs.values()), default=0)
        if front > self.front:
            self.front, self.took, self.moved = front, now - self.moved, now
        for rank, sign in self.signs.items():
            if not sign.done:
                self._check(rank, sign, now)
        live = [sign for sign in self.signs.values() if not sign.done]
        idle = now - self.stepped
        if live and any(sign.steps for sign in live) and idle > max(IDLE_S, FACTOR * self.longest):
            why = f"hang: none of them has come on for {idle:.0f} s"
            raise AllHang(f"gpus={self.workers}", why, AGAIN)

    def _check(self, rank: int, sign: Sign, now: float) -> None:
        silent, waited = now - self.heard[rank], now - self.moved
        if silent > SILENCE_S and (silent > IDLE_S or not self.busy(rank)):
            raise RankLost(f"worker {rank}", f"gave no sign of life for {silent:.0f} s", AGAIN)
        # One that is in a message waits as well, and one that was stopped is soon silent.
        computes = sign.turns % 2 == 0 and not sign.away and silent < 3 * BEAT_S
        if computes and sign.turns < self.front and waited > max(SILENCE_S, FACTOR * self.took):
            why = f"hangs: the others have waited {waited:.0f} s for it"
            raise RankLost(f"worker {rank}", why, AGAIN)
