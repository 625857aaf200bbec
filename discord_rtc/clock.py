"""The clocks: *now* (monotonic seconds) and *wallclock* (NTP). Ground floor.

Sans-I/O code never reads a clock: it is handed ``now``. The shells own a `Clock`.
The third clock, media time, is the pts of frames and needs no clock object.
"""

from __future__ import annotations

import time
from typing import Protocol

NTP_UNIX_OFFSET = 2_208_988_800
"""Seconds from 1900-01-01 (NTP era 0) to 1970-01-01 (Unix). RFC 5905, figure 4."""


class Clock(Protocol):
    """What a shell needs to know about time."""

    def now(self) -> float:
        """Monotonic seconds; the zero is arbitrary."""
        ...

    def ntp(self) -> float:
        """Wallclock as seconds since 1900 (fits the integer part of an NTP timestamp)."""
        ...


class SystemClock:
    """The machine's clocks. ``now`` equals ``loop.time()`` of a running asyncio loop."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def ntp(self) -> float:
        """Seconds since 1900."""
        return time.time() + NTP_UNIX_OFFSET


class ManualClock:
    """A clock that moves only when told to. Shipped for users' tests.

    Args:
        start: First value of ``now``, in seconds.
        ntp: Wallclock at ``start``, seconds since 1900.
    """

    def __init__(self, start: float = 0.0, *, ntp: float = 3_900_000_000.0) -> None:
        self._now = start
        self._ntp_offset = ntp - start

    def now(self) -> float:
        """Seconds as set by the test."""
        return self._now

    def ntp(self) -> float:
        """Wallclock that moves together with ``now``."""
        return self._now + self._ntp_offset

    def advance(self, seconds: float) -> float:
        """Move on and return the new ``now``. Going back is refused with ValueError."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += seconds
        return self._now

    def advance_to(self, now: float) -> float:
        """Move on to an absolute time, or stay when it has passed already."""
        self._now = max(self._now, now)
        return self._now
