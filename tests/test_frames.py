"""Encoded frames and codecs."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest

from discord_rtc.frames import OPUS_FRAME_TICKS, OPUS_SILENCE, Codec, EncodedFrame, MediaKind


@pytest.mark.parametrize("codec", Codec)
def test_opus_is_audio_at_48_khz_and_everything_else_video_at_90(codec: Codec) -> None:
    if codec is Codec.OPUS:
        assert (codec.kind, codec.clock_rate) == (MediaKind.AUDIO, 48_000)
    else:
        assert (codec.kind, codec.clock_rate) == (MediaKind.VIDEO, 90_000)


def test_names_are_those_on_the_wire() -> None:
    assert [codec.value for codec in Codec] == ["opus", "H264", "H265", "VP8", "VP9", "AV1"]


def test_kinds_compare_with_the_kind_of_a_track() -> None:
    assert MediaKind.AUDIO == "audio"
    assert f"{MediaKind.VIDEO}" == "video"


def test_silence_is_the_documented_frame_of_20_ms() -> None:
    assert OPUS_SILENCE.hex() == "f8fffe"
    assert Fraction(OPUS_FRAME_TICKS, Codec.OPUS.clock_rate) == Fraction(20, 1000)


def test_frames_are_values() -> None:
    frame = EncodedFrame(b"x", Codec.VP8, 3, Fraction(1, 30), keyframe=True)
    assert frame == EncodedFrame(b"x", Codec.VP8, 3, Fraction(1, 30), keyframe=True)
    with pytest.raises(FrozenInstanceError):
        frame.pts = 4  # type: ignore[misc]  # that is the point
