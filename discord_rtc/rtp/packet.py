"""RTP packets: parse, build and measure headers. Sans-I/O. Spec: RFC 3550 5.1, RFC 5761."""

from __future__ import annotations

import struct
from typing import NamedTuple

from discord_rtc.errors import MalformedPacket

FIXED_HEADER_SIZE = 12
"""Header without CSRCs and extension (RFC 3550 section 5.1)."""

_VERSION = 2  # RFC 3550 section 5.1
_PADDING = 0x20
_EXTENSION = 0x10
_FIXED = struct.Struct("!BBHII")  # V P X CC, M PT, sequence, timestamp, SSRC
_PREAMBLE = struct.Struct("!HH")  # profile, length in 32-bit words (RFC 3550 section 5.3.1)


def is_rtcp(datagram: bytes) -> bool:
    """Tell RTCP from RTP on one socket, by the second byte alone (it is never protected).

    Spec:
        RFC 5761 section 4: RTCP packet types 192 to 223; RTP payload types 64 to 95 are not used.
    """
    return len(datagram) > 1 and 192 <= datagram[1] <= 223


def fixed_header_length(data: bytes) -> int:
    """Bytes up to the end of the CSRC list.

    Raises:
        MalformedPacket: Not version 2, or shorter than that.
    """
    length = len(data)
    if length < FIXED_HEADER_SIZE:
        raise MalformedPacket("shorter than an RTP header")
    if data[0] >> 6 != _VERSION:
        raise MalformedPacket("not RTP version 2")
    end = FIXED_HEADER_SIZE + 4 * (data[0] & 0x0F)
    if length < end:
        raise MalformedPacket("ends inside the CSRC list")
    return end


def clear_prefix_length(data: bytes) -> int:
    """Bytes up to the end of the extension preamble: what "rtpsize" protection leaves clear.

    Raises:
        MalformedPacket: Not version 2, or shorter than that.
    """
    end = fixed_header_length(data)
    if data[0] & _EXTENSION:
        end += _PREAMBLE.size
        if len(data) < end:
            raise MalformedPacket("ends inside the extension preamble")
    return end


def header_length(data: bytes) -> int:
    """Bytes up to the end of the header extension, where the payload begins.

    Raises:
        MalformedPacket: Not version 2, or shorter than that.
    """
    end = clear_prefix_length(data)
    if data[0] & _EXTENSION:
        end += 4 * int.from_bytes(data[end - 2 : end], "big")
        if len(data) < end:
            raise MalformedPacket("ends inside the header extension")
    return end


class RtpPacket(NamedTuple):
    """One RTP packet. Parsing and building it again gives the same bytes.

    Attributes:
        payload_type: 0 to 127.
        sequence: 0 to 65535.
        ticks: Timestamp as on the wire, 32 bits.
        ssrc: Synchronization source, 32 bits.
        payload: Without padding; empty for a packet that is all padding.
        marker: For video: last packet of the frame.
        csrcs: At most 15 contributing sources.
        extension_profile: The 16 bits that tell the form of the header extension, or None when
            there is no extension.
        extension_data: Whole 32-bit words of elements, preamble excluded.
        padding: All padding bytes, the final count byte included.

    Spec:
        RFC 3550 section 5.1.
    """

    payload_type: int
    sequence: int
    ticks: int
    ssrc: int
    payload: bytes
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    extension_profile: int | None = None
    extension_data: bytes = b""
    padding: bytes = b""

    def to_bytes(self) -> bytes:
        """Build the packet.

        Raises:
            ValueError: The extension is not a whole number of 32-bit words.
            struct.error: A number does not fit its field.
        """
        first = _VERSION << 6 | len(self.csrcs)
        second = self.payload_type | 0x80 if self.marker else self.payload_type
        middle = b""
        if self.csrcs:
            middle = struct.pack(f"!{len(self.csrcs)}I", *self.csrcs)
        if self.extension_profile is not None:
            words, rest = divmod(len(self.extension_data), 4)
            if rest:
                raise ValueError("a header extension consists of whole 32-bit words")
            first |= _EXTENSION
            middle += _PREAMBLE.pack(self.extension_profile, words) + self.extension_data
        if self.padding:
            first |= _PADDING
        header = _FIXED.pack(first, second, self.sequence, self.ticks, self.ssrc)
        return header + middle + self.payload + self.padding


def parse_rtp(packet: bytes) -> RtpPacket:
    """Read one plain RTP packet.

    Raises:
        MalformedPacket: Not version 2, an incomplete header, or an impossible padding count.

    Spec:
        RFC 3550 section 5.1.
    """
    start = header_length(packet)
    first, second, sequence, ticks, ssrc = _FIXED.unpack_from(packet)
    csrcs: tuple[int, ...] = ()
    profile: int | None = None
    extension = padding = b""
    end = len(packet)
    # Most packets have at most an extension: one test skips the rest.
    if first & 0x3F:
        count = first & 0x0F
        if count:
            csrcs = struct.unpack_from(f"!{count}I", packet, FIXED_HEADER_SIZE)
        if first & _EXTENSION:
            preamble = FIXED_HEADER_SIZE + 4 * count
            profile = int.from_bytes(packet[preamble : preamble + 2], "big")
            extension = packet[preamble + _PREAMBLE.size : start]
        if first & _PADDING:
            end -= packet[-1]
            if not start <= end < len(packet):
                raise MalformedPacket("padding count is zero or more than there is")
            padding = packet[end:]
    return RtpPacket(
        second & 0x7F,
        sequence,
        ticks,
        ssrc,
        packet[start:end],
        second > 0x7F,
        csrcs,
        profile,
        extension,
        padding,
    )
