"""Encoders: one frame in, one frame out, with the source's clock."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import pytest
from aiortc.contrib.media import MediaPlayer

from discord_rtc.errors import (
    EncoderFailed,
    InvalidState,
    MalformedFrame,
    UnsupportedMedia,
    UsageError,
)
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.media.bitstream import is_h264_keyframe, iter_nal_units
from discord_rtc.media.decode import VideoDecoder
from discord_rtc.media.encode import (
    VideoEncoder,
    VideoSettings,
    packet_to_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from av.stream import Stream

BOTH = pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
TICK = Fraction(1, 90_000)


def picture(
    number: int, *, width: int = 320, height: int = 240, pts: int | None = None, noise: bool = False
) -> av.VideoFrame:
    """A gradient that moves slowly, or noise that is never the same."""
    if noise:
        coarse = np.random.default_rng(number).integers(0, 255, (height // 8, width // 8), np.uint8)
        pixels = coarse.repeat(8, axis=0).repeat(8, axis=1)
    else:
        across = np.linspace(16, 200, width)[None, :] + np.linspace(0, 30, height)[:, None]
        pixels = (across + number % 100 / 4).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, "gray").reformat(format="yuv420p")
    frame.pts, frame.time_base = number if pts is None else pts, Fraction(1, 30)
    return frame


def encode_all(encoder: VideoEncoder, frames: Iterable[av.VideoFrame]) -> list[EncodedFrame]:
    encoded = [encoder.encode(frame) for frame in frames]
    assert all(len(out) == 1 for out in encoded)
    return [out[0] for out in encoded]


def luma_error(one: av.VideoFrame, other: av.VideoFrame) -> float:
    """Mean absolute difference of the luma, 0 to 255."""
    planes = [frame.to_ndarray(format="gray").astype(float) for frame in (one, other)]
    return float(np.abs(planes[0] - planes[1]).mean())


@BOTH
def test_each_picture_gives_one_frame_with_its_pts_and_decodes_to_itself(codec: Codec) -> None:
    encoder, decoder = VideoEncoder(VideoSettings(codec)), VideoDecoder(codec)
    for number in range(40):
        frame = picture(number, pts=1000 + number)
        [encoded] = encoder.encode(frame)
        assert (encoded.codec, encoded.pts, encoded.time_base) == (
            codec,
            (1000 + number) * 3000,
            TICK,
        )
        [decoded] = decoder.decode(encoded)
        assert luma_error(decoded, frame) < 2
    assert decoder.damaged == 0


@BOTH
def test_keyframes_come_first_on_demand_and_at_the_interval_only(codec: Codec) -> None:
    encoder = VideoEncoder(VideoSettings(codec, fps=30, keyframe_interval=1.0))
    keyframes = [
        number
        for number in range(80)
        if encoder.encode(picture(number), keyframe=number == 10)[0].keyframe
    ]
    assert keyframes == [0, 10, 40, 70]


@BOTH
def test_the_keyframe_interval_follows_the_pts_and_not_the_count(codec: Codec) -> None:
    encoder = VideoEncoder(VideoSettings(codec, fps=30, keyframe_interval=1.0))
    slow = (picture(number, pts=number * 6) for number in range(12))  # 5 frames per second
    keyframes = [frame.pts // 90_000 for frame in encode_all(encoder, slow) if frame.keyframe]
    assert keyframes == [0, 1, 2]


def test_h264_is_constrained_baseline_with_parameter_sets_before_each_idr() -> None:
    encoder = VideoEncoder(VideoSettings(Codec.H264))
    for number in range(6):
        [encoded] = encoder.encode(picture(number), keyframe=number == 3)
        kinds = [unit[0] & 31 for unit in iter_nal_units(encoded.data) if unit[0] & 31 != 6]
        assert kinds == ([7, 8, 5] if number in (0, 3) else [1])
        if encoded.keyframe:
            sps = next(unit for unit in iter_nal_units(encoded.data) if unit[0] & 31 == 7)
            assert sps[1] == 66  # profile_idc
            assert sps[2] & 0xC0 == 0xC0  # constraint_set0_flag, constraint_set1_flag


@BOTH
@pytest.mark.parametrize("bitrate", [300_000, 1_500_000])
def test_the_bitrate_is_kept_even_for_noise(codec: Codec, bitrate: int) -> None:
    encoder = VideoEncoder(VideoSettings(codec, bitrate=bitrate))
    encoded = encode_all(encoder, (picture(number, noise=True) for number in range(60)))
    assert sum(len(frame.data) for frame in encoded[30:]) * 8 < bitrate * 1.25


@BOTH
def test_a_new_bitrate_is_followed_both_ways(codec: Codec) -> None:
    encoder = VideoEncoder(VideoSettings(codec, bitrate=800_000))
    rates = []
    for bitrate in (800_000, 500_000, 250_000, 1_500_000):
        encoder.set_bitrate(bitrate)
        encoded = encode_all(encoder, (picture(number, noise=True) for number in range(60)))
        rates.append(sum(len(frame.data) for frame in encoded[30:]) * 8 / bitrate)
    assert all(0.6 < rate < 1.3 for rate in rates), rates


def test_only_a_large_change_of_bitrate_costs_a_keyframe() -> None:
    h264, vp8 = (VideoEncoder(VideoSettings(codec)) for codec in (Codec.H264, Codec.VP8))
    for number, (bitrate, h264_restarts, vp8_restarts) in enumerate(
        [
            (2_500_000, True, True),
            (2_400_000, False, False),
            (1_500_000, False, True),
            (2_700_000, False, True),
            (500_000, True, True),
            (1_000, True, True),
        ]
    ):
        for encoder, restarts in ((h264, h264_restarts), (vp8, vp8_restarts)):
            encoder.set_bitrate(bitrate)
            assert encoder.encode(picture(number))[0].keyframe is restarts, (number, encoder)


@BOTH
def test_a_new_size_is_followed_and_starts_with_a_keyframe(codec: Codec) -> None:
    encoder, decoder = VideoEncoder(VideoSettings(codec)), VideoDecoder(codec)
    sizes = [(320, 240), (320, 240), (176, 144), (1280, 720), (1280, 720)]
    for number, (width, height) in enumerate(sizes):
        [encoded] = encoder.encode(picture(number, width=width, height=height))
        assert encoded.keyframe is (number in (0, 2, 3))
        [decoded] = decoder.decode(encoded)
        assert (decoded.width, decoded.height) == (width, height)


@BOTH
@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((321, 241), (None, None), (320, 240)),
        ((1, 1), (None, None), (2, 2)),
        ((640, 480), (320, None), (320, 240)),
        ((640, 480), (640, 120), (160, 120)),
        ((100, 1000), (None, 101), (10, 100)),
        ((64, 64), (1000, 1000), (64, 64)),
    ],
)
def test_sizes_are_made_even_and_scaled_to_fit(
    codec: Codec,
    size: tuple[int, int],
    limits: tuple[int | None, int | None],
    expected: tuple[int, int],
) -> None:
    settings = VideoSettings(codec, max_width=limits[0], max_height=limits[1])
    encoder = VideoEncoder(settings)
    assert encoder.size is None
    encoded = encoder.encode(picture(0, width=size[0], height=size[1]))
    [decoded] = VideoDecoder(codec).decode(encoded[0])
    assert (decoded.width, decoded.height) == expected == encoder.size


@pytest.mark.parametrize("form", ["rgb24", "bgr0", "gray", "nv12", "yuv422p10le", "yuva420p"])
def test_any_pixel_format_is_taken(form: str) -> None:
    frame = picture(0)
    [encoded] = VideoEncoder(VideoSettings()).encode(frame.reformat(format=form))
    [decoded] = VideoDecoder(Codec.H264).decode(encoded)
    assert luma_error(decoded, frame) < 4


@pytest.mark.parametrize("form", ["yuvj420p", "yuv420p"])
def test_full_range_is_brought_to_studio_range(form: str) -> None:
    frame = av.VideoFrame(64, 64, form)
    frame.color_range = 2  # JPEG
    for plane in frame.planes:
        plane.update(b"\xff" * plane.buffer_size)
    [decoded] = VideoDecoder(Codec.H264).decode(VideoEncoder(VideoSettings()).encode(frame)[0])
    assert decoded.to_ndarray()[0, 0] == pytest.approx(235, abs=2)


@BOTH
def test_the_source_frame_is_not_touched(codec: Codec) -> None:
    frame = picture(3)
    frame.pict_type = 2
    before = (frame.pts, frame.time_base, frame.pict_type, frame.to_ndarray().tobytes())
    encoder = VideoEncoder(VideoSettings(codec))
    encoder.encode(frame, keyframe=True)
    assert (frame.pts, frame.time_base, frame.pict_type, frame.to_ndarray().tobytes()) == before


@BOTH
def test_intra_pictures_of_the_source_are_no_keyframes(codec: Codec) -> None:
    encoder = VideoEncoder(VideoSettings(codec))
    for number in range(5):
        frame = picture(number)
        frame.pict_type = 1  # as a decoder leaves it on a keyframe of a film
        assert encoder.encode(frame)[0].keyframe is (number == 0)


@BOTH
def test_pts_that_do_not_grow_are_carried_through(codec: Codec) -> None:
    encoder, decoder = VideoEncoder(VideoSettings(codec)), VideoDecoder(codec)
    source = [100, 101, 101, 50, 51, 10_000_000, 0]
    encoded = encode_all(encoder, (picture(n, pts=pts) for n, pts in enumerate(source)))
    assert [frame.pts for frame in encoded] == [pts * 3000 for pts in source]
    assert [len(decoder.decode(frame)) for frame in encoded] == [1] * 7


@BOTH
def test_pictures_without_pts_follow_the_one_before(codec: Codec) -> None:
    encoder = VideoEncoder(VideoSettings(codec, fps=25))
    frames = [picture(number) for number in range(4)]
    for frame in frames:
        frame.pts = None
    frames[2].pts = 30
    assert [frame.pts for frame in encode_all(encoder, frames)] == [0, 3600, 90_000, 93_600]


def test_a_picture_that_cannot_be_encoded_is_a_typed_error_and_not_the_end() -> None:
    encoder = VideoEncoder(VideoSettings())
    with pytest.raises(EncoderFailed, match="H264"):
        encoder.encode(picture(0, width=20_000, height=2))
    assert encoder.encode(picture(1))[0].keyframe


def test_wrong_settings_and_late_calls_are_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="AV1"):
        VideoSettings(Codec.AV1)
    with pytest.raises(UsageError, match="above 0"):
        VideoSettings(bitrate=0)
    encoder = VideoEncoder(VideoSettings())
    encoder.set_bitrate(400_000)  # before anything is open
    encoder.close()
    encoder.close()
    with pytest.raises(InvalidState):
        encoder.encode(picture(0))


# Passthrough


def film(path: Path, codec: str = "libx264") -> Path:
    """30 pictures and a second of sound, without B-frames."""
    with av.open(str(path), "w") as container:
        video = cast(
            av.VideoStream,
            container.add_stream(
                codec, rate=30, options={"bf": "0", "g": "10", "sc_threshold": "0"}
            ),
        )
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream("libopus", rate=48_000)
        for number in range(30):
            container.mux(video.encode(picture(number)))
        container.mux(video.encode(None))
        silence = av.AudioFrame(format="flt", layout="stereo", samples=48_000)
        silence.planes[0].update(bytes(silence.planes[0].buffer_size))
        silence.sample_rate, silence.pts, silence.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    return path


def packets(path: Path, kind: str) -> list[av.Packet[Stream]]:
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [packet for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_h264_of_any_container_is_passed_as_annex_b(tmp_path: Path, name: str) -> None:
    decoder = VideoDecoder(Codec.H264)
    with av.open(str(film(tmp_path / name))) as container:
        for number, packet in enumerate(p for p in container.demux(video=0) if p.size):
            before = bytes(packet)
            frame = packet_to_frame(packet, Codec.H264)
            assert bytes(packet) == before
            assert (frame.pts, frame.time_base) == (packet.pts, packet.time_base)
            assert frame.keyframe is (number % 10 == 0)
            kinds = {unit[0] & 31 for unit in iter_nal_units(frame.data)}
            assert kinds >= ({5, 7, 8} if frame.keyframe else {1})
            [decoded] = decoder.decode(frame)
            assert luma_error(decoded, picture(number)) < 2
    assert number == 29


def test_vp8_and_opus_are_passed_as_they_are(tmp_path: Path) -> None:
    path = film(tmp_path / "film.webm", "libvpx")
    for kind, codec in (("video", Codec.VP8), ("audio", Codec.OPUS)):
        passed = packets(path, kind)
        assert len(passed) >= 30
        for packet in passed:
            frame = packet_to_frame(packet, codec)
            assert frame.data == bytes(packet)
            assert frame.keyframe is packet.is_keyframe


@pytest.mark.interop
@pytest.mark.asyncio
async def test_the_media_player_of_aiortc_without_decoding_is_a_source(tmp_path: Path) -> None:
    player = MediaPlayer(str(film(tmp_path / "film.mp4")), decode=False)
    assert player.video is not None
    async with asyncio.timeout(10):
        packet = await player.video.recv()
    assert isinstance(packet, av.Packet)
    assert is_h264_keyframe(packet_to_frame(packet, Codec.H264).data)
    player.video.stop()
    assert player.audio is not None
    player.audio.stop()


def test_packets_that_cannot_be_passed_are_typed_errors(tmp_path: Path) -> None:
    packet: av.Packet[Stream] = av.Packet(b"\0\0\0\5\x65\x88\x84\1\2")
    packet.time_base = Fraction(1, 30)
    with pytest.raises(UnsupportedMedia, match="pts"):
        packet_to_frame(packet, Codec.H264)
    packet.pts = 0
    with pytest.raises(MalformedFrame, match="MP4"):
        packet_to_frame(packet, Codec.H264)
    with pytest.raises(UnsupportedMedia, match="VP9"):
        packet_to_frame(packet, Codec.VP9)
    with av.open(str(film(tmp_path / "film.mp4"))) as container:
        packet = av.Packet(b"\0\0\xff\xff\x65\x88")  # a length beyond the end
        packet.stream = container.streams.video[0]
        packet.pts, packet.time_base = 0, Fraction(1, 30)
        with pytest.raises((UnsupportedMedia, MalformedFrame)):
            packet_to_frame(packet, Codec.H264)
