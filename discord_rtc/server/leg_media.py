"""What each session negotiated, and how packets are renumbered from one to another. Sans-I/O.

Spec: userdoccers, "Voice Connections" (codecs; "SSRCs are those of Ready"), RFC 8285, RFC 8843.

Every client chooses its own payload types and may number header extensions as it likes, so a
forwarded packet takes the receiver's numbers. SSRC, sequence number, ticks, CSRCs, payload and
padding stay.

Some elements belong to one connection. In a bundled transport, which all browsers have, the MID
says which section of the receiver's description a packet is for, before its SSRC is looked at;
RIDs do so within a section; and transport-wide numbers count the packets of one way. They never
go on to somebody else. Native clients have ids for all of them, but neither bundle nor, unless
it was negotiated, number their packets, so that their packets can pass as they are.
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
    MID,
    NATIVE_EXTENSION_IDS,
    PLAYOUT_DELAY,
    REPAIRED_RID,
    RID,
    SPEAKER,
    TOFFSET,
    TRANSPORT_CC,
    VIDEO_ORIENTATION,
    VIDEO_TIMING,
)
from discord_rtc.server.elements import ElementMap

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
"""What means the same to every receiver."""

_BUNDLE_EXTENSIONS = (MID, RID, REPAIRED_RID)

FEEDBACK_TRANSPORT_CC = "transport-cc"  # draft-holmer-rmcat-transport-wide-cc-extensions-01, 3
FEEDBACK_REMB = "goog-remb"  # draft-alvestrand-rmcat-remb-03 section 2.3


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
        feedback: RTCP feedback as in ``a=rtcp-fb``. What is about bandwidth ("transport-cc",
            "goog-remb") is sent only to sessions that name it here.
        srtp: Whether packets are protected by their sequence numbers, which must not go half
            around (RFC 3711 section 3.3.1) without the session hearing of it.
    """

    payload_types: Mapping[str, tuple[int, int | None]]
    extension_ids: Mapping[str, int] = field(default_factory=lambda: NATIVE_EXTENSION_IDS)
    feedback: frozenset[str] = frozenset()
    srtp: bool = False

    @property
    def transport_cc(self) -> int | None:
        """Id under which the session numbers its packets, if it wants feedback about them."""
        if FEEDBACK_TRANSPORT_CC not in self.feedback:
            return None
        return self.extension_ids.get(TRANSPORT_CC)

    @property
    def remb(self) -> bool:
        """Whether the session takes bitrate estimates."""
        return FEEDBACK_REMB in self.feedback

    @property
    def bundled(self) -> bool:
        """Whether packets may say by MID or RID what they are for."""
        ids = self.extension_ids
        if ids == NATIVE_EXTENSION_IDS and not self.srtp:
            return False
        return any(uri in ids for uri in _BUNDLE_EXTENSIONS)

    @property
    def numbers_packets(self) -> bool:
        """Whether packets may carry transport-wide numbers."""
        ids = self.extension_ids
        return TRANSPORT_CC in ids and (
            ids != NATIVE_EXTENSION_IDS or FEEDBACK_TRANSPORT_CC in self.feedback
        )

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
    _elements: list[ElementMap] = field(init=False, repr=False, compare=False, default_factory=list)

    @classmethod
    def between(cls, sender: LegMedia, receiver: LegMedia, payload_type: int) -> Renumbering:
        """The renumbering from one to the other.

        Args:
            sender: Negotiated by the sender.
            receiver: Negotiated by the receiver.
            payload_type: The receiver's number for the codec.
        """
        if _alike(sender, receiver):
            return cls(payload_type, None)
        theirs, ours = sender.extension_ids, receiver.extension_ids
        known = (uri for uri in FORWARDED_EXTENSIONS if uri in theirs and uri in ours)
        return cls(payload_type, tuple((theirs[uri], ours[uri]) for uri in known))

    def apply(self, packet: bytes) -> bytes:
        """Renumber one plain RTP packet.

        Raises:
            MalformedPacket: Its header extension or padding does not fit in it.
        """
        if self.extension_ids is None or not packet[0] & 0x10:  # X, RFC 3550 section 5.1
            return packet[:1] + bytes((packet[1] & 0x80 | self.payload_type,)) + packet[2:]
        if not self._elements:  # made when needed: most of those made are equal to another
            self._elements.append(ElementMap(dict(self.extension_ids)))
        return self._elements[0].apply(packet, self.payload_type)


def _alike(sender: LegMedia, receiver: LegMedia) -> bool:
    """Whether the sender's elements may pass as they are."""
    # A bundled receiver is spared ids that the sender did not even negotiate.
    if sender.bundled or sender.numbers_packets or receiver.bundled:
        return False
    theirs, ours = sender.extension_ids, receiver.extension_ids
    # What the receiver has no id for it passes over, if that id means nothing else to it.
    taken = set(ours.values())
    return all(
        ours[uri] == ident if uri in ours else ident not in taken for uri, ident in theirs.items()
    )
