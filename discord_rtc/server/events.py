"""What a voice gateway session tells the server. Sans-I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import (
        CodecInfo,
        Identify,
        InvalidCommitWelcome,
        MediaSinkWants,
        MlsCommitWelcome,
        MlsKeyPackage,
        Ready,
        SelectProtocol,
        SessionDescription,
        TransitionReady,
        Video,
    )
    from discord_rtc.server.negotiation import WebRtcTerms

    DaveMessage: TypeAlias = (
        MlsKeyPackage | MlsCommitWelcome | TransitionReady | InvalidCommitWelcome
    )


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
class DaveReceived:
    """The client said something about end-to-end encryption (ops 23, 26, 28, 31)."""

    message: DaveMessage


@dataclass(frozen=True, slots=True)
class Detached:
    """The websocket is gone, or about to be, and the session waits for a resume.

    Attributes:
        code: Of the close frame; None when the websocket broke.
    """

    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """The session of another websocket goes on in this one.

    Attributes:
        replayed: Messages that the client was sent again.
        described: Whether it was sent the Session Description again, after which clients that
            need it (discord.py) start their end-to-end encryption anew.
    """

    replayed: int
    described: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over, for either side's reasons. Nothing follows.

    Attributes:
        code: With which the websocket was closed; None when it broke.
        expired: Whether it was waiting for a resume for too long.
    """

    code: int | None
    reason: str
    expired: bool = False


VoiceServerEvent: TypeAlias = (
    Identified
    | ProtocolSelected
    | SpeakingSet
    | VideoSet
    | WantsSet
    | CodecsSet
    | NoRouteTold
    | DaveReceived
    | Detached
    | SessionResumed
    | Closed
)
