"""Complete session descriptions: our offer, and the answer that the voice server never writes.

Spec: userdoccers, "Voice Connections", Generating the Browser Remote Answer; RFC 8829, 8843.

The only module that imports ``aiortc.sdp``. Its objects write the text; what they cannot express
(candidates as given, ``maxptime``, ``extmap-allow-mixed``, directions of extensions) is put beside
them, and ``rtcp_port`` is set because they write ``a=rtcp-mux`` only then. They never read what
others wrote: their parser answers with AssertionError or KeyError. Our own strict readers do that.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from aiortc import (
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCIceParameters,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
)
from aiortc.rtcrtpparameters import RTCRtcpFeedback
from aiortc.sdp import (
    GroupDescription,
    MediaDescription,
    SessionDescription,
    SsrcDescription,
)

from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.sdp import MAX_OFFER, parse_server_fragment
from discord_rtc.protocol.sdp_lines import merge_extmaps
from discord_rtc.protocol.sdp_sections import parse_description
from discord_rtc.rtp.extensions import (
    ABS_SEND_TIME,
    AUDIO_LEVEL,
    CONTENT_TYPE,
    PLAYOUT_DELAY,
    RID,
    SPEAKER,
    TOFFSET,
    TRANSPORT_CC,
    VIDEO_ORIENTATION,
)
from discord_rtc.transport.answering import (
    ANSWERED_EXTENSIONS,
    H264_PARAMETERS,
    RemoteSource,
    answer_direction,
    answer_feedback,
    answer_parameters,
    assign_sources,
    check_common,
    choose_formats,
    sends_video,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from discord_rtc.protocol.sdp import ServerFragment
    from discord_rtc.protocol.sdp_lines import Extmap
    from discord_rtc.protocol.sdp_sections import Format, MediaSection
    from discord_rtc.transport.base import CodecOffer, MediaOffer, SendingSsrcs

__all__ = [
    "DEFAULT_MAX_BITRATE_KBPS",
    "OFFERED_EXTENSION_IDS",
    "RemoteSource",
    "add_candidates",
    "build_offer",
    "expand_answer",
    "negotiated_extensions",
    "negotiated_feedback",
]

OFFERED_EXTENSION_IDS: Mapping[str, int] = MappingProxyType(
    {
        AUDIO_LEVEL: 1,
        TOFFSET: 2,
        ABS_SEND_TIME: 3,
        VIDEO_ORIENTATION: 4,
        TRANSPORT_CC: 5,
        PLAYOUT_DELAY: 6,
        CONTENT_TYPE: 7,
        SPEAKER: 9,
        RID: 11,
    }
)
"""What our own offers carry, numbered as native clients do, so that a server that forwards between
both has nothing to renumber. No MID: every packet is told by its SSRC, which Ready assigned."""

DEFAULT_MAX_BITRATE_KBPS = 2500
"""``x-google-max-bitrate`` of the official web client, observed."""

# Everything else is of use to both kinds.
_ONE_KIND_EXTENSIONS: Mapping[str, MediaKind] = MappingProxyType(
    {
        AUDIO_LEVEL: MediaKind.AUDIO,
        SPEAKER: MediaKind.AUDIO,
        TOFFSET: MediaKind.VIDEO,
        VIDEO_ORIENTATION: MediaKind.VIDEO,
        PLAYOUT_DELAY: MediaKind.VIDEO,
        CONTENT_TYPE: MediaKind.VIDEO,
        RID: MediaKind.VIDEO,
    }
)

_REVERSED = {"sendonly": "recvonly", "recvonly": "sendonly", "sendrecv": "sendrecv"}

_PROTOCOL = "UDP/TLS/RTP/SAVPF"
_ORIGIN = "- 1420070400000 0 IN IP4 127.0.0.1"  # the documented one; the number is Discord's epoch
_DIRECTIONS = {
    (True, True): "sendrecv",
    (True, False): "sendonly",
    (False, True): "recvonly",
    (False, False): "inactive",
}
_OFFERED_FEEDBACK = {
    MediaKind.AUDIO: ("transport-cc",),
    MediaKind.VIDEO: ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"),
}
_OFFERED_PARAMETERS: Mapping[Codec, Mapping[str, str]] = {
    Codec.OPUS: {"minptime": "10", "useinbandfec": "1"},
    Codec.H264: H264_PARAMETERS,
    Codec.VP9: {"profile-id": "0"},
}
_DISCARD_PORT = 9  # "no address yet", RFC 8840 section 4.1.1
_MAX_PTIME = "a=maxptime:60"
_SSRC_MASK = 0xFFFF_FFFF


class _Section(MediaDescription):
    """A media section, with the lines that aiortc has no field for."""

    def __init__(self, kind: str, port: int, protocol: str, mid: str) -> None:
        super().__init__(kind, port, protocol, [])
        self.rtp.muxId = mid
        self.rtcp_mux = True
        self.ice = RTCIceParameters()
        self.extra: list[str] = []

    def __str__(self) -> str:
        return super().__str__() + "".join(f"{line}\r\n" for line in self.extra)

    def add_codec(
        self,
        name: str,
        clock_rate: int,
        payload_type: int,
        parameters: Mapping[str, str],
        feedback: Iterable[str],
    ) -> None:
        words = (value.partition(" ") for value in feedback)
        self.fmt.append(payload_type)
        self.rtp.codecs.append(
            RTCRtpCodecParameters(
                mimeType=f"{self.kind}/{name}",
                clockRate=clock_rate,
                channels=2 if self.kind == MediaKind.AUDIO.value else None,  # RFC 7587 section 7
                payloadType=payload_type,
                rtcpFeedback=[RTCRtcpFeedback(word, rest or None) for word, _, rest in words],
                parameters=dict(parameters),
            )
        )

    def add_extension(self, uri: str, ident: int) -> None:
        self.rtp.headerExtensions.append(RTCRtpHeaderExtensionParameters(id=ident, uri=uri))

    def add_ssrcs(self, ssrc: int, rtx_ssrc: int | None = None, *, cname: str) -> None:
        self.ssrc.append(SsrcDescription(ssrc, cname=cname))
        if rtx_ssrc is not None and any(codec.name == "rtx" for codec in self.rtp.codecs):
            self.ssrc.append(SsrcDescription(rtx_ssrc, cname=cname))
            self.ssrc_group.append(GroupDescription("FID", [ssrc, rtx_ssrc]))  # RFC 5576 4.2


def build_offer(
    offer: MediaOffer,
    credentials: tuple[str, str],
    fingerprint: str,
    *,
    audio_ssrc: int,
    video: SendingSsrcs | None,
    extension_ids: Mapping[str, int] = OFFERED_EXTENSION_IDS,
) -> str:
    """Write our own offer: one audio and one video section, bundled.

    Args:
        offer: Codecs with their payload types; a kind without codecs has no section.
        credentials: ICE user name fragment and password.
        fingerprint: Of our certificate, ``sha-256 AA:BB:...``.
        audio_ssrc: What we send audio with, from Ready.
        video: What we send video with, from Ready; None if we were given nothing to send it with.
        extension_ids: Header extension URI to the id that we choose for it.

    Returns:
        The description with CRLF. Candidates are added by `add_candidates`.
    """
    cname = f"{audio_ssrc:08x}"  # that of our RTCP, too
    ssrcs = {
        MediaKind.AUDIO: (audio_ssrc,),
        MediaKind.VIDEO: () if video is None else (video.ssrc, video.rtx_ssrc),
    }
    description = _new_description()
    for kind in MediaKind:
        codecs = [entry for entry in offer.codecs if entry.codec.kind is kind]
        if not codecs:
            continue
        section = _offer_section(kind, str(len(description.media)), codecs, extension_ids)
        sends = bool(ssrcs[kind]) and any(entry.encode for entry in codecs)
        receives = offer.receive and any(entry.decode for entry in codecs)
        section.direction = _DIRECTIONS[sends, receives]
        if sends:
            section.msid = f"{cname} {kind}"
            section.add_ssrcs(*ssrcs[kind], cname=cname)
        section.ice = RTCIceParameters(usernameFragment=credentials[0], password=credentials[1])
        section.dtls = _dtls(fingerprint, role="auto")
        description.media.append(section)
    _bundle(description, [section.rtp.muxId for section in description.media])
    return str(description)


def add_candidates(description: str, candidates: Iterable[str]) -> str:
    """Add ICE candidates to the first section, where bundled media flows.

    Args:
        description: As from `build_offer`.
        candidates: ``candidate:...`` each.
    """
    head, separator, rest = description.partition("\r\nm=")
    section, next_separator, others = rest.partition("\r\nm=")
    lines = "".join(f"a={candidate}\r\n" for candidate in candidates)
    if next_separator:
        return f"{head}{separator}{section}\r\n{lines}m={others}"
    return f"{head}{separator}{section}{lines}"


def expand_answer(
    fragment: str,
    offer: str,
    users: Iterable[RemoteSource] = (),
    *,
    video_codec: str | Sequence[str] | None = None,
    max_bitrate_kbps: int = DEFAULT_MAX_BITRATE_KBPS,
    extensions: Collection[str] = (),
) -> str:
    """Write the answer that a WebRTC stack needs from the server's fragment and its own offer.

    It has the sections of the offer, in the same order, with the offer's payload types and
    extension ids. Call it again with the next offer whenever users come or go: nothing has to be
    told to the server. Sections are never removed, those without a user become inactive. A user
    who stays should keep the section: name it in `RemoteSource.mid` (a browser's transceiver for
    the track of stream ``<user_id>-<ssrc>`` has it).

    Args:
        fragment: ``sdp`` of Session Description.
        offer: The local offer that it answers, of any stack, all sections in one BUNDLE.
        users: What is to be received, each in a section of its own.
        video_codec: ``video_codec`` of Session Description; or several, of which the first is
            sent and all may be received. None means the first one that the offer lists.
        max_bitrate_kbps: The most that a browser sends as video.
        extensions: URIs of header extensions to agree on beside the documented ones.

    Returns:
        The description with CRLF. Sections without a known codec are rejected in it, as are
        data channels.

    Raises:
        MalformedSdp: The fragment or the offer lacks something or cannot be read.
        NoCommonCodec: The offer has video, but in none of the codecs named.
        UsageError: A user has no section, or one that cannot receive.
    """
    server = parse_server_fragment(fragment)
    parsed = parse_description(offer, limit=MAX_OFFER, what="the offer")
    wanted = (video_codec,) if isinstance(video_codec, str) else tuple(video_codec or ())
    chosen = {
        section.mid: formats
        for section in parsed.sections
        if (formats := choose_formats(section, wanted))
    }
    check_common(parsed, chosen, wanted)
    merge_extmaps(extmap for section in parsed.sections for extmap in section.extmaps)
    sources = assign_sources(users, [part for part in parsed.sections if part.mid in chosen])
    description = _new_description()
    for section in parsed.sections:
        if section.mid not in chosen:
            description.media.append(_rejected(section))
            continue
        built = _answer_section(section, server)
        _add_formats(built, chosen[section.mid], sends_video(parsed, chosen), max_bitrate_kbps)
        _add_extmaps(built, section.extmaps, {*ANSWERED_EXTENSIONS[section.kind], *extensions})
        source = sources.get(section.mid)
        built.direction = answer_direction(section, source)
        if source is not None:
            _add_source(built, source)
        description.media.append(built)
    _bundle(description, [mid for mid in chosen if mid in parsed.bundle])
    return str(description)


def negotiated_extensions(answer: str) -> Mapping[str, int]:
    """The header extensions of an answer, URI to id, whatever their section and direction.

    Raises:
        MalformedSdp: Not a description, or an id stands for two extensions.
    """
    sections = parse_description(answer, limit=MAX_OFFER, what="the answer").sections
    return merge_extmaps(extmap for section in sections for extmap in section.extmaps)


def negotiated_feedback(answer: str) -> frozenset[str]:
    """The RTCP feedback of an answer, in the words of `NegotiatedMedia`.

    Raises:
        MalformedSdp: Not a description.
    """
    sections = parse_description(answer, limit=MAX_OFFER, what="the answer").sections
    return frozenset(
        name for section in sections for chosen in section.formats for name in chosen.feedback
    )


def _new_description() -> SessionDescription:
    description = SessionDescription()
    description.origin = _ORIGIN
    description.msid_semantic.append(GroupDescription("WMS", ["*"]))
    return description


def _bundle(description: SessionDescription, mids: Iterable[str]) -> None:
    items: list[int | str] = list(mids)
    if items:
        description.group.append(GroupDescription("BUNDLE", items))


def _offer_section(
    kind: MediaKind, mid: str, codecs: Sequence[CodecOffer], extension_ids: Mapping[str, int]
) -> _Section:
    section = _Section(kind.value, _DISCARD_PORT, _PROTOCOL, mid)
    section.host = "0.0.0.0"  # noqa: S104 -- "no address yet", RFC 8840 section 4.1.1
    section.rtcp_port = _DISCARD_PORT
    section.extra.append("a=extmap-allow-mixed")
    for uri, ident in extension_ids.items():
        if _ONE_KIND_EXTENSIONS.get(uri, kind) is kind:
            section.add_extension(uri, ident)
    for entry in codecs:
        feedback = [
            value
            for value in _OFFERED_FEEDBACK[kind]
            if value != "transport-cc" or TRANSPORT_CC in extension_ids
        ]
        name, clock_rate = entry.codec.value, entry.codec.clock_rate
        parameters = _OFFERED_PARAMETERS.get(entry.codec, {})
        section.add_codec(name, clock_rate, entry.payload_type, parameters, feedback)
        if entry.rtx_payload_type is not None:
            apt = {"apt": str(entry.payload_type)}
            section.add_codec("rtx", clock_rate, entry.rtx_payload_type, apt, ())
    return section


def _answer_section(section: MediaSection, server: ServerFragment) -> _Section:
    built = _Section(section.kind, server.port, section.protocol, section.mid)
    built.host = server.ip
    built.rtcp_port = server.port
    built.ice = RTCIceParameters(
        iceLite=True, usernameFragment=server.ufrag, password=server.password
    )
    built.dtls = _dtls(server.fingerprint, role="server")
    built.extra += [f"a={candidate}" for candidate in server.candidates]
    return built


def _rejected(section: MediaSection) -> _Section:
    built = _Section(section.kind, 0, section.protocol, section.mid)
    built.fmt.append(section.numbers[0])
    built.host = "0.0.0.0"  # noqa: S104 -- a rejected section has no address
    built.direction = "inactive"
    return built


def _dtls(fingerprint: str, *, role: str) -> RTCDtlsParameters:
    algorithm, _, digest = fingerprint.partition(" ")
    return RTCDtlsParameters([RTCDtlsFingerprint(algorithm=algorithm, value=digest)], role=role)


def _add_formats(
    section: _Section, formats: Iterable[Format], sends_video: bool, max_bitrate_kbps: int
) -> None:
    for chosen in formats:
        section.add_codec(
            chosen.rtpmap.name,
            chosen.rtpmap.clock_rate,
            chosen.payload_type,
            answer_parameters(chosen, sends_video=sends_video, max_bitrate_kbps=max_bitrate_kbps),
            answer_feedback(section.kind, chosen),
        )
    if section.kind == MediaKind.AUDIO.value:
        section.extra.append(_MAX_PTIME)


def _add_extmaps(section: _Section, extmaps: Iterable[Extmap], allowed: set[str]) -> None:
    left = set(allowed)
    for uri, ident, direction in extmaps:
        if uri not in left or direction == "inactive":
            continue
        left.remove(uri)
        if direction is None:
            section.add_extension(uri, ident)
        else:
            section.extra.append(f"a=extmap:{ident}/{_REVERSED[direction]} {uri}")


def _add_source(section: _Section, source: RemoteSource) -> None:
    name = f"{source.user_id}-{source.ssrc}"
    section.msid = f"{name} {section.kind[0]}{name}"
    section.add_ssrcs(source.ssrc, (source.ssrc + 1) & _SSRC_MASK, cname=name)
