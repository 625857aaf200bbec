"""Op 12 of a client that chose its SSRCs itself."""

from __future__ import annotations

import pytest

from discord_rtc.protocol.messages import StreamInfo, Video
from discord_rtc.server.announcement import in_ready_ssrcs, own_layers
from discord_rtc.server.leg_media import LegSsrcs

ONE = LegSsrcs(500, ((501, 502),))
TWO = LegSsrcs(500, ((501, 502), (503, 504)))


def layer(ssrc: int | None, rtx: int | None = None, **fields: object) -> StreamInfo:
    return StreamInfo(ssrc=ssrc, rtx_ssrc=rtx, **fields)  # type: ignore[arg-type]  # as given


def test_a_browsers_camera_is_told_with_the_ssrcs_of_ready() -> None:
    video = Video(7, 8, 9, (layer(8, 9, active=True, max_bitrate=2_500_000),))

    assert own_layers(video, ONE) == ((8, 9),)
    told = in_ready_ssrcs(video, ONE)
    assert (told.audio_ssrc, told.video_ssrc) == (500, 501)
    assert told.streams == (layer(501, 502, active=True, max_bitrate=2_500_000),)


def test_layers_are_those_of_ready_in_order() -> None:
    video = Video(7, 80, 90, (layer(8, 9, rid="100"), layer(80, 90, rid="50")))

    assert own_layers(video, TWO) == ((8, 9), (80, 90))
    told = in_ready_ssrcs(video, TWO)
    assert told.video_ssrc == 503
    assert [(s.rid, s.ssrc, s.rtx_ssrc) for s in told.streams] == [
        ("100", 501, 502),
        ("50", 503, 504),
    ]


def test_who_names_an_ssrc_of_ready_means_that_one() -> None:
    video = Video(500, 503, 504, (layer(503, 504), layer(8, 9)))

    assert own_layers(video, TWO) == ((8, 9), (503, 504))
    told = in_ready_ssrcs(video, TWO)
    assert told.video_ssrc == 503
    assert [s.ssrc for s in told.streams] == [503, 501]


def test_layers_that_ready_does_not_have_are_left_out() -> None:
    video = Video(7, 80, 90, (layer(8, 9), layer(80, 90)))

    assert own_layers(video, ONE) == ((8, 9),)
    told = in_ready_ssrcs(video, ONE)
    assert told.video_ssrc == 501
    assert len(told.streams) == 1


def test_the_cleared_form_stays_cleared() -> None:
    video = Video(7, 0, 0, ())

    assert own_layers(video, TWO) == ((0, None), (0, None))
    told = in_ready_ssrcs(video, TWO)
    assert (told.audio_ssrc, told.video_ssrc, told.streams) == (500, 0, ())


def test_video_of_a_session_without_layers_is_nobodys() -> None:
    video = Video(7, 8, 9, (layer(8, 9),))
    audio_only = LegSsrcs(500)

    assert own_layers(video, audio_only) == ()
    told = in_ready_ssrcs(video, audio_only)
    assert (told.video_ssrc, told.streams) == (0, ())


@pytest.mark.parametrize("streams", [(), (layer(None),), (layer(0),)])
def test_a_single_layer_may_be_named_outside_of_streams(streams: tuple[StreamInfo, ...]) -> None:
    video = Video(7, 8, 9, streams)

    assert own_layers(video, ONE) == ((8, 9),)
    told = in_ready_ssrcs(video, ONE)
    assert told.video_ssrc == 501
    assert [s.ssrc for s in told.streams] == [501] * len(streams)


def test_a_layer_that_is_paused_keeps_its_ssrc() -> None:
    told = in_ready_ssrcs(Video(7, 8, 9, (layer(8, active=False),)), ONE)

    assert told.streams == (layer(501, 502, active=False),)


def test_layers_without_an_ssrc_are_not_sent() -> None:
    video = Video(7, 8, None, (layer(None), layer(8)))

    assert own_layers(video, TWO) == ((8, None), (0, None))
    assert [s.ssrc for s in in_ready_ssrcs(video, TWO).streams] == [501]
