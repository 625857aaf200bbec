"""The users' media paths on the server's one UDP socket, told apart and unprotected. Sans-I/O.

Spec: userdoccers, "Voice Connections" (IP discovery, UDP ping, transport encryption), RFC 7983.

A `Demultiplexer` takes every datagram of the socket. RTP and RTCP go to a `UdpLeg`, which
unprotects them and hands plain packets to its room; in the other direction the room sends plain
packets through the leg. IP discovery and pings are answered.

Whose datagram is it, and where does a user's media go? An address proves nothing (it can be
forged), and an SSRC neither (it can be guessed). So:

* The leg of the source address is tried first, then the leg of the clear SSRC; what neither can
  unprotect is counted.
* A datagram that authenticates and is not a replay *settles* the leg's address, and later ones
  move it: NATs rebind. So does an address that the client names on its (TLS) websocket, if IP
  discovery was asked from there. It is not enough to name one: nobody may point media elsewhere.
* IP discovery, which anybody can send, sets the address only until it is settled.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.errors import MalformedPacket, NonceExhausted, RejectedPacket
from discord_rtc.protocol.discovery import (
    build_pong,
    build_response,
    is_discovery,
    parse_ping,
    parse_request,
)
from discord_rtc.rtp.packet import is_rtcp
from discord_rtc.server.faults import Address, Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.server.faults import LegFaults
    from discord_rtc.server.sfu import LegSsrcs

MAX_DISCOVERED = 8
"""Addresses remembered per leg from IP discovery, the first ones; sockets a client may try."""

_MINIMUM_RTCP = 8 + 16  # clear header and tag; the 4 bytes of a nonce are not in every mode
_MINIMUM_RTP = 12 + 16  # likewise; also keeps out keepalives that count up to 0x80...


class DatagramKind(Enum):
    """What a datagram is, judged from outside."""

    RTP = auto()
    RTCP = auto()
    DISCOVERY = auto()
    PING = auto()
    KEEPALIVE = auto()
    """Or garbage: nobody answers either."""


def classify(datagram: bytes) -> DatagramKind:
    """Tell what a datagram is.

    Spec:
        RFC 7983 section 7: 128 to 191 in the first byte is RTP or RTCP. RFC 5761 section 4.
    """
    if datagram and datagram[0] >> 6 == 2:
        if is_rtcp(datagram):
            return DatagramKind.RTCP if len(datagram) >= _MINIMUM_RTCP else DatagramKind.KEEPALIVE
        return DatagramKind.RTP if len(datagram) >= _MINIMUM_RTP else DatagramKind.KEEPALIVE
    if is_discovery(datagram):
        return DatagramKind.DISCOVERY
    if parse_ping(datagram) is not None:
        return DatagramKind.PING
    return DatagramKind.KEEPALIVE


class PacketSink(Protocol):
    """Where legs deliver: a room."""

    def receive_rtp(self, leg_id: int, packet: bytes, now: float) -> None:
        """One plain RTP packet of that leg, authenticated and not seen before."""
        ...

    def receive_rtcp(self, leg_id: int, packet: bytes, now: float) -> None:
        """One plain compound RTCP packet of that leg."""
        ...


class UdpLeg:
    """One session's media path. Made by `Demultiplexer.add_leg`.

    Args:
        user_id: Whose it is.
        ssrcs: What Ready gave to the session.
        transmit: Puts a datagram on the socket.
        faults: What happens to this leg's traffic.
        failed: Told when nothing can be sent any more: the nonces are used up.

    Attributes:
        counters: Reason to count for what was not used, and ``rtp-received``, ``rtcp-received``.
    """

    def __init__(
        self,
        user_id: int,
        ssrcs: LegSsrcs,
        transmit: Callable[[bytes, Address], None],
        faults: LegFaults,
        failed: Callable[[UdpLeg, NonceExhausted], None],
    ) -> None:
        self.user_id = user_id
        self.ssrcs = ssrcs
        self.faults = faults
        self.counters: Counter[str] = Counter()
        self._transmit = transmit
        self._failed = failed
        self._cipher: TransportCipher | None = None
        self._room: PacketSink | None = None
        self._address: Address | None = None
        self._settled = False
        self._discovered: set[Address] = set()

    def __repr__(self) -> str:
        return f"<UdpLeg {self.leg_id} of user {self.user_id} at {self._address}>"

    @property
    def leg_id(self) -> int:
        """The audio SSRC, unique on a server."""
        return self.ssrcs.audio

    @property
    def address(self) -> Address | None:
        """Where media goes; None until the user was heard from."""
        return self._address

    def start(self, mode: str, key: bytes, *, claimed: Address | None = None) -> None:
        """Protect from now on; again with another key when the session gets a new one.

        Args:
            mode: Wire name of the transport encryption.
            key: 32 bytes, never used before.
            claimed: Address and port of Select Protocol.

        Raises:
            NoCommonMode: The mode is unknown.
            UsageError: The key has another length.
        """
        self._cipher = create_cipher(mode, key, side="server")
        if claimed in self._discovered:
            self._address = claimed
            self._settled = True

    def deliver_to(self, room: PacketSink | None) -> None:
        """Say which room gets the packets. Without one they are counted as ``no-room``."""
        self._room = room

    def close(self) -> None:
        """Neither send nor deliver anything any more."""
        self._cipher = self._room = self._address = None
        self._settled = True

    def discovered(self, source: Address) -> None:
        """IP discovery was asked for from there, by somebody."""
        if len(self._discovered) < MAX_DISCOVERED:
            self._discovered.add(source)
        if not self._settled:
            self._address = source

    def authenticated(self, source: Address) -> None:
        """A datagram from there has been unprotected."""
        self._address = source
        self._settled = True

    def unprotect(self, datagram: bytes, kind: DatagramKind) -> bytes:
        """Turn a datagram into the plain packet in it.

        Raises:
            RejectedPacket: It is not this leg's, or it was seen before.
        """
        cipher = self._cipher
        if cipher is None:
            raise RejectedPacket("no-key")
        if kind is DatagramKind.RTP:
            return cipher.unprotect_rtp(datagram)
        return cipher.unprotect_rtcp(datagram)

    def deliver(self, packet: bytes, kind: DatagramKind, now: float) -> None:
        """Hand a plain packet to the room."""
        room = self._room
        if room is None:
            self.counters["no-room"] += 1
        elif kind is DatagramKind.RTP:
            self.counters["rtp-received"] += 1
            room.receive_rtp(self.leg_id, packet, now)
        else:
            self.counters["rtcp-received"] += 1
            room.receive_rtcp(self.leg_id, packet, now)

    def send_rtp(self, packet: bytes, now: float) -> None:
        """Protect and send one plain RTP packet. Never raises; trouble is counted."""
        distortion = self.faults.distortion
        if distortion is None:
            self._protect(packet, now, rtcp=False)
            return
        for distorted in distortion.apply(packet):
            self._protect(distorted, now, rtcp=False)

    def send_rtcp(self, packet: bytes, now: float) -> None:
        """Protect and send one plain compound RTCP packet; as `send_rtp`."""
        self._protect(packet, now, rtcp=True)

    def send_datagram(self, datagram: bytes, address: Address | None, now: float) -> None:
        """Send to an address through the faults of this leg's way down."""
        if address is None:
            self.counters["no-address"] += 1
        elif self.faults.down is None:
            self._transmit(datagram, address)
        else:
            for arrived, target in self.faults.down.send(datagram, address, now):
                self._transmit(arrived, target)

    def handle_timeout(self, now: float) -> None:
        """Send what the way down has held back until now."""
        if self.faults.down is not None:
            for arrived, target in self.faults.down.receive(now):
                self._transmit(arrived, target)

    def _protect(self, packet: bytes, now: float, *, rtcp: bool) -> None:
        cipher = self._cipher
        if cipher is None:
            self.counters["no-key"] += 1
            return
        try:
            datagram = cipher.protect_rtcp(packet) if rtcp else cipher.protect_rtp(packet)
        except NonceExhausted as error:
            self._fail(error)
        except MalformedPacket:
            self.counters["malformed"] += 1
        else:
            self.send_datagram(datagram, self._address, now)

    def _fail(self, error: NonceExhausted) -> None:
        self._cipher = None
        self._failed(self, error)


