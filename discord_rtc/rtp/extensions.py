"""RTP header extensions: elements and their values. Sans-I/O. Spec: RFC 8285 and one per value.

A connection numbers its extensions anew, so that code speaks of URIs and a ``Mapping[str, int]``
of the connection gives the ids. Elements are ``(id, bytes)``; unknown ones are kept.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
TOFFSET = "urn:ietf:params:rtp-hdrext:toffset"
ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
VIDEO_ORIENTATION = "urn:3gpp:video-orientation"
TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
CONTENT_TYPE = "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type"
VIDEO_TIMING = "http://www.webrtc.org/experiments/rtp-hdrext/video-timing"
SPEAKER = "https://discord.com/#rtp-hdrext/2018-07-29/speaker"
MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"

NATIVE_EXTENSION_IDS: Mapping[str, int] = MappingProxyType(
    {
        AUDIO_LEVEL: 1,
        TOFFSET: 2,
        ABS_SEND_TIME: 3,
        VIDEO_ORIENTATION: 4,
        TRANSPORT_CC: 5,
        PLAYOUT_DELAY: 6,
        CONTENT_TYPE: 7,
        VIDEO_TIMING: 8,
        SPEAKER: 9,
        MID: 10,
        RID: 11,
        REPAIRED_RID: 12,
    }
)
"""Ids where nothing is negotiated: native clients over UDP (observed in several of them)."""

ONE_BYTE_PROFILE = 0xBEDE  # RFC 8285 section 4.2
TWO_BYTE_PROFILE = 0x1000  # RFC 8285 section 4.3; the low four bits are "appbits"


def parse_elements(profile: int, data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Read the elements of a header extension.

    Extensions never make a packet unusable: an unknown profile has no elements, and an element
    that runs past the end is left out together with what follows.

    Args:
        profile: The 16 bits in front of the extension's length.
        data: The extension without its preamble.

    Returns:
        ``(id, value)`` in wire order; padding left out.

    Spec:
        RFC 8285 section 4.2 (one-byte form) and 4.3 (two-byte form).
    """
    if profile == ONE_BYTE_PROFILE:
        return _parse_one_byte(data)
    if profile & 0xFFF0 == TWO_BYTE_PROFILE:
        return _parse_two_byte(data)
    return ()


def _parse_one_byte(data: bytes) -> tuple[tuple[int, bytes], ...]:
    elements = []
    position, end = 0, len(data)
    while position < end:
        head = data[position]
        position += 1
        if head == 0:  # padding
            continue
        ident = head >> 4
        stop = position + (head & 0x0F) + 1
        # 15 ends the elements, and so does 0 with a length (RFC 8285 4.1.2 and 4.2).
        if ident in (0, 15) or stop > end:
            break
        elements.append((ident, data[position:stop]))
        position = stop
    return tuple(elements)


def _parse_two_byte(data: bytes) -> tuple[tuple[int, bytes], ...]:
    elements = []
    position, end = 0, len(data)
    while position < end:
        ident = data[position]
        position += 1
        if ident == 0:  # padding, without a length byte
            continue
        if position == end:
            break
        stop = position + 1 + data[position]
        if stop > end:
            break
        elements.append((ident, data[position + 1 : stop]))
        position = stop
    return tuple(elements)


