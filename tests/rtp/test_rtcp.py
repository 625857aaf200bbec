"""Compound RTCP packets, and the reports of RFC 3550."""

from __future__ import annotations

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.rtcp import (
    SDES_CNAME,
    Goodbye,
    PictureLoss,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    UnknownRtcp,
    build_rtcp,
    ntp_from_64,
    ntp_middle,
    ntp_to_64,
    parse_rtcp,
)

_BLOCK = ReportBlock(0xAABBCCDD, 64, -5, 0x12345, 7, 0x8000, 0x10000)
_KNOWN: dict[str, RtcpPacket] = {
    "sender_report": SenderReport(0x11223344, 0xE0000000_80000000, 960, 50, 4000),
    "receiver_report": ReceiverReport(0x11111111, (_BLOCK,)),
    "source_description": SourceDescription(((0x11223344, ((SDES_CNAME, "user@a"),)),)),
    "goodbye": Goodbye((0x11223344, 0x55667788), "leaving"),
}


@pytest.mark.parametrize("name", _KNOWN)
def test_known_packet_is_read_and_built(name: str, vectors: dict[str, bytes]) -> None:
    assert parse_rtcp(vectors[name]) == (_KNOWN[name],)
    assert build_rtcp([_KNOWN[name]]) == vectors[name]


def test_compound_keeps_the_order(vectors: dict[str, bytes]) -> None:
    assert parse_rtcp(b"".join(vectors[name] for name in _KNOWN)) == tuple(_KNOWN.values())


def test_sender_report_carries_blocks_and_wraps_its_counters() -> None:
    report = SenderReport(1, 2, (1 << 32) + 3, (1 << 32) + 4, (1 << 33) + 5, (_BLOCK, _BLOCK))
    assert parse_rtcp(report.to_bytes()) == (SenderReport(1, 2, 3, 4, 5, (_BLOCK, _BLOCK)),)


@pytest.mark.parametrize(
    ("lost", "read"),
    [(0x7FFFFF, 0x7FFFFF), (0x800000, 0x7FFFFF), (-0x800000, -0x800000), (-0x900000, -0x800000)],
)
def test_cumulative_loss_saturates(lost: int, read: int) -> None:
    block = ReportBlock(1, 255, lost, (1 << 32) + 9, 0, 0, 0)
    packet = ReceiverReport(1, (block,))
    assert parse_rtcp(packet.to_bytes()) == (
        ReceiverReport(1, (ReportBlock(1, 255, read, 9, 0, 0, 0),)),
    )


def test_profile_specific_extension_of_a_report_is_passed_over(vectors: dict[str, bytes]) -> None:
    data = vectors["receiver_report"]
    longer = data[:3] + bytes((data[3] + 1,)) + data[4:] + b"more"
    assert parse_rtcp(longer) == (_KNOWN["receiver_report"],)


def test_more_than_31_blocks_do_not_fit() -> None:
    assert len(parse_rtcp(ReceiverReport(1, (_BLOCK,) * 31).to_bytes())) == 1
    with pytest.raises(ValueError, match="32 entries"):
        ReceiverReport(1, (_BLOCK,) * 32).to_bytes()


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "abcd", "ü" * 127])
def test_source_description_with_texts_of_any_length(text: str) -> None:
    packet = SourceDescription(((1, ((SDES_CNAME, text), (2, "Name"))), (2, ()), (3, ((1, text),))))
    data = packet.to_bytes()
    assert len(data) % 4 == 0
    assert parse_rtcp(data) == (packet,)


def test_texts_that_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="range"):
        SourceDescription(((1, ((1, "x" * 256),)),)).to_bytes()
    with pytest.raises(ValueError, match="type 0"):
        SourceDescription(((1, ((0, "x"),)),)).to_bytes()
    with pytest.raises(ValueError, match="range"):
        Goodbye((1,), "x" * 256).to_bytes()


@pytest.mark.parametrize(
    "body",
    ["", "112233", "11223344", "1122334401", "1122334401057573", "11223344010475736572"],
    ids=["no SSRC", "half an SSRC", "no items", "no length", "half a text", "no end"],
)
def test_incomplete_source_description_is_malformed(body: str) -> None:
    with pytest.raises(MalformedPacket):
        SourceDescription.parse(1, bytes.fromhex(body))