class Demultiplexer:
    """Finds the leg of each datagram of a socket.

    Args:
        transmit: Puts a datagram on the socket. Must not raise.
        faults: What happens to the traffic of users.
    """

    def __init__(
        self, transmit: Callable[[bytes, Address], None], faults: Faults | None = None
    ) -> None:
        self.faults = Faults() if faults is None else faults
        self._transmit = transmit
        self._legs: dict[int, UdpLeg] = {}
        self._by_ssrc: dict[int, UdpLeg] = {}
        self._by_address: dict[Address, UdpLeg] = {}
        self._counters: Counter[str] = Counter()
        self._failed: list[tuple[UdpLeg, NonceExhausted]] = []

    @property
    def counters(self) -> Counter[str]:
        """Reason to count, for all legs there have been."""
        return sum((leg.counters for leg in self._legs.values()), self._counters)

    def add_leg(self, user_id: int, ssrcs: LegSsrcs) -> UdpLeg:
        """Make the leg of a session; from now on its IP discovery is answered."""
        leg = UdpLeg(user_id, ssrcs, self._transmit, self.faults.attach(user_id), self._note_failed)
        self._legs[leg.leg_id] = leg
        for ssrc in ssrcs:
            self._by_ssrc[ssrc] = leg
        return leg

    def remove_leg(self, leg: UdpLeg) -> None:
        """Forget a leg, which then sends and delivers nothing. Doing so twice is harmless."""
        if self._legs.pop(leg.leg_id, None) is None:
            return
        leg.close()
        self.faults.detach(leg.faults)
        self._counters += leg.counters
        self._by_ssrc = {ssrc: of for ssrc, of in self._by_ssrc.items() if of is not leg}
        self._by_address = {at: of for at, of in self._by_address.items() if of is not leg}

    def close(self) -> None:
        """Forget all legs."""
        for leg in tuple(self._legs.values()):
            self.remove_leg(leg)

    def take_failed(self) -> list[tuple[UdpLeg, NonceExhausted]]:
        """Legs that can send nothing any more, each told once, and why."""
        failed, self._failed = self._failed, []
        return failed

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """Take one datagram from the socket."""
        kind = classify(datagram)
        if kind is DatagramKind.KEEPALIVE:
            self._counters["keepalive"] += 1
            return
        leg = self._leg_of(datagram, kind, source)
        if leg is None:
            if kind is DatagramKind.PING:
                self._transmit(self._pong(datagram), source)
            else:
                self._counters["unknown-peer"] += 1
        elif leg.faults.up is None:
            self._accept(leg, datagram, kind, source, now)
        else:
            for arrived, sender in leg.faults.up.send(datagram, source, now):
                self._accept(leg, arrived, classify(arrived), sender, now)

    def next_timeout(self) -> float | None:
        """When an impaired path has something to hand out."""
        if not self.faults.impairing:
            return None
        due = [leg.faults.next_timeout() for leg in self._legs.values()]
        return min((at for at in due if at is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Hand out what impaired paths have held back until now."""
        for leg in tuple(self._legs.values()):
            leg.handle_timeout(now)
            if leg.faults.up is not None:
                for arrived, sender in leg.faults.up.receive(now):
                    self._accept(leg, arrived, classify(arrived), sender, now)

    def _leg_of(self, datagram: bytes, kind: DatagramKind, source: Address) -> UdpLeg | None:
        if kind is DatagramKind.DISCOVERY:
            return self._by_ssrc.get(int.from_bytes(datagram[4:8], "big"))
        leg = self._by_address.get(source)
        if leg is None and kind is not DatagramKind.PING:
            leg = self._by_ssrc.get(_clear_ssrc(datagram, kind))
        return leg

    def _accept(
        self, leg: UdpLeg, datagram: bytes, kind: DatagramKind, source: Address, now: float
    ) -> None:
        if kind is DatagramKind.DISCOVERY:
            self._answer_discovery(leg, datagram, source, now)
        elif kind is DatagramKind.PING:
            leg.send_datagram(self._pong(datagram), source, now)
        else:
            self._accept_media(leg, datagram, kind, source, now)

    def _accept_media(
        self, leg: UdpLeg, datagram: bytes, kind: DatagramKind, source: Address, now: float
    ) -> None:
        try:
            packet = leg.unprotect(datagram, kind)
        except RejectedPacket as error:
            owner = self._by_ssrc.get(_clear_ssrc(datagram, kind), leg)
            if owner is leg:
                leg.counters[error.reason] += 1
            else:
                # A new session on the socket of an older one that nobody has closed yet.
                self._accept_media(owner, datagram, kind, source, now)
            return
        if self._by_address.get(source) is not leg:
            self._move(leg, source)
        leg.deliver(packet, kind, now)

    def _move(self, leg: UdpLeg, source: Address) -> None:
        before = leg.address
        if before is not None and self._by_address.get(before) is leg:
            del self._by_address[before]
            self._counters["address-moved"] += 1
        self._by_address[source] = leg
        leg.authenticated(source)

    def _answer_discovery(self, leg: UdpLeg, datagram: bytes, source: Address, now: float) -> None:
        try:
            ssrc = parse_request(datagram)
        except MalformedPacket:
            leg.counters["malformed"] += 1
            return
        self._counters["discovery"] += 1
        leg.discovered(source)
        leg.send_datagram(build_response(ssrc, *source), source, now)

    def _note_failed(self, leg: UdpLeg, error: NonceExhausted) -> None:
        self._counters["nonces-exhausted"] += 1
        self._failed.append((leg, error))

    def _pong(self, datagram: bytes) -> bytes:
        self._counters["ping"] += 1
        sequence = parse_ping(datagram)
        assert sequence is not None, "classified as a ping"
        return build_pong(sequence)


def _clear_ssrc(datagram: bytes, kind: DatagramKind) -> int:
    start = 8 if kind is DatagramKind.RTP else 4  # RFC 3550 section 5.1; section 6.4.1
    return int.from_bytes(datagram[start : start + 4], "big")
