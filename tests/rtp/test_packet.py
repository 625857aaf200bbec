"""RTP packets and their headers."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.packet import (
    RtpPacket,
    clear_prefix_length,
    fixed_header_length,
    header_length,
    is_rtcp,
    parse_rtp,
)

_HEADER = bytes.fromhex("80780001000003c011223344")


def test_known_packet_is_read(vectors: dict[str, bytes]) -> None:
    packet = parse_rtp(vectors["rtp_extension"])
    assert packet == RtpPacket(
        payload_type=120,
        sequence=1,
        ticks=960,
        ssrc=0x11223344,
        payload=b"\xf8\xff\xfe",
        extension_profile=0xBEDE,
        extension_data=bytes.fromhex("10ff9002"),
    )
    assert packet.to_bytes() == vectors["rtp_extension"]


def test_every_field_survives_building_and_parsing() -> None:
    packet = RtpPacket(
        127, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, b"body", True, (1, 2, 3), 0x1000, b"\0" * 8, b"\0\0\3"
    )
    data = packet.to_bytes()
    assert data[0] == 0xB3
    assert data[1] == 0xFF
    assert parse_rtp(data) == packet


def test_contributing_sources_without_extension() -> None:
    packet = RtpPacket(120, 1, 2, 3, b"body", csrcs=(0xAABBCCDD,))
    assert packet.to_bytes() == b"\x81\x78\0\1\0\0\0\2\0\0\0\3\xaa\xbb\xcc\xddbody"
    assert parse_rtp(packet.to_bytes()) == packet


def test_marker_is_not_part_of_the_payload_type() -> None:
    packet = parse_rtp(b"\x80\xf8" + _HEADER[2:] + b"x")
    assert (packet.payload_type, packet.marker) == (120, True)


def test_packet_that_is_all_padding_has_no_payload() -> None:
    packet = parse_rtp(b"\xa0" + _HEADER[1:] + b"\0\0\0\4")
    assert (packet.payload, packet.padding) == (b"", b"\0\0\0\4")


def test_empty_extension_is_kept() -> None:
    data = b"\x90" + _HEADER[1:] + b"\xbe\xde\0\0" + b"x"
    packet = parse_rtp(data)
    assert (packet.extension_profile, packet.extension_data) == (0xBEDE, b"")
    assert packet.to_bytes() == data


def test_packet_without_payload_is_valid() -> None:
    assert parse_rtp(_HEADER).payload == b""


@pytest.mark.parametrize(
    "tail",
    [b"", b"\0", b"\0\0\0\5", b"\xff"],
    ids=["missing", "zero", "one more than there is", "far too many"],
)
def test_impossible_padding_count_is_malformed(tail: bytes) -> None:
    header = b"\xa0" + _HEADER[1:-1] + b"\0"  # nothing in the header may serve as the count
    with pytest.raises(MalformedPacket):
        parse_rtp(header + tail)


def test_padding_may_not_reach_into_the_extension() -> None:
    header = b"\xb0" + _HEADER[1:] + b"\xbe\xde\0\1" + b"\x10\xff\0\0"
    assert parse_rtp(header + b"\1").payload == b""
    with pytest.raises(MalformedPacket):
        parse_rtp(header + b"\2")


@pytest.mark.parametrize("first", [0x00, 0x40, 0xC0])
def test_other_versions_are_malformed(first: int) -> None:
    with pytest.raises(MalformedPacket):
        parse_rtp(bytes((first,)) + _HEADER[1:])


def test_lengths_of_the_parts_of_a_header() -> None:
    data = b"\x92" + _HEADER[1:] + bytes(8) + b"\xbe\xde\0\2" + bytes(8) + b"payload"
    assert fixed_header_length(data) == 20
    assert clear_prefix_length(data) == 24
    assert header_length(data) == 32


def test_without_extension_all_lengths_agree() -> None:
    assert fixed_header_length(_HEADER) == clear_prefix_length(_HEADER) == 12
    assert header_length(_HEADER) == 12


@pytest.mark.parametrize("length", range(32))
def test_header_that_ends_early_is_malformed(length: int) -> None:
    data = b"\x92" + _HEADER[1:] + bytes(8) + b"\xbe\xde\0\2" + bytes(8)
    with pytest.raises(MalformedPacket):
        header_length(data[:length])
    with pytest.raises(MalformedPacket):
        parse_rtp(data[:length])
    for measure, needed in ((fixed_header_length, 20), (clear_prefix_length, 24)):
        if length < needed:
            with pytest.raises(MalformedPacket):
                measure(data[:length])
        else:
            assert measure(data[:length]) == needed


def test_extension_of_broken_words_is_not_built() -> None:
    packet = RtpPacket(120, 1, 2, 3, b"", extension_profile=0xBEDE, extension_data=b"\x10")
    with pytest.raises(ValueError, match="words"):
        packet.to_bytes()


def test_rtcp_is_told_by_the_second_byte() -> None:
    assert is_rtcp(bytes((0x80, 192)))
    assert is_rtcp(bytes((0x81, 223)))
    assert not is_rtcp(bytes((0x80, 191)))
    assert not is_rtcp(bytes((0x80, 224)))
    assert not is_rtcp(b"\x80")
    assert not is_rtcp(b"")
