"""The receiving end of a transport: plain packets for the sink, now or once it is named. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter

    from discord_rtc.transport.base import PacketSink

EARLY_PACKETS = 256
"""Packets kept until there is a sink: one large keyframe; the newest ones are dropped."""


class Delivery:
    """Delivers to a sink that may be named later and that hears nothing after `close`.

    Args:
        drops: Where packets that nobody gets are counted: ``early`` beyond the bound, ``closed``.
    """

    def __init__(self, drops: Counter[str]) -> None:
        self._drops = drops
        self._sink: PacketSink | None = None
        self._early: deque[tuple[bool, bytes, float]] = deque()
        self._error: Exception | None = None
        self._closed = False

    def packet(self, packet: bytes, now: float, *, rtcp: bool) -> None:
        """Deliver one plain packet."""
        if self._closed:
            self._drops["closed"] += 1
        elif self._sink is not None:
            if rtcp:
                self._sink.rtcp(packet, now)
            else:
                self._sink.rtp(packet, now)
        elif len(self._early) < EARLY_PACKETS:
            self._early.append((rtcp, packet, now))
        else:
            self._drops["early"] += 1

    def lose(self, error: Exception) -> None:
        """Deliver the end of the path, once; nothing comes after it."""
        if self._closed or self._error is not None:
            return
        self._error = error
        if self._sink is not None:
            self._closed = True
            self._sink.lost(error)

    def attach(self, sink: PacketSink) -> None:
        """Name the sink and hand over what came before."""
        self._sink = sink
        while self._early and not self._closed:
            rtcp, packet, now = self._early.popleft()
            self.packet(packet, now, rtcp=rtcp)
        if self._error is not None and not self._closed:
            self._closed = True
            sink.lost(self._error)

    def close(self) -> None:
        """Deliver nothing any more."""
        self._closed = True
        self._early.clear()
