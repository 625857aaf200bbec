"""Feedback in RTCP: losses, keyframes, bandwidth. Sans-I/O. Spec: RFC 4585, RFC 5104, drafts."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from discord_rtc.rtp.rtcp_part import (
    WORD,
    UnknownRtcp,
    build_part,
    build_words,
    read_fields,
    read_words,
)
from discord_rtc.rtp.twcc import build_statuses, parse_statuses

TRANSPORT_LAYER_FEEDBACK, PAYLOAD_SPECIFIC_FEEDBACK = 205, 206  # RFC 4585 section 6.1

# "Feedback message type", in place of the count.
FORMAT_NACK, FORMAT_TRANSPORT_CC = 1, 15  # of 205: RFC 4585 6.2.1, draft-holmer-rmcat
FORMAT_PLI, FORMAT_FIR, FORMAT_AFB = 1, 4, 15  # of 206: RFC 4585 6.3, RFC 5104 4.3.1

_SSRCS = struct.Struct("!II")  # sender, media
_NACK_PAIR = struct.Struct("!HH")  # PID, BLP
_FIR_ENTRY = struct.Struct("!IBxxx")
_REMB = struct.Struct("!4sI")  # identifier; count (8), exponent (6), mantissa (18)
_TWCC = struct.Struct("!HHI")  # base sequence, count; reference time (24), feedback count (8)


@dataclass(frozen=True, slots=True)
class Nack:
    """Packets that a receiver misses.

    Attributes:
        sender_ssrc: Who reports.
        media_ssrc: Whose packets are missing.
        lost: 16-bit sequence numbers; ascending (with wrap) they take the least room.

    Spec:
        RFC 4585 section 6.2.1.
    """

    sender_ssrc: int
    media_ssrc: int
    lost: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Build the packet."""
        pairs: list[list[int]] = []
        for number in self.lost:
            distance = (number - pairs[-1][0]) & 0xFFFF if pairs else 0
            if 1 <= distance <= 16:
                pairs[-1][1] |= 1 << (distance - 1)
            else:
                pairs.append([number, 0])
        body = _SSRCS.pack(self.sender_ssrc, self.media_ssrc)
        body += b"".join(_NACK_PAIR.pack(*pair) for pair in pairs)
        return build_part(TRANSPORT_LAYER_FEEDBACK, FORMAT_NACK, body)

    @classmethod
    def parse(cls, _count: int, body: bytes) -> Nack:
        """Read a body, or raise MalformedPacket."""
        sender, media = read_fields(_SSRCS, body)
        lost = []
        for offset in range(_SSRCS.size, len(body), _NACK_PAIR.size):
            first, mask = read_fields(_NACK_PAIR, body, offset)
            lost.append(first)
            lost += ((first + 1 + bit) & 0xFFFF for bit in range(16) if mask >> bit & 1)
        return cls(sender, media, tuple(lost))


@dataclass(frozen=True, slots=True)
class TransportFeedback:
    """Which packets of a transport arrived, and when.

    Attributes:
        sender_ssrc: Who reports.
        media_ssrc: Any source of the transport.
        base_sequence: Transport-wide sequence number of the first packet told about.
        reference_time: Signed 24 bits, in 64 ms.
        feedback_count: 8 bits, counts these packets.
        deltas: One per packet: distance in 250 us to the packet received before (the first one
            to the reference time), or None for a packet that did not arrive. At most 65535.

    Spec:
        draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1.
    """

    sender_ssrc: int
    media_ssrc: int
    base_sequence: int
    reference_time: int
    feedback_count: int
    deltas: tuple[int | None, ...]

    def to_bytes(self) -> bytes:
        """Build the packet; struct.error for a delta that does not fit 16 bits."""
        body = _SSRCS.pack(self.sender_ssrc, self.media_ssrc)
        times = (self.reference_time & 0xFFFFFF) << 8 | self.feedback_count & 0xFF
        body += _TWCC.pack(self.base_sequence, len(self.deltas), times)
        body += build_statuses(self.deltas)
        return build_part(TRANSPORT_LAYER_FEEDBACK, FORMAT_TRANSPORT_CC, body)

    @classmethod
    def parse(cls, _count: int, body: bytes) -> TransportFeedback:
        """Read a body, or raise MalformedPacket."""
        sender, media = read_fields(_SSRCS, body)
        base, packets, times = read_fields(_TWCC, body, _SSRCS.size)
        deltas = parse_statuses(packets, body[_SSRCS.size + _TWCC.size :])
        reference = (times >> 8 ^ 0x800000) - 0x800000  # sign of a 24-bit number
        return cls(sender, media, base, reference, times & 0xFF, deltas)


