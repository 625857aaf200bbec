"""One datagram path to the voice server, as ICE finds it: what both agents have in common. No I/O.

Spec: RFC 8445 (ICE), RFC 7675 (consent).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from discord_rtc.ice.agent import IceTimings

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.ice.credentials import IceCredentials
    from discord_rtc.protocol.sdp import ServerFragment

Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class WebRtcTimings:
    """When things happen on a WebRTC path, in seconds. Tests shorten them.

    Attributes:
        deadline: ICE and DTLS together, from the server's answer.
        gathering: How long a connection that may do without them waits for STUN and TURN servers:
            enough for TURN over TLS at 200 ms a round trip, and it leaves twice as much for the
            rest.
        closing: How long closing waits for a TURN server to release its allocation.
        ice: Of our own agent; its deadline is the one above.
    """

    deadline: float = 4.5
    gathering: float = 1.5
    closing: float = 1.0
    ice: IceTimings = field(default_factory=IceTimings)


@dataclass(frozen=True, slots=True)
class PathOwner:
    """Who uses a path, and what it is told.

    Attributes:
        receive: Called on the loop with each datagram that is not ICE's own.
        lost: Called with a reason when the path worked and does not any more; nothing follows.
        drops: Where to count, by reason.
        clock: Must tick like the running loop's time.
    """

    receive: Callable[[bytes], None]
    lost: Callable[[str], None]
    drops: Counter[str]
    clock: Clock


class IcePath(Protocol):
    """A path that is prepared early, connected when the server's fragment is there, then used."""

    @property
    def credentials(self) -> IceCredentials:
        """Ours, for the offer."""
        ...

    @property
    def overhead(self) -> int:
        """Bytes that a relay may put in front of each datagram, on top of IP and UDP."""
        ...

    @property
    def rtt(self) -> float | None:
        """Round trip of the latest check in seconds, where the agent tells."""
        ...

    @property
    def local_address(self) -> Address | None:
        """What the server sees us as, as far as the agent tells."""
        ...

    @property
    def candidates(self) -> tuple[str, ...]:
        """``candidate:...`` each, as far as they are known; for inspection."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """Drops that only the agent sees, by reason."""
        ...

    async def gather(self, server: Address | None) -> None:
        """Begin whatever can be done before the server's answer; does not wait for it.

        Args:
            server: The voice server, None when it is not known yet. May be called again.

        Raises:
            ConnectError: Not an address, or no local socket toward it.
        """
        ...

    async def connect(self, fragment: ServerFragment, timeout: float) -> None:
        """Prove the path in both directions and nominate it.

        Args:
            fragment: The server's side.
            timeout: Seconds that it may take; the caller may cancel it earlier.

        Raises:
            IceFailed: It does not work, with the text of `explain`.
            ConnectError: No local socket, or closed meanwhile.
        """
        ...

    def explain(self) -> str:
        """Why ``connect`` has not succeeded so far: what was seen, and what helps."""
        ...

    def send(self, datagram: bytes) -> bool:
        """Send one datagram, or count why not. Never blocks, never raises for network trouble.

        Returns:
            Whether it was handed on.
        """
        ...

    async def aclose(self) -> None:
        """Release sockets and tasks. Idempotent; a ``connect`` under way fails."""
        ...
