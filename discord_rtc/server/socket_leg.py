"""What all legs have in common: whose they are, and the way to them on the server's one socket.
Sans-I/O.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

from discord_rtc.errors import MalformedPacket, NonceExhausted, RejectedPacket, RtcError
from discord_rtc.server.datagrams import BLOCKABLE, DatagramKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.server.faults import Address, LegFaults
    from discord_rtc.server.leg_media import LegSsrcs

TransportName: TypeAlias = Literal["udp", "webrtc"]


class PacketSink(Protocol):
    """Where legs deliver: a room."""

    def receive_rtp(self, leg_id: int, packet: bytes, now: float) -> None:
        """One plain RTP packet of that leg, authenticated and not seen before."""
        ...

    def receive_rtcp(self, leg_id: int, packet: bytes, now: float) -> None:
        """One plain compound RTCP packet of that leg."""
        ...

    def connected(self, leg_id: int, now: float) -> None:
        """From now on that leg can be sent to. Some are from the beginning and do not say so."""
        ...


@dataclass(frozen=True, slots=True)
class LegSetup:
    """What every leg is given.

    Attributes:
        user_id: Whose it is.
        ssrcs: What Ready gave to the session.
        transmit: Puts a datagram on the socket.
        faults: What happens to this leg's traffic.
        failed: Told once when nothing can be sent any more, and why.
    """

    user_id: int
    ssrcs: LegSsrcs
    transmit: Callable[[bytes, Address], None]
    faults: LegFaults
    failed: Callable[[SocketLeg, RtcError], None]


class SocketLeg:
    """One session's media path. Made by the demultiplexer.

    Args:
        setup: See `LegSetup`.

    Attributes:
        transport: Name of its transport.
        user_id: Whose it is.
        ssrcs: What Ready gave to the session.
        faults: What happens to its traffic.
    """

    transport: ClassVar[TransportName]

    def __init__(self, setup: LegSetup) -> None:
        self.user_id = setup.user_id
        self.ssrcs = setup.ssrcs
        self.faults = setup.faults
        self._transmit = setup.transmit
        self._failed = setup.failed
        self._counters: Counter[str] = Counter()
        self._cipher: TransportCipher | None = None
        self._room: PacketSink | None = None
        self._address: Address | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.leg_id} of user {self.user_id} at {self._address}>"

    @property
    def leg_id(self) -> int:
        """The audio SSRC, unique on a server."""
        return self.ssrcs.audio

    @property
    def address(self) -> Address | None:
        """Where media goes; None until the user was heard from."""
        return self._address

    @property
    def counters(self) -> Counter[str]:
        """Reason to count for what was not used, and ``rtp-received``, ``rtcp-received``."""
        return self._counters

    def deliver_to(self, room: PacketSink | None) -> None:
        """Say which room gets the packets. Without one they are counted as ``no-room``."""
        self._room = room

    def announce(
        self, audio: int | None, video: Sequence[tuple[int, int | None]], now: float
    ) -> None:
        """The client said on which SSRCs it sends; only clients that choose them matter.

        Args:
            audio: Audio SSRC; None or 0 for nothing new.
            video: ``(media SSRC, RTX SSRC)`` of each layer of Ready, 0 for one that is not sent.
            now: Monotonic seconds.
        """

    def close(self, now: float) -> None:  # noqa: ARG002  for those that say goodbye
        """Neither send nor deliver anything any more."""
        self._cipher = self._room = self._address = None

    def discovered(self, source: Address) -> bool:  # noqa: ARG002  for those that go there
        """IP discovery was asked for from there, by somebody. True when that is new and matters."""
        return False

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

    def accepted(self, packet: bytes, kind: DatagramKind, source: Address, now: float) -> None:  # noqa: ARG002  for those that go where media comes from
        """A datagram was unprotected to this packet: hand it to the room."""
        self._deliver(packet, kind, now)

    def rejected(self, datagram: bytes, kind: DatagramKind, reason: str) -> None:  # noqa: ARG002  the verb's shape
        """A datagram could not be unprotected."""
        self._counters[reason] += 1

    def send_rtp(self, packet: bytes, now: float) -> None:
        """Protect and send one plain RTP packet. Never raises; trouble is counted."""
        distortion = self.faults.distortion
        if distortion is None:
            self._protect(packet, now, DatagramKind.RTP)
            return
        for distorted in distortion.apply(packet):
            self._protect(distorted, now, DatagramKind.RTP)

    def send_rtcp(self, packet: bytes, now: float) -> None:
        """Protect and send one plain compound RTCP packet; as `send_rtp`."""
        self._protect(packet, now, DatagramKind.RTCP)

    def send_datagram(
        self, datagram: bytes, kind: DatagramKind, address: Address | None, now: float
    ) -> None:
        """Send to an address through the faults of this leg's way down."""
        faults = self.faults
        if address is None:
            self._counters["no-address"] += 1
        elif faults.blocking and faults.blocks(BLOCKABLE[kind], address):
            return
        elif faults.down is None:
            self._transmit(datagram, address)
        else:
            for arrived, target in faults.down.send(datagram, address, now):
                self._transmit(arrived, target)

    def handle_timeout(self, now: float) -> None:
        """Send what the way down has held back until now."""
        if self.faults.down is not None:
            for arrived, target in self.faults.down.receive(now):
                self._transmit(arrived, target)

    def _deliver(self, packet: bytes, kind: DatagramKind, now: float) -> None:
        room = self._room
        if room is None:
            self._counters["no-room"] += 1
        elif kind is DatagramKind.RTP:
            self._counters["rtp-received"] += 1
            room.receive_rtp(self.leg_id, packet, now)
        else:
            self._counters["rtcp-received"] += 1
            room.receive_rtcp(self.leg_id, packet, now)

    def _protect(self, packet: bytes, now: float, kind: DatagramKind) -> None:
        cipher = self._cipher
        if cipher is None:
            self._counters["no-key"] += 1
            return
        try:
            if kind is DatagramKind.RTP:
                datagram = cipher.protect_rtp(packet)
            else:
                datagram = cipher.protect_rtcp(packet)
        except NonceExhausted as error:
            self._fail(error)
        except MalformedPacket:
            self._counters["malformed"] += 1
        else:
            self.send_datagram(datagram, kind, self._address, now)

    def _fail(self, error: RtcError) -> None:
        self._cipher = None
        self._failed(self, error)
