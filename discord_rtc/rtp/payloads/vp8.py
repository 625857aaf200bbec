"""VP8 payload format. Sans-I/O. Spec: RFC 7741."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedFrame

if TYPE_CHECKING:
    from collections.abc import Sequence

# First byte of the payload descriptor, RFC 7741 section 4.2.
_EXTENDED = 0x80
_START = 0x10
_START_AND_PARTITION = 0x17  # S and the three bits of the partition index
# Second byte, present with _EXTENDED.
_HAS_PICTURE_ID = 0x80
_HAS_TL0PICIDX = 0x40
_HAS_TID_OR_KEYIDX = 0x30  # T and K share one byte

_LONG_PICTURE_ID = 0x8000  # M bit: 15 bits follow instead of 7
_INTER_FRAME = 0x01  # inverse key frame flag, first bit of the VP8 frame header (RFC 6386 9.1)


class Vp8Packetizer:
    """Cuts frames anywhere, with a 15-bit picture id on each payload.

    Args:
        picture_id: Id of the first frame.
    """

    def __init__(self, picture_id: int = 0) -> None:
        self._picture_id = picture_id

    def packetize(self, frame: bytes, limit: int) -> list[bytes]:
        """Cut one frame.

        Args:
            frame: One VP8 frame.
            limit: Largest payload in bytes, at least 5.

        Raises:
            MalformedFrame: Empty.

        Spec:
            RFC 7741 section 4.2; only the bits X, S and I are used, as native clients do.
        """
        if not frame:
            raise MalformedFrame("empty VP8 frame")
        number = (_LONG_PICTURE_ID | self._picture_id).to_bytes(2, "big")
        self._picture_id = (self._picture_id + 1) % _LONG_PICTURE_ID
        first = bytes((_EXTENDED | _START, _HAS_PICTURE_ID)) + number
        other = bytes((_EXTENDED, _HAS_PICTURE_ID)) + number
        size = limit - len(first)
        payloads = [other + frame[at : at + size] for at in range(size, len(frame), size)]
        return [first + frame[:size], *payloads]


class Vp8Depacketizer:
    """Joins frames of any sender; picture ids and layers are read over."""

    def starts_frame(self, payload: bytes) -> bool:
        """True for the start of the first partition; exact."""
        return bool(payload) and payload[0] & _START_AND_PARTITION == _START

    def depacketize(self, payloads: Sequence[bytes]) -> bytes:
        """Join the payloads of one frame.

        Raises:
            MalformedFrame: The first payload does not start a frame or a later one does, a
                descriptor is incomplete, or there is nothing behind the descriptors.
        """
        parts: list[bytes] = []
        for payload in payloads:
            if not payload:
                continue
            if self.starts_frame(payload) is bool(parts):
                raise MalformedFrame("VP8 frame without a start or with two")
            parts.append(payload[descriptor_length(payload) :])
        frame = b"".join(parts)
        if not frame:
            raise MalformedFrame("empty VP8 frame")
        return frame

    def is_keyframe(self, frame: bytes) -> bool:
        """By the first bit of the frame header."""
        return bool(frame) and not frame[0] & _INTER_FRAME


def descriptor_length(payload: bytes) -> int:
    """Bytes of the payload descriptor, in any of its forms.

    Raises:
        MalformedFrame: The payload ends inside the descriptor.

    Spec:
        RFC 7741 section 4.2.
    """
    # Short payloads read as zeros here and are refused by their length at the end.
    head = payload[:3] + bytes(3)
    length = 1
    if head[0] & _EXTENDED:
        length = 2
        if head[1] & _HAS_PICTURE_ID:
            length += 2 if head[2] & 0x80 else 1
        if head[1] & _HAS_TL0PICIDX:
            length += 1
        if head[1] & _HAS_TID_OR_KEYIDX:
            length += 1
    if length > len(payload):
        raise MalformedFrame("payload ends inside the VP8 descriptor")
    return length
