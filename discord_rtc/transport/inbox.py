"""Protected datagrams until there is a key for them, plain packets after that. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from discord_rtc.errors import RejectedPacket
from discord_rtc.rtp.packet import is_rtcp

if TYPE_CHECKING:
    from collections import Counter

    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.transport.delivery import Delivery

EARLY_DATAGRAMS = 64
"""Datagrams kept until the key is known, about a second of audio; the newest ones are dropped."""


class ProtectedInbox:
    """Unprotects what looks like RTP and RTCP, and delivers it.

    Args:
        delivery: Where plain packets go.
        drops: Where the others are counted: ``early`` beyond what is kept, and the reasons of
            `RejectedPacket`.
    """

    def __init__(self, delivery: Delivery, drops: Counter[str]) -> None:
        self._delivery = delivery
        self._drops = drops
        self._cipher: TransportCipher | None = None
        self._early: deque[tuple[bytes, float]] = deque()

    def unlock(self, cipher: TransportCipher) -> None:
        """There is a key, or another one: what came before is unprotected now."""
        self._cipher = cipher
        while self._early:
            self.receive(*self._early.popleft())

    def receive(self, datagram: bytes, now: float) -> None:
        """Take one protected datagram."""
        if self._cipher is None:
            if len(self._early) < EARLY_DATAGRAMS:
                self._early.append((datagram, now))
            else:
                self._drops["early"] += 1
            return
        rtcp = is_rtcp(datagram)
        unprotect = self._cipher.unprotect_rtcp if rtcp else self._cipher.unprotect_rtp
        try:
            packet = unprotect(datagram)
        except RejectedPacket as rejected:
            self._drops[rejected.reason] += 1
        else:
            self._delivery.packet(packet, now, rtcp=rtcp)

    def clear(self) -> None:
        """Forget what waits."""
        self._early.clear()
