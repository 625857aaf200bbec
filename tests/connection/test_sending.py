"""From a track to frames on the network."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import pytest

from discord_rtc.connection.announcing import VideoAnnouncement
from discord_rtc.connection.audio_sender import SPEECH_GAP, TRAILING_SILENCE
from discord_rtc.connection.publication import KEYFRAME_SPACING, Publication, Quality
from discord_rtc.connection.sending import send_track
from discord_rtc.errors import EncoderFailed, MediaError, UnsupportedMedia, UsageError
from discord_rtc.frames import OPUS_SILENCE, Codec, EncodedFrame, MediaKind
from discord_rtc.media.encode import VideoEncoder, VideoSettings
from discord_rtc.media.patterns import TestPattern, TestTone
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.rtp.rtcp import Nack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.media.track import MediaTrack
    from discord_rtc.rtp.session import FrameReceived

    from .conftest import Announced, Ends, Track

pytestmark = pytest.mark.asyncio

VOICE, NONE = SpeakingFlags.VOICE, SpeakingFlags.NONE


def audio_of(track: MediaTrack, *, flags: SpeakingFlags = VOICE) -> Publication:
    return Publication(track, MediaKind.AUDIO, quality=Quality(), flags=flags)


def video_of(track: MediaTrack, quality: Quality | None = None) -> Publication:
    return Publication(track, MediaKind.VIDEO, quality=quality or Quality())


@asynccontextmanager
async def sending(
    publication: Publication, ends: Ends, announced: Announced
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a publication; cancelled at the end if it still runs then."""
    task = asyncio.ensure_future(send_track(publication, ends.link, announced))
    try:
        async with asyncio.timeout(5):
            yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def is_silence(frame: FrameReceived) -> bool:
    return frame.data == OPUS_SILENCE


def opus_packet(pts: int) -> av.Packet[av.stream.Stream]:
    packet: av.Packet[av.stream.Stream] = av.Packet(b"\xfc" + pts.to_bytes(8, "big", signed=True))
    packet.pts, packet.time_base = pts, Fraction(1, 48_000)
    return packet


def vp8_packets(
    count: int, picture: Callable[..., av.VideoFrame]
) -> list[av.Packet[av.stream.Stream]]:
    encoder = VideoEncoder(VideoSettings(codec=Codec.VP8))
    packets = []
    for number in range(count):
        [encoded] = encoder.encode(picture(number), keyframe=number % 5 == 0)
        packet: av.Packet[av.stream.Stream] = av.Packet(encoded.data)
        packet.pts, packet.time_base = encoded.pts, encoded.time_base
        packet.is_keyframe = encoded.keyframe
        packets.append(packet)
    return packets


# Sound


