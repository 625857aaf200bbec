"""What runs beside the media on a UDP path: IP discovery, then pings. Sans-I/O.

Spec: as `discord_rtc.protocol.discovery`, which holds the exchanges themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket
from discord_rtc.protocol.discovery import (
    DISCOVERY_DEADLINE,
    DISCOVERY_SCHEDULE,
    PING_INTERVAL,
    DiscoveryExchange,
    PingExchange,
    build_pong,
    is_discovery,
    parse_ping,
    parse_pong,
)

if TYPE_CHECKING:
    from collections import Counter


@dataclass(frozen=True, slots=True)
class UdpTimings:
    """When things are sent on a UDP path, in seconds. Tests shorten them.

    Attributes:
        discovery_schedule: Offsets of the discovery requests, ascending.
        discovery_deadline: When discovery has failed.
        ping_interval: Between pings; these keep the NAT binding open too.
    """

    discovery_schedule: tuple[float, ...] = DISCOVERY_SCHEDULE
    discovery_deadline: float = DISCOVERY_DEADLINE
    ping_interval: float = PING_INTERVAL


class UdpPath:
    """Everything on the path that is neither RTP nor RTCP, behind the five verbs.

    Args:
        timings: When to send.
        drops: Where ``junk`` is counted: keepalives, garbage and stray discovery alike.
    """

    def __init__(self, timings: UdpTimings, drops: Counter[str]) -> None:
        self._timings = timings
        self._drops = drops
        self._discovery: DiscoveryExchange | None = None
        self._pings: PingExchange | None = None
        self._pongs: list[bytes] = []

    @property
    def address(self) -> tuple[str, int] | None:
        """What discovery found, once it did."""
        return None if self._discovery is None else self._discovery.address

    @property
    def discovered(self) -> bool:
        """Whether discovery came to an end, one way or the other."""
        return self._discovery is not None and self._discovery.finished

    @property
    def rtt(self) -> float | None:
        """Round trip of the latest answered ping, seconds."""
        return None if self._pings is None else self._pings.rtt

    @property
    def unanswered_pings(self) -> int:
        """Pings without an answer in time."""
        return 0 if self._pings is None else self._pings.unanswered

    def discover(self, ssrc: int, now: float) -> None:
        """Begin IP discovery for our audio SSRC from Ready."""
        self._discovery = DiscoveryExchange(
            ssrc,
            now,
            schedule=self._timings.discovery_schedule,
            deadline=self._timings.discovery_deadline,
        )

    def keep_alive(self, now: float) -> None:
        """Begin pinging; goes on when it has begun already."""
        if self._pings is None:
            self._pings = PingExchange(now, interval=self._timings.ping_interval)

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take any datagram that is not RTP or RTCP; nothing in it can do harm."""
        if (sequence := parse_pong(datagram)) is not None:
            if self._pings is not None:
                self._pings.receive_pong(sequence, now)
        elif (sequence := parse_ping(datagram)) is not None:
            self._pongs.append(build_pong(sequence))
        elif is_discovery(datagram) and self._discovery is not None:
            try:
                self._discovery.receive_datagram(datagram)
            except MalformedPacket:
                self._drops["junk"] += 1
        else:
            self._drops["junk"] += 1

    def datagrams_to_send(self) -> list[bytes]:
        """What is due, each handed out once."""
        outbox, self._pongs = self._pongs, []
        if self._discovery is not None:
            outbox += self._discovery.datagrams_to_send()
        if self._pings is not None:
            outbox += self._pings.datagrams_to_send()
        return outbox

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is wanted next."""
        timeouts = [
            exchange.next_timeout()
            for exchange in (self._discovery, self._pings)
            if exchange is not None
        ]
        return min((due for due in timeouts if due is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        for exchange in (self._discovery, self._pings):
            if exchange is not None:
                exchange.handle_timeout(now)
