from __future__ import annotations

import asyncio
import time
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from discord_rtc.errors import UnsupportedMedia, UsageError
from discord_rtc.media.patterns import Stamp, StampReader, TestPattern, TestTone, read_stamp
from discord_rtc.media.planes import plane
from discord_rtc.media.stamps import audio_stamp
from discord_rtc.media.track import MediaStreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

ENCODERS = {
    "libx264": {"preset": "superfast", "tune": "zerolatency"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
}
DECODERS = {"libx264": "h264", "libvpx": "vp8"}


async def _pictures(pattern: TestPattern, count: int) -> list[av.VideoFrame]:
    return [await pattern.recv() for _ in range(count)]


async def _sounds(tone: TestTone, count: int) -> list[av.AudioFrame]:
    return [await tone.recv() for _ in range(count)]


def _recode_pictures(
    frames: list[av.VideoFrame], codec: str, bitrate: int
) -> Iterator[av.VideoFrame]:
    encoder = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
    encoder.width, encoder.height = frames[0].width, frames[0].height
    encoder.pix_fmt, encoder.bit_rate = "yuv420p", bitrate
    encoder.framerate, encoder.time_base = Fraction(30), Fraction(1, 30)
    encoder.options = {
        **ENCODERS[codec],
        "maxrate": str(bitrate),
        "bufsize": str(bitrate // 2),
        "g": "60",
    }
    decoder = cast(VideoCodecContext, av.CodecContext.create(DECODERS[codec], "r"))
    for frame in frames:
        for packet in encoder.encode(frame):
            yield from decoder.decode(av.Packet(bytes(packet)))


def _recode_sound(frames: list[av.AudioFrame], **options: str) -> Iterator[av.AudioFrame]:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "stereo", "s16"
    encoder.bit_rate = int(options.pop("bitrate"))
    encoder.options = options
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "stereo"
    for frame in frames:
        for packet in encoder.encode(frame):
            yield from decoder.decode(av.Packet(bytes(packet)))


def test_pictures_are_numbered_and_move() -> None:
    frames = asyncio.run(_pictures(TestPattern(320, 180, fps=25, realtime=False), 50))
    assert [read_stamp(frame).number for frame in frames] == list(range(50))
    assert [frame.pts for frame in frames] == list(range(50))
    assert frames[0].time_base == Fraction(1, 25)
    assert (frames[0].width, frames[0].height, frames[0].format.name) == (320, 180, "yuv420p")
    first, second = (plane(frame, 0)[100:] for frame in frames[:2])
    assert not np.array_equal(first, second)


def test_a_stamp_tells_when_its_frame_was_handed_out() -> None:
    before = time.monotonic()
    [picture] = asyncio.run(_pictures(TestPattern(), 1))
    [sound] = asyncio.run(_sounds(TestTone(), 1))
    after = time.monotonic()
    assert before - 1e-6 <= read_stamp(picture).sent_at <= after
    assert before - 0.002 <= read_stamp(sound).sent_at <= after


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize(
    ("size", "bitrate"), [((640, 360), 300_000), ((160, 90), 100_000), ((1280, 720), 300_000)]
)
def test_picture_stamps_survive_coding_and_scaling(
    codec: str, size: tuple[int, int], bitrate: int
) -> None:
    frames = asyncio.run(_pictures(TestPattern(*size, realtime=False), 60))
    decoded = list(_recode_pictures(frames, codec, bitrate))
    assert [read_stamp(frame).number for frame in decoded] == list(range(60))
    scaled = [frame.reformat(width=size[0] * 3 // 4 // 2 * 2) for frame in decoded]
    assert [read_stamp(frame).number for frame in scaled] == list(range(60))


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "options",
    [
        {"bitrate": "64000", "vbr": "off"},
        {"bitrate": "64000", "vbr": "on"},
        {"bitrate": "128000", "vbr": "on"},
        {"bitrate": "128000", "vbr": "on", "application": "voip", "fec": "1", "packet_loss": "10"},
    ],
    ids=str,
)
def test_every_sound_stamp_survives_opus(options: dict[str, str], count: int) -> None:
    frames = asyncio.run(_sounds(TestTone(realtime=False), count))
    reader = StampReader()
    numbers = [reader.read(frame).number for frame in _recode_sound(frames, **options)]
    assert numbers == list(range(count))


def test_the_tone_is_at_its_frequency_and_has_no_seams() -> None:
    frames = asyncio.run(_sounds(TestTone(300, realtime=False), 50))
    assert {(f.format.name, f.layout.name, f.sample_rate, f.samples) for f in frames} == {
        ("s16", "stereo", 48_000, 960)
    }
    assert [frame.pts for frame in frames] == [960 * number for number in range(50)]
    mono = np.concatenate([frame.to_ndarray()[0, ::2] for frame in frames]).astype(float)
    spectrum = np.abs(np.fft.rfft(mono))  # 1 s, so that bins are Hz
    assert int(spectrum.argmax()) == 300


def test_frames_come_in_real_time_and_never_early() -> None:
    async def scenario() -> None:
        tone = TestTone()
        start = time.monotonic()
        for number in range(10):
            await tone.recv()
            assert time.monotonic() - start >= number * 0.02 - 0.001

    asyncio.run(scenario())


def test_a_stalled_consumer_gets_every_frame_and_the_clock_starts_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("discord_rtc.media.patterns.STALL", 0.05)

    async def scenario() -> None:
        tone = TestTone()
        await tone.recv()
        await asyncio.sleep(0.2)
        frames = await _sounds(tone, 2)
        assert [frame.pts for frame in frames] == [960, 1920]
        stamps = [read_stamp(frame) for frame in frames]
        assert stamps[1].sent_at - stamps[0].sent_at >= 0.017  # 20 ms, the stamp has 1 ms steps

    asyncio.run(scenario())


@pytest.mark.parametrize("make", [TestPattern, TestTone])
def test_a_stopped_track_ends(make: type[TestPattern] | type[TestTone]) -> None:
    async def scenario() -> None:
        track = make()
        await track.recv()
        waiting = asyncio.ensure_future(track.recv())
        await asyncio.sleep(0)
        track.stop()
        with pytest.raises(MediaStreamError):
            await waiting
        with pytest.raises(MediaStreamError):
            await track.recv()
        assert track.readyState == "ended"

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [(63, 360), (640, 10)])
def test_impossible_pictures_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        TestPattern(*size)
    with pytest.raises(UsageError, match="0 fps"):
        TestPattern(fps=0)


@pytest.mark.parametrize("frequency", [50, 1000, float("nan")])
def test_a_tone_inside_the_stamps_band_is_refused(frequency: float) -> None:
    with pytest.raises(UsageError, match="100 to 600 Hz"):
        TestTone(frequency)


def test_odd_sizes_and_ntsc_rates_are_possible() -> None:
    pattern = TestPattern(641, 361, fps=29.97, realtime=False)
    [frame] = asyncio.run(_pictures(pattern, 1))
    assert (frame.width, frame.height) == (641, 361)
    assert frame.time_base is not None
    assert abs(1 / float(frame.time_base) - 29.97) < 0.001
    assert read_stamp(frame).number == 0


def test_frames_without_a_stamp_are_told() -> None:
    with pytest.raises(UnsupportedMedia, match="no readable stamp"):
        read_stamp(av.VideoFrame.from_ndarray(np.zeros((90, 160, 3), np.uint8)))
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), "s16", "stereo")
    sound.sample_rate = 48_000
    with pytest.raises(UnsupportedMedia, match="no readable stamp"):
        read_stamp(sound)
    sound.sample_rate = 44_100
    with pytest.raises(UnsupportedMedia, match="960 samples at 44100 Hz"):
        read_stamp(sound)


def test_numbers_of_sound_go_on_where_16_bits_end() -> None:
    def sound(number: int) -> av.AudioFrame:
        pcm = (audio_stamp(Stamp(number, 1.0)) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), "s16", "mono")
        frame.sample_rate = 48_000
        return frame

    reader = StampReader()
    numbers = [reader.read(sound(number % 2**16)).number for number in range(65_530, 65_542)]
    assert numbers == list(range(65_530, 65_542))
    assert reader.read(sound(65_540 % 2**16)).number == 65_540  # one repeated, out of order
