"""What a datagram on the server's socket is, judged from outside. Sans-I/O.

Spec: RFC 7983 section 7, RFC 5761 section 4; userdoccers, "Voice Connections" (IP discovery, UDP
ping). STUN and IP discovery begin with the same two bytes, but no STUN message of 74 bytes says
that 70 of them follow, as IP discovery does.
"""

from __future__ import annotations

from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.crypto.dtls import is_dtls
from discord_rtc.ice.stun import is_stun
from discord_rtc.protocol.discovery import is_discovery, parse_ping
from discord_rtc.rtp.packet import is_rtcp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.server.faults import Blockable

_MINIMUM_RTCP = 8 + 14  # clear header; SRTCP's index and shortest tag (RFC 3711: 4 + 10)
_MINIMUM_RTP = 12 + 10  # likewise; also keeps out keepalives that count up to 0x80...


class DatagramKind(Enum):
    """What a datagram is."""

    RTP = auto()
    RTCP = auto()
    STUN = auto()
    DTLS = auto()
    DISCOVERY = auto()
    PING = auto()
    KEEPALIVE = auto()
    """Or garbage: nobody answers either."""


BLOCKABLE: Mapping[DatagramKind, Blockable] = MappingProxyType(
    {
        DatagramKind.RTP: "media",
        DatagramKind.RTCP: "media",
        DatagramKind.STUN: "stun",
        DatagramKind.DTLS: "dtls",
        DatagramKind.DISCOVERY: "discovery",
        DatagramKind.PING: "ping",
    }
)
"""The names that faults have for them."""


def classify(datagram: bytes) -> DatagramKind:
    """Tell what a datagram is."""
    if datagram and datagram[0] >> 6 == 2:
        return _classify_media(datagram)
    if is_discovery(datagram):
        return DatagramKind.DISCOVERY
    if is_stun(datagram):
        return DatagramKind.STUN
    if is_dtls(datagram):
        return DatagramKind.DTLS
    if parse_ping(datagram) is not None:
        return DatagramKind.PING
    return DatagramKind.KEEPALIVE


def _classify_media(datagram: bytes) -> DatagramKind:
    kind, minimum = DatagramKind.RTP, _MINIMUM_RTP
    if is_rtcp(datagram):
        kind, minimum = DatagramKind.RTCP, _MINIMUM_RTCP
    return kind if len(datagram) >= minimum else DatagramKind.KEEPALIVE


def clear_ssrc(datagram: bytes, kind: DatagramKind) -> int:
    """The SSRC in the clear header of a protected RTP or RTCP packet, authentic or not."""
    start = 8 if kind is DatagramKind.RTP else 4  # RFC 3550 section 5.1; section 6.4.1
    return int.from_bytes(datagram[start : start + 4], "big")
