"""Native UDP: one socket, IP discovery, packets protected with the session's key.

Spec: Discord docs, "Voice Connections"; userdoccers, same page.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
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
    RejectedPacket,
)
from discord_rtc.pump import Pump
from discord_rtc.rtp.packet import FIXED_HEADER_SIZE, is_rtcp
from discord_rtc.transport.base import TransportStats
from discord_rtc.transport.datagrams import DatagramSocket
from discord_rtc.transport.delivery import Delivery
from discord_rtc.transport.negotiation import negotiate, select_udp
from discord_rtc.transport.path import UdpPath, UdpTimings

if TYPE_CHECKING:
    from discord_rtc.clock import Clock
    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
    from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, PacketSink

_LOG = logging.getLogger("discord_rtc.transport")

EARLY_DATAGRAMS = 64
"""Datagrams kept until the key is known, about a second of audio; the newest ones are dropped."""

_MTU = 1280  # RFC 8200 section 5: what every IPv6 link carries, and in practice every tunnel
_IPV4_AND_UDP = 20 + 8  # headers: RFC 791, RFC 768
_IPV6_AND_UDP = 40 + 8  # headers: RFC 8200, RFC 768

_CLOSED_MEANWHILE = "the transport was closed while it was being opened"
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
        timings: When discovery and pings are sent.
        cipher_factory: Builds the cipher from mode and key.
    """

    def __init__(
        self,
        clock: Clock = _SYSTEM_CLOCK,
        *,
        bind: tuple[str, int] | None = None,
        timings: UdpTimings = _DEFAULT_TIMINGS,
        cipher_factory: CipherFactory = create_cipher,
    ) -> None:
        self._clock = clock
        self._bind = bind
        self._timings = timings
        self._create_cipher = cipher_factory
        self._drops: Counter[str] = Counter()
        self._delivery = Delivery(self._drops)
        self._early: deque[tuple[bytes, float]] = deque()
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
                self._remote, bind=self._bind, receive=self._receive, drops=self._drops
            )
            if self._closed:
                raise ConnectError(_CLOSED_MEANWHILE)
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
        headers = _IPV6_AND_UDP if ":" in opened.ready.ip else _IPV4_AND_UDP
        room = _MTU - headers - cipher.overhead
        media = negotiate(opened.ready, opened.offer, answer, max_packet_size=room)
        self._cipher, self._key = cipher, key
        self._pump.run(self._path.keep_alive, self._clock.now())
        while self._early:
            self._unprotect(cipher, *self._early.popleft())
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
        )

    async def aclose(self) -> None:
        """Release socket and timer. Idempotent; an ``open`` under way fails."""
        self._closed = True
        self._delivery.close()
        self._early.clear()
        self._pump.close()
        if self._discovered is not None and not self._discovered.done():
            self._discovered.set_exception(ConnectError(_CLOSED_MEANWHILE))
        if self._socket is not None:
            await self._socket.aclose()

    async def _discover(self, ssrc: int) -> tuple[str, int]:
        self._discovered = asyncio.get_running_loop().create_future()
        self._pump.run(self._path.discover, ssrc, self._clock.now())
        await self._discovered
        if self._path.address is None:
            ip, port = self._remote or ("", 0)
            raise DiscoveryTimeout(
                f"UDP to the voice server at {ip} port {port} seems to be blocked, as nothing "
                f"answered within {self._timings.discovery_deadline:g} s; allow outgoing UDP to "
                "it in the firewall or use another network"
            )
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
        elif self._cipher is not None:
            self._unprotect(self._cipher, datagram, now)
        elif len(self._early) < EARLY_DATAGRAMS:
            self._early.append((datagram, now))
        else:
            self._drops["early"] += 1

    def _unprotect(self, cipher: TransportCipher, datagram: bytes, now: float) -> None:
        rtcp = is_rtcp(datagram)
        try:
            packet = cipher.unprotect_rtcp(datagram) if rtcp else cipher.unprotect_rtp(datagram)
        except RejectedPacket as rejected:
            self._drops[rejected.reason] += 1
        else:
            self._delivery.packet(packet, now, rtcp=rtcp)
