"""One RTCP packet of a compound: header, fields, unknown types. Sans-I/O. Spec: RFC 3550 6.4."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER = struct.Struct("!BBH")  # V P count, packet type, length in 32-bit words minus one
WORD = struct.Struct("!I")
_MAX_COUNT = 31  # five bits


def build_part(packet_type: int, count: int, body: bytes) -> bytes:
    """Put a header in front of a body, which is padded with zeros to whole words.

    Raises:
        ValueError: The count does not fit its five bits.
    """
    if count > _MAX_COUNT:
        raise ValueError(f"{count} entries do not fit one RTCP packet")
    body += bytes(-len(body) % 4)
    return HEADER.pack(0x80 | count, packet_type, len(body) // 4) + body


def read_fields(layout: struct.Struct, body: bytes, offset: int = 0) -> tuple[int, ...]:
    """Unpack a layout at an offset.

    Raises:
        MalformedPacket: The body ends before it.
    """
    if len(body) - offset < layout.size:
        raise MalformedPacket("RTCP packet ends before its fields")
    return layout.unpack_from(body, offset)


def build_words(words: Iterable[int]) -> bytes:
    """Build a list of 32-bit numbers, mostly SSRCs."""
    return b"".join(map(WORD.pack, words))


def read_words(count: int, body: bytes, offset: int) -> tuple[int, ...]:
    """Read a list of 32-bit numbers.

    Raises:
        MalformedPacket: The body ends before it.
    """
    return tuple(read_fields(WORD, body, offset + 4 * index)[0] for index in range(count))


@dataclass(frozen=True, slots=True)
class UnknownRtcp:
    """A packet of a type, or a feedback of a format, that is not read here.

    Attributes:
        packet_type: 0 to 255.
        count: The low five bits of the first byte.
        body: What follows the four bytes of header, without padding.
    """

    packet_type: int
    count: int
    body: bytes

    def to_bytes(self) -> bytes:
        """Build the packet again."""
        return build_part(self.packet_type, self.count, self.body)
