"""What each session negotiated, and how packets are renumbered from one to another. Sans-I/O.

Spec: userdoccers, "Voice Connections" (codecs; "SSRCs are those of Ready"), RFC 8285.

Every client chooses its own payload types and may number header extensions as it likes, so a
forwarded packet takes the receiver's numbers. SSRC, sequence number, ticks, CSRCs, payload and
padding stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.frames import Codec
from discord_rtc.rtp.extensions import (
    ABS_SEND_TIME,
    AUDIO_LEVEL,
    CONTENT_TYPE,
    NATIVE_EXTENSION_IDS,
    ONE_BYTE_PROFILE,
    PLAYOUT_DELAY,
    SPEAKER,
    TOFFSET,
    TWO_BYTE_PROFILE,
    VIDEO_ORIENTATION,
    VIDEO_TIMING,
    build_elements,
    parse_elements,
    remap_elements,
)
from discord_rtc.rtp.packet import parse_rtp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORWARDED_EXTENSIONS = (
    AUDIO_LEVEL,
    ABS_SEND_TIME,
    TOFFSET,
    VIDEO_ORIENTATION,
    PLAYOUT_DELAY,
    CONTENT_TYPE,
    VIDEO_TIMING,
    SPEAKER,
)
"""What means the same to every receiver. MID, RIDs and transport-wide numbers belong to one
connection, so they do not survive a change of ids."""


@dataclass(frozen=True, slots=True)
class LegSsrcs:
    """The SSRCs that Ready gave to a session.

    Attributes:
        audio: Also identifies the session's leg.
        video: ``(media SSRC, RTX SSRC)`` of each layer, the best one first.
    """

    audio: int
    video: tuple[tuple[int, int], ...] = ()

    def __iter__(self) -> Iterator[int]:
        """All of them."""
        yield self.audio
        for pair in self.video:
            yield from pair


@dataclass(frozen=True, slots=True)
class LegMedia:
    """What a session negotiated.

    Attributes:
        payload_types: Codec by its wire name to its payload type and that of its
            retransmissions.
        extension_ids: Header extension URI to id; the default holds for native clients.
    """

    payload_types: Mapping[str, tuple[int, int | None]]
    extension_ids: Mapping[str, int] = field(default_factory=lambda: NATIVE_EXTENSION_IDS)

    def meaning(self, payload_type: int) -> tuple[str, bool] | None:
        """Codec name of a payload type, and whether it is retransmission; None if unknown."""
        for codec, (media, rtx) in self.payload_types.items():
            if payload_type in (media, rtx):
                return codec, payload_type == rtx
        return None

    def payload_type(self, codec: str, *, rtx: bool) -> int | None:
        """Payload type of a codec or of its retransmissions; None if there is none."""
        return self.payload_types.get(codec, (None, None))[rtx]


DEFAULT_LEG_MEDIA = LegMedia(
    MappingProxyType(
        {
            Codec.OPUS.value: (120, None),
            Codec.H264.value: (101, 102),
            Codec.H265.value: (103, 104),
            Codec.VP8.value: (105, 106),
            Codec.VP9.value: (107, 108),
            Codec.AV1.value: (109, 110),
        }
    )
)
"""For clients that announce no codecs, as most audio bots: the numbers of native clients."""


@dataclass(frozen=True, slots=True)
class Renumbering:
    """How one sender's packets become those of a receiver.

    Attributes:
        payload_type: The receiver's.
        extension_ids: ``(sender's id, receiver's id)`` of what is forwarded; None when both
            number alike, and extensions are not touched.
    """

    payload_type: int
    extension_ids: tuple[tuple[int, int], ...] | None

    @classmethod
    def between(cls, sender: LegMedia, receiver: LegMedia, payload_type: int) -> Renumbering:
        """The renumbering from one to the other.

        Args:
            sender: Negotiated by the sender.
            receiver: Negotiated by the receiver.
            payload_type: The receiver's number for the codec.
        """
        theirs, ours = sender.extension_ids, receiver.extension_ids
        if theirs == ours:
            return cls(payload_type, None)
        known = (uri for uri in FORWARDED_EXTENSIONS if uri in theirs and uri in ours)
        return cls(payload_type, tuple((theirs[uri], ours[uri]) for uri in known))

    def apply(self, packet: bytes) -> bytes:
        """Renumber one plain RTP packet.

        Raises:
            MalformedPacket: Its header extension or padding does not fit in it.
        """
        if self.extension_ids is None or not packet[0] & 0x10:  # X, RFC 3550 section 5.1
            return packet[:1] + bytes((packet[1] & 0x80 | self.payload_type,)) + packet[2:]
        parsed = parse_rtp(packet)._replace(payload_type=self.payload_type)
        profile = parsed.extension_profile
        if profile == ONE_BYTE_PROFILE or (profile or 0) & 0xFFF0 == TWO_BYTE_PROFILE:
            elements = parse_elements(profile or 0, parsed.extension_data)
            elements = remap_elements(elements, dict(self.extension_ids))
            profile, data = build_elements(elements) if elements else (None, b"")
            parsed = parsed._replace(extension_profile=profile, extension_data=data)
        return parsed.to_bytes()
