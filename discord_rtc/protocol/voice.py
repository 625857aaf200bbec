"""Voice gateway client machine. Sans-I/O. Spec: userdoccers, "Voice Connections", v4 to v9.

One `VoiceSession` is one websocket connection, seen from the client. It is fed frames and time
and gives back frames, events and a deadline; it never waits and never reads a clock.

========================  =============  ====================================================
state                     holds          leaves on
========================  =============  ====================================================
`Greeting`                deadline       Hello -> `Identifying`; Identify goes out
`Identifying`             deadline       Ready -> `Selecting`
`Selecting`               Ready          `select_protocol`, then Session Description -> `Live`
`Live`                    both           another Session Description -> `Live`
`Closed`                  reason         nothing
========================  =============  ====================================================

Rules that hold in every state:

* A deadline exists unless the machine is closed: that of the phase (Hello, Ready, Session
  Description), that of the next heartbeat, or both. A phase that takes too long ends in
  `TimedOut`, a server that leaves three heartbeats unanswered in `HeartbeatMissed`; either
  closes the machine.
* Nothing is sent before Hello, and no heartbeat before Identify (close code 4003). Hello makes
  Identify go out and starts the heartbeats; they depend on nothing but time, so a slow media
  path cannot end a session with 4009.
* A message that the state's row in `_EXPECTED` does not name is an `Unexpected` event, a frame
  that cannot be read is a `Dropped` event; both are counted and neither is fatal. Unknown
  opcodes are handed on as `Received`.
* Messages of end-to-end encryption are in every row: the MLS external sender may come before
  the Session Description. They are handed on in the order of arrival, never dropped.
* What the user sends before `Live` is kept (256 messages, the oldest dropped and counted) and
  follows the prologue: op 5 "not speaking", without which audio is refused as "invalid SSRC",
  and the cleared op 12.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from discord_rtc.errors import InvalidState, MalformedMessage, UsageError
from discord_rtc.protocol.credentials import VoiceCredentials, VoiceOptions
from discord_rtc.protocol.messages import (
    BackendVersion,
    BackendVersionRequest,
    ClientDisconnect,
    ClientFlags,
    ClientMessage,
    ClientPlatform,
    ClientsConnect,
    ExecuteTransition,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Identify,
    InvalidCommitWelcome,
    MediaSinkWants,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    NoRoute,
    PrepareEpoch,
    PrepareTransition,
    Ready,
    SelectProtocol,
    ServerMessage,
    SessionDescription,
    SessionUpdate,
    Speaking,
    TransitionReady,
    UndecodableMessage,
    UnknownMessage,
    Video,
    build,
    opcode_of,
    parse_from_server,
)
from discord_rtc.protocol.voice_events import (
    Closed,
    Described,
    Dropped,
    Greeted,
    Greeting,
    HeartbeatAnswered,
    HeartbeatMissed,
    Identifying,
    Live,
    ReadyReceived,
    Received,
    Selecting,
    SessionState,
    TimedOut,
    Unexpected,
    VoiceEvent,
)
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "VoiceSession", "VoiceCredentials", "VoiceOptions", "Sendable", "SUPPORTED_VERSIONS",
    "SessionState", "Greeting", "Identifying", "Selecting", "Live", "Closed",
    "VoiceEvent", "Greeted", "ReadyReceived", "Described", "Received", "HeartbeatAnswered",
    "HeartbeatMissed", "TimedOut", "Unexpected", "Dropped",
]  # fmt: skip

SUPPORTED_VERSIONS = range(4, 10)
"""Servers refuse gateway versions below 4 since November 2024 (userdoccers)."""

_LONGEST_HEARTBEAT_INTERVAL = 5.0  # as the web client and discord.py
_SHORTEST_HEARTBEAT_INTERVAL = 0.02  # a senseless Hello must not make the timer spin
_MISSED_HEARTBEATS_LIMIT = 3  # as discord.js
_KEPT_LIMIT = 256  # more than a user action or two per participant of a full channel
_QUEUE_LIMIT = 1024  # drained after each input, so only a caller that never drains gets here


Sendable = (
    Speaking
    | Video
    | SessionUpdate
    | MediaSinkWants
    | BackendVersionRequest
    | TransitionReady
    | MlsKeyPackage
    | MlsCommitWelcome
    | InvalidCommitWelcome
    | NoRoute
)
"""What `VoiceSession.send` takes; all other client messages are the machine's own."""

_BEATS = (Heartbeat, HeartbeatAck)
_ROOM = (
    Speaking,
    ClientsConnect,
    Video,
    ClientDisconnect,
    SessionUpdate,
    MediaSinkWants,
    BackendVersion,
    ClientFlags,
    ClientPlatform,
)
_DAVE = (
    PrepareTransition,
    ExecuteTransition,
    PrepareEpoch,
    MlsExternalSender,
    MlsProposals,
    MlsAnnounceCommit,
    MlsWelcome,
)
_EXPECTED: Mapping[type[SessionState], tuple[type[ServerMessage], ...]] = {
    Greeting: (Hello, *_DAVE),
    Identifying: (Ready, *_BEATS, *_DAVE),
    Selecting: (SessionDescription, *_BEATS, *_ROOM, *_DAVE),
    Live: (SessionDescription, *_BEATS, *_ROOM, *_DAVE),
    Closed: (),
}


