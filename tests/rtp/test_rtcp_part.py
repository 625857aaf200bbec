"""Single parts of compound RTCP packets."""

from __future__ import annotations

import struct

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.rtcp_part import (
    UnknownRtcp,
    build_part,
    build_words,
    read_fields,
    read_words,
)


def test_part_is_padded_to_whole_words() -> None:
    assert build_part(204, 31, b"abcde") == bytes.fromhex("9fcc0002") + b"abcde\0\0\0"
    assert UnknownRtcp(204, 31, b"abcde").to_bytes() == build_part(204, 31, b"abcde")


def test_count_has_five_bits() -> None:
    with pytest.raises(ValueError, match="32 entries"):
        build_part(204, 32, b"")


def test_fields_have_to_be_there() -> None:
    layout = struct.Struct("!HB")
    assert read_fields(layout, b"\0\1\2\3", 1) == (0x0102, 3)
    with pytest.raises(MalformedPacket):
        read_fields(layout, b"\0\1\2\3", 2)


def test_words() -> None:
    assert read_words(2, b"x" + build_words((7, 8)), 1) == (7, 8)
    assert read_words(0, b"", 0) == ()
    with pytest.raises(MalformedPacket):
        read_words(3, build_words((7, 8)), 0)
