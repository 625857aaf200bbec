from __future__ import annotations

from discord_rtc.server.ratelimit import MessageRate


def test_the_first_message_over_the_limit_is_too_many() -> None:
    rate = MessageRate(limit=3)
    assert [rate.exceeded(10.0) for _ in range(5)] == [False, False, False, True, True]


def test_every_second_starts_anew() -> None:
    rate = MessageRate(limit=1)
    assert not rate.exceeded(10.0)
    assert rate.exceeded(10.99)
    assert not rate.exceeded(11.0)
