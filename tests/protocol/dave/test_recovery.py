"""Recoveries are immediate once and rare after that."""

from __future__ import annotations

from discord_rtc.protocol.dave.recovery import FailureWatch, Recovery, RecoveryRequest

FIRST, SECOND = RecoveryRequest(1, "one"), RecoveryRequest(2, "two")


def test_the_first_recovery_is_immediate() -> None:
    recovery = Recovery()
    assert recovery.take(100.0) is None
    recovery.request(FIRST, 100.0)
    assert recovery.next_timeout() == 100.0
    assert recovery.take(100.0) == FIRST
    assert recovery.next_timeout() is None


def test_the_second_waits_and_a_newer_request_takes_its_place_and_time() -> None:
    recovery = Recovery()
    recovery.request(FIRST, 100.0)
    recovery.take(100.0)
    recovery.request(FIRST, 100.1)
    recovery.request(SECOND, 100.4)
    assert recovery.take(100.4) is None
    assert recovery.next_timeout() == 100.5
    assert recovery.take(100.5) == SECOND


def test_pauses_grow_to_five_seconds_until_a_group_was_entered() -> None:
    recovery = Recovery()
    taken = []
    now = 0.0
    while now < 30.0:
        recovery.request(FIRST, now)
        if recovery.take(now):
            taken.append(now)
        now += 0.25
    assert taken == [0.0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5, 22.5, 27.5]
    recovery.succeeded()
    assert recovery.next_timeout() is None
    for _ in range(2):
        recovery.request(FIRST, now)
        now = recovery.next_timeout() or 0.0
        assert recovery.take(now)
    assert now == 33.0  # 27.5 and the pause of then, and half a second


def test_what_a_new_group_makes_void_is_cancelled() -> None:
    recovery = Recovery()
    recovery.request(FIRST, 0.0)
    recovery.cancel()
    assert recovery.take(1.0) is None


def test_a_watch_wants_both_the_number_and_the_time() -> None:
    watch = FailureWatch(1.0)
    assert not any(watch.failure(0.0) for _ in range(100))  # many, but at once
    watch.reset()
    assert not any(watch.failure(0.1 * number) for number in range(35))  # long, but few
    assert watch.failure(3.5)


def test_one_success_begins_the_count_anew() -> None:
    watch = FailureWatch(1.0)
    for number in range(40):
        assert not watch.failure(number * 0.02)
    watch.reset()
    assert not any(watch.failure(2.0 + number * 0.02) for number in range(50))
    assert watch.failure(3.0)


def test_a_watch_raises_the_alarm_at_most_every_ten_seconds() -> None:
    watch = FailureWatch(1.0)
    alarms = [number / 50 for number in range(1500) if watch.failure(number / 50)]
    assert alarms == [1.0, 11.0, 21.0]
