"""What a voice connection tells its user, and the subscriptions that carry it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from discord_rtc.errors import EventsOverflow

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.frames import MediaKind
    from discord_rtc.media.track import RemoteTrack
    from discord_rtc.protocol.dave.events import E2eeState
    from discord_rtc.protocol.messages import CodecInfo
    from discord_rtc.protocol.opcodes import SpeakingFlags

SUBSCRIPTION_BOUND = 1024
"""Events a subscription holds before it is ended with `EventsOverflow`."""


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events of a connection."""


@dataclass(frozen=True, slots=True)
class UserJoined(Event):
    """A user is in the call (also sent for everybody who was there before us)."""

    user_id: int


@dataclass(frozen=True, slots=True)
class UserLeft(Event):
    """A user left the call; the user's tracks have ended."""

    user_id: int


@dataclass(frozen=True, slots=True)
class UserSpeaking(Event):
    """A user began (``speaking`` true) or stopped to speak.

    Real servers send op 5 once, not per utterance, so this follows the packets: speech
    ends with a silence frame or 200 ms without a packet.
    """

    user_id: int
    speaking: bool
    flags: SpeakingFlags


@dataclass(frozen=True, slots=True)
class TrackStarted(Event):
    """The first media of a user's track arrived."""

    user_id: int
    kind: MediaKind
    track: RemoteTrack


@dataclass(frozen=True, slots=True)
class TrackEnded(Event):
    """A user stopped a track, or left."""

    user_id: int
    kind: MediaKind


@dataclass(frozen=True, slots=True)
class PublishingEnded(Event):
    """One of our own published tracks came to its end, or failed with ``error``."""

    kind: MediaKind
    error: Exception | None


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """The connection's ``state`` changed: connecting, connected, reconnecting, closed."""

    state: str


@dataclass(frozen=True, slots=True)
class TransportChanged(Event):
    """Media flows over this transport from now on; for the first one, too."""

    transport: str


@dataclass(frozen=True, slots=True)
class TransportFailed(Event):
    """A media path did not work, or not any more (`PathLost`); another one may be tried."""

    transport: str
    error: Exception


@dataclass(frozen=True, slots=True)
class E2eeChanged(Event):
    """End-to-end encryption went on, off or to wait, or the privacy code is another.

    The code changes whenever somebody joins or leaves; all members of the call see the same.

    Attributes:
        state: ``off``: the call is not encrypted. ``pending``: it is, but there is no group yet (as
            long as we are alone in it); nothing is sent. ``active``.
        privacy_code: 30 digits while active.
        reason: Why, for the eyes of a user; None for the plain course of things.
    """

    state: E2eeState
    privacy_code: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class CodecsChanged(Event):
    """Another client told its codecs (op 14)."""

    codecs: tuple[CodecInfo, ...]


@dataclass(frozen=True, slots=True)
class LayerWanted(Event):
    """The server tells which layers of ours are wanted (op 15), SSRC to 0-100."""

    any: int | None
    ssrcs: dict[int, int]


@dataclass(frozen=True, slots=True)
class UnknownReceived(Event):
    """The server sent an opcode that this library does not know; it was ignored."""

    opcode: int
    data: object


@dataclass(frozen=True, slots=True)
class Invalidated(Event):
    """The connection is over for good. ``error`` is None when the user asked for it."""

    reason: str
    error: Exception | None


E = TypeVar("E", bound=Event)


class _Subscriber(Protocol):
    """A subscription, whatever its types."""

    def offer(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Subscription(Generic[E]):
    """An async iterator over events of some types.

    It holds at most `SUBSCRIPTION_BOUND` events; a reader that falls further behind gets
    `EventsOverflow` instead of a silent gap, and the connection is never held up.
    Iteration ends when the connection is closed or `close` is called.
    """

    def __init__(self, types: tuple[type[E], ...], left: Callable[[_Subscriber], None]) -> None:
        self._types = types
        self._left = left
        self._events: deque[E] = deque()
        self._ready = asyncio.Event()
        self._ended = False
        self._overflowed = False

    def offer(self, event: Event) -> None:
        """Take an event if its type was asked for."""
        if self._ended or not isinstance(event, self._types):
            return
        if len(self._events) >= SUBSCRIPTION_BOUND:
            self._overflowed = True
            self._events.clear()
            self.close()
            return
        self._events.append(event)
        self._ready.set()

    def close(self) -> None:
        """End the iteration once what is held has been read."""
        if not self._ended:
            self._ended = True
            self._left(self)
        self._ready.set()

    def __aiter__(self) -> Subscription[E]:
        return self

    async def __anext__(self) -> E:
        while not self._events:
            if self._overflowed:
                raise EventsOverflow(f"more than {SUBSCRIPTION_BOUND} events were not read")
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._events.popleft()

    async def __aenter__(self) -> Subscription[E]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class EventBus:
    """Hands every event to all subscriptions, in order."""

    def __init__(self) -> None:
        self._subscriptions: list[_Subscriber] = []
        self._closed = False

    def subscribe(self, types: tuple[type[E], ...]) -> Subscription[E]:
        """A new subscription to these types. After `close` it is already at its end."""
        subscription = Subscription(types, self._leave)
        if self._closed:
            subscription.close()
        else:
            self._subscriptions.append(subscription)
        return subscription

    def emit(self, event: Event) -> None:
        """Hand out one event."""
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)

    def close(self) -> None:
        """End all subscriptions."""
        self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def _leave(self, subscription: _Subscriber) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