class VoiceSession:
    """The client's side of one voice websocket.

    Contract of every machine here: one input, then flush `messages_to_send`, drain
    `next_event`, and re-arm the timer with `next_timeout`.

    Args:
        credentials: From the main gateway.
        options: What to ask for.
        now: Monotonic seconds at which the websocket was opened.
        clock_ms: Start value of the integers in heartbeats; any clock in milliseconds.

    Raises:
        UsageError: A gateway version outside 4 to 9.

    Spec:
        userdoccers, "Voice Connections"; protocol order as drawn there.
    """

    def __init__(
        self,
        credentials: VoiceCredentials,
        options: VoiceOptions | None = None,
        *,
        now: float,
        clock_ms: int = 0,
    ) -> None:
        self._credentials = credentials
        self._options = options or VoiceOptions()
        if self._options.version not in SUPPORTED_VERSIONS:
            raise UsageError(f"voice gateway version {self._options.version} is not within 4 and 9")
        self._state: SessionState = Greeting(now + self._options.timeout)
        self._outgoing: RollingQueue[str | bytes] = RollingQueue(_QUEUE_LIMIT)
        self._events: RollingQueue[VoiceEvent] = RollingQueue(_QUEUE_LIMIT)
        self._kept: RollingQueue[Sendable] = RollingQueue(_KEPT_LIMIT)
        self._drops: Counter[str] = Counter()
        self._seq_ack = -1
        self._opened_at = now
        self._clock_ms = clock_ms
        self._last_t = clock_ms - 1
        self._interval = _LONGEST_HEARTBEAT_INTERVAL
        self._next_beat: float | None = None
        self._unanswered: dict[int, float] = {}
        self._missed = 0

    @property
    def state(self) -> SessionState:
        """Where the session is."""
        return self._state

    @property
    def ready(self) -> Ready | None:
        """The server's Ready, once it came and while not closed."""
        return self._state.ready if isinstance(self._state, Selecting | Live) else None

    @property
    def description(self) -> SessionDescription | None:
        """The newest Session Description while live."""
        return self._state.description if isinstance(self._state, Live) else None

    @property
    def seq_ack(self) -> int:
        """Last sequence number seen, -1 for none."""
        return self._seq_ack

    @property
    def drops(self) -> dict[str, int]:
        """Reason to count for everything that was ignored or lost."""
        overflows = {
            "send-overflow": self._kept.dropped,
            "event-overflow": self._events.dropped,
            "outgoing-overflow": self._outgoing.dropped,
        }
        return dict(self._drops) | {reason: count for reason, count in overflows.items() if count}

    def receive_text(self, frame: str, now: float) -> None:
        """Take a text frame from the server."""
        self._receive(frame, now)

    def receive_binary(self, frame: bytes, now: float) -> None:
        """Take a binary frame from the server."""
        self._receive(frame, now)

    def select_protocol(self, message: SelectProtocol, now: float) -> None:
        """Say how media is to travel. Once per session; counted and ignored when closed.

        Raises:
            InvalidState: Ready did not come yet, or a protocol was selected already.
        """
        state = self._state
        if isinstance(state, Closed):
            self._drops["send-after-end"] += 1
            return
        if not isinstance(state, Selecting) or state.deadline is not None:
            raise InvalidState("a protocol is selected once, after Ready")
        self._queue(message)
        self._state = replace(state, deadline=now + self._options.timeout)

    def send(self, message: Sendable, now: float) -> None:  # noqa: ARG002 - an input has a time
        """Send a message as soon as the session is live, in order.

        Only No Route does not wait: it says why the session will not be live.

        When the session is closed the message is counted and ignored: the event that told so
        may not have reached the caller yet.
        """
        if isinstance(self._state, Closed):
            self._drops["send-after-end"] += 1
        elif isinstance(self._state, Live) or (
            isinstance(message, NoRoute) and isinstance(self._state, Selecting)
        ):
            self._queue(message)
        else:
            self._kept.append(message)

    def close(self, reason: str) -> None:
        """The websocket is gone or about to be closed: stop the heartbeats."""
        self._state = Closed(reason)

    def messages_to_send(self) -> list[str | bytes]:
        """Take the frames to send: str as text, bytes as binary."""
        return self._outgoing.drain()

    def next_event(self) -> VoiceEvent | None:
        """Take the oldest event."""
        return self._events.pop()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is due; None only when closed."""
        deadlines = (self._phase_deadline(), self._next_beat)
        if isinstance(self._state, Closed):
            return None
        return min(deadline for deadline in deadlines if deadline is not None)

    def handle_timeout(self, now: float) -> None:
        """Send a heartbeat that is due, or give up a phase. Early calls do nothing."""
        if isinstance(self._state, Closed):
            return
        deadline = self._phase_deadline()
        if deadline is not None and now >= deadline:
            self._time_out()
        elif self._next_beat is not None and now >= self._next_beat:
            self._beat_on_schedule(now)

    def _phase_deadline(self) -> float | None:
        match self._state:
            case Greeting(deadline) | Identifying(deadline) | Selecting(_, deadline):
                return deadline
            case Live() | Closed():
                return None
            case _:  # pragma: no cover - the type checker proves that there is no other state
                assert_never(self._state)

    def _time_out(self) -> None:
        phases: Mapping[type[SessionState], str] = {Greeting: "hello", Identifying: "ready"}
        phase = phases.get(type(self._state), "description")
        self._events.append(TimedOut(phase))
        self.close(f"no {phase} in time")

    def _receive(self, frame: str | bytes, now: float) -> None:
        if isinstance(self._state, Closed):
            return
        try:
            message, seq = parse_from_server(frame, version=self._options.version)
        except MalformedMessage as error:
            undecodable = isinstance(error, UndecodableMessage)
            self._drops["undecodable" if undecodable else "bad-field"] += 1
            self._events.append(Dropped(str(error)))
            return
        if seq is not None:  # 0 is a sequence number; order is not checked: store the last
            self._seq_ack = seq
        if isinstance(message, UnknownMessage):
            self._events.append(Received(message))
        elif isinstance(message, _EXPECTED[type(self._state)]):
            self._apply(message, now)
        else:
            self._ignore(message)

    def _ignore(self, message: ServerMessage) -> None:
        self._drops["unexpected"] += 1
        self._events.append(Unexpected(type(self._state).__name__, opcode_of(message)))

    def _apply(self, message: ServerMessage, now: float) -> None:
        match message:
            case Hello():
                self._identify(message, now)
            case Ready():
                self._state = Selecting(message)
                self._events.append(ReadyReceived(message))
            case SessionDescription():
                self._describe(message)
            case Heartbeat():
                self._beat(now)
            case HeartbeatAck():
                self._acknowledge(message, now)
            case _:
                self._events.append(Received(message))

    def _identify(self, hello: Hello, now: float) -> None:
        asked = hello.heartbeat_interval / 1000
        self._interval = max(_SHORTEST_HEARTBEAT_INTERVAL, min(asked, _LONGEST_HEARTBEAT_INTERVAL))
        self._next_beat = now + self._interval
        options, credentials = self._options, self._credentials
        self._queue(
            Identify(
                server_id=credentials.server_id,
                user_id=credentials.user_id,
                session_id=credentials.session_id,
                token=credentials.token,
                channel_id=credentials.channel_id,
                video=options.video,
                streams=options.streams,
                max_dave_protocol_version=options.max_dave_protocol_version,
            )
        )
        self._state = Identifying(now + options.timeout)
        self._events.append(Greeted(self._interval))

    def _describe(self, description: SessionDescription) -> None:
        state = self._state
        assert isinstance(state, Selecting | Live)  # the only rows that name it
        if isinstance(state, Selecting) and state.deadline is None:
            self._ignore(description)  # nothing was selected yet
            return
        self._state = Live(state.ready, description)
        self._events.append(Described(description))
        if isinstance(state, Selecting):
            self._begin(state.ready)

    def _begin(self, ready: Ready) -> None:
        self._queue(Speaking(speaking=0, ssrc=ready.ssrc, delay=0))
        self._queue(Video(audio_ssrc=ready.ssrc, video_ssrc=0, rtx_ssrc=0))
        for message in self._kept.drain():
            self._queue(message)

    def _beat_on_schedule(self, now: float) -> None:
        if self._missed >= _MISSED_HEARTBEATS_LIMIT:
            self._events.append(HeartbeatMissed())
            self.close("heartbeats are not answered")
            return
        self._missed += 1
        self._next_beat = now + self._interval  # from now: a late timer must not cause a burst
        self._beat(now)

    def _beat(self, now: float) -> None:
        elapsed_ms = int((now - self._opened_at) * 1000)
        self._last_t = max(self._last_t + 1, self._clock_ms + elapsed_ms)
        while len(self._unanswered) > _MISSED_HEARTBEATS_LIMIT:
            del self._unanswered[next(iter(self._unanswered))]
        self._unanswered[self._last_t] = now
        self._queue(Heartbeat(self._last_t, self._seq_ack))

    def _acknowledge(self, ack: HeartbeatAck, now: float) -> None:
        self._missed = 0  # any answer proves that the server is there
        sent_at = self._unanswered.pop(ack.t, None)
        if sent_at is not None:
            self._events.append(HeartbeatAnswered(now - sent_at))

    def _queue(self, message: ClientMessage) -> None:
        self._outgoing.append(build(message, version=self._options.version))
