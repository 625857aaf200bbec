"""A WebRTC media path: ICE-lite, DTLS, SRTP and the client's own SSRCs. Sans-I/O.

Spec: userdoccers, "Voice Connections" (WebRTC); RFC 8445 (lite), RFC 5764, RFC 7675.

What happens to a datagram of the client::

    STUN         integrity is right?   no: counted, with an error answer if there were few
                 -> its source is one of the leg's addresses; a nomination chooses among them
    DTLS         only from one of those addresses
    RTP, RTCP    keys are agreed on?   no: kept until they are, a few of them
                 -> authentic, not seen before?   no: counted
                 -> the client's SSRC becomes that of Ready; one that it has not announced yet
                    (op 5, op 12) waits a moment, for websocket and socket race each other

Media is sent while the client consents, which every authentic datagram of it shows.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from discord_rtc.crypto.dtls import DtlsEndpoint, HandshakeFailed, KeysAgreed, PeerClosed
from discord_rtc.crypto.srtp import SrtpCipher
from discord_rtc.errors import DtlsFailed, RejectedPacket
from discord_rtc.ice.responder import LiteResponder
from discord_rtc.server.datagrams import DatagramKind
from discord_rtc.server.socket_leg import SocketLeg
from discord_rtc.server.ssrc_map import SsrcMap

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from discord_rtc.crypto.certificate import Certificate
    from discord_rtc.crypto.dtls import DtlsEvent
    from discord_rtc.crypto.srtp import Side
    from discord_rtc.server.faults import Address
    from discord_rtc.server.negotiation import WebRtcTerms
    from discord_rtc.server.socket_leg import LegSetup, TransportName

MAX_ADDRESSES = 8
"""Addresses from which a client may have checked: a browser tries each of its interfaces."""

EARLY_LIMIT = 64
"""Media datagrams kept until the keys are there: those that overtook the end of the handshake."""

HOLD_LIMIT = 64
"""Packets kept until their SSRC is announced."""

HOLD_TIME = 0.5
"""Seconds that they are kept; as long as a room keeps what was not announced."""

CONSENT_TIMEOUT = 30.0
"""Seconds of silence after which nothing is sent any more (RFC 7675 section 5.1)."""


class WebRtcLeg(SocketLeg):
    """A session that uses the ``webrtc`` transport.

    Args:
        setup: See `LegSetup`.
        terms: What was negotiated. A client that offers ``a=setup:passive`` gets a DTLS client,
            every other one a DTLS server, which is what Discord is.
        certificate: The server's.
    """

    transport: ClassVar[TransportName] = "webrtc"

    def __init__(self, setup: LegSetup, terms: WebRtcTerms, certificate: Certificate) -> None:
        super().__init__(setup)
        self._responder = LiteResponder(terms.credentials, counters=self._counters)
        self._responder.set_remote(terms.client.ufrag)
        self._role: Side = "client" if terms.client.setup == "passive" else "server"
        self._dtls = DtlsEndpoint(
            certificate, client=self._role == "client", fingerprints=terms.client.fingerprints
        )
        self._handshaking = True
        self._map = SsrcMap(setup.ssrcs)
        self._addresses: dict[Address, None] = {}  # oldest first
        self._early: deque[tuple[bytes, DatagramKind]] = deque()
        self._held: deque[tuple[float, bytes]] = deque()  # (when to drop, packet)
        self._heard = math.inf  # nothing is sent before the first check anyway

    @property
    def ufrag(self) -> str:
        """By which the client's checks name this leg."""
        return self._responder.credentials.ufrag

    @property
    def addresses(self) -> tuple[Address, ...]:
        """From where the client has checked."""
        return tuple(self._addresses)

    @property
    def counters(self) -> Counter[str]:
        """As for every leg, with those of STUN and DTLS."""
        return self._counters + self._dtls.counters

    def announce(
        self, audio: int | None, video: Sequence[tuple[int, int | None]], now: float
    ) -> None:
        """The client said on which SSRCs it sends; what waited for that is delivered."""
        self._map.announce(audio, video)
        held = tuple(self._held)
        self._held.clear()
        for expiry, packet in held:
            renamed = self._map.inbound_rtp(packet)
            if renamed is None:
                self._held.append((expiry, packet))
            else:
                self._deliver(renamed, DatagramKind.RTP, now)

    def close(self, now: float) -> None:
        """Say goodbye, and neither send nor deliver anything any more."""
        self._dtls.close(now)
        self._send_dtls(now)
        self._handshaking = False
        self._early.clear()
        self._held.clear()
        super().close(now)

    def receive_check(self, datagram: bytes, source: Address, now: float) -> bool:
        """Take a STUN datagram and answer it.

        Returns:
            Whether it was authentic, so that its source is one of the leg's addresses.
        """
        checks = self._counters["stun-checks"]
        answer = self._responder.receive_datagram(datagram, source, now)
        if answer is not None:
            self.send_datagram(answer, DatagramKind.STUN, source, now)
        if self._counters["stun-checks"] == checks:
            return False
        self._heard = now
        self._address = self._responder.address
        if not self._addresses:
            self._dtls.start(now)
            self._drain_dtls(now)
        self._addresses.pop(source, None)
        self._addresses[source] = None
        if len(self._addresses) > MAX_ADDRESSES:
            oldest = next(at for at in self._addresses if at != self._address)
            del self._addresses[oldest]
        return True

    def receive_dtls(self, datagram: bytes, now: float) -> None:
        """Take a DTLS datagram from one of the leg's addresses."""
        self._dtls.receive_datagram(datagram, now)
        self._drain_dtls(now)

    def accepted(self, packet: bytes, kind: DatagramKind, source: Address, now: float) -> None:  # noqa: ARG002  checks alone tell where a client is
        """A datagram was unprotected to this packet: hand it to the room under Ready's SSRC."""
        self._receive(packet, kind, now)

    def rejected(self, datagram: bytes, kind: DatagramKind, reason: str) -> None:
        """A datagram could not be unprotected; before there are keys it is kept."""
        if self._handshaking and len(self._early) < EARLY_LIMIT:
            self._early.append((datagram, kind))
        else:
            super().rejected(datagram, kind, reason)

    def next_timeout(self) -> float | None:
        """When the handshake goes on, or something was held for too long; faults aside."""
        due = self._dtls.next_timeout()
        if self._held:
            expiry = self._held[0][0]
            due = expiry if due is None else min(due, expiry)
        return due

    def handle_timeout(self, now: float) -> None:
        """Repeat what DTLS did not get an answer to; drop what was not announced in time."""
        super().handle_timeout(now)
        due = self._dtls.next_timeout()
        if due is not None and due <= now:
            self._dtls.handle_timeout(now)
            self._drain_dtls(now)
        while self._held and self._held[0][0] <= now:
            self._held.popleft()
            self._counters["unannounced"] += 1

    def _receive(self, packet: bytes, kind: DatagramKind, now: float) -> None:
        self._heard = now
        if kind is DatagramKind.RTCP:
            self._deliver(self._map.inbound_rtcp(packet), kind, now)
            return
        renamed = self._map.inbound_rtp(packet)
        if renamed is not None:
            self._deliver(renamed, kind, now)
        elif len(self._held) < HOLD_LIMIT:
            self._held.append((now + HOLD_TIME, packet))
        else:
            self._counters["unannounced"] += 1

    def _drain_dtls(self, now: float) -> None:
        self._send_dtls(now)
        while (event := self._dtls.next_event()) is not None:
            self._handle(event, now)

    def _send_dtls(self, now: float) -> None:
        for datagram in self._dtls.datagrams_to_send():
            self.send_datagram(datagram, DatagramKind.DTLS, self._address, now)

    def _handle(self, event: DtlsEvent, now: float) -> None:
        self._handshaking = False
        match event:
            case KeysAgreed(keys):
                self._cipher = SrtpCipher(keys, side=self._role)
                self._begin(now)
            case HandshakeFailed(reason):
                self._early.clear()
                self._fail(DtlsFailed(reason))
            case PeerClosed():
                self._counters["peer-closed"] += 1
                self._cipher = None

    def _begin(self, now: float) -> None:
        """Media can flow."""
        early = tuple(self._early)
        self._early.clear()
        for datagram, kind in early:
            try:
                packet = self.unprotect(datagram, kind)
            except RejectedPacket as error:
                self.rejected(datagram, kind, error.reason)
            else:
                self._receive(packet, kind, now)
        if self._room is not None:
            self._room.connected(self.leg_id, now)

    def _protect(self, packet: bytes, now: float, kind: DatagramKind) -> None:
        if now - self._heard > CONSENT_TIMEOUT:
            self._counters["no-consent"] += 1
            return
        if kind is DatagramKind.RTCP:
            packet = self._map.outbound_rtcp(packet)
        super()._protect(packet, now, kind)
