"""What a voice session is offered and what is chosen from it. Sans-I/O.

Spec: userdoccers, "Voice Connections": codec and stream structures, codec negotiation, WebRTC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedSdp
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.messages import CodecInfo, Ready, StreamInfo, Video
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.protocol.sdp import ServerFragment, host_candidate, parse_client_fragment
from discord_rtc.rtp.extensions import TRANSPORT_CC
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA, LegMedia

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from discord_rtc.ice.credentials import IceCredentials
    from discord_rtc.protocol.messages import Identify, SelectProtocol, Speaking
    from discord_rtc.protocol.sdp import ClientFragment

MAX_LAYERS = 8
"""Most video layers of one session (Discord clients use one or two)."""

BROWSER_FEEDBACK = frozenset({"nack", "pli", "fir", "goog-remb", "transport-cc"})
"""RTCP feedback of a client whose reduced SDP does not say: that of every browser."""

MAX_CODECS = 128
"""Of one client: there are no more payload types (RFC 3550 section 5.1: seven bits)."""

SSRCS_PER_SESSION = 1 + 2 * MAX_LAYERS
"""Audio, then media and retransmission SSRC of each layer, counted up from the audio SSRC."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a client whose Identify is accepted gets.

    Attributes:
        ssrc: Audio SSRC; it and the following `SSRCS_PER_SESSION` - 1 are the session's own.
        ip: Address of the media socket.
        port: Port of the media socket.
        fingerprint: Of the server's DTLS certificate, as in SDP.
        new_credentials: Gives ICE credentials that no other session of the socket has.
        describe_dave: Asked for the DAVE version of the Session Description when that is due.
            None where nothing is ever encrypted, or the client cannot: it gets 0, and what it
            says about DAVE has no meaning.
    """

    ssrc: int
    ip: str
    port: int
    fingerprint: str
    new_credentials: Callable[[], IceCredentials]
    describe_dave: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an Identify is not accepted."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class WebRtcTerms:
    """What both sides said about a WebRTC path.

    Attributes:
        client: The client's lines of SDP.
        credentials: The server's, for this session alone.
    """

    client: ClientFragment
    credentials: IceCredentials


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
    if select.protocol not in {"udp", "webrtc"}:
        return Refusal(VoiceCloseCode.UNKNOWN_PROTOCOL, "unknown protocol")
    if select.protocol == "udp" and select.mode not in modes:
        return Refusal(VoiceCloseCode.UNKNOWN_ENCRYPTION_MODE, "unknown encryption mode")
    return refuse_codecs(select.codecs)


def agree_on_webrtc(select: SelectProtocol, admission: Admission) -> WebRtcTerms | Refusal:
    """Read the client's lines of SDP and find credentials for the answer to them."""
    try:
        client = parse_client_fragment(select.sdp or "")
    except MalformedSdp as error:
        return Refusal(VoiceCloseCode.BAD_REQUEST, str(error))
    return WebRtcTerms(client, admission.new_credentials())


def make_fragment(terms: WebRtcTerms, admission: Admission) -> str:
    """The server's lines of SDP: where it is, and how to know it."""
    candidate = host_candidate(admission.ip, admission.port)
    return ServerFragment(
        ip=admission.ip,
        port=admission.port,
        ufrag=terms.credentials.ufrag,
        password=terms.credentials.password,
        fingerprint=admission.fingerprint,
        candidates=(candidate,),
    ).to_text()


def usable_codecs(select: SelectProtocol, terms: WebRtcTerms | None) -> tuple[CodecInfo, ...]:
    """The codecs of a client: as it lists them, or else as its lines of SDP do."""
    if select.codecs or terms is None:
        return select.codecs
    known = {codec.value.lower(): codec for codec in Codec}
    listed = terms.client.codecs
    repairs = {rtpmap.apt: rtpmap.payload_type for rtpmap in listed if rtpmap.apt is not None}
    codecs: dict[Codec, CodecInfo] = {}
    for rtpmap in listed:
        codec = known.get(rtpmap.name.lower())
        if codec is None or codec in codecs:  # of several payload types the first is preferred
            continue
        codecs[codec] = CodecInfo(
            name=codec.value,
            type=codec.kind.value,
            priority=1000 * (len(codecs) + 1),
            payload_type=rtpmap.payload_type,
            rtx_payload_type=repairs.get(rtpmap.payload_type),
        )
    return tuple(codecs.values())


def leg_media(codecs: Sequence[CodecInfo], terms: WebRtcTerms | None = None) -> LegMedia:
    """How a client numbers payload types and header extensions, and which feedback it takes.

    Args:
        codecs: All of the client's; the payload types of native clients hold when it has none.
        terms: None for a client without SDP: its header extensions are those of native clients.
    """
    media = DEFAULT_LEG_MEDIA
    if codecs:
        media = with_codecs(media, codecs)
    if terms is None:
        return media
    client = terms.client
    # Only whole offers say which feedback is meant; the rest of the world is browsers.
    feedback = BROWSER_FEEDBACK if client.setup is None else client.feedback
    if TRANSPORT_CC not in client.extension_ids:
        feedback -= {"transport-cc"}  # it counts packets by that extension
    return replace(media, extension_ids=client.extension_ids, feedback=feedback, srtp=True)


def with_codecs(media: LegMedia, codecs: Sequence[CodecInfo]) -> LegMedia:
    """What was negotiated, with the payload types of a new list of codecs."""
    types = {codec.name: (codec.payload_type, codec.rtx_payload_type) for codec in codecs}
    return replace(media, payload_types=types)


def refuse_codecs(codecs: Sequence[CodecInfo]) -> Refusal | None:
    """Why a list of codecs cannot be used; None when it can."""
    if len(codecs) > MAX_CODECS:
        return Refusal(VoiceCloseCode.BAD_REQUEST, "too many codecs")
    numbers = [codec.payload_type for codec in codecs]
    numbers += [codec.rtx_payload_type or 0 for codec in codecs]
    if max(numbers, default=0) > 127:  # RFC 3550 section 5.1: seven bits
        return Refusal(VoiceCloseCode.BAD_REQUEST, "payload type above 127")
    return None


def refuse_ssrcs(message: Speaking | Video, ready: Ready) -> Refusal | None:
    """Why an op 5 or 12 cannot be taken; None when it names nothing but the SSRCs of Ready."""
    own, named = {0, ready.ssrc}, {0}
    if isinstance(message, Video):
        own |= {ssrc for layer in ready.streams for ssrc in (layer.ssrc, layer.rtx_ssrc) if ssrc}
        named |= {message.audio_ssrc, message.video_ssrc, message.rtx_ssrc or 0}
        for stream in message.streams:
            named |= {stream.ssrc or 0, stream.rtx_ssrc or 0}
    else:
        named.add(message.ssrc)
    return None if named <= own else Refusal(VoiceCloseCode.BAD_REQUEST, "invalid SSRC")


def choose_video_codec(codecs: Sequence[CodecInfo]) -> str:
    """Which video codec a client should send: its first choice of those it can encode.

    H.264 without any usable entry, as Discord does.
    """
    known = {codec.value for codec in Codec if codec.kind is MediaKind.VIDEO}
    usable = [codec for codec in codecs if codec.encode and codec.name in known]
    return min(usable, key=lambda codec: codec.priority).name if usable else Codec.H264.value
