"""The transport of each session of a connection: walks its plan, and remembers what worked.

What the plan is, and why, is in `discord_rtc.transport.plan`. Spec: userdoccers, "Voice
Connections" ("No Route").
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from discord_rtc.errors import ConnectError, DiscoveryTimeout, IceFailed, NoRoute
from discord_rtc.transport.plan import attempts, check_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.clock import Clock
    from discord_rtc.transport.base import Transport
    from discord_rtc.transport.ice_options import IceOptions
    from discord_rtc.transport.plan import Attempt, TransportFactory, TransportName

MEMORY_BOUND = 64
"""Endpoints remembered per client; the least recently used ones are forgotten."""


class TransportMemory:
    """Which transport worked, by voice endpoint, for the life of a client."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, str] = OrderedDict()

    def worked(self, endpoint: str, name: str) -> None:
        """Media flows to this endpoint over that transport."""
        self._known[endpoint] = name
        self._known.move_to_end(endpoint)
        if len(self._known) > MEMORY_BOUND:
            self._known.popitem(last=False)

    def forget(self, endpoint: str) -> None:
        """What was known does not hold any more."""
        self._known.pop(endpoint, None)

    def known(self, endpoint: str) -> str | None:
        """What worked last."""
        return self._known.get(endpoint)


class TransportChoice:
    """Walks the plan of one connection, session by session.

    Args:
        choice: What the user wants.
        modes: Whether the user insists on transport encryption modes.
        ice: How the WebRTC transport finds its path.
        memory: What is known of endpoints; shared by the connections of a client.
        failed: Told name and error of every path that did not work, or not any more.
    """

    def __init__(
        self,
        choice: TransportName | TransportFactory,
        *,
        modes: bool,
        ice: IceOptions,
        memory: TransportMemory,
        failed: Callable[[str, Exception], None],
    ) -> None:
        check_choice(choice)
        self._choice = choice
        self._modes = modes
        self._ice = ice
        self._memory = memory
        self._failed = failed
        self._endpoint = self._live = ""
        self._left: list[Attempt] = []
        self._tried: list[tuple[str, Exception]] = []
        self._settled = 0  # how much of it is of attempts that are over

    def transport(self, endpoint: str, clock: Clock, *, renewable: bool) -> Transport:
        """The transport of the next session.

        Args:
            endpoint: Of the voice server, the name under which it is remembered.
            clock: For the transport.
            renewable: Whether another session can follow.
        """
        self._endpoint = endpoint
        if callable(self._choice):
            return self._choice(clock)
        if not self._left:
            known = self._memory.known(endpoint)
            self._left = list(
                attempts(
                    self._choice,
                    known=known,
                    renewable=renewable,
                    relay_only=self._ice.relay_only,
                    modes=self._modes,
                )
            )
            self._tried.clear()
            self._settled = 0
        # An attempt that something else cut short is made again from its beginning.
        del self._tried[self._settled :]
        attempt = self._left[0]
        # They take a third of a second to import, which users of memory transports and of
        # `--help` need not wait for.
        from discord_rtc.transport.fallback import make_transport  # noqa: PLC0415 - see above

        return make_transport(attempt, self._ice, clock, self._note)

    @property
    def undecided(self) -> bool:
        """Whether the plan has attempts left."""
        return bool(self._left)

    def worked(self, name: str) -> None:
        """The session is live over that transport."""
        self._live = name
        self._left.clear()
        self._tried.clear()
        if not callable(self._choice):
            self._memory.worked(self._endpoint, name)

    def path_lost(self, error: Exception) -> None:
        """The path of the live session died: the next one chooses from the beginning."""
        self._memory.forget(self._endpoint)
        self._failed(self._live, error)

    def refused(self, name: str, error: Exception) -> None:
        """The server does not have that transport, which was selected."""
        if self._left:
            self._note(name, error)

    def path_failed(self, error: Exception) -> Exception:
        """The attempt of this session is over, without media.

        Returns:
            ``error`` when the next session will try something else, otherwise what to end the
            connection with.
        """
        if callable(self._choice):
            return error
        del self._left[:1]
        if any(isinstance(seen, DiscoveryTimeout) for _, seen in self._tried):
            # What the probe did not reach, a session of its own would not reach, either.
            self._left = [attempt for attempt in self._left if attempt.names != ("udp",)]
        if self._left:
            self._settled = len(self._tried)
            return error
        self._memory.forget(self._endpoint)
        tried = tuple(self._tried)
        self._tried.clear()
        if not isinstance(error, ConnectError):
            return error  # the server's answer is at fault, not the way to it
        route = NoRoute(_explain(tried, self._ice), tried)
        route.__cause__ = error
        return route

    def _note(self, name: str, error: Exception) -> None:
        self._tried.append((name, error))
        self._failed(name, error)


def _explain(tried: tuple[tuple[str, Exception], ...], ice: IceOptions) -> str:
    """One text: which paths were tried, what each saw, and what would help."""
    seen = "; ".join(f"{name}: {error}" for name, error in tried)
    blocked = any(isinstance(error, (IceFailed, DiscoveryTimeout)) for _, error in tried)
    advice = ""
    if blocked and not ice.has_relay:
        advice = (
            ". Allow outgoing UDP to that address, or give a TURN server: "
            'ConnectionOptions(ice=IceOptions(servers=(IceServer("turn:host", ...),)))'
        )
    elif blocked:
        advice = ". The TURN server did not help: check its address, credentials and reach"
    return f"no media path to the voice server ({seen}){advice}"
