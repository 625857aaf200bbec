"""The Opus encoder: exact 20 ms frames that keep the source's clock."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from discord_rtc.errors import EncoderFailed, InvalidState
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.media.decode import OpusDecoder
from discord_rtc.media.opus import OpusEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable


def sound(
    start: int,
    samples: int,
    *,
    rate: int = 48_000,
    form: str = "s16",
    layout: str = "stereo",
) -> av.AudioFrame:
    """440 Hz from sample ``start`` on, with that as pts."""
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(start, start + samples) / rate)
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    plain = av.AudioFrame.from_ndarray(
        wave.astype(np.float32).repeat(channels)[None, :], format="flt", layout=layout
    )
    plain.sample_rate = rate
    [frame] = av.AudioResampler(format=form, layout=layout, rate=rate).resample(plain)
    frame.pts, frame.time_base = start, Fraction(1, rate)
    return frame


def decode_sound(frames: Iterable[EncodedFrame]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Left channel."""
    decoder = OpusDecoder()
    decoded = [sound.to_ndarray()[0, ::2] for frame in frames for sound in decoder.decode(frame)]
    return np.concatenate(decoded).astype(np.float64)


@pytest.mark.parametrize(
    ("rate", "form", "layout", "chunk"),
    [
        (48_000, "s16", "stereo", 960),
        (48_000, "fltp", "stereo", 1024),
        (48_000, "fltp", "5.1", 1024),
        (44_100, "s16p", "mono", 1152),
        (16_000, "s16", "mono", 320),
        (8_000, "u8", "mono", 77),
        (96_000, "s32", "stereo", 5000),
    ],
)
def test_any_sound_becomes_20_ms_frames_that_follow_each_other(
    rate: int, form: str, layout: str, chunk: int
) -> None:
    encoder = OpusEncoder()
    encoded: list[EncodedFrame] = []
    for start in range(0, rate, chunk):
        encoded += encoder.encode(sound(start, chunk, rate=rate, form=form, layout=layout))
    encoded += encoder.flush()
    assert [frame.pts for frame in encoded] == [960 * n for n in range(len(encoded))]
    assert {(frame.codec, frame.time_base, frame.keyframe) for frame in encoded} == {
        (Codec.OPUS, Fraction(1, 48_000), True)
    }
    assert len(encoded) == -(-len(range(0, rate, chunk)) * chunk * 50 // rate)
    heard = decode_sound(encoded)[9600:38_400]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert np.argmax(spectrum) * 48_000 / len(heard) == pytest.approx(440, abs=2)


def test_the_pts_of_a_frame_is_that_of_its_first_sample() -> None:
    encoder = OpusEncoder()
    encoded = encoder.encode(sound(123_456, 1000)) + encoder.encode(sound(124_456, 1000))
    assert [frame.pts for frame in encoded] == [123_456, 124_416]


def test_a_click_stays_where_it_was_but_for_the_codecs_own_delay() -> None:
    encoder = OpusEncoder()
    samples = np.zeros(9600, np.int16)
    samples[4800] = 30_000
    frame = av.AudioFrame.from_ndarray(samples.repeat(2)[None, :], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    heard = decode_sound(encoder.encode(frame))
    assert int(np.argmax(np.abs(heard))) == 4800 + 312  # libopus' lookahead at 48 kHz


def test_jitter_of_the_sources_clock_is_smoothed() -> None:
    encoder = OpusEncoder()
    encoded: list[EncodedFrame] = []
    for number in range(50):
        frame = sound(number * 960, 960)
        frame.pts = number * 960 + (-1) ** number * 900
        encoded += encoder.encode(frame)
    assert [frame.pts for frame in encoded] == [900 + 960 * number for number in range(50)]


def test_clocks_in_milliseconds_do_not_drift() -> None:
    encoder = OpusEncoder()
    encoded: list[EncodedFrame] = []
    for number in range(3000):
        frame = sound(number * 1024 % 48_000, 1024, rate=44_100)
        frame.pts, frame.time_base = round(number * 1024_000 / 44_100), Fraction(1, 1000)
        encoded += encoder.encode(frame)
    assert [frame.pts for frame in encoded] == [960 * number for number in range(len(encoded))]
    assert len(encoded) == pytest.approx(3000 * 1024 / 44_100 * 50, abs=2)


@pytest.mark.parametrize("jump", [1921, 48_000, -10_000])
def test_a_jump_of_the_sources_clock_starts_a_new_count(jump: int) -> None:
    encoder = OpusEncoder()
    encoded = encoder.encode(sound(20_000, 1440))
    encoded += encoder.encode(sound(21_440 + jump, 960))
    # The frame begun is filled with silence, so that its end is heard.
    assert [frame.pts for frame in encoded] == [20_000, 20_960, 21_440 + jump]


def test_a_gap_of_40_ms_is_still_jitter() -> None:
    encoder = OpusEncoder()
    encoded = encoder.encode(sound(0, 960)) + encoder.encode(sound(960 + 1920, 960))
    assert [frame.pts for frame in encoded] == [0, 960]


def test_sound_without_pts_follows_what_was_before() -> None:
    encoder = OpusEncoder()
    first, second = sound(0, 960), sound(0, 960)
    first.pts = second.pts = None
    assert [frame.pts for frame in encoder.encode(first)] == [0]
    assert [frame.pts for frame in encoder.encode(second)] == [960]


def test_the_format_may_change_without_a_gap() -> None:
    encoder = OpusEncoder()
    encoded = encoder.encode(sound(0, 960))
    encoded += encoder.encode(sound(441 * 2, 441 * 2, rate=44_100, layout="mono"))
    encoded += encoder.encode(sound(1920, 960)) + encoder.flush()
    assert [frame.pts for frame in encoded] == [0, 960, 1920]


def test_flush_gives_the_rest_and_the_next_sound_counts_anew() -> None:
    encoder = OpusEncoder()
    assert encoder.flush() == []
    assert encoder.encode(sound(0, 500)) == []
    assert [frame.pts for frame in encoder.flush()] == [0]
    assert [frame.pts for frame in encoder.encode(sound(600, 960))] == [600]


def test_the_bitrate_and_mode_are_heeded() -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, (1, 96_000)).astype(np.int16)
    sizes = []
    for encoder in (
        OpusEncoder(bitrate=32_000, application="voip", fec=True, packet_loss=10),
        OpusEncoder(bitrate=128_000),
    ):
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="stereo")
        frame.sample_rate = 48_000
        sizes.append(sum(len(encoded.data) for encoded in encoder.encode(frame)))
    assert sizes[0] * 8 == pytest.approx(32_000, rel=0.3)
    assert sizes[1] * 8 == pytest.approx(128_000, rel=0.3)


def test_opus_errors_are_typed() -> None:
    with pytest.raises(EncoderFailed):
        OpusEncoder(bitrate=10_000_000)
    encoder = OpusEncoder()
    for rate in (0, 2**31 - 1):
        frame = av.AudioFrame(format="s64", layout="stereo", samples=960)
        frame.sample_rate = rate
        with pytest.raises(EncoderFailed):
            encoder.encode(frame)
    assert encoder.encode(av.AudioFrame(format="s16", layout="stereo", samples=0)) == []
    encoder.close()
    encoder.close()
    with pytest.raises(InvalidState):
        encoder.encode(sound(0, 960))
    with pytest.raises(InvalidState):
        encoder.flush()


def test_mono_is_as_loud_as_stereo() -> None:
    def loudness(layout: str) -> float:
        encoder = OpusEncoder()
        chunks = [sound(n * 960, 960, layout=layout) for n in range(25)]
        encoded = [frame for chunk in chunks for frame in encoder.encode(chunk)]
        return float(np.sqrt(np.mean(decode_sound(encoded)[4800:] ** 2)))

    assert loudness("mono") == pytest.approx(loudness("stereo"), rel=0.02)
