"""One time axis for the streams of a user."""

from __future__ import annotations

from discord_rtc.connection.timeline import REANCHOR_THRESHOLD, StreamTimeline, UserTimeline

NTP = 3_900_000_000.0
EPOCH = 50.0


def audio(user: UserTimeline | None = None) -> StreamTimeline:
    return StreamTimeline(user or UserTimeline(), 48_000, EPOCH)


def test_without_a_report_the_first_frame_is_anchored_by_its_arrival() -> None:
    stream = audio()
    assert stream.origin is None
    assert stream.pts(1_000_000, 52.0) == 2 * 48_000
    assert stream.origin == 1_000_000 - 2 * 48_000
    assert stream.pts(1_000_960, 99.0) == 2 * 48_000 + 960  # arrival counts once


def test_a_report_before_the_first_frame_anchors_the_stream() -> None:
    stream = audio()
    stream.report(NTP, 500_000, 51.0)
    assert stream.pts(500_000 + 960, 77.0) == 48_000 + 960


def test_audio_and_video_of_one_user_meet_on_one_axis() -> None:
    user = UserTimeline()
    sound, video = audio(user), StreamTimeline(user, 90_000, EPOCH)
    sound.report(NTP, 123_456, 51.0)
    # Captured 0.5 s later, reported with another network delay: that must not count.
    video.report(NTP + 0.5, 7_000_000, 51.9)
    assert sound.pts(123_456 + 24_000, 60.0) / 48_000 == video.pts(7_000_000, 60.0) / 90_000


def test_two_users_do_not_share_an_axis() -> None:
    one, other = audio(), audio()
    one.report(NTP, 0, 51.0)
    other.report(NTP + 1000, 0, 51.0)  # another clock altogether
    assert one.pts(0, 60.0) == other.pts(0, 60.0)


def test_the_first_report_moves_a_stream_that_was_anchored_by_arrival() -> None:
    user = UserTimeline()
    audio(user).report(NTP, 0, 51.0)
    stream = audio(user)
    assert stream.pts(0, 52.2) == round(2.2 * 48_000)
    stream.report(NTP + 1, 0, 53.0)  # captured at 52.0, so 0.2 s were spent on the way
    assert stream.pts(960, 53.0) == 2 * 48_000 + 960


def test_a_small_difference_does_not_move_a_stream() -> None:
    user = UserTimeline()
    audio(user).report(NTP, 0, 51.0)
    stream = audio(user)
    before = stream.pts(0, 52.0 + REANCHOR_THRESHOLD * 0.9)
    stream.report(NTP + 1, 0, 53.0)
    assert stream.pts(0, 53.0) == before


def test_later_reports_move_a_stream_only_when_they_are_far_off() -> None:
    stream = audio()
    stream.report(NTP, 0, 51.0)
    stream.report(NTP + 5, 5 * 48_000 + 2000, 56.0)  # 42 ms: jitter of the sender's clock
    assert stream.pts(0, 60.0) == 48_000
    stream.report(NTP + 10, 0, 61.0)  # a new source: ticks began anew
    assert stream.pts(0, 61.0) == 11 * 48_000
