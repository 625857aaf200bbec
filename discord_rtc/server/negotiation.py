"""What a voice session is offered and what is chosen from it. Sans-I/O.

Spec: userdoccers, "Voice Connections": codec and stream structures, codec negotiation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.messages import Ready, StreamInfo
from discord_rtc.protocol.opcodes import VoiceCloseCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from discord_rtc.protocol.messages import CodecInfo, Identify, SelectProtocol

MAX_LAYERS = 8
"""Most video layers of one session (Discord clients use one or two)."""

SSRCS_PER_SESSION = 1 + 2 * MAX_LAYERS
"""Audio, then media and retransmission SSRC of each layer, counted up from the audio SSRC."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a client whose Identify is accepted gets.

    Attributes:
        ssrc: Audio SSRC; it and the following `SSRCS_PER_SESSION` - 1 are the session's own.
        ip: Address of the media socket.
        port: Port of the media socket.
    """

    ssrc: int
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an Identify is not accepted."""

    code: int
    reason: str


def make_ready(identify: Identify, admission: Admission, modes: tuple[str, ...]) -> Ready:
    """Answer an Identify: an SSRC pair for each layer that it asks for.

    ``video`` without ``streams`` asks for one layer.
    """
    asked = identify.streams or ((StreamInfo(),) if identify.video else ())
    streams = tuple(
        StreamInfo(
            type=stream.type,
            rid=stream.rid,
            quality=stream.quality,
            ssrc=admission.ssrc + 1 + 2 * layer,
            rtx_ssrc=admission.ssrc + 2 + 2 * layer,
            active=False,
        )
        for layer, stream in enumerate(asked)
    )
    return Ready(admission.ssrc, admission.ip, admission.port, modes, streams=streams)


def refuse_selection(select: SelectProtocol, modes: tuple[str, ...]) -> Refusal | None:
    """Why a Select Protocol cannot be answered; None when it can."""
    if select.protocol != "udp":
        return Refusal(VoiceCloseCode.UNKNOWN_PROTOCOL, "unknown protocol")
    if select.mode not in modes:
        return Refusal(VoiceCloseCode.UNKNOWN_ENCRYPTION_MODE, "unknown encryption mode")
    return refuse_codecs(select.codecs)


def refuse_codecs(codecs: Sequence[CodecInfo]) -> Refusal | None:
    """Why a list of codecs cannot be used; None when it can."""
    numbers = [codec.payload_type for codec in codecs]
    numbers += [codec.rtx_payload_type or 0 for codec in codecs]
    if max(numbers, default=0) > 127:  # RFC 3550 section 5.1: seven bits
        return Refusal(VoiceCloseCode.BAD_REQUEST, "payload type above 127")
    return None


def choose_video_codec(codecs: Sequence[CodecInfo]) -> str:
    """Which video codec a client should send: its first choice of those it can encode.

    H.264 without any usable entry, as Discord does.
    """
    known = {codec.value for codec in Codec if codec.kind is MediaKind.VIDEO}
    usable = [codec for codec in codecs if codec.encode and codec.name in known]
    return min(usable, key=lambda codec: codec.priority).name if usable else Codec.H264.value
