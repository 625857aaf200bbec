"""Voice gateway client machine. Sans-I/O. Spec: userdoccers, "Voice Connections", v4 to v9.

One `VoiceSession` is one voice session, seen from the client, over as many websockets as it
takes. It is fed frames and time and gives back frames, events and a deadline; it never waits
and never reads a clock.

========================  =============  ====================================================
state                     holds          leaves on
========================  =============  ====================================================
`Greeting`                deadline       Hello -> `Identifying`; Identify goes out
`Identifying`             deadline       Ready -> `Selecting`
`Selecting`               Ready          `select_protocol`, then Session Description -> `Live`
`Live`                    both           lost websocket -> `Resuming`
`Resuming`                both, deadline Hello: Resume goes out; then Resumed -> `Live`
`Closed`                  reason         nothing
========================  =============  ====================================================

Rules that hold in every state:

* A deadline exists unless the machine is closed: that of the phase (Hello, Ready, Session
  Description, Resumed), that of the next heartbeat, or both. A phase that takes too long ends
  in `TimedOut`, a server that leaves three heartbeats unanswered in `HeartbeatMissed`; either
  closes the machine. While live unanswered heartbeats mean that the websocket is dead, not the
  session: `Stalled` asks for another one.
* Nothing is sent before Hello, and no heartbeat before Identify (close code 4003). Hello makes
  Identify go out and starts the heartbeats; they depend on nothing but time, so a slow media
  path cannot end a session with 4009.
* A message that the state's row in `EXPECTED` does not name is an `Unexpected` event, a frame
  that cannot be read is a `Dropped` event; both are counted and neither is fatal. Unknown
  opcodes are handed on as `Received`.
* A live session survives its websocket when the close code says so (`close_meaning`) and the
  gateway version has sequence numbers; without these the server could not tell what was missed,
  and joining anew is the better cure. Resume names the last number seen, and what is replayed is
  handled like everything else, before or after Resumed.
* Messages of end-to-end encryption are in every row: the MLS external sender may come before
  the Session Description. They are handed on in the order of arrival, never dropped.
* What the user sends before `Live` is kept (256 messages, the oldest dropped and counted) and
  follows the prologue: op 5 "not speaking", without which audio is refused as "invalid SSRC",
  and the cleared op 12. What is sent while `Resuming` follows the last op 5 and whatever may
  have been lost with the websocket (see `outbox`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from discord_rtc.errors import InvalidState, MalformedMessage, UsageError
from discord_rtc.protocol.credentials import VoiceCredentials, VoiceOptions
from discord_rtc.protocol.expectations import EXPECTED
from discord_rtc.protocol.heartbeats import Heartbeats
from discord_rtc.protocol.messages import (
    ClientMessage,
    Heartbeat,
    HeartbeatAck,
    Hello,
    NoRoute,
    Ready,
    Resumed,
    SelectProtocol,
    ServerMessage,
    SessionDescription,
    Speaking,
    UndecodableMessage,
    UnknownMessage,
    Video,
    build,
    opcode_of,
    parse_from_server,
)
from discord_rtc.protocol.opcodes import close_meaning
from discord_rtc.protocol.outbox import Outbox, Sendable
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
    ResumeFailed,
    Resuming,
    Selecting,
    SessionResumed,
    SessionState,
    Stalled,
    TimedOut,
    Unexpected,
    VoiceEvent,
)
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "VoiceSession", "VoiceCredentials", "VoiceOptions", "Sendable", "SUPPORTED_VERSIONS",
    "SessionState", "Greeting", "Identifying", "Selecting", "Live", "Resuming", "Closed",
    "VoiceEvent", "Greeted", "ReadyReceived", "Described", "Received", "HeartbeatAnswered",
    "HeartbeatMissed", "Stalled", "SessionResumed", "ResumeFailed", "TimedOut", "Unexpected",
    "Dropped",
]  # fmt: skip

SUPPORTED_VERSIONS = range(4, 10)
"""Servers refuse gateway versions below 4 since November 2024 (userdoccers)."""

_NUMBERED_VERSION = 8  # from this gateway version on messages have sequence numbers
_ANSWER_TIMEOUT = 5.0  # seconds for Hello and Resumed on a fresh websocket; then another is tried
_QUEUE_LIMIT = 1024  # drained after each input, so only a caller that never drains gets here


class VoiceSession:
    """The client's side of one voice session.

    Contract of every machine here: one input, then flush `messages_to_send`, drain
    `next_event`, and re-arm the timer with `next_timeout`.

    Args:
        credentials: From the main gateway.
        options: What to ask for.
        now: Monotonic seconds; `socket_opened` says when there is a websocket.
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
        self._outbox = Outbox()
        self._beats = Heartbeats(now=now, clock_ms=clock_ms)
        self._fence: int | None = None  # a heartbeat whose answer comes after the replay
        self._drops: Counter[str] = Counter()
        self._seq_ack = -1

    @property
    def state(self) -> SessionState:
        """Where the session is."""
        return self._state

    @property
    def ready(self) -> Ready | None:
        """The server's Ready, once it came and while not closed."""
        return self._state.ready if isinstance(self._state, Selecting | Live | Resuming) else None

    @property
    def description(self) -> SessionDescription | None:
        """The newest Session Description while live or resuming."""
        return self._state.description if isinstance(self._state, Live | Resuming) else None

    @property
    def seq_ack(self) -> int:
        """Last sequence number seen, -1 for none."""
        return self._seq_ack

    @property
    def drops(self) -> dict[str, int]:
        """Reason to count for everything that was ignored or lost."""
        overflows = self._outbox.drops | {
            "event-overflow": self._events.dropped,
            "outgoing-overflow": self._outgoing.dropped,
        }
        return dict(self._drops) | {reason: count for reason, count in overflows.items() if count}

    def socket_opened(self, now: float) -> None:
        """There is a websocket; the first one, or another one after `socket_lost`."""
        if isinstance(self._state, Greeting):
            self._state = Greeting(now + self._options.timeout)
        elif isinstance(self._state, Resuming):
            self._state = replace(self._state, answer_by=now + _ANSWER_TIMEOUT)

    def socket_lost(self, code: int | None, now: float) -> bool:
        """The websocket is gone.

        Args:
            code: Of the close frame; None when it broke without one.
            now: Monotonic seconds.

        Returns:
            Whether the session is still there, so that another websocket is worth opening.
        """
        if isinstance(self._state, Live | Resuming) and self._can_resume(code):
            self._suspend(self._state, now)
            return True
        if not isinstance(self._state, Closed):
            self.close(close_meaning(code).meaning)
        return False

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
        """Send a message as soon as the session is live, or live again, in order.

        Only No Route does not wait: it says why the session will not be live.

        When the session is closed the message is counted and ignored: the event that told so
        may not have reached the caller yet.
        """
        if isinstance(self._state, Closed):
            self._drops["send-after-end"] += 1
        elif isinstance(self._state, Live) or (
            isinstance(message, NoRoute) and isinstance(self._state, Selecting)
        ):
            self._say(message)
        else:
            self._outbox.keep(message)

    def close(self, reason: str) -> None:
        """The session is over: stop the heartbeats."""
        self._state = Closed(reason)

    def messages_to_send(self) -> list[str | bytes]:
        """Take the frames to send: str as text, bytes as binary."""
        return self._outgoing.drain()

    def next_event(self) -> VoiceEvent | None:
        """Take the oldest event."""
        return self._events.pop()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is due; None only when closed."""
        deadlines = (self._phase_deadline(), self._beats.due)
        if isinstance(self._state, Closed):
            return None
        return min(deadline for deadline in deadlines if deadline is not None)

    def handle_timeout(self, now: float) -> None:
        """Send a heartbeat that is due, or give up what takes too long. Early calls do nothing."""
        if isinstance(self._state, Closed):
            return
        deadline = self._phase_deadline()
        if deadline is not None and now >= deadline:
            self._time_out(now)
        elif self._beats.due is not None and now >= self._beats.due:
            self._beat_on_schedule(now)

    def _phase_deadline(self) -> float | None:
        match self._state:
            case Greeting(deadline) | Identifying(deadline) | Selecting(_, deadline):
                return deadline
            case Resuming(deadline=deadline, answer_by=answer_by):
                return deadline if answer_by is None else min(deadline, answer_by)
            case Live() | Closed():
                return None
            case _:  # pragma: no cover - the type checker proves that there is no other state
                assert_never(self._state)

    def _time_out(self, now: float) -> None:
        if isinstance(self._state, Resuming):
            if now < self._state.deadline:
                self._stall(self._state, now)
            else:
                self._events.append(ResumeFailed())
                self.close("not resumed in time")
            return
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
        elif isinstance(message, EXPECTED[type(self._state)]):
            self._apply(message, now)
        else:
            self._ignore(message)

    def _ignore(self, message: ServerMessage) -> None:
        self._drops["unexpected"] += 1
        self._events.append(Unexpected(type(self._state).__name__, opcode_of(message)))

    def _apply(self, message: ServerMessage, now: float) -> None:
        match message:
            case Hello():
                self._greet(message, now)
            case Resumed():
                self._resume(now)
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
                self._outbox.proven_by(message)
                self._events.append(Received(message))

    def _greet(self, hello: Hello, now: float) -> None:
        state = self._state
        if not isinstance(state, Resuming):
            interval = self._beats.start(hello.heartbeat_interval, now)
            self._queue(self._credentials.identify(self._options))
            self._state = Identifying(now + self._options.timeout)
            self._events.append(Greeted(interval))
        elif state.answer_by is None or state.asked:
            self._ignore(hello)
        else:
            self._beats.start(hello.heartbeat_interval, now)
            self._queue(self._credentials.resume(self._seq_ack))
            self._state = replace(state, asked=True)

    def _can_resume(self, code: int | None) -> bool:
        return self._options.version >= _NUMBERED_VERSION and close_meaning(code).resumable

    def _suspend(self, state: Live | Resuming, now: float) -> None:
        self._beats.stop()
        self._fence = None
        self._outgoing.drain()  # what was said is in the outbox; the rest was of that websocket
        if isinstance(state, Resuming):
            self._state = replace(state, answer_by=None, asked=False)
        else:
            deadline = now + self._options.resume_timeout
            self._state = Resuming(state.ready, state.description, now, deadline)

    def _stall(self, state: Live | Resuming, now: float) -> None:
        self._events.append(Stalled())
        self._suspend(state, now)

    def _resume(self, now: float) -> None:
        state = self._state
        assert isinstance(state, Resuming)  # the only row that names it
        if not state.asked:
            self._ignore(Resumed())
            return
        self._state = Live(state.ready, state.description)
        self._events.append(SessionResumed(now - state.since))
        for message in self._outbox.again():
            self._say(message)
        self._beat(now)
        self._fence = self._beats.last

    def _describe(self, description: SessionDescription) -> None:
        state = self._state
        assert isinstance(state, Selecting | Live | Resuming)  # the only rows that name it
        if isinstance(state, Selecting) and state.deadline is None:
            self._ignore(description)  # nothing was selected yet
        elif isinstance(state, Selecting):
            self._state = Live(state.ready, description)
            self._events.append(Described(description))
            self._begin(state.ready)
        elif description != state.description:  # some servers repeat it after a resume
            self._state = replace(state, description=description)
            self._events.append(Described(description))

    def _begin(self, ready: Ready) -> None:
        self._say(Speaking(speaking=0, ssrc=ready.ssrc, delay=0))
        self._say(Video(audio_ssrc=ready.ssrc, video_ssrc=0, rtx_ssrc=0))
        for message in self._outbox.take():
            self._say(message)

    def _beat_on_schedule(self, now: float) -> None:
        if not self._beats.unheeded:
            self._beats.expect(now)
            self._beat(now)
        elif isinstance(self._state, Live | Resuming) and self._can_resume(None):
            self._stall(self._state, now)
        else:
            self._events.append(HeartbeatMissed())
            self.close("heartbeats are not answered")

    def _beat(self, now: float) -> None:
        self._queue(Heartbeat(self._beats.beat(now), self._seq_ack))

    def _acknowledge(self, ack: HeartbeatAck, now: float) -> None:
        rtt = self._beats.answered(ack.t, now)
        if rtt is not None:
            self._events.append(HeartbeatAnswered(rtt))
            if isinstance(self._state, Live):  # else it is about a websocket that said nothing yet
                self._outbox.proven(ack.t)
        if self._fence is not None and ack.t >= self._fence:
            self._fence = None
            for message in self._outbox.held_back():
                self._say(message)

    def _say(self, message: Sendable) -> None:
        self._outbox.said(message, self._beats.last)
        self._queue(message)

    def _queue(self, message: ClientMessage) -> None:
        self._outgoing.append(build(message, version=self._options.version))
