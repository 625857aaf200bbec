"""Voice gateway **server** machine, one per websocket. Sans-I/O.

Spec: userdoccers, "Voice Connections" and "Opcodes and Close Codes"; gateway versions 4 to 9.

What a client may do in which state, and what it gets otherwise::

    Greeting     Identify -> Identified; Resume -> 4006; anything else -> 4003; 30 s -> 4009
    Identified   Select Protocol -> Live; speaking and video are kept for later
    Live         speaking, video, wants, codecs
    Closed       nothing

After Identify a second one gets 4005 and a second Select Protocol 4020. In every state: bytes
that are no message 4002, wrong fields 4020, an unknown opcode 4001, more than 500 messages in
a second or 2048 messages that the client did not read 4021, two heartbeat intervals of
silence 4009. WebRTC clients choose their own SSRCs, so any will do. JSON in a binary frame is
ignored, as Discord does; DAVE messages are ignored while DAVE is off.
"""

from __future__ import annotations

import secrets
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedMessage
from discord_rtc.frames import Codec
from discord_rtc.protocol.messages import (
    BackendVersion,
    BackendVersionRequest,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Identify,
    MediaSinkWants,
    NoRoute,
    Ready,
    Resume,
    SelectProtocol,
    SessionDescription,
    SessionUpdate,
    Speaking,
    UndecodableMessage,
    UnknownMessage,
    Video,
    build,
    opcode_of,
    parse_from_client,
)
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server.congestion import MAX_VIDEO_BPS
from discord_rtc.server.events import (
    Closed,
    CodecsSet,
    Identified,
    NoRouteTold,
    ProtocolSelected,
    SpeakingSet,
    VideoSet,
    VoiceServerEvent,
    WantsSet,
)
from discord_rtc.server.negotiation import (
    MAX_LAYERS,
    Admission,
    Refusal,
    WebRtcTerms,
    agree_on_webrtc,
    choose_video_codec,
    make_fragment,
    make_ready,
    refuse_codecs,
    refuse_selection,
    usable_codecs,
)
from discord_rtc.server.ratelimit import MessageRate

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.messages import ClientMessage, CodecInfo, ServerMessage

VERSIONS = range(4, 10)
"""Gateway versions that are served; Discord refuses those below 4 since 2024-11-18."""

MAX_UNREAD = 2048
"""Messages waiting for a client that does not read; the greeting of a room with 400 users."""

_UNNUMBERED = frozenset({3, 6, 8, 9})
"""Heartbeats, acknowledgements, Hello and Resumed are never replayed, so they carry no seq."""

_DEAD_OPCODES = frozenset({17, 19})
"""Channel Options Update and Speed Test: known, without a meaning for calls."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What all sessions of a server have in common.

    Attributes:
        modes: Transport encryption modes offered, best first.
        heartbeat_interval_ms: What Hello asks for. Discord's servers say 13750.
        identify_timeout: Seconds until a client has to have identified.
        random_bytes: Source of keys and ids.
        max_video_bps: Bitrate of video that its rooms tell senders to stay below.
    """

    modes: tuple[str, ...]
    heartbeat_interval_ms: float = 13_750
    identify_timeout: float = 30.0
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    max_video_bps: int = MAX_VIDEO_BPS


class _State(Enum):
    GREETING = auto()
    IDENTIFIED = auto()
    LIVE = auto()
    CLOSED = auto()


@dataclass(slots=True)
class _Output:
    """Messages for the client, numbered."""

    version: int
    queue: deque[str | bytes] = field(default_factory=deque)
    seq: int = 0

    def put(self, message: ServerMessage) -> None:
        seq: int | None = None
        if self.version >= 8 and opcode_of(message) not in _UNNUMBERED:
            # u16 on the wire, wraps. The first one is 1: @discordjs/voice overlooks a 0.
            self.seq = seq = (self.seq + 1) & 0xFFFF
        self.queue.append(build(message, version=self.version, seq=seq))


