"""What one video stream needs to be repaired: kept packets, gaps, resends. Sans-I/O.

Spec: RFC 4585 section 6.2.1 (NACK), RFC 4588 (RTX).

The room stands between two ways that lose packets independently, so each is repaired for itself.
What the room has, it sends again to whoever misses it, in an RTX stream of that receiver. What
the room misses, it asks the sender for, once for everybody; a retransmission that it gets ends
here and goes on as the packet that it repairs.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from discord_rtc.rtp.loss import LossCounters, LossTracker
from discord_rtc.rtp.serial import unwrap

if TYPE_CHECKING:
    from discord_rtc.rtp.reports import SequenceTracker

KEPT_PACKETS = 512
"""Per video stream, a power of two; half a second of 10 Mbit/s, of 1200 bytes each at most."""

KEPT_SECONDS = 1.0
"""As libwebrtc's senders; whoever misses a packet for longer needs a keyframe."""

RESEND_SPACING = 0.020
"""Least seconds between two resends of one packet to one receiver: receivers ask every 20 ms at
most (libwebrtc, NackRequester::kUpdateInterval), and in the meantime the last one arrives."""

MOST_RESENDS = 10
"""Of one packet to one receiver, as receivers ask (libwebrtc, NackRequester::kMaxNackRetries)."""


class _Kept:
    """The latest packets by sequence number, each in a place of its own."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: list[tuple[int, float, bytes]] = [(-1, -inf, b"")] * KEPT_PACKETS

    def keep(self, sequence: int, packet: bytes, now: float) -> bool:
        """Keep a packet. False when there is one with that number already."""
        place = sequence & (KEPT_PACKETS - 1)
        kept, at, _ = self._slots[place]
        if kept == sequence and now - at <= KEPT_SECONDS:
            return False
        self._slots[place] = (sequence, now, packet)
        return True

    def find(self, sequence: int, now: float) -> bytes | None:
        kept, at, packet = self._slots[sequence & (KEPT_PACKETS - 1)]
        return packet if kept == sequence and now - at <= KEPT_SECONDS else None


class Resends:
    """What one receiver got again of one stream, as a stream of its own."""

    __slots__ = ("_latest", "_sequence")

    def __init__(self) -> None:
        self._latest: dict[int, tuple[float, int]] = {}  # sequence to when and how often
        self._sequence = 0

    def allow(self, sequence: int, now: float) -> bool:
        """Whether a packet may be sent again; then it counts as sent."""
        latest = self._latest
        at, times = latest.pop(sequence, (-inf, 0))
        if now - at > KEPT_SECONDS:
            times = 0  # another packet, which got the same number
        allowed = now - at >= RESEND_SPACING and times < MOST_RESENDS
        latest[sequence] = (now, times + 1) if allowed else (at, times)
        # What is not kept any more is not sent again, whoever asks.
        while len(latest) > KEPT_PACKETS or now - latest[next(iter(latest))][0] > KEPT_SECONDS:
            del latest[next(iter(latest))]
        return allowed

    def number(self) -> int:
        """Sequence number of the next retransmission, 16 bits."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._sequence


class StreamRepair:
    """Both sides of the repair of one video stream.

    Args:
        tracker: Extends the stream's sequence numbers; updated before this object is told.

    Attributes:
        window: Set by the loss tracker, for receivers that hold frames back; a room does not.
    """

    def __init__(self, tracker: SequenceTracker) -> None:
        self.window = 0.0
        self._tracker = tracker
        self._kept = _Kept()
        self._loss = LossTracker(self, LossCounters())
        self._follows = False  # the loss tracker knows where the numbers are
        self._resends: dict[int, Resends] = {}  # by leg id

    @property
    def needed_from(self) -> float:
        """The first packet that is of use if it is missing: older ones nobody asks for."""
        return self._tracker.highest - KEPT_PACKETS

    def keep(self, sequence: int, packet: bytes, now: float) -> bool:
        """Keep a packet of the stream. False when it was received or restored before."""
        return self._kept.keep(sequence, packet, now)

    def received(self, number: int, now: float) -> bool:
        """Take note of a packet of the stream itself.

        Args:
            number: As extended by the tracker.
            now: Monotonic seconds.

        Returns:
            False when so many are missing in front of it that they are not asked for.
        """
        if number == self._tracker.base or not self._follows:
            self._follows = True
            self._loss.begin(number)
        return self._loss.received(number, now)

    def restores(self, sequence: int, now: float) -> bool:
        """Whether a retransmission of that packet is of use; then it counts as received."""
        return self._loss.retransmitted(unwrap(sequence, self._tracker.highest, 16), now)

    def find(self, sequence: int, now: float) -> bytes | None:
        """The packet with that number, if it is still kept."""
        return self._kept.find(sequence, now)

    def resends(self, leg_id: int) -> Resends:
        """What a receiver got again."""
        return self._resends.setdefault(leg_id, Resends())

    def forget_receiver(self, leg_id: int) -> None:
        """A receiver is gone."""
        self._resends.pop(leg_id, None)

    def forget_missing(self) -> None:
        """Nobody waits for what is missing. What is missing from now on counts again."""
        self._follows = False
        self._loss.begin(0)

    def reset(self) -> None:
        """The stream has ended; it may begin again with any number."""
        self.forget_missing()
        self._kept = _Kept()

    def due(self, now: float) -> list[int]:
        """Sequence numbers to ask the sender for now, ascending. They count as asked for."""
        return [number & 0xFFFF for number in self._loss.due(now)]

    def next_timeout(self) -> float | None:
        """When to call `due`; None when nothing is waited for."""
        return self._loss.next_timeout()
