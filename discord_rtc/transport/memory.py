"""Two connected ends without any network, for tests: plain packets, delivered by the loop.

Where a test wants the network's faults without its timing, each direction can be impaired by a
seeded `Netem`. Nothing is protected; packets arrive as they were sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.modes import choose_mode
from discord_rtc.errors import InvalidState
from discord_rtc.netem import Impairment, Netem
from discord_rtc.rtp.packet import is_rtcp
from discord_rtc.transport.base import TransportStats
from discord_rtc.transport.delivery import Delivery
from discord_rtc.transport.negotiation import negotiate, select_udp

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.clock import Clock
    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
    from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, PacketSink

_SYSTEM_CLOCK = SystemClock()
_ADDRESS = ("192.0.2.1", 9)  # RFC 5737 documentation address, RFC 863 discard port: nobody
_MAX_PACKET_SIZE = 1232  # as with a live mode over UDP and IPv4


def memory_pair(
    clock: Clock = _SYSTEM_CLOCK, *, a_to_b: Netem | None = None, b_to_a: Netem | None = None
) -> tuple[MemoryTransport, MemoryTransport]:
    """Make two transports, each of which receives what the other one sends.

    Args:
        clock: Must tick like the running loop's time. With a `ManualClock`, impaired packets
            wait for `MemoryTransport.deliver_due`.
        a_to_b: Impairment from the first to the second; none by default.
        b_to_a: Impairment of the other direction.
    """
    forth = _Link(a_to_b or Netem(Impairment()), clock)
    back = _Link(b_to_a or Netem(Impairment()), clock)
    return MemoryTransport(back, forth), MemoryTransport(forth, back)


class MemoryTransport:
    """One end of a `memory_pair`. It sends and receives from the start, opened or not.

    Drops by reason: ``early`` (no sink yet), ``closed``, and what the link did to packets on their
    way here: ``link-lost``, ``link-overflow``.
    """

    def __init__(self, incoming: _Link, outgoing: _Link) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._drops: Counter[str] = Counter()
        self._delivery = Delivery(self._drops)
        self._negotiating: tuple[Ready, MediaOffer] | None = None
        self._closed = False
        self._sent = 0
        self._received = 0
        incoming.receive = self._receive

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        """Say what to select, as a UDP transport would; there is nothing to discover.

        Raises:
            NoCommonMode: The server offers no encryption mode that we may use.
            InvalidState: Called before.
        """
        if self._closed or self._negotiating is not None:
            raise InvalidState("a transport is opened once")
        mode = choose_mode(ready.modes, offer.modes)
        self._negotiating = (ready, offer)
        return select_udp(offer, mode=mode, address=_ADDRESS)

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        """Take the answer; its mode and key are not looked at, since nothing is protected.

        Raises:
            NoCommonCodec: The answer wants audio in a codec that was not offered.
            InvalidState: Not open.
        """
        if self._closed or self._negotiating is None:
            raise InvalidState("accept comes after open and before aclose")
        return negotiate(*self._negotiating, answer, max_packet_size=_MAX_PACKET_SIZE)

    def send_rtp(self, packet: bytes) -> None:
        """Send one plain RTP packet to the other end."""
        if self._closed:
            self._drops["closed"] += 1
            return
        self._sent += 1
        self._outgoing.send(packet)

    def send_rtcp(self, packet: bytes) -> None:
        """Send one plain compound RTCP packet to the other end."""
        self.send_rtp(packet)

    def deliver_to(self, sink: PacketSink) -> None:
        """Name the receiver. Packets that came earlier are handed over first, bounded."""
        self._delivery.attach(sink)

    def deliver_due(self) -> None:
        """Deliver what has arrived at this end by now; for clocks that a test moves by hand."""
        self._incoming.deliver_due()

    def lose(self, error: Exception) -> None:
        """Pretend that the path broke: the sink hears ``lost``, nothing is delivered any more."""
        self._delivery.lose(error)

    def stats(self) -> TransportStats:
        """Counters so far. There is no round-trip time."""
        link = self._incoming.netem.counters
        drops = self._drops + Counter({"link-lost": link.lost, "link-overflow": link.overflowed})
        return TransportStats(
            datagrams_sent=self._sent,
            datagrams_received=self._received,
            drops=MappingProxyType(drops),
            local_address=_ADDRESS,
            remote_address=_ADDRESS,
        )

    async def aclose(self) -> None:
        """Stop receiving and sending. Idempotent; the other end notices nothing, as with UDP."""
        self._closed = True
        self._delivery.close()
        self._incoming.close()

    def _receive(self, packet: bytes, now: float) -> None:
        self._received += 1
        self._delivery.packet(packet, now, rtcp=is_rtcp(packet))


class _Link:
    """One direction: a `Netem` and the timer that empties it."""

    def __init__(self, netem: Netem, clock: Clock) -> None:
        self.netem = netem
        self.receive: Callable[[bytes, float], None] | None = None
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def send(self, packet: bytes) -> None:
        if self.receive is not None:
            self.netem.send(packet, self._clock.now())
            self._arm()

    def deliver_due(self) -> None:
        now = self._clock.now()
        for packet in self.netem.receive(now):
            if self.receive is not None:  # closed by the receiver of the packet before
                self.receive(packet, now)
        self._arm()

    def close(self) -> None:
        self.receive = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        due = None if self.receive is None else self.netem.next_timeout()
        if due is None:
            return
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        # Never at once: the sender is not to find itself inside the receiver.
        delay = max(0.0, due - self._clock.now())
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.deliver_due()
