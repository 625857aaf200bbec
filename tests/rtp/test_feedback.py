"""RTCP feedback values."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.feedback import (
    BitrateEstimate,
    FullIntraRequest,
    Nack,
    PictureLoss,
    TransportFeedback,
)
from discord_rtc.rtp.rtcp import RtcpPacket, UnknownRtcp, parse_rtcp

if TYPE_CHECKING:
    from collections.abc import Callable

_KNOWN: dict[str, RtcpPacket] = {
    "nack": Nack(0x12345678, 0x23456789, (0, 1, 3, 8, 16)),
    "nack_wrapping": Nack(0x12345678, 0x23456789, (65534, 65535, 0)),
    "pli": PictureLoss(0x12345678, 0x23456789),
    "fir": FullIntraRequest(0x12345678, ((0x23456789, 13),)),
    "remb": BitrateEstimate(0x12345678, 0x3FB93 * 2, (0x23456789, 0x2345678A, 0x2345678B)),
    "transport_feedback_run": TransportFeedback(1, 2, 2, -1, 9, (4, 10)),
    "transport_feedback_one_bit": TransportFeedback(
        1, 2, 0xFF, 1, 0, (None, 1, 2, 3, 4, 5, None, None, None, 6, 7, 8, None, None)
    ),
    "transport_feedback_two_bits": TransportFeedback(1, 2, 1, 2, 255, (1, -16, None, None, 2)),
}


@pytest.mark.parametrize("name", _KNOWN)
def test_known_packet_is_read_and_built(name: str, vectors: dict[str, bytes]) -> None:
    assert parse_rtcp(vectors[name]) == (_KNOWN[name],)
    assert _KNOWN[name].to_bytes() == vectors[name]


@pytest.mark.parametrize(
    ("parse", "length"),
    [
        (Nack.parse, 7),
        (Nack.parse, 10),
        (PictureLoss.parse, 7),
        (FullIntraRequest.parse, 7),
        (FullIntraRequest.parse, 15),
        (TransportFeedback.parse, 7),
        (TransportFeedback.parse, 15),
    ],
)
def test_body_that_ends_inside_a_field_is_malformed(
    parse: Callable[[int, bytes], RtcpPacket], length: int
) -> None:
    with pytest.raises(MalformedPacket):
        parse(1, bytes(length))


def test_transport_feedback_without_its_deltas_is_malformed(vectors: dict[str, bytes]) -> None:
    with pytest.raises(MalformedPacket):
        TransportFeedback.parse(15, vectors["transport_feedback_run"][4:-1])


def test_nack_far_apart_takes_one_pair_each() -> None:
    packet = Nack(1, 2, (10, 26, 27, 1000))
    data = packet.to_bytes()
    assert data[12:] == struct.pack("!6H", 10, 1 << 15, 27, 0, 1000, 0)
    assert parse_rtcp(data) == (packet,)


def test_nack_out_of_order_still_names_all() -> None:
    (read,) = parse_rtcp(Nack(1, 2, (5, 3, 5)).to_bytes())
    assert isinstance(read, Nack)
    assert set(read.lost) == {3, 5}


def test_several_full_intra_requests() -> None:
    packet = FullIntraRequest(1, ((7, 0), (8, 255)))
    assert parse_rtcp(packet.to_bytes()) == (packet,)


@pytest.mark.parametrize(
    ("bitrate", "read"),
    [
        (0, 0),
        (0x3FFFF, 0x3FFFF),
        (0x40001, 0x40000),
        (2_500_000, 2_500_000),
        (10**9 + 1, 1_000_000_000 - 1_000_000_000 % 4096),
    ],
)
def test_bitrate_keeps_18_significant_bits(bitrate: int, read: int) -> None:
    packet = BitrateEstimate(1, bitrate, (2,))
    assert parse_rtcp(packet.to_bytes()) == (BitrateEstimate(1, read, (2,)),)


def test_largest_exponent_is_read() -> None:
    body = bytes(8) + b"REMB" + b"\x00\xff\xff\xff"
    assert BitrateEstimate.parse(15, body) == BitrateEstimate(0, 0x3FFFF << 63, ())


def test_bitrate_estimate_with_missing_ssrcs_is_malformed() -> None:
    with pytest.raises(MalformedPacket):
        BitrateEstimate.parse(15, bytes(8) + b"REMB" + b"\x02\0\0\0" + bytes(4))
    with pytest.raises(MalformedPacket):
        BitrateEstimate.parse(15, bytes(8) + b"REMB")


def test_other_application_feedback_is_kept_raw() -> None:
    data = bytes.fromhex("8fce0003 00000001 00000002 47414d45")
    assert parse_rtcp(data) == (UnknownRtcp(206, 15, data[4:]),)


def test_transport_feedback_padded_the_way_of_libwebrtc() -> None:
    data = bytes.fromhex("afcd0007000000010000000200ff000e000001009f1c01020304050607080002")
    assert parse_rtcp(data) == (_KNOWN["transport_feedback_one_bit"],)


def test_transport_feedback_wraps_time_and_count() -> None:
    packet = TransportFeedback(1, 2, 3, (1 << 24) + 5, 256 + 7, (0,))
    assert parse_rtcp(packet.to_bytes()) == (TransportFeedback(1, 2, 3, 5, 7, (0,)),)
