"""NAL units, keyframes and what a sender tidies."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedFrame, UnsupportedMedia
from discord_rtc.frames import OPUS_SILENCE, Codec
from discord_rtc.media.bitstream import (
    is_h264_keyframe,
    is_keyframe,
    is_vp8_keyframe,
    iter_nal_units,
    normalise_h264,
)
from discord_rtc.media.sps import rewrite_sps

LONG, SHORT = b"\0\0\0\1", b"\0\0\1"
# libx264 superfast, baseline, 320x240 (made with PyAV 18.1).
SPS = bytes.fromhex("6742c00dda0507e840000003004000000f23c50aa8")
PPS = bytes.fromhex("68ce0fc8")
IDR = b"\x65\x88\x84\x01\x02"
SLICE = b"\x41\x9a\x02\x03"


@pytest.mark.parametrize("first", [LONG, SHORT])
@pytest.mark.parametrize("second", [LONG, SHORT, b"\0\0" + LONG])
def test_units_are_split_at_any_start_code(first: bytes, second: bytes) -> None:
    assert iter_nal_units(first + SPS + second + IDR) == [SPS, IDR]


def test_trailing_zeros_belong_to_no_unit() -> None:
    assert iter_nal_units(LONG + SLICE + b"\0\0\0") == [SLICE]


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0\0", b"abc", b"\x09" + LONG + SLICE, LONG, LONG + SLICE + LONG, LONG + SHORT + IDR],
)
def test_what_is_no_annex_b_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        iter_nal_units(data)


@pytest.mark.parametrize("size", [5, 255, 256, 300, 511, 512, 70_000])
def test_length_prefixed_input_is_refused_at_any_size(size: int) -> None:
    unit = IDR + bytes([7]) * (size - len(IDR))
    mp4 = len(unit).to_bytes(4, "big") + unit + len(PPS).to_bytes(4, "big") + PPS
    with pytest.raises(MalformedFrame, match="MP4"):
        normalise_h264(mp4)


@pytest.mark.parametrize("tail", [0x88, 0x9A])
def test_a_slice_as_long_as_its_header_pretends_is_still_annex_b(tail: int) -> None:
    # Read as a length, 00 00 01 65 covers the rest exactly; but no header follows it.
    unit = bytes([0x65, tail]) + bytes([7]) * (0x165 - 1)
    assert iter_nal_units(SHORT + unit) == [unit]


def test_a_unit_of_one_byte_after_a_long_start_code_is_annex_b() -> None:
    assert iter_nal_units(LONG + b"\x65") == [b"\x65"]


def test_delimiter_and_filler_are_dropped_and_start_codes_are_long() -> None:
    tidy = normalise_h264(
        SHORT + b"\x09\xf0" + SHORT + SPS + SHORT + PPS + SHORT + IDR + SHORT + b"\x0c\xff\x80"
    )
    assert tidy == LONG + rewrite_sps(SPS) + LONG + PPS + LONG + IDR
    assert normalise_h264(tidy) == tidy


def test_an_access_unit_without_a_picture_is_refused() -> None:
    with pytest.raises(MalformedFrame, match="without a picture"):
        normalise_h264(LONG + b"\x09\xf0")


def test_a_broken_sps_is_refused() -> None:
    with pytest.raises(MalformedFrame):
        normalise_h264(LONG + SPS[:6] + LONG + PPS + LONG + IDR)


def test_h264_keyframes_have_an_idr_slice() -> None:
    assert is_h264_keyframe(LONG + SPS + SHORT + PPS + SHORT + IDR)
    assert not is_h264_keyframe(LONG + SPS + LONG + SLICE)
    assert not is_h264_keyframe(LONG)
    assert not is_h264_keyframe(b"")


def test_vp8_keyframes_have_the_lowest_bit_clear() -> None:
    assert is_vp8_keyframe(bytes.fromhex("904a049d012a"))
    assert not is_vp8_keyframe(bytes.fromhex("914a04"))
    assert not is_vp8_keyframe(b"")


def test_keyframes_by_codec() -> None:
    assert is_keyframe(Codec.OPUS, OPUS_SILENCE)
    assert is_keyframe(Codec.H264, LONG + IDR)
    assert is_keyframe(Codec.VP8, bytes.fromhex("904a049d012a"))
    with pytest.raises(UnsupportedMedia, match="AV1"):
        is_keyframe(Codec.AV1, b"\x12\x00")
