"""Spreads paced packets over time. Sans-I/O. A token bucket, counted in seconds and bytes.

A keyframe is up to a hundred packets. Sent at once they overrun socket buffers and the
queue of the narrowest hop, even on loopback; spread out they do not, and what does not
wait (audio, RTCP) passes them. The bucket gains ``rate`` bytes per second and holds at
most one burst, so any stretch of T seconds carries at most ``burst + rate * T`` bytes.

Retransmissions go in front of everything else that waits, since receivers show nothing until
they come; but only up to a share of the rate, whatever receivers ask for.

Waking up once per packet would cost a timer each, at 25 Mbit/s every 0.4 ms. Instead the
next deadline is when half a burst (or all that is left) may go, at least 1 ms ahead.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from discord_rtc.errors import UsageError
from discord_rtc.queues import BoundedQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from discord_rtc.queues import QueueStats

DEFAULT_RATE_BPS = 25_000_000
"""Well above any Discord video bitrate (10 Mbit/s), so that it only shapes bursts."""

_BOUND_PACKETS = 2000
"""2.4 MB: two seconds of 10 Mbit/s, far more than anyone should wait for."""
_BURST_SECONDS = 0.010
_BURST_PACKETS = 2
_RESENT_SHARE = 0.5
"""Of the rate. The rate is some 2.5 times the bitrate of the video (libwebrtc's factor, too), so
that all of it could be sent again; libwebrtc bounds retransmissions by the same measure."""
_RESENT_SECONDS = 0.5
"""Over which the share is kept (libwebrtc, kRetransmitWindowSizeMs): room for a burst of losses."""
_RESENT_BURSTS = 8
"""Smallest bursts that may be sent again in that time at any rate: 16 packets, a keyframe."""
_RESENT_BOUND = 512
"""Packets; more are not missing at any receiver of ours."""
_WAKE_UP = 0.001
"""Event loops do not keep shorter timers well."""
_ROUNDING = 1e-6
"""Bytes; so that a deadline computed in floats is not missed by its own rounding."""


class Outgoing(NamedTuple):
    """One packet for the transport.

    Attributes:
        packet: Plain RTP or compound RTCP packet.
        rtcp: Which of the two.
    """

    packet: bytes
    rtcp: bool


class Pacer:
    """Releases packets in order, no faster than a rate.

    Args:
        max_packet_size: Largest packet in bytes that will be pushed.
        rate_bps: Bits per second to begin with.
    """

    def __init__(self, max_packet_size: int, rate_bps: int = DEFAULT_RATE_BPS) -> None:
        self._smallest_burst = _BURST_PACKETS * max_packet_size
        self._queue: BoundedQueue[Outgoing] = BoundedQueue("pacer", _BOUND_PACKETS)
        self._resent: BoundedQueue[Outgoing] = BoundedQueue("retransmissions", _RESENT_BOUND)
        self._queued_bytes = 0
        self._refilled_at = -inf
        self._tokens = inf
        self._resent_refilled_at = -inf
        self._resent_tokens = inf
        self.set_rate(rate_bps)

    def set_rate(self, rate_bps: int) -> None:
        """Change the rate from now on.

        Args:
            rate_bps: Bits per second, positive.

        Raises:
            UsageError: Not positive.
        """
        if rate_bps <= 0:
            raise UsageError("the pacing rate must be positive")
        self._rate = rate_bps / 8
        self._burst = max(self._rate * _BURST_SECONDS, self._smallest_burst)
        self._tokens = min(self._tokens, self._burst)
        self._resent_rate = self._rate * _RESENT_SHARE
        self._resent_burst = max(
            self._resent_rate * _RESENT_SECONDS, _RESENT_BURSTS * self._smallest_burst
        )
        self._resent_tokens = min(self._resent_tokens, self._resent_burst)

    @property
    def burst(self) -> float:
        """Bytes that may go at once after a pause."""
        return self._burst

    def has_room(self, packets: int) -> bool:
        """Whether that many packets fit."""
        return packets <= self._queue.room

    def refuse(self, packets: int) -> None:
        """Count a frame, in packets, that was not pushed because there was no room."""
        self._queue.refuse(packets)

    def push(self, packets: Sequence[Outgoing]) -> bool:
        """Queue the packets of one frame: all of them, or none and return False."""
        if not self.has_room(len(packets)):
            self.refuse(len(packets))
            return False
        for outgoing in packets:
            self._queue.put(outgoing)
            self._queued_bytes += len(outgoing.packet)
        return True

    def may_resend(self, size: int, now: float) -> bool:
        """Whether a retransmission of that many bytes is within the share."""
        gained = max(now - self._resent_refilled_at, 0.0) * self._resent_rate
        self._resent_tokens = min(self._resent_tokens + gained, self._resent_burst)
        self._resent_refilled_at = now
        return size <= self._resent_tokens and self._resent.room > 0

    def resend(self, outgoing: Outgoing) -> None:
        """Queue a retransmission, in front of all that is none, after `may_resend`."""
        self._resent.put(outgoing)
        self._resent_tokens -= len(outgoing.packet)
        self._queued_bytes += len(outgoing.packet)

    def discard_media(self) -> None:
        """Drop all that waits but RTCP packets."""
        for queue in (self._resent, self._queue):
            for _ in range(len(queue)):
                outgoing = queue.take()
                if outgoing.rtcp:
                    queue.put(outgoing)
                else:
                    queue.refuse(1)
                    self._queued_bytes -= len(outgoing.packet)

    def pop(self, now: float) -> list[Outgoing]:
        """Packets that may be sent now, in order."""
        if not self._queued_bytes:
            return []
        self._refill(now)
        due: list[Outgoing] = []
        for queue in (self._resent, self._queue):
            while queue and (size := len(queue.peek().packet)) <= self._tokens + _ROUNDING:
                due.append(queue.take())
                self._tokens -= size
                self._queued_bytes -= size
            if queue:
                break
        return due

    def next_timeout(self) -> float | None:
        """When to call `pop` next; None when nothing is queued."""
        if not self._queued_bytes:
            return None
        head = len((self._resent or self._queue).peek().packet)
        wanted = min(self._queued_bytes, max(head, self._burst / 2))
        return self._refilled_at + max((wanted - self._tokens) / self._rate, _WAKE_UP)

    def backlog(self, now: float) -> float:
        """Seconds until the last queued packet may be sent; 0.0 when it may already."""
        since = max(now - self._refilled_at, 0.0)
        tokens = min(self._tokens + since * self._rate, self._burst)
        return max(self._queued_bytes - tokens, 0.0) / self._rate

    def stats(self) -> tuple[QueueStats, ...]:
        """How full the queues have been."""
        return (self._queue.stats(), self._resent.stats())

    def _refill(self, now: float) -> None:
        if now > self._refilled_at:
            gained = (now - self._refilled_at) * self._rate
            self._tokens = min(self._tokens + gained, self._burst)
            self._refilled_at = now