def test_source_description_without_chunks() -> None:
    assert parse_rtcp(bytes.fromhex("80ca0000")) == (SourceDescription(()),)


def test_text_that_is_not_utf8_is_still_read() -> None:
    body = bytes.fromhex("0000000101 02 ff41 0000")
    assert SourceDescription.parse(1, body).chunks == ((1, ((1, "\N{REPLACEMENT CHARACTER}A"),)),)


def test_goodbye_without_reason_or_sources() -> None:
    assert Goodbye((1,)).to_bytes() == bytes.fromhex("81cb000100000001")
    assert parse_rtcp(bytes.fromhex("81cb000100000001")) == (Goodbye((1,)),)
    assert parse_rtcp(bytes.fromhex("80cb0000")) == (Goodbye(()),)


def test_reason_that_claims_to_be_longer_is_read_as_far_as_it_goes() -> None:
    assert parse_rtcp(bytes.fromhex("80cb0001ff616263")) == (Goodbye((), "abc"),)


@pytest.mark.parametrize("packet_type", [192, 204, 207, 223])
def test_unknown_type_is_skipped_by_its_length_and_kept_raw(
    packet_type: int, vectors: dict[str, bytes]
) -> None:
    unknown = UnknownRtcp(packet_type, 3, b"ssrcrest")
    data = vectors["sender_report"] + unknown.to_bytes() + vectors["goodbye"]
    assert parse_rtcp(data) == (_KNOWN["sender_report"], unknown, _KNOWN["goodbye"])
    assert build_rtcp(parse_rtcp(data)) == data


@pytest.mark.parametrize("packet_type", [205, 206])
def test_unknown_feedback_format_is_kept_raw(packet_type: int) -> None:
    data = bytes((0x9E, packet_type)) + bytes.fromhex("00020000000100000002")
    assert parse_rtcp(data) == (UnknownRtcp(packet_type, 30, data[4:]),)


def test_padding_of_the_last_packet_is_stripped(vectors: dict[str, bytes]) -> None:
    padded = bytes.fromhex("a1ce0003 12345678 23456789 00000004")
    data = vectors["sender_report"] + padded
    assert parse_rtcp(data) == (_KNOWN["sender_report"], PictureLoss(0x12345678, 0x23456789))


@pytest.mark.parametrize(
    "packet",
    ["a0cb0000", "a0cb000100000000", "a0cb000100000005"],
    ids=["no room", "zero", "more than there is"],
)
def test_impossible_padding_count_is_malformed(packet: str) -> None:
    with pytest.raises(MalformedPacket):
        parse_rtcp(bytes.fromhex(packet))


@pytest.mark.parametrize("name", _KNOWN)
def test_length_that_runs_past_the_end_is_malformed(name: str, vectors: dict[str, bytes]) -> None:
    data = vectors["sender_report"] + vectors[name]
    for cut in range(1, len(vectors[name])):
        with pytest.raises(MalformedPacket):
            parse_rtcp(data[:-cut])


@pytest.mark.parametrize("packet_type", [200, 201, 202, 203])
def test_count_that_the_body_does_not_hold_is_malformed(packet_type: int) -> None:
    with pytest.raises(MalformedPacket):
        parse_rtcp(bytes((0x9F, packet_type, 0, 1)) + bytes(4))


@pytest.mark.parametrize("first", [0x00, 0x40, 0xC0])
def test_other_versions_are_malformed(first: int) -> None:
    with pytest.raises(MalformedPacket):
        parse_rtcp(bytes((first, 203, 0, 0)))


def test_nothing_is_malformed() -> None:
    with pytest.raises(MalformedPacket):
        parse_rtcp(b"")


def test_ntp_timestamps() -> None:
    assert ntp_to_64(1.5) == 0x00000001_80000000
    assert ntp_to_64(2.0**32 + 1) == 1 << 32  # era 1
    assert ntp_from_64(0x00000001_80000000) == 1.5
    assert ntp_middle(0x11112222_33334444) == 0x22223333
    assert abs(ntp_from_64(ntp_to_64(3_900_000_000.123)) - 3_900_000_000.123) < 1e-6
