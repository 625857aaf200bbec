"""RTCP packets as values, compound packets as bytes. Sans-I/O. Spec: RFC 3550 section 6, RFC 4585.

Each value builds its own packet with ``to_bytes`` and reads it with ``parse(count, body)``, where
``count`` are the low five bits of the first byte and ``body`` is what follows the four bytes of
header, without padding. Types that are not known are kept raw, so a compound is never lost for
one of its parts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.feedback import (
    FORMAT_AFB,
    FORMAT_FIR,
    FORMAT_NACK,
    FORMAT_PLI,
    FORMAT_TRANSPORT_CC,
    PAYLOAD_SPECIFIC_FEEDBACK,
    TRANSPORT_LAYER_FEEDBACK,
    BitrateEstimate,
    FullIntraRequest,
    Nack,
    PictureLoss,
    TransportFeedback,
)
from discord_rtc.rtp.rtcp_part import (
    HEADER,
    WORD,
    UnknownRtcp,
    build_part,
    build_words,
    read_fields,
    read_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "SDES_CNAME",
    "BitrateEstimate",
    "FullIntraRequest",
    "Goodbye",
    "Nack",
    "PictureLoss",
    "ReceiverReport",
    "ReportBlock",
    "RtcpPacket",
    "SenderReport",
    "SourceDescription",
    "TransportFeedback",
    "UnknownRtcp",
    "build_rtcp",
    "ntp_from_64",
    "ntp_middle",
    "ntp_to_64",
    "parse_rtcp",
]

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, GOODBYE = 200, 201, 202, 203  # RFC 3550 12.1

SDES_CNAME = 1
"""Item type of the canonical name (RFC 3550 section 6.5.1)."""

_PADDING = 0x20
_SENDER_INFO = struct.Struct("!IQIII")  # SSRC, NTP, RTP timestamp, packets, octets
_BLOCK = struct.Struct("!IIIIII")
_U32 = 0xFFFFFFFF


def ntp_to_64(seconds: float) -> int:
    """Seconds since 1900 as a 64-bit NTP timestamp (RFC 5905 section 6)."""
    return round(seconds * (1 << 32)) & 0xFFFFFFFFFFFFFFFF


def ntp_from_64(timestamp: int) -> float:
    """A 64-bit NTP timestamp as seconds since 1900."""
    return timestamp / (1 << 32)


def ntp_middle(timestamp: int) -> int:
    """The middle 32 bits of a 64-bit NTP timestamp, as in report blocks (RFC 3550 6.4.1)."""
    return timestamp >> 16 & _U32


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What one receiver saw of one source.

    Attributes:
        ssrc: The source.
        fraction_lost: Since the last report, in 1/256.
        cumulative_lost: Since the beginning; negative with duplicates. Saturates at 24 bits.
        highest_sequence: Extended highest sequence number, modulo 2**32.
        jitter: In ticks.
        last_sr: Middle 32 bits of the NTP timestamp of the last sender report, or 0.
        delay_since_last_sr: In 1/65536 s, or 0.

    Spec:
        RFC 3550 section 6.4.1.
    """

    ssrc: int
    fraction_lost: int
    cumulative_lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay_since_last_sr: int

    def to_bytes(self) -> bytes:
        """The 24 bytes of the block."""
        lost = min(max(self.cumulative_lost, -0x800000), 0x7FFFFF) & 0xFFFFFF
        return _BLOCK.pack(
            self.ssrc,
            self.fraction_lost << 24 | lost,
            self.highest_sequence & _U32,
            self.jitter,
            self.last_sr,
            self.delay_since_last_sr,
        )


def _parse_blocks(count: int, body: bytes, offset: int) -> tuple[ReportBlock, ...]:
    blocks = []
    for index in range(count):
        ssrc, losses, *rest = read_fields(_BLOCK, body, offset + index * _BLOCK.size)
        lost = (losses & 0xFFFFFF ^ 0x800000) - 0x800000  # sign of a 24-bit number
        blocks.append(ReportBlock(ssrc, losses >> 24, lost, *rest))
    return tuple(blocks)