class VoiceServerSession:
    """The server's end of one voice gateway websocket.

    Args:
        version: What the client asked for with ``?v=``; None when it said nothing readable.
        config: See `SessionConfig`.
        authenticate: Decides about an Identify.
        counters: Where ignored messages are counted, as ``voice.ignored.<opcode>``.
    """

    def __init__(
        self,
        version: int | None,
        config: SessionConfig,
        authenticate: Callable[[Identify], Admission | Refusal],
        *,
        counters: Counter[str] | None = None,
    ) -> None:
        self._config = config
        self._authenticate = authenticate
        self._counters = Counter[str]() if counters is None else counters
        self._supported = version in VERSIONS
        self._output = _Output(version or VERSIONS[-1])
        self._rate = MessageRate()
        self._state = _State.GREETING
        self._deadline: float | None = None
        self._events: deque[VoiceServerEvent] = deque()
        self._closing: tuple[int, str] | None = None
        self._ready: Ready | None = None
        self._admission: Admission | None = None
        self._checks_ssrcs = True

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason with which the websocket has to be closed, once there is one."""
        return self._closing

    def open(self, now: float) -> None:
        """First input: the websocket is there."""
        if not self._supported:
            self.close(VoiceCloseCode.UNKNOWN_PROTOCOL, "this gateway version is not served")
            return
        self._deadline = now + self._config.identify_timeout
        self.send(Hello(self._config.heartbeat_interval_ms, version=self._output.version))

    def receive_text(self, data: str, now: float) -> None:
        """A text frame came."""
        if self._state is _State.CLOSED:
            return
        if self._rate.exceeded(now):
            self.close(VoiceCloseCode.RATE_LIMITED, "too many messages")
            return
        try:
            message = parse_from_client(data, version=self._output.version)
        except UndecodableMessage:
            self.close(VoiceCloseCode.DECODE_ERROR, "not a message")
        except MalformedMessage as error:
            self.close(VoiceCloseCode.BAD_REQUEST, str(error))
        else:
            self._receive(message, now)

    def receive_binary(self, data: bytes, now: float) -> None:  # noqa: ARG002  the verb's shape
        """A binary frame came. Only DAVE uses them, and that is off."""
        self._counters["voice.ignored.binary"] += 1

    def connection_lost(self, code: int | None, now: float) -> None:  # noqa: ARG002  the verb's shape
        """The client closed the websocket, or it broke (None)."""
        self._finish(code, "closed by the client")

    def send(self, message: ServerMessage) -> None:
        """Say something to the client. Nothing happens once the session is closed."""
        if self._state is _State.CLOSED:
            return
        if len(self._output.queue) >= MAX_UNREAD:
            self._output.queue.clear()
            self.close(VoiceCloseCode.RATE_LIMITED, "too slow: messages were not read")
            return
        self._output.put(message)

    def close(self, code: int, reason: str) -> None:
        """End the session. What was sent before is still delivered."""
        if self._state is not _State.CLOSED:
            self._closing = (code, reason)
            self._finish(code, reason)

    def messages_to_send(self) -> list[str | bytes]:
        """What has to be written to the websocket, oldest first."""
        messages = list(self._output.queue)
        self._output.queue.clear()
        return messages

    def next_event(self) -> VoiceServerEvent | None:
        """The oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """When the client will have been silent for too long."""
        return self._deadline

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        if self._deadline is not None and now >= self._deadline:
            silent = "no Identify" if self._state is _State.GREETING else "no heartbeat"
            self.close(VoiceCloseCode.SESSION_TIMEOUT, silent)

    def _finish(self, code: int | None, reason: str) -> None:
        if self._state is not _State.CLOSED:
            self._state = _State.CLOSED
            self._deadline = None
            self._events.append(Closed(code, reason))

    def _receive(self, message: ClientMessage | UnknownMessage, now: float) -> None:
        match message:
            case UnknownMessage(opcode=opcode) if opcode not in _DEAD_OPCODES:
                self.close(VoiceCloseCode.UNKNOWN_OPCODE, f"unknown opcode {opcode}")
            case Identify():
                self._identify(message, now)
            case Resume() if self._state is _State.GREETING:
                # Sessions are not kept after a websocket is lost; the client has to join anew.
                self.close(VoiceCloseCode.SESSION_NO_LONGER_VALID, "no session to resume")
            case _ if self._state is _State.GREETING:
                self.close(VoiceCloseCode.NOT_AUTHENTICATED, "identify first")
            case Heartbeat():
                self._beat(now)
                self.send(HeartbeatAck(message.t))
            case SelectProtocol():
                self._select(message)
            case _:
                self._receive_media_control(message)

    def _receive_media_control(self, message: ClientMessage | UnknownMessage) -> None:
        match message:
            case Speaking():
                self._set_speaking(message)
            case Video():
                self._set_video(message)
            case MediaSinkWants():
                self._events.append(WantsSet(message))
            case SessionUpdate():
                self._set_codecs(message.codecs)
            case NoRoute():
                self._events.append(NoRouteTold())
            case BackendVersionRequest():
                self.send(BackendVersion(voice="0.0", rtc_worker="0.0"))
            case _:
                self._counters[f"voice.ignored.{opcode_of(message)}"] += 1

    def _beat(self, now: float) -> None:
        self._deadline = now + 2 * self._config.heartbeat_interval_ms / 1000

    def _identify(self, identify: Identify, now: float) -> None:
        if self._state is not _State.GREETING:
            self.close(VoiceCloseCode.ALREADY_AUTHENTICATED, "already identified")
            return
        if len(identify.streams) > MAX_LAYERS:
            self.close(VoiceCloseCode.BAD_REQUEST, "too many streams")
            return
        admission = self._authenticate(identify)
        if isinstance(admission, Refusal):
            self.close(admission.code, admission.reason)
            return
        self._state = _State.IDENTIFIED
        self._beat(now)
        self._admission = admission
        self._ready = make_ready(identify, admission, self._config.modes)
        self.send(self._ready)
        self._events.append(Identified(identify, self._ready))

    def _select(self, select: SelectProtocol) -> None:
        if self._state is not _State.IDENTIFIED:
            self.close(VoiceCloseCode.BAD_REQUEST, "a protocol was selected before")
            return
        assert self._admission is not None
        terms: WebRtcTerms | Refusal | None = refuse_selection(select, self._config.modes)
        if terms is None and select.protocol == "webrtc":
            terms = agree_on_webrtc(select, self._admission)
        if isinstance(terms, Refusal):
            self.close(terms.code, terms.reason)
            return
        self._state = _State.LIVE
        codecs = usable_codecs(select, terms)
        description = SessionDescription(
            audio_codec=Codec.OPUS.value,
            video_codec=choose_video_codec(codecs),
            media_session_id=self._config.random_bytes(16).hex(),
            dave_protocol_version=0,
        )
        if terms is None:
            key = self._config.random_bytes(32)
            description = replace(description, mode=select.mode, secret_key=key)
        else:
            self._checks_ssrcs = False
            description = replace(description, sdp=make_fragment(terms, self._admission))
        self.send(description)
        self._events.append(ProtocolSelected(select, description, codecs, terms))

    def _set_codecs(self, codecs: tuple[CodecInfo, ...]) -> None:
        refusal = refuse_codecs(codecs)
        if refusal is not None:
            self.close(refusal.code, refusal.reason)
            return
        self._events.append(CodecsSet(codecs))
        chosen = choose_video_codec(codecs)
        self.send(SessionUpdate(audio_codec=Codec.OPUS.value, video_codec=chosen))

    def _set_speaking(self, message: Speaking) -> None:
        assert self._ready is not None
        if self._checks_ssrcs and message.ssrc not in {0, self._ready.ssrc}:
            self.close(VoiceCloseCode.BAD_REQUEST, "invalid SSRC")
            return
        self._events.append(SpeakingSet(message.speaking, message.ssrc))

    def _set_video(self, message: Video) -> None:
        assert self._ready is not None
        own = {0, None, self._ready.ssrc}
        for stream in self._ready.streams:
            own |= {stream.ssrc, stream.rtx_ssrc}
        named = {message.audio_ssrc, message.video_ssrc, message.rtx_ssrc}
        for stream in message.streams:
            named |= {stream.ssrc, stream.rtx_ssrc}
        if self._checks_ssrcs and not named <= own:
            self.close(VoiceCloseCode.BAD_REQUEST, "invalid SSRC")
            return
        self._events.append(VideoSet(message))
        if self._output.version >= 5:  # op 15 exists from version 5 on
            self.send(MediaSinkWants(any=100))
