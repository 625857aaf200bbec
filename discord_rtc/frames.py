"""What passes between codecs and packets: encoded frames. Ground floor; no PyAV here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction


class MediaKind(StrEnum):
    """Audio or video, with the words of aiortc's ``MediaStreamTrack.kind``."""

    AUDIO = "audio"
    VIDEO = "video"


class Codec(Enum):
    """A codec by its name on Discord's wire (protocol: codec object, ``name``)."""

    OPUS = "opus"
    H264 = "H264"
    H265 = "H265"
    VP8 = "VP8"
    VP9 = "VP9"
    AV1 = "AV1"

    @property
    def kind(self) -> MediaKind:
        """Audio for Opus, video for all others."""
        return MediaKind.AUDIO if self is Codec.OPUS else MediaKind.VIDEO

    @property
    def clock_rate(self) -> int:
        """RTP ticks per second (RFC 7587 section 4.1; 90 kHz for every video format)."""
        return 48_000 if self is Codec.OPUS else 90_000


OPUS_SILENCE = b"\xf8\xff\xfe"
"""The silence frame that ends a talk spurt (Discord docs, "Voice Data Interpolation")."""

OPUS_FRAME_TICKS = 960
"""20 ms at 48 kHz, the only Opus frame length that Discord clients send."""


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One encoded access unit (video) or one Opus packet (audio).

    Attributes:
        data: H.264/H.265 as Annex B with 4-byte start codes; others as the codec defines.
        codec: What the bytes are.
        pts: Presentation time in units of ``time_base``; never accumulated.
        time_base: Seconds per unit of ``pts``.
        keyframe: Whether a decoder can start here (True for every audio frame).
    """

    data: bytes
    codec: Codec
    pts: int
    time_base: Fraction
    keyframe: bool
