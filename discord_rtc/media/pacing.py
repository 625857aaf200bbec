"""Media time against the machine's clock: when a frame of a live source is due. Event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from discord_rtc.clock import SystemClock

if TYPE_CHECKING:
    from discord_rtc.clock import Clock

STALL = 1.0
"""Seconds of lateness beyond which a consumer counts as stalled, not merely jittery."""


class Pacing:
    """The anchor that ties media time to *now*, shared by every track of one source.

    A frame is due at ``start + (its time - first time)``: never early. A late one is due at
    once and moves nothing, so lateness does not add up. Only `restart` moves the anchor.

    Args:
        clock: Where *now* comes from.
        realtime: False makes every frame due at once.
    """

    def __init__(self, clock: Clock | None = None, *, realtime: bool = True) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._realtime = realtime
        self._origin: float | None = None

    def restart(self, media_time: float) -> None:
        """Make the frame of this media time due now."""
        self._origin = self._clock.now() - media_time

    def lateness(self, media_time: float) -> float:
        """Seconds since the frame was due, negative when it is still to come.

        The first frame asked about starts the clock.
        """
        if not self._realtime:
            return 0.0
        if self._origin is None:
            self.restart(media_time)
        assert self._origin is not None
        return self._clock.now() - (self._origin + media_time)

    async def wait(self, media_time: float) -> float:
        """Sleep until the frame is due.

        Returns:
            Its lateness in seconds, 0 or more.
        """
        late = self.lateness(media_time)
        while late < 0:
            await asyncio.sleep(-late)
            late = self.lateness(media_time)
        return late
