"""Frames that must not leave yet."""

from __future__ import annotations

from fractions import Fraction

import pytest

from discord_rtc.connection.holding import HOLD_BOUND, STALE_AFTER, FrameHold, Held
from discord_rtc.frames import Codec, EncodedFrame, MediaKind

LIMIT = 0.5


class Source:
    """Counts nothing."""

    withheld = False

    def count(self, what: str) -> None:
        """Not asked here."""

    def keyframe_requested(self) -> None:
        """Not asked here."""

    def demand_keyframe(self) -> None:
        """Not asked here."""


SOURCE = Source()


def sound(number: int, *, at: float | None = None) -> Held:
    """The n-th 20 ms."""
    frame = EncodedFrame(b"s", Codec.OPUS, 960 * number, Fraction(1, 48_000), keyframe=True)
    return Held(frame, SOURCE, number / 50 if at is None else at)


def picture(number: int, *, key: bool = False, at: float | None = None) -> Held:
    """The n-th tenth of a second."""
    frame = EncodedFrame(b"p", Codec.VP8, number, Fraction(1, 10), keyframe=key)
    return Held(frame, SOURCE, number / 10 if at is None else at)


def numbers(frames: list[Held]) -> list[int]:
    step = 960 if frames and frames[0].frame.codec is Codec.OPUS else 1
    return [held.frame.pts // step for held in frames]


def drained(hold: FrameHold) -> list[Held]:
    frames: list[Held] = []
    while (held := hold.take()) is not None:
        frames.append(held)
    return frames


def test_frames_come_out_in_order_with_the_time_at_which_they_came() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    for number in range(3):
        assert hold.put(sound(number), LIMIT) == []
    assert len(hold) == 3
    out = drained(hold)
    assert numbers(out) == [0, 1, 2]
    assert [held.at for held in out] == [0.0, 0.02, 0.04]
    assert (len(hold), hold.take()) == (0, None)


def test_of_sound_the_newest_half_second_is_kept() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    dropped = [held for number in range(100) for held in hold.put(sound(number), LIMIT)]
    assert numbers(dropped) == list(range(74))
    assert numbers(drained(hold)) == list(range(74, 100))  # 26 frames span 25 steps of 20 ms
    assert hold.stats().dropped == 74


def test_a_burst_is_bounded_by_its_media_however_fast_it_came() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    for number in range(100):
        hold.put(sound(number, at=0.0), LIMIT)
    assert len(hold) == 26


def test_media_without_a_clock_is_bounded_by_its_number() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    for _ in range(HOLD_BOUND + 10):
        hold.put(sound(0, at=0.0), LIMIT)
    assert len(hold) == HOLD_BOUND
    assert (hold.stats().high_water, hold.stats().bound) == (HOLD_BOUND, HOLD_BOUND)


def test_a_clock_that_jumps_is_no_media() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    for number in (0, 1, 1_000_000, 1_000_001, 0, 1):
        assert hold.put(sound(number, at=0.0), LIMIT) == []
    assert len(hold) == 6


def test_video_that_loses_its_keyframe_goes_altogether_and_waits_for_another() -> None:
    hold = FrameHold(MediaKind.VIDEO)
    for number in range(6):
        assert hold.put(picture(number, key=number == 0), LIMIT) == []
    assert numbers(hold.put(picture(6), LIMIT)) == [0, 1, 2, 3, 4, 5, 6]
    assert hold.needs_keyframe
    assert numbers(hold.put(picture(7), LIMIT)) == [7]
    assert hold.put(picture(8, key=True), LIMIT) == []
    assert hold.put(picture(9), LIMIT) == []
    assert not hold.needs_keyframe
    assert numbers(drained(hold)) == [8, 9]


def test_video_goes_on_from_the_oldest_keyframe_that_fits() -> None:
    hold = FrameHold(MediaKind.VIDEO)
    dropped = [
        held
        for number in range(10)
        for held in hold.put(picture(number, key=number % 3 == 0), LIMIT)
    ]
    assert numbers(dropped) == [0, 1, 2, 3, 4, 5]
    assert numbers(drained(hold)) == [6, 7, 8, 9]


def test_what_is_older_than_the_kept_stretch_is_stale_even_when_nothing_newer_came() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    hold.put(sound(0), LIMIT)
    hold.put(sound(1), LIMIT)
    assert hold.expire(LIMIT + STALE_AFTER, LIMIT) == []
    assert numbers(hold.expire(LIMIT + STALE_AFTER + 0.01, LIMIT)) == [0]
    assert numbers(hold.put(sound(2, at=10.0), LIMIT)) == [1]
    assert numbers(drained(hold)) == [2]


def test_to_begin_anew_video_is_cut_to_its_first_keyframe_and_sound_is_not() -> None:
    video, audio = FrameHold(MediaKind.VIDEO), FrameHold(MediaKind.AUDIO)
    video.put(picture(0), LIMIT)
    video.put(picture(1, key=True), LIMIT)
    audio.put(sound(0), LIMIT)
    assert numbers(video.to_keyframe()) == [0]
    assert not video.needs_keyframe
    assert audio.to_keyframe() == []
    assert numbers(drained(video)) == [1]
    assert video.to_keyframe() == []
    assert video.needs_keyframe  # nothing was there to begin with


@pytest.mark.parametrize(("kind", "needs"), [(MediaKind.AUDIO, False), (MediaKind.VIDEO, True)])
def test_everything_can_be_thrown_away(kind: MediaKind, needs: bool) -> None:
    hold = FrameHold(kind)
    hold.put(picture(0, key=True), LIMIT)
    assert numbers(hold.clear()) == [0]
    assert (len(hold), hold.needs_keyframe) == (0, needs)


def test_another_source_is_marked_on_its_first_frame_even_if_that_is_dropped() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    hold.put(sound(50, at=0.0), LIMIT)
    hold.restart()
    for number in range(27):  # the first of them does not stay
        hold.put(sound(number, at=0.0), LIMIT)
    out = drained(hold)
    assert [held.restarted for held in out] == [True] + [False] * 25
    assert numbers(out)[0] == 1


def test_a_source_of_which_nothing_was_left_is_marked_on_what_comes_next() -> None:
    hold = FrameHold(MediaKind.VIDEO)
    hold.restart()
    hold.put(picture(0, key=True), LIMIT)
    hold.clear()
    hold.put(picture(1, key=True), LIMIT)
    hold.put(picture(2), LIMIT)
    assert [held.restarted for held in drained(hold)] == [True, False]


def test_the_stretch_is_measured_anew_after_frames_left() -> None:
    hold = FrameHold(MediaKind.AUDIO)
    for number in range(20):
        hold.put(sound(number), LIMIT)
    for _ in range(15):
        hold.take()
    for number in range(20, 41):
        assert hold.put(sound(number), LIMIT) == []
    assert numbers(hold.put(sound(41), LIMIT)) == [15]
