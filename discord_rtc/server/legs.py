"""The users' media paths on the server's one UDP socket, told apart. Sans-I/O.

Spec: RFC 7983; userdoccers, "Voice Connections" (IP discovery, UDP ping, transport encryption).

A `Demultiplexer` takes every datagram of the socket. RTP and RTCP go to a leg, which unprotects
them and hands plain packets to its room; in the other direction the room sends plain packets
through the leg. Connectivity checks, DTLS, IP discovery and pings are answered. A session has an
`UdpLeg` from Ready on; when it selects WebRTC, a `WebRtcLeg` takes its place.

Whose datagram is it, and where does a user's media go? An address proves nothing (it can be
forged), and neither does an SSRC or a user name fragment (they can be guessed). So:

* A check is taken to the leg that it names, and only an authentic one makes its source an address
  of that leg. DTLS and SRTP count from such addresses alone.
* For all other media the leg of the source address is tried first, then the leg of the clear
  SSRC, then those that asked for IP discovery there: who only receives reports in the name of
  SSRC 1. What nobody can unprotect is counted.
* A plain datagram that authenticates and is not a replay *settles* its leg's address, and later
  ones move it: NATs rebind. So does an address that the client names on its (TLS) websocket, if
  IP discovery was asked from there. It is not enough to name one: nobody may point media elsewhere.
* IP discovery, which anybody can send, sets the address only until it is settled. It is answered
  all the time, also to WebRTC clients, which may use it to find out whether UDP works at all.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket, NonceExhausted, RejectedPacket
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.stun import build_error, parse_stun, requested_ufrag
from discord_rtc.protocol.discovery import build_pong, build_response, parse_ping, parse_request
from discord_rtc.server.datagrams import BLOCKABLE, DatagramKind, classify, clear_ssrc
from discord_rtc.server.faults import Faults
from discord_rtc.server.ratelimit import MessageRate
from discord_rtc.server.socket_leg import LegSetup, SocketLeg
from discord_rtc.server.udp_leg import UdpLeg
from discord_rtc.server.webrtc_leg import WebRtcLeg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from discord_rtc.crypto.certificate import Certificate
    from discord_rtc.errors import RtcError
    from discord_rtc.server.faults import Address
    from discord_rtc.server.leg_media import LegSsrcs
    from discord_rtc.server.negotiation import WebRtcTerms

STRANGERS_PER_SECOND = 10
"""Checks for nobody that are answered (401); a client that restarts ICE learns that it has to."""


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
        self._legs: dict[int, SocketLeg] = {}
        self._by_ssrc: dict[int, SocketLeg] = {}
        self._by_ufrag: dict[str, WebRtcLeg] = {}
        self._by_address: dict[Address, SocketLeg] = {}
        self._by_discovery: dict[Address, list[UdpLeg]] = {}
        self._timed: set[WebRtcLeg] = set()
        self._strangers = MessageRate(STRANGERS_PER_SECOND)
        self._counters: Counter[str] = Counter()
        self._failed: list[tuple[SocketLeg, RtcError]] = []

    @property
    def counters(self) -> Counter[str]:
        """Reason to count, for all legs there have been."""
        return sum((leg.counters for leg in self._legs.values()), self._counters)

    def add_leg(self, user_id: int, ssrcs: LegSsrcs) -> UdpLeg:
        """Make the leg of a session; from now on its IP discovery is answered."""
        faults = self.faults.attach(user_id)
        leg = UdpLeg(LegSetup(user_id, ssrcs, self._transmit, faults, self._note_failed))
        self._put(leg)
        return leg

    def new_credentials(self) -> IceCredentials:
        """ICE credentials that no leg has."""
        while True:
            credentials = IceCredentials.generate()
            if credentials.ufrag not in self._by_ufrag:
                return credentials

    def select_webrtc(self, leg: UdpLeg, terms: WebRtcTerms, certificate: Certificate) -> WebRtcLeg:
        """Put a WebRTC leg into the place of one that was not started.

        Args:
            leg: It has been of no use but for IP discovery, and is forgotten.
            terms: What was negotiated.
            certificate: The server's.
        """
        setup = LegSetup(leg.user_id, leg.ssrcs, self._transmit, leg.faults, self._note_failed)
        selected = WebRtcLeg(setup, terms, certificate)
        self._counters += leg.counters
        self._forget_discoveries(leg)
        self._put(selected)
        self._by_ufrag[selected.ufrag] = selected
        return selected

    def remove_leg(self, leg: SocketLeg, now: float) -> None:
        """Forget a leg, which then sends and delivers nothing. Doing so twice is harmless."""
        if self._legs.pop(leg.leg_id, None) is None:
            return
        leg.close(now)
        self.faults.detach(leg.faults)
        self._counters += leg.counters
        self._by_ssrc = {ssrc: of for ssrc, of in self._by_ssrc.items() if of is not leg}
        self._by_address = {at: of for at, of in self._by_address.items() if of is not leg}
        if isinstance(leg, WebRtcLeg):
            del self._by_ufrag[leg.ufrag]
            self._timed.discard(leg)
        elif isinstance(leg, UdpLeg):
            self._forget_discoveries(leg)

    def close(self, now: float) -> None:
        """Forget all legs."""
        for leg in tuple(self._legs.values()):
            self.remove_leg(leg, now)

    def take_failed(self) -> list[tuple[SocketLeg, RtcError]]:
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
            self._receive_from_stranger(datagram, kind, source, now)
            return
        faults = leg.faults
        if faults.blocking and faults.blocks(BLOCKABLE[kind], source):
            return
        if faults.up is None:
            self._accept(leg, datagram, kind, source, now)
        else:
            for arrived, sender in faults.up.send(datagram, source, now):
                self._accept(leg, arrived, classify(arrived), sender, now)

    def next_timeout(self) -> float | None:
        """When a handshake or an impaired path has something to hand out."""
        if not self._timed and not self.faults.impairing:
            return None
        due = [leg.next_timeout() for leg in self._timed]
        due.append(self.faults.next_timeout())
        return min((at for at in due if at is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Hand out what impaired paths have held back until now; run the legs' timers."""
        legs = self._legs.values() if self.faults.impairing else self._timed
        for leg in tuple(legs):
            leg.handle_timeout(now)
            if leg.faults.up is not None:
                for arrived, sender in leg.faults.up.receive(now):
                    self._accept(leg, arrived, classify(arrived), sender, now)
            self._watch(leg)

    def _put(self, leg: SocketLeg) -> None:
        self._legs[leg.leg_id] = leg
        for ssrc in leg.ssrcs:
            self._by_ssrc[ssrc] = leg

    def _leg_of(self, datagram: bytes, kind: DatagramKind, source: Address) -> SocketLeg | None:
        if kind is DatagramKind.DISCOVERY:
            return self._by_ssrc.get(int.from_bytes(datagram[4:8], "big"))
        if kind is DatagramKind.STUN:
            named = requested_ufrag(datagram)
            if named is not None:
                return self._by_ufrag.get(named)
        leg = self._by_address.get(source)
        if leg is None and kind in (DatagramKind.RTP, DatagramKind.RTCP):
            owner = self._by_ssrc.get(clear_ssrc(datagram, kind))
            leg = owner if isinstance(owner, UdpLeg) else next(self._discoverers(source), None)
        return leg

    def _receive_from_stranger(
        self, datagram: bytes, kind: DatagramKind, source: Address, now: float
    ) -> None:
        if self.faults.blocks(BLOCKABLE[kind], source):
            return
        if kind is DatagramKind.PING:
            self._transmit(self._pong(datagram), source)
        elif kind is DatagramKind.STUN:
            self._counters["unknown-ufrag"] += 1
            self._refuse_check(datagram, source, now)
        else:
            self._counters["unknown-peer"] += 1

    def _refuse_check(self, datagram: bytes, source: Address, now: float) -> None:
        if requested_ufrag(datagram) is None or self._strangers.exceeded(now):
            return
        try:
            check = parse_stun(datagram)
        except MalformedPacket:
            return
        # Not signed: there is no password that both sides know.
        self._transmit(build_error(check.transaction_id, 401), source)

    def _accept(
        self, leg: SocketLeg, datagram: bytes, kind: DatagramKind, source: Address, now: float
    ) -> None:
        match kind:
            case DatagramKind.DISCOVERY:
                self._answer_discovery(leg, datagram, source, now)
            case DatagramKind.PING:
                leg.send_datagram(self._pong(datagram), kind, source, now)
            case DatagramKind.STUN | DatagramKind.DTLS:
                self._accept_handshake(leg, datagram, kind, source, now)
            case _:
                self._accept_media(leg, datagram, kind, source, now)

    def _accept_handshake(
        self, leg: SocketLeg, datagram: bytes, kind: DatagramKind, source: Address, now: float
    ) -> None:
        if not isinstance(leg, WebRtcLeg):
            self._counters["keepalive"] += 1  # one that begins like DTLS, as counters may
            return
        if kind is DatagramKind.DTLS:
            leg.receive_dtls(datagram, now)
        elif leg.receive_check(datagram, source, now):
            self._own_addresses(leg, source)
        self._watch(leg)

    def _own_addresses(self, leg: WebRtcLeg, source: Address) -> None:
        if self._by_address.get(source) is leg:
            return
        # Perhaps that of an older session on the same socket, which nobody has closed yet.
        known = {at: of for at, of in self._by_address.items() if of is not leg}
        self._by_address = known | dict.fromkeys(leg.addresses, leg)

    def _accept_media(
        self, leg: SocketLeg, datagram: bytes, kind: DatagramKind, source: Address, now: float
    ) -> None:
        try:
            packet = leg.unprotect(datagram, kind)
        except RejectedPacket as error:
            for other in self._other_owners(leg, datagram, kind, source):
                try:
                    packet = other.unprotect(datagram, kind)
                except RejectedPacket:
                    continue
                leg = other
                break
            else:
                leg.rejected(datagram, kind, error.reason)
                return
        if isinstance(leg, UdpLeg) and self._by_address.get(source) is not leg:
            self._move(leg, source)
        leg.accepted(packet, kind, source, now)
        if isinstance(leg, WebRtcLeg):
            self._watch(leg)

    def _other_owners(
        self, leg: SocketLeg, datagram: bytes, kind: DatagramKind, source: Address
    ) -> Iterator[SocketLeg]:
        """Who else may have sent it: two sessions on one socket, or one that forges addresses."""
        owner = self._by_ssrc.get(clear_ssrc(datagram, kind))
        if isinstance(owner, UdpLeg) and owner is not leg:
            yield owner
        for other in self._by_ufrag.values():
            if other is not leg and source in other.addresses:
                yield other
        yield from (other for other in self._discoverers(source) if other is not leg)

    def _discoverers(self, source: Address) -> Iterator[UdpLeg]:
        """Whose media goes there by IP discovery alone, so far."""
        legs = self._by_discovery.get(source, ())
        return (leg for leg in legs if leg.address == source)

    def _forget_discoveries(self, leg: UdpLeg) -> None:
        for source in leg.discovered_from:
            others = [one for one in self._by_discovery.pop(source, ()) if one is not leg]
            if others:
                self._by_discovery[source] = others

    def _move(self, leg: UdpLeg, source: Address) -> None:
        before = leg.address
        if before is not None and self._by_address.get(before) is leg:
            del self._by_address[before]
            self._counters["address-moved"] += 1
        self._by_address[source] = leg

    def _answer_discovery(
        self, leg: SocketLeg, datagram: bytes, source: Address, now: float
    ) -> None:
        try:
            ssrc = parse_request(datagram)
        except MalformedPacket:
            self._counters["malformed"] += 1
            return
        self._counters["discovery"] += 1
        if leg.discovered(source):
            assert isinstance(leg, UdpLeg)
            self._by_discovery.setdefault(source, []).append(leg)
        answer = build_response(ssrc, *source)
        leg.send_datagram(answer, DatagramKind.DISCOVERY, source, now)

    def _watch(self, leg: SocketLeg) -> None:
        """Note whether a leg has a timer, so that those without cost nothing."""
        if isinstance(leg, WebRtcLeg):
            if leg.next_timeout() is None:
                self._timed.discard(leg)
            else:
                self._timed.add(leg)

    def _note_failed(self, leg: SocketLeg, error: RtcError) -> None:
        reason = "nonces-exhausted" if isinstance(error, NonceExhausted) else "dtls-failed"
        self._counters[reason] += 1
        self._failed.append((leg, error))

    def _pong(self, datagram: bytes) -> bytes:
        self._counters["ping"] += 1
        sequence = parse_ping(datagram)
        assert sequence is not None, "classified as a ping"
        return build_pong(sequence)
