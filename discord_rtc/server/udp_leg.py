"""A media path of plain datagrams: where it goes, and transport encryption. Sans-I/O.

Spec: userdoccers, "Voice Connections" (IP discovery, transport encryption).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.rtp.rtcp import Goodbye, ReceiverReport
from discord_rtc.server.socket_leg import SocketLeg

if TYPE_CHECKING:
    from discord_rtc.server.datagrams import DatagramKind
    from discord_rtc.server.faults import Address
    from discord_rtc.server.socket_leg import LegSetup, TransportName

_GOODBYE = ReceiverReport(ssrc=1).to_bytes() + Goodbye((1,)).to_bytes()
"""RFC 3550 section 6.6, after the report that every compound begins with (6.1)."""

MAX_DISCOVERED = 8
"""Addresses remembered per leg from IP discovery, the first ones; sockets a client may try."""


class UdpLeg(SocketLeg):
    """A session that uses the ``udp`` transport, or that has not selected one yet.

    Args:
        setup: See `LegSetup`.
    """

    transport: ClassVar[TransportName] = "udp"

    def __init__(self, setup: LegSetup) -> None:
        super().__init__(setup)
        self._settled = False
        self._discovered: set[Address] = set()

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

    def say_goodbye(self, now: float) -> None:
        """The session is over; the leg is about to be closed.

        discord.py (2.7.1) reads its socket in a thread that after IP discovery may wait once
        more, for up to 30 s, and is deaf to the next discovery meanwhile: a bot that is moved
        out of a silent room would miss its time. Anything that comes wakes the thread.
        """
        if self._cipher is not None and self._address is not None:
            self.send_rtcp(_GOODBYE, now)

    def close(self, now: float) -> None:
        """Neither send nor deliver anything any more."""
        super().close(now)
        self._settled = True

    @property
    def discovered_from(self) -> tuple[Address, ...]:
        """From where IP discovery was asked for, as far as it is remembered."""
        return tuple(self._discovered)

    def discovered(self, source: Address) -> bool:
        """IP discovery was asked for from there, by somebody. True when that is new."""
        new = source not in self._discovered and len(self._discovered) < MAX_DISCOVERED
        if new:
            self._discovered.add(source)
        if not self._settled:
            self._address = source
        return new

    def accepted(self, packet: bytes, kind: DatagramKind, source: Address, now: float) -> None:
        """A datagram from there was unprotected to this packet: media goes there."""
        self._address = source
        self._settled = True
        super().accepted(packet, kind, source, now)
