"""The server's one UDP socket on an asyncio loop. A thin shell around `legs` and rooms."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.certificate import Certificate
from discord_rtc.pump import Pump
from discord_rtc.server.legs import Demultiplexer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.errors import RtcError
    from discord_rtc.ice.credentials import IceCredentials
    from discord_rtc.pump import Timed
    from discord_rtc.server.faults import Address, Faults
    from discord_rtc.server.negotiation import WebRtcTerms
    from discord_rtc.server.sfu import LegSsrcs, Room
    from discord_rtc.server.socket_leg import SocketLeg
    from discord_rtc.server.udp_leg import UdpLeg
    from discord_rtc.server.webrtc_leg import WebRtcLeg

T = TypeVar("T")

DRAIN_LIMIT = 64
"""Datagrams read per wake-up: 2 to 4 times asyncio's one per turn, and others still get a turn."""

SOCKET_BUFFER = 4 << 20
"""Bytes asked for in each direction; the system may give less (Linux: net.core.rmem_max)."""

DATAGRAM_SIZE = 2048
"""Largest datagram read (userdoccers: receive buffers of at least 2048 bytes)."""


class _Together:
    """The timers of several sans-I/O objects as one, for the pump.

    It is asked after every wake-up, so those that nothing happened to have to answer at once.
    """

    def __init__(self, *machines: Timed) -> None:
        self.machines = list(machines)

    def next_timeout(self) -> float | None:
        due = [machine.next_timeout() for machine in self.machines]
        return min((at for at in due if at is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        for machine in tuple(self.machines):
            due = machine.next_timeout()
            if due is not None and due <= now:
                machine.handle_timeout(now)


class _Receiver(asyncio.DatagramProtocol):
    """For loops without ``add_reader`` (Windows' proactor): one datagram per turn."""

    def __init__(self, receive: Callable[[bytes, Address], None]) -> None:
        self._receive = receive
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._receive(data, addr)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self.lost.set_result(None)


class MediaSocket:
    """Carries the media of all users of a server. Made with `open`.

    Every call to a room goes through `run`, which says what time it is and keeps the timer
    right. Datagrams that the socket does not take at once are dropped and counted as
    ``send-buffer-full``: media that waits is worth less than media that is lost.

    Args:
        sock: Bound and non-blocking; closed by `aclose`.
        clock: Ticks like the running loop's time.
        faults: What happens to the traffic of users.
        on_leg_failed: Told once about a leg that cannot send any more (its nonces are used up,
            or DTLS failed), on a loop turn of its own. Its session has to end; the client begins
            a fresh one.

    Attributes:
        clock: As given.
        address: Host and port that it is bound to.
        receive_buffer: Bytes of buffer that the system really gave.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        clock: Clock,
        faults: Faults | None = None,
        on_leg_failed: Callable[[SocketLeg, RtcError], None] | None = None,
    ) -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        self.receive_buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        host, port = sock.getsockname()[:2]
        self.address: Address = (host, port)
        self._socket = sock
        self._send = sock.sendto
        self.clock = clock
        self._on_leg_failed = on_leg_failed
        self._certificate = Certificate.generate()
        self._counters: Counter[str] = Counter()
        self._legs = Demultiplexer(self._transmit, faults)
        self._rooms: list[Room] = []
        self._timers = _Together(self._legs)
        self._pump = Pump(self._timers, self._flush, clock)
        self._receiver: tuple[asyncio.DatagramTransport, _Receiver] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        host: str,
        port: int = 0,
        *,
        clock: Clock | None = None,
        faults: Faults | None = None,
        on_leg_failed: Callable[[SocketLeg, RtcError], None] | None = None,
    ) -> MediaSocket:
        """Bind a socket and listen.

        Args:
            host: Name or address, IPv4 or IPv6.
            port: 0 for any free one.
            clock: The system's by default.
            faults: As for the class.
            on_leg_failed: As for the class.

        Raises:
            OSError: The port is busy, or the host is not this machine.
        """
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = infos[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.bind(address)
            media = cls(
                sock, clock=clock or SystemClock(), faults=faults, on_leg_failed=on_leg_failed
            )
            await media.listen()
        except BaseException:
            sock.close()
            raise
        return media

    async def listen(self) -> None:
        """Begin to read. Part of `open`."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._socket, self._pump.run, self._drain)
        except NotImplementedError:
            self._receiver = await loop.create_datagram_endpoint(
                lambda: _Receiver(self._received), sock=self._socket
            )

    @property
    def faults(self) -> Faults:
        """What happens to the traffic of users."""
        return self._legs.faults

    @property
    def counters(self) -> Mapping[str, int]:
        """What was received, forwarded and dropped so far, by reason; of all legs and rooms."""
        return sum((room.counters for room in self._rooms), self._counters + self._legs.counters)

    @property
    def fingerprint(self) -> str:
        """Of the DTLS certificate, which is made anew with each socket; as in SDP."""
        return self._certificate.fingerprint

    def new_credentials(self) -> IceCredentials:
        """ICE credentials that no other session of this socket has."""
        return self._legs.new_credentials()

    def add_leg(self, user_id: int, ssrcs: LegSsrcs) -> UdpLeg:
        """Make the media path of a session, when its SSRCs are given out (Ready)."""
        return self._legs.add_leg(user_id, ssrcs)

    def select_webrtc(self, leg: UdpLeg, terms: WebRtcTerms) -> WebRtcLeg:
        """Make a WebRTC path in place of a path that was not started."""
        return self._legs.select_webrtc(leg, terms, self._certificate)

    def remove_leg(self, leg: SocketLeg) -> None:
        """Forget a leg, at once. Doing so twice is harmless."""
        self.run(lambda now: self._legs.remove_leg(leg, now))

    def add_room(self, room: Room) -> None:
        """Run a room's timers and show its counters."""
        self._rooms.append(room)
        self._timers.machines.append(room)

    def remove_room(self, room: Room) -> None:
        """Stop a room's timers; what it counted stays in the sum."""
        self._rooms.remove(room)
        self._timers.machines.remove(room)
        self._counters += room.counters

    def run(self, action: Callable[[float], T]) -> T:
        """Call a method of a room, with ``now``."""
        return self._pump.run(action, self.clock.now())

    async def aclose(self) -> None:
        """Close the socket and stop the timers. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._pump.close()
        self._legs.close(self.clock.now())
        if self._receiver is None:
            asyncio.get_running_loop().remove_reader(self._socket)
        else:
            transport, receiver = self._receiver
            transport.close()
            await receiver.lost
        self._socket.close()

    def _drain(self) -> None:
        now = self.clock.now()
        receive_from, receive = self._socket.recvfrom, self._legs.receive
        for _ in range(DRAIN_LIMIT):
            try:
                datagram, source = receive_from(DATAGRAM_SIZE)
            except BlockingIOError:
                return
            except OSError:  # an ICMP answer to something sent, on some systems
                self._counters["receive-error"] += 1
                return
            receive(datagram, source[:2], now)  # IPv6 sources have four parts

    def _received(self, datagram: bytes, source: Address) -> None:
        self._pump.run(self._legs.receive, datagram, source[:2], self.clock.now())

    def _transmit(self, datagram: bytes, address: Address) -> None:
        try:
            self._send(datagram, address)
        except BlockingIOError:
            self._counters["send-buffer-full"] += 1
        except OSError as error:
            full = error.errno == errno.ENOBUFS
            self._counters["send-buffer-full" if full else "send-error"] += 1

    def _flush(self, _now: float) -> None:
        for leg, error in self._legs.take_failed():
            if self._on_leg_failed is not None:
                asyncio.get_running_loop().call_soon(self._on_leg_failed, leg, error)
