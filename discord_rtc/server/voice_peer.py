"""One websocket of the voice gateway, and those who wait for a resume or their end. Sans-I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.server.channel import Channel, Occupant
    from discord_rtc.server.session import VoiceServerSession
    from discord_rtc.server.world import Ticket


@dataclass(eq=False, slots=True)
class VoicePeer:
    """One websocket of the voice gateway.

    Attributes:
        session: Its machine.
        wake: Called when the machine has got something to send.
        ticket: What the client identified with.
        occupant: The client as others know it, from Ready on.
        channel: Where it is, from Session Description on.
        browser: Whether a browser opened it.
        abort: Cuts the websocket.
    """

    session: VoiceServerSession
    wake: Callable[[], None]
    ticket: Ticket | None = None
    occupant: Occupant | None = None
    channel: Channel | None = None
    browser: bool = False
    abort: Callable[[], None] = lambda: None

    def take_over(self, other: VoicePeer) -> None:
        """Be the websocket of another one's session from now on."""
        self.ticket, self.occupant, self.channel = other.ticket, other.occupant, other.channel
        self.browser = other.browser
        other.ticket = other.occupant = other.channel = None
        if self.occupant is not None:
            self.occupant.session, self.occupant.wake = self.session, self.wake


class Absences:
    """Sessions that wait for a resume, which nobody else wakes when they have waited enough, and
    websockets that are closed a little later than their sessions.

    Args:
        drain: Handles what a session reports.
    """

    def __init__(self, drain: Callable[[VoicePeer], None]) -> None:
        self._drain = drain
        self._peers: set[VoicePeer] = set()
        self._farewells: dict[VoicePeer, float] = {}

    def __contains__(self, peer: VoicePeer) -> bool:
        return peer in self._peers

    def add(self, peer: VoicePeer) -> None:
        """Its websocket is gone, or being closed."""
        self._peers.add(peer)

    def discard(self, peer: VoicePeer) -> None:
        """It was resumed, or has ended."""
        self._peers.discard(peer)

    def wake_later(self, peer: VoicePeer, at: float) -> None:
        """Let the websocket of a session that has ended be closed at that time."""
        self._farewells[peer] = at

    def next_timeout(self) -> float | None:
        """When somebody will have been away for too long."""
        times = [peer.session.next_timeout() for peer in self._peers]
        due = [time for time in times if time is not None]
        return min([*due, *self._farewells.values()], default=None)

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        for peer in tuple(self._peers):
            peer.session.handle_timeout(now)
            self._drain(peer)
        for peer in [peer for peer, at in self._farewells.items() if at <= now]:
            del self._farewells[peer]
            peer.wake()
