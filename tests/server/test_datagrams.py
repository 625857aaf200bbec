"""What a datagram is, by its first bytes."""

from __future__ import annotations

import struct

import pytest

from discord_rtc.ice.stun import build_error, build_request
from discord_rtc.protocol import discovery
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.rtcp import ReceiverReport, build_rtcp
from discord_rtc.server.datagrams import BLOCKABLE, DatagramKind, classify, clear_ssrc

CHECK = build_request(
    bytes(12), username="ours:theirs", password="p" * 22, priority=1, tie_breaker=2
)
AUDIO = RtpPacket(120, 1, 960, 100, b"opus").to_bytes() + bytes(16)
REPORT = build_rtcp((ReceiverReport(100),)) + bytes(14)


@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        (AUDIO, DatagramKind.RTP),
        (b"\x80\xf8" + bytes(20), DatagramKind.RTP),
        (b"\x80\x78" + bytes(19), DatagramKind.KEEPALIVE),
        (REPORT, DatagramKind.RTCP),
        (REPORT[:-1], DatagramKind.KEEPALIVE),
        (CHECK, DatagramKind.STUN),
        (build_error(bytes(12), 401), DatagramKind.STUN),
        (discovery.build_request(1), DatagramKind.DISCOVERY),
        (discovery.build_response(1, "1.2.3.4", 5), DatagramKind.DISCOVERY),
        (discovery.build_ping(7), DatagramKind.PING),
        (discovery.build_pong(7), DatagramKind.KEEPALIVE),
        (b"\x16\xfe\xfd" + bytes(40), DatagramKind.DTLS),
        (b"", DatagramKind.KEEPALIVE),
        (bytes(30), DatagramKind.KEEPALIVE),
        (struct.pack("<II", 0x80, 0), DatagramKind.KEEPALIVE),  # discord.js after 128 keepalives
        (b"\x40" * 60, DatagramKind.KEEPALIVE),  # TURN channels, which end at the relay
    ],
)
def test_datagrams_are_told_apart_by_their_first_bytes(datagram: bytes, kind: DatagramKind) -> None:
    assert classify(datagram) is kind


def test_discovery_for_an_ssrc_that_is_the_magic_cookie_is_still_discovery() -> None:
    assert classify(discovery.build_request(0x2112A442)) is DatagramKind.DISCOVERY


def test_the_clear_ssrc_is_that_of_the_packet() -> None:
    assert clear_ssrc(AUDIO, DatagramKind.RTP) == 100
    assert clear_ssrc(REPORT, DatagramKind.RTCP) == 100


def test_all_but_keepalives_can_be_blocked() -> None:
    assert set(BLOCKABLE) == set(DatagramKind) - {DatagramKind.KEEPALIVE}
