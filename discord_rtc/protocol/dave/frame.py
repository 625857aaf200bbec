"""The trailer by which an end-to-end encrypted frame is told from a plain one. Sans-I/O.

::

    interleaved frame | tag 8 | ULEB128 nonce | (ULEB128 offset, ULEB128 size)* | u8 size | FA FA

The frame in front has its clear ranges and its ciphertext in place. Nothing here holds a key:
the libraries behind `discord_rtc.protocol.dave.backend` do the decrypting.

Spec: DAVE protocol whitepaper 1.1.4, "Protocol Supplemental Data".
"""

from __future__ import annotations

from dataclasses import dataclass

MARKER = b"\xfa\xfa"
"""The last two bytes of every encrypted frame."""

_TAG = 8  # AES-128-GCM's tag, cut to 64 bits
_FIXED = _TAG + 1 + len(MARKER)  # what is neither nonce nor range
_LARGEST_NONCE = 0xFFFFFFFF
_LARGEST_ULEB = 10  # bytes that hold 64 bits, as libdave reads them


@dataclass(frozen=True, slots=True)
class Trailer:
    """What an encrypted frame carries behind its media.

    Attributes:
        tag: The 8 bytes that authenticate the frame.
        nonce: The truncated nonce, 32 bits; its upper 8 are the generation of the key.
        ranges: The parts that are not encrypted, as (offset, size) in bytes, ascending.
        size: Bytes of the whole trailer; the media is what comes in front.
    """

    tag: bytes
    nonce: int
    ranges: tuple[tuple[int, int], ...]
    size: int


def is_encrypted(frame: bytes) -> bool:
    """Whether a frame carries a complete, consistent trailer.

    Plain frames are told by their last two bytes. One in 65536 of them ends in the marker by
    chance; hardly any of these holds a whole trailer as well.
    """
    return frame.endswith(MARKER) and parse_trailer(frame) is not None


def parse_trailer(frame: bytes) -> Trailer | None:
    """Read the trailer of an encrypted frame.

    Args:
        frame: As it came out of the depacketizer, RTP padding off.

    Returns:
        None when there is none: no marker, a size that does not fit, a nonce over 32 bits,
        numbers that do not fill the trailer exactly, ranges that overlap, go backwards or
        leave the media.

    Spec:
        Whitepaper, "Protocol Frame Check".
    """
    if not frame.endswith(MARKER) or len(frame) <= _FIXED:
        return None
    size = frame[-3]
    body = len(frame) - size
    if size <= _FIXED or body < 0:
        return None
    numbers = _parse_numbers(frame[body + _TAG : -3])
    if numbers is None:
        return None
    nonce, *borders = numbers
    if nonce > _LARGEST_NONCE or len(borders) % 2:
        return None
    ranges = tuple(zip(borders[::2], borders[1::2], strict=True))
    if not _in_order(ranges, body):
        return None
    return Trailer(frame[body : body + _TAG], nonce, ranges, size)


def _in_order(ranges: tuple[tuple[int, int], ...], length: int) -> bool:
    position = 0
    for offset, size in ranges:
        if offset < position:
            return False
        position = offset + size
    return position <= length


def _parse_numbers(data: bytes) -> list[int] | None:
    """ULEB128 numbers back to back; None when the last one does not end or one is too long."""
    numbers = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift >= 7 * _LARGEST_ULEB:
                return None
        else:
            numbers.append(value)
            value = shift = 0
    return None if shift else numbers