@dataclass(frozen=True, slots=True)
class PictureLoss:
    """A receiver cannot decode on and wants a keyframe (PLI).

    Spec:
        RFC 4585 section 6.3.1.
    """

    sender_ssrc: int
    media_ssrc: int

    def to_bytes(self) -> bytes:
        """Build the packet."""
        body = _SSRCS.pack(self.sender_ssrc, self.media_ssrc)
        return build_part(PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_PLI, body)

    @classmethod
    def parse(cls, _count: int, body: bytes) -> PictureLoss:
        """Read a body, or raise MalformedPacket."""
        sender, media = read_fields(_SSRCS, body)
        return cls(sender, media)


@dataclass(frozen=True, slots=True)
class FullIntraRequest:
    """A receiver commands keyframes, by a counter per source (FIR).

    Attributes:
        sender_ssrc: Who asks.
        entries: ``(source SSRC, request number)``; a repeated number is the same request.

    Spec:
        RFC 5104 section 4.3.1; the media SSRC of the packet is 0.
    """

    sender_ssrc: int
    entries: tuple[tuple[int, int], ...]

    def to_bytes(self) -> bytes:
        """Build the packet."""
        body = _SSRCS.pack(self.sender_ssrc, 0)
        body += b"".join(_FIR_ENTRY.pack(*entry) for entry in self.entries)
        return build_part(PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_FIR, body)

    @classmethod
    def parse(cls, _count: int, body: bytes) -> FullIntraRequest:
        """Read a body, or raise MalformedPacket."""
        sender = read_fields(_SSRCS, body)[0]
        entries = []
        for offset in range(_SSRCS.size, len(body), _FIR_ENTRY.size):
            ssrc, number = read_fields(_FIR_ENTRY, body, offset)
            entries.append((ssrc, number))
        return cls(sender, tuple(entries))


@dataclass(frozen=True, slots=True)
class BitrateEstimate:
    """The bitrate that a receiver can take (REMB); 18 significant bits are sent, rounded down.

    Spec:
        draft-alvestrand-rmcat-remb-03 section 2.2; the media SSRC of the packet is 0.
    """

    sender_ssrc: int
    bitrate_bps: int
    ssrcs: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Build the packet."""
        exponent = max(self.bitrate_bps.bit_length() - 18, 0)
        number = len(self.ssrcs) << 24 | exponent << 18 | self.bitrate_bps >> exponent
        body = _SSRCS.pack(self.sender_ssrc, 0) + _REMB.pack(b"REMB", number)
        return build_part(PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_AFB, body + build_words(self.ssrcs))

    @classmethod
    def parse(cls, count: int, body: bytes) -> BitrateEstimate | UnknownRtcp:
        """Read a body, or raise MalformedPacket. Other application feedback is kept raw."""
        if body[_SSRCS.size : _SSRCS.size + 4] != b"REMB":
            return UnknownRtcp(PAYLOAD_SPECIFIC_FEEDBACK, count, body)
        sender = read_fields(_SSRCS, body)[0]
        number = read_fields(WORD, body, _SSRCS.size + 4)[0]
        bitrate = (number & 0x3FFFF) << (number >> 18 & 0x3F)
        return cls(sender, bitrate, read_words(number >> 24, body, _SSRCS.size + _REMB.size))
