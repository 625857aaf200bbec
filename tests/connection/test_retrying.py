"""Frames that cannot be decrypted yet."""

from __future__ import annotations

from discord_rtc.connection.retrying import RETRY_BOUND, RETRY_SECONDS, RetryHold
from discord_rtc.frames import Codec
from discord_rtc.rtp.session import FrameReceived


def frame(number: int) -> FrameReceived:
    return FrameReceived(1, Codec.OPUS, b"x", number, True, 0.0)


def test_frames_leave_in_the_order_in_which_they_came() -> None:
    hold = RetryHold()
    for number in range(3):
        assert hold.put(frame(number), 10.0 + number) is None
    assert len(hold) == 3
    assert hold.peek() == (frame(0), 10.0 + RETRY_SECONDS)
    assert [hold.take().ticks for _ in range(3)] == [0, 1, 2]
    assert not hold


def test_a_full_hold_gives_up_the_oldest() -> None:
    hold = RetryHold()
    for number in range(RETRY_BOUND):
        hold.put(frame(number), 0.0)
    assert hold.put(frame(RETRY_BOUND), 0.0) == frame(0)
    assert len(hold) == RETRY_BOUND
    assert hold.take() == frame(1)
