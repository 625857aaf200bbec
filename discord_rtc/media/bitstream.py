"""Bitstream inspection: NAL units, keyframes, what a sender must tidy. Pure bytes.

Specs: ITU-T H.264 annex B; RFC 6386 section 9.1 (VP8).
"""

from __future__ import annotations

import re

from discord_rtc.errors import MalformedFrame, UnsupportedMedia
from discord_rtc.frames import Codec
from discord_rtc.media.sps import NAL_SPS, rewrite_sps

START_CODE = b"\x00\x00\x00\x01"
NAL_IDR = 5
NAL_AUD = 9
NAL_FILLER = 12
_START = re.compile(rb"\x00\x00\x01")
_LENGTH_SIZE = 4  # bytes of the length in front of each NAL unit in practically all MP4 files


def iter_nal_units(annexb: bytes) -> list[bytes]:
    """Split an access unit into NAL units, header included, start codes excluded.

    Args:
        annexb: Annex B with 3- or 4-byte start codes.

    Raises:
        MalformedFrame: Does not begin with a start code, is length-prefixed (as in MP4), or
            holds an empty NAL unit.

    Spec:
        H.264 B.1.1.
    """
    starts = [match.start() for match in _START.finditer(annexb)]
    if not starts or annexb[: starts[0]].strip(b"\x00") or _is_length_prefixed(annexb):
        raise MalformedFrame("not H.264 in Annex B form (length-prefixed, as in MP4 files?)")
    ends = [*starts[1:], len(annexb)]
    # A NAL unit never ends in a zero byte (7.4.1), so zeros belong to what follows.
    units = [
        annexb[start + 3 : end].rstrip(b"\x00") for start, end in zip(starts, ends, strict=True)
    ]
    if not all(units):
        raise MalformedFrame("an H.264 NAL unit is empty")
    return units


def normalise_h264(access_unit: bytes) -> bytes:
    """Bring an access unit into the one form that is sent.

    4-byte start codes; access unit delimiters and filler dropped (DAVE's receivers would
    miss them); each SPS as `rewrite_sps` makes it. Idempotent.

    Raises:
        MalformedFrame: As for `iter_nal_units` and `rewrite_sps`, or nothing is left.
    """
    units = [
        rewrite_sps(unit) if _nal_type(unit) == NAL_SPS else unit
        for unit in iter_nal_units(access_unit)
        if _nal_type(unit) not in (NAL_AUD, NAL_FILLER)
    ]
    if not units:
        raise MalformedFrame("an H.264 access unit without a picture")
    return b"".join(START_CODE + unit for unit in units)


def is_h264_keyframe(annexb: bytes) -> bool:
    """Whether an Annex B access unit has an IDR slice."""
    return any(
        match.end() < len(annexb) and annexb[match.end()] & 0x1F == NAL_IDR
        for match in _START.finditer(annexb)
    )


def is_vp8_keyframe(data: bytes) -> bool:
    """Whether a VP8 frame is a key frame (RFC 6386 9.1: lowest bit of the frame tag is 0)."""
    return len(data) >= 3 and not data[0] & 1


def is_keyframe(codec: Codec, data: bytes) -> bool:
    """Whether a decoder can start at this frame. Every Opus frame is one.

    Raises:
        UnsupportedMedia: This codec's bitstream cannot be inspected.
    """
    match codec:
        case Codec.OPUS:
            return True
        case Codec.H264:
            return is_h264_keyframe(data)
        case Codec.VP8:
            return is_vp8_keyframe(data)
        case _:
            raise UnsupportedMedia(f"keyframes of {codec.value} cannot be told")


def _nal_type(unit: bytes) -> int:
    return unit[0] & 0x1F


def _is_length_prefixed(data: bytes) -> bool:
    """Whether NAL units of 256 to 511 bytes make an MP4 sample look like Annex B.

    Their 4-byte length begins with 00 00 01. It is a length when the units fill the data
    exactly and every header is possible; behind a real 3-byte start code and a slice header
    comes a byte with its top bit set (``first_mb_in_slice`` 0), which no header has.
    """
    position = 0
    while position + _LENGTH_SIZE < len(data):
        header = data[position + _LENGTH_SIZE]
        if header & 0x80 or not header & 0x1F:
            return False
        position += _LENGTH_SIZE + int.from_bytes(data[position : position + _LENGTH_SIZE], "big")
    return position == len(data) and data[:4] != START_CODE
