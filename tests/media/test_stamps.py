from __future__ import annotations

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.media.planes import plane
from discord_rtc.media.stamps import (
    TONE_AMPLITUDE,
    Stamp,
    audio_stamp,
    draw_video_stamp,
    luma_of,
    mono_of,
    read_audio_stamp,
    read_video_stamp,
)

numbers = st.integers(0, 2**32 - 1)
times = st.floats(0, 1e7)


@given(numbers, times, st.integers(160, 700), st.integers(90, 400))
def test_a_drawn_stamp_is_read_at_any_size(
    number: int, sent_at: float, width: int, height: int
) -> None:
    luma = np.full((height, width), 128, np.uint8)
    draw_video_stamp(luma, Stamp(number, sent_at))
    stamp = read_video_stamp(luma)
    assert stamp is not None
    assert stamp.number == number
    assert stamp.sent_at == pytest.approx(sent_at, abs=2e-6)


@given(st.integers(0, 2**16 - 1), times, st.floats(0, 4), st.sampled_from([0, 120, 312]))
def test_a_sounded_stamp_is_read_at_each_known_delay(
    number: int, sent_at: float, age: float, delay: int
) -> None:
    before, after = Stamp(number + 1, 0.0), Stamp(number, sent_at)
    sound = np.concatenate((audio_stamp(before), audio_stamp(after)))
    stamp = read_audio_stamp(sound[960 - delay : 1920 - delay], sent_at + age)
    assert stamp is not None
    assert stamp.number == number
    assert stamp.sent_at == pytest.approx(sent_at, abs=0.0011)


def test_any_damaged_bit_of_a_picture_is_noticed() -> None:
    luma = np.zeros((360, 640), np.uint8)
    draw_video_stamp(luma, Stamp(123456, 99.5))
    for row in range(5):
        for column in range(20):
            damaged = luma.copy()
            cell = damaged[row * 30 : (row + 1) * 30, column * 32 : (column + 1) * 32]
            cell[:] = 251 - cell
            assert read_video_stamp(damaged) is None


@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_a_plain_picture_has_no_stamp(level: int) -> None:
    assert read_video_stamp(np.full((360, 640), level, np.uint8)) is None


def test_noise_has_no_stamp() -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        assert read_audio_stamp(rng.normal(0, 0.3, 960).astype(np.float32), 0.0) is None
        picture = rng.integers(0, 255, (90, 160)).astype(np.uint8)
        assert read_video_stamp(picture) is None


@pytest.mark.parametrize("tone", range(72))
def test_a_wrong_tone_is_put_right_by_the_checksum(tone: int) -> None:
    stamp = Stamp(777, 1.0)
    turns = np.arange(960) * (750 + 75 * tone) / 48_000
    louder = 1.1 * TONE_AMPLITUDE * np.sin(2 * np.pi * turns)  # than the right one of its group
    assert read_audio_stamp(audio_stamp(stamp) + louder.astype(np.float32), 1.0) == stamp


def test_silence_has_no_stamp() -> None:
    assert read_audio_stamp(np.zeros(960, np.float32), 0.0) is None


def test_luma_of_other_pixel_formats() -> None:
    frame = av.VideoFrame(160, 90, "yuv420p")
    for index in range(3):
        plane(frame, index)[:] = 128
    draw_video_stamp(plane(frame, 0), Stamp(7, 1.0))
    for name in ("yuv420p", "nv12", "rgb24", "yuv444p"):
        assert read_video_stamp(luma_of(frame.reformat(format=name))) == Stamp(7, 1.0)


@pytest.mark.parametrize("name", ["s16", "s16p", "flt", "fltp"])
@pytest.mark.parametrize("channels", [1, 2])
def test_mono_of_sample_formats(name: str, channels: int) -> None:
    sound = np.arange(-480, 480) / 1000
    both = np.stack([sound, -sound][:channels])
    if not name.endswith("p"):
        both = both.T.reshape(1, -1)
    both = np.ascontiguousarray(both)
    layout = ["mono", "stereo"][channels - 1]
    frame = (
        av.AudioFrame.from_ndarray((both * 32768).astype(np.int16), name, layout)
        if name.startswith("s16")
        else av.AudioFrame.from_ndarray(both.astype(np.float32), name, layout)
    )
    assert np.allclose(mono_of(frame), sound, atol=4e-5)


def test_other_sample_formats_are_refused() -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int32), "s32", "mono")
    with pytest.raises(UnsupportedMedia, match="s32"):
        mono_of(frame)
