"""Which packets of a received stream are missing, and when to ask for them. Sans-I/O.

Spec: RFC 4585 section 6.2.1 (NACK). After libwebrtc's NackRequester and RFC 9002.

A missing packet is asked for once three later numbers were seen, or after 10 ms, since it may
only have been overtaken; then again and again, a bit more than a round trip apart, until it
comes, its place is given up, or nobody seems to answer. How long an answer takes is measured
from the answers, since a server in between knows only its part of the way.

From it follows how long it makes sense to wait for a missing packet: about four requests. That
time is bounded, since everything behind the gap waits, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol

from discord_rtc.rtp.assembler import VIDEO_WINDOW

if TYPE_CHECKING:
    from collections.abc import Sequence

REORDER_PACKETS = 3
"""Later numbers after which a packet counts as lost (RFC 9002 6.1.1, kPacketThreshold)."""
REORDER_SECONDS = 0.010
"""Or time, for the last packets of a burst."""
LEAST_INTERVAL = 0.020
"""Seconds between two requests for one packet (libwebrtc, NackRequester::kUpdateInterval)."""
LARGEST_INTERVAL = 0.240
"""So that a packet is asked for twice in the longest window, whatever was measured."""
MOST_REQUESTS = 10
"""Requests for one packet (libwebrtc, NackRequester::kMaxNackRetries)."""
MOST_MISSING = 512
"""Packets that are asked for at a time: half of what a sender keeps. To send more of them again
would take longer than a keyframe."""
SHORTEST_WINDOW = VIDEO_WINDOW
LONGEST_WINDOW = 0.500
"""Seconds; viewers see half a second of standstill, and a keyframe is the lesser evil then."""
ASSUMED_RTT = 0.050
"""Before the first answer: halfway around a continent, to a server and on to a client."""

_REQUESTS_PER_WINDOW = 4
"""With 5 % loss each way about one packet in 200,000 is still missing after as many."""
_CERTAIN = 1 / 8
"""Weight of a measured round trip (RFC 6298 section 2, alpha)."""
_DOUBTFUL = 1 / 16
"""Of one that began with the first of several requests: it is too long when a packet was lost,
but right when answers take longer than believed, and nothing else would show that."""
_REMEMBERED = 256
"""Packets asked for and not waited for any more, whose answers still tell the round-trip time."""
_NEVER = 1 << 62


@dataclass(slots=True)
class LossCounters:
    """What one stream lost and got again, whichever trackers it had.

    Attributes:
        nacked: Packets asked for, counted once per request.
        recovered: Missing packets that came as retransmission, or late after a request.
        unneeded: Retransmissions of packets that were not missed, or not any more.
    """

    nacked: int = 0
    recovered: int = 0
    unneeded: int = 0


class Waiting(Protocol):
    """Whoever waits for missing packets.

    Attributes:
        window: Seconds that a gap may last.
    """

    window: float

    @property
    def needed_from(self) -> float:
        """The first missing packet that is of use; infinity when none of those before is."""
        ...


class _Missing:
    """One missing packet.

    Attributes:
        since: When a later packet arrived.
        requests: How often it was asked for.
        first: When it was asked for the first time.
        last: When it was asked for the last time.
    """

    __slots__ = ("first", "last", "requests", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.requests = 0
        self.first = self.last = 0.0


class LossTracker:
    """The gaps of one received stream. Sequence numbers are extended ones.

    Args:
        waiting: Who waits for the packets; its window follows the round-trip time.
        counters: Where to count.
    """

    def __init__(self, waiting: Waiting, counters: LossCounters) -> None:
        self._waiting = waiting
        self._counters = counters
        self._interval = 0.0
        self._rtt: float | None = None
        self._rtx = False  # answers come as retransmissions, not as the original packets
        self._next = 0
        self._missing: dict[int, _Missing] = {}  # in ascending order
        self._asked: dict[int, float] = {}  # not waited for any more: when first asked for
        self._due_at = inf
        self._due_from = _NEVER  # or when this number has been seen
        self._pace(ASSUMED_RTT)

    def begin(self, first: int) -> None:
        """The numbers begin, or begin anew; ``first`` has not been received yet."""
        self._clear()
        self._next = first

    def received(self, sequence: int, now: float) -> bool:
        """Take note of a packet that did not come as retransmission.

        Returns:
            False when so many are missing that asking makes no sense; they are forgotten.
        """
        expected = self._next
        if sequence == expected:
            self._next = expected + 1
            return True
        if sequence < expected:
            self._came_late(sequence, now)
            return True
        self._next = sequence + 1
        if len(self._missing) + sequence - expected > MOST_MISSING:
            self._clear()
            return False
        for number in range(expected, sequence):
            self._missing[number] = _Missing(now)
        self._due_at = min(self._due_at, now + REORDER_SECONDS)
        self._due_from = min(self._due_from, expected + REORDER_PACKETS)
        return True

    def misses(self, sequence: int) -> bool:
        """Whether that packet is waited for."""
        return sequence in self._missing

    def retransmitted(self, sequence: int, now: float) -> bool:
        """Take note of a retransmission.

        Returns:
            Whether the packet is missing. Otherwise it is of no use: another receiver may have
            asked for it.
        """
        if not self._rtx:
            # From now on original packets are overtaken ones, not answers. Those seen so far
            # said nothing about the way.
            self._rtx = True
            self._rtt = None
        one = self._missing.pop(sequence, None)
        if one is None:
            first = self._asked.pop(sequence, None)
            if first is not None:
                self._measured(now - first, _DOUBTFUL)
            self._counters.unneeded += 1
            return False
        self._answered(one, now)
        self._counters.recovered += 1
        return True

    def due(self, now: float) -> Sequence[int]:
        """The packets to ask for now, ascending. They count as asked for."""
        if not self._missing:
            return ()
        self._forget_before(self._waiting.needed_from)
        if now < self._due_at and self._next <= self._due_from:
            return ()
        self._due_at = inf
        self._due_from = _NEVER
        asked = []
        for sequence, one in self._missing.items():
            if one.requests == MOST_REQUESTS:
                continue
            at = self._time(sequence, one)
            if at <= now:
                one.first = one.first if one.requests else now
                one.last = now
                one.requests += 1
                asked.append(sequence)
                at = now + self._interval
            elif not one.requests:
                self._due_from = min(self._due_from, sequence + REORDER_PACKETS)
            self._due_at = min(self._due_at, at)
        self._counters.nacked += len(asked)
        return asked

    def next_timeout(self) -> float | None:
        """When to call `due`; None when nothing is waited for."""
        return self._due_at if self._missing and self._due_at < inf else None

    def _forget_before(self, sequence: float) -> None:
        missing = self._missing
        while missing and (first := next(iter(missing))) < sequence:
            self._remember(first, missing.pop(first))

    def _time(self, sequence: int, one: _Missing) -> float:
        if one.requests:
            return one.last + self._interval
        if self._next > sequence + REORDER_PACKETS:
            return -inf
        return one.since + REORDER_SECONDS

    def _came_late(self, sequence: int, now: float) -> None:
        one = self._missing.pop(sequence, None)
        if one is None or not one.requests:
            return
        if self._rtx:
            self._remember(sequence, one)
        else:
            self._answered(one, now)
            self._counters.recovered += 1

    def _remember(self, sequence: int, one: _Missing) -> None:
        if one.requests:
            self._asked[sequence] = one.first
            if len(self._asked) > _REMEMBERED:
                del self._asked[next(iter(self._asked))]

    def _answered(self, one: _Missing, now: float) -> None:
        if one.requests:  # and not somebody else asked
            self._measured(now - one.first, _CERTAIN if one.requests == 1 else _DOUBTFUL)

    def _measured(self, rtt: float, weight: float) -> None:
        rtt = min(rtt, LONGEST_WINDOW)  # nobody waits for longer
        if self._rtt is None:
            self._rtt = rtt
        else:
            self._rtt += (rtt - self._rtt) * weight
        self._pace(self._rtt)

    def _pace(self, rtt: float) -> None:
        # A quarter and 5 ms on top, for jitter and for timers.
        self._interval = min(max(1.25 * rtt + 0.005, LEAST_INTERVAL), LARGEST_INTERVAL)
        window = REORDER_SECONDS + _REQUESTS_PER_WINDOW * self._interval
        self._waiting.window = min(max(window, SHORTEST_WINDOW), LONGEST_WINDOW)

    def _clear(self) -> None:
        self._missing.clear()
        self._asked.clear()
        self._due_at = inf
        self._due_from = _NEVER
