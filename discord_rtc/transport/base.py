"""The seam between media and network: plain RTP and RTCP packets, as bytes. No I/O here.

A transport protects packets hop by hop and carries them between this client and one
voice server. Everything that differs from connection to connection above it (payload
types, header extension ids, SSRCs, room left in a datagram, allowed feedback) travels
once, as the frozen value `NegotiatedMedia`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from discord_rtc.errors import ConnectError, NoCommonMode, ProtocolError
from discord_rtc.frames import Codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription


PATH_ERRORS = (ConnectError, ProtocolError, NoCommonMode)
"""What ``open`` and ``accept`` raise when one transport does not work where another one may."""

CLOSED_MEANWHILE = "the transport was closed while it was being opened"
"""Text of the `ConnectError` of an ``open`` or ``accept`` that ``aclose`` ended."""


@dataclass(frozen=True, slots=True)
class CodecOffer:
    """One codec that this client can send, receive or both.

    Attributes:
        codec: The codec.
        payload_type: RTP payload type under which *we* want to receive and send it.
        rtx_payload_type: Payload type of its retransmissions (video only).
        encode: Whether we can send it.
        decode: Whether we can receive it.

    Spec:
        userdoccers, "Voice Connections", codec structure; payload types are our choice.
    """

    codec: Codec
    payload_type: int
    rtx_payload_type: int | None = None
    encode: bool = True
    decode: bool = True


DEFAULT_CODECS: tuple[CodecOffer, ...] = (
    CodecOffer(Codec.OPUS, 120),
    CodecOffer(Codec.H264, 101, 102),
    CodecOffer(Codec.VP8, 105, 106),
)
"""Numbers used by native UDP clients; in order of preference within a kind."""


@dataclass(frozen=True, slots=True)
class MediaOffer:
    """What the client brings into a negotiation.

    Attributes:
        codecs: In order of preference within a kind.
        receive: False for send-only clients, which may skip IP discovery.
        modes: Transport encryption modes that the user explicitly asked for; empty means
            the live ones. Naming a discontinued mode here is the opt-in for it.
        rtc_connection_id: UUID text that names this connection in the server's logs.
        experiments: Experiment names echoed to the server.
    """

    codecs: tuple[CodecOffer, ...] = DEFAULT_CODECS
    receive: bool = True
    modes: tuple[str, ...] = ()
    rtc_connection_id: str | None = None
    experiments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SendingSsrcs:
    """The SSRCs of one video layer that we may send, as given in Ready.

    Attributes:
        rid: Layer name, ``"100"`` for the full picture.
        ssrc: Media SSRC.
        rtx_ssrc: Retransmission SSRC.
        quality: 0 to 100.
    """

    rid: str
    ssrc: int
    rtx_ssrc: int
    quality: int = 100


@dataclass(frozen=True, slots=True)
class NegotiatedMedia:
    """The result of a negotiation, all that the layers above a transport need.

    Attributes:
        audio_codec: What to send as audio.
        video_codec: What to send as video; None when there is nothing in common.
        payload_types: Codec to the payload type it is sent and received with.
        rtx_payload_types: Codec to the payload type of its retransmissions.
        extension_ids: Header extension URI to its id on this connection.
        audio_ssrc: Our audio SSRC.
        video: Our video layers, best first.
        max_packet_size: Largest plain RTP packet in bytes, header included.
        keyframe_interval_ms: Fixed keyframe distance asked for by the server, or None.
        feedback: RTCP feedback in use: any of ``nack``, ``pli``, ``fir``, ``goog-remb``,
            ``transport-cc``.
        local_description: The whole offer as SDP, where there is one; for inspection.
        remote_description: The whole answer, likewise.
    """

    audio_codec: Codec
    video_codec: Codec | None
    payload_types: Mapping[Codec, int]
    rtx_payload_types: Mapping[Codec, int]
    extension_ids: Mapping[str, int]
    audio_ssrc: int
    video: tuple[SendingSsrcs, ...]
    max_packet_size: int = 1200
    keyframe_interval_ms: int | None = None
    feedback: frozenset[str] = frozenset({"nack", "pli", "fir"})
    local_description: str | None = field(default=None, repr=False)  # with the ICE password
    remote_description: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TransportStats:
    """A snapshot of one transport.

    Attributes:
        rtt: Round-trip time to the server in seconds, None until measured.
        datagrams_sent: Protected packets handed to the socket.
        datagrams_received: Datagrams read from the socket, good or bad.
        drops: Reason to count for everything not delivered.
        local_address: What the server sees us as, when known.
        remote_address: The server's media address.
        setup: Steps of making the path, with the seconds that each took: ``discovery``, or
            ``ice`` and ``dtls``.
    """

    rtt: float | None = None
    datagrams_sent: int = 0
    datagrams_received: int = 0
    drops: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    local_address: tuple[str, int] | None = None
    remote_address: tuple[str, int] | None = None
    setup: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class PacketSink(Protocol):
    """Where a transport delivers. Called on the event loop, never after ``aclose``."""

    def rtp(self, packet: bytes, now: float) -> None:
        """One plain RTP packet, authenticated and not seen before."""
        ...

    def rtcp(self, packet: bytes, now: float) -> None:
        """One plain compound RTCP packet."""
        ...

    def lost(self, error: Exception) -> None:
        """The path is gone for good; nothing more will be delivered."""
        ...


class Transport(Protocol):
    """Carries plain RTP and RTCP packets between this client and one voice server."""

    async def prepare(self) -> None:
        """Do what needs no server yet, beside its signalling. Optional; never raises."""
        ...

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        """Prepare the path (IP discovery, or gathering) and say what to select.

        Raises:
            ConnectError: The path cannot be made, within the documented deadlines.
            NoCommonMode: The server offers no encryption mode that we may use.
        """
        ...

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        """Finish the path with the server's answer.

        Raises:
            ConnectError: The path cannot be made.
            NegotiationError: The answer holds nothing in common.
            ProtocolError: The answer is malformed.
        """
        ...

    def send_rtp(self, packet: bytes) -> None:
        """Protect and send one plain RTP packet. Never blocks; trouble is counted.

        Raises:
            NonceExhausted: The key is used up; a fresh session is needed.
        """
        ...

    def send_rtcp(self, packet: bytes) -> None:
        """Protect and send one plain compound RTCP packet; as `send_rtp`."""
        ...

    def deliver_to(self, sink: PacketSink) -> None:
        """Name the receiver. Packets that came earlier are handed over first, bounded."""
        ...

    def stats(self) -> TransportStats:
        """Counters and round-trip time so far."""
        ...

    async def aclose(self) -> None:
        """Release sockets and timers. Idempotent."""
        ...
