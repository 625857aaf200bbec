"""States and events of the voice gateway client machine. Sans-I/O. Spec: see `voice`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import (
        Ready,
        ServerMessage,
        SessionDescription,
        UnknownMessage,
    )


@dataclass(frozen=True, slots=True)
class Greeting:
    """Connected; waits for Hello until ``deadline``."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Identifying:
    """Identify was sent; waits for Ready until ``deadline``."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Selecting:
    """Waits for our `SelectProtocol`, and once it is sent until ``deadline`` for the answer."""

    ready: Ready
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """Media may flow."""

    ready: Ready
    description: SessionDescription


@dataclass(frozen=True, slots=True)
class Resuming:
    """The websocket broke and the session is still there; media flows on.

    Attributes:
        ready: As while live.
        description: As while live.
        since: When the websocket was lost.
        deadline: When the session is given up.
        answer_by: When the websocket that is open now is given up; None while there is none.
        asked: Whether Resume went out on that websocket.
    """

    ready: Ready
    description: SessionDescription
    since: float
    deadline: float
    answer_by: float | None = None
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """Over, for the given reason."""

    reason: str


SessionState = Greeting | Identifying | Selecting | Live | Resuming | Closed


@dataclass(frozen=True, slots=True)
class Greeted:
    """Hello came; heartbeats go out every ``interval`` seconds."""

    interval: float


@dataclass(frozen=True, slots=True)
class ReadyReceived:
    """The server accepted us."""

    message: Ready


@dataclass(frozen=True, slots=True)
class Described:
    """The transport is agreed on. Comes again while live if anything in it has changed."""

    message: SessionDescription


@dataclass(frozen=True, slots=True)
class Received:
    """Any other message of the server, unknown ones included."""

    message: ServerMessage | UnknownMessage


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """A heartbeat came back after ``rtt`` seconds."""

    rtt: float


@dataclass(frozen=True, slots=True)
class HeartbeatMissed:
    """Three heartbeats in a row were not answered before the session was live: it is over."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """The open websocket is dead, and the session is not: cut it, and open another one."""


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """The session goes on, after ``away`` seconds without a websocket. What the server said
    meanwhile comes before or after this, like everything else.
    """

    away: float


@dataclass(frozen=True, slots=True)
class ResumeFailed:
    """No resume in time: the session is over."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The server did not send ``phase`` (hello, ready or description) in time."""

    phase: str


@dataclass(frozen=True, slots=True)
class Unexpected:
    """A known message came in a state that has no use for it, and was ignored."""

    state: str
    opcode: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame could not be read and was ignored."""

    reason: str


VoiceEvent = (
    Greeted
    | ReadyReceived
    | Described
    | Received
    | HeartbeatAnswered
    | HeartbeatMissed
    | Stalled
    | SessionResumed
    | ResumeFailed
    | TimedOut
    | Unexpected
    | Dropped
)