def build_elements(elements: Iterable[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Build a header extension, in the one-byte form when ids and lengths allow it.

    Args:
        elements: ``(id, value)``; ids 1 to 255, values of at most 255 bytes.

    Returns:
        Profile, and the elements padded with zeros to whole 32-bit words.

    Raises:
        ValueError: An id is 0 or above 255, or a value is too long.

    Spec:
        RFC 8285 sections 4.2 and 4.3.
    """
    items = tuple(elements)
    parts: list[bytes] = []
    if all(0 < ident < 15 and 0 < len(value) <= 16 for ident, value in items):
        profile = ONE_BYTE_PROFILE
        for ident, value in items:
            parts += (bytes((ident << 4 | len(value) - 1,)), value)
    else:
        profile = TWO_BYTE_PROFILE
        for ident, value in items:
            if ident == 0:
                raise ValueError("extension id 0 means padding")
            parts += (bytes((ident, len(value))), value)
    data = b"".join(parts)
    return profile, data + bytes(-len(data) % 4)


def remap_elements(
    elements: Iterable[tuple[int, bytes]], id_map: Mapping[int, int]
) -> tuple[tuple[int, bytes], ...]:
    """Renumber elements for another connection, leaving out ids that it does not know."""
    return tuple((id_map[ident], value) for ident, value in elements if ident in id_map)


def _check_length(value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedPacket(f"header extension value of {len(value)} bytes instead of {length}")


def audio_level(voice: bool, level_dbov: int) -> bytes:
    """Build an audio level.

    Args:
        voice: Whether the encoder believes that this is speech.
        level_dbov: 0 (loudest possible) down to -127 (silence; anything below counts as that).

    Raises:
        ValueError: Above 0.

    Spec:
        RFC 6464 section 3.
    """
    if level_dbov > 0:
        raise ValueError("0 dBov is the loudest level there is")
    return bytes((voice << 7 | min(-level_dbov, 127),))


def parse_audio_level(value: bytes) -> tuple[bool, int]:
    """Read ``(voice, level in dBov)``; the level is 0 to -127.

    Raises:
        MalformedPacket: Not one byte.
    """
    _check_length(value, 1)
    return value[0] > 0x7F, -(value[0] & 0x7F)


def playout_delay(min_ms: int, max_ms: int) -> bytes:
    """Build the limits of the receiver's delay, rounded down to 10 ms; at most 40950 ms.

    Raises:
        ValueError: A limit is out of range.

    Spec:
        webrtc.org, "playout-delay": two 12-bit fields in units of 10 ms.
    """
    low, high = min_ms // 10, max_ms // 10
    if not 0 <= low <= high <= 0xFFF:
        raise ValueError("playout delay limits are 0 to 40950 ms, the smaller one first")
    return (low << 12 | high).to_bytes(3, "big")


def parse_playout_delay(value: bytes) -> tuple[int, int]:
    """Read ``(min_ms, max_ms)``.

    Raises:
        MalformedPacket: Not three bytes.
    """
    _check_length(value, 3)
    number = int.from_bytes(value, "big")
    return (number >> 12) * 10, (number & 0xFFF) * 10


def abs_send_time(ntp_seconds: float) -> bytes:
    """Build the time of sending, of which 64 seconds fit.

    Spec:
        webrtc.org, "abs-send-time": unsigned 6.18 fixed point seconds.
    """
    return (int(ntp_seconds * (1 << 18)) & 0xFFFFFF).to_bytes(3, "big")


def parse_abs_send_time(value: bytes) -> float:
    """Read the time of sending in seconds, modulo 64.

    Raises:
        MalformedPacket: Not three bytes.
    """
    _check_length(value, 3)
    return int.from_bytes(value, "big") / (1 << 18)


def transport_sequence(number: int) -> bytes:
    """Build the sequence number that counts all packets of a transport, modulo 2**16.

    Spec:
        draft-holmer-rmcat-transport-wide-cc-extensions-01 section 2.
    """
    return (number & 0xFFFF).to_bytes(2, "big")


def parse_transport_sequence(value: bytes) -> int:
    """Read a transport-wide sequence number.

    Raises:
        MalformedPacket: Not two bytes.
    """
    _check_length(value, 2)
    return int.from_bytes(value, "big")


def content_type(value: int) -> bytes:
    """Build the content type of a video stream: 0 camera, 1 screen.

    Spec:
        webrtc.org, "video-content-type".
    """
    return bytes((value,))


def parse_content_type(value: bytes) -> int:
    """Read a content type: 0 camera, 1 screen.

    Raises:
        MalformedPacket: Not one byte.
    """
    _check_length(value, 1)
    return value[0]


def orientation(rotation: int, *, flipped: bool = False, back_camera: bool = False) -> bytes:
    """Build how a picture has to be turned before it is shown.

    Args:
        rotation: 0, 90, 180 or 270 degrees clockwise.
        flipped: Mirrored horizontally.
        back_camera: Taken with the camera at the back of the device.

    Raises:
        ValueError: Another angle.

    Spec:
        3GPP TS 26.114 section 7.4.5: ``0 0 0 0 C F R1 R0``.
    """
    turns, rest = divmod(rotation, 90)
    if rest or not 0 <= turns < 4:
        raise ValueError("pictures are turned by 0, 90, 180 or 270 degrees")
    return bytes((back_camera << 3 | flipped << 2 | turns,))


def parse_orientation(value: bytes) -> tuple[int, bool, bool]:
    """Read ``(rotation in degrees, flipped, back_camera)``.

    Raises:
        MalformedPacket: Not one byte.
    """
    _check_length(value, 1)
    return (value[0] & 3) * 90, bool(value[0] & 4), bool(value[0] & 8)


def speaker_bits(flags: int) -> bytes:
    """Build the speaker element from speaking flags (1 voice, 2 sound share, 4 priority).

    Spec:
        Observed: priority 0x01, voice 0x02, sound share 0x04 on the wire.
    """
    return bytes(((flags & 3) << 1 | (flags & 4) >> 2,))


def parse_speaker_bits(value: bytes) -> int:
    """Read speaking flags (1 voice, 2 sound share, 4 priority); none at all means voice.

    Raises:
        MalformedPacket: Not one byte.
    """
    _check_length(value, 1)
    flags = (value[0] & 6) >> 1 | (value[0] & 1) << 2
    return flags | 1 if flags & 4 else flags or 1
