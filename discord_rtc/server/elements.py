"""Header extensions of packets that are forwarded, read and renumbered in place of being parsed.
Sans-I/O. Spec: RFC 8285 section 4.2.

A server looks at the extension of every packet, so this is the hot path for the one-byte form,
which everybody sends; `discord_rtc.rtp.extensions` knows all forms and says what they mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.extensions import (
    ONE_BYTE_PROFILE,
    TWO_BYTE_PROFILE,
    build_elements,
    parse_elements,
    remap_elements,
)
from discord_rtc.rtp.packet import parse_rtp

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXTENSION = 0x10  # the X bit, RFC 3550 section 5.1
_ONE_BYTE = ONE_BYTE_PROFILE.to_bytes(2, "big")
_LARGEST_ID = 14  # RFC 8285 section 4.2: 15 ends the elements


def find_element(packet: bytes, ident: int) -> bytes | None:
    """The value of an element of one RTP packet; None when there is none. Never raises."""
    if not packet or not packet[0] & _EXTENSION:
        return None
    start = 12 + 4 * (packet[0] & 0x0F)
    position = start + 4
    end = position + 4 * int.from_bytes(packet[start + 2 : position], "big")
    if end > len(packet):
        return None
    if packet[start : start + 2] != _ONE_BYTE:
        profile = int.from_bytes(packet[start : start + 2], "big")
        elements = parse_elements(profile, packet[position:end])
        return next((value for found, value in elements if found == ident), None)
    while position < end:
        head = packet[position]
        if head == 0:  # padding
            position += 1
            continue
        stop = position + (head & 0x0F) + 2
        found = head >> 4
        if found in (0, 15) or stop > end:
            return None
        if found == ident:
            return packet[position + 1 : stop]
        position = stop
    return None


class ElementMap:
    """Renumbers the elements of packets from one connection to another.

    Args:
        ids: The sender's ids to the receiver's; all others are left out.
    """

    __slots__ = ("_heads", "_ids")

    def __init__(self, ids: Mapping[int, int]) -> None:
        self._ids = dict(ids)
        self._heads: bytes | None = None  # by first byte of an element; 0 for what is left out
        if all(ident <= _LARGEST_ID for ident in self._ids.values()):
            self._heads = bytes(
                self._ids.get(head >> 4, 0) << 4 | head & 0x0F for head in range(256)
            )

    def apply(self, packet: bytes, payload_type: int) -> bytes:
        """Renumber one plain RTP packet with a header extension.

        Raises:
            MalformedPacket: Its header extension or padding does not fit in it.
        """
        start = 12 + 4 * (packet[0] & 0x0F)
        heads = self._heads
        if heads is None or packet[start : start + 2] != _ONE_BYTE:
            return self._rebuild(packet, payload_type)
        position = start + 4
        end = position + 4 * int.from_bytes(packet[start + 2 : position], "big")
        if end > len(packet):
            raise MalformedPacket("ends inside the header extension")
        kept = bytearray()
        while position < end:
            head = packet[position]
            if head == 0:  # padding
                position += 1
                continue
            stop = position + (head & 0x0F) + 2
            if head < 0x10 or head >= 0xF0 or stop > end:  # as in `parse_elements`
                break
            head = heads[head]
            if head >= 0x10:
                kept.append(head)
                kept += packet[position + 1 : stop]
            position = stop
        first, second = packet[0], packet[1] & 0x80 | payload_type
        if not kept:
            return b"%c%c%b%b" % (first & ~_EXTENSION, second, packet[2:start], packet[end:])
        kept += bytes(-len(kept) % 4)
        words = (len(kept) >> 2).to_bytes(2, "big")
        return b"%c%c%b%b%b%b" % (
            first,
            second,
            packet[2 : start + 2],
            words,
            bytes(kept),
            packet[end:],
        )

    def _rebuild(self, packet: bytes, payload_type: int) -> bytes:
        """For the two-byte form, before or after."""
        parsed = parse_rtp(packet)._replace(payload_type=payload_type)
        profile = parsed.extension_profile or 0
        if profile == ONE_BYTE_PROFILE or profile & 0xFFF0 == TWO_BYTE_PROFILE:
            elements = parse_elements(profile, parsed.extension_data)
            elements = remap_elements(elements, self._ids)
            new_profile, data = build_elements(elements) if elements else (None, b"")
            parsed = parsed._replace(extension_profile=new_profile, extension_data=data)
        return parsed.to_bytes()
