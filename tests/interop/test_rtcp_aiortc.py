"""RTP headers and RTCP against aiortc's own reader and writer, in both directions."""

from __future__ import annotations

import pytest
from aiortc import rtp as theirs

from discord_rtc.rtp import extensions, rtcp
from discord_rtc.rtp.packet import RtpPacket, parse_rtp

pytestmark = pytest.mark.interop

_OURS: dict[str, rtcp.RtcpPacket] = {
    "sender report": rtcp.SenderReport(
        1, 2**63 + 5, 2**32 - 1, 7, 8, (rtcp.ReportBlock(9, 10, -11, 12, 13, 14, 15),)
    ),
    "receiver report": rtcp.ReceiverReport(
        1, tuple(rtcp.ReportBlock(n, 255, 0x7FFFFF, 2**32 - 1, 5, 6, 7) for n in range(31))
    ),
    # One chunk and no wrap: aiortc 1.16 reads neither several chunks nor a NACK over the wrap.
    "source description": rtcp.SourceDescription(((1, ((rtcp.SDES_CNAME, "a name"), (2, "x"))),)),
    "goodbye": rtcp.Goodbye((1, 2, 3)),
    "nack": rtcp.Nack(1, 2, (10, 11, 26, 27, 500)),
    "picture loss": rtcp.PictureLoss(1, 2),
    "full intra request": rtcp.FullIntraRequest(1, ((2, 3),)),
    "bitrate estimate": rtcp.BitrateEstimate(1, 2_500_000, (2, 3)),
}


def test_aiortc_reads_a_compound_of_ours_and_writes_it_again() -> None:
    packets = theirs.RtcpPacket.parse(rtcp.build_rtcp(_OURS.values()))
    assert rtcp.parse_rtcp(b"".join(map(bytes, packets))) == tuple(_OURS.values())
    report, _, description, goodbye, nack, *_, estimate = packets
    assert isinstance(report, theirs.RtcpSrPacket)
    assert report.sender_info == theirs.RtcpSenderInfo(2**63 + 5, 2**32 - 1, 7, 8)
    assert report.reports == [theirs.RtcpReceiverInfo(9, 10, -11, 12, 13, 14, 15)]
    assert isinstance(description, theirs.RtcpSdesPacket)
    assert description.chunks[0] == theirs.RtcpSourceInfo(1, [(1, b"a name"), (2, b"x")])
    assert isinstance(goodbye, theirs.RtcpByePacket)
    assert goodbye.sources == [1, 2, 3]
    assert isinstance(nack, theirs.RtcpRtpfbPacket)
    assert nack.lost == [10, 11, 26, 27, 500]
    assert isinstance(estimate, theirs.RtcpPsfbPacket)
    assert theirs.unpack_remb_fci(estimate.fci) == (2_500_000, [2, 3])


# RFC 3550 6.5 ends the items with "one or more" zeros: aiortc writes two at least, we one.
@pytest.mark.parametrize("name", [name for name in _OURS if name != "source description"])
def test_both_write_the_same_bytes(name: str) -> None:
    data = _OURS[name].to_bytes()
    (packet,) = theirs.RtcpPacket.parse(data)
    assert bytes(packet) == data


def test_rtp_header_with_extension_and_padding() -> None:
    elements = ((1, b"\x9e"), (10, b"audio"))
    profile, data = extensions.build_elements(elements)
    packet = RtpPacket(120, 65535, 2**32 - 1, 7, b"body", True, (8, 9), profile, data, b"\0\0\0\4")
    other = theirs.RtpPacket.parse(packet.to_bytes())
    assert (other.payload_type, other.sequence_number, other.timestamp) == (120, 65535, 2**32 - 1)
    assert (other.ssrc, other.csrc, other.payload, other.marker) == (7, [8, 9], b"body", 1)
    assert other.padding_size == 4
    assert theirs.unpack_header_extensions(profile, data) == list(elements)
    assert theirs.pack_header_extensions(list(elements)) == (profile, data)


def test_two_byte_extension() -> None:
    elements = ((1, b""), (20, b"x" * 30))
    profile, data = extensions.build_elements(elements)
    assert theirs.unpack_header_extensions(profile, data) == list(elements)
    assert theirs.pack_header_extensions(list(elements)) == (profile, data)


def test_rtp_packet_of_aiortc() -> None:
    packet = theirs.RtpPacket(
        payload_type=101, marker=1, sequence_number=5, timestamp=6, ssrc=7, payload=b"body"
    )
    assert parse_rtp(packet.serialize()) == RtpPacket(101, 5, 6, 7, b"body", True)