async def test_sound_is_announced_encoded_and_sent(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    flags = VOICE | SpeakingFlags.PRIORITY
    publication = audio_of(microphone, flags=flags)
    async with sending(publication, ends, announced):
        microphone.push(*(sound(960 * number) for number in range(3)))
        await ends.far.until(lambda: len(ends.far.frames) >= 3)
    assert announced.flags[0] == flags
    frames = ends.far.frames[:3]
    assert [frame.ticks - frames[0].ticks for frame in frames] == [0, 960, 1920]
    assert {frame.flags for frame in frames} == {int(flags)}
    assert publication.counters["sent"] == 3


async def test_nothing_is_announced_before_there_is_something_to_send(
    ends: Ends, announced: Announced, microphone: Track
) -> None:
    async with sending(audio_of(microphone), ends, announced):
        await asyncio.sleep(0.02)
    assert announced.flags == []
    assert ends.link.stats()[0].outbound[0].packets == 0


async def test_a_track_that_ends_is_followed_by_five_silence_frames_and_then_speaking_0(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    publication = audio_of(microphone)
    async with sending(publication, ends, announced) as task:
        microphone.push(sound(0), sound(960))
        microphone.end()
        await task
    await ends.far.until(lambda: len(ends.far.frames) == 2 + TRAILING_SILENCE)
    frames = ends.far.frames
    assert [is_silence(frame) for frame in frames] == [False] * 2 + [True] * 5
    assert [b.ticks - a.ticks for a, b in itertools.pairwise(frames)] == [960] * 6
    silence = [frame.now for frame in frames[2:]]
    spacings = [b - a for a, b in itertools.pairwise(silence)]
    assert all(0.015 < spacing < 0.1 for spacing in spacings)
    assert {frame.flags for frame in frames[2:]} == {None}  # a silence frame is no speech
    assert announced.flags == [VOICE, NONE]
    assert publication.counters == {"sent": 2, "silence": 5}


async def test_the_rest_of_a_track_that_does_not_fill_a_frame_is_sent_too(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    publication = audio_of(microphone)
    async with sending(publication, ends, announced) as task:
        microphone.push(sound(0, samples=1000))
        microphone.end()
        await task
    assert publication.counters["sent"] == 2


async def test_a_gap_trails_off_and_what_follows_goes_on_in_time(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    async with sending(audio_of(microphone), ends, announced):
        microphone.push(sound(0))
        await announced.until(lambda: announced.flags == [VOICE, NONE])
        await ends.far.until(lambda: len(ends.far.frames) == 1 + TRAILING_SILENCE)
        assert [is_silence(frame) for frame in ends.far.frames] == [False] + [True] * 5
        started, trailed = ends.far.frames[0].now, ends.far.frames[1].now
        assert trailed - started > SPEECH_GAP * 0.9
        # The track's own clock stood still meanwhile.
        microphone.push(sound(960), sound(1920))
        await ends.far.until(lambda: len(ends.far.frames) == 8)
    assert announced.flags == [VOICE, NONE, VOICE]
    last_silence, first, second = ends.far.frames[5:]
    waited = round((first.now - last_silence.now) * 48_000)
    assert first.ticks - last_silence.ticks == pytest.approx(max(waited, 960), abs=480)
    assert second.ticks - first.ticks == 960
    [stream] = ends.far_link.stats()[0].inbound
    assert (stream.cumulative_lost, stream.restarts) == (0, 0)


async def test_a_gap_of_a_track_whose_clock_went_on_keeps_that_clock(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    async with sending(audio_of(microphone), ends, announced):
        microphone.push(sound(0))
        await announced.until(lambda: announced.flags == [VOICE, NONE])
        microphone.push(sound(48_000))
        await ends.far.until(lambda: len(ends.far.frames) == 7)
    assert ends.far.frames[-1].ticks - ends.far.frames[0].ticks == 48_000


async def test_a_track_that_ends_while_a_gap_trails_off_sends_five_in_all(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    publication = audio_of(microphone)
    async with sending(publication, ends, announced) as task:
        microphone.push(sound(0))
        await ends.far.until(lambda: len(ends.far.frames) == 3)
        microphone.end()
        await task
    assert publication.counters["silence"] == TRAILING_SILENCE
    assert announced.flags == [VOICE, NONE]


async def test_a_short_wait_is_no_gap(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    publication = audio_of(microphone)
    async with sending(publication, ends, announced):
        for number in range(4):
            microphone.push(sound(960 * number))
            await asyncio.sleep(0.04)
    assert publication.counters == {"sent": 4}


async def test_muting_ends_speech_at_once_and_unmuting_begins_it_again(
    ends: Ends, announced: Announced
) -> None:
    publication = audio_of(TestTone())
    async with sending(publication, ends, announced):
        await ends.far.until(lambda: len(ends.far.frames) >= 2)
        publication.muted = True
        await announced.until(lambda: announced.flags == [VOICE, NONE])
        assert publication.counters["silence"] == TRAILING_SILENCE
        sent = publication.counters["sent"]
        assert sum(map(is_silence, ends.far.frames)) == TRAILING_SILENCE
        publication.muted = False
        await announced.until(lambda: announced.flags == [VOICE, NONE, VOICE])
        await ends.far.until(lambda: not is_silence(ends.far.frames[-1]))
    assert publication.counters["skipped-muted"] >= 4
    assert publication.counters["sent"] > sent
    ticks = [frame.ticks for frame in ends.far.frames]
    assert ticks == sorted(set(ticks))


async def test_stopping_ends_speech_properly(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    publication = audio_of(microphone)
    async with sending(publication, ends, announced) as task:
        microphone.push(sound(0))
        await ends.far.until(lambda: len(ends.far.frames) == 1)
        publication.stopped = True
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await ends.far.until(lambda: len(ends.far.frames) == 1 + TRAILING_SILENCE)
    assert announced.flags == [VOICE, NONE]


async def test_giving_way_to_another_track_or_session_says_nothing(
    ends: Ends, announced: Announced, microphone: Track, sound: Callable[..., av.AudioFrame]
) -> None:
    publication = audio_of(microphone)
    async with sending(publication, ends, announced):
        microphone.push(sound(0))
        await ends.far.until(lambda: len(ends.far.frames) == 1)
    await asyncio.sleep(0.15)
    assert announced.flags == [VOICE]
    assert "silence" not in publication.counters


@pytest.mark.parametrize("step", [120, 480, 960, 2880])
async def test_opus_packets_of_any_length_keep_their_times(
    ends: Ends, announced: Announced, microphone: Track, step: int
) -> None:
    async with sending(audio_of(microphone), ends, announced):
        microphone.push(*(opus_packet(step * number) for number in range(6)))
        await ends.far.until(lambda: len(ends.far.frames) >= 6)
    frames = ends.far.frames[:6]
    assert [frame.ticks - frames[0].ticks for frame in frames] == [step * n for n in range(6)]
    assert len(ends.far.reports) == 1


async def test_a_source_that_begins_again_does_not_send_receivers_back_in_time(
    ends: Ends, announced: Announced, microphone: Track
) -> None:
    async with sending(audio_of(microphone), ends, announced):
        microphone.push(opus_packet(960_000), opus_packet(0), opus_packet(960))
        await ends.far.until(lambda: len(ends.far.frames) >= 3)
    first, second, third = (frame.ticks for frame in ends.far.frames[:3])
    assert 960 <= second - first < 9600
    assert third - second == 960


# Failures


async def test_a_track_that_fails_ends_with_a_media_error(
    ends: Ends, announced: Announced, microphone: Track
) -> None:
    async with sending(audio_of(microphone), ends, announced) as task:
        microphone.push(ValueError("no device"))
        with pytest.raises(MediaError, match="published audio track failed: ValueError"):
            await task


async def test_a_track_that_was_cancelled_inside_is_no_cancellation_of_ours(
    ends: Ends, announced: Announced, microphone: Track
) -> None:
    async with sending(audio_of(microphone), ends, announced) as task:
        microphone.push(asyncio.CancelledError())
        with pytest.raises(MediaError, match="published audio track was cancelled"):
            await task


async def test_our_own_errors_pass_through(ends: Ends, announced: Announced, camera: Track) -> None:
    async with sending(video_of(camera), ends, announced) as task:
        camera.push(EncoderFailed("broken"))
        with pytest.raises(EncoderFailed, match="broken"):
            await task


async def test_what_is_no_media_is_named(ends: Ends, announced: Announced, camera: Track) -> None:
    async with sending(video_of(camera), ends, announced) as task:
        camera.push(b"bytes")
        with pytest.raises(UnsupportedMedia, match="gave a bytes"):
            await task


async def test_pictures_from_a_microphone_and_sound_from_a_camera_are_refused(
    ends: Ends,
    announced: Announced,
    microphone: Track,
    camera: Track,
    sound: Callable[..., av.AudioFrame],
    picture: Callable[..., av.VideoFrame],
) -> None:
    async with sending(audio_of(microphone), ends, announced) as task:
        microphone.push(picture(0))
        with pytest.raises(UnsupportedMedia, match="must give audio, not VideoFrame"):
            await task
    async with sending(video_of(camera), ends, announced) as task:
        camera.push(sound(0))
        with pytest.raises(UnsupportedMedia, match="must give video, not AudioFrame"):
            await task


async def test_without_a_video_codec_nothing_begins(
    ends: Ends, announced: Announced, camera: Track
) -> None:
    ends.link.media = replace(ends.media, video_codec=None)
    with pytest.raises(UnsupportedMedia, match="no video codec"):
        await send_track(video_of(camera), ends.link, announced)
    assert camera.asked == 0


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"height": 1}, {"fps": 0}, {"bitrate": 0}, {"fps": float("nan")}]
)
async def test_senseless_qualities_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="no video can be made"):
        Quality(**wrong)


# Pictures


async def test_pictures_are_announced_encoded_and_sent(ends: Ends, announced: Announced) -> None:
    quality = Quality(320, 240, fps=30, bitrate=300_000)
    publication = video_of(TestPattern(160, 120), quality)
    async with sending(publication, ends, announced):
        await ends.far.until(lambda: len(ends.far.frames) >= 4)
    assert announced.videos == [VideoAnnouncement(160, 120, 30, 300_000)]
    frames = ends.far.frames[:4]
    assert [frame.keyframe for frame in frames] == [True, False, False, False]
    assert [frame.ticks - frames[0].ticks for frame in frames] == [0, 3000, 6000, 9000]


async def test_pictures_that_somebody_missed_are_sent_again_as_negotiated(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    async with sending(video_of(camera), ends, announced):
        camera.push(picture(0))
        await ends.far.until(lambda: len(ends.far.frames) == 1)
        [outbound] = ends.link.stats()[0].outbound
        assert outbound.last_sequence is not None
        nack = Nack(9, outbound.ssrc, (outbound.last_sequence,))
        ends.far_transport.send_rtcp(nack.to_bytes())
        camera.push(picture(1))
        await ends.far.until(lambda: len(ends.far.frames) == 2)
    assert ends.link.stats()[0].outbound[0].retransmitted == 1
    # Nobody here had missed it, but it came as what it is.
    [inbound] = ends.far_link.stats()[0].inbound
    assert (inbound.rtx_duplicates, inbound.duplicates) == (1, 0)


async def test_the_size_that_is_really_sent_is_announced(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    async with sending(video_of(camera, Quality(32, 32)), ends, announced):
        camera.push(picture(0))
        await ends.far.until(lambda: len(ends.far.frames) == 1)
    assert announced.videos[0] == VideoAnnouncement(32, 32, 30, 2_500_000)


async def test_a_change_of_size_is_announced(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    async with sending(video_of(camera), ends, announced):
        camera.push(picture(0), picture(1), picture(2, width=96), picture(3, width=96))
        await ends.far.until(lambda: len(ends.far.frames) == 4)
    sizes = [(video.width, video.height) for video in announced.videos if video is not None]
    assert sizes == [(64, 64), (96, 64)]


async def test_more_frames_than_wanted_are_skipped_evenly(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    publication = video_of(camera, Quality(fps=10))
    async with sending(publication, ends, announced):
        camera.push(*(picture(number) for number in range(10)))  # 30 fps
        await ends.far.until(lambda: len(ends.far.frames) == 4)
    assert publication.counters == {"sent": 4, "skipped-fps": 6}
    first = ends.far.frames[0].ticks
    assert [frame.ticks - first for frame in ends.far.frames] == [0, 9000, 18_000, 27_000]


async def test_frames_without_a_time_are_all_sent(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    async with sending(video_of(camera), ends, announced):
        for number in range(3):
            frame = picture(number)
            frame.pts = None
            camera.push(frame)
        await ends.far.until(lambda: len(ends.far.frames) == 3)


async def test_a_keyframe_is_made_on_request_at_most_once_per_second(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    publication = video_of(camera)
    async with sending(publication, ends, announced):
        camera.push(picture(0), picture(1))
        await ends.far.until(lambda: len(ends.far.frames) == 2)
        publication.keyframe_requested()
        camera.push(picture(2))
        await ends.far.until(lambda: len(ends.far.frames) == 3)
        await asyncio.sleep(KEYFRAME_SPACING)
        camera.push(picture(3), picture(4))
        await ends.far.until(lambda: len(ends.far.frames) == 5)
    keyframes = [frame.keyframe for frame in ends.far.frames]
    assert keyframes == [True, False, False, True, False]


async def test_a_link_that_is_behind_skips_frames_before_they_are_encoded(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    publication = video_of(camera)
    async with sending(publication, ends, announced):
        camera.push(picture(0))
        await ends.far.until(lambda: len(ends.far.frames) == 1)
        ends.link.set_pacing_rate(20_000)
        ends.link.send_frame(
            1001,
            EncodedFrame(
                b"\x00\x00\x00\x01\x65" + bytes(9000), Codec.H264, 1, Fraction(1, 30), True
            ),
        )
        camera.push(picture(2), picture(3))
        async with asyncio.timeout(2):
            for _ in iter(lambda: publication.counters.get("skipped-backlog"), 2):
                await asyncio.sleep(0.002)
        ends.link.set_pacing_rate(20_000_000)
        await ends.far.until(lambda: len(ends.far.frames) == 2)
        camera.push(picture(4))
        await ends.far.until(lambda: len(ends.far.frames) == 3)
    assert publication.counters == {"sent": 2, "skipped-backlog": 2}


async def test_packets_are_passed_through_from_the_first_keyframe_on(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    ends.link.media = replace(ends.media, video_codec=Codec.VP8)
    packets = vp8_packets(8, picture)
    publication = video_of(camera)
    async with sending(publication, ends, announced):
        camera.push(*packets[3:])
        await ends.far.until(lambda: len(ends.far.frames) == 3)
    assert [frame.data for frame in ends.far.frames] == [bytes(packet) for packet in packets[5:]]
    assert publication.counters == {"skipped-to-keyframe": 2, "sent": 3}
    assert announced.videos == [VideoAnnouncement(0, 0, 30, 2_500_000)]


async def test_a_passed_through_stream_that_was_skipped_waits_for_a_keyframe(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    ends.link.media = replace(ends.media, video_codec=Codec.VP8)
    packets = vp8_packets(8, picture)
    publication = video_of(camera)
    async with sending(publication, ends, announced):
        camera.push(packets[0])
        await ends.far.until(lambda: len(ends.far.frames) == 1)
        ends.link.set_pacing_rate(20_000)
        keyframe = EncodedFrame(
            bytes(3) + b"\x9d\x01\x2a" + bytes(9000), Codec.VP8, 3000, Fraction(1, 90_000), True
        )
        ends.link.send_frame(1001, keyframe)
        camera.push(packets[1])
        async with asyncio.timeout(2):
            for _ in iter(lambda: publication.counters.get("skipped-backlog"), 1):
                await asyncio.sleep(0.002)
        ends.link.set_pacing_rate(20_000_000)
        await ends.far.until(lambda: len(ends.far.frames) == 2)
        camera.push(*packets[2:6])
        await ends.far.until(lambda: len(ends.far.frames) == 3)
    assert publication.counters["skipped-to-keyframe"] == 3
    assert ends.far.frames[-1].data == bytes(packets[5])


async def test_a_film_that_begins_again_does_not_send_receivers_back_in_time(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    async with sending(video_of(camera), ends, announced):
        camera.push(picture(300), picture(0), picture(1))
        await ends.far.until(lambda: len(ends.far.frames) == 3)
    first, second, third = (frame.ticks for frame in ends.far.frames)
    assert 3000 <= second - first < 30_000
    assert third - second == 3000


async def test_a_second_session_begins_with_a_keyframe(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    publication = video_of(camera)
    async with sending(publication, ends, announced):
        camera.push(picture(0), picture(1))
        await ends.far.until(lambda: len(ends.far.frames) == 2)
    async with sending(publication, ends, announced):
        camera.push(picture(2))
        await ends.far.until(lambda: len(ends.far.frames) == 3)
    assert [frame.keyframe for frame in ends.far.frames] == [True, False, True]
    assert len(announced.videos) == 2


async def test_cancelling_while_a_picture_is_encoded_leaves_nothing_behind(
    ends: Ends, announced: Announced, camera: Track, picture: Callable[..., av.VideoFrame]
) -> None:
    for turns in range(6):
        camera.push(picture(turns, width=640, height=480))
        async with sending(video_of(camera), ends, announced):
            for _ in range(turns):
                await asyncio.sleep(0)