@dataclass(frozen=True, slots=True)
class SenderReport:
    """The clocks and counts of one source, and what it receives.

    Attributes:
        ssrc: The source.
        ntp: Wallclock as 64-bit NTP timestamp.
        ticks: RTP timestamp of the same instant; sent modulo 2**32, like the counters.
        packets: RTP packets sent.
        octets: Payload bytes sent.
        blocks: At most 31.

    Spec:
        RFC 3550 section 6.4.1. Profile-specific extensions are not read.
    """

    ssrc: int
    ntp: int
    ticks: int
    packets: int
    octets: int
    blocks: tuple[ReportBlock, ...] = ()

    def to_bytes(self) -> bytes:
        """Build the packet; ValueError for more than 31 blocks."""
        counters = (self.ticks & _U32, self.packets & _U32, self.octets & _U32)
        body = _SENDER_INFO.pack(self.ssrc, self.ntp, *counters)
        body += b"".join(block.to_bytes() for block in self.blocks)
        return build_part(SENDER_REPORT, len(self.blocks), body)

    @classmethod
    def parse(cls, count: int, body: bytes) -> SenderReport:
        """Read a body, or raise MalformedPacket."""
        ssrc, ntp, ticks, packets, octets = read_fields(_SENDER_INFO, body)
        blocks = _parse_blocks(count, body, _SENDER_INFO.size)
        return cls(ssrc, ntp, ticks, packets, octets, blocks)


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """What a participant that sends nothing receives.

    Spec:
        RFC 3550 section 6.4.2.
    """

    ssrc: int
    blocks: tuple[ReportBlock, ...] = ()

    def to_bytes(self) -> bytes:
        """Build the packet; ValueError for more than 31 blocks."""
        body = WORD.pack(self.ssrc) + b"".join(block.to_bytes() for block in self.blocks)
        return build_part(RECEIVER_REPORT, len(self.blocks), body)

    @classmethod
    def parse(cls, count: int, body: bytes) -> ReceiverReport:
        """Read a body, or raise MalformedPacket."""
        return cls(read_fields(WORD, body)[0], _parse_blocks(count, body, WORD.size))


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """Texts about sources, the canonical name among them.

    Attributes:
        chunks: ``(ssrc, ((item type, text), ...))``, at most 31; texts up to 255 bytes of UTF-8.

    Spec:
        RFC 3550 section 6.5.
    """

    chunks: tuple[tuple[int, tuple[tuple[int, str], ...]], ...]

    def to_bytes(self) -> bytes:
        """Build the packet; ValueError for a text that is too long or an item type of 0."""
        body = b""
        for ssrc, items in self.chunks:
            body += WORD.pack(ssrc)
            for kind, text in items:
                if kind == 0:
                    raise ValueError("item type 0 ends a chunk")
                encoded = text.encode()
                body += bytes((kind, len(encoded))) + encoded
            body += bytes(4 - len(body) % 4)  # at least one zero ends the items
        return build_part(SOURCE_DESCRIPTION, len(self.chunks), body)

    @classmethod
    def parse(cls, count: int, body: bytes) -> SourceDescription:
        """Read a body, or raise MalformedPacket."""
        chunks = []
        position = 0
        for _ in range(count):
            ssrc = read_fields(WORD, body, position)[0]
            items, position = _parse_items(body, position + 4)
            chunks.append((ssrc, items))
        return cls(tuple(chunks))


