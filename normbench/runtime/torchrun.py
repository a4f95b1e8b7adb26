"""Watches over workers that torchrun has started, from a thread in each of them.

Torchrun sees that a process has ended, but not that one is stopped or hangs. Each worker gives its
signs of life to the store of torchrun, and hears those of all others there, so that it notices
whoever is lost while its own training waits for a message.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from normbench.errors import first_line
from normbench.runtime import collectives, signs
from normbench.runtime.signs import AGAIN, LAST_WORDS_S, SILENCE_S, RankLost, Sign, Watch


@contextmanager
def watched(run: str, record: Callable[[BaseException], None] | None = None) -> Iterator[None]:
    """Watch over all workers of a run during a `with` block; a loss ends this process.

    Args: run: its name, the same on all workers. record: of worker 0, writes down why it failed.
    """
    vigil = _Vigil(collectives.rank(), collectives.world_size(), run, record)
    thread = threading.Thread(target=vigil.keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        vigil.over.set()
        thread.join()


@dataclass
class _Vigil:
    """Gives the signs of this worker and hears those of the others until it is over."""

    rank: int
    workers: int
    run: str
    record: Callable[[BaseException], None] | None
    over: threading.Event = field(default_factory=threading.Event)

    def keep(self) -> None:
        """Be the thread."""
        store = collectives.notices(self.run)
        # Whether a silent one computes cannot be seen from another machine: it may.
        watch, told = Watch(self.workers, lambda rank: True), dict[int, str]()
        reached, beats = time.monotonic(), 0
        while True:
            over = self.over.wait(signs.BEAT_S if beats else 0)
            beats += 1
            try:
                own = replace(signs.OWN, done=over)
                store.set(str(self.rank), json.dumps([beats, *astuple(own)]))
                if over:
                    return
                heard = self._heard(store, told)
            except RuntimeError as error:  # all that torch raises
                if time.monotonic() - reached > SILENCE_S:
                    why = f"cannot be reached: {first_line(error)}"
                    self._end(RankLost("torchrun", why, AGAIN))
                continue
            reached = now = time.monotonic()
            try:
                for rank in heard:
                    watch.hear(rank, Sign(*json.loads(told[rank])[1:]), now)
                watch.check(now)
            except RankLost as error:
                self._end(error)

    def _heard(self, store: Any, told: dict[int, str]) -> list[int]:
        """Read what is new from the workers that have said something yet."""
        ranks = [rank for rank in range(self.workers) if rank in told or store.check([str(rank)])]
        texts = [text.decode() for text in store.multi_get([str(rank) for rank in ranks])]
        new = [rank for rank, text in zip(ranks, texts, strict=True) if told.get(rank) != text]
        told.update(zip(ranks, texts, strict=True))
        return new

    def _end(self, error: RankLost) -> None:
        """End this process, whose training waits or hangs and hears nothing."""
        if self.record:
            self.record(error)
        else:
            time.sleep(LAST_WORDS_S)  # worker 0 is to write first; then torchrun ends all others
        with suppress(OSError):
            os.write(2, f"{error}\n".encode())
        os._exit(error.code)
