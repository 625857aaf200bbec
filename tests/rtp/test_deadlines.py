"""The earliest of several deadlines."""

from __future__ import annotations

from discord_rtc.rtp.deadlines import earliest


def test_the_earliest_time_that_is_set_wins() -> None:
    assert earliest(None, 3.0, None, 1.5, 2.0) == 1.5


def test_nothing_is_due_when_no_time_is_set() -> None:
    assert earliest() is None
    assert earliest(None, None) is None


def test_zero_is_a_time() -> None:
    assert earliest(0.0, 1.0) == 0.0
