"""A bad network between two ends of a test, seeded and repeatable. Sans-I/O, ground floor.

After Linux ``tc-netem`` and str0m's ``netem``, with differences that make tests exact:

* Each datagram draws the same random numbers whatever the settings, so with one seed the same
  datagrams are lost with and without jitter.
* Jitter never reorders: a datagram that drew little of it waits behind its predecessor. Order
  changes by ``reorder`` alone, and then surely, also without any delay: a chosen datagram is held
  until the next one has left, at most `REORDER_HOLD` seconds.

The path of a datagram: loss, duplication, queue, rate, delay and jitter, reorder.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from discord_rtc.errors import UsageError

REORDER_HOLD = 0.1
"""Seconds until a held datagram leaves though nothing overtook it: longer than a 20 ms frame."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What a link does to datagrams.

    Attributes:
        loss: Probability that a datagram vanishes, 0 to 1.
        delay: Seconds that every datagram takes.
        jitter: Largest extra delay in seconds, uniformly drawn per datagram.
        reorder: Probability that a datagram is overtaken by the next one.
        duplicate: Probability that a datagram arrives twice.
        rate_bps: Bits per second that the link carries, UDP payload only; None for no limit.
        queue_limit: Datagrams on the link at one time; more are dropped as they come.

    Raises:
        UsageError: A value is out of its range.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    rate_bps: int | None = None
    queue_limit: int = 1000  # tc-netem's default

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name} is a probability from 0 to 1")
        if self.delay < 0 or self.jitter < 0:
            raise UsageError("delay and jitter are seconds, not negative")
        if self.rate_bps is not None and self.rate_bps <= 0:
            raise UsageError("rate_bps is positive or None")
        if self.queue_limit < 1:
            raise UsageError("queue_limit is at least 1")


@dataclass(slots=True)
class NetemCounters:
    """What happened so far, in datagrams.

    Attributes:
        passed: Handed out by `Netem.receive`, copies included.
        lost: Dropped at random.
        duplicated: Doubled.
        reordered: Really overtaken by a later one.
        overflowed: Dropped because the queue was full.
        highest_queue: Most datagrams on the link at one time.
    """

    passed: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    overflowed: int = 0
    highest_queue: int = 0


class Netem:
    """One direction of an impaired link.

    Args:
        impairment: What it does.
        seed: Same seed, same datagram sizes, same times: same outcome.
    """

    def __init__(self, impairment: Impairment, seed: int = 0) -> None:
        self.counters = NetemCounters()
        self._impairment = impairment
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._queue: deque[tuple[float, bytes]] = deque()  # (arrival, datagram), in order
        self._held: tuple[float, bytes] | None = None  # waits to be overtaken, behind the queue
        self._link_free = -math.inf
        self._last_due = -math.inf

    def send(self, datagram: bytes, now: float) -> None:
        """Put one datagram on the link.

        Args:
            datagram: Its bytes.
            now: Monotonic seconds, not before any earlier ``now``.
        """
        setting = self._impairment
        lost, doubled, jitter, overtaken = (self._random.random() for _ in range(4))
        if lost < setting.loss:
            self.counters.lost += 1
            return
        delay = setting.delay + jitter * setting.jitter
        copies = 1
        if doubled < setting.duplicate:
            self.counters.duplicated += 1
            copies = 2
        for copy in range(1, copies + 1):
            self._enqueue(datagram, now, delay, hold=overtaken < setting.reorder and copy == copies)

    def receive(self, now: float) -> list[bytes]:
        """Take the datagrams that have arrived by ``now``, in the order of arrival."""
        arrived: list[bytes] = []
        while self._queue and self._queue[0][0] <= now:
            arrived.append(self._queue.popleft()[1])
        if self._held is not None and self._held[0] <= now:
            arrived.append(self._held[1])  # nothing follows a held one in the queue
            self._held = None
        self.counters.passed += len(arrived)
        return arrived

    def next_timeout(self) -> float | None:
        """When the next datagram arrives; None when the link is empty."""
        if self._queue:
            return self._queue[0][0]
        return None if self._held is None else self._held[0]

    def _enqueue(self, datagram: bytes, now: float, delay: float, *, hold: bool) -> None:
        waiting = len(self._queue) + (self._held is not None)
        if waiting >= self._impairment.queue_limit:
            self.counters.overflowed += 1
            return
        self.counters.highest_queue = max(self.counters.highest_queue, waiting + 1)
        departure = now
        if self._impairment.rate_bps is not None:
            departure = max(now, self._link_free) + len(datagram) * 8 / self._impairment.rate_bps
            self._link_free = departure
        due = max(departure + delay, self._last_due)
        held, self._held = self._held, None
        if held is not None and held[0] < due:  # it leaves by itself, before this one
            self._queue.append(held)
            held = None
        self._last_due = due
        if hold and held is None:
            self._held = (due + REORDER_HOLD, datagram)
            return
        self._queue.append((due, datagram))
        if held is not None:
            self._queue.append((due, held[1]))
            self.counters.reordered += 1
