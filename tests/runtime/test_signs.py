"""Who is lost, by the signs of life of several workers."""

from __future__ import annotations

import pytest

from normbench.runtime.signs import FACTOR, IDLE_S, SILENCE_S, AllHang, RankLost, Sign, Watch


def seen(watch: Watch, now: float, *signs: Sign | None) -> None:
    """Let a second pass in which each worker gives a sign, or None."""
    for rank, sign in enumerate(signs):
        if sign:
            watch.hear(rank, sign, now)
    watch.check(now)


def began(*signs: Sign) -> tuple[Watch, float]:
    watch = Watch(len(signs))
    now = watch.looked
    seen(watch, now, *signs)
    return watch, now


def test_a_silent_worker_is_lost() -> None:
    watch, now = began(Sign(), Sign())
    for second in range(1, int(SILENCE_S) + 1):
        seen(watch, now + second, Sign(), None)
    with pytest.raises(RankLost, match="worker 1: gave no sign of life for 16 s"):
        seen(watch, now + SILENCE_S + 1, Sign(), None)


def test_a_silent_worker_that_computes_is_given_longer() -> None:
    watch, now = began(Sign(), Sign())
    watch.busy = lambda rank: True
    with pytest.raises(RankLost, match="worker 1: gave no sign of life for 46 s"):
        for second in range(1, 60):
            seen(watch, now + second, Sign(), None)


def test_a_worker_counts_from_its_first_sign_on_and_not_when_it_is_done() -> None:
    watch, now = began(Sign())
    for second in range(1, 100):
        watch.hear(0, Sign(), now + second)
        watch.check(now + second)
    seen(watch, now + 100, Sign(), Sign(done=True))
    for second in range(101, 200):
        seen(watch, now + second, Sign(), None)


def test_signs_that_this_process_has_missed_do_not_count() -> None:
    watch, now = began(Sign(), Sign())
    watch.check(now + 100)  # it was stopped


def test_loops_that_all_hang_are_noticed_within_a_minute() -> None:
    watch, now = began(Sign(turns=4, steps=2), Sign(turns=4, steps=2))
    with pytest.raises(AllHang, match="gpus=2: hang: none of them has come on for 4[0-9] s"):
        for second in range(1, 60):
            seen(watch, now + second, Sign(4, 2), Sign(4, 2))


@pytest.mark.parametrize(
    "signs",
    [
        (Sign(turns=3), Sign(turns=3)),  # before the first step: data are loaded
        (Sign(turns=5, steps=2), Sign(turns=4, steps=2, away=True)),  # worker 1 writes
    ],
)
def test_a_wait_that_may_be_long_is_no_loss(signs: tuple[Sign, Sign]) -> None:
    watch, now = began(*signs)
    for second in range(1, 1000):
        seen(watch, now + second, *signs)


def test_slow_steps_are_no_loss() -> None:
    watch, now = began(Sign(steps=1), Sign(steps=1))
    pause = IDLE_S - 5
    for second in range(1, int(FACTOR * pause)):  # the second of them took `pause`
        steps = 1 if second < pause else 2
        seen(watch, now + second, Sign(steps=steps), Sign(steps=steps))
    assert FACTOR * pause > 2 * IDLE_S
