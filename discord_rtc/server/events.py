"""What a voice gateway session tells the server. Sans-I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import (
        CodecInfo,
        Identify,
        MediaSinkWants,
        Ready,
        SelectProtocol,
        SessionDescription,
        Video,
    )
    from discord_rtc.server.negotiation import WebRtcTerms


@dataclass(frozen=True, slots=True)
class Identified:
    """The client is who it says, and Ready was sent."""

    identify: Identify
    ready: Ready


@dataclass(frozen=True, slots=True)
class ProtocolSelected:
    """A transport was chosen, and Session Description was sent.

    Attributes:
        select: What the client said.
        description: What it was answered.
        codecs: The client's, wherever it listed them.
        webrtc: What was agreed on for a WebRTC path; None for plain datagrams.
    """

    select: SelectProtocol
    description: SessionDescription
    codecs: tuple[CodecInfo, ...]
    webrtc: WebRtcTerms | None = None


@dataclass(frozen=True, slots=True)
class SpeakingSet:
    """The client announced its audio (op 5).

    Attributes:
        speaking: The flags.
        ssrc: That of Ready or 0; whatever it likes from a WebRTC client.
    """

    speaking: int
    ssrc: int


@dataclass(frozen=True, slots=True)
class VideoSet:
    """The client announced or withdrew its video (op 12).

    Its SSRCs are those of Ready or 0; whatever it likes from a WebRTC client.
    """

    video: Video


@dataclass(frozen=True, slots=True)
class WantsSet:
    """The client said which layers it wants to receive (op 15)."""

    wants: MediaSinkWants


@dataclass(frozen=True, slots=True)
class CodecsSet:
    """The client listed its codecs anew (op 14)."""

    codecs: tuple[CodecInfo, ...]


@dataclass(frozen=True, slots=True)
class NoRouteTold:
    """The client found no media path (op 32), and will probably close."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over, for either side's reasons. Nothing follows."""

    code: int | None
    reason: str


VoiceServerEvent: TypeAlias = (
    Identified
    | ProtocolSelected
    | SpeakingSet
    | VideoSet
    | WantsSet
    | CodecsSet
    | NoRouteTold
    | Closed
)
