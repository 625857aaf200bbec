"""Voice gateway **server** machine, one per websocket; a resume hands the session to the next.
Sans-I/O.

Spec: userdoccers, "Voice Connections" and "Opcodes and Close Codes"; gateway versions 4 to 9.

What a client may do in which state, and what it gets otherwise::

    Greeting     Identify -> Identified; Resume -> Live or 4006; else -> 4003; 30 s -> 4009
    Identified   Select Protocol -> Live; speaking and video are kept for later
    Live         speaking, video, wants, codecs, DAVE
    Detached     nothing: there is no websocket; what is said is kept; 30 s -> Closed
    Closed       nothing

A live session outlives its websocket, unless the client closed that with 1000 or 1001, or the
server with a code that `discord_rtc.protocol.opcodes` does not call resumable. After Identify
or Resume another one gets 4005, and a second Select Protocol 4020. In every state: bytes
that are no message 4002, wrong fields 4020, an unknown opcode 4001, more than 500 messages in
a second or 2048 messages that the client did not read 4021, two heartbeat intervals of
silence 4009. WebRTC clients choose their own SSRCs, so any will do. Binary frames that are no DAVE
message of a client are ignored, JSON in them included, as Discord does. So are DAVE messages
before the Session Description, and in sessions without DAVE.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
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
    InvalidCommitWelcome,
    MediaSinkWants,
    MlsCommitWelcome,
    MlsKeyPackage,
    NoRoute,
    Ready,
    Resume,
    SelectProtocol,
    SessionDescription,
    SessionUpdate,
    Speaking,
    TransitionReady,
    UndecodableMessage,
    UnknownMessage,
    Video,
    opcode_of,
    parse_from_client,
)
from discord_rtc.protocol.opcodes import VoiceCloseCode, close_meaning
from discord_rtc.server.events import (
    Closed,
    CodecsSet,
    DaveReceived,
    Detached,
    Identified,
    NoRouteTold,
    ProtocolSelected,
    SessionResumed,
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
    refuse_ssrcs,
    usable_codecs,
)
from discord_rtc.server.ratelimit import MessageRate
from discord_rtc.server.replay import Continuation, Output
from discord_rtc.server.session_config import SessionConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.messages import ClientMessage, CodecInfo, ServerMessage
    from discord_rtc.server.events import DaveMessage

__all__ = ["VoiceServerSession", "SessionConfig", "VERSIONS", "MAX_UNREAD"]

VERSIONS = range(4, 10)
"""Gateway versions that are served; Discord refuses those below 4 since 2024-11-18."""

MAX_UNREAD = 2048
"""Messages waiting for a client that does not read; the greeting of a room with 400 users."""

_FAREWELLS = frozenset({1000, 1001})
"""Close codes of clients that mean it; with any other one, or none, they may come back."""

_DEAD_OPCODES = frozenset({17, 19})
"""Channel Options Update and Speed Test: known, without a meaning for calls."""


class _State(Enum):
    GREETING = auto()
    IDENTIFIED = auto()
    LIVE = auto()
    DETACHED = auto()
    CLOSED = auto()


_DEAF = frozenset({_State.DETACHED, _State.CLOSED})
"""States in which nothing that a websocket may still bring is listened to."""


def _no_session(_resume: Resume) -> Refusal:
    return Refusal(VoiceCloseCode.SESSION_NO_LONGER_VALID, "no session to resume")


class VoiceServerSession:
    """The server's end of one voice gateway websocket.

    Args:
        version: What the client asked for with ``?v=``; None when it said nothing readable.
        config: See `SessionConfig`.
        authenticate: Decides about an Identify.
        find: Gives the session that a Resume asks for.
        counters: Where ignored messages are counted, as ``voice.ignored.<opcode>``.
    """

    def __init__(
        self,
        version: int | None,
        config: SessionConfig,
        authenticate: Callable[[Identify], Admission | Refusal],
        find: Callable[[Resume], Continuation | Refusal] = _no_session,
        *,
        counters: Counter[str] | None = None,
    ) -> None:
        self._config = config
        self._authenticate = authenticate
        self._find = find
        self._counters = Counter[str]() if counters is None else counters
        self._supported = version in VERSIONS
        self._output = Output(version or VERSIONS[-1], counters=self._counters)
        self._rate = MessageRate()
        self._state = _State.GREETING
        self._deadline: float | None = None
        self._events: deque[VoiceServerEvent] = deque()
        self._closing: tuple[int, str] | None = None
        self._ready: Ready | None = None
        self._admission: Admission | None = None
        self._description: SessionDescription | None = None
        self._checks_ssrcs = True
        self._lost_code: int | None = None

    @property
    def closing(self) -> tuple[int, str] | None:
        """Code and reason with which the websocket has to be closed, once there is one."""
        return self._closing

    @property
    def detached(self) -> bool:
        """Whether it waits for a resume."""
        return self._state is _State.DETACHED

    def open(self, now: float) -> None:
        """First input: the websocket is there."""
        if not self._supported:
            self.close(VoiceCloseCode.UNKNOWN_PROTOCOL, "this gateway version is not served")
            return
        self._deadline = now + self._config.identify_timeout
        self.send(Hello(self._config.heartbeat_interval_ms, version=self._output.version))

    def receive_text(self, data: str, now: float) -> None:
        """A text frame came."""
        if self._state in _DEAF:
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

    def receive_binary(self, data: bytes, now: float) -> None:
        """A binary frame came. Only DAVE uses them; what is in them is opaque here."""
        if self._state in _DEAF:
            return
        if self._rate.exceeded(now):
            self.close(VoiceCloseCode.RATE_LIMITED, "too many messages")
            return
        try:
            message = parse_from_client(data, version=self._output.version)
        except UndecodableMessage:
            self._counters["voice.ignored.binary"] += 1
            return
        if isinstance(message, MlsKeyPackage | MlsCommitWelcome):
            self._take_dave(message)
        else:
            self._counters["voice.ignored.binary"] += 1

    def connection_lost(self, code: int | None, now: float) -> None:
        """The websocket is gone: the client closed it, or it broke (None), or we closed it."""
        if self._state is _State.LIVE and code not in _FAREWELLS:
            self._detach(code, "websocket lost")
        if self._state is _State.DETACHED:
            self._deadline = now + self._config.resume_window
        else:
            self._finish(code, "closed by the client")

    def hand_over(self, resume: Resume, version: int) -> Continuation | None:
        """Give the session to another websocket of that gateway version; this one is closed.

        Returns:
            None when that cannot be; then nothing changes.
        """
        missed = self._output.missed(resume.seq_ack, version)
        if missed is None or self._state not in {_State.LIVE, _State.DETACHED}:
            return None
        assert self._admission is not None
        assert self._ready is not None
        assert self._description is not None
        self._state, self._deadline = _State.CLOSED, None
        self._closing = (VoiceCloseCode.SESSION_NO_LONGER_VALID, "resumed elsewhere")
        # The old websocket may still be open, and must not be written what is meant for the new.
        output, self._output = self._output, Output(version)
        return Continuation(
            output,
            self._admission,
            self._ready,
            self._description,
            self._checks_ssrcs,
            missed,
        )

    def send(self, message: ServerMessage) -> None:
        """Say something to the client. Nothing happens once the session is closed."""
        if self._state is _State.CLOSED:
            return
        if self._output.unread >= MAX_UNREAD:
            self._output.drain()
            self.close(VoiceCloseCode.RATE_LIMITED, "too slow: messages were not read")
            return
        self._output.put(message)

    def close(self, code: int, reason: str) -> None:
        """Close the websocket. What was sent before is still delivered.

        The session ends as well, unless the code is one after which clients resume.
        """
        if self._state is _State.CLOSED:
            return
        self._closing = (code, reason)
        if self._state is _State.LIVE and close_meaning(code).resumable:
            self._detach(code, reason)
        else:
            self._finish(code, reason)

    def messages_to_send(self) -> list[str | bytes]:
        """What has to be written to the websocket, oldest first."""
        return self._output.drain()

    def next_event(self) -> VoiceServerEvent | None:
        """The oldest event that was not taken yet."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """When the client will have been silent, or away, for too long."""
        return self._deadline

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        if self._deadline is None or now < self._deadline:
            return
        if self._state is _State.DETACHED:
            self._finish(self._lost_code, "not resumed in time", expired=True)
        else:
            silent = "no Identify" if self._state is _State.GREETING else "no heartbeat"
            self.close(VoiceCloseCode.SESSION_TIMEOUT, silent)

    def _detach(self, code: int | None, reason: str) -> None:
        if self._config.resume_window <= 0:
            self._finish(code, reason)
            return
        # Until the websocket is really gone no time runs: closing it may take some.
        self._state, self._deadline, self._lost_code = _State.DETACHED, None, code
        self._output.detach()
        self._events.append(Detached(code, reason))

    def _finish(self, code: int | None, reason: str, *, expired: bool = False) -> None:
        if self._state is not _State.CLOSED:
            self._state = _State.CLOSED
            self._deadline = None
            self._events.append(Closed(code, reason, expired))

    def _receive(self, message: ClientMessage | UnknownMessage, now: float) -> None:
        match message:
            case UnknownMessage(opcode=opcode) if opcode not in _DEAD_OPCODES:
                self.close(VoiceCloseCode.UNKNOWN_OPCODE, f"unknown opcode {opcode}")
            case Identify():
                self._identify(message, now)
            case Resume():
                self._resume(message, now)
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
            case TransitionReady() | InvalidCommitWelcome():
                self._take_dave(message)
            case _:
                self._counters[f"voice.ignored.{opcode_of(message)}"] += 1

    def _take_dave(self, message: DaveMessage) -> None:
        has_dave = self._admission is not None and self._admission.describe_dave is not None
        if has_dave and self._state is _State.LIVE:
            self._events.append(DaveReceived(message))
        else:
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

    def _resume(self, resume: Resume, now: float) -> None:
        if self._state is not _State.GREETING:
            self.close(VoiceCloseCode.ALREADY_AUTHENTICATED, "already identified")
            return
        found = self._find(resume)
        if isinstance(found, Refusal):
            self.close(found.code, found.reason)
            return
        self._state = _State.LIVE
        self._beat(now)
        found.output.attach(self._output.version, self._output.drain(), found.missed)
        self._output, self._admission, self._ready = found.output, found.admission, found.ready
        self._description, self._checks_ssrcs = found.description, found.checks_ssrcs
        if found.describe:
            self.send(replace(found.description, dave_protocol_version=_dave_of(found.admission)))
        self._events.append(SessionResumed(found.missed, found.describe))

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
            dave_protocol_version=_dave_of(self._admission),
        )
        if terms is None:
            key = self._config.random_bytes(32)
            description = replace(description, mode=select.mode, secret_key=key)
        else:
            self._checks_ssrcs = False
            description = replace(description, sdp=make_fragment(terms, self._admission))
        self._description = description
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
        refusal = refuse_ssrcs(message, self._ready) if self._checks_ssrcs else None
        if refusal is not None:
            self.close(refusal.code, refusal.reason)
            return
        self._events.append(SpeakingSet(message.speaking, message.ssrc))

    def _set_video(self, message: Video) -> None:
        assert self._ready is not None
        refusal = refuse_ssrcs(message, self._ready) if self._checks_ssrcs else None
        if refusal is not None:
            self.close(refusal.code, refusal.reason)
            return
        self._events.append(VideoSet(message))
        if self._output.version >= 5:  # op 15 exists from version 5 on
            self.send(MediaSinkWants(any=100))


def _dave_of(admission: Admission) -> int:
    return 0 if admission.describe_dave is None else admission.describe_dave()
