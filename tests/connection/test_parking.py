"""Frames whose sender is not known yet."""

from __future__ import annotations

from discord_rtc.connection.parking import PARKING_BOUND, PARKING_SECONDS, Parking
from discord_rtc.frames import Codec
from discord_rtc.rtp.session import FrameReceived


def frame_of(ssrc: int, now: float) -> FrameReceived:
    return FrameReceived(ssrc, Codec.OPUS, b"x", 0, True, now)


def test_parked_frames_are_taken_in_order_and_once() -> None:
    parking = Parking()
    for ssrc, now in ((1, 0.0), (2, 0.1), (1, 0.2)):
        parking.park(frame_of(ssrc, now))
    assert parking.take(1) == [frame_of(1, 0.0), frame_of(1, 0.2)]
    assert parking.take(1) == []
    assert len(parking) == 1


def test_a_full_parking_drops_the_oldest_and_counts_it() -> None:
    parking = Parking()
    for number in range(PARKING_BOUND + 2):
        parking.park(frame_of(1, float(number)))
    assert (len(parking), parking.high_water, parking.dropped) == (PARKING_BOUND, PARKING_BOUND, 2)
    assert parking.take(1)[0].now == 2.0


def test_frames_wait_half_a_second_and_no_longer() -> None:
    parking = Parking()
    parking.park(frame_of(1, 0.0))
    parking.park(frame_of(1, 0.3))
    parking.expire(PARKING_SECONDS)
    assert parking.dropped == 0
    parking.expire(PARKING_SECONDS + 0.01)
    assert (len(parking), parking.dropped) == (1, 1)
