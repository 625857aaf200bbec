"""Every exception that this library raises. Ground floor.

The tree, ours apart from theirs::

    RtcError
    |-- UsageError                  the caller broke a contract
    |   |-- InvalidState            e.g. publish after aclose
    |   `-- ConcurrentInput         two inputs without a flush
    |-- ProtocolError               the peer broke a contract (sans-I/O code only)
    |   |-- MalformedMessage        voice gateway JSON or binary
    |   |-- MalformedPacket         RTP, RTCP, STUN, discovery
    |   |   `-- RejectedPacket      a datagram that does not authenticate or was seen before
    |   |-- MalformedFrame          bitstream or payload format
    |   `-- MalformedSdp            a session description or fragment
    |-- NegotiationError            nothing in common
    |   |-- NoCommonMode, NoCommonCodec
    |   |-- VideoNotGranted         the gateway does not let this account send video
    |   `-- DaveUnavailable         the server requires E2EE that we cannot give
    |-- ConnectError                could not get there
    |   |-- SignalingTimeout
    |   |-- DiscoveryTimeout, IceFailed, DtlsFailed     one media path, each with its cause
    |   |-- NoRoute                 no media path at all; says what each one saw
    |   `-- AuthenticationFailed
    |-- ConnectionLost              (close_code, reason, resumable); __cause__ keeps the origin
    |   |-- PathLost                the media path worked and does not any more
    |   `-- NonceExhausted          the transport key must not be used any further
    |-- EventsOverflow              a subscription that was not read
    |-- DaveError                   end-to-end encryption
    |   |-- InvalidCommit           a commit or welcome that the group cannot take
    |   `-- NotReady                  there is no group yet, or not this member in it
    `-- MediaError
        |-- UnsupportedMedia, EncoderFailed, DecoderFailed

Per-packet trouble is never raised to users: it is counted with a reason and
shown by ``stats()``. The end of a track is aiortc's ``MediaStreamError``, so that
foreign consumers understand it.
"""

from __future__ import annotations


class RtcError(Exception):
    """Base of everything raised by discord_rtc."""


class UsageError(RtcError):
    """The caller broke a contract of this library."""


class InvalidState(UsageError):
    """The object is not in a state in which this call makes sense."""


class ConcurrentInput(UsageError):
    """A sans-I/O object got a second input before its output was flushed."""


class ProtocolError(RtcError):
    """The peer broke a contract. Raised by sans-I/O code only."""


class MalformedMessage(ProtocolError):
    """A gateway message, JSON or binary, that does not follow the protocol."""


class MalformedPacket(ProtocolError):
    """Bytes that are not the RTP, RTCP, STUN or discovery packet they should be."""


class RejectedPacket(MalformedPacket):
    """A protected datagram that is not accepted.

    Attributes:
        reason: Name of the counter, e.g. ``"bad-auth"``, ``"replay"``, ``"short"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedFrame(ProtocolError):
    """A bitstream or payload that does not follow its codec's format."""


class MalformedSdp(ProtocolError):
    """A session description, or a fragment of one, that lacks something or cannot be read."""


class NegotiationError(RtcError):
    """Both sides work, but they have nothing in common."""


class NoCommonMode(NegotiationError):
    """No transport encryption mode is supported by both sides."""


class NoCommonCodec(NegotiationError):
    """No codec is supported by both sides."""


class VideoNotGranted(NegotiationError):
    """The gateway answered ``self_video: false``, so no video may be sent."""


class DaveUnavailable(NegotiationError):
    """The server requires end-to-end encryption that cannot be given."""


class ConnectError(RtcError):
    """The connection could not be made."""


class SignalingTimeout(ConnectError):
    """A gateway did not answer in time."""


class DiscoveryTimeout(ConnectError):
    """IP discovery got no answer: UDP to the voice server is probably blocked."""


class IceFailed(ConnectError):
    """No connectivity check was answered: UDP to the voice server is probably filtered."""


class DtlsFailed(ConnectError):
    """The path works, but no keys were agreed on: the handshake failed or the peer is another."""


class NoRoute(ConnectError):
    """No media path to the voice server works.

    Attributes:
        attempts: Name of each transport that was tried, with what it saw.
    """

    def __init__(self, text: str, attempts: tuple[tuple[str, Exception], ...] = ()) -> None:
        super().__init__(text)
        self.attempts = attempts


class AuthenticationFailed(ConnectError):
    """The server refused the token or session."""


class ConnectionLost(RtcError):
    """An established connection ended without being asked to.

    Attributes:
        close_code: Websocket close code, or None when there was none.
        reason: Text of the close frame or a description of what happened.
        resumable: Whether the protocol allows the session to be resumed.
    """

    def __init__(self, close_code: int | None, reason: str, *, resumable: bool = False) -> None:
        code = "" if close_code is None else f" (close code {close_code})"
        super().__init__(f"{reason}{code}")
        self.close_code = close_code
        self.reason = reason
        self.resumable = resumable


class PathLost(ConnectionLost):
    """The media path worked, and then the server did not consent to it any more (RFC 7675)."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)


class NonceExhausted(ConnectionLost):
    """The nonce counter of a transport key reached its end; a fresh session is needed."""

    def __init__(self) -> None:
        super().__init__(None, "the nonces of this transport key are used up")


class EventsOverflow(RtcError):
    """An event subscription was not read and fell too far behind."""


class DaveError(RtcError):
    """End-to-end encryption failed or refused something."""


class InvalidCommit(DaveError):
    """A commit or welcome that the group cannot take; recovered from by joining it anew."""


class NotReady(DaveError):
    """There is no group yet, or the user in question is no member of it."""


class MediaError(RtcError):
    """A media source, codec or file failed."""


class UnsupportedMedia(MediaError):
    """The source cannot be opened, holds nothing usable, or the codec is not available."""


class EncoderFailed(MediaError):
    """The encoder refused a frame or could not be opened."""


class DecoderFailed(MediaError):
    """The decoder could not be opened."""