def _parse_items(body: bytes, position: int) -> tuple[tuple[tuple[int, str], ...], int]:
    """Items of one chunk, and where the next chunk starts."""
    items = []
    while position < len(body) and (kind := body[position]):
        stop = position + 2 + (body[position + 1] if position + 1 < len(body) else 0)
        if stop > len(body):
            raise MalformedPacket("source description ends inside an item")
        items.append((kind, body[position + 2 : stop].decode(errors="replace")))
        position = stop
    if position >= len(body):
        raise MalformedPacket("source description chunk without an end")
    return tuple(items), position + 4 - position % 4


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Sources that end.

    Spec:
        RFC 3550 section 6.6.
    """

    ssrcs: tuple[int, ...]
    reason: str = ""

    def to_bytes(self) -> bytes:
        """Build the packet; ValueError for more than 31 sources or 255 bytes of reason."""
        text = self.reason.encode()
        reason = bytes((len(text),)) + text if text else b""
        return build_part(GOODBYE, len(self.ssrcs), build_words(self.ssrcs) + reason)

    @classmethod
    def parse(cls, count: int, body: bytes) -> Goodbye:
        """Read a body, or raise MalformedPacket."""
        ssrcs = read_words(count, body, 0)
        rest = body[4 * count :]
        reason = rest[1 : 1 + rest[0]] if rest else b""
        return cls(ssrcs, reason.decode(errors="replace"))


RtcpPacket: TypeAlias = (
    SenderReport
    | ReceiverReport
    | SourceDescription
    | Goodbye
    | Nack
    | TransportFeedback
    | PictureLoss
    | FullIntraRequest
    | BitrateEstimate
    | UnknownRtcp
)

_BY_TYPE: dict[int, Callable[[int, bytes], RtcpPacket]] = {
    SENDER_REPORT: SenderReport.parse,
    RECEIVER_REPORT: ReceiverReport.parse,
    SOURCE_DESCRIPTION: SourceDescription.parse,
    GOODBYE: Goodbye.parse,
}
_BY_FORMAT: dict[tuple[int, int], Callable[[int, bytes], RtcpPacket]] = {
    (TRANSPORT_LAYER_FEEDBACK, FORMAT_NACK): Nack.parse,
    (TRANSPORT_LAYER_FEEDBACK, FORMAT_TRANSPORT_CC): TransportFeedback.parse,
    (PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_PLI): PictureLoss.parse,
    (PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_FIR): FullIntraRequest.parse,
    (PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_AFB): BitrateEstimate.parse,
}


def build_rtcp(packets: Iterable[RtcpPacket]) -> bytes:
    """Build a compound packet; its parts are as large as their values, no limit is applied."""
    return b"".join(packet.to_bytes() for packet in packets)


def parse_rtcp(packet: bytes) -> tuple[RtcpPacket, ...]:
    """Read all parts of a compound packet. A single part ("reduced size") is fine, too.

    Raises:
        MalformedPacket: Empty, not version 2, a length that runs past the end, an impossible
            padding count, or a known type whose fields are incomplete.

    Spec:
        RFC 3550 section 6.1; RFC 5506 for reduced size.
    """
    if not packet:
        raise MalformedPacket("empty RTCP packet")
    parts: list[RtcpPacket] = []
    position = 0
    while position < len(packet):
        first, packet_type, words = read_fields(HEADER, packet, position)
        stop = position + 4 * (words + 1)
        if first >> 6 != 2:
            raise MalformedPacket("not RTCP version 2")
        if stop > len(packet):
            raise MalformedPacket("RTCP length runs past the end")
        body = packet[position + HEADER.size : stop]
        if first & _PADDING:
            body = _strip_padding(body)
        count = first & 0x1F
        parse = _BY_TYPE.get(packet_type) or _BY_FORMAT.get((packet_type, count))
        parts.append(parse(count, body) if parse else UnknownRtcp(packet_type, count, body))
        position = stop
    return tuple(parts)


def _strip_padding(body: bytes) -> bytes:
    # Counts that are no multiple of 4 exist: libwebrtc pads transport feedback with 1 to 3 bytes.
    if not body or not 1 <= body[-1] <= len(body):
        raise MalformedPacket("RTCP padding count is zero or more than there is")
    return body[: -body[-1]]
