"""Arrival times of all packets of a transport, told to their sender. Sans-I/O.

Spec: draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.

The sender numbers all its packets, of whatever stream, in a header extension. `Arrivals` notes
when each number came and tells about them in order, lost ones included. A packet that comes
after its number was told as lost is told again together with what followed it, for as long as
those times are kept, since one packet of feedback cannot leave any number out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.rtp.feedback import TransportFeedback
from discord_rtc.rtp.reports import MAX_MISORDER, SequenceTracker

if TYPE_CHECKING:
    from collections import Counter

FEEDBACK_INTERVAL = 0.05
"""Seconds between a packet and the feedback about it. libwebrtc tells every 50 to 250 ms."""

MOST_ARRIVALS = 4096
"""Times that are kept at most: 4 s of 10 Mbit/s when nobody asks for the feedback. And numbers
that are told about at a time: more is no loss, but a sender who makes us work by jumping."""

_TICKS_PER_SECOND = 4000  # 250 us, draft section 3.1.5
_REFERENCE_TICKS = 256  # 64 ms, draft section 3.1
_BACK_WINDOW = _TICKS_PER_SECOND // 2  # 500 ms, as libwebrtc keeps times for late packets
_MOST_STATUSES = 500  # 1164 bytes at worst; the gap in front of the last one takes few more


class Arrivals:
    """Builds the feedback about what one peer sends.

    Args:
        sender_ssrc: Who reports.
        counters: Where it is counted what nothing is told about: ``twcc-late`` for packets that
            came too late, ``twcc-overflow`` for those that nobody asked about in time,
            ``twcc-skipped`` for feedback without its first numbers, as there were too many.
    """

    def __init__(self, sender_ssrc: int, counters: Counter[str]) -> None:
        self._counters = counters
        self._sender_ssrc = sender_ssrc
        self._media_ssrc = 0
        self._tracker = SequenceTracker()
        self._arrived: dict[int, int] = {}  # number to when, in 250 us; oldest arrival first
        self._next = 0  # the first number of the next feedback
        self._floor = 0  # numbers below are not told about
        self._due: float | None = None
        self._count = 0

    def received(self, sequence: int, ssrc: int, now: float) -> None:
        """Take note of one packet.

        Args:
            sequence: Transport-wide number, 16 bits.
            ssrc: The packet's SSRC. libwebrtc takes feedback only in the name of one of its own.
            now: Monotonic seconds.
        """
        number = self._tracker.update(sequence)
        if number is None:
            return
        arrived = self._arrived
        if number == self._tracker.base:
            arrived.clear()
            self._next = number
            self._floor = number - MAX_MISORDER
        elif number < self._floor:
            self._counters["twcc-late"] += 1
            return
        arrived[number] = round(now * _TICKS_PER_SECOND)
        self._media_ssrc = ssrc
        self._next = min(self._next, number)
        if self._due is None:
            self._due = now + FEEDBACK_INTERVAL
        if len(arrived) > MOST_ARRIVALS:
            self._forget(next(iter(arrived)))
            self._next = max(self._next, self._floor)
            self._counters["twcc-overflow"] += 1

    def next_timeout(self) -> float | None:
        """When `feedback` wants to be called; None when there is nothing to tell."""
        return self._due

    def feedback(self) -> list[TransportFeedback]:
        """Everything that was not told yet, as packets that fit a datagram each."""
        if self._due is None:
            return []
        self._due = None
        oldest = self._tracker.highest - MOST_ARRIVALS
        if self._next < oldest:
            self._counters["twcc-skipped"] += 1
            self._next = oldest
        packets = []
        while self._next <= self._tracker.highest:
            packets.append(self._build())
        self._forget_old()
        return packets

    def _build(self) -> TransportFeedback:
        base = number = self._next
        deltas: list[int | None] = []
        reference = 0
        previous: int | None = None
        # The highest number has arrived, so that no feedback is about lost packets only.
        while number <= self._tracker.highest and not (
            previous is not None and len(deltas) >= _MOST_STATUSES
        ):
            ticks = self._arrived.get(number)
            if ticks is None:
                deltas.append(None)
            elif previous is None:
                reference, delta = divmod(ticks, _REFERENCE_TICKS)
                deltas.append(delta)
                previous = ticks
            elif -0x8000 <= ticks - previous <= 0x7FFF:
                deltas.append(ticks - previous)
                previous = ticks
            else:
                break  # 8 s do not fit a delta; the next packet has a reference of its own
            number += 1
        self._next = number
        count, self._count = self._count, (self._count + 1) & 0xFF
        reference = ((reference + 0x800000) & 0xFFFFFF) - 0x800000  # 24 bits, signed
        return TransportFeedback(
            self._sender_ssrc, self._media_ssrc, base & 0xFFFF, reference, count, tuple(deltas)
        )

    def _forget_old(self) -> None:
        """Only late packets of the last half second can be told about once more."""
        arrived = self._arrived
        horizon = arrived[next(reversed(arrived))] - _BACK_WINDOW
        while arrived[oldest := next(iter(arrived))] < horizon:
            self._forget(oldest)

    def _forget(self, number: int) -> None:
        del self._arrived[number]
        self._floor = max(self._floor, number + 1)
