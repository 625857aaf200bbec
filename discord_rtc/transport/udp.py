"""Native UDP: one socket, IP discovery, packets protected with the session's key.

Spec: Discord docs, "Voice Connections"; userdoccers, same page.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from discord_rtc.clock import SystemClock
from discord_rtc.crypto.modes import KEY_LENGTH, choose_mode, create_cipher
from discord_rtc.errors import (
    ConnectError,
    DiscoveryTimeout,
    InvalidState,
    MalformedMessage,
    NoCommonMode,
)
from discord_rtc.pump import Pump
from discord_rtc.rtp.packet import FIXED_HEADER_SIZE
from discord_rtc.transport.base import CLOSED_MEANWHILE, TransportStats
from discord_rtc.transport.datagrams import DatagramSocket, largest_datagram
from discord_rtc.transport.delivery import Delivery
from discord_rtc.transport.inbox import ProtectedInbox
from discord_rtc.transport.negotiation import negotiate, select_udp
from discord_rtc.transport.path import UdpPath, UdpTimings

if TYPE_CHECKING:
    from discord_rtc.clock import Clock
    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
    from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, PacketSink

_LOG = logging.getLogger("discord_rtc.transport")

_SYSTEM_CLOCK = SystemClock()
_DEFAULT_TIMINGS = UdpTimings()


class CipherFactory(Protocol):
    """What `create_cipher` looks like; tests replace it to start a nonce counter elsewhere."""

    def __call__(
        self, mode: str, key: bytes, *, side: Literal["client", "server"]
    ) -> TransportCipher:
        """Build the cipher of one session."""
        ...


@dataclass(frozen=True, slots=True)
class _Opened:
    ready: Ready
    offer: MediaOffer
    mode: str
    address: tuple[str, int]


class UdpTransport:
    """A `Transport` over one UDP socket.

    UDP has no connection that could be lost, so the sink's ``lost`` is never called: a server
    that fell silent shows in the gateway's heartbeats, unreachable ports in the counters.

    Drops by reason: ``junk`` (keepalives, garbage, stray discovery), ``early`` (beyond what is kept
    before there is a key or a sink), ``short``, ``malformed``, ``bad-auth``, ``replay``, ``late``
    (too old to tell from a replay), ``closed``, ``refused``, ``blocked``, ``socket-error`` (see
    `DatagramSocket`), ``ping-unanswered``.

    Args:
        clock: Must tick like the running loop's time.
        bind: Local address and port to send from; any by default.
        port_range: First and last local port to choose from, instead of a port in ``bind``.
        timings: When discovery and pings are sent.
        cipher_factory: Builds the cipher from mode and key.
    """

    def __init__(
        self,
        clock: Clock = _SYSTEM_CLOCK,
        *,
        bind: tuple[str, int] | None = None,
        port_range: tuple[int, int] | None = None,
        timings: UdpTimings = _DEFAULT_TIMINGS,
        cipher_factory: CipherFactory = create_cipher,
    ) -> None:
        self._clock = clock
        self._bind = bind
        self._port_range = port_range
        self._timings = timings
        self._create_cipher = cipher_factory
        self._drops: Counter[str] = Counter()
        self._delivery = Delivery(self._drops)
        self._inbox = ProtectedInbox(self._delivery, self._drops)
        self._socket: DatagramSocket | None = None
        self._path = UdpPath(timings, self._drops)
        self._pump = Pump(self._path, self._flush, clock)
        self._discovered: asyncio.Future[None] | None = None
        self._begun = False
        self._closed = False
        self._opened: _Opened | None = None
        self._key: bytes | None = None
        self._cipher: TransportCipher | None = None
        self._sent = 0
        self._received = 0
        self._remote: tuple[str, int] | None = None
        self._setup: dict[str, float] = {}

    async def prepare(self) -> None:
        """Nothing can be done before the server's address is known."""

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        """Open the socket, discover our address, and say what to select.

        Sends nothing and claims the local address when ``offer.receive`` is False. A failed or
        cancelled call releases everything.

        Args:
            ready: The server's address, SSRC and modes.
            offer: What this client brings.

        Raises:
            NoCommonMode: The server offers no encryption mode that we may use.
            ConnectError: No socket, or closed meanwhile.
            DiscoveryTimeout: No answer within the deadline.
            InvalidState: Called before.
        """
        if self._begun or self._closed:
            raise InvalidState("a transport is opened once")
        self._begun = True
        mode = choose_mode(ready.modes, offer.modes)
        self._remote = (ready.ip, ready.port)
        try:
            self._socket = await DatagramSocket.connect(
                self._remote,
                bind=self._bind,
                port_range=self._port_range,
                receive=self._receive,
                drops=self._drops,
            )
            if self._closed:
                raise ConnectError(CLOSED_MEANWHILE)
            address = await self._discover(ready.ssrc) if offer.receive else None
            self._opened = _Opened(ready, offer, mode, address or self._socket.local_address)
        finally:
            if self._opened is None:
                await self.aclose()
        _LOG.debug("= media path %s to %s, %s", self._opened.address, self._remote, mode)
        return select_udp(offer, mode=mode, address=self._opened.address)

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        """Take the key and begin; datagrams that came before are unprotected now.

        A repeated answer with the same key keeps nonces and replay memory; one with another key
        starts both anew.

        Raises:
            NoCommonMode: The answer is for another mode than the selected one.
            NoCommonCodec: The answer wants audio in a codec that was not offered.
            MalformedMessage: The answer holds no 32-byte key.
            InvalidState: Not open.
        """
        opened = self._opened
        if opened is None or self._closed:
            raise InvalidState("accept comes after open and before aclose")
        if answer.mode != opened.mode:
            raise NoCommonMode(f"selected was {opened.mode}, the server uses {answer.mode!r:.60}")
        key = answer.secret_key
        if key is None or len(key) != KEY_LENGTH:
            raise MalformedMessage(f"a session description without a key of {KEY_LENGTH} bytes")
        cipher = self._cipher
        if cipher is None or key != self._key:
            cipher = self._create_cipher(opened.mode, key, side="client")
        room = largest_datagram(opened.ready.ip) - cipher.overhead
        media = negotiate(opened.ready, opened.offer, answer, max_packet_size=room)
        self._cipher, self._key = cipher, key
        self._pump.run(self._path.keep_alive, self._clock.now())
        self._inbox.unlock(cipher)
        return media

    def send_rtp(self, packet: bytes) -> None:
        """Protect and send one plain RTP packet. Never blocks; trouble is counted.

        Raises:
            NonceExhausted: The key is used up; a fresh session is needed.
            InvalidState: Nothing was accepted yet.
        """
        cipher, socket = self._sending()
        self._sent += socket.send(cipher.protect_rtp(packet))

    def send_rtcp(self, packet: bytes) -> None:
        """Protect and send one plain compound RTCP packet; as `send_rtp`."""
        cipher, socket = self._sending()
        self._sent += socket.send(cipher.protect_rtcp(packet))

    def deliver_to(self, sink: PacketSink) -> None:
        """Name the receiver. Packets that came earlier are handed over first, bounded."""
        self._delivery.attach(sink)

    def stats(self) -> TransportStats:
        """Counters and round-trip time so far."""
        drops = Counter(self._drops)
        if self._path.unanswered_pings:
            drops["ping-unanswered"] = self._path.unanswered_pings
        return TransportStats(
            rtt=self._path.rtt,
            datagrams_sent=self._sent,
            datagrams_received=self._received,
            drops=MappingProxyType(drops),
            local_address=None if self._opened is None else self._opened.address,
            remote_address=self._remote,
            setup=MappingProxyType(dict(self._setup)),
        )

    async def aclose(self) -> None:
        """Release socket and timer. Idempotent; an ``open`` under way fails."""
        self._closed = True
        self._delivery.close()
        self._inbox.clear()
        self._pump.close()
        if self._discovered is not None and not self._discovered.done():
            self._discovered.set_exception(ConnectError(CLOSED_MEANWHILE))
        if self._socket is not None:
            await self._socket.aclose()

    async def _discover(self, ssrc: int) -> tuple[str, int]:
        self._discovered = asyncio.get_running_loop().create_future()
        begun = self._clock.now()
        self._pump.run(self._path.discover, ssrc, begun)
        await self._discovered
        if self._path.address is None:
            ip, port = self._remote or ("", 0)
            raise DiscoveryTimeout(
                f"UDP to the voice server at {ip} port {port} seems to be blocked, as nothing "
                f"answered within {self._timings.discovery_deadline:g} s; allow outgoing UDP to "
                "it in the firewall or use another network"
            )
        self._setup["discovery"] = self._clock.now() - begun
        return self._path.address

    def _sending(self) -> tuple[TransportCipher, DatagramSocket]:
        if self._cipher is None or self._socket is None:
            raise InvalidState("nothing can be sent before the server's answer was accepted")
        return self._cipher, self._socket

    def _flush(self, now: float) -> None:  # noqa: ARG002 - nothing here depends on the time
        if self._socket is not None:
            for datagram in self._path.datagrams_to_send():
                self._socket.send(datagram)
        if self._path.discovered and self._discovered is not None and not self._discovered.done():
            self._discovered.set_result(None)

    def _receive(self, datagram: bytes) -> None:
        now = self._clock.now()
        self._received += 1
        if len(datagram) < FIXED_HEADER_SIZE or datagram[0] >> 6 != 2:  # RFC 3550: version 2
            self._pump.run(self._path.receive_datagram, datagram, now)
        else:
            self._inbox.receive(datagram, now)
