"""Opus payload format. Sans-I/O. Spec: RFC 7587 section 4.2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedFrame

if TYPE_CHECKING:
    from collections.abc import Sequence


class OpusPacketizer:
    """One Opus packet is one RTP payload."""

    def packetize(self, frame: bytes, limit: int) -> list[bytes]:
        """Check the size; an Opus packet is never split.

        Raises:
            MalformedFrame: Empty, or over the limit.
        """
        if not 0 < len(frame) <= limit:
            raise MalformedFrame(f"an Opus packet of {len(frame)} bytes does not fit one payload")
        return [frame]


class OpusDepacketizer:
    """One RTP payload is one Opus packet."""

    def starts_frame(self, payload: bytes) -> bool:
        """Every payload with something in it is a frame of its own."""
        return bool(payload)

    def depacketize(self, payloads: Sequence[bytes]) -> bytes:
        """Give back the one payload.

        Raises:
            MalformedFrame: None, or more than one.
        """
        frames = [payload for payload in payloads if payload]
        if len(frames) != 1:
            raise MalformedFrame(f"{len(frames)} payloads for one Opus packet")
        return frames[0]

    def is_keyframe(self, frame: bytes) -> bool:
        """True: a decoder can start anywhere."""
        return bool(frame)
